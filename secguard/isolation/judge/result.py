"""The signed result: what a run concluded, without its secret; safe to hand out and to keep in the ledger's blobs.

Reading one takes no judge; `secguard.isolation.judge.sealing` writes it.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import FormatError, RefusedError
from secguard.keys import unseal

__all__ = [
    "RESULT_TYPE",
    "Cell",
    "FindingHead",
    "SavedFinding",
    "ScanHead",
    "ScanResult",
    "open_head",
    "open_result",
    "recorded_codes",
]

_T = TypeVar("_T", bound="_Concluded")
_MAX_CODES = 50
RESULT_TYPE = "application/vnd.secguard.isolation.result+json"


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


class FindingHead(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of finding a result holds."""

    code: str
    outcome: str


class SavedFinding(FindingHead, frozen=True, kw_only=True):
    """A finding of a result."""

    axis: str
    where: str
    data: dict[str, Any]


class _Concluded(msgspec.Struct, frozen=True, kw_only=True):
    """What a signed result says as a whole; keys that a later version adds are passed over.

    Attributes:
        run: run ID.
        plan: SHA-256 of the plan's payload.
        policy: SHA-256 of the policy file.
        at: when it was judged.
        outcome: pass, fail or unknown.
        axes: outcome an axis; `outcome` speaks of conformance, coverage and integrity, or of fewer if it was narrowed.
        not_before, not_after: the plan's window, outside of which no agent probes; None in older results.
        matrix: ordered pairs of zones.
    """

    run: str
    plan: str
    policy: str
    at: datetime
    outcome: Literal["pass", "fail", "unknown"]
    axes: dict[str, Literal["pass", "fail", "unknown"]] = {}
    not_before: datetime | None = None
    not_after: datetime | None = None
    matrix: list[Cell] = []


class ScanHead(_Concluded, frozen=True, kw_only=True):
    """A signed result without its cases and sweeps; of its findings, their kinds."""

    findings: list[FindingHead] = []


class ScanResult(_Concluded, frozen=True, kw_only=True):
    """A signed result, read again.

    Attributes:
        findings: what was found.
        cases: cases and results as columns (`secguard.isolation.judge.sealing.case_columns`).
        uncovered: (source zone, destination zone, family) that was not probed.
        sweeps: what each sweep was, its probes by result, and in `results` a byte a probe, a position in
            `secguard.isolation.sweep.judging.WORDS`, deflated, base64.
    """

    findings: list[SavedFinding] = []
    cases: dict[str, list[Any]] = {}
    uncovered: list[tuple[str, str, int]] = []
    sweeps: list[dict[str, Any]] = []


def open_result(data: bytes, keys: Iterable[PublicKeyTypes]) -> ScanResult:
    """Check a signed result.

    Raises:
        FormatError: not a result.
        RefusedError: not signed by one of `keys`.
    """
    result = _open(data, keys, ScanResult)
    if len({len(column) for column in result.cases.values()}) > 1:
        raise FormatError("isolation.result.format", "not a result: columns of different length")
    return result


def open_head(data: bytes, keys: Iterable[PublicKeyTypes]) -> ScanHead:
    """Check a signed result for what it says as a whole, in little memory.

    Raises:
        FormatError: not a result.
        RefusedError: not signed by one of `keys`.
    """
    return _open(data, keys, ScanHead)


def recorded_codes(found: Iterable[tuple[str, str]]) -> list[str]:
    """Of (code, outcome) the codes of what did not pass, as `scan.finished` records them."""
    return sorted({code for code, outcome in found if outcome != "pass"})[:_MAX_CODES]


def _open(data: bytes, keys: Iterable[PublicKeyTypes], kind: type[_T]) -> _T:
    payload, key = unseal(data, RESULT_TYPE, keys)
    if key is None:
        raise RefusedError("isolation.result.signature", "the result is not signed by a trusted key")
    try:
        result = msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("isolation.result.format", f"not a result: {str(error)[:160]}") from None
    for time in (result.at, result.not_before, result.not_after):
        if time is not None and (time.tzinfo is None or not 1 < time.year < 9999):
            raise FormatError("isolation.result.format", "not a result: a time without offset, or of no real year")
    return result
