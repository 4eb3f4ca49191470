"""What the long-running process does: a thread sequences the log, this one publishes; a process beside it indexes."""

import functools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from loguru import logger

from secguard.core.errors import SecguardError
from secguard.ledger import serve
from secguard.service.indexing import IndexProcess

if TYPE_CHECKING:
    from pathlib import Path

    from secguard.service.network import Places
    from secguard.workspace import Workspace

__all__ = ["run_service"]

_TICK = 0.5
"""Seconds between two looks at the log."""
_AGAIN = 30.0
"""Seconds until witnesses are asked again that did not cosign."""


def run_service(
    workspace: "Workspace",
    stop: threading.Event,
    *,
    publish_every: float = 10.0,
    passphrase_file: "Path | None" = None,
    places: "Places | None" = None,
    announce: Callable[[dict[str, str]], None] = lambda _: None,
) -> None:
    """Sequence the log for all local writers, follow it with the index, publish checkpoints; serve EST and status.

    Args:
        workspace: an open workspace; its ledger is held exclusively until the end.
        stop: set it to end gracefully.
        publish_every: seconds between checkpoints.
        passphrase_file: opens the log key, and the CAs'.
        places: where to serve enrolment and status; None or empty: nowhere.
        announce: called once with what is served where.

    Raises:
        SecguardError: another sequencer runs, or the sequencer failed; enrolment or status cannot be served.
    """
    failures: list[Exception] = []
    ready = threading.Event()

    def sequence() -> None:
        try:
            serve(workspace.ledger, stop, ready=ready)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which ends the process
            failures.append(error)
            stop.set()

    network = None
    if places:
        from secguard.service.network import Network
        from secguard.workspace import Workspace

        root, clock = workspace.root, workspace.clock
        network = Network(lambda: Workspace.find(root, clock), places, passphrase_file)
    collecting = None
    if workspace.config.audit.serve and workspace.config.audit.sources:
        from secguard.service.collecting import Collecting
        from secguard.workspace import Workspace

        collecting = Collecting(functools.partial(Workspace.find, workspace.root, workspace.clock), passphrase_file)
    witnesses = _Witnesses(workspace)
    indexing = IndexProcess(workspace.root)
    sequencer = threading.Thread(target=sequence, name="sequencer")
    sequencer.start()
    published = -1
    due = 0.0
    try:
        while (network or collecting) and not ready.wait(0.1) and not stop.is_set():
            pass  # what is served records through the sequencer
        if collecting is not None and not stop.is_set():
            collecting.start()
            announce({name: ", ".join(places) for name, places in collecting.places.items()})
        if network is not None and not stop.is_set():
            network.start()
            announce(network.urls)
        while not stop.wait(_TICK):
            if network is not None and network.failure is not None:
                raise network.failure
            if collecting is not None and collecting.failure is not None:
                raise collecting.failure
            indexing.tick()
            try:
                size = workspace.ledger.size
                if size != published and size and time.monotonic() >= due:
                    workspace.publish(passphrase_file)
                    published, due = size, time.monotonic() + publish_every
                    witnesses.published()
                witnesses.tick()
            except SecguardError as error:
                logger.error("{}: {}", error.code, error)
                due = time.monotonic() + publish_every
    finally:
        if collecting is not None:
            collecting.stop()
        if network is not None:  # before the sequencer, which records what is still under way
            network.stop()
        indexing.stop()
        stop.set()
        witnesses.stop()
        sequencer.join()
    if failures:
        raise failures[0]


class _Witnesses:
    """Asks the site's witnesses after a checkpoint, beside everything else: one that is silent holds up nothing."""

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self._thread: threading.Thread | None = None
        self._told: set[str] = set()
        self._due: float | None = None

    def published(self) -> None:
        """There is a new checkpoint."""
        if self._workspace.config.ledger.witnesses:
            self._due = 0.0

    def tick(self) -> None:
        """Ask if it is time, unless the last asking still goes on."""
        if self._due is None or time.monotonic() < self._due or (self._thread is not None and self._thread.is_alive()):
            return
        self._due = None
        self._thread = threading.Thread(target=self._run, name="witnesses")
        self._thread.start()

    def stop(self) -> None:
        """Wait for what is under way."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        from secguard.core.findings import describe
        from secguard.workspace import Workspace

        try:
            with Workspace.find(self._workspace.root, self._workspace.clock) as own:  # for this thread alone
                problems = {f"{item.code}: {item.where}: {describe(item)}" for item in own.ask_witnesses().findings}
        except SecguardError as error:
            problems = {f"{error.code}: {error}"}
        for problem in sorted(problems - self._told):
            logger.error("{}", problem)
        self._told = problems
        if problems and self._due is None:
            self._due = time.monotonic() + _AGAIN
