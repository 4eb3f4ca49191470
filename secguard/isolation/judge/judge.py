"""The judge: plan + observations -> a result for every case, a verdict, and the matrix of zones. Pure functions.

A is an authenticated token at the destination, R an answer at the source.

| A | R | result |
|---|---|---|
| yes | SYN-ACK, authenticated reply of a listener, echo | open |
| yes | RST, port unreachable, authenticated reply of the agent | closed (but reachable) |
| yes | none | one-way |
| yes, inside a tunnel or a fragment | any | tunnel, fragment |
| yes, with other addresses | any | translated, or relay after a handshake |
| yes, in a third zone | any | stray |
| no | SYN-ACK, echo | accepted: something between answered; never a pass |
| no | RST, ICMP error | rejected, if both ends are healthy |
| no | none | filtered, if both ends are healthy; else inconclusive |
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from secguard.core import Axis, Finding, Outcome, Verdict, finding
from secguard.core import judge as conclude
from secguard.isolation.agent.observations import Observations
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.tokens import phase_of
from secguard.isolation.probes.templates import dissect

__all__ = ["AXES", "CaseResults", "Cell", "Judgement", "judge"]

AXES = (Axis.CONFORMANCE, Axis.COVERAGE, Axis.INTEGRITY)
_TUNNELS = frozenset({"gre", "ipip", "6in4", "4in6", "ip6ip6", "vxlan", "esp"})
_BOTH_WAYS = frozenset({"syn-ack", "reply-open", "echo"})
_CLOSED = frozenset({"rst", "port-unreachable", "reply-closed"})
_REFUSED = frozenset({"rst", "port-unreachable", "prohibited", "unreachable"})
_REACHED = frozenset({"open", "closed", "one-way", "tunnel", "fragment", "translated", "relay", "stray"})
_SHOWN = 12
_THROUGHOUT = 0.9  # a lossy line may swallow a case or two


class CaseResults(msgspec.Struct):
    """Results as columns beside the plan's case table.

    Attributes:
        result: the word of the table above.
        outcome: `pass`, `fail` or `unknown` against what the policy expects.
        detail: carrier, answering words, or why it is inconclusive.
    """

    result: list[str] = []
    outcome: list[str] = []
    detail: list[str] = []


class Cell(msgspec.Struct):
    """One ordered pair of zones: outcome, counts, kinds found, and the chance that all attempts of a case got lost."""

    src: str
    dst: str
    outcome: str = "pass"
    cases: int = 0
    failed: int = 0
    unknown: int = 0
    reached: int = 0
    kinds: list[str] = []
    miss: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything the judge says."""

    verdict: Verdict
    results: CaseResults
    matrix: list[Cell]


class _Evidence:
    """Observations turned into what is asked of each case."""

    def __init__(self, plan: Plan, seen: Sequence[Observations]) -> None:
        self.plan = plan
        self.by_agent = {item.agent: item for item in seen}
        self._carried = {item.agent: [dissect(_bytes(text)) for _, _, text in item.packets] for item in seen}
        self.arrived: dict[int, list[tuple[Observations, int]]] = defaultdict(list)
        self.words: dict[int, set[str]] = defaultdict(set)
        self.hints: set[int] = set()
        self.repeated: dict[int, int] = defaultdict(int)
        cases = plan.cases
        for item in seen:
            for row, case in enumerate(item.arrivals.case):
                if cases.src[case] != item.agent:
                    self.arrived[case].append((item, row))
                    if item.arrivals.count[row] > 1:
                        self.repeated[item.agent] += item.arrivals.count[row] - 1
            for case, word in zip(item.answers.case, item.answers.word, strict=True):
                if cases.src[case] == item.agent:
                    self.words[case].add(word)
            self.hints.update(case for case in item.hints if cases.dst[case] == item.agent)
        self._health: dict[tuple[int, int], str] = {}
        self._lost_canaries = self._canaries()

    def carried(self, item: Observations, row: int) -> tuple[str, str, str]:
        """How an arrival was carried, and its outer addresses."""
        packet = item.arrivals.packet[row]
        return self._carried[item.agent][packet] if packet >= 0 else ("unknown", "", "")

    def _canaries(self) -> set[tuple[str, str]]:
        plan, cases = self.plan, self.plan.cases
        lost: set[tuple[str, str]] = set()
        for case, canary in enumerate(cases.canary):
            if not canary:
                continue
            heard = {phase_of(item.arrivals.seq[row]) for item, row in self.arrived.get(case, ())}
            if not {1, 2, 3} <= heard:
                lost.add((plan.agents[cases.src[case]].zone, plan.agents[cases.dst[case]].zone))
        return lost

    def _agent(self, agent: int, family: int) -> str:
        """Why nothing can be concluded from an agent's silence; empty if it is healthy."""
        key = (agent, family)
        if key not in self._health:
            self._health[key] = self._examine(agent, family)
        return self._health[key]

    def _examine(self, agent: int, family: int) -> str:
        item = self.by_agent.get(agent)
        if item is None:
            return "agent"
        if item.drops:
            return "drops"
        beacons = item.beacons.get(str(family))
        if beacons is None or not all(beacons.neighbour):
            return "next-hop"
        if not all(beacons.heard):
            return "beacon"
        return ""

    def unhealthy(self, case: int) -> str:
        """Why silence of a case proves nothing; empty if it proves that the packets were stopped."""
        plan, cases = self.plan, self.plan.cases
        src, dst, family = cases.src[case], cases.dst[case], cases.family[case]
        for end in (src, dst):
            if reason := self._agent(end, family):
                return f"{reason}:{plan.agents[end].name}"
        if self.by_agent[src].egress[case] < plan.attempts:
            return f"egress:{plan.agents[src].name}"
        if (plan.agents[src].zone, plan.agents[dst].zone) in self._lost_canaries:
            return f"canary:{plan.agents[dst].name}"
        return ""

    def loss(self, agent: int) -> float:
        """Share of in-zone beacons that an agent did not hear back."""
        item = self.by_agent.get(agent)
        if item is None:
            return 1.0
        sent = sum(sum(beacons.sent) for beacons in item.beacons.values())
        heard = sum(
            min(a, b) for beacons in item.beacons.values() for a, b in zip(beacons.sent, beacons.heard, strict=True)
        )
        return 1 - heard / sent if sent else 1.0


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _result(evidence: _Evidence, case: int) -> tuple[str, str]:
    """Result and detail of one case."""
    plan, cases = evidence.plan, evidence.plan.cases
    words = evidence.words.get(case, set())
    rows = evidence.arrived.get(case, [])
    said = ", ".join(sorted(words))
    if rows:
        src, dst, family = cases.src[case], cases.dst[case], cases.family[case]
        here = [(item, row) for item, row in rows if item.agent == dst]
        if not here:
            return "stray", plan.agents[rows[0][0].agent].zone
        carried = [evidence.carried(item, row) for item, row in here]
        carriers = {carrier for carrier, _, _ in carried}
        if "plain" not in carriers:
            tunnels = sorted(carriers & _TUNNELS)
            if tunnels:
                return "tunnel", tunnels[0]
            return ("fragment", said) if "fragment" in carriers else ("one-way", ", ".join(sorted(carriers)))
        usual = plan.agents[src].address(family), plan.agents[dst].address(family)
        ends = [(source, destination) for carrier, source, destination in carried if carrier == "plain"]
        if usual not in ends:
            after_handshake = all(phase_of(item.arrivals.seq[row]) == 0 for item, row in here)
            return ("relay" if after_handshake else "translated"), f"{ends[0][0]} -> {ends[0][1]}"
        if words & _CLOSED and not words & {"syn-ack", "reply-open"}:
            return "closed", said
        return ("open", said) if words & _BOTH_WAYS else ("one-way", said)
    if words & {"reply-open", "reply-closed"}:
        # Only the far agent can make these: it heard the probe, whatever became of its report.
        return ("open" if "reply-open" in words else "closed"), said
    if words & {"syn-ack", "echo", "reflected"}:
        return "accepted", said
    if case in evidence.hints:
        return "inconclusive", "hint"
    if reason := evidence.unhealthy(case):
        return "inconclusive", reason
    return ("rejected", said) if words & _REFUSED else ("filtered", "")


def _against(expect: str, result: str, words: set[str]) -> str:
    """Outcome of a result against the policy's expectation: pass, fail, blocked, return, unanswered or unknown."""
    if result in {"inconclusive", "accepted"}:
        return "unknown"
    if expect == "deny":
        return "fail" if result in _REACHED else "pass"
    if result in {"filtered", "rejected"}:
        return "blocked"
    if result in {"translated", "relay", "stray", "tunnel", "fragment"}:
        return "fail"
    if expect == "one-way":
        return "return" if words & (_BOTH_WAYS | _CLOSED) else "pass"
    if expect == "closed":
        return "fail" if result == "open" else "pass"
    return "unanswered" if result == "one-way" else "pass"


def _label(plan: Plan, case: int) -> str:
    cases = plan.cases
    name = cases.protocol[case].upper()
    if name not in {"TCP", "UDP"}:
        return name
    source = f"{cases.sport[case]}→" if cases.profile[case] == "source-port" else ""
    return f"{name} {source}{cases.dport[case]}"


def _pair(plan: Plan, case: int) -> tuple[str, str]:
    return plan.agents[plan.cases.src[case]].zone, plan.agents[plan.cases.dst[case]].zone


def _open_by_itself(plan: Plan, results: CaseResults) -> set[tuple[int, int, int, str, int]]:
    """Ports that are reached from any source port: there the source port explains nothing."""
    cases = plan.cases
    return {
        (cases.src[case], cases.dst[case], cases.family[case], cases.protocol[case], cases.dport[case])
        for case in range(len(cases))
        if cases.profile[case] == "l4" and results.result[case] in _REACHED
    }


def _unfiltered_ipv6(plan: Plan, results: CaseResults) -> set[tuple[str, str]]:
    """Pairs where denied IPv6 passes throughout while IPv4 mostly does not: rules that forgot IPv6."""
    counts: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for case, expect in enumerate(plan.cases.expect):
        if expect == "deny" and results.outcome[case] != "unknown":
            entry = counts[(*_pair(plan, case), plan.cases.family[case])]
            entry[0] += 1
            entry[1] += results.result[case] in _REACHED
    found = set()
    for (src, dst, family), (total, reached) in counts.items():
        others = counts.get((src, dst, 4), [0, 0])
        if family == 6 and total >= 2 and reached >= _THROUGHOUT * total and others[1] * 2 < others[0]:
            found.add((src, dst))
    return found


def _code(
    plan: Plan,
    case: int,
    result: str,
    outcome: str,
    *,
    ipv6: set[tuple[str, str]],
    by_itself: set[tuple[int, int, int, str, int]],
) -> str:
    """Catalogue code of a case that did not pass."""
    cases = plan.cases
    if outcome == "blocked":
        return "isolation.flow.blocked"
    if outcome == "unanswered":
        return "isolation.flow.unanswered"
    if outcome == "return":
        return "isolation.leak.return"
    if cases.family[case] == 6 and cases.expect[case] == "deny" and _pair(plan, case) in ipv6:
        return "isolation.leak.ipv6"
    if result in {"translated", "relay", "stray", "tunnel", "fragment"}:
        return f"isolation.leak.{result}"
    profile = cases.profile[case]
    if profile == "icmp":
        return "isolation.leak.icmp"
    if profile == "source-port":
        key = (cases.src[case], cases.dst[case], cases.family[case], cases.protocol[case], cases.dport[case])
        if key not in by_itself:
            return "isolation.leak.source-port"
    return f"isolation.leak.{result}"


def _unknown_code(detail: str, result: str) -> str:
    if result == "accepted":
        return "isolation.case.accepted"
    return "isolation.case.hint" if detail == "hint" else f"isolation.health.{detail.partition(':')[0]}"


def _findings(
    plan: Plan, results: CaseResults, outcomes: list[str]
) -> tuple[list[Finding], dict[tuple[str, str], set[str]]]:
    """One finding a pair and kind, naming its cases."""
    ipv6, by_itself = _unfiltered_ipv6(plan, results), _open_by_itself(plan, results)
    groups: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
    for case, outcome in enumerate(outcomes):
        if outcome == "pass":
            continue
        pair, detail = _pair(plan, case), results.detail[case]
        if outcome == "unknown":
            code = _unknown_code(detail, results.result[case])
            extra = detail.partition(":")[2]
        else:
            code = _code(plan, case, results.result[case], outcome, ipv6=ipv6, by_itself=by_itself)
            extra = (
                detail if code in {"isolation.leak.tunnel", "isolation.leak.stray", "isolation.leak.translated"} else ""
            )
        groups[(*pair, code, extra)].append(case)
        kinds[pair].add(code.removeprefix("isolation."))
    found = []
    for (src, dst, code, extra), cases in groups.items():
        labels = list(dict.fromkeys(_label(plan, case) for case in cases))
        more = f" (+{len(labels) - _SHOWN})" if len(labels) > _SHOWN else ""
        families = sorted({plan.cases.family[case] for case in cases})
        found.append(
            finding(
                code,
                f"{src} -> {dst}",
                src=src,
                dst=dst,
                cases=len(cases),
                probes=", ".join(labels[:_SHOWN]) + more,
                families="/".join(f"IPv{family}" for family in families),
                detail=extra,
            )
        )
    return found, kinds


def _strangers(plan: Plan, evidence: _Evidence) -> list[Finding]:
    found = []
    for agent, item in sorted(evidence.by_agent.items()):
        zone = plan.agents[agent].zone
        for status in ("forged", "foreign"):
            rows = [row for row, word in enumerate(item.strange.status) if word == status]
            if rows:
                sources = ", ".join(sorted({item.strange.source[row] for row in rows})[:_SHOWN])
                found.append(finding(f"isolation.token.{status}", zone, zone=zone, count=len(rows), sources=sources))
        if evidence.repeated.get(agent):
            found.append(finding("isolation.token.replayed", zone, zone=zone, count=evidence.repeated[agent]))
    return found


def _matrix(
    plan: Plan, results: CaseResults, kinds: Mapping[tuple[str, str], set[str]], evidence: _Evidence
) -> list[Cell]:
    cells: dict[tuple[str, str], Cell] = {}
    for case in range(len(plan.cases)):
        pair = _pair(plan, case)
        cell = cells.setdefault(pair, Cell(*pair))
        cell.cases += 1
        cell.failed += results.outcome[case] == "fail"
        cell.unknown += results.outcome[case] == "unknown"
        cell.reached += results.result[case] in _REACHED
        loss = max(evidence.loss(plan.cases.src[case]), evidence.loss(plan.cases.dst[case]))
        cell.miss = max(cell.miss, loss**plan.attempts)
    for src, dst, _ in plan.uncovered:
        cells.setdefault((src, dst), Cell(src, dst)).unknown += 1
    for pair, cell in cells.items():
        cell.outcome = "fail" if cell.failed else "unknown" if cell.unknown else "pass"
        cell.kinds = sorted(kinds.get(pair, ()))
    return list(cells.values())


def judge(
    plan: Plan, digest: str, seen: Sequence[Observations], at: datetime, *, require: Sequence[Axis] = ()
) -> Judgement:
    """Judge a run.

    Args:
        plan: what was to be done.
        digest: SHA-256 of the plan, the verdict's subject.
        seen: observations, each already checked by `open_observations`; a missing agent is a finding.
        at: time of judgement, aware.
        require: narrows the axes that decide.

    Returns:
        Verdict over conformance (nothing passes that may not, what may does), coverage (every silence is backed by
        proof of health) and integrity (no forged or foreign tokens), with results and matrix.
    """
    evidence = _Evidence(plan, seen)
    results = CaseResults()
    outcomes: list[str] = []
    for case, expect in enumerate(plan.cases.expect):
        result, detail = _result(evidence, case)
        outcome = _against(expect, result, evidence.words.get(case, set()))
        outcomes.append(outcome)
        results.result.append(result)
        results.detail.append(detail)
        results.outcome.append(outcome if outcome in {"pass", "unknown"} else "fail")
    found, kinds = _findings(plan, results, outcomes)
    found += _strangers(plan, evidence)
    found += [
        finding("isolation.coverage.family", f"{src} -> {dst}", src=src, dst=dst, family=f"IPv{family}")
        for src, dst, family in plan.uncovered
    ]
    found += [finding("isolation.policy.expired", name, flow=name) for name in plan.expired]
    found += [
        finding("isolation.coverage.sampled", name, flow=name, named=named, probed=probed)
        for name, (named, probed) in plan.sampled.items()
    ]
    examined = {Axis.COVERAGE}
    if len(evidence.by_agent) == len(plan.agents):
        examined.add(Axis.INTEGRITY)
    if Outcome.UNKNOWN.value not in results.outcome:
        examined.add(Axis.CONFORMANCE)
    order = {Outcome.FAIL: 0, Outcome.UNKNOWN: 1, Outcome.PASS: 2}
    found.sort(key=lambda item: order[item.outcome])
    verdict = conclude(f"plan sha256:{digest}", at, examined=examined, findings=found, default=AXES, require=require)
    return Judgement(verdict, results, _matrix(plan, results, kinds, evidence))
