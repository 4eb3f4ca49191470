"""From outcomes to findings: one a pair of zones and kind, under its catalogue code, naming its cases."""

from collections import defaultdict

from secguard.core import Finding, finding
from secguard.isolation.judge.cases import REACHED, CaseResults
from secguard.isolation.judge.evidence import Evidence
from secguard.isolation.plan.plan import Plan

__all__ = ["findings", "pair_of", "strangers"]

_SHOWN = 12
_THROUGHOUT = 0.9  # a lossy line may swallow a case or two


def _label(plan: Plan, case: int) -> str:
    cases = plan.cases
    name = cases.protocol[case].upper()
    if name not in {"TCP", "UDP"}:
        return name
    source = f"{cases.sport[case]}→" if cases.profile[case] == "source-port" else ""
    return f"{name} {source}{cases.dport[case]}"


def pair_of(plan: Plan, case: int) -> tuple[str, str]:
    """Zones (source, destination) of a case."""
    return plan.agents[plan.cases.src[case]].zone, plan.agents[plan.cases.dst[case]].zone


def _open_by_itself(plan: Plan, results: CaseResults) -> set[tuple[int, int, int, str, int]]:
    """Ports that are reached from any source port: there the source port explains nothing."""
    cases = plan.cases
    return {
        (cases.src[case], cases.dst[case], cases.family[case], cases.protocol[case], cases.dport[case])
        for case in range(len(cases))
        if cases.profile[case] == "l4" and results.result[case] in REACHED
    }


def _unfiltered_ipv6(plan: Plan, results: CaseResults) -> set[tuple[str, str]]:
    """Pairs where denied IPv6 passes throughout while IPv4 mostly does not: rules that forgot IPv6."""
    counts: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for case, expect in enumerate(plan.cases.expect):
        if expect == "deny" and results.outcome[case] != "unknown":
            entry = counts[(*pair_of(plan, case), plan.cases.family[case])]
            entry[0] += 1
            entry[1] += results.result[case] in REACHED
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
    if cases.family[case] == 6 and cases.expect[case] == "deny" and pair_of(plan, case) in ipv6:
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


def findings(
    plan: Plan, results: CaseResults, outcomes: list[str]
) -> tuple[list[Finding], dict[tuple[str, str], set[str]]]:
    """One finding a pair and kind, naming its cases; also fills in `results.kind`."""
    ipv6, by_itself = _unfiltered_ipv6(plan, results), _open_by_itself(plan, results)
    groups: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
    results.kind = [""] * len(outcomes)
    for case, outcome in enumerate(outcomes):
        if outcome == "pass":
            continue
        pair, detail = pair_of(plan, case), results.detail[case]
        if outcome == "unknown":
            code = _unknown_code(detail, results.result[case])
            extra = detail.partition(":")[2]
        else:
            code = _code(plan, case, results.result[case], outcome, ipv6=ipv6, by_itself=by_itself)
            extra = (
                detail if code in {"isolation.leak.tunnel", "isolation.leak.stray", "isolation.leak.translated"} else ""
            )
        groups[(*pair, code, extra)].append(case)
        results.kind[case] = code.removeprefix("isolation.")
        kinds[pair].add(results.kind[case])
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


def strangers(plan: Plan, evidence: Evidence) -> list[Finding]:
    """Findings about forged, foreign and repeated tokens."""
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
