"""Reading a log while others write it: entries by index from body files or the journal, and leaves by event ID."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.core.limits import read_bounded
from secguard.ledger.bodies import LOST, SALT_SIZE, commit, unpack_bodies
from secguard.ledger.ids import IdIndex
from secguard.ledger.integrate import State, event_ids, load_state, open_ids
from secguard.ledger.journal import Journal, Retired
from secguard.ledger.layout import Layout
from secguard.ledger.merkle import leaf_hash
from secguard.ledger.tiles import BUNDLE, TileReader, body_path

__all__ = ["Block", "Reader"]

MAX_BODY_FILE = 32 << 20
"""Bytes of a file with 256 bodies."""


class Block(NamedTuple):
    """Entries in columns: index of the first, joined salts, event bytes (None where pruned)."""

    first: int
    salts: bytes
    bodies: Sequence[bytes | None]


class Reader:
    """One process's view of a log; `refresh` takes in what others did."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.state = State()
        self.journal = Journal(layout.journal)
        self.recent: dict[str, int] = {}
        self._seen = 0
        self._stamp: tuple[int, int] = (0, 0)
        self._ids: IdIndex | None = None
        self._block: Block | None = None
        self.refresh_state()
        try:
            self.journal.load(self.state.size)
        except Retired:
            self.reload()

    def close(self) -> None:
        """Close all files."""
        self.journal.close()
        if self._ids is not None:
            self._ids.close()
            self._ids = None

    def refresh_state(self) -> bool:
        """Read `state` again if it was replaced."""
        info = self.layout.state.stat()
        stamp = (info.st_mtime_ns, info.st_ino)
        if stamp == self._stamp:
            return False
        self.state = load_state(self.layout)
        self._stamp = stamp
        return True

    def refresh(self) -> int:
        """Take in appended and integrated entries, and return the size of the log."""
        if self.refresh_state():
            self.journal.forget(self.state.size)
        try:
            self.journal.poll(self.state.size)
        except Retired:
            self.reload()
        return self.journal.size

    def reload(self) -> None:
        """Start afresh from the disk."""
        self.recent.clear()
        self._seen = 0
        self._block = None
        for attempt in range(10):  # an integrator may delete segments while they are listed
            self._stamp = (0, 0)
            self.refresh_state()
            try:
                self.journal.load(self.state.size)
            except (Retired, RefusedError):
                if attempt == 9:
                    raise
            else:
                return

    def block(self, index: int) -> Block:
        """The body file or journal frame that holds an entry.

        Raises:
            UsageError: `ledger.index.missing`: the log has no such entry (yet).
            FormatError: `ledger.body.format`, `ledger.body.missing`.
            RefusedError: the journal is damaged.
        """
        held = self._block
        if held is not None and held.first <= index < held.first + len(held.bodies):
            return held
        if index < 0 or (index >= self.journal.size and index >= self.refresh()):
            raise UsageError("ledger.index.missing", f"the log has no entry {index}; it ends at {self.journal.size}")
        if index >= self.state.size:
            frame = self.journal.find(index)
            try:
                if frame is None:
                    raise Retired
                self._block = Block(*self.journal.read(frame))
            except Retired:
                self.reload()
                if index >= self.state.size and self.journal.find(index) is None:
                    raise RefusedError("ledger.journal.gap", f"the journal lacks entry {index}") from None
                return self.block(index)
            return self._block
        number = index // BUNDLE
        path = self.layout.bodies / body_path(number)
        try:
            data = read_bounded(path, MAX_BODY_FILE)
        except UsageError as error:
            raise FormatError(
                "ledger.body.missing", "a file of bodies is missing", hint=LOST, where=str(path)
            ) from error
        self._block = Block(number * BUNDLE, *unpack_bodies(data, str(path)))
        return self._block

    def entry(self, index: int) -> tuple[bytes, bytes | None]:
        """Salt and event bytes of an entry; None if the body was pruned."""
        held = self.block(index)
        at = index - held.first
        return held.salts[at * SALT_SIZE : (at + 1) * SALT_SIZE], held.bodies[at]

    def leaf(self, index: int) -> bytes:
        """The leaf hash of an entry, from its body or, where that was pruned, from the tiles."""
        salt, body = self.entry(index)
        if body is not None:
            return leaf_hash(commit(salt, body))
        return TileReader(self.layout.public, self.state.size).node(0, index)

    def blocks(self, start: int, stop: int) -> Iterator[Block]:
        """Entries from `start` to `stop` in order, in blocks of at most 256."""
        at = start
        while at < stop:
            held = self.block(at)
            skip = at - held.first
            end = min(len(held.bodies), stop - held.first, skip + BUNDLE)
            yield Block(at, held.salts[skip * SALT_SIZE : end * SALT_SIZE], held.bodies[skip:end])
            at = held.first + end

    def find_many(self, names: Sequence[str]) -> dict[str, int]:
        """The entries that carry the given event IDs; call after `refresh`."""
        self.take_recent()
        found = {name: self.recent[name] for name in names if name in self.recent}
        if self.state.size == 0:
            return found
        if self._ids is None:
            self._ids = open_ids(self.layout, self.state.size)
        for position, index in self._ids.candidates(names):
            name = names[position]
            if index < self.state.size and index < found.get(name, self.state.size):
                _, body = self.entry(index)
                if body is not None and event_ids([body])[0] == name:
                    found[name] = index
        return found

    def remember(self, names: Iterable[tuple[str, int]], size: int) -> None:
        """Take note of IDs that this process is about to append; `size` is where the log will end."""
        self.recent.update(names)
        self._seen = size

    def take_recent(self) -> None:
        """Bring the IDs of entries that only the journal holds into memory, and drop those that the tables hold."""
        if self.state.size > self._seen or len(self.recent) > 2 * max(4096, self.journal.size - self.state.size):
            low = self.state.size
            self.recent = {name: index for name, index in self.recent.items() if index >= low}
            if self._ids is not None:
                self._ids.refresh()
        self._seen = max(self._seen, self.state.size)
        while self._seen < self.journal.size:
            frame = self.journal.find(self._seen)
            if frame is None:
                raise RefusedError("ledger.journal.gap", f"the journal lacks entry {self._seen}")
            columns = self.journal.read(frame)
            self.recent.update(
                zip(event_ids(columns.bodies), range(frame.first, frame.first + frame.events), strict=True)
            )
            self._seen = frame.first + frame.events
