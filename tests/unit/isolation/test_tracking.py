"""Tracked findings: since when, until when, who closed them, and that they open again."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from secguard.cli.isolation.drift import update
from secguard.core import FormatError, UsageError
from secguard.isolation.drift.leaks import leak_id
from secguard.isolation.drift.tracking import Tracking
from secguard.isolation.evidence.folder import run_name, save_run
from secguard.isolation.judge.result import ScanResult, open_result
from secguard.workspace import Workspace, create_site
from tests.support.isolation_kit import NOW, POLICY, Leak, make_run

SSH, DNS = ("c", "a", "tcp", 22), ("b", "a", "udp", 53)
OPEN = leak_id("c", "a", "leak.open", "")
DAY = timedelta(days=1)


def _scan(day: int, leaks: list[Leak], silent: tuple[str, ...] = ()) -> ScanResult:
    run = make_run(leaks, at=NOW + day * DAY, silent=silent)
    assert run.signer is not None
    return open_result(run.envelopes["result.json"], [run.signer.public_key()])


def _take(file: Tracking, scan: ScanResult) -> dict[str, str]:
    changes = file.changes(scan)
    file.apply(changes, scan)
    return {change.leak.id: change.verb for change in changes}


@pytest.fixture(scope="module")
def scans() -> dict[str, ScanResult]:
    return {
        "both": _scan(0, [SSH, DNS]),
        "ssh": _scan(1, [SSH]),
        "ssh, c silent": _scan(2, [DNS], silent=("c",)),
        "none": _scan(3, []),
        "again": _scan(4, [SSH]),
    }


def test_a_finding_lives_from_scan_to_scan(tmp_path: Path, scans: dict[str, ScanResult]) -> None:
    with Tracking(tmp_path / "findings.db") as file:
        dns = leak_id("b", "a", "leak.open", "")
        assert _take(file, scans["both"]) == {OPEN: "opened", dns: "opened"}
        assert _take(file, scans["both"]) == {}, "a scan counts once"
        assert _take(file, scans["ssh"]) == {OPEN: "seen", dns: "closed"}
        assert file.find(dns).closed_by == "scan"
        assert file.find(OPEN).seen == 2
        assert _take(file, scans["ssh, c silent"]) == {dns: "reopened"}, "silence of a silent agent closes nothing"
        assert _take(file, scans["none"]) == {OPEN: "closed", dns: "closed"}
        assert _take(file, scans["again"]) == {OPEN: "reopened"}
    with Tracking(tmp_path / "findings.db") as file:
        found = file.find(OPEN)
        assert (found.first_seen, found.last_seen) == (NOW, NOW + 4 * DAY)
        assert (found.state, found.seen, found.reopened, found.probes) == ("open", 3, 1, ["TCP 22"])
        assert _take(file, scans["ssh"]) == {}, "an older scan changes nothing"
        assert [item.state for item in file.all()] == ["open", "closed"]


def test_closing_by_hand_needs_an_open_finding(tmp_path: Path, scans: dict[str, ScanResult]) -> None:
    with Tracking(tmp_path / "findings.db") as file:
        _take(file, scans["ssh"])
        change = file.closing(OPEN[:6], by="zhang", at=NOW + 2 * DAY, case="C-17", reason="fixed")
        file.apply([change])
        closed = file.find(OPEN)
        assert (closed.state, closed.closed_by, closed.case, closed.reason) == ("closed", "zhang", "C-17", "fixed")
        with pytest.raises(UsageError, match="was closed on 2026-10-03"):
            file.closing(OPEN, by="zhang", at=NOW, case="C-18", reason="again")
        with pytest.raises(UsageError, match="no findings are called"):
            file.find("L-nothing")
        assert _take(file, scans["again"]) == {OPEN: "reopened"}
        assert file.find(OPEN).case == "C-17", "the history stays"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "findings.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(FormatError):
        Tracking(path)


def test_a_scan_of_fewer_probes_closes_nothing_that_it_did_not_ask(
    tmp_path: Path, scans: dict[str, ScanResult]
) -> None:
    run = make_run([], policy=POLICY.replace("tcp: [22, 80]", "tcp: [80]"), at=NOW + DAY)
    assert run.signer is not None
    fewer = open_result(run.envelopes["result.json"], [run.signer.public_key()])
    with Tracking(tmp_path / "findings.db") as file:
        _take(file, scans["both"])
        assert _take(file, fewer) == {leak_id("b", "a", "leak.open", ""): "closed"}
        assert file.find(OPEN).state == "open"


def test_scans_that_come_late_lose_and_undo_nothing(tmp_path: Path, scans: dict[str, ScanResult]) -> None:
    """Two scans that end at once are taken in in any order: nothing that one of them found is dropped."""
    with Tracking(tmp_path / "findings.db") as file:
        dns = leak_id("b", "a", "leak.open", "")
        assert _take(file, scans["ssh"]) == {OPEN: "opened"}
        assert _take(file, scans["both"]) == {OPEN: "seen", dns: "opened"}
        found = file.find(OPEN)
        assert (found.first_seen, found.last_seen, found.seen) == (NOW, NOW + DAY, 2)
        assert _take(file, scans["again"]) == {OPEN: "seen", dns: "closed"}
        assert _take(file, scans["none"]) == {}, "it was seen since"
        assert file.find(OPEN).state == "open"
    with Tracking(tmp_path / "other.db") as file:
        _take(file, scans["ssh"])
        file.apply([file.closing(OPEN, by="zhang", at=NOW + 3 * DAY, case="C-1", reason="fixed")])
        assert _take(file, scans["both"])[OPEN] == "seen"
        assert file.find(OPEN).state == "closed", "it was closed since"


def test_two_processes_take_scans_in_at_once(tmp_path: Path) -> None:
    """Each scan counts once, and each act is recorded once, whoever is first."""
    create_site(tmp_path / "site")
    folder = tmp_path / "site" / "state" / "isolation"
    for day in range(6):
        run = make_run([SSH, DNS] if day % 2 == 0 else [SSH], at=NOW + day * DAY)
        save_run(run, folder / run_name(run), fresh=True)
    gate = tmp_path / "go"
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with Workspace.find(tmp_path / "site") as own:
                    while not gate.exists():
                        time.sleep(0.001)
                    update(own)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    gate.touch()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    with Tracking(folder / "findings.db") as file:
        assert [(item.src, item.seen, item.reopened, item.state) for item in file.all()] == [
            ("c", 6, 0, "open"),
            ("b", 3, 2, "closed"),
        ]
    with Workspace.find(tmp_path / "site") as own:
        kinds = [own.ledger.event(index).kind for index in range(own.ledger.size)]
    assert [kind.partition(".")[2] for kind in kinds if kind.startswith("finding.")] == [
        "opened", "opened", "closed", "reopened", "closed", "reopened", "closed",
    ]  # fmt: skip
