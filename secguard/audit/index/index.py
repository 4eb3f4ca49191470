"""What a search index must do, whoever keeps it: SQLite here, Elasticsearch in `secguard.audit.index.elastic`.

An index only finds. It holds rows that anyone can compute again from the ledger (`secguard.audit.index.rows`), and a
position: the rows of all events before it are in. Answers are read from the ledger, and `reconcile` compares the two.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from secguard.audit.index.rows import Row
from secguard.audit.query.groups import Grouping
from secguard.audit.query.query import Node
from secguard.core import FormatError
from secguard.events import Recorder
from secguard.ledger.missing import Missing

__all__ = [
    "GONE",
    "Counted",
    "Cursor",
    "Damage",
    "Found",
    "Health",
    "Index",
    "Log",
    "Refused",
    "body_of",
    "missing_bodies",
    "refuse",
]


GONE = frozenset({"ledger.body.missing", "ledger.body.format"})
"""Codes of errors that say that a file of bodies is lost or damaged."""


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


class Counted(NamedTuple):
    """Groups of matching events: how many events match, the groups in their order, and how far the index reaches."""

    total: int
    groups: list[tuple[str | int, int]]
    position: int


class Health(NamedTuple):
    """Whether an index works, and a sentence that says why not."""

    state: Literal["ok", "degraded", "down"]
    detail: str


class Refused(NamedTuple):
    """An event that a server does not take: which one, and why."""

    seq: int
    id: str
    reason: str


class Damage(NamedTuple):
    """What is wrong apart from the rows: sentences, and the ledger indices that a search may miss or find wrongly."""

    problems: list[str]
    seqs: list[int]


def refuse(events: Sequence[Refused]) -> None:
    """Let nothing be put aside.

    Raises:
        FormatError: `audit.index.item`, which names the first one.
    """
    first, more = events[0], len(events) - 1
    raise FormatError(
        "audit.index.item",
        f"the server does not take event {first.id} (ledger index {first.seq})"
        f"{f' (and {more} more)' if more else ''}: {first.reason}",
        hint="nothing is lost; check the server's settings, then run again",
    )


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
    def refused(self) -> frozenset[int]:
        """Ledger indices of the events that were put aside; a search does not find them."""
        ...

    @property
    def generation(self) -> int:
        """Another number once the index was begun anew (also when its structure changed otherwise)."""
        ...

    @property
    def ecs(self) -> bool:
        """Whether its rows hold the other fields of ECS too (`Row.ecs`)."""
        ...

    @property
    def file(self) -> Path | None:
        """The SQLite file that other processes may open to read the same rows; None if there is none."""
        ...

    def add(
        self,
        origin: str,
        first: int,
        stop: int,
        rows: Sequence[Row],
        put_aside: Callable[[Sequence[Refused]], None] = refuse,
    ) -> bool:
        """Add the rows of the events [first, stop) and move the position, in one step.

        Args:
            origin: name of the log.
            first: where the index ends now.
            stop: where it ends then.
            rows: of the events that have one.
            put_aside: records the events that a server does not take, before the position moves; by default they
                are an error.

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

    def walk(self, query: Node, *, size: int) -> Generator[Found]:
        """All events that match, `size` at a time, newest first, as they stand at the beginning."""
        ...

    def count(self, query: Node, by: Grouping) -> Counted:
        """How many events match, by the values of a field or by time.

        Raises:
            UsageError: `audit.query.groups`: too many groups.
        """
        ...

    def forget(self, seqs: Sequence[int]) -> int:
        """Delete the rows of events whose bodies were deleted by policy; returns how many there were.

        Raises:
            RefusedError: the account may not delete.
        """
        ...

    def health(self) -> Health:
        """Whether it works now; asks a server, and raises nothing that a server can cause."""
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
    """The stored bytes of one event; None if they are gone: deleted by policy, or by hand (`missing_bodies` tells)."""
    try:
        ((_, (body,)),) = log.scan(seq, seq + 1)
    except FormatError as error:
        if error.code not in GONE:
            raise
        return None
    return body


def missing_bodies(log: Log) -> Missing:
    """Bodies that are gone though nothing records their deletion."""
    find: Callable[[], Missing] = getattr(log, "missing", Missing)
    return find()
