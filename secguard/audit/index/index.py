"""What a search index must do, whoever keeps it: SQLite here, Elasticsearch in `secguard.audit.index.elastic`.

An index only finds. It holds rows that anyone can compute again from the ledger (`secguard.audit.index.rows`), and a
position: the rows of all events before it are in. Answers are read from the ledger, and `reconcile` compares the two.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import starmap
from pathlib import Path
from typing import NamedTuple, Protocol

from secguard.audit.index.helpers import MANY, cores, in_order
from secguard.audit.index.rows import Row, rows_of
from secguard.audit.query.query import Node
from secguard.core import Progress, RefusedError, silent
from secguard.events import Recorder

__all__ = ["Cursor", "Damage", "Found", "Index", "Log", "batches", "body_of", "catch_up", "check_origin", "reindex"]


_BATCH = 4096
_LONG_BATCH = 16_384
_BATCH_BYTES = 16 << 20


class Log(Recorder, Protocol):
    """What audit needs of the ledger."""

    @property
    def origin(self) -> str:
        """The log's name."""
        ...

    @property
    def size(self) -> int:
        """Number of events."""
        ...

    def scan(self, start: int, stop: int) -> Iterator[tuple[int, Sequence[bytes | None]]]:
        """Batches `(first index, event bytes)`, None for a body deleted by policy."""
        ...

    def checkpoint(self) -> bytes | None:
        """The last signed checkpoint; None before the first."""
        ...


class Cursor(NamedTuple):
    """Where a page ended, newest first; `snapshot` keeps later pages on the events that the first page saw."""

    snapshot: int
    time: int
    seq: int

    @property
    def text(self) -> str:
        """The cursor as users hand it back."""
        return ".".join(map(str, self))


class Found(NamedTuple):
    """One page of a search: how many events match, which ledger indices, and where the next page begins."""

    total: int
    seqs: Sequence[int]
    position: int
    next: Cursor | None


class Damage(NamedTuple):
    """What is wrong apart from the rows: sentences, and the ledger indices that a search may miss or find wrongly."""

    problems: list[str]
    seqs: list[int]


class Index(Protocol):
    """A search index over the rows of one log."""

    @property
    def position(self) -> int:
        """Number of events whose rows are in: all before this ledger index."""
        ...

    @property
    def origin(self) -> str | None:
        """Name of the log it was built from; None while empty."""
        ...

    @property
    def file(self) -> Path | None:
        """The SQLite file that other processes may open to read the same rows; None if there is none."""
        ...

    def add(self, origin: str, first: int, stop: int, rows: Sequence[Row]) -> bool:
        """Add the rows of the events [first, stop) and move the position, in one step.

        Returns:
            False if another process was faster (the position is not `first` any more); nothing was changed.

        Raises:
            RefusedError: rows stand there already, or the index belongs to another log.
        """
        ...

    def prepare(self, count: int) -> None:
        """Make ready for `count` more events."""
        ...

    def settle(self) -> None:
        """All events there are have been added: put right what `prepare` left undone."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def find(self, query: Node, *, limit: int, after: Cursor | None = None) -> Found:
        """The newest `limit` events that match, by claimed time and then ledger index, after a cursor."""
        ...

    def rows(self, start: int, stop: int) -> list[Row]:
        """The rows with ledger indices [start, stop), in order; a half-lost row has empty values."""
        ...

    def stray(self, stop: int) -> list[Row]:
        """Rows outside [0, stop), at most 1000."""
        ...

    def damage(self) -> Damage:
        """What is wrong with the index's own structure; empty if it is sound."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def body_of(log: Log, seq: int) -> bytes | None:
    """The stored bytes of one event; None if they were deleted by policy."""
    ((_, (body,)),) = log.scan(seq, seq + 1)
    return body


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
    index.prepare(total)
    while start < stop:
        for first, after, rows in _ahead(log, start, stop):
            if not index.add(log.origin, first, after, rows):
                break  # another process indexes too: go on from where it is
            progress(total - (stop - after), total, "events")
        start = index.position
    index.settle()
    return total


def _ahead(log: Log, start: int, stop: int) -> Iterator[tuple[int, int, list[Row]]]:
    """The rows of the events [start, stop) in ranges; where there are many, a helper computes them ahead."""
    root = getattr(log, "root", None)
    if root is None or stop - start < MANY or cores() < 2:
        for first, bodies in batches(log, start, stop):
            yield first, first + len(bodies), rows_of(first, bodies)
        return
    spans = [(first, min(first + _LONG_BATCH, stop)) for first in range(start, stop, _LONG_BATCH)]
    answers = in_order(("rows", str(root), *span) for span in spans)
    with closing(answers):
        for (first, after), rows in zip(spans, answers, strict=True):
            yield first, after, list(starmap(Row, rows))


def batches(log: Log, start: int, stop: int) -> Iterator[tuple[int, list[bytes | None]]]:
    """The events [start, stop), some thousand or 16 MB at a time: one transaction or request for many blocks."""
    first, collected, size = start, list[bytes | None](), 0
    for _, bodies in log.scan(start, stop):
        collected.extend(bodies)
        size += sum(len(body) for body in bodies if body)
        if len(collected) >= _BATCH or size >= _BATCH_BYTES:
            yield first, collected
            first, collected, size = first + len(collected), [], 0
    if collected:
        yield first, collected


def reindex(index: Index, log: Log, progress: Progress = silent) -> int:
    """Build the index anew from the ledger; returns the number of events. Broken off, `catch_up` goes on from there."""
    index.clear()
    return catch_up(index, log, progress)
