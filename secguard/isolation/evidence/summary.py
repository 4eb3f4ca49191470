"""A kept scan in a few words, without judging it again."""

from datetime import datetime
from pathlib import Path

import msgspec

from secguard.core import SecguardError
from secguard.core.limits import read_bounded
from secguard.isolation.evidence.handout import signer_of
from secguard.isolation.judge.result import ScanResult, open_result

__all__ = ["Summary", "read_result", "summary_of"]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A scan: its folder's name, when it was judged and with which outcome, its cases, the policy's SHA-256."""

    name: str
    at: datetime | None = None
    outcome: str = "unreadable"
    cases: int = 0
    failed: int = 0
    unknown: int = 0
    policy: str = ""
    plan: str = ""


def read_result(folder: Path) -> ScanResult:
    """The signed result of a run's folder, or of a `result.json` beside its `signer.pem`.

    Raises:
        UsageError: there is none.
        FormatError: it is no result.
        RefusedError: it is not signed by the key beside it.
    """
    place = folder.parent if folder.is_file() else folder
    path = folder if folder.is_file() else folder / "result.json"
    return open_result(read_bounded(path), [signer_of(place)])


def summary_of(folder: Path) -> Summary:
    """What a folder says; an unreadable one says so."""
    try:
        result = read_result(folder)
    except SecguardError:
        return Summary(name=folder.name)
    return Summary(
        name=folder.name,
        at=result.at,
        outcome=result.outcome,
        cases=sum(cell.cases for cell in result.matrix),
        failed=sum(cell.failed for cell in result.matrix),
        unknown=sum(cell.unknown for cell in result.matrix),
        policy=result.policy,
        plan=result.plan,
    )
