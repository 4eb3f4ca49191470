"""From outcomes to findings: one a pair of zones and kind, under its catalogue code, naming its cases."""

from collections import defaultdict

from secguard.core import Finding, finding
from secguard.isolation.judge.cases import REACHED, CaseResults
from secguard.isolation.judge.evidence import Evidence
from secguard.isolation.plan.plan import Plan
from secguard.isolation.probes.profiles import probe, transport

__all__ = ["findings", "pair_of", "strangers"]

_SHOWN = 12
_EVERYTHING = 10  # denied cases that say "everything"
_PLAIN = frozenset({"open", "closed", "one-way", "tunnel", "fragment"})
_DETAILED = frozenset(
    f"isolation.leak.{word}" for word in ("tunnel", "stray", "translated", "published", "relay", "quote")
)
_THROUGHOUT = 0.9  # a lossy line may swallow a case or two


def _label(plan: Plan, case: int) -> str:
    cases = plan.cases
    name = cases.protocol[case].upper()
    source = f"{cases.sport[case]}→" if cases.profile[case] == "source-port" or name.endswith("-TWIN") else ""
    port = f" {source}{cases.dport[case]}" if transport(cases.profile[case], cases.protocol[case]) else ""
    where = f" @{cases.target[case]}" if cases.target[case] else ""
    return f"{name}{port}{where}"


def pair_of(plan: Plan, case: int) -> tuple[str, str]:
    """Zones (source, destination) of a case."""
    return plan.agents[plan.cases.src[case]].zone, plan.agents[plan.cases.dst[case]].zone


class _Explained:
    """What explains an arrival better than the shape of its probe does."""

    def __init__(self, plan: Plan, results: CaseResults) -> None:
        self._plan = plan
        cases = plan.cases
        self._open: dict[tuple[object, ...], tuple[str, str]] = {}
        self._cold: set[tuple[object, ...]] = set()
        self._flagged: set[tuple[object, ...]] = set()
        self._returned: set[tuple[object, ...]] = set()
        for case, result in enumerate(results.result):
            if result not in REACHED or cases.expect[case] != "deny":
                continue
            if cases.profile[case] == "source-port":  # what comes back between the same two ports is an answer
                src, dst, family, target, carried, _ = self._port(case)
                self._returned.add((dst, src, family, target, carried, cases.sport[case]))
            if cases.profile[case] == "l4":
                self._open[self._port(case)] = result, results.detail[case]
            elif cases.profile[case] == "tcp-flags":
                self._flagged.add((*self._port(case)[:3], cases.protocol[case]))
            elif cases.protocol[case].endswith("-cold"):
                self._cold.add(self._port(case)[:-1])
        self._unfiltered = _unfiltered(plan, results)

    def _port(self, case: int) -> tuple[object, ...]:
        cases = self._plan.cases
        carried = transport(cases.profile[case], cases.protocol[case])
        return cases.src[case], cases.dst[case], cases.family[case], cases.target[case], carried, cases.dport[case]

    def throughout(self, case: int) -> str:
        """`ipv6` or `unfiltered` where all that is denied passes; else empty."""
        cases = self._plan.cases
        if cases.expect[case] != "deny" or cases.profile[case] == "published":
            return ""
        return self._unfiltered.get((*pair_of(self._plan, case), cases.family[case]), "")

    def by_itself(self, case: int) -> tuple[str, str]:
        """Result and detail of a plain probe to the same port: there the special one has shown nothing of its own."""
        twin = self._plan.cases.protocol[case].endswith("-twin")
        if twin and self._port(case) in self._returned:
            return "pinhole", ""
        if self._plan.cases.profile[case] == "pinhole" and not twin:
            return "one-way" if self._port(case)[:-1] in self._cold else "", ""
        if (*self._port(case)[:3], self._plan.cases.protocol[case]) in self._flagged:
            return ("" if self._plan.cases.profile[case] == "tcp-flags" else "tcp-flags"), ""
        return self._open.get(self._port(case), ("", ""))


def _unfiltered(plan: Plan, results: CaseResults) -> dict[tuple[str, str, int], str]:
    """Pairs and families where what is denied passes throughout: no rules at all, or rules that forgot IPv6."""
    counts: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for case, expect in enumerate(plan.cases.expect):
        # What a published address leads to is a matter of its own, filter or no filter.
        if expect == "deny" and results.outcome[case] != "unknown" and plan.cases.profile[case] != "published":
            entry = counts[(*pair_of(plan, case), plan.cases.family[case])]
            entry[0] += 1
            entry[1] += results.result[case] in REACHED
    found: dict[tuple[str, str, int], str] = {}
    for (src, dst, family), (total, reached) in counts.items():
        others = counts.get((src, dst, 4), [0, 0])
        if total < 2 or reached < _THROUGHOUT * total:
            continue
        if family == 6 and others[1] * 2 < others[0]:
            found[src, dst, 6] = "ipv6"
        elif total >= _EVERYTHING:
            found[src, dst, family] = "unfiltered"
    return found


def _code(plan: Plan, case: int, result: str, outcome: str, explained: _Explained) -> str:
    """Catalogue code of a case that did not pass."""
    if outcome == "blocked":
        return "isolation.flow.blocked"
    if outcome == "unanswered":
        return "isolation.flow.unanswered"
    if outcome == "return":
        return "isolation.leak.return"
    if result in {"relay", "stray", "quote"}:
        return f"isolation.leak.{result}"
    row = probe(plan.cases.profile[case], plan.cases.protocol[case])
    leak = row.leak if row is not None else ""
    if word := explained.throughout(case):
        return f"isolation.leak.{word}"
    if result == "translated" and leak != "dns":
        return f"isolation.leak.{'published' if leak == 'published' else result}"
    if result == "tunnel":
        return "isolation.leak.tunnel"
    if not leak:
        return f"isolation.leak.{result if result in _PLAIN else 'one-way'}"
    # A special probe has nothing to add to how the plain one got to the same port.
    return f"isolation.leak.{explained.by_itself(case)[0] or leak}"


def _unknown_code(detail: str, result: str) -> str:
    if result == "accepted":
        return "isolation.case.accepted"
    if result == "unheard":
        return "isolation.coverage.one-sided"
    return "isolation.case.hint" if detail == "hint" else f"isolation.health.{detail.partition(':')[0]}"


def findings(
    plan: Plan, results: CaseResults, outcomes: list[str]
) -> tuple[list[Finding], dict[tuple[str, str], set[str]]]:
    """One finding a pair and kind, naming its cases; also fills in `results.kind`."""
    explained = _Explained(plan, results)
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
            plain, more = explained.by_itself(case)
            if results.result[case] == "accepted" and plain:
                code = f"isolation.leak.{plain}"
                extra = more if code in _DETAILED else ""
        else:
            code = _code(plan, case, results.result[case], outcome, explained)
            extra = detail if code in _DETAILED else ""
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
