"""kill -9 during an import, again and again: nothing is lost, nothing is doubled, and the index agrees at the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secguard.events import Event, decode_stored
from secguard.ledger import Ledger


def _size(folder: Path) -> int:
    with Ledger.open(folder / "state" / "ledger") as ledger:
        return ledger.size


def _stored(folder: Path) -> list[Event]:
    with Ledger.open(folder / "state" / "ledger") as ledger:
        return [decode_stored(body) for batch in ledger.scan(0, ledger.size) for body in batch.bodies if body]


def _kill_once_it_has(command: list[str], folder: Path, events: int) -> bool:
    """Start a command, kill -9 it when the ledger has so many events more; whether that came before its end."""
    before = _size(folder)
    process = subprocess.Popen(command, start_new_session=True)
    limit = time.monotonic() + 60
    while process.poll() is None and _size(folder) < before + events and time.monotonic() < limit:
        time.sleep(0.002)
    process.kill()
    return process.wait() == -signal.SIGKILL


def test_a_killed_import_is_resumed_by_running_it_again(
    site: Any, events: Callable[..., bytes], tmp_path: Path
) -> None:
    """Killed with and without the service, and the service killed too: what it stamps into events is no difference."""
    rounds, count = (20, 20_000) if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else (4, 4000)
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(count - 1) + b"not an event\n" + events(1, start=count - 1))
    program = [sys.executable, "-m", "secguard"]
    place = ["-w", str(site.folder), "-q"]
    killed = 0
    for turn in range(rounds):
        served = turn % 2 == 0
        if served:
            service = subprocess.Popen([*program, "serve", *place], stderr=subprocess.DEVNULL)
            limit = time.monotonic() + 60
            while not (site.folder / "state" / "ledger.sock").is_socket() and time.monotonic() < limit:
                time.sleep(0.02)
        killed += _kill_once_it_has([*program, "audit", "import", str(file), *place], site.folder, count // rounds)
        if served:
            service.kill()
            service.wait()
    assert killed >= 1
    done = site.ask("import", file, code=1)["data"]
    assert (done["recorded"] + done["duplicates"], done["rejected"]) == (count, 1)
    stored = _stored(site.folder)
    imported = [event for event in stored if event.id.startswith("platform-")]
    assert sorted(event.id for event in imported) == sorted(f"platform-{number}" for number in range(count))
    assert {"peer_uid" in event.data for event in imported} == {True, False}
    assert sum(event.kind == "record.rejected" for event in stored) == 1
    assert site.ask("reconcile")["data"]["position"] == len(stored)
    assert site.ask("search", "id:platform-*")["data"]["total"] == count
    # Every act that was killed is closed, once, by the import that came after it.
    begun = [event.id for event in stored if event.kind == "import.started"]
    ends = [event for event in stored if event.kind in {"import.failed", "import.finished"}]
    assert sorted(event.data["act"] for event in ends) == sorted(begun)
    # One that was killed while it was already indexing had recorded its end.
    assert 1 <= sum(event.data.get("error") == "interrupted" for event in ends) <= killed


def test_a_killed_reindex_goes_on(site: Any, events: Callable[..., bytes], tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(4000))
    site.run("import", file)
    process = subprocess.Popen(
        [sys.executable, "-m", "secguard", "audit", "reindex", "-w", str(site.folder), "-q"], start_new_session=True
    )
    wal = site.index.with_name(site.index.name + "-wal")
    limit = time.monotonic() + 60
    while process.poll() is None and (not wal.exists() or wal.stat().st_size < 1 << 18) and time.monotonic() < limit:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert site.ask("search", "id:platform-*", "--wait")["data"]["total"] == 4000
    site.ask("reconcile")
