"""The command line: exit codes, documents, files, and the record of a scan in a workspace."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secguard.workspace import Workspace
from tests.support.lab_kit import NEEDS_LAB

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = NEEDS_LAB

POLICY = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  left: {ipBlocks: [{cidr: 10.91.0.0/31}], agents: [a-left]}
  right: {ipBlocks: [{cidr: 10.91.0.2/31}], agents: [a-right]}
flows:
- {name: sip, src: left, dst: right, ports: [{protocol: UDP, port: 5060}], expect: open, canary: true}
probes: {tcp: [554], udp: [5060, 161], sourcePorts: []}
profiles: [l4, icmp]
limits: {attempts: 2, timeoutSeconds: 0.3}
"""


def test_tight_exits_0_and_leaky_1(secguard: Run, tmp_path: Path) -> None:
    done = secguard("isolation", "lab", "tight", "--json", "--report", tmp_path / "tight.html", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["outcome"], document["exit"]) == ("secguard.isolation.lab/1", "pass", 0)
    assert document["axes"] == {"integrity": "pass", "coverage": "pass", "conformance": "pass"}
    assert len(document["data"]["matrix"]) == 6
    assert "区域矩阵" not in (tmp_path / "tight.html").read_text()
    assert (tmp_path / "out" / "plan.json").stat().st_mode & 0o077 == 0

    out = tmp_path / "out"
    reports = sorted(out.glob("observations-*.json"))
    judged = secguard("isolation", "judge", out / "plan.json", *reports, "--trust", out / "signer.pem", "--json")
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)["data"]["plan"] == document["data"]["plan"]
    fewer = secguard("isolation", "judge", out / "plan.json", *reports[1:], "--trust", out / "signer.pem", "--json")
    assert fewer.returncode == 3, "a missing agent is inconclusive"

    leaky = secguard("isolation", "lab", "leaky", "--lang", "zh", "--report", tmp_path / "leaky.html")
    assert leaky.returncode == 1
    assert "IPv6 未被过滤" in leaky.stderr
    assert "单向泄漏" in (tmp_path / "leaky.html").read_text()


def test_edited_plan_and_observations_are_refused(secguard: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert secguard("isolation", "lab", "tight", "-q", "-o", out).returncode == 0
    reports = sorted(out.glob("observations-*.json"))

    def judge() -> "subprocess.CompletedProcess[str]":
        return secguard("isolation", "judge", out / "plan.json", *reports, "--trust", out / "signer.pem")

    for path, code in ((out / "plan.json", "not signed by a trusted key"), (reports[0], "not signed by agent")):
        original = path.read_text()
        envelope = json.loads(original)
        payload = envelope["payload"]
        # A digit inside base64 stays base64: the document still parses, only its signature no longer fits.
        at = len(payload) // 2
        envelope["payload"] = payload[:at] + ("A" if payload[at] != "A" else "B") + payload[at + 1 :]
        path.write_text(json.dumps(envelope))
        done = judge()
        assert done.returncode == 2
        assert code in done.stderr or "not observations" in done.stderr
        assert "Traceback" not in done.stderr
        path.write_text(original)
    assert judge().returncode == 0


@contextlib.contextmanager
def _two_namespaces() -> Iterator[tuple[int, int]]:
    """Two network namespaces joined by a cable, held by two sleeping processes."""
    holders = [subprocess.Popen(["unshare", "-n", "sleep", "60"]) for _ in range(2)]
    own = Path("/proc/self/ns/net").readlink()
    try:
        for holder in holders:
            deadline = time.monotonic() + 10
            while Path(f"/proc/{holder.pid}/ns/net").readlink() == own and time.monotonic() < deadline:
                time.sleep(0.01)
        left, right = (str(holder.pid) for holder in holders)
        enter = ["nsenter", "-t", left, "-n", "ip"]
        subprocess.run([*enter, "link", "add", "e0", "type", "veth", "peer", "name", "e0", "netns", right], check=True)
        for pid, address, other in ((left, "10.91.0.1", "10.91.0.2/31"), (right, "10.91.0.2", "10.91.0.0/31")):
            ip = ["nsenter", "-t", pid, "-n", "ip"]
            subprocess.run([*ip, "addr", "add", f"{address}/32", "dev", "e0"], check=True)
            subprocess.run([*ip, "link", "set", "e0", "up"], check=True)
            subprocess.run([*ip, "route", "add", other, "dev", "e0"], check=True)
        yield holders[0].pid, holders[1].pid
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def test_run_between_two_namespaces_is_recorded(secguard: Run, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces that outlive one process")
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    site = tmp_path / "site"
    assert secguard("init", site, "--area", "320116").returncode == 0
    with _two_namespaces() as (left, right):
        done = secguard(
            "isolation", "run", policy, "--in-namespaces", f"left={left}", f"right={right}",
            "-w", site, "--case", "A-7", "--json", "-o", tmp_path / "copy",
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    # A bare cable: all that is denied passes, and is named; the allowed flow is open.
    assert {finding["code"] for finding in document["findings"]} == {"isolation.leak.closed", "isolation.leak.icmp"}
    cases = document["data"]["cases"]
    rows = [row for row, flow in enumerate(cases["flow"]) if flow == "sip"]
    assert [(cases["result"][row], cases["outcome"][row]) for row in rows] == [("open", "pass")]
    with Workspace.find(site) as ws:
        events = [ws.ledger.event(index) for index in range(ws.ledger.size)]
    started, finished = [event for event in events if event.kind.startswith("scan.")]
    assert (started.kind, finished.kind) == ("scan.started", "scan.finished")
    assert started.subject == finished.subject == f"sha256:{document['data']['plan']}"
    assert (started.case, finished.data["outcome"]) == ("A-7", "fail")
    # The workspace keeps the scan, its ledger vouches for it, and what leaked is open until it is closed.
    assert Path(document["data"]["folder"]).parent == site / "state" / "isolation"
    verified = secguard("isolation", "verify", "last", "-w", site, "--json")
    assert verified.returncode == 0, verified.stdout
    # -o is one copy more.
    assert document["data"]["copy"] == str(tmp_path / "copy")
    kept = {path.name: path.read_bytes() for path in Path(document["data"]["folder"]).iterdir()}
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert {event.kind for event in events if event.kind.startswith("finding.")} == {"finding.opened"}


def test_lab_is_recorded_in_a_workspace(secguard: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert secguard("init", site, "--area", "320116").returncode == 0
    assert secguard("isolation", "lab", "tight", "-q", cwd=site).returncode == 0
    with Workspace.find(site) as ws:
        events = [ws.ledger.event(index) for index in range(ws.ledger.size)]
    assert [event.kind for event in events if event.kind.startswith("scan.")] == ["scan.started", "scan.finished"]


def test_mistakes_are_one_clear_line(secguard: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    for arguments, text in (
        (("run", policy, "--in-namespaces", "left=/proc/self/ns/net"), "no network namespace for agent a-right"),
        (("run", policy, "--in-namespaces", "left"), "not ZONE=NAMESPACE"),
        (("run", policy, "--in-namespaces", "left=nowhere", "right=nowhere"), "cannot open the network namespace"),
        (("lint", tmp_path / "none.yaml"), "no such file"),
        (("plan", policy, "-o", tmp_path / "plan.json"), "nothing to probe"),
        (("lab", "tidy"), "'tidy' is not one of"),
    ):
        done = secguard("isolation", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert text in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "plan.json").exists()


def test_an_agent_never_probes_from_the_machines_own_network(secguard: Run, tmp_path: Path) -> None:
    # The namespaces exist, but their addresses are not in the policy's blocks: nothing is sent.
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    done = secguard("isolation", "run", policy, "--in-namespaces", "left=/proc/self/ns/net", "right=/proc/self/ns/net")
    assert done.returncode == 2
    assert "has no address in zone left" in done.stderr


def test_help_is_quick_and_free_of_scapy(tmp_path: Path) -> None:
    import sys

    text = "import secguard.cli.isolation, sys; print('scapy' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout.split() == ["False", "False"], done.stderr
