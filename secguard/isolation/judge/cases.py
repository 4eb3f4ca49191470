"""The result of a case from its evidence, and its outcome against what the policy expects."""

import msgspec

from secguard.isolation.agent.observations import Observations
from secguard.isolation.judge.evidence import Evidence
from secguard.isolation.plan.tokens import phase_of
from secguard.isolation.probes.dissect import TUNNELS
from secguard.isolation.probes.openings import AFTER_REPLY, OPENINGS
from secguard.isolation.probes.profiles import probe

__all__ = ["REACHED", "CaseResults", "against", "result_of"]

_BOTH_WAYS = frozenset({"syn-ack", "reply-open", "echo", "answered"})
_CLOSED = frozenset({"rst", "port-unreachable", "reply-closed"})
_ANSWERED = frozenset({"syn-ack", "echo", "reflected", "answered"})
_REFUSED = frozenset({"rst", "port-unreachable", "prohibited", "unreachable"})
REACHED = frozenset({"open", "closed", "one-way", "tunnel", "fragment", "quote", "translated", "relay", "stray"})
"""Results that say that something got through."""


class CaseResults(msgspec.Struct):
    """Results as columns beside the plan's case table.

    Attributes:
        result: the word of the table above.
        outcome: `pass`, `fail` or `unknown` against what the policy expects.
        detail: carrier, answering words, or why it is inconclusive.
        kind: code of its finding without `isolation.`; empty where nothing is wrong.
    """

    result: list[str] = []
    outcome: list[str] = []
    detail: list[str] = []
    kind: list[str] = []


def result_of(evidence: Evidence, case: int) -> tuple[str, str]:
    """Result and detail of one case."""
    plan, cases = evidence.plan, evidence.plan.cases
    words = evidence.words.get(case, set())
    rows = evidence.arrived.get(case, [])
    target = cases.target[case]
    published = cases.profile[case] == "published"
    if published:
        # Every agent of another zone has a case of its own to this address: what arrived there is that one's. And
        # where the device itself serves, its answer says nothing.
        home = plan.agents[cases.src[case]].zone
        elsewhere = any(plan.agents[item.agent].zone != home for item, _ in rows)
        rows = [(item, row) for item, row in rows if item.agent == cases.dst[case]]
        if not rows and (elsewhere or cases.dport[case] in plan.serves.get(target, ())):
            words = words - _ANSWERED
    said = ", ".join(sorted(words))
    if rows:
        return _arrived(evidence, case, rows, words)
    if words & {"reply-open", "reply-closed"}:
        # Only the far agent can make these: it heard the probe, whatever became of its report.
        return ("open" if "reply-open" in words else "closed"), said
    if words & _ANSWERED:
        return "accepted", said
    if case in evidence.hints:
        return "inconclusive", "hint"
    if target and not published and not plan.agents[cases.dst[case]].hears(target):
        # Whoever refused may have spoken in the target's name, and nobody was there to hear.
        return "unheard", "one-sided"
    if reason := evidence.unhealthy(case):
        return "inconclusive", reason
    return ("rejected", said) if words & _REFUSED else ("filtered", "")


def _arrived(evidence: Evidence, case: int, rows: list[tuple[Observations, int]], words: set[str]) -> tuple[str, str]:
    """Result and detail of a case whose token got somewhere."""
    plan, cases = evidence.plan, evidence.plan.cases
    here = [(item, row) for item, row in rows if item.agent == cases.dst[case]]
    if not here:
        return "stray", plan.agents[rows[0][0].agent].zone
    carried = [evidence.carried(item, row) for item, row in here]
    said = ", ".join(sorted(words))
    usual = plan.ends(case)
    if inner := plan.inner(case):
        usual = usual[0], inner
    seqs = [item.arrivals.seq[row] for item, row in here]
    direct = any((source, destination) == usual for _, source, destination in carried)
    way = f"{carried[0][1]} -> {carried[0][2]}"
    if not direct and all(phase_of(seq) == 0 for seq in seqs):
        words_said = sorted({OPENINGS[(seq & 0xFF) % AFTER_REPLY % len(OPENINGS)] for seq in seqs})
        return "relay", f"{' and '.join(words_said)}, {way}"
    carriers = {carrier for carrier, _, _ in carried}
    row = probe(cases.profile[case], cases.protocol[case])
    leak = row.leak if row is not None else ""
    if not carriers & {"plain", "label"}:
        if tunnels := sorted(carriers & TUNNELS):
            return "tunnel", tunnels[0]
        if "fragment" in carriers:
            return "fragment", said
        if "quote" in carriers and leak not in {"icmp-error", "icmp-type"}:
            return "quote", way
        if "malformed" in carriers:
            return "one-way", "malformed"
    if not direct:
        return "translated", way
    if leak == "tunnel":
        return "tunnel", cases.protocol[case]  # unwrapped on its way
    if words & _CLOSED and not words & {"syn-ack", "reply-open"}:
        return "closed", said
    return ("open", said) if words & _BOTH_WAYS else ("one-way", said)


def against(expect: str, result: str, words: set[str]) -> str:
    """Outcome of a result against the policy's expectation: pass, fail, blocked, return, unanswered or unknown."""
    if result in {"inconclusive", "accepted", "unheard"}:
        return "unknown"
    if expect == "deny":
        return "fail" if result in REACHED else "pass"
    if result in {"filtered", "rejected"}:
        return "blocked"
    if result in {"translated", "relay", "stray", "tunnel", "fragment", "quote"}:
        return "fail"
    if expect == "one-way":
        return "return" if words & (_BOTH_WAYS | _CLOSED) else "pass"
    if expect == "closed":
        return "fail" if result == "open" else "pass"
    return "unanswered" if result == "one-way" else "pass"
