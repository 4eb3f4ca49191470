"""Counting instead of listing: by the values of a field, or by hour, day or month; and what that means.

An index answers with as few groups as it can (a month is counted by its days), and `groups_of` puts them in order, so
that all indices give the same answer.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, timedelta, tzinfo
from typing import Literal, get_args

from secguard.audit.index.rows import Row
from secguard.audit.query.parser import field_name
from secguard.audit.query.query import KEYWORDS, Node, matches
from secguard.core import UsageError

__all__ = [
    "COUNTED",
    "MAX_GROUPS",
    "UNITS",
    "ByField",
    "ByTime",
    "Grouping",
    "Unit",
    "by_time",
    "check_groups",
    "filled",
    "groups_of",
    "groups_that_mean",
    "parse_field",
]

Unit = Literal["hour", "day", "month"]
UNITS: tuple[Unit, ...] = get_args(Unit)
"""Buckets of a histogram."""
COUNTED = tuple(field for field in KEYWORDS if field != "id")
"""Fields whose values can be counted; every event has an ID of its own."""
MAX_GROUPS = 100_000
"""Groups of one answer."""
_MAX_FILLED = 2000
_SECOND = 1_000_000
_MINUTE, _HOUR, _DAY = 60 * _SECOND, 3600 * _SECOND, 86_400 * _SECOND
_STEPS = {"hour": _HOUR, "day": _DAY, "month": _DAY}


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of the proleptic Gregorian calendar, `days` after 1970-01-01; also of the year 0."""
    era, day_of_era = divmod(days + 719_468, 146_097)  # from 0000-03-01, in spans of 400 years
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153  # from March
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return year + era * 400 + (month <= 2), month, day


@dataclass(frozen=True, slots=True)
class ByField:
    """One group for each value of a keyword field; the empty text where an event says nothing."""

    field: str


@dataclass(frozen=True, slots=True)
class ByTime:
    """One group for each hour, day or month of the claimed time, named by its first microsecond since 1970 UTC.

    Attributes:
        unit: what a group spans.
        shift: microseconds that local time is ahead of UTC; a day begins at local midnight.
    """

    unit: Unit
    shift: int = 0

    @property
    def step(self) -> int:
        """Microseconds of what an index counts by: hours or days."""
        return _STEPS[self.unit]

    def start(self, time: int) -> int:
        """The first microsecond of the group that a time belongs to."""
        local = time + self.shift
        day = local - local % self.step
        if self.unit == "month":
            day -= (_civil(day // _DAY)[2] - 1) * _DAY
        return day - self.shift

    def name(self, start: int) -> str:
        """A group as people write it: `2026-10`, `2026-10-01`, `2026-10-01T08:00`, in local time."""
        days, rest = divmod(start + self.shift, _DAY)
        year, month, day = _civil(days)
        text = f"{year:04d}-{month:02d}"
        if self.unit != "month":
            text += f"-{day:02d}"
        return text if self.unit != "hour" else f"{text}T{rest // _HOUR:02d}:{rest % _HOUR // _MINUTE:02d}"

    def after(self, start: int) -> int:
        """The first microsecond of the group that follows the one that begins at `start`."""
        if self.unit != "month":
            return start + self.step
        return self.start(start + 31 * self.step)  # some day of the next month, whatever its length


Grouping = ByField | ByTime


def parse_field(name: str) -> ByField:
    """What `--count-by NAME` asks for; the names are those of queries.

    Raises:
        UsageError: `audit.query.count`: there is no such field, or its values are not counted.
    """
    field = field_name(name)
    if field not in COUNTED:
        raise UsageError(
            "audit.query.count", f"cannot count by {name[:40]!r}", hint=f"fields: {', '.join(COUNTED)}", where=name[:40]
        )
    return ByField(field)


def by_time(unit: Unit, zone: tzinfo = UTC) -> ByTime:
    """Groups of a unit in a zone that is always as far from UTC."""
    shift = zone.utcoffset(None) or timedelta()
    return ByTime(unit, (shift.days * 86_400 + shift.seconds) * _SECOND)


def check_groups(count: int) -> None:
    """Refuse an answer of too many groups.

    Raises:
        UsageError: `audit.query.groups`.
    """
    if count > MAX_GROUPS:
        raise UsageError(
            "audit.query.groups",
            f"more than {MAX_GROUPS} different values",
            hint="narrow the query, or count by another field",
        )


def groups_of(counts: Iterable[tuple[str | int, int]], by: Grouping) -> list[tuple[str | int, int]]:
    """Groups in their order: by number and then value of a field, or by time.

    Args:
        counts: as an index has them, a month by its days.
        by: what was asked for.
    """
    if isinstance(by, ByField):
        return sorted(counts, key=lambda item: (-item[1], item[0]))
    found: Counter[int] = Counter()
    for start, count in counts:
        assert isinstance(start, int)
        found[by.start(start)] += count
    return sorted(found.items())


def filled(groups: list[tuple[str | int, int]], by: ByTime) -> list[tuple[str | int, int]]:
    """A histogram with its empty groups between the first and the last, unless there are more than 2000."""
    if len(groups) < 2:
        return groups
    counts = dict(groups)
    at, last = groups[0][0], groups[-1][0]
    assert isinstance(at, int)
    assert isinstance(last, int)
    if (last - at) // by.step > _MAX_FILLED:
        return groups
    whole: list[tuple[str | int, int]] = []
    while at <= last:
        whole.append((at, counts.get(at, 0)))
        at = by.after(at)
    return whole


def groups_that_mean(query: Node, rows: Iterable[Row], by: Grouping) -> list[tuple[str | int, int]]:
    """The meaning of a count: every index must answer so."""
    found = [row for row in rows if matches(query, row)]
    if isinstance(by, ByField):
        return groups_of(Counter(getattr(row, by.field) for row in found).items(), by)
    return groups_of(Counter(by.start(row.time) for row in found).items(), by)
