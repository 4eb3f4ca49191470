"""Sweeps of two scans compared: probe by probe where both took all hosts, by their numbers where they sampled."""

from base64 import b64decode
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secguard.core import Outcome
from secguard.core.findings import finding
from secguard.core.verdict import Finding
from secguard.isolation.judge.result import ScanResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["compare_sweeps"]

_KEY = ("src", "dst", "target", "family", "protocol", "ports")
_PART = (*_KEY, "covered")
"""A target is swept in two parts: what a sensor covers, and what none does."""
_THROUGH = ("open", "closed", "one-way", "translated", "stray", "answered")
_UNKNOWN = ("inconclusive", "accepted", "unheard")


def compare_sweeps(old: ScanResult, new: ScanResult) -> tuple[list[Finding], int]:
    """What sweeps of the same hosts and ports found more or less of; and how many probes were compared."""
    before, now = ({tuple(item[name] for name in _PART): item for item in scan.sweeps} for scan in (old, new))
    whole = _whole(old) & _whole(new)
    found: list[Finding] = []
    compared = 0
    for key, item in now.items():
        if key not in before:
            found.append(_say("swept-added", item, key))
            continue
        more, fewer, lost, probes = _changes(before[key], item, whole=key[:-1] in whole)
        compared += probes
        if more:
            # Each run draws other hosts: more hits than before may be chance, the first ones are not.
            drawn = key[:-1] not in whole and _through(before[key])
            found.append(_say("swept", item, key, Outcome.PASS if drawn else Outcome.FAIL, count=more))
        if fewer:
            found.append(_say("swept-fewer", item, key, count=fewer))
        if lost:
            found.append(_say("swept-lost", item, key, count=lost))
    found += [_say("swept-gone", item, key) for key, item in before.items() if key not in now]
    return found, compared


def _say(
    code: str, item: Mapping[str, Any], key: Sequence[Any], outcome: Outcome | None = None, count: int = 0
) -> Finding:
    src, dst, target, family, protocol, ports, _ = key
    what = f"{target} {str(protocol).upper()} {ports}".strip()
    return finding(
        f"isolation.drift.{code}", f"{src} -> {dst}", outcome=outcome, src=src, dst=dst, target=what, family=family,
        count=count or item["probed"],
    )  # fmt: skip


def _through(item: Mapping[str, Any]) -> int:
    return sum(item["counts"].get(word, 0) for word in _THROUGH)


def _whole(scan: ScanResult) -> set[tuple[Any, ...]]:
    """Targets of which all hosts were probed, but for network and broadcast addresses."""
    probed: Counter[tuple[Any, ...]] = Counter()
    named = {}
    for item in scan.sweeps:
        key = tuple(item[name] for name in _KEY)
        probed[key] += item["probed"]
        named[key] = item["named"]
    return {key for key, count in probed.items() if count + 2 >= named[key]}


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], *, whole: bool) -> tuple[int, int, int, int]:
    """Probes that get through now and did not, the reverse, those without an answer now, and how many were compared."""
    from secguard.isolation.sweep.judging import WORDS

    codes = [_codes(item) for item in (old, new)]
    if whole and codes[0] is not None and codes[1] is not None and len(codes[0]) == len(codes[1]):
        import numpy as np

        through = [np.isin(found, [WORDS.index(word) for word in _THROUGH]) for found in codes if found is not None]
        unknown = [np.isin(found, [WORDS.index(word) for word in _UNKNOWN]) for found in codes if found is not None]
        return (
            int((through[1] & ~through[0]).sum()),
            int((through[0] & ~through[1] & ~unknown[1]).sum()),
            int((unknown[1] & ~unknown[0]).sum()),
            int((~unknown[0] & ~unknown[1]).sum()),
        )
    counts = [item["counts"] for item in (old, new)]
    through_ = [_through(item) for item in (old, new)]
    lost = [sum(found.get(word, 0) for word in _UNKNOWN) for found in counts]
    total = [sum(found.values()) for found in counts]
    return (
        max(0, through_[1] - through_[0]),
        max(0, through_[0] - through_[1]) if not lost[1] else 0,
        max(0, lost[1] - lost[0]),
        min(total) - max(lost),
    )


def _codes(item: Mapping[str, Any]) -> "NDArray[np.uint8] | None":
    from secguard.isolation.sweep.seen import unpack

    try:
        return unpack(b64decode(item["results"], validate=True), sum(item["counts"].values()), "u1")
    except (KeyError, TypeError, ValueError):
        return None
