"""Signed runs without a network: a plan, and what agents would have seen of it; used by tests of what comes after."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache

import msgspec
from cryptography import x509

from secguard.core import FixedClock
from secguard.isolation.agent.credentials import chain_text
from secguard.isolation.agent.keys import spki
from secguard.isolation.agent.observations import Answers, Arrivals, Beacons, Observations, Strange
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan, open_plan, seal_plan
from secguard.isolation.plan.tokens import Kind
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.probes.headers import packed
from secguard.isolation.probes.packets import fill
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.keys import Algorithm, Signer, generate

__all__ = ["NOW", "POLICY", "make_run", "unmoved"]

NOW = datetime(2026, 10, 1, 8, 30, tzinfo=UTC)
POLICY = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
profiles: [l4, icmp, source-port, tunnels, pinhole]
zones:
  a: {label: 视频专网, ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: "fd00:1::/64"}], agents: [a-a]}
  b: {label: 公安信息网, ipBlocks: [{cidr: 10.2.0.0/16}, {cidr: "fd00:2::/64"}], agents: [a-b]}
  c: {label: 互联网, ipBlocks: [{cidr: 10.3.0.0/16}], agents: [a-c]}
flows:
- {name: media, src: a, dst: b, ports: [{protocol: UDP, port: 30000, endPort: 30100}], expect: one-way}
- {name: es, src: a, dst: b, ports: [{protocol: TCP, port: 9200}], canary: true}
probes: {tcp: [22, 80], udp: [53], sourcePorts: [20]}
"""
ADDRESSES = {"a": ("10.1.0.2", "fd00:1::2"), "b": ("10.2.0.2", "fd00:2::2"), "c": ("10.3.0.2",)}

Leak = tuple[str, str, str, int]
"""Source zone, destination zone, protocol, destination port: what gets through besides what is allowed (IPv4)."""


@cache
def _key(name: str) -> Signer:
    return generate(Algorithm.ED25519)


def _packet(plan: Plan, case: int, seq: int) -> bytes:
    cases, family = plan.cases, plan.cases.family[case]
    kind = {"tcp": "syn-data", "icmp": "echo"}.get(cases.protocol[case], cases.protocol[case])
    ends = [packed(plan.agents[end].address(family)) for end in (cases.src[case], cases.dst[case])]
    token = plan.tokens().make(Kind.PROBE, [case], [seq])[0]
    ports = cases.sport[case], cases.dport[case]
    return fill(plan.templates[f"{kind}/{family}"], {len(ends[0]): (ends[0], ends[1])}, token, ports=ports)


def unmoved(plan: Plan, agent: int) -> Observations:
    """What a healthy agent saw of a run (of digest `d`) in which all it sent left, and nothing arrived anywhere."""
    return Observations(
        run=plan.run, plan="d", agent=agent, started=0, ended=1,
        egress=[9 if src == agent else 0 for src in plan.cases.src],
        arrivals=Arrivals(), answers=Answers(), hints=[], strange=Strange(),
        beacons={family: Beacons([4] * 3, [4] * 3, [4] * 3) for family in ("4", "6")},
        drops=0, problems=[], packets=[],
    )  # fmt: skip


def make_run(
    leaks: Iterable[Leak] = (),
    *,
    policy: str = POLICY,
    at: datetime = NOW,
    silent: Iterable[str] = (),
    signer: Signer | None = None,
    chain: Sequence[x509.Certificate] = (),
    change: Callable[[list[Observations]], None] = lambda _seen: None,
) -> RunResult:
    """A judged and signed run in which everything is healthy, and only what is allowed and `leaks` got through.

    Args:
        leaks: what got through besides.
        policy: YAML.
        at: when it was planned and judged.
        silent: agents (zones) without a report.
        signer: signs plan and result.
        chain: its certificates.
        change: changes the observations before they are signed.
    """
    signer = signer or _key("controller")
    read = load_policy(policy.encode())
    zones = [zone.name for zone in read.zones]
    agents = [AgentInfo(f"a-{zone}", zone, ADDRESSES[zone], spki(_key(zone).public_key())) for zone in zones]
    made = msgspec.structs.replace(compile_plan(read, agents, at), chain=chain_text(chain))
    envelope = seal_plan(made, signer)
    plan, digest = open_plan(envelope, [signer.public_key()])
    start = int(at.timestamp() * 1e9)
    seen = [
        Observations(
            run=plan.run, plan=digest, agent=agent, started=start, ended=start + 10**10,
            egress=[3 if src == agent else 0 for src in plan.cases.src],
            arrivals=Arrivals([], [], [], [], []), answers=Answers([], [], [], []), hints=[],
            strange=Strange([], [], [], []),
            beacons={family: Beacons([4] * 3, [4] * 3, [4] * 3) for family in ("4", "6")},
            drops=0, problems=[], packets=[], witnessed=[],
        )
        for agent in range(len(agents))
    ]  # fmt: skip
    wanted = set(leaks)
    for case in range(len(plan.cases)):
        _carry_out(plan, seen, case, wanted, start)
    change(seen)
    reports = [item.seal(_key(zone)) for item, zone in zip(seen, zones, strict=True) if zone not in set(silent)]
    return conclude(envelope, reports, [signer.public_key()], clock=FixedClock(at), signer=signer)


def _carry_out(plan: Plan, seen: list[Observations], case: int, leaks: set[Leak], start: int) -> None:
    cases = plan.cases
    src, dst = cases.src[case], cases.dst[case]
    at = start + case * 10**6
    leak = (plan.agents[src].zone, plan.agents[dst].zone, cases.protocol[case], cases.dport[case])
    passes = bool(cases.flow[case]) or (
        leak in leaks and cases.profile[case] in {"l4", "icmp"} and cases.family[case] == 4
    )
    if cases.profile[case] in {"l4", "icmp"}:
        seen[src].witnessed.append((case, at, True, _packet(plan, case, 2 << 8).hex()))
    if not passes:
        return
    for phase in (1, 2, 3) if cases.canary[case] else (2,):
        seen[dst].packets.append((case, at + phase * 1000, _packet(plan, case, phase << 8).hex()))
        row = (case, phase << 8, at + phase * 1000, 1, len(seen[dst].packets) - 1)
        table = seen[dst].arrivals
        for column, value in zip((table.case, table.seq, table.time, table.count, table.packet), row, strict=True):
            column.append(value)
    if cases.expect[case] != "one-way":
        answers = seen[src].answers
        word = {"tcp": "syn-ack", "icmp": "echo"}.get(cases.protocol[case], "reply-open")
        for column, value in zip(
            (answers.case, answers.word, answers.source, answers.count), (case, word, "10.0.0.1", 1), strict=True
        ):
            column.append(value)  # type: ignore[arg-type] # each column its own type
