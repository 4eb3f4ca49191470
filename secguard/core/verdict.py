"""The verdict: what was examined, what was found, and what follows, over eight axes.

`unknown` never reads as `pass`: an axis passes only when it was examined and nothing on it is wrong.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = ["Axis", "Finding", "Outcome", "Verdict", "judge"]


class Outcome(StrEnum):
    """What a finding, an axis or a whole verdict says."""

    PASS = "pass"  # noqa: S105 - an outcome, not a password
    FAIL = "fail"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """Exit code of a command that ends with this outcome: 0 pass, 1 fail, 3 unknown."""
        return {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.UNKNOWN: 3}[self]


class Axis(StrEnum):
    """A question that a verdict answers on its own."""

    INTEGRITY = "integrity"
    COMPLETENESS = "completeness"
    COVERAGE = "coverage"
    PRESENTATION = "presentation"
    PROVENANCE = "provenance"
    REVOCATION = "revocation"
    TIME = "time"
    CONFORMANCE = "conformance"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth saying; texts come from the catalogue by `code` (see `secguard.core.findings.finding`).

    Attributes:
        code: catalogue code, for example `video.gop.hash-mismatch`.
        axis: the question it answers.
        outcome: fail, unknown, or pass for a remark.
        where: place in the subject (`GOP 3, frame 71`), may be empty.
        data: values that the catalogue's texts name; JSON-serialisable.
    """

    code: str
    axis: Axis
    outcome: Outcome
    where: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A frozen answer about one subject at one time; built by `judge`.

    Attributes:
        subject: what was judged (file, ID, plan digest).
        at: the time it was judged for, aware UTC.
        axes: outcome per examined or required axis, in the order of `Axis`.
        findings: everything worth saying.
        required: the axes that decide `outcome`.
        narrowed: True when the caller narrowed `required` below the default.
    """

    subject: str
    at: datetime
    axes: Mapping[Axis, Outcome]
    findings: tuple[Finding, ...]
    required: frozenset[Axis]
    narrowed: bool = False

    @property
    def outcome(self) -> Outcome:
        """Any required fail -> fail; else any required axis not pass -> unknown; else pass."""
        outcomes = [self.axes.get(axis, Outcome.UNKNOWN) for axis in self.required]
        if Outcome.FAIL in outcomes:
            return Outcome.FAIL
        return Outcome.PASS if outcomes and all(o is Outcome.PASS for o in outcomes) else Outcome.UNKNOWN


def judge(
    subject: str,
    at: datetime,
    *,
    examined: Iterable[Axis],
    findings: Iterable[Finding] = (),
    default: Iterable[Axis],
    require: Iterable[Axis] = (),
) -> Verdict:
    """Combine findings into a verdict.

    Args:
        subject: what was judged.
        at: time of judgement, aware.
        examined: axes for which evidence was really looked at; only these can pass.
        findings: what was found; a finding also marks its axis fail or unknown.
        default: axes required for this kind of subject.
        require: the user's `--require`; replaces `default` when given.

    Returns:
        The frozen verdict.

    Raises:
        ValueError: if `at` is naive.
    """
    if at.tzinfo is None:
        raise ValueError("at must be an aware datetime")
    found = tuple(findings)
    seen = frozenset(examined)
    usual = frozenset(default)
    required = frozenset(require) or usual
    axes: dict[Axis, Outcome] = {}
    for axis in Axis:
        outcomes = {f.outcome for f in found if f.axis is axis}
        if Outcome.FAIL in outcomes:
            axes[axis] = Outcome.FAIL
        elif Outcome.UNKNOWN in outcomes:
            axes[axis] = Outcome.UNKNOWN
        elif axis in seen:
            axes[axis] = Outcome.PASS
        elif axis in required or axis in usual:
            axes[axis] = Outcome.UNKNOWN
    return Verdict(subject, at, axes, found, required, narrowed=bool(usual - required))
