"""Time: aware UTC at the edges, int64 nanoseconds in hot structures, and an injected clock in between."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from secguard.core.errors import UsageError

__all__ = ["Clock", "FixedClock", "SystemClock", "TimeSource", "parse_time", "rfc3339"]


class TimeSource(StrEnum):
    """Who vouches for a time, weakest first."""

    CLAIMED = "claimed"
    LEDGER = "ledger"
    WITNESS = "witness"
    RFC3161 = "rfc3161"


class Clock(Protocol):
    """Where the time comes from; injected so that tests and `--at` can set it."""

    def now(self) -> datetime:
        """Current time, aware UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Current time, aware UTC, microsecond resolution."""
        return datetime.fromtimestamp(time.time_ns() / 1e9, UTC)


@dataclass(frozen=True, slots=True)
class FixedClock:
    """A clock that stands still at `at` (aware)."""

    at: datetime

    def now(self) -> datetime:
        """The fixed time, in UTC."""
        return self.at.astimezone(UTC)


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time (`2025-06-01T00:00:00Z`, `2026-10-01 08:00:00+08:00`) into aware UTC.

    Raises:
        UsageError: if the text is no time, or has no UTC offset.
    """
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError("core.time.format", f"not a time: {text[:40]!r}", hint="write 2026-10-01T08:00:00Z") from None
    if value.tzinfo is None:
        raise UsageError(
            "core.time.naive", f"the time {text[:40]!r} has no UTC offset", hint="append Z or an offset such as +08:00"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise UsageError("core.time.range", f"time out of range: {text[:40]!r}") from None


def rfc3339(value: datetime) -> str:
    """Format an aware time as RFC 3339 in UTC with a trailing Z; fractions only when present."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
