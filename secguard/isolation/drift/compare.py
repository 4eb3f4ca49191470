"""Two scans compared: what leaks now and did not, what no longer does, and what can no longer be said.

Worse is a failure, same or better passes. Where a case had an answer before and has none now, or is no longer probed,
nothing can be compared: inconclusive.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from secguard.core import Axis, FormatError, Outcome, Verdict, judge
from secguard.core.findings import finding
from secguard.core.verdict import Finding
from secguard.isolation.drift.leaks import Case, Leak, Row, cases_of, leaks_of, words_of
from secguard.isolation.drift.swept import compare_sweeps
from secguard.isolation.judge.kinds import kind_words
from secguard.isolation.judge.result import ScanResult

__all__ = ["AXES", "Drift", "compare"]

AXES = (Axis.CONFORMANCE, Axis.COVERAGE)
_SHOWN = 12
# How far something gets, from nothing to everything; only a step up is worse.
_REACH = {
    "filtered": 0, "rejected": 0, "closed": 1, "one-way": 2, "stray": 2, "fragment": 3, "translated": 3, "tunnel": 3,
    "open": 4, "relay": 5,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drift:
    """A comparison.

    Attributes:
        verdict: fail when something became worse, unknown when something cannot be compared, else pass.
        new: IDs of leaks that were not there before.
        closed: of those that are no longer there, and were looked for.
        same: of those that are in both.
        compared: cases and probes of sweeps that have an answer in both.
    """

    verdict: Verdict
    new: list[str]
    closed: list[str]
    same: list[str]
    compared: int


def compare(old: ScanResult, new: ScanResult, at: datetime) -> Drift:
    """Compare a scan with an earlier one.

    Args:
        old: the baseline.
        new: the scan in question.
        at: time of the verdict, aware.

    Raises:
        FormatError: a result whose parts do not fit together.
    """
    try:
        return _compare(old, new, at)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError("isolation.result.format", f"not a result: {str(error)[:120]}") from error


def _compare(old: ScanResult, new: ScanResult, at: datetime) -> Drift:
    before, now = cases_of(old), cases_of(new)
    had, has = leaks_of(old), leaks_of(new)
    sure = [case for case in before if case in now and "unknown" not in (before[case].outcome, now[case].outcome)]
    found: list[Finding] = []
    fresh = []
    for name, leak in has.items():
        if name in had:
            found += _grown(had[name], leak)
        elif started := _started(leak, before):
            found += started
            fresh.append(name)
    whole = {(cell.src, cell.dst) for cell in new.matrix if not cell.unknown}
    closed = []
    for name, leak in had.items():
        if name in has:
            continue
        ended = _ended(leak, now, whole)
        found += ended
        closed += [name] if ended[0].code in {"isolation.drift.closed", "isolation.drift.allowed"} else []
    found += _steps(sure, before, now)
    found += _coverage(before, now)
    swept, probes = compare_sweeps(old, new)
    found += swept
    if old.policy != new.policy:
        found.append(finding("isolation.drift.policy", old=old.policy[:16], new=new.policy[:16]))
    examined = set(AXES)
    if not sure and not probes:
        found.append(finding("isolation.drift.incomparable"))
        examined.clear()
    order = {Outcome.FAIL: 0, Outcome.UNKNOWN: 1, Outcome.PASS: 2}
    found.sort(key=lambda item: order[item.outcome])
    subject = f"scan {new.run[:8]} against {old.run[:8]}"
    verdict = judge(subject, at, examined=examined, findings=found, default=AXES)
    return Drift(verdict, fresh, closed, [n for n in has if n in had], len(sure) + probes)


def _say(code: str, leak: Leak, probes: Iterable[str], outcome: Outcome | None = None) -> Finding:
    words = list(probes)
    more = f" (+{len(words) - _SHOWN})" if len(words) > _SHOWN else ""
    kind = kind_words(leak.kind)
    place = f"{leak.src} -> {leak.dst}" if leak.src else leak.dst
    return finding(
        f"isolation.drift.{code}",
        place,
        outcome=outcome,
        id=leak.id,
        src=leak.src,
        dst=leak.dst,
        kind=leak.kind,
        what={
            "en": f"{kind.en}{f' ({leak.detail})' if leak.detail else ''}",
            "zh": f"{kind.zh}{f'（{leak.detail}）' if leak.detail else ''}",
        },
        place=place,
        probes=", ".join(words[:_SHOWN]) + more or "-",
    )


def _grown(old: Leak, new: Leak) -> list[Finding]:
    """The same leak, with more or fewer ports."""
    more = [word for word in new.probes if word not in old.probes]
    fewer = [word for word in old.probes if word not in new.probes]
    if not (old.cases and new.cases):
        return []
    return [_say("wider", new, more)] * bool(more) + [_say("narrower", new, fewer)] * bool(fewer)


def _started(leak: Leak, before: dict[Case, Row]) -> list[Finding]:
    """A leak that was not there: new by the cases that did not fail before; the others only failed otherwise."""
    cases = {case for case in leak.cases if case not in before or before[case].outcome != "fail"}
    return [_say("new", leak, words_of(cases) or leak.probes)] if cases or not leak.cases else []


def _ended(leak: Leak, now: dict[Case, Row], whole: set[tuple[str, str]]) -> list[Finding]:
    """A leak that is no longer found: closed, allowed by now, or not looked at."""
    rows = [now[case] for case in leak.cases if case in now]
    if leak.cases and (len(rows) < len(leak.cases) or any(row.outcome == "unknown" for row in rows)):
        return [_say("unsure", leak, leak.probes)]
    if not leak.cases and leak.src and (leak.src, leak.dst) not in whole:
        return [_say("unsure", leak, leak.probes)]
    if any(row.outcome == "fail" for row in rows):
        return [_say("turned", leak, leak.probes)]
    if rows and all(row.expect != "deny" for row in rows) and leak.kind.startswith("leak."):
        return [_say("allowed", leak, leak.probes)]
    return [_say("closed", leak, leak.probes)]


def _steps(sure: list[Case], before: dict[Case, Row], now: dict[Case, Row]) -> list[Finding]:
    """Cases that fail in both scans, each in another way."""
    groups: dict[tuple[str, str, str, str, bool], list[Case]] = defaultdict(list)
    for case in sure:
        old, new = before[case], now[case]
        if old.outcome == new.outcome == "fail" and old.result != new.result:
            worse = _REACH.get(new.result, 0) > _REACH.get(old.result, 0)
            groups[(case[0], case[1], old.result, new.result, worse)].append(case)
    found = []
    for (src, dst, was, result, worse), cases in groups.items():
        words = sorted({f"{case[4].upper()} {case[5]}".strip() for case in cases})
        found.append(
            finding(
                "isolation.drift.changed",
                f"{src} -> {dst}",
                outcome=Outcome.FAIL if worse else Outcome.PASS,
                src=src,
                dst=dst,
                was=was,
                now=result,
                probes=", ".join(words[:_SHOWN]) + (f" (+{len(words) - _SHOWN})" if len(words) > _SHOWN else ""),
            )
        )
    return found


def _coverage(before: dict[Case, Row], now: dict[Case, Row]) -> list[Finding]:
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    for case, row in before.items():
        if row.outcome == "unknown":
            continue
        if case not in now:
            counts["untested", case[0], case[1]] += 1
        elif now[case].outcome == "unknown":
            counts["lost", case[0], case[1]] += 1
    for case in now:
        if case not in before:
            counts["added", case[0], case[1]] += 1
    return [
        finding(f"isolation.drift.{code}", f"{src} -> {dst}", src=src, dst=dst, cases=count)
        for (code, src, dst), count in counts.items()
    ]
