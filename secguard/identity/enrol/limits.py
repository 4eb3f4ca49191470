"""Bounds on what strangers can cause: how often they may fail, and how much of it the ledger keeps one by one."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Bucket", "Buckets", "Flood"]

_MAX_KEYS = 10_000
_NAMED = 16


@dataclass(slots=True)
class Bucket:
    """A token bucket: `size` at once, then `rate` a second."""

    size: float
    rate: float
    level: float
    at: float

    def take(self, now: float) -> bool:
        """Take one, or tell that there is none."""
        self.fill(now)
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def fill(self, now: float) -> None:
        """Let time pass."""
        self.level = min(self.size, self.level + max(0.0, now - self.at) * self.rate)
        self.at = now

    def wait(self, now: float) -> float:
        """Seconds until there is one again; 0 if there is one."""
        self.fill(now)
        return max(0.0, (1 - self.level) / self.rate)


class Buckets:
    """A bucket a key; of many keys those that were seen last are kept.

    Args:
        size: how many at once.
        rate: how many a second after that.
        clock: seconds that only grow.
    """

    def __init__(self, size: float, rate: float, clock: Callable[[], float]) -> None:
        self._size, self._rate, self._clock = size, rate, clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def _bucket(self, key: str) -> Bucket:
        found = self._buckets.pop(key, None) or Bucket(self._size, self._rate, self._size, self._clock())
        self._buckets[key] = found
        if len(self._buckets) > _MAX_KEYS:
            self._buckets.popitem(last=False)
        return found

    def take(self, key: str) -> bool:
        """Take one of a key's, or tell that there is none."""
        return self._bucket(key).take(self._clock())

    def wait(self, key: str) -> float:
        """Seconds until a key has one again; 0 for one that was never seen."""
        return self._bucket(key).wait(self._clock()) if key in self._buckets else 0.0


@dataclass(slots=True)
class Flood:
    """Refusals that are recorded together, because there were too many to record each.

    Attributes:
        count: how many.
        codes: how many of each kind.
        addresses: how many from each address; of the many, those seen first.
        subjects: how many for each device.
    """

    count: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    addresses: Counter[str] = field(default_factory=Counter)
    subjects: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, address: str, subject: str) -> None:
        """Count one."""
        self.count += 1
        self.codes[code] += 1
        for counter, key in ((self.addresses, address), (self.subjects, subject)):
            if key in counter or len(counter) < _MAX_KEYS:
                counter[key] += 1

    def facts(self) -> dict[str, Any]:
        """What the ledger is told."""
        return {
            "count": self.count,
            "codes": dict(self.codes.most_common(_NAMED)),
            "addresses": dict(self.addresses.most_common(_NAMED)),
            "subjects": dict(self.subjects.most_common(_NAMED)),
        }
