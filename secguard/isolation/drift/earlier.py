"""Which earlier scan a scan is to be compared with: the latest by the same policy, else by another version of it."""

from collections.abc import Iterable
from pathlib import Path

from secguard.core import SecguardError
from secguard.isolation.evidence.summary import read_result
from secguard.isolation.judge.result import ScanResult

__all__ = ["ANOTHER_VERSION", "SAME_POLICY", "akin", "earlier_of"]

SAME_POLICY = "same-policy"
ANOTHER_VERSION = "same-zones"


def akin(one: ScanResult, other: ScanResult) -> bool:
    """Whether two scans are by one policy, though it may have been edited between them: they name the same zones."""
    return one.policy == other.policy or _zones(one) == _zones(other)


def _zones(result: ScanResult) -> set[str]:
    pairs = [(cell.src, cell.dst) for cell in result.matrix] + [(src, dst) for src, dst, _ in result.uncovered]
    return {zone for pair in pairs for zone in pair}


def earlier_of(result: ScanResult, folders: Iterable[Path]) -> tuple[Path, str] | None:
    """The first of some kept scans that a scan can be compared with, and why that one.

    Args:
        result: the scan in question.
        folders: other scans, the preferred one first; damaged ones are passed over.

    Returns:
        The first one by the very same policy (`SAME_POLICY`), else the first one between the same zones
        (`ANOTHER_VERSION`); None if there is neither.
    """
    version = None
    for folder in folders:
        try:
            found = read_result(folder)
        except SecguardError:
            continue
        if found.policy == result.policy:
            return folder, SAME_POLICY
        if version is None and akin(found, result):
            version = folder
    return (version, ANOTHER_VERSION) if version else None
