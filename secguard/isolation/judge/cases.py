"""The result of a case from its evidence, and its outcome against what the policy expects."""

import msgspec

from secguard.isolation.judge.evidence import Evidence
from secguard.isolation.plan.tokens import phase_of

__all__ = ["REACHED", "CaseResults", "against", "result_of"]

_TUNNELS = frozenset({"gre", "ipip", "6in4", "4in6", "ip6ip6", "vxlan", "esp"})
_BOTH_WAYS = frozenset({"syn-ack", "reply-open", "echo"})
_CLOSED = frozenset({"rst", "port-unreachable", "reply-closed"})
_REFUSED = frozenset({"rst", "port-unreachable", "prohibited", "unreachable"})
REACHED = frozenset({"open", "closed", "one-way", "tunnel", "fragment", "translated", "relay", "stray"})
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


def against(expect: str, result: str, words: set[str]) -> str:
    """Outcome of a result against the policy's expectation: pass, fail, blocked, return, unanswered or unknown."""
    if result in {"inconclusive", "accepted"}:
        return "unknown"
    if expect == "deny":
        return "fail" if result in REACHED else "pass"
    if result in {"filtered", "rejected"}:
        return "blocked"
    if result in {"translated", "relay", "stray", "tunnel", "fragment"}:
        return "fail"
    if expect == "one-way":
        return "return" if words & (_BOTH_WAYS | _CLOSED) else "pass"
    if expect == "closed":
        return "fail" if result == "open" else "pass"
    return "unanswered" if result == "one-way" else "pass"
