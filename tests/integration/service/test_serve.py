"""`secguard serve`: one process sequences for all, follows with the index, publishes, and stops when told."""

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

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
