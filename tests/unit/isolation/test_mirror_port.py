"""A mirror port without an address: what a policy may say of it, what is planned for it, what proves that it hears."""

from datetime import UTC, datetime

import pytest

from secguard.core import FormatError, RefusedError, UsageError
from secguard.isolation.agent.listening import mirror_port
from secguard.isolation.agent.sensor import Sensor
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan, open_plan, seal_plan
from secguard.isolation.plan.tokens import Kind
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.probes.headers import packed
from secguard.isolation.probes.packets import fill
from secguard.keys import Algorithm, generate

NOW = datetime(2026, 10, 1, tzinfo=UTC)
SPAN = "{name: span, sensor: mirror, interface: eth1, covers: [10.1.1.0/29]}"
TEXT = f"""\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  a:
    ipBlocks: [{{cidr: 10.1.0.0/16}}, {{cidr: "fd00:1::/64"}}]
    agents: [a-a, {SPAN}]
    targets: [{{cidr: 10.1.1.0/29, tcp: [554]}}]
  b: {{ipBlocks: [{{cidr: 10.2.0.0/16}}, {{cidr: "fd00:2::/64"}}], agents: [a-b]}}
probes: {{tcp: [22], udp: [53]}}
"""
AGENTS = (
    AgentInfo("a-a", "a", ("10.1.0.2", "fd00:1::2")),
    AgentInfo("span", "a", ()),
    AgentInfo("a-b", "b", ("10.2.0.2",)),
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    made = compile_plan(load_policy(TEXT.encode()), AGENTS, NOW)
    signer = generate(Algorithm.ED25519)
    return open_plan(seal_plan(made, signer), [signer.public_key()], NOW)[0]


def test_it_sends_nothing_and_hears_what_it_covers(plan: Plan) -> None:
    cases = plan.cases
    assert plan.agents[1].interface == "eth1"
    assert 1 not in cases.src
    assert {cases.target[case] for case in range(len(cases)) if cases.dst[case] == 1} == {"10.1.1.1"}
    assert [sweep.hearing for sweep in plan.sweeps] == [(1,)]
    assert plan.uncovered == (("a", "b", 6), ("b", "a", 6)), "of the agents that send"


def test_only_a_neighbours_question_proves_that_it_hears(plan: Plan) -> None:
    inside = int(NOW.timestamp() * 1e9)

    def heard(sender: int, kind: str = "echo", beat: int = 7) -> list[int]:
        sensor = Sensor(plan, 1)
        token = plan.tokens().make(Kind.BEACON, [sender], [2 << 8 | beat])[0]
        packet = bytearray(
            fill(plan.templates["echo/4"], {4: (packed("10.1.0.2"), packed("10.1.0.1"))}, token, ports=(1, 0))
        )
        packet[20] = 8 if kind == "echo" else 0
        sensor.hear(b"\0" * 12 + b"\x08\0" + bytes(packet), False, inside)
        assert sensor.beats == ({(4, beat)} if any(sensor.beacons[4].heard) else set())
        return sensor.beacons[4].heard

    assert heard(0) == [0, 1, 0]
    assert heard(0, "reply") == [0, 0, 0], "counted once"
    assert heard(2) == [0, 0, 0], "another zone's"
    assert heard(9) == [0, 0, 0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sensor: mirror, ", "", "interface is for sensor: mirror"),
        (", covers: [10.1.1.0/29]", "", "needs covers"),
        ("eth1,", "eth1, addresses: [10.1.0.9],", "without addresses"),
        ("a-a, ", "", "needs an agent that sends"),
        ("eth1", "a/b", "interface"),
    ],
)
def test_what_a_policy_may_not_say_of_it(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(FormatError, match=message):
        load_policy(TEXT.replace(old, new, 1).encode(), "p")


def test_a_zone_that_only_hears_is_refused() -> None:
    with pytest.raises(UsageError, match="no agent in zone a"):
        compile_plan(load_policy(TEXT.encode()), AGENTS[1:], NOW)


def test_an_interface_that_is_not_there_or_no_ethernet_is_refused() -> None:
    for name in ("nothere0", "lo"):
        with pytest.raises(RefusedError, match=name):
            mirror_port(name)
