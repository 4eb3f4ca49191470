"""Search: the index finds, the ledger answers, and the question itself is recorded before the answer is shown.

1. With `wait`, the index is brought up to date first; else an index behind the ledger makes the answer inconclusive.
2. The index gives the ledger indices of one page, newest first; or, for a count, its groups.
3. `audit.searched` is recorded. An index that was up to date takes this event in at once, so the next search is not
   inconclusive because of this one.
4. Each event is read from the ledger, and checked against the query: a row that was changed to be found shows here. (A
   row that was changed to be missed, or to be counted, shows in `reconcile`.)
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, tzinfo
from typing import Any

import msgspec

from secguard.audit.index.following import catch_up, check_origin
from secguard.audit.index.index import Cursor, Index, Log, body_of, missing_bodies
from secguard.audit.index.rows import row_of
from secguard.audit.query.groups import ByField, ByTime, Grouping, filled
from secguard.audit.query.parser import parse, parse_cursor
from secguard.audit.query.query import Node, matches
from secguard.core import Clock, Finding, Outcome, Progress, UsageError, finding, silent
from secguard.events import Actor, Event, decode_stored, new_event_id
from secguard.ledger.missing import Missing

__all__ = ["MAX_LIMIT", "Answer", "Asker", "Counts", "Hit", "Page", "Reach", "checkpoint_of", "search", "unreadable"]

MAX_LIMIT = 10_000
"""Events of one page."""
_WALK = 5000


class Hit(msgspec.Struct, frozen=True):
    """A found event and its place in the ledger."""

    index: int
    event: Event

    def document(self) -> dict[str, Any]:
        """The event's fields and `ledger_index`, as one flat JSON object."""
        built: dict[str, Any] = msgspec.to_builtins(self.event)
        return {"ledger_index": self.index, **built}


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """How far an answer reaches.

    Attributes:
        query: the question.
        total: how many events match.
        position: events the index knew.
        size: events the ledger held.
        checkpoint: `origin`, `size` and `root` (base64) of the last signed checkpoint; None before the first.
        recorded: ledger index of the `audit.searched` event.
        findings: why the answer is incomplete or not to be trusted; empty if neither.
    """

    query: str
    total: int
    position: int
    size: int
    checkpoint: dict[str, str | int] | None
    recorded: int
    findings: Sequence[Finding] = ()

    @property
    def outcome(self) -> Outcome:
        """Pass if nothing is the matter; unknown if the index is behind; fail if index and ledger disagree."""
        outcomes = {item.outcome for item in self.findings}
        for outcome in (Outcome.FAIL, Outcome.UNKNOWN):
            if outcome in outcomes:
                return outcome
        return Outcome.PASS

    def facts(self) -> dict[str, Any]:
        """What every answer states, for JSON."""
        names = ("query", "total", "position", "size", "checkpoint", "recorded")
        return {name: getattr(self, name) for name in names}


class Page(Reach, frozen=True, kw_only=True):
    """One page of events.

    Attributes:
        hits: the events, by claimed time, newest first.
        next: cursor of the next page; None on the last.
        pruned: events of the page that match, and whose bodies were deleted by policy: nothing is left to show.
    """

    hits: tuple[Hit, ...]
    next: str | None
    pruned: int = 0


class Counts(Reach, frozen=True, kw_only=True):
    """Events in groups, as the index counts them.

    Attributes:
        by: the field, or `hour`, `day`, `month`.
        groups: values (of a field: most frequent first; of time: in order, as `2026-10-01`) and numbers of events.
        distinct: how many groups hold events.
    """

    by: str
    groups: tuple[tuple[str, int], ...]
    distinct: int


class Answer(Reach, frozen=True, kw_only=True):
    """All events that match, to be read once; `findings` is complete at the end.

    Attributes:
        hits: the events, by claimed time, newest first; read while they are asked for, so memory stays flat.
    """

    hits: Iterator[Hit]


def checkpoint_of(log: Log) -> dict[str, str | int] | None:
    """The last signed checkpoint's own words: origin, size, root in base64."""
    note = log.checkpoint()
    if note is None:
        return None
    origin, size, root = note.decode("utf-8").split("\n")[:3]
    return {"origin": origin, "size": int(size), "root": root}


class Asker:
    """Asks an index on behalf of somebody; every question is recorded before its answer is released.

    Args:
        index: finds.
        log: answers, and records the questions.
        clock: what `now` means, and the time of the records.
        actor: who asks.
        wait: index the ledger's newest events first.
        zone: zone of dates in queries that name none, and of groups by time.
        case: case number of the questions.
        reason: their purpose.
        progress: of the indexing that `wait` asks for.

    All questions raise UsageError if the query, a limit or a cursor is not valid, and RefusedError if the index belongs
    to another log, or the question could not be recorded.
    """

    def __init__(
        self,
        index: Index,
        log: Log,
        clock: Clock,
        actor: Actor,
        *,
        wait: bool = False,
        zone: tzinfo = UTC,
        case: str = "",
        reason: str = "",
        progress: Progress = silent,
    ) -> None:
        self._index = index
        self._log = log
        self._clock = clock
        self._actor = actor
        self._wait = wait
        self._zone = zone
        self._case = case
        self._reason = reason
        self._progress = progress
        self._missing: Missing | None = None

    def page(self, query: str, *, limit: int = 50, after: str | None = None) -> Page:
        """One page of events.

        Args:
            query: see `secguard.audit.query.parser`.
            limit: events of the page, 1 to 10,000.
            after: `next` of the page before.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise UsageError("audit.search.limit", f"a page of {limit} events; 1 to {MAX_LIMIT} is possible")
        node, size = self._begin(query)
        cursor = Cursor(*parse_cursor(after)) if after else None
        found = self._index.find(node, limit=limit, after=cursor)
        hits, findings, pruned = self._read(node, found.seqs, size)
        values = {"total": found.total, "shown": len(hits), "after": after}
        reach = self._record(query, size, found.position, findings, values)
        following = found.next.text if found.next else None
        return Page(**reach, hits=tuple(hits), next=following, pruned=pruned)

    def all(self, query: str) -> Answer:
        """All events that match, in one stable view.

        Args:
            query: see `secguard.audit.query.parser`.
        """
        node, size = self._begin(query)
        pages = self._index.walk(node, size=_WALK)
        first = next(pages)
        findings: list[Finding] = []
        reach = self._record(query, size, first.position, findings, {"total": first.total, "shown": "all"})

        def hits() -> Iterator[Hit]:
            page = first
            while True:
                shown, wrong, _ = self._read(node, page.seqs, size)
                findings.extend(wrong)
                yield from shown
                following = next(pages, None)
                if following is None:
                    return
                page = following

        return Answer(**reach, hits=hits())

    def count(self, query: str, by: Grouping, *, limit: int = 50) -> Counts:
        """How many events match, by the values of a field or by time.

        Args:
            query: see `secguard.audit.query.parser`.
            by: the groups; `ByTime` in the zone of this asker is made by `by_time`.
            limit: values of a field that are shown, the most frequent ones; 1 to 100,000.

        Raises:
            UsageError: also if there are more than 100,000 groups.
        """
        node, size = self._begin(query)
        counted = self._index.count(node, by)
        name = by.field if isinstance(by, ByField) else by.unit
        values = {"total": counted.total, "shown": 0, "by": name}
        reach = self._record(query, size, counted.position, [], values)
        groups = _named(counted.groups, by)
        return Counts(
            **reach, by=name, groups=groups[:limit] if isinstance(by, ByField) else groups, distinct=len(counted.groups)
        )

    def _begin(self, query: str) -> tuple[Node, int]:
        node = parse(query, now=self._clock.now(), zone=self._zone)
        check_origin(self._index, self._log)
        if self._wait:
            catch_up(self._index, self._log, self._progress)
        return node, self._log.size

    def _read(self, node: Node, seqs: Sequence[int], size: int) -> tuple[list[Hit], list[Finding], int]:
        """The events of a page, what is wrong with its rows, and how many bodies were deleted by policy."""
        hits: list[Hit] = []
        findings: list[Finding] = []
        pruned = 0
        bodies = {place: body_of(self._log, place) for place in sorted(set(seqs)) if 0 <= place < size}
        shown = set[int]()
        for place in seqs:
            body = bodies.get(place)
            if place in shown:  # a server may hold a second document of an event
                name = decode_stored(body).id if body else ""
                findings.append(finding("audit.index.extra", f"event {place}", index=place, id=name))
                continue
            shown.add(place)
            if body is not None and matches(node, row_of(place, body)):
                hits.append(Hit(place, decode_stored(body)))
            elif place in bodies and body is None:
                pruned += 1
                self._missing = self._missing or missing_bodies(self._log)
                findings.append(unreadable(place, self._missing))
            else:
                name = decode_stored(body).id if body else ""
                why = "a search found it that it does not match"
                findings.append(finding("audit.index.altered", f"event {place}", index=place, id=name, columns=why))
        return hits, findings, pruned

    def _record(
        self, query: str, size: int, position: int, findings: list[Finding], values: dict[str, Any]
    ) -> dict[str, Any]:
        """Record the question; returns what a `Reach` holds."""
        current = position == size
        if position < size:
            findings.append(finding("audit.index.behind", position=position, size=size, behind=size - position))
        elif not current:
            findings.append(finding("audit.index.ahead", position=position, size=size))
        refused = self._index.refused
        if refused:
            findings.append(finding("audit.index.refused", count=len(refused), index=min(refused)))
        checkpoint = checkpoint_of(self._log)
        question = Event(
            id=new_event_id(),
            kind="audit.searched",
            time=self._clock.now(),
            actor=self._actor,
            case=self._case,
            reason=self._reason,
            data={"query": query, **values, "position": position},
        )
        recorded = self._log.record([question])[0].index
        if current:
            catch_up(self._index, self._log)
        return {
            "query": query,
            "total": values["total"],
            "position": position,
            "size": size,
            "checkpoint": checkpoint,
            "recorded": recorded,
            "findings": findings,
        }


def unreadable(place: int, missing: Missing) -> Finding:
    """Why an event that the index names cannot be shown: deleted by policy and still in the index, or by hand."""
    if missing.holds(place):
        why = "deleted by hand, or its file is lost or damaged"
        return finding("ledger.body.missing", f"event {place}", reason=why, index=place)
    return finding("audit.index.kept", f"event {place}", index=place)


def _named(groups: list[tuple[str | int, int]], by: Grouping) -> tuple[tuple[str, int], ...]:
    if isinstance(by, ByTime):
        return tuple((by.name(int(start)), count) for start, count in filled(groups, by))
    return tuple((str(value), count) for value, count in groups)


def search(
    query: str,
    index: Index,
    log: Log,
    clock: Clock,
    actor: Actor,
    *,
    limit: int = 50,
    after: str | None = None,
    **options: Any,
) -> Page:
    """Answer an auditor's question with one page of events; `options` are those of `Asker`."""
    return Asker(index, log, clock, actor, **options).page(query, limit=limit, after=after)
