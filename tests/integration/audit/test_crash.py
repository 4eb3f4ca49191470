"""kill -9 during an import, again and again: nothing is lost, nothing is doubled, and the index agrees at the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secguard.events import decode_stored
from secguard.ledger import Ledger


def _size(folder: Path) -> int:
    with Ledger.open(folder / "state" / "ledger") as ledger:
        return ledger.size


def test_a_killed_import_is_resumed_by_running_it_again(
    site: Any, events: Callable[..., bytes], tmp_path: Path
) -> None:
    count = 6000
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(count - 1) + b"not an event\n" + events(1, start=count - 1))
    command = [sys.executable, "-m", "secguard", "audit", "import", str(file), "-w", str(site.folder), "-q"]
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(command, start_new_session=True)
        before = _size(site.folder)
        limit = time.monotonic() + 60
        while process.poll() is None and _size(site.folder) < before + 600 and time.monotonic() < limit:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 1
    done = site.ask("import", file, code=1)["data"]
    assert done["recorded"] + done["duplicates"] == count
    with Ledger.open(site.folder / "state" / "ledger") as ledger:
        stored = [decode_stored(body) for batch in ledger.scan(0, ledger.size) for body in batch.bodies if body]
    imported = [event.id for event in stored if event.id.startswith("platform-")]
    assert sorted(imported) == sorted(f"platform-{number}" for number in range(count))
    assert sum(event.kind == "record.rejected" for event in stored) == 1
    assert site.ask("reconcile")["data"]["position"] == len(stored)
    assert site.ask("search", "id:platform-*")["data"]["total"] == count


def test_a_killed_reindex_goes_on(site: Any, events: Callable[..., bytes], tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(9000))
    site.run("import", file)
    process = subprocess.Popen(
        [sys.executable, "-m", "secguard", "audit", "reindex", "-w", str(site.folder), "-q"], start_new_session=True
    )
    wal = site.index.with_name(site.index.name + "-wal")
    limit = time.monotonic() + 60
    while process.poll() is None and (not wal.exists() or wal.stat().st_size < 1 << 20) and time.monotonic() < limit:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert site.ask("search", "id:platform-*", "--wait")["data"]["total"] == 9000
    site.ask("reconcile")
