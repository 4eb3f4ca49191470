"""What is known of a source's health: how much came, what became of it, when, and how its clock stands."""

import time
from collections import Counter, deque
from datetime import datetime

import msgspec

from secguard.core.clock import rfc3339
from secguard.core.findings import finding
from secguard.core.verdict import Finding

__all__ = ["Health", "Meter", "findings_of"]

_STEP = 0.1
_HOUR = 3600.0
_CLIENTS = 20
"""Clients that were turned away which are told apart, with their reasons, in one record."""
_WINDOW = 60.0
"""Seconds over which the least delay stands for the clock's offset."""


class Health(msgspec.Struct, omit_defaults=False, kw_only=True):
    """A source as `audit collect --status` shows it.

    Attributes:
        name: the source.
        kind: `file`, `syslog` or `http`.
        received: records that came.
        recorded: events that are new in the ledger.
        duplicates: events that the ledger had before.
        rejected: records that were put aside.
        ignored: records that the configuration does not want.
        lost: records that the kernel dropped, or that a sender's numbers show to be missing.
        refused: requests, connections and datagrams that were turned away.
        refused_last: address of the last client that may not send, and why, in the last hour; empty: none.
        waiting: events that are read and not recorded yet.
        behind: bytes of files that are not read yet.
        last_received: when the last record came; empty: never.
        last_event: its own time.
        offset: seconds that the source's clock is behind this one (negative: before it); None: not known.
        silent: seconds without a record, if that is longer than is allowed; 0 if not.
        drifted: the offset is more than is allowed.
        problem: what keeps it from being read; empty: nothing.
        places: where it listens, or which files it reads.
    """

    name: str
    kind: str
    received: int = 0
    recorded: int = 0
    duplicates: int = 0
    rejected: int = 0
    ignored: int = 0
    lost: int = 0
    refused: int = 0
    refused_last: str = ""
    waiting: int = 0
    behind: int = 0
    last_received: str = ""
    last_event: str = ""
    offset: float | None = None
    silent: float = 0
    drifted: bool = False
    problem: str = ""
    places: list[str] = []


class Meter:
    """Counts for one source.

    Args:
        name: the source.
        kind: of source.
        silent_after: seconds; 0: never silent.
        tolerance: seconds that its clock may be off; 0: not judged.
        now: monotonic seconds; silence counts from here.
    """

    def __init__(self, name: str, kind: str, silent_after: float, tolerance: float, now: float) -> None:
        self.health = Health(name=name, kind=kind)
        self._silent_after = silent_after
        self._tolerance = tolerance
        self._heard = now
        self._back = False  # heard since it was silent
        self._delays: deque[tuple[float, float]] = deque()  # (monotonic, seconds), least last: a sliding minimum
        self._newest: datetime | None = None
        self._received: datetime | None = None
        self._turned: Counter[str] = Counter()
        self._turned_last = self._turned_said = float("-inf")

    def heard(self, received: datetime, now: float) -> None:
        """A record came."""
        self.health.received += 1
        self._received = received
        self._heard = now
        self._back = self._back or bool(self.health.silent)

    def timed(self, event: datetime, received: datetime, now: float, *, live: bool) -> None:
        """An event with a time of its own; `live` if it came as it happened, as far as can be told.

        What is handed in later than it happened says nothing of the clock, unless it comes from the future.
        """
        if self._newest is None or event > self._newest:
            self._newest = event
        # The least delay of a minute is the offset of the clock and the way: lateness alone is never negative,
        # and one message that came at once is enough.
        delay = (received - event).total_seconds()
        if not live:
            delay = min(delay, 0.0)
        while self._delays and self._delays[-1][1] >= delay:
            self._delays.pop()
        if not self._delays or now - self._delays[-1][0] > _STEP:  # so few that they are bounded
            self._delays.append((now, delay))

    def turn_away(self, peer: str, why: str) -> None:
        """A client may not send: what it has to say is not heard."""
        who = f"{peer}: {why[:120]}"
        self.health.refused += 1
        self.health.refused_last = who
        self._turned_last = time.monotonic()
        self._turned[who if who in self._turned or len(self._turned) < _CLIENTS else "others"] += 1

    def turned_away(self, now: float) -> dict[str, int]:
        """Who was turned away, why and how often, to be recorded: the first at once, then all once an hour."""
        if not self._turned or now - self._turned_said < _HOUR:
            return {}
        self._turned_said = now
        turned, self._turned = dict(self._turned), Counter()
        return turned

    def shown(self) -> Health:
        """The counts, up to date."""
        if self._received is not None:
            self.health.last_received = rfc3339(self._received)
        if self._newest is not None:
            self.health.last_event = rfc3339(self._newest)
        return self.health

    def look(self, now: float) -> list[str]:
        """Judge silence and clock; what has changed: `silent`, `returned`, `drifted`, `agreed`."""
        changed: list[str] = []
        health = self.health
        quiet = now - self._heard
        silent = quiet if self._silent_after and quiet > self._silent_after and not self._back else 0.0
        self._back = False
        if bool(silent) != bool(health.silent):
            changed.append("silent" if silent else "returned")
        health.silent = round(silent, 1)
        if now - self._turned_last > _HOUR:
            health.refused_last = ""
        while self._delays and self._delays[0][0] < now - _WINDOW:
            self._delays.popleft()
        if self._delays:
            health.offset = round(self._delays[0][1], 3)
            drifted = bool(self._tolerance) and abs(health.offset) > self._tolerance
            if drifted != health.drifted:
                changed.append("drifted" if drifted else "agreed")
            health.drifted = drifted
        return changed


def findings_of(health: Health) -> list[Finding]:
    """What is wrong with a source, as far as its health says."""
    found: list[Finding] = []
    if health.silent:
        found.append(
            finding("audit.source.silent", health.name, seconds=health.silent, last=health.last_received or "-")
        )
    if health.drifted:
        found.append(finding("audit.source.clock", health.name, seconds=health.offset))
    if health.lost:
        found.append(finding("audit.source.lost", health.name, count=health.lost))
    if health.refused_last:
        found.append(finding("audit.source.refused", health.name, last=health.refused_last))
    if health.rejected:
        found.append(finding("audit.source.rejected", health.name, count=health.rejected))
    if health.problem:
        found.append(finding("audit.source.failed", health.name, problem=health.problem))
    return found
