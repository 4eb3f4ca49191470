"""Sweeps with real packets: what a firewall lets through is found by host and port; a killed scan goes on."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secguard.core import Outcome
from secguard.isolation.lab.lab import LabResult, run_lab
from secguard.isolation.runs.runner import Action
from tests.support.lab_kit import NEEDS_LAB

NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"
pytestmark = NEEDS_LAB

POLICY = """
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  int:
    ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: "fd00:1::/64"}]
    agents: [{name: a-int, covers: [10.1.7.0/24, "fd00:1::7:0/112"]}]
    targets:
    - {cidr: 10.1.7.0/24, tcp: [22, 80, 8000-8003], udp: [5514, 5515], icmp: true}
    - {cidr: 10.1.7.0/24, tcp: [9000], sample: 10}
    - {cidr: "fd00:1::7:0/120", tcp: [22], sample: 20}
    - {cidr: 10.1.8.0/28, tcp: [22]}
  ext: {ipBlocks: [{cidr: 10.2.0.0/16}, {cidr: "fd00:2::/64"}], agents: [a-ext]}
  dmz: {ipBlocks: [{cidr: 10.3.0.0/16}], agents: [a-dmz]}
profiles: []
limits: {ratePps: 20000, attempts: 3, timeoutSeconds: 0.3, exclude: [10.1.7.64/28]}
"""
HEAD = "table inet lab {\n chain forward {\n type filter hook forward priority 0; policy drop;\n"
RULES = (
    HEAD
    + """
    iifname "int" oifname "ext" udp sport 5514 drop
    iifname "int" oifname "ext" icmp type destination-unreachable drop
    ct state established,related accept
    iifname "ext" oifname "int" ip daddr 10.1.7.0/25 tcp dport 80 accept
    iifname "ext" oifname "int" udp dport 5514 accept
    iifname "dmz" oifname "int" ip daddr 10.1.7.9 accept
    iifname "ext" oifname "int" ip6 nexthdr tcp accept
    tcp dport 8001 reject with tcp reset
  }
}
"""
)
# int owns the whole block (AnyIP), the firewall routes it there.
OWN = (
    Action("start", "int", ("ip", "route", "add", "local", "10.1.7.0/24", "dev", "lo")),
    Action("start", "int", ("ip", "-6", "route", "add", "local", "fd00:1::7:0/112", "dev", "lo")),
    Action("start", "fw", ("ip", "route", "add", "10.1.7.0/24", "via", "10.1.0.2")),
    Action("start", "fw", ("ip", "-6", "route", "add", "fd00:1::7:0/112", "via", "fd00:1::2")),
)
_SERVER = """
import os, socket, time
service = socket.create_server(("10.1.7.5", 80))
if not os.fork():
    os.closerange(0, 3)
    time.sleep(30)
"""


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture(scope="module")
def swept() -> LabResult:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    return run_lab("tight", rules=RULES, policy=POLICY, actions=OWN)


def _found(result: LabResult, code: str, src: str) -> str:
    return "; ".join(
        str(item.data["probes"]) for item in result.verdict.findings if item.code == code and item.data["src"] == src
    )


def test_each_hole_is_named_by_hosts_and_ports(swept: LabResult) -> None:
    closed = _found(swept, "isolation.leak.closed", "ext")
    # Half the block, less what limits exclude; a reset comes back although nobody listens there.
    assert "10.1.7.1-63, 10.1.7.80-127 TCP 80" in closed
    assert "10.1.7.1-63, 10.1.7.80-254 UDP 5514" in _found(swept, "isolation.leak.one-way", "ext")
    assert "10.1.7.9 TCP 22, 80, 8000-8003" in _found(swept, "isolation.leak.closed", "dmz")
    assert "10.1.7.9 UDP 5514-5515" in _found(swept, "isolation.leak.closed", "dmz")
    assert _found(swept, "isolation.leak.icmp", "dmz") == "10.1.7.9 ICMP"
    assert "fd00:1::7:" in closed, "the sample of the IPv6 block"
    assert swept.verdict.outcome is Outcome.FAIL


def test_nothing_else_is_named(swept: LabResult) -> None:
    codes = {(item.code, item.data.get("src")) for item in swept.verdict.findings}
    assert codes == {
        ("isolation.leak.closed", "ext"),
        ("isolation.leak.one-way", "ext"),
        ("isolation.leak.closed", "dmz"),
        ("isolation.leak.icmp", "dmz"),
        ("isolation.coverage.one-sided", "ext"),
        ("isolation.coverage.one-sided", "dmz"),
        ("isolation.coverage.swept", "ext"),
        ("isolation.coverage.swept", "dmz"),
    }


def test_counts_add_up(swept: LabResult) -> None:
    by = {(item.src, item.target, item.protocol, item.ports): item for item in swept.sweeps}
    tcp = by["ext", "10.1.7.0/24", "tcp", "22, 80, 8000-8003"]
    hosts = 254 - 16
    assert tcp.probed == hosts
    assert tcp.counts == {"closed": 111, "rejected": hosts, "filtered": hosts * 6 - hosts - 111}
    assert by["ext", "10.1.7.0/24", "udp", "5514-5515"].counts == {"one-way": hosts, "filtered": hosts}
    assert by["ext", "10.1.7.0/24", "tcp", "9000"].probed == 10
    assert by["ext", "fd00:1::7:0/120", "tcp", "22"].counts == {"closed": 20}
    assert by["ext", "10.1.8.0/28", "tcp", "22"].counts == {"unheard": 14}
    cells = {(cell.src, cell.dst): cell for cell in swept.matrix}
    assert cells["ext", "int"].cases == sum(
        item.probed * _width(item.ports) for item in swept.sweeps if item.src == "ext"
    )
    document = json.loads(json.dumps([item.row() for item in swept.sweeps]))
    assert document[0]["counts"]


def _width(ports: str) -> int:
    pairs = [part.split("-") for part in ports.split(", ")] if ports else [["0"]]
    return sum(int(pair[-1]) - int(pair[0]) + 1 for pair in pairs)


def test_packets_are_kept_of_each_kind_and_no_more(swept: LabResult) -> None:
    kept = {item.agent: item.swept.packets for item in swept.observations}
    assert all(kept.values())
    assert max(map(len, kept.values())) < 300, "a few of each kind"


def test_an_open_service_and_a_mute_middle() -> None:
    policy = POLICY.replace("udp: [5514, 5515], icmp: true", "udp: [5514]")
    cut = Action(
        "during", "fw", ("nft", "table inet q { chain c { type filter hook input priority 0; policy drop; }; }")
    )
    serve = Action("start", "int", (sys.executable, "-c", _SERVER))
    result = run_lab("tight", rules=RULES, policy=policy, actions=[*OWN, serve])
    assert "10.1.7.5 TCP 80" in _found(result, "isolation.leak.open", "ext")
    result = run_lab("tight", rules=f"{HEAD} }}\n}}\n", policy=policy, actions=[*OWN, cut])
    assert result.verdict.outcome is Outcome.UNKNOWN
    assert {item.code for item in result.verdict.findings} >= {"isolation.health.beacon"}
    assert not any("filtered" in item.counts for item in result.sweeps), "next hops that mute are no proof of a filter"


# A scan that is killed.

_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], check=False).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
_HOLD = """
import json, sys, time
from secguard.isolation.wire.namespaces import Namespaces, die_with_parent, isolate
import subprocess
isolate(); die_with_parent()
spaces = Namespaces()
def ip(*lines): subprocess.run(["ip", "-batch", "-"], input="\\n".join(lines) + "\\n", text=True, check=True)
for name in ("int", "ext", "fw"): spaces.add(name)
ip("link set lo up", *(f"link add {n} type veth peer name eth0 netns {spaces.path(n)}" for n in ("int", "ext")),
   "addr add 10.1.0.1/24 dev int", "addr add 10.2.0.1/24 dev ext", "link set int up", "link set ext up",
   "route add 10.101.0.0/16 via 10.1.0.2")
open("/proc/sys/net/ipv4/ip_forward", "w").write("1")
subprocess.run(["nft", "-f", "-"], input=sys.argv[1], text=True, check=True)
for number, name in ((1, "int"), (2, "ext")):
    spaces.enter(name)
    ip("link set lo up", f"addr add 10.{number}.0.2/24 dev eth0", "link set eth0 up",
       f"route add default via 10.{number}.0.1")
spaces.enter("int")
ip("route add local 10.101.0.0/16 dev lo")
print(json.dumps({name: spaces.path(name) for name in ("int", "ext")}), flush=True)
time.sleep(3600)
"""
_RULES = HEAD + ' iifname "ext" ip daddr 10.101.0.77 tcp dport 22 accept\n }\n}\n'
_BIG = """
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  int:
    ipBlocks: [{cidr: 10.1.0.0/24}, {cidr: 10.101.0.0/16}]
    agents: [{name: a-int, covers: [10.101.0.0/16]}]
    targets: [{cidr: 10.101.0.0/%d, tcp: [22, 8000-8018]}]
  ext: {ipBlocks: [{cidr: 10.2.0.0/16}], agents: [a-ext]}
profiles: []
limits: {ratePps: %d, attempts: 2, timeoutSeconds: 0.3}
"""


@pytest.fixture
def places() -> Iterator[list[str]]:
    """Namespaces `int` and `ext` around a firewall, held by a process."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, _RULES], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    found = json.loads(holder.stdout.readline() or "{}")
    assert found, "the namespaces stand"
    yield [f"{zone}={path}" for zone, path in found.items()]
    holder.kill()
    holder.wait()
    holder.stdout.close()


def _start(folder: Path, places: list[str], prefix: int, rate: int) -> "subprocess.Popen[str]":
    (folder / "policy.yaml").write_text(_BIG % (prefix, rate), encoding="utf-8")
    return _run(folder, places)


def _run(folder: Path, places: list[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "secguard", "isolation", "run", "policy.yaml", "-o", "scan", "--json"]
    return subprocess.Popen(
        [*command, "--in-namespaces", *places[:1], *places[1:]],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _kept(folder: Path) -> bool:
    """Whether both agents have kept a round: more than the head of a journal."""
    sizes = [path.stat().st_size for path in folder.glob("scan.part/agents/*.rounds")]
    return len(sizes) == 2 and min(sizes) > 200


def _wait(process: "subprocess.Popen[str]", until: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not until():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_scan_goes_on(
    tmp_path: Path, places: list[str], secguard: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    prefix, rate = (16, 200_000) if NIGHTLY else (22, 4000)
    process = _start(tmp_path, places, prefix, rate)
    _wait(process, lambda: _kept(tmp_path))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = time.time_ns()
    state = tmp_path / "scan.part"
    assert {path.name for path in state.iterdir()} == {"plan.json", "run.json", "keys.json", "agents"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in state.iterdir())
    again = secguard("isolation", "run", "policy.yaml", "-o", "scan", "--in-namespaces", *places, cwd=tmp_path)
    assert again.returncode == 2
    assert "resume" in again.stderr
    command = [sys.executable, "-m", "secguard", "isolation", "resume", "scan.part", "--json"]
    # A small parent of its own: the largest of all children of the test process may be another test's.
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr  # the one hole; its answers do not come back
    document = json.loads(done.stdout)
    assert not state.exists(), "nothing is left but the result"
    (sweep,) = (item for item in document["data"]["sweeps"] if item["protocol"] == "tcp")
    hosts = 2 ** (32 - prefix) - 2
    assert sweep["counts"] == {"one-way": 1, "filtered": hosts * 20 - 1}
    envelope = json.loads((tmp_path / "scan" / "observations-a-ext.json").read_text(encoding="utf-8"))
    swept = json.loads(base64.b64decode(envelope["payload"]))["swept"]
    begun = [item["began"] < killed for item in swept["rounds"]]
    assert any(begun), "what was kept was not sent again"
    assert not all(begun)
    assert sum(item["sent"] for item in swept["rounds"]) == hosts * 20 * 2
    # The largest process, agents included: they end with their controller.
    assert int(done.stderr.split()[-1]) < 300 << 10


@pytest.mark.slow
def test_an_interrupt_stops_a_sweep_within_a_second_and_says_how_to_go_on(tmp_path: Path, places: list[str]) -> None:
    process = _start(tmp_path, places, 22, 2000)
    _wait(process, lambda: _kept(tmp_path))
    seconds, said = _interrupted(process)
    assert seconds < _second()
    assert "secguard isolation resume" in said
    assert (tmp_path / "scan.part" / "plan.json").exists()


_CASES = """
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  int: {ipBlocks: [{cidr: 10.1.0.0/24}], agents: [a-int]}
  ext: {ipBlocks: [{cidr: 10.2.0.0/16}], agents: [a-ext]}
profiles: [l4]
probes: {tcp: [%s]}
limits: {ratePps: 10, attempts: 9}
"""


def test_an_interrupt_stops_the_cases_within_a_second(tmp_path: Path, places: list[str]) -> None:
    (tmp_path / "policy.yaml").write_text(_CASES % ", ".join(map(str, range(1, 101))), encoding="utf-8")
    process = _run(tmp_path, places)
    _wait(process, lambda: len(_children(process.pid)) == 2 and all(map(_sent, _children(process.pid))))
    seconds, _ = _interrupted(process)
    assert seconds < _second(), "the cases alone take minutes"


def _sent(pid: str) -> bool:
    """Whether packets left the namespace that a process has entered: the cases are under way."""
    if Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        return False
    lines = [line.split() for line in Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()]
    return any(line[0] == "eth0:" and int(line[10]) > 30 for line in lines)


def _interrupted(process: "subprocess.Popen[str]") -> tuple[float, str]:
    """Interrupt a scan: how long it took to end, and what it said; nothing of it is left."""
    agents = _children(process.pid)
    assert len(agents) == 2
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert process.returncode == 130, said
    assert not any(Path("/proc", pid).exists() for pid in agents)
    return seconds, said


def _second() -> float:
    """A second; on a busy machine as long as it takes there to start secguard four times (0.25 s when quiet)."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "secguard", "--help"], stdout=subprocess.DEVNULL, check=True, timeout=60)
    return max(1.0 if NIGHTLY else 2.0, 4 * (time.monotonic() - began))


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
