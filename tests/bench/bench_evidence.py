"""Evidence: pack and unpack a bundle against SHA-256 over the same bytes, and find a recording's acts in the log."""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secguard.core import SystemClock
from secguard.events import Actor, Event, new_event_id
from secguard.evidence.archive import fingerprint, read_archive, write_archive
from secguard.evidence.custody import custody_of
from secguard.ledger import Ledger

VIDEO = "video/recording.mp4"


def _seconds(work: Callable[[], Any], rounds: int = 3) -> float:
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _sha256(path: Path) -> None:
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def archive_rows(folder: Path, megabytes: int) -> list[dict[str, Any]]:
    recording, bundle = folder / "recording.mp4", folder / "bundle.zip"
    block = os.urandom(1 << 20)
    with recording.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)

    def pack() -> None:
        source = fingerprint(VIDEO, recording)
        with bundle.open("wb") as stream:
            write_archive(stream, [source])

    bare = _seconds(lambda: _sha256(recording))
    rows = []
    for what, work, goal in (
        ("pack a bundle (hash, CRC-32, copy, hash again)", pack, 0.2),
        ("unpack and account for every byte", lambda: read_archive(bundle, {VIDEO: folder / "out.mp4"}), 0.3),
    ):
        took = _seconds(work)
        rows.append(
            {"what": what, "value": round(megabytes / took), "unit": "MiB/s", "ratio": bare / took, "goal": goal}
        )
    return rows


def custody_row(folder: Path, events: int) -> dict[str, Any]:
    moment = datetime.now(UTC)
    with Ledger.create(
        folder / "ledger", "bench.test/1", anchor=folder / "anchor", clock=SystemClock(), socket=folder / "socket"
    ) as ledger:
        for start in range(0, events, 1000):
            ledger.record(
                [
                    Event(
                        id=new_event_id(),
                        kind="video.viewed",
                        time=moment,
                        actor=Actor(name="王小明"),
                        subject=f"3201160000132{number:07}",
                        data={"bytes": number, "purpose": "巡查"},
                    )
                    for number in range(start, start + 1000)
                ]
            )
        took = _seconds(lambda: list(custody_of(ledger, "0" * 64)))
    return {
        "what": f"find a recording's acts among {events:,} events",
        "value": round(events / took),
        "unit": "events/s",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--events", type=int, default=50_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = [*archive_rows(Path(name), options.megabytes), custody_row(Path(name), options.events)]
    if options.json:
        json.dump(rows, sys.stdout)
    else:
        for row in rows:
            print(row)


if __name__ == "__main__":
    main()
