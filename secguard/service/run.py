"""What the long-running process does: one thread sequences the log, this one indexes and publishes."""

import threading
import time
from typing import TYPE_CHECKING

from loguru import logger

from secguard.core.errors import SecguardError
from secguard.ledger import serve

if TYPE_CHECKING:
    from pathlib import Path

    from secguard.workspace import Workspace

__all__ = ["run_service"]

_TICK = 0.5
"""Seconds between two looks at the log."""


def run_service(
    workspace: "Workspace", stop: threading.Event, *, publish_every: float = 10.0, passphrase_file: "Path | None" = None
) -> None:
    """Sequence the log for all local writers, follow it with the index, and publish a checkpoint when it grew.

    Args:
        workspace: an open workspace; its ledger is held exclusively until the end.
        stop: set it to end gracefully.
        publish_every: seconds between checkpoints.
        passphrase_file: opens the log key.

    Raises:
        SecguardError: another sequencer runs, or the sequencer failed.
    """
    failures: list[Exception] = []

    def sequence() -> None:
        try:
            serve(workspace.ledger, stop)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which ends the process
            failures.append(error)
            stop.set()

    sequencer = threading.Thread(target=sequence, name="sequencer")
    sequencer.start()
    published = -1
    due = 0.0
    closed = False
    try:
        while not stop.wait(_TICK):
            try:
                if closed:
                    workspace.catch_up()
                else:  # acts that were killed while no service ran
                    workspace.close_dangling()
                    closed = True
                size = workspace.ledger.size
                if size != published and size and time.monotonic() >= due:
                    workspace.publish(passphrase_file)
                    published, due = size, time.monotonic() + publish_every
            except SecguardError as error:
                logger.error("{}: {}", error.code, error)
                due = time.monotonic() + publish_every
    finally:
        stop.set()
        sequencer.join()
    if failures:
        raise failures[0]
