"""Faults and oddities of real networks: the answer is right or inconclusive, never a false pass, never a false leak."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secguard.core import FormatError, Outcome, UsageError
from secguard.isolation.lab.lab import LabResult, run_lab
from secguard.isolation.lab.planted import PLANTED, TUNNELS_PLANTED
from secguard.isolation.runs.runner import Action
from tests.support.lab_kit import NEEDS_LAB

pytestmark = NEEDS_LAB
LEAKY = Path(__file__).parents[3] / "secguard" / "isolation" / "rules" / "leaky.nft"
FEW = ["l4", "icmp", "dns", "spoof"]


def _nft(rules: str) -> Action:
    return Action("start", "fw", ("sh", "-c", f"PATH=$PATH:/usr/sbin nft '{rules}'"))


def _codes(result: LabResult) -> set[str]:
    return {finding.code for finding in result.verdict.findings}


def test_every_planted_leak_is_a_rule_with_its_name() -> None:
    named = set()
    for line in LEAKY.read_text(encoding="utf-8").splitlines():
        if 'comment "' in line:
            named.add("isolation.leak." + line.partition('comment "')[2].partition('"')[0])
    assert named == set(PLANTED)
    assert len(PLANTED) >= 20
    assert set(TUNNELS_PLANTED) == set(PLANTED["isolation.leak.tunnel"])


def test_duplicated_packets_are_told_and_are_no_leak() -> None:
    # The firewall sends each forwarded packet twice: what is allowed arrives twice, what is dropped never does.
    twice = (
        "table ip twice { chain c { type filter hook postrouting priority 300; "
        'ip daddr 10.3.0.2 dup to 10.3.0.2 device "dmz"; }; }'
    )
    result = run_lab("tight", actions=[_nft(twice)], profiles=FEW)
    assert result.verdict.outcome is Outcome.UNKNOWN
    assert _codes(result) == {"isolation.token.replayed"}
    assert set(result.columns["profile"]) == set(FEW), "and only what was chosen is sent"
    assert set(result.columns["outcome"]) == {"pass"}


def test_a_path_that_loses_everything_on_one_side_of_the_run_is_inconclusive() -> None:
    block = "table inet late { chain c { type filter hook prerouting priority -500; policy drop; }; }"
    late = Action("after", "fw", ("sh", "-c", f"PATH=$PATH:/usr/sbin nft '{block}'"))
    result = run_lab("tight", actions=[late], profiles=FEW)
    assert result.verdict.outcome is Outcome.UNKNOWN
    assert "fail" not in result.columns["outcome"]
    assert any(code.startswith("isolation.health.") for code in _codes(result))


_SYNPROXY = (
    "table ip p { chain r { type filter hook prerouting priority -300; tcp dport 22 tcp flags syn notrack; }; "
    "chain f { type filter hook forward priority -10; tcp dport 22 ct state invalid,untracked "
    "synproxy mss 1400 wscale 7; }; }"
)


def test_a_firewall_that_completes_handshakes_itself_is_never_a_pass() -> None:
    result = run_lab("tight", actions=[_nft(_SYNPROXY)], profiles=["l4"])
    row = next(
        row
        for row in range(len(result.columns["result"]))
        if (result.columns["src"][row], result.columns["dst"][row], result.columns["family"][row]) == ("ext", "int", 4)
        and (result.columns["protocol"][row], result.columns["dport"][row]) == ("tcp", 22)
    )
    assert result.columns["result"][row] == "accepted"
    assert result.verdict.outcome is Outcome.UNKNOWN
    assert "fail" not in result.columns["outcome"]


@pytest.mark.parametrize(
    ("change", "kind", "where"),
    [
        ({"rules": "table inet x {\n chain y {\n  nonsense\n }\n}\n", "rules_name": "fw.nft"}, FormatError, "fw.nft:"),
        ({"profiles": ["l4", "l5"]}, UsageError, ""),
    ],
)
def test_what_the_lab_cannot_use_is_one_clear_error(
    change: dict[str, object], kind: Callable[..., Exception], where: str
) -> None:
    with pytest.raises(kind) as error:  # type: ignore[arg-type, call-overload] # a class either way
        run_lab("tight", **change)  # type: ignore[arg-type] # options by name
    assert error.value.where.startswith(where)
    if where:
        assert error.value.where[len(where) :] in {"3", "4"}
        assert error.value.code == "isolation.lab.rules"


def test_a_mirror_port_hears_probes_to_addresses_of_others() -> None:
    policy = (LEAKY.parent / "lab.yaml").read_text(encoding="utf-8")
    seen = '{name: a-int, sensor: mirror, covers: [10.1.1.0/24]}], targets: [{cidr: 10.1.1.0/29, tcp: ["554"]}]'
    policy = policy.replace("agents: [a-int]", f"agents: [{seen}", 1)
    # A camera that is not there: the firewall hands its packets to the wire on which the sensor listens.
    behind = Action("start", "fw", ("ip", "route", "add", "10.1.1.0/24", "via", "10.1.0.2"))
    rules = (
        "table inet lab {\n chain forward {\n type filter hook forward priority 0; policy drop;\n"
        " ct state established,related accept\n"
        ' iifname "int" oifname "dmz" tcp dport { 554, 9200 } accept\n'
        ' iifname "ext" ip daddr 10.1.1.1 udp dport 53 accept\n }\n}\n'
    )
    result = run_lab("tight", rules=rules, policy=policy, actions=[behind], profiles=["l4", "dscp", "ip-options"])
    targeted = {row for row, text in enumerate(result.plan.cases.target) if text}
    assert {result.plan.cases.target[row] for row in targeted} == {"10.1.1.1"}
    assert "opt-unknown" not in {result.columns["protocol"][row] for row in targeted}, "hostile: own"
    (leak,) = [finding for finding in result.verdict.findings if finding.code.startswith("isolation.leak.")]
    assert (leak.code, leak.where) == ("isolation.leak.one-way", "ext -> int")
    assert "UDP 53 @10.1.1.1" in leak.data["probes"]
    assert not {code for code in _codes(result) if code.startswith(("isolation.health.", "isolation.case."))}


_UNWRAPPER = """
import socket
ear = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
mouth = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
while True:
    inner = ear.recv(65535)[24:]
    if inner[16:18] == b"\\x0a\\x01":
        mouth.sendto(inner, (socket.inet_ntoa(inner[16:20]), 0))
"""


def test_holes_for_answers_for_equal_ports_and_tunnels_that_end_on_the_firewall_are_named(tmp_path: Path) -> None:
    rules = (
        "table inet lab {\n chain forward {\n type filter hook forward priority 0; policy drop;\n"
        " ct state established,related accept\n"
        ' iifname "int" oifname "dmz" tcp dport { 554, 9200 } accept\n'
        ' iifname "dmz" oifname "int" tcp sport 9200 tcp flags & (ack | rst) != 0 accept\n'
        ' iifname "ext" oifname "int" udp sport 5060 udp dport 5060 accept\n }\n}\n'
    )
    script = tmp_path / "unwrap.py"
    script.write_text(_UNWRAPPER)
    script.chmod(0o644)
    unwrap = Action("start", "fw", ("sh", "-c", f"timeout 180 {sys.executable} {script} >/dev/null 2>&1 &"))
    result = run_lab("tight", rules=rules, actions=[unwrap], profiles=["source-port", "published"])
    leaks = {(item.code, item.where): item.data["probes"] for item in result.verdict.findings}
    assert set(leaks) == {
        ("isolation.leak.source-port", "dmz -> int"),
        ("isolation.leak.source-port", "ext -> int"),
        ("isolation.leak.tunnel", "ext -> int"),
        ("isolation.leak.tunnel", "dmz -> int"),
    }
    assert "TCP-ACK 9200→" in leaks["isolation.leak.source-port", "dmz -> int"]
    assert leaks["isolation.leak.source-port", "ext -> int"] == "UDP-TWIN 5060→5060"
    assert "GRE @10.2.0.1" in leaks["isolation.leak.tunnel", "ext -> int"]
