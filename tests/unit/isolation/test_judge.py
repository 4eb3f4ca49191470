"""The judge's table, row by row, and every code that it can find."""

from datetime import UTC, datetime

import msgspec
import pytest

from secguard.core import Axis, Outcome, describe
from secguard.isolation.agent.observations import (
    UNSYNCHRONISED,
    Answers,
    Arrivals,
    Beacons,
    Observations,
    Strange,
    open_observations,
)
from secguard.isolation.judge.judge import Judgement, judge
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan
from secguard.isolation.plan.tokens import Kind
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.probes.packets import fill
from secguard.keys import Algorithm, generate

NOW = datetime(2026, 10, 1, tzinfo=UTC)
POLICY = load_policy(
    b"""\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  a: {ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: "fd00:1::/64"}], agents: [a-a]}
  b: {ipBlocks: [{cidr: 10.2.0.0/16}, {cidr: "fd00:2::/64"}], agents: [a-b]}
  c: {ipBlocks: [{cidr: 10.3.0.0/16}], agents: [a-c]}
flows:
- {name: media, src: a, dst: b, ports: [{protocol: UDP, port: 30000, endPort: 30100}], expect: one-way}
- {name: es, src: a, dst: b, ports: [{protocol: TCP, port: 9200}], canary: true}
- {name: rtsp, src: a, dst: b, ports: [{protocol: TCP, port: 554}]}
- {name: dead, src: a, dst: b, ports: [{protocol: TCP, port: 5061}], expect: closed}
- {name: old, src: b, dst: a, ports: [{protocol: TCP, port: 21}], expires: 2026-09-30}
probes: {tcp: [22, 80], udp: [53], sourcePorts: [20]}
"""
)
AGENTS = (
    AgentInfo("a-a", "a", ("10.1.0.2", "fd00:1::2")),
    AgentInfo("a-b", "b", ("10.2.0.2", "fd00:2::2")),
    AgentInfo("a-c", "c", ("10.3.0.2",)),
)
A, B, C = 0, 1, 2


class World:
    """A run in which everything is healthy and only what is allowed passes, until a test changes it."""

    def __init__(self) -> None:
        self.plan: Plan = compile_plan(POLICY, AGENTS, NOW)
        self.seen = [
            Observations(
                run=self.plan.run, plan="d", agent=agent, started=0, ended=1,
                egress=[3 if src == agent else 0 for src in self.plan.cases.src],
                arrivals=Arrivals(), answers=Answers(), hints=[], strange=Strange(),
                beacons={family: Beacons([4] * 3, [4] * 3, [4] * 3) for family in ("4", "6")},
                drops=0, problems=[], packets=[],
            )
            for agent in (A, B, C)
        ]  # fmt: skip
        cases = self.plan.cases
        for case, flow in enumerate(cases.flow):
            if flow:
                for phase in (1, 2, 3) if cases.canary[case] else (2,):
                    self.arrive(case, seq=phase << 8)
                word = {"open": "syn-ack", "closed": "rst"}.get(cases.expect[case])
                if word:
                    self.answer(case, word)

    def case(self, src: int = A, dst: int = C, **wanted: object) -> int:
        cases = self.plan.cases
        wanted = {"family": 4, "profile": "l4", "protocol": "tcp", "dport": 22, **wanted}
        return next(
            case
            for case in range(len(cases))
            if (cases.src[case], cases.dst[case]) == (src, dst)
            and all(getattr(cases, name)[case] == value for name, value in wanted.items())
        )

    def packet(self, case: int, kind: str, source: str = "") -> bytes:
        from secguard.isolation.probes.headers import packed

        cases, family = self.plan.cases, self.plan.cases.family[case]
        ends = (
            packed(source or AGENTS[cases.src[case]].address(family)),
            packed(AGENTS[cases.dst[case]].address(family)),
        )
        token = self.plan.tokens().make(Kind.PROBE, [case], [0x200])[0]
        form = self.plan.templates[f"{kind}/{family}"]
        return fill(form, {len(ends[0]): ends}, token, ports=(cases.sport[case], cases.dport[case]))

    def arrive(
        self, case: int, kind: str = "udp", *, at: int | None = None, seq: int = 0x200, source: str = ""
    ) -> None:
        item = self.seen[self.plan.cases.dst[case] if at is None else at]
        item.packets.append((case, 0, self.packet(case, kind, source).hex()))
        table = item.arrivals
        for column, value in ((table.case, case), (table.seq, seq), (table.time, 0), (table.count, 1)):
            column.append(value)
        table.packet.append(len(item.packets) - 1)

    def answer(self, case: int, word: str) -> None:
        table = self.seen[self.plan.cases.src[case]].answers
        for column, value in ((table.case, case), (table.word, word), (table.source, "10.9.9.9"), (table.count, 1)):
            column.append(value)  # type: ignore[arg-type]

    def judge(self) -> Judgement:
        return judge(self.plan, "d", self.seen, NOW)


def _codes(judgement: Judgement) -> set[str]:
    remarks = {"isolation.policy.expired", "isolation.coverage.sampled"}
    codes = {finding.code for finding in judgement.verdict.findings}
    assert remarks <= codes, "said in every judgement of this plan"
    for finding in judgement.verdict.findings:
        for lang in ("en", "zh"):
            assert "<" not in describe(finding, lang), "every value that a text names is there"
    return codes - remarks


def test_healthy_and_tight_passes() -> None:
    judgement = World().judge()
    assert _codes(judgement) == set()
    assert judgement.verdict.outcome is Outcome.PASS
    assert {cell.outcome for cell in judgement.matrix} == {"pass"}
    assert len(judgement.matrix) == 6


TABLE = [
    # kind of packet, answers, result, code
    ("syn-data", ["syn-ack"], "open", "isolation.leak.open"),
    ("udp", ["reply-open"], "open", "isolation.leak.open"),
    ("udp", ["answered"], "open", "isolation.leak.open"),
    ("syn-data", ["rst"], "closed", "isolation.leak.closed"),
    ("udp", ["port-unreachable"], "closed", "isolation.leak.closed"),
    ("udp", ["reply-closed"], "closed", "isolation.leak.closed"),
    ("udp", [], "one-way", "isolation.leak.one-way"),
    ("gre", [], "tunnel", "isolation.leak.tunnel"),
    ("ipip", ["unreachable"], "tunnel", "isolation.leak.tunnel"),
    ("fragment-1", [], "fragment", "isolation.leak.fragment"),
    ("", ["reply-closed"], "closed", "isolation.leak.closed"),
]


@pytest.mark.parametrize(("kind", "answers", "result", "code"), TABLE)
def test_what_arrives_is_a_leak_of_its_kind(kind: str, answers: list[str], result: str, code: str) -> None:
    world = World()
    case = world.case()
    if kind:
        world.arrive(case, kind)
    for word in answers:
        world.answer(case, word)
    judgement = world.judge()
    assert judgement.results.result[case] == result
    assert judgement.results.outcome[case] == "fail"
    assert _codes(judgement) == {code}
    assert judgement.verdict.outcome is Outcome.FAIL
    assert judgement.verdict.axes[Axis.CONFORMANCE] is Outcome.FAIL
    (finding,) = [item for item in judgement.verdict.findings if item.code == code]
    assert (finding.where, finding.data["probes"]) == ("a -> c", "TCP 22")


@pytest.mark.parametrize("word", ["rst", "prohibited", "unreachable", "port-unreachable"])
def test_rejected_is_no_leak(word: str) -> None:
    world = World()
    case = world.case()
    world.answer(case, word)
    judgement = world.judge()
    assert judgement.results.result[case] == "rejected"
    assert judgement.verdict.outcome is Outcome.PASS


@pytest.mark.parametrize("word", ["syn-ack", "echo", "reflected", "answered"])
def test_an_answer_for_a_target_that_heard_nothing_is_never_a_pass(word: str) -> None:
    world = World()
    case = world.case()
    world.answer(case, word)
    judgement = world.judge()
    assert judgement.results.result[case] == "accepted"
    assert _codes(judgement) == {"isolation.case.accepted"}
    assert judgement.verdict.outcome is Outcome.UNKNOWN


def test_a_bare_syn_is_a_hint_never_proof_and_never_a_pass() -> None:
    world = World()
    world.seen[C].hints.append(world.case())
    judgement = world.judge()
    assert _codes(judgement) == {"isolation.case.hint"}
    assert judgement.verdict.outcome is Outcome.UNKNOWN


def test_icmp_source_port_translation_relay_and_stray_are_named() -> None:
    for change, code in (
        (lambda w: w.arrive(w.case(protocol="icmp", profile="icmp", dport=0), "echo"), "isolation.leak.icmp"),
        (lambda w: w.arrive(w.case(profile="source-port"), "syn-data"), "isolation.leak.source-port"),
        (lambda w: w.arrive(w.case(), "syn-data", source="10.3.0.1"), "isolation.leak.translated"),
        (lambda w: w.arrive(w.case(), "syn-data", source="10.3.0.1", seq=2), "isolation.leak.relay"),
        (lambda w: w.arrive(w.case(), "syn-data", at=B), "isolation.leak.stray"),
    ):
        world = World()
        change(world)
        judgement = world.judge()
        assert _codes(judgement) == {code}
        assert judgement.verdict.outcome is Outcome.FAIL


def test_a_port_open_to_all_is_not_blamed_on_the_source_port() -> None:
    world = World()
    for profile in ("l4", "source-port"):
        world.arrive(world.case(profile=profile), "syn-data")
        world.answer(world.case(profile=profile), "rst")
    assert _codes(world.judge()) == {"isolation.leak.closed"}


def test_forgotten_ipv6_is_one_finding() -> None:
    world = World()
    cases = world.plan.cases
    for case in range(len(cases)):
        if cases.family[case] == 6 and (cases.src[case], cases.dst[case]) == (B, A):
            world.arrive(case, "udp")
    judgement = world.judge()
    assert _codes(judgement) == {"isolation.leak.ipv6"}
    (finding,) = [item for item in judgement.verdict.findings if item.outcome is Outcome.FAIL]
    assert finding.where == "b -> a"


def test_flows_are_held_to_what_the_policy_expects() -> None:
    def drop(world: World, case: int) -> None:
        table = world.seen[B].arrivals
        rows = [row for row, value in enumerate(table.case) if value != case]
        for name in table.__struct_fields__:
            setattr(table, name, [getattr(table, name)[row] for row in rows])

    def silence(world: World, case: int) -> None:
        table = world.seen[A].answers
        rows = [row for row, value in enumerate(table.case) if value != case]
        for name in table.__struct_fields__:
            setattr(table, name, [getattr(table, name)[row] for row in rows])

    for change, code in (
        (lambda w, c: (drop(w, c), silence(w, c)), "isolation.flow.blocked"),
        (silence, "isolation.flow.unanswered"),
    ):
        world = World()
        change(world, world.case(A, B, dport=554))
        judgement = world.judge()
        assert _codes(judgement) == {code}
        assert judgement.verdict.outcome is Outcome.FAIL

    world = World()
    world.answer(world.case(A, B, protocol="udp", dport=30000), "reply-closed")
    assert _codes(world.judge()) == {"isolation.leak.return"}

    world = World()
    silence(world, world.case(A, B, dport=5061))
    world.answer(world.case(A, B, dport=5061), "syn-ack")
    assert _codes(world.judge()) == {"isolation.leak.open"}


def _no_agent(world: World) -> None:
    del world.seen[C]


def _drops(world: World) -> None:
    world.seen[C].drops = 1


def _deaf(world: World) -> None:
    world.seen[C].beacons["4"].heard = [4, 4, 0]


def _no_hop(world: World) -> None:
    world.seen[C].beacons["4"].neighbour = [4, 0, 4]


def _no_egress(world: World) -> None:
    world.seen[C].egress = [0] * len(world.plan.cases)


def _no_canary(world: World) -> None:
    case = world.case(A, B, dport=9200)
    for row, value in enumerate(world.seen[B].arrivals.case):
        if value == case and world.seen[B].arrivals.seq[row] >> 8 == 3:
            world.seen[B].arrivals.seq[row] = 0x200


@pytest.mark.parametrize(
    ("change", "code", "pairs"),
    [
        (_no_agent, "isolation.health.agent", {"a -> c", "c -> a", "b -> c", "c -> b"}),
        (_drops, "isolation.health.drops", {"a -> c", "c -> a", "b -> c", "c -> b"}),
        (_deaf, "isolation.health.beacon", {"a -> c", "c -> a", "b -> c", "c -> b"}),
        (_no_hop, "isolation.health.next-hop", {"a -> c", "c -> a", "b -> c", "c -> b"}),
        (_no_egress, "isolation.health.egress", {"c -> a", "c -> b"}),
        (_no_canary, "isolation.health.canary", {"a -> b"}),
    ],
)
def test_silence_without_proof_of_health_is_inconclusive(change: object, code: str, pairs: set[str]) -> None:
    world = World()
    change(world)  # type: ignore[operator]
    judgement = world.judge()
    assert _codes(judgement) == {code}
    assert {item.where for item in judgement.verdict.findings if item.code == code} == pairs
    assert judgement.verdict.outcome is Outcome.UNKNOWN
    assert judgement.verdict.axes[Axis.CONFORMANCE] is Outcome.UNKNOWN
    bad = {f"{cell.src} -> {cell.dst}" for cell in judgement.matrix if cell.outcome == "unknown"}
    assert bad == pairs


def test_a_leak_stays_a_leak_when_health_is_bad() -> None:
    world = World()
    world.arrive(world.case(), "udp")
    world.seen[C].drops = 5
    judgement = world.judge()
    assert _codes(judgement) == {"isolation.leak.one-way", "isolation.health.drops"}
    assert judgement.verdict.outcome is Outcome.FAIL


def test_strange_tokens_are_findings_of_their_own() -> None:
    for status, code, outcome in (
        ("forged", "isolation.token.forged", Outcome.FAIL),
        ("foreign", "isolation.token.foreign", Outcome.UNKNOWN),
    ):
        world = World()
        world.seen[B].strange = Strange([status], ["10.1.0.2"], ["10.2.0.2"], [0])
        judgement = world.judge()
        assert _codes(judgement) == {code}
        assert judgement.verdict.outcome is outcome
    world = World()
    world.seen[B].arrivals.count[0] = 2
    judgement = world.judge()
    assert _codes(judgement) == {"isolation.token.replayed"}
    assert judgement.verdict.outcome is Outcome.UNKNOWN


def test_a_family_without_agents_is_not_silently_left_out() -> None:
    world = World()
    world.plan = msgspec.structs.replace(world.plan, uncovered=(("b", "c", 6),))
    judgement = world.judge()
    assert _codes(judgement) == {"isolation.coverage.family"}
    assert judgement.verdict.outcome is Outcome.UNKNOWN


def test_loss_shows_as_a_chance_of_a_miss() -> None:
    world = World()
    world.seen[C].beacons["4"].heard = [2, 2, 2]
    world.seen[C].beacons["6"].heard = [2, 2, 2]
    (cell,) = [cell for cell in world.judge().matrix if (cell.src, cell.dst) == ("a", "c")]
    assert cell.miss == pytest.approx(0.5**3)


def test_nothing_seen_at_all_is_inconclusive() -> None:
    world = World()
    judgement = judge(world.plan, "d", [], NOW)
    assert judgement.verdict.outcome is Outcome.UNKNOWN
    assert set(judgement.results.outcome) == {"unknown"}


def test_observations_must_be_signed_by_their_agent_and_fit_the_plan() -> None:
    from secguard.core import FormatError, RefusedError

    world = World()
    keys = [generate(Algorithm.ED25519) for _ in range(3)]
    public = {agent.name: key.public_key() for agent, key in zip(AGENTS, keys, strict=True)}
    data = world.seen[A].seal(keys[A])
    assert open_observations(data, world.plan, "d", public)[0] == world.seen[A]
    with pytest.raises(RefusedError, match="not signed by agent a-a"):
        open_observations(world.seen[A].seal(keys[B]), world.plan, "d", public)
    with pytest.raises(RefusedError, match="another run"):
        open_observations(data, world.plan, "e", public)
    for change in (
        {"agent": 9},
        {"egress": []},
        {"hints": [10**6]},
        {"beacons": {"5": Beacons()}},
        {"beacons": {"4": Beacons([1], [1], [1])}},
        {"arrivals": Arrivals([0], [0], [0], [1], [99999])},
        {"arrivals": Arrivals([0], [0], [0], [1], [])},
        {"packets": [(0, 0, "00" * 3000)]},
    ):
        wrong = msgspec.structs.replace(world.seen[A], **change)
        with pytest.raises(FormatError):
            open_observations(wrong.seal(keys[A]), world.plan, "d", public)


def _clock_doubts(world: World) -> set[str]:
    return {item.where for item in world.judge().verdict.findings if item.code == "isolation.health.clock"}


def test_by_the_clock_silence_counts_only_where_clocks_are_known() -> None:
    """`a` reaches `b` by an allowed flow, which shows that both were awake; nothing shows it of `c`."""
    world = World()
    assert not _clock_doubts(world)
    world.seen[C].problems.append(UNSYNCHRONISED)
    assert _clock_doubts(world) == {"a -> c", "b -> c", "c -> a", "c -> b"}
    world.plan = msgspec.structs.replace(world.plan, controller="led by orders")
    assert not _clock_doubts(world)
    for pair in ((A, C), (C, B)):
        world = World()
        world.seen[C].problems.append(UNSYNCHRONISED)
        world.arrive(world.case(*pair))
        assert not _clock_doubts(world), "heard once, in either direction"


def test_by_the_clock_who_began_at_another_time_heard_nothing() -> None:
    world = World()
    for item, began in zip(world.seen, (100, 100, 500), strict=True):
        item.started, item.ended = began, began + 200
        item.witnessed = [(0, began + 10, True, ""), (0, began + 150, True, "")]
    assert _clock_doubts(world) == {"a -> c", "b -> c", "c -> a", "c -> b"}
