"""Following a log with an index: add what the index lacks, in batches, or build it anew."""

from collections.abc import Iterator, Sequence
from contextlib import closing

from secguard.audit.index.helpers import MANY, cores, parts_of
from secguard.audit.index.index import GONE, Index, Log, Refused, refuse
from secguard.audit.index.rows import Row, rows_of
from secguard.core import FormatError, Progress, RefusedError, SystemClock, silent
from secguard.events import Actor, Assurance, Event, Result
from secguard.ledger.tiles import BUNDLE

__all__ = ["batches", "catch_up", "check_origin", "reindex"]

_BATCH = 4096
_BATCH_BYTES = 16 << 20
_LONG_BATCH = 16_384
_MAX_ASIDE = 100
_ASIDE = "secguard:index-refused:"
_SELF = Actor(name="secguard", assurance=Assurance.OS_USER)


def check_origin(index: Index, log: Log) -> None:
    """Refuse an index that was built from another log.

    Raises:
        RefusedError: `audit.index.foreign`.
    """
    if index.origin != log.origin and (index.origin is not None or index.position):
        raise RefusedError(
            "audit.index.foreign",
            f"the index belongs to the log {index.origin or 'of no name'}, not {log.origin}",
            hint="rebuild it: secguard audit reindex",
        )


def catch_up(index: Index, log: Log, progress: Progress = silent) -> int:
    """Index the events that the index lacks; returns how many.

    The position moves together with the rows, so a process killed at any time leaves nothing lost and nothing doubled.
    An event that a server does not take is put aside: the ledger holds an `index.refused` event for it before the
    position moves.

    Raises:
        RefusedError: the index belongs to another log, is ahead of it, or was changed by hand.
    """
    stop = log.size
    start = index.position
    check_origin(index, log)
    if start > stop:
        raise RefusedError(
            "audit.index.ahead",
            f"the index knows {start} events, the ledger holds {stop}",
            hint="the ledger may have lost its newest events; compare: secguard audit reconcile",
        )
    total = stop - start

    def put_aside(events: Sequence[Refused]) -> None:
        _put_aside(log, events)

    index.prepare(total)
    while start < stop:
        for first, after, rows in _ahead(log, start, stop, ecs=index.ecs):
            if not index.add(log.origin, first, after, rows, put_aside):
                break  # another process indexes too: go on from where it is
            progress(total - (stop - after), total, "events")
        start = index.position
    index.settle()
    return total


def _put_aside(log: Log, events: Sequence[Refused]) -> None:
    # Many at once, or the very record of one: then it is the server that is wrong, not the events.
    if len(events) > _MAX_ASIDE or any(event.id.startswith(_ASIDE) for event in events):
        refuse(events)
    log.record(
        [
            Event(
                id=f"{_ASIDE}{event.seq}:{event.id}"[:128],
                kind="index.refused",
                time=SystemClock().now(),
                actor=_SELF,
                subject=log.origin,
                outcome=Result.FAILURE,
                data={"event": event.id, "index": event.seq, "why": event.reason},
            )
            for event in events
        ]
    )


def _ahead(log: Log, start: int, stop: int, *, ecs: bool) -> Iterator[tuple[int, int, list[Row]]]:
    """The rows of the events [start, stop) in batches; where there are many, a helper computes them ahead."""
    root = getattr(log, "root", None)
    if root is None or stop - start < MANY or cores() < 2:
        for first, bodies in batches(log, start, stop):
            yield first, first + len(bodies), rows_of(first, bodies, ecs=ecs)
        return
    with closing(parts_of("rows", str(root), start, stop, ecs, _LONG_BATCH)) as parts:
        for first, after, rows in parts:
            yield first, after, list(map(Row._make, rows))


def batches(log: Log, start: int, stop: int, most: int = _BATCH) -> Iterator[tuple[int, list[bytes | None]]]:
    """The events [start, stop), about `most` or 16 MB at a time: one transaction or request for many blocks."""
    first, collected, size = start, list[bytes | None](), 0
    for bodies in _bodies(log, start, stop):
        collected.extend(bodies)
        size += sum(len(body) for body in bodies if body)
        if len(collected) >= most or size >= _BATCH_BYTES:
            yield first, collected
            first, collected, size = first + len(collected), [], 0
    if collected:
        yield first, collected


def _bodies(log: Log, start: int, stop: int) -> Iterator[Sequence[bytes | None]]:
    """All of them; those of a file that is lost are gone, and the others are not held up by it."""
    while start < stop:
        try:
            for _, bodies in log.scan(start, stop):
                start += len(bodies)
                yield bodies
        except FormatError as error:
            if error.code not in GONE:
                raise
            lost = min(stop, (start // BUNDLE + 1) * BUNDLE) - start
            start += lost
            yield [None] * lost


def reindex(index: Index, log: Log, progress: Progress = silent) -> int:
    """Build the index anew from the ledger; returns the number of events. Broken off, `catch_up` goes on from there."""
    index.clear()
    return catch_up(index, log, progress)
