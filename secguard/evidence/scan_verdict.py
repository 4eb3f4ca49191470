"""What an isolation scan of a bundle shows once it can be relied on: zones apart, not apart, or not known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from secguard.core import Finding, Outcome, finding, rfc3339
from secguard.events import Event
from secguard.evidence.manifest import InForce, ListedScan
from secguard.isolation.judge.kinds import kind_words
from secguard.isolation.judge.result import ScanHead, recorded_codes
from secguard.isolation.schedule.book import is_overdue, parse_every

__all__ = ["OUTCOMES", "ROLES", "WHEN", "JudgedScan", "conclude", "roles_of"]

ROLES: tuple[InForce, ...] = ("recording", "export")
WHEN: Mapping[tuple[InForce, ...], dict[str, str]] = {
    ("recording",): {"en": "the recording ended", "zh": "录像结束"},
    ("export",): {"en": "the export", "zh": "导出"},
    ("recording", "export"): {"en": "the recording ended, and before the export", "zh": "录像结束及导出"},
}
"""Before what a scan was the last one, in words."""
_AXES = ("conformance", "coverage", "integrity")
"""What a scan must have judged, and passed, to show that zones were apart."""
_MAX_KINDS = 12
_UNCERTIFIED = {"en": "a key without certificate", "zh": "无证书的密钥"}
OUTCOMES = {
    "pass": {"en": "pass", "zh": "通过"},
    "fail": {"en": "fail", "zh": "不通过"},
    "unknown": {"en": "inconclusive", "zh": "无法判定"},
}
"""A scan's verdict in words."""


@dataclass(frozen=True, slots=True)
class JudgedScan:
    """What a bundle proves of a scan.

    Attributes:
        listed: what the operator lists.
        outcome: pass: the zones were apart; fail: the scan found violations; unknown: neither is shown.
        result: the signed result; None if it is not in the bundle, or cannot be relied on.
        kinds: codes of what did not pass.
        signer: who the certificates of the key that signed say it is; empty where the log alone vouches for it.
    """

    listed: ListedScan
    outcome: Outcome
    result: ScanHead | None = None
    kinds: tuple[str, ...] = ()
    signer: str = ""


def roles_of(scan: ListedScan) -> tuple[InForce, ...]:
    """Where a scan was in force, in the order of time."""
    return tuple(name for name in ROLES if name in scan.in_force)


def conclude(
    scan: ListedScan,
    began: Event,
    over: Event,
    result: ScanHead | None,
    *,
    times: Mapping[InForce, datetime],
    every: str,
    signer: str,
) -> tuple[JudgedScan, list[Finding]]:
    """Say what a scan shows, in at least one finding on conformance.

    Args:
        scan: as the operator lists it.
        began: its start, as the log recorded it.
        over: its end.
        result: its signed result, which agrees with them; None if it is not in the bundle.
        times: when the recording ended, and when it was exported.
        every: how often the site scans; empty where that is not known.
        signer: who signed the result, by certificate; empty if none says so.
    """
    outcome, kinds = _shown(over, result)
    roles, first = roles_of(scan), began.time
    if result is not None and result.not_before is not None:
        first = min(first, result.not_before)  # a scan by the clock may be brought home late
    known: dict[str, Any] = {"when": WHEN[roles], "time": scan.recorded}
    late = [name for name in roles if every and is_overdue(first, parse_every(every), times[name])]
    if outcome is Outcome.FAIL:
        found = [finding("evidence.scan.leaks", **known, **_counted(kinds, result))]
    elif result is None:
        found = [finding("evidence.scan.unkept", **known, said=OUTCOMES[scan.outcome])]
    elif outcome is Outcome.UNKNOWN:
        found = [finding("evidence.scan.inconclusive", **known, **_counted(kinds, result))]
    elif late:
        found, outcome = [], Outcome.UNKNOWN
    else:
        by = {"en": f"operator {signer}", "zh": f"操作员 {signer} "} if signer else _UNCERTIFIED
        found = [finding("evidence.scan.apart", **known, **_size(result), by=by)]
    found += [finding("evidence.scan.stale", when=WHEN[name,], began=rfc3339(first), every=every) for name in late]
    return JudgedScan(scan, outcome, result, kinds, signer), found


def _shown(over: Event, result: ScanHead | None) -> tuple[Outcome, tuple[str, ...]]:
    """What a scan shows, and the codes behind it; the log's word counts where the result is not there."""
    recorded = over.data.get("findings")
    codes = tuple(map(str, recorded)) if isinstance(recorded, list) else ()
    if result is None:
        return Outcome.FAIL if over.data.get("outcome") == "fail" else Outcome.UNKNOWN, codes
    wrong = tuple(recorded_codes([(item.code, item.outcome) for item in result.findings if item.outcome == "fail"]))
    if result.outcome == "fail" or wrong or "fail" in result.axes.values() or any(c.failed for c in result.matrix):
        return Outcome.FAIL, wrong
    whole = result.outcome == "pass" and all(result.axes.get(axis) == "pass" for axis in _AXES)
    return (Outcome.PASS, ()) if whole and result.matrix else (Outcome.UNKNOWN, codes)


def _counted(kinds: Sequence[str], result: ScanHead | None) -> dict[str, Any]:
    """How many findings of these kinds there are (one a pair of zones), and the kinds in words."""
    words = [kind_words(code.removeprefix("isolation.")[:60]) for code in kinds[:_MAX_KINDS]]
    more = f" (+{len(kinds) - _MAX_KINDS})" if len(kinds) > _MAX_KINDS else ""
    en, zh = ", ".join(word.en for word in words), "、".join(word.zh for word in words)
    found = kinds if result is None else [item for item in result.findings if item.code in kinds]
    return {"count": len(found), "kinds": {"en": en + more or "-", "zh": zh + more or "-"}}


def _size(result: ScanHead) -> dict[str, Any]:
    zones = {name for cell in result.matrix for name in (cell.src, cell.dst)}
    return {"zones": len(zones), "cases": sum(cell.cases for cell in result.matrix)}
