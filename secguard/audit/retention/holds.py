"""Holds: while one stands, no event that its query matches is deleted, whenever it was or will be recorded.

A hold is an event of the ledger (`audit.held`), and so is its end (`audit.released`). They are read from the ledger,
never from the index: a row that was removed there must not release anything.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import msgspec

from secguard.audit.index.following import batches
from secguard.audit.index.index import Log
from secguard.audit.index.rows import row_of
from secguard.audit.query.parser import parse
from secguard.audit.query.query import All, Node, Range, matches
from secguard.core import Clock
from secguard.core.errors import UsageError
from secguard.events import Actor, Event, decode_stored, new_event_id

__all__ = ["Hold", "Holding", "add_hold", "hold_query", "read_holds", "release_hold"]


class Hold(msgspec.Struct, frozen=True):
    """A hold.

    Attributes:
        id: its name: that of the `audit.held` event.
        case: for which case.
        query: which events, in the language of `audit search`.
        zone: of dates in the query, in minutes east of UTC.
        time: since when.
        actor: who set it.
        approver: who approved it.
        reason: why.
        index: ledger index of its event.
        released: when it ended; None while it stands.
    """

    id: str
    case: str
    query: str
    zone: int
    time: datetime
    actor: str
    approver: str
    reason: str
    index: int
    released: datetime | None = None

    @property
    def node(self) -> Node:
        """The query, with relative times counted from when the hold was set."""
        return parse(self.query, now=self.time, zone=_zone(self.zone))


def _zone(minutes: int) -> timezone:
    return timezone(timedelta(minutes=minutes)) if minutes else UTC


class Holding:
    """Standing holds, ready to be asked about many events."""

    def __init__(self, holds: list[Hold]) -> None:
        self._nodes = [(hold.id, hold.node) for hold in holds if hold.released is None]

    def __bool__(self) -> bool:
        return bool(self._nodes)

    @property
    def ids(self) -> list[str]:
        """The holds' names."""
        return [name for name, _ in self._nodes]

    def holder(self, seq: int, body: bytes) -> str | None:
        """The first hold that an event is under, or None."""
        if not self._nodes:
            return None
        row = row_of(seq, body)
        return next((name for name, node in self._nodes if matches(node, row)), None)


def hold_query(*, query: str = "", case: str = "", camera: str = "", period: str = "", event: str = "") -> str:
    """The query that several conditions make together; an event must meet all of them.

    Raises:
        UsageError: there is none, or one is not valid alone: none may reach into its neighbours.
    """
    parts = [f"({query})"] if query.strip() else []
    parts += [f"{field}:{_quoted(text)}" for field, text in (("subject", camera), ("id", event)) if text]
    now = datetime.now(UTC)
    parse(query, now=now)  # without its parentheses: it must be whole
    if period:
        if not isinstance(parse(f"time:{period}", now=now), Range | All):
            hint = "write 2026, 2026-10 or 2026-10-07"
            raise UsageError("audit.hold.period", f"not a period: {period[:60]!r}", hint=hint)
        parts.append(f"time:{period}")
    if not parts and case:
        parts = [f"case:{_quoted(case)}"]
    if not parts:
        raise UsageError(
            "audit.hold.empty", "a hold on nothing", hint="give --query, --camera, --period, --event, or --case alone"
        )
    return " AND ".join(parts)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def add_hold(
    log: Log, clock: Clock, actor: Actor, query: str, *, case: str, reason: str = "", approver: str = "", zone: int = 0
) -> Hold:
    """Put events on hold; in force when this returns.

    Args:
        log: keeps it.
        clock: since when.
        actor: who sets it.
        query: which events.
        case: for which case.
        reason: why.
        approver: who approved it.
        zone: of dates in the query, in minutes east of UTC.

    Raises:
        UsageError: the query is not valid, or there is no case.
        RefusedError: it could not be recorded.
    """
    if not case:
        raise UsageError("audit.hold.case", "a hold is for a case", hint="give --case NUMBER")
    now = clock.now()
    parse(query, now=now, zone=_zone(zone))
    event = Event(
        id=new_event_id(),
        kind="audit.held",
        time=now,
        actor=actor,
        case=case,
        approver=approver,
        reason=reason,
        data={"query": query, "zone": zone},
    )
    return _hold_of(event, log.record([event])[0].index)


def _hold_of(event: Event, index: int) -> Hold:
    return Hold(
        event.id,
        event.case,
        str(event.data.get("query", "")),
        int(event.data.get("zone", 0)),
        event.time,
        event.actor.name,
        event.approver,
        event.reason,
        index,
    )


def _acts(log: Log, start: int) -> Iterator[tuple[int, Event]]:
    for first, bodies in batches(log, start, log.size):
        for index, body in enumerate(bodies, first):
            if body is not None and (b'"audit.held"' in body or b'"audit.released"' in body):
                event = decode_stored(body)
                if event.kind in {"audit.held", "audit.released"}:
                    yield index, event


def read_holds(log: Log, start: int = 0) -> list[Hold]:
    """All holds that were set from the entry `start` on, in that order, the released ones too."""
    holds: dict[str, Hold] = {}
    for index, event in _acts(log, start):
        if event.kind == "audit.held":
            holds[event.id] = _hold_of(event, index)
        else:
            name = str(event.data.get("hold", ""))
            if name in holds and holds[name].released is None:
                holds[name] = msgspec.structs.replace(holds[name], released=event.time)
    return list(holds.values())


def release_hold(log: Log, clock: Clock, actor: Actor, name: str, *, reason: str, approver: str = "") -> Hold:
    """End a hold.

    Args:
        log: keeps it.
        clock: when.
        actor: who ends it.
        name: the hold, or a beginning of its name that no other hold has.
        reason: why.
        approver: who approved it.

    Raises:
        UsageError: there is no such hold, several, or it is released; no reason.
        RefusedError: it could not be recorded.
    """
    if not reason:
        raise UsageError("audit.hold.reason", "a hold is released for a reason", hint="give --reason TEXT")
    found = [hold for hold in read_holds(log) if hold.id.startswith(name)] if name else []
    if len(found) != 1 or found[0].released is not None:
        what = "is released already" if len(found) == 1 else "is not one hold" if found else "is no hold"
        raise UsageError("audit.hold.unknown", f"{name[:60]!r} {what}", hint="secguard audit hold list")
    hold = found[0]
    event = Event(
        id=new_event_id(),
        kind="audit.released",
        time=clock.now(),
        actor=actor,
        case=hold.case,
        approver=approver,
        reason=reason,
        data={"hold": hold.id},
    )
    log.record([event])
    return msgspec.structs.replace(hold, released=event.time)
