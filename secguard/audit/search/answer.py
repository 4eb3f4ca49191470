"""Search: the index finds, the ledger answers, and the question itself is recorded before the answer is shown.

1. With `wait`, the index is brought up to date first; else an index behind the ledger makes the answer inconclusive.
2. The index gives the ledger indices of one page, newest first.
3. Each event is read from the ledger, and checked against the query: a row that was changed to be found shows here. (A
   row that was changed to be missed shows in `reconcile`.)
4. `audit.searched` is recorded. An index that was up to date takes this event in at once, so the next search is not
   inconclusive because of this one.
"""

from datetime import UTC, tzinfo
from typing import Any

import msgspec

from secguard.audit.index.index import Cursor, Index, Log, body_of, catch_up, check_origin
from secguard.audit.index.rows import row_of
from secguard.audit.query.parser import parse, parse_cursor
from secguard.audit.query.query import matches
from secguard.core import Clock, Finding, Outcome, Progress, UsageError, finding, silent
from secguard.events import Actor, Event, decode_stored, new_event_id

__all__ = ["MAX_LIMIT", "Hit", "Page", "checkpoint_of", "search"]

MAX_LIMIT = 10_000
"""Events of one page."""


class Hit(msgspec.Struct, frozen=True):
    """A found event and its place in the ledger."""

    index: int
    event: Event

    def document(self) -> dict[str, Any]:
        """The event's fields and `ledger_index`, as one flat JSON object."""
        built: dict[str, Any] = msgspec.to_builtins(self.event)
        return {"ledger_index": self.index, **built}


class Page(msgspec.Struct, frozen=True):
    """An answer, and how far it reaches.

    Attributes:
        query: the question.
        total: how many events match.
        hits: one page of them, by claimed time, newest first.
        next: cursor of the next page; None on the last.
        position: events the index knew.
        size: events the ledger held.
        checkpoint: `origin`, `size` and `root` (base64) of the last signed checkpoint; None before the first.
        recorded: ledger index of the `audit.searched` event.
        findings: why the answer is incomplete or not to be trusted; empty if neither.
    """

    query: str
    total: int
    hits: tuple[Hit, ...]
    next: str | None
    position: int
    size: int
    checkpoint: dict[str, str | int] | None
    recorded: int
    findings: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """Pass if nothing is the matter; unknown if the index is behind; fail if index and ledger disagree."""
        outcomes = {item.outcome for item in self.findings}
        for outcome in (Outcome.FAIL, Outcome.UNKNOWN):
            if outcome in outcomes:
                return outcome
        return Outcome.PASS


def checkpoint_of(log: Log) -> dict[str, str | int] | None:
    """The last signed checkpoint's own words: origin, size, root in base64."""
    note = log.checkpoint()
    if note is None:
        return None
    origin, size, root = note.decode("utf-8").split("\n")[:3]
    return {"origin": origin, "size": int(size), "root": root}


def search(
    query: str,
    index: Index,
    log: Log,
    clock: Clock,
    actor: Actor,
    *,
    limit: int = 50,
    after: str | None = None,
    wait: bool = False,
    zone: tzinfo = UTC,
    case: str = "",
    reason: str = "",
    progress: Progress = silent,
) -> Page:
    """Answer an auditor's question.

    Args:
        query: see `secguard.audit.query.parser`.
        index: finds.
        log: answers, and records the question.
        clock: what `now` means, and the time of the record.
        actor: who asks.
        limit: events of the page, 1 to 10,000.
        after: `next` of the page before.
        wait: index the ledger's newest events first.
        zone: zone of dates in the query that name none.
        case: case number of the question.
        reason: its purpose.
        progress: of the indexing that `wait` asks for.

    Raises:
        UsageError: the query, the limit or the cursor is not valid.
        RefusedError: the index belongs to another log, or the question could not be recorded.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError("audit.search.limit", f"a page of {limit} events; 1 to {MAX_LIMIT} is possible")
    node = parse(query, now=clock.now(), zone=zone)
    cursor = Cursor(*parse_cursor(after)) if after else None
    check_origin(index, log)
    if wait:
        catch_up(index, log, progress)
    size = log.size
    found = index.find(node, limit=limit, after=cursor)
    hits, findings = [], []
    bodies = {place: body_of(log, place) for place in sorted(found.seqs) if 0 <= place < size}
    for place in found.seqs:
        body = bodies.get(place)
        if body is not None and matches(node, row_of(place, body)):
            hits.append(Hit(place, decode_stored(body)))
        else:
            name = decode_stored(body).id if body else ""
            why = "a search found it that it does not match"
            findings.append(finding("audit.index.altered", f"event {place}", index=place, id=name, columns=why))
    current = found.position == size
    if found.position < size:
        findings.append(finding("audit.index.behind", position=found.position, size=size, behind=size - found.position))
    elif not current:
        findings.append(finding("audit.index.ahead", position=found.position, size=size))
    checkpoint = checkpoint_of(log)
    question = Event(
        id=new_event_id(),
        kind="audit.searched",
        time=clock.now(),
        actor=actor,
        case=case,
        reason=reason,
        data={"query": query, "total": found.total, "shown": len(hits), "after": after, "position": found.position},
    )
    recorded = log.record([question])[0].index
    if current:
        catch_up(index, log)
    following = found.next.text if found.next else None
    return Page(query, found.total, tuple(hits), following, found.position, size, checkpoint, recorded, tuple(findings))
