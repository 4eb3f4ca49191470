"""`secguard serve`: one process sequences for all, follows with the index, publishes, and stops when told."""

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secguard.workspace.demo.accesses import write_accesses

CAMERA = "32011600001320000001"


@pytest.fixture
def site(secguard, tmp_path):
    assert secguard("init", "ws", "--area", "320116").returncode == 0
    assert secguard("identity", "ca", "init", "--yes", "-w", "ws").returncode == 0
    return tmp_path / "ws"


@pytest.fixture
def server(site):
    process = subprocess.Popen(
        [sys.executable, "-m", "secguard", "serve", "-w", site, "--publish-every", "0.5"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (site / "state" / "ledger.sock").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_writers_index_and_checkpoint(secguard, site, server):
    for seed in (1, 2):
        write_accesses(site / f"{seed}.jsonl", [CAMERA], 300, datetime(2026, 10, 1, tzinfo=UTC), seed=seed)
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", "secguard", "audit", "import", site / f"{seed}.jsonl", "-w", site, "-q"]
        )
        for seed in (1, 2)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0]

    def caught_up() -> bool:
        facts = json.loads(secguard("status", "-w", site, "--json").stdout)["data"]
        return facts["index behind"] == 0 and facts["ledger size"] > 600

    wait_for(caught_up)
    found = json.loads(secguard("audit", "search", f"subject:{CAMERA}", "-w", site, "--json").stdout)
    written = sum((site / f"{seed}.jsonl").read_text().count(CAMERA) for seed in (1, 2))
    assert found["data"]["total"] == written

    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)
    assert server.returncode == 0
    assert not (site / "state" / "ledger.sock").exists()
    done = secguard("ledger", "verify", "-w", site, "--json")
    assert json.loads(done.stdout)["outcome"] == "pass", done.stdout


def test_a_second_service_is_refused(secguard, site, server):
    done = secguard("serve", "-w", site)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_killed_service_leaves_nothing_in_the_way(secguard, site, server):
    server.kill()
    server.communicate()
    write_accesses(site / "a.jsonl", [CAMERA], 20, datetime(2026, 10, 1, tzinfo=UTC))
    assert secguard("audit", "import", site / "a.jsonl", "-w", site).returncode == 0
    assert secguard("ledger", "checkpoint", "-w", site).returncode == 0
    assert secguard("ledger", "verify", "-w", site).returncode == 0


def front_of(process) -> int:
    """The process that talks to devices."""
    children = [
        int(child)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return next(child for child in children if b"secguard.service.front" in Path(f"/proc/{child}/cmdline").read_bytes())


def health(url: str) -> int:
    """The status that the service gives of itself; 0 if nobody answers."""
    with contextlib.suppress(OSError):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with urllib.request.urlopen(f"{url}/healthz", context=context, timeout=5) as answer:
            return answer.status
    return 0


def memory_holds(pid: int, wanted: bytes) -> bool:
    """Tell whether bytes stand in a process's writable memory."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = line.split()[:2]
            start, end = (int(part, 16) for part in place.split("-"))
            if rights.startswith("rw"):
                with contextlib.suppress(OSError):
                    memory.seek(start)
                    if wanted in memory.read(end - start):
                        return True
    return False


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_front_is_started_again_and_ends_with_the_service(secguard, site):
    assert secguard("identity", "issue", "127.0.0.1", "--profile", "server", "-w", "ws").returncode == 0
    command = [sys.executable, "-m", "secguard", "serve", "-w", site, "--est", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = ""
        while not line.startswith("est: "):
            line = process.stderr.readline()
            assert line
        url = line.split()[1].removesuffix("/.well-known/est")
        first = front_of(process)
        assert memory_holds(first, b"secguard.service.front")
        assert not memory_holds(first, (site / "state" / "passphrase").read_bytes().strip())
        assert health(url) == 200
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: health(url) == 200)
        second = front_of(process)
        assert second != first
        process.kill()
        process.wait()
        wait_for(lambda: not running(second))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
