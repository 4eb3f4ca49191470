"""Published addresses: what is sent to an address of one zone and comes out in another (port forwarding, NAT)."""

from datetime import UTC, datetime

import msgspec
import pytest

from secguard.core import FormatError, Outcome, describe
from secguard.isolation.agent.sensor import Sensor
from secguard.isolation.judge.judge import Judgement, judge
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan
from secguard.isolation.plan.tokens import Kind
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.probes.headers import packed, parse, text
from secguard.isolation.probes.packets import checksum, fill, parts
from tests.support.isolation_kit import unmoved

NOW = datetime(2026, 10, 1, tzinfo=UTC)
INSIDE = int(NOW.timestamp() * 1e9)
TEXT = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  a:
    ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: "fd00:1::/64"}]
    agents: [a-a]
    published: ["fd00:1::1", {address: 10.1.0.1, tcp: ["8000-8001"], serves: [22]}]
  b: {ipBlocks: [{cidr: 10.2.0.0/16}, {cidr: "fd00:2::/64"}], agents: [a-b]}
  c: {ipBlocks: [{cidr: 10.3.0.0/16}], agents: [a-c]}
flows:
- {name: es, src: a, dst: b, ports: [{protocol: TCP, port: 9200}]}
- {name: web, src: b, dst: a, ports: [{protocol: TCP, port: 80}]}
profiles: [l4, published]
probes: {tcp: [22], udp: [53], sourcePorts: [20]}
"""
AGENTS = (
    AgentInfo("a-a", "a", ("10.1.0.2", "fd00:1::2")),
    AgentInfo("a-b", "b", ("10.2.0.2", "fd00:2::2")),
    AgentInfo("a-c", "c", ("10.3.0.2",)),
)
A, B, C = 0, 1, 2


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile_plan(load_policy(TEXT.encode()), AGENTS, NOW)


def _case(plan: Plan, src: int, dst: int, protocol: str, dport: int) -> int:
    cases = plan.cases
    (found,) = (
        case
        for case in range(len(cases))
        if (cases.profile[case], cases.src[case], cases.dst[case]) == ("published", src, dst)
        and (cases.protocol[case], cases.dport[case], cases.target[case]) == (protocol, dport, "10.1.0.1")
    )
    return found


def _ports(plan: Plan, src: int, dst: int, protocol: str) -> set[int]:
    cases = plan.cases
    rows = [case for case in range(len(cases)) if cases.target[case] == "10.1.0.1" and cases.protocol[case] == protocol]
    return {cases.dport[case] for case in rows if (cases.src[case], cases.dst[case]) == (src, dst)}


def test_every_other_zone_may_stand_behind_a_published_address(plan: Plan) -> None:
    assert _ports(plan, A, C, "tcp") == {22, 80, 9200, 8000, 8001}
    assert _ports(plan, A, B, "tcp") == {22, 80, 8000, 8001}, "9200 may pass from a to b anyway"
    assert _ports(plan, B, C, "tcp") == {22, 9200, 8000, 8001}, "80 may pass from b to the zone that has the address"
    assert _ports(plan, C, B, "udp") == {53}, "agents of other zones ask, too"
    cases = plan.cases
    assert {cases.family[case] for case in range(len(cases)) if cases.target[case] == "fd00:1::1"} == {6}
    seen = [
        (plan.ends(case), cases.protocol[case], cases.sport[case], cases.dport[case])
        for case in range(len(cases))
        if cases.protocol[case] in {"tcp", "udp"}
    ]
    assert len(seen) == len(set(seen)), "one address for several agents, and still a 5-tuple a case"


def test_a_tunnel_to_a_published_address_holds_a_packet_for_the_far_agent(plan: Plan) -> None:
    case = _case(plan, A, B, "gre", 9)
    ends = {4: (packed("10.1.0.2"), packed(plan.inner(case)))}
    packet = fill(plan.templates["gre/4"], ends, b"t" * 28, ports=(1, 2), outer=packed("10.1.0.1"))
    outer, inner = parse(packet), parse(packet[24:])
    assert outer is not None
    assert inner is not None
    assert (text(outer.destination), text(inner.destination)) == ("10.1.0.1", "10.2.0.2")
    assert checksum(packet[:20]) == checksum(packet[24:44]) == 0
    assert plan.inner(_case(plan, A, B, "tcp", 22)) == ""


class Run:
    """A healthy run in which nothing passes, until a test lets something arrive."""

    def __init__(self, plan: Plan) -> None:
        cases = plan.cases
        self.plan = plan
        self.seen = [unmoved(plan, agent) for agent in (A, B, C)]
        for case, flow in enumerate(cases.flow):
            if flow:
                self.arrive(case, cases.dst[case], plan.ends(case)[1])
                self.answer(case, "syn-ack")

    def packet(self, case: int, destination: str, seq: int = 0x200, kind: str = "") -> bytes:
        cases = self.plan.cases
        kind = kind or parts(cases.profile[case], cases.protocol[case], 0)[0]
        token = self.plan.tokens().make(Kind.PROBE, [case], [seq])[0]
        ends = packed(self.plan.ends(case)[0]), packed(destination)
        form = self.plan.templates[f"{kind}/{cases.family[case]}"]
        ports, isn = (cases.sport[case], cases.dport[case]), self.plan.tokens().hint(case)
        return fill(form, {len(ends[0]): ends}, token, ports=ports, isn=isn)

    def arrive(self, case: int, at: int, destination: str, *, seq: int = 0x200, kind: str = "") -> None:
        item = self.seen[at]
        item.packets.append((case, 0, self.packet(case, destination, seq, kind).hex()))
        for column, value in zip(
            (item.arrivals.case, item.arrivals.seq, item.arrivals.time, item.arrivals.count, item.arrivals.packet),
            (case, seq, 0, 1, len(item.packets) - 1),
            strict=True,
        ):
            column.append(value)

    def answer(self, case: int, word: str) -> None:
        table = self.seen[self.plan.cases.src[case]].answers
        for column, value in ((table.case, case), (table.word, word), (table.source, "10.1.0.1"), (table.count, 1)):
            column.append(value)  # type: ignore[arg-type] # each column its own type

    def judge(self) -> tuple[Judgement, set[tuple[str, str]]]:
        said = judge(self.plan, "d", self.seen, NOW)
        for finding in said.verdict.findings:
            assert "<" not in describe(finding, "en") + describe(finding, "zh")
        return said, {(finding.code, finding.where) for finding in said.verdict.findings}


def test_nothing_behind_it_is_a_pass(plan: Plan) -> None:
    run = Run(plan)
    for word, port in (("rst", 9200), ("syn-ack", 22)):
        run.answer(_case(plan, A, C, "tcp", port), word)
    judgement, found = run.judge()
    assert found == set(), "the device refuses, and serves what the policy says it serves"
    assert judgement.verdict.outcome is Outcome.PASS


def test_what_arrives_behind_it_is_named_with_the_zone_where_it_arrived(plan: Plan) -> None:
    run = Run(plan)
    for dst in (B, C):  # a case for each agent, one rule that leads to b
        case = _case(plan, A, dst, "tcp", 8000)
        run.arrive(case, B, "10.2.0.2")
        run.answer(case, "syn-ack")
    judgement, found = run.judge()
    assert found == {("isolation.leak.published", "a -> b")}
    (finding,) = judgement.verdict.findings
    assert finding.data["probes"] == "TCP 8000 @10.1.0.1"
    assert finding.data["detail"] == "10.1.0.2 -> 10.2.0.2"
    assert {cell.outcome for cell in judgement.matrix if (cell.src, cell.dst) != ("a", "b")} == {"pass"}


def test_served_ports_are_leaks_all_the_same_where_something_arrives(plan: Plan) -> None:
    run = Run(plan)
    run.arrive(_case(plan, A, C, "tcp", 22), C, "10.3.0.2")
    assert run.judge()[1] == {("isolation.leak.published", "a -> c")}


def test_back_in_its_own_zone_is_no_leak_but_explains_nothing(plan: Plan) -> None:
    run = Run(plan)
    case = _case(plan, B, C, "tcp", 8000)
    run.arrive(case, B, "10.2.0.9")
    assert run.judge()[1] == set()
    run.answer(case, "syn-ack")
    assert run.judge()[1] == {("isolation.case.accepted", "b -> c")}


@pytest.mark.parametrize("word", ["syn-ack", "answered", "echo"])
def test_an_answer_from_nobody_knows_where_is_never_a_pass(plan: Plan, word: str) -> None:
    run = Run(plan)
    run.answer(_case(plan, A, C, "tcp", 8000), word)
    judgement, found = run.judge()
    assert found == {("isolation.case.accepted", "a -> c")}
    assert judgement.verdict.outcome is Outcome.UNKNOWN


def test_relays_and_unwrapped_tunnels_keep_their_names(plan: Plan) -> None:
    run = Run(plan)
    run.arrive(_case(plan, A, C, "tcp", 8000), C, "10.3.0.2", seq=2)
    assert run.judge()[1] == {("isolation.leak.relay", "a -> c")}
    run = Run(plan)
    run.arrive(_case(plan, A, C, "gre", 9), C, "10.3.0.2", kind="udp")
    judgement, found = run.judge()
    assert found == {("isolation.leak.tunnel", "a -> c")}
    assert judgement.verdict.findings[0].data["detail"] == "gre"


def test_without_proof_of_health_silence_behind_it_says_nothing(plan: Plan) -> None:
    run = Run(plan)
    run.seen[C].drops = 1
    found = run.judge()[1]
    assert ("isolation.health.drops", "a -> c") in found


def _frame(packet: bytes) -> bytes:
    return b"\0" * 12 + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def test_a_bare_syn_with_changed_addresses_is_a_hint(plan: Plan) -> None:
    run = Run(plan)
    case = _case(plan, A, C, "tcp", 8000)
    bare = run.packet(case, "10.3.0.2", kind="syn")
    sensor = Sensor(plan, C)
    sensor.hear(_frame(bare), False, INSIDE)
    assert sensor.hints() == [case]
    sensor = Sensor(plan, B)
    sensor.hear(_frame(bare), False, INSIDE)
    assert sensor.hints() == [], "another agent's case"
    run.seen[C].hints.append(case)
    assert run.judge()[1] == {("isolation.case.hint", "a -> c")}


def test_a_datagram_in_answer_to_a_probe_counts_as_an_answer(plan: Plan) -> None:
    case = _case(plan, A, C, "udp", 53)
    cases = plan.cases
    form = plan.templates["udp/4"]
    ends = {4: (packed("10.1.0.1"), packed("10.1.0.2"))}
    for ports, words in (
        ((cases.dport[case], cases.sport[case]), ["answered"]),
        ((cases.dport[case], cases.sport[case] + 1), []),
    ):
        sensor = Sensor(plan, A)
        sensor.hear(_frame(fill(form, ends, b"no token, just a refusal....", ports=ports)), False, INSIDE)
        assert sensor.answers().word == words


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("10.2.0.1", "not in zone a"),
        ("{address: 10.1.0.2}", "is an agent's"),
        ("{address: nowhere}", "does not appear"),
        ("{address: 10.1.0.1, tcp: ['9-8']}", "not a port"),
        ("{address: 10.1.0.1, udp: ['1-65535']}", "at most 1024 ports"),
        ("{address: 10.1.0.1, tpc: [9]}", "unknown key"),
    ],
)
def test_what_cannot_be_published_is_one_clear_line(item: str, message: str) -> None:
    changed = TEXT.replace('"fd00:1::1", ', f"{item}, ").replace(
        "agents: [a-a]", "agents: [{name: a-a, addresses: [10.1.0.2]}]"
    )
    with pytest.raises(FormatError, match=message) as error:
        load_policy(changed.encode(), "p")
    assert error.value.where == "p:7"


def test_agents_refuse_a_published_address_outside_the_policys_blocks(plan: Plan) -> None:
    from secguard.isolation.plan.plan import open_plan, seal_plan
    from secguard.keys import Algorithm, generate

    cases = msgspec.json.decode(msgspec.json.encode(plan.cases), type=type(plan.cases))
    cases.target[_case(plan, A, C, "tcp", 8000)] = "10.9.0.1"
    signer = generate(Algorithm.ED25519)
    with pytest.raises(FormatError):
        open_plan(seal_plan(msgspec.structs.replace(plan, cases=cases), signer), [signer.public_key()], NOW)
