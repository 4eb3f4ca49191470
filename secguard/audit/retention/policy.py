"""`policies/retention.yaml`: for how many days events are kept, by kind."""

import hashlib
import re
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from secguard.core.errors import FormatError, UsageError
from secguard.core.limits import read_bounded

__all__ = ["ALWAYS_KEPT", "MINIMUM_DAYS", "RetentionPolicy", "load_policy"]

MINIMUM_DAYS = 184
"""The longest six calendar months: fewer days than the Cybersecurity Law asks for are said, not refused."""
ALWAYS_KEPT = frozenset({"audit.pruned", "audit.held", "audit.released"})
"""Kinds that are never deleted: they explain what is missing."""

_Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
_Pattern = Annotated[str, msgspec.Meta(pattern=r"^[a-z*][a-z.*-]{0,63}$")]


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: _Pattern
    days: _Days


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    retention: Literal[1]
    days: _Days = 190
    begin: Literal["recorded", "stated"] = msgspec.field(name="from", default="recorded")
    kinds: Annotated[tuple[_Rule, ...], msgspec.Meta(max_length=200)] = ()
    keep: Annotated[tuple[_Pattern, ...], msgspec.Meta(max_length=200)] = ()


class RetentionPolicy(msgspec.Struct, frozen=True):
    """For how many days events are kept.

    Attributes:
        days: those that no rule names.
        rules: pattern of kinds and days; the first that matches counts.
        keep: patterns of kinds that are never deleted.
        digest: SHA-256 of the file, hex.
        stated: time counts from what the event says, even if it was recorded later.
    """

    days: int
    rules: tuple[tuple[str, int], ...]
    keep: tuple[str, ...]
    digest: str
    stated: bool = False

    def days_of(self, kind: str) -> int | None:
        """Days for which events of a kind are kept; None: for ever."""
        if kind in ALWAYS_KEPT or any(fnmatchcase(kind, pattern) for pattern in self.keep):
            return None
        return next((days for pattern, days in self.rules if fnmatchcase(kind, pattern)), self.days)

    def cutoff(self, kind: str, now: datetime) -> datetime | None:
        """Events of a kind before this time have expired; None: they never do."""
        days = self.days_of(kind)
        return None if days is None else now - timedelta(days=days)

    @property
    def short(self) -> int | None:
        """The fewest days of any rule, if they are fewer than six months have; else None."""
        least = min((self.days, *(days for _, days in self.rules)))
        return least if least < MINIMUM_DAYS else None


def load_policy(path: Path) -> RetentionPolicy:
    """Read the policy.

    Raises:
        UsageError: there is none.
        FormatError: an unknown key, or a value that cannot be; `where` is `file:line`.
        SystemPartError: it cannot be read.
    """
    from secguard.core.yamltree import MAX_BYTES, load

    if not path.exists():
        raise UsageError(
            "audit.retention.missing",
            "there is no retention policy",
            hint="secguard init --add-missing DIR puts the one that is shipped into a workspace",
            where=str(path),
        )
    data = read_bounded(path, MAX_BYTES)
    tree = load(data, str(path), "audit.retention")
    try:
        file = msgspec.convert(tree.value, _File)
    except msgspec.ValidationError as error:
        text = str(error)
        place = re.findall(r"\w+", text.partition("`$.")[2])
        where = f"{path}:{tree.line(*[int(part) if part.isdigit() else part for part in place])}"
        raise FormatError(
            "audit.retention.value", text[:300], hint="docs/retention.md shows a whole policy", where=where
        ) from None
    rules = tuple((rule.kind, rule.days) for rule in file.kinds)
    return RetentionPolicy(file.days, rules, file.keep, hashlib.sha256(data).hexdigest(), file.begin == "stated")
