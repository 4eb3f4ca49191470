"""A process that records and says so: run by the tests under strace, with faults, and killed.

usage: acks.py ROOT MODE FIRST BATCHES SIZE      MODE: record | ingest | socket | forever
Prints `ack N` once batch N is acknowledged, `error CODE` when recording fails.
"""

import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from secguard.core.errors import SecguardError
from secguard.events import Actor, Event
from secguard.ledger import Ledger, serve

NOW = datetime(2026, 10, 1, tzinfo=UTC)
ACTOR = Actor(name="tester")


def batch(number: int, size: int) -> list[Event]:
    return [
        Event(id=f"{number}-{k}", kind="video.viewed", time=NOW, actor=ACTOR, reason="x" * 200) for k in range(size)
    ]


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def main() -> None:
    root, mode = Path(sys.argv[1]), sys.argv[2]
    first, batches, size = map(int, sys.argv[3:6])
    if os.environ.get("NO_SYNC"):
        os.fdatasync = lambda descriptor: None
    log = Ledger.open(root)
    wanted = range(first, first + batches)
    try:
        if mode == "record":
            for number in wanted:
                log.record(batch(number, size))
                say(f"ack {number}")
        elif mode == "ingest":
            parts: Iterator[list[Event]] = (batch(number, size) for number in wanted)
            for number, _ in zip(wanted, log.ingest(parts), strict=True):
                say(f"ack {number}")
        elif mode == "socket":
            stop, ready = threading.Event(), threading.Event()
            service = threading.Thread(target=serve, args=(log, stop), kwargs={"ready": ready})
            service.start()
            assert ready.wait(20)
            try:
                with Ledger.open(root) as client:
                    for number in wanted:
                        client.record(batch(number, size))
                        say(f"ack {number}")
            finally:
                stop.set()
                service.join()
        else:
            from secguard.ledger import writer

            writer.KICK, writer.LIMIT = 1 << 30, 700  # integrate in the middle of things
            number = first
            while True:
                log.record(batch(number, 1 + number * 37 % size))
                say(f"ack {number}")
                number += 1
    except SecguardError as error:
        say(f"error {error.code} {error.hint}")
    log.close()
    say("closed")


if __name__ == "__main__":
    main()
