"""Acknowledged means fdatasync'ed: seen from the kernel's side, and with disks that fail."""

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secguard.core import Outcome
from secguard.core.errors import SystemPartError
from secguard.events import Actor, Event
from secguard.ledger import Ledger, verify_log

CHILD = Path(__file__).with_name("acks.py")
NOW = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Ledger.create(tmp_path / "log", "log.example/1", anchor=tmp_path / "anchor").close()
    return tmp_path / "log"


def run(root: Path, mode: str, first: int, batches: int, *, strace: list[str] | None = None, **env: str) -> list[str]:
    command = [sys.executable, str(CHILD), str(root), mode, str(first), str(batches), "8"]
    if strace is not None:
        if shutil.which("strace") is None:
            pytest.skip("needs strace: apt-get install strace")
        command = ["strace", "-f", *strace, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\n")[:-1]


CALL = re.compile(r"^(?P<pid>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)$")


def unsynced_acks(trace: str) -> list[int]:
    """Batches whose `ack` was written before an fdatasync that began after the batch's bytes were written."""
    written = synced = 0
    covers: dict[str, int] = {}
    wrong = []
    for line in trace.splitlines():
        match = CALL.match(line)
        if match is None:
            continue
        pid, rest = match["pid"], match["rest"]
        unfinished = rest.endswith("<unfinished ...>")
        call = match["call"] or match["resumed"]
        if call in {"pwritev", "pwritev2"} and not unfinished:
            written += 1
        elif call == "fdatasync":
            if match["call"]:
                covers[pid] = written
            if not unfinished and rest.endswith("= 0"):
                synced = max(synced, covers[pid])
        elif call == "write" and match["call"]:
            wrong += [int(ack) for ack in re.findall(r'"ack (\d+)', rest) if int(ack) >= synced]
    assert written, "the trace shows no write to the journal"
    return wrong


@pytest.mark.parametrize("mode", ["record", "ingest", "socket"])
def test_every_acknowledgement_follows_its_fdatasync(root: Path, tmp_path: Path, mode: str) -> None:
    trace = tmp_path / "trace"
    output = run(
        root, mode, 0, 40, strace=["-e", "trace=pwritev,pwritev2,fdatasync,write", "-s", "40", "-o", str(trace)]
    )
    assert output[:40] == [f"ack {k}" for k in range(40)]
    assert unsynced_acks(trace.read_text()) == []
    with Ledger.open(root) as log:
        assert log.size == 320


@pytest.mark.parametrize("mode", ["record", "ingest", "socket"])
def test_the_check_fails_when_fdatasync_does_nothing(root: Path, tmp_path: Path, mode: str) -> None:
    trace = tmp_path / "trace"
    strace = ["-e", "trace=pwritev,pwritev2,fdatasync,write", "-s", "40", "-o", str(trace)]
    run(root, mode, 0, 10, strace=strace, NO_SYNC="1")
    assert unsynced_acks(trace.read_text()) == list(range(10))


@pytest.mark.parametrize("mode", ["record", "ingest", "socket"])
@pytest.mark.parametrize(("call", "fault"), [("fdatasync", "EIO"), ("pwritev", "ENOSPC"), ("pwritev", "EIO")])
def test_a_failing_disk_gives_no_acknowledgement(root: Path, tmp_path: Path, mode: str, call: str, fault: str) -> None:
    calls = "pwritev,pwritev2" if call == "pwritev" else call
    strace = ["-o", str(tmp_path / "t"), "-e", f"trace={calls}", "-e", f"inject={calls}:error={fault}:when=6+"]
    output = run(root, mode, 0, 20, strace=strace)
    acks = [int(line.split()[1]) for line in output if line.startswith("ack")]
    assert acks == list(range(5))
    errors = [line for line in output if line.startswith("error")]
    assert len(errors) == 1
    assert errors[0].startswith("error ledger.journal.write ")
    assert ("free some space" if fault == "ENOSPC" else "check it before") in errors[0]
    # with the disk well again, everything acknowledged is there, and a retry goes on
    again = run(root, mode, 0, 20)
    assert again[:20] == [f"ack {k}" for k in range(20)]
    with Ledger.open(root) as log:
        assert log.size == 160
        assert all(log.find(f"{k}-0") == 8 * k for k in range(20))
    verdict = verify_log(root, at=NOW)
    assert {item.code for item in verdict.findings} == {"ledger.checkpoint.none"}


def test_a_failed_write_leaves_the_same_process_usable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def events(name: str) -> list[Event]:
        return [Event(id=name, kind="video.viewed", time=NOW, actor=Actor(name="a"))]

    with Ledger.open(root) as log:
        log.record(events("one"))
        real = os.fdatasync

        def broken(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(SystemPartError) as caught:
            log.record(events("two"))
        assert caught.value.code == "ledger.journal.write"
        assert log.size == 1
        assert log.find("two") is None
        monkeypatch.setattr(os, "fdatasync", real)
        assert [(item.index, item.duplicate) for item in log.record(events("two"))] == [(1, False)]

        def broken_truncate(descriptor: int, length: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", broken)
        monkeypatch.setattr(os, "ftruncate", broken_truncate)
        with pytest.raises(SystemPartError):
            log.record(events("three"))
        monkeypatch.setattr(os, "fdatasync", real)
        with pytest.raises(SystemPartError) as caught:  # what could not be taken back must not be built upon
            log.record(events("four"))
        assert caught.value.code == "ledger.journal.failed"


def test_a_full_disk(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], check=True)
    try:
        filler = mount / "filler"
        filler.write_bytes(bytes(5 << 20))
        root = mount / "log"
        with Ledger.create(root, "log.example/1", anchor=tmp_path / "anchor") as log:
            done = 0

            def batch() -> list[Event]:
                actor = Actor(name="a")
                return [
                    Event(id=f"{done}-{k}", kind="video.viewed", time=NOW, actor=actor, reason="y" * 999)
                    for k in range(32)
                ]

            def fill() -> None:
                nonlocal done
                while done < 1000:
                    log.record(batch())
                    done += 1

            with pytest.raises(SystemPartError) as caught:
                fill()
            assert caught.value.code == "ledger.journal.write"
            assert "No space left" in caught.value.message
            assert "free some space" in caught.value.hint
            assert log.size == 32 * done > 0
            from secguard.keys import Algorithm, generate

            with pytest.raises(SystemPartError):  # no room for tiles either; nothing is signed
                log.publish(generate(Algorithm.ED25519))
            assert log.checkpoint() is None
            filler.unlink()
            assert log.record(batch())[0].index == 32 * done
            log.publish(generate(Algorithm.ED25519))
        verdict = verify_log(root, at=NOW)
        assert verdict.outcome is Outcome.UNKNOWN
        assert {item.code for item in verdict.findings} == {"ledger.checkpoint.unverified"}
    finally:
        subprocess.run(["umount", str(mount)], check=True)
