"""The ledger of one site: record durably, read back, publish checkpoints, hand out receipts."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from secguard.core.clock import Clock, SystemClock
from secguard.core.errors import FormatError, RefusedError, SystemPartError, UsageError
from secguard.core.files import atomic_write, fsync_directory, translate_os_error
from secguard.core.progress import Progress, silent
from secguard.events import Event, Receipt, decode_stored
from secguard.keys import Signer
from secguard.ledger.anchor import Anchor
from secguard.ledger.client import record_remotely
from secguard.ledger.integrate import State, save_state
from secguard.ledger.layout import Config, Layout, read_config
from secguard.ledger.merkle import consistency_proof, inclusion_proof, node_hash, root_of, subtree, verify_inclusion
from secguard.ledger.missing import Missing, find_missing
from secguard.ledger.note import check_name, parse_checkpoint
from secguard.ledger.pruning import delete_bodies, in_journal, settle_journal, turn_journal
from secguard.ledger.publish import check_history, publish, put_cosigned, read_checkpoint
from secguard.ledger.reader import Reader
from secguard.ledger.receipts import format_proof, format_receipt
from secguard.ledger.tiles import BUNDLE, TileReader
from secguard.ledger.writer import WriteLock, Writer

__all__ = ["Bodies", "Ledger"]

_WAIT = 5.0


class Bodies(NamedTuple):
    """Consecutive events as stored: index of the first, JSON bytes of each (None where pruned)."""

    first: int
    bodies: Sequence[bytes | None]


class Ledger:
    """One log. Any number of processes may have it open; a `Recorder`.

    Whoever records takes the write lock for the moment; where a service holds it, the service records for all.
    """

    def __init__(self, root: Path, config: Config, clock: Clock, socket: Path) -> None:
        self.root = root
        self.origin = config.origin
        self.clock = clock
        self.socket = socket
        self.notices: list[str] = []
        self._config = config
        self._layout = Layout(root)
        self._mutex = threading.RLock()
        self._reader = Reader(self._layout)
        self._lock = WriteLock(self._layout)
        self._writer: Writer | None = None
        self._held = 0

    @classmethod
    def create(
        cls, root: Path, origin: str, *, anchor: Path, clock: Clock | None = None, socket: Path | None = None
    ) -> Self:
        """Make an empty log.

        Args:
            root: its folder; made if missing.
            origin: the log's name, part of every checkpoint.
            anchor: folder where the last checkpoint is kept apart; best on another disk or machine. Many logs may
                share it: the file is named after the origin.
            clock: default: the machine's.
            socket: where a service listens; default `ledger.sock` beside the folder.

        Raises:
            UsageError: the origin cannot name a log.
            RefusedError: `ledger.exists`, `ledger.anchor.taken`.
            SystemPartError: it cannot be written.
        """
        layout = Layout(root)
        check_name(origin)
        if layout.config.exists():
            raise RefusedError("ledger.exists", "there is a ledger already", hint="open it", where=str(root))
        if Anchor(anchor, origin).read() is not None:
            raise RefusedError(
                "ledger.anchor.taken",
                "the anchor holds a checkpoint: a new log would be a second history",
                hint="give another anchor, or restore the log that this one belongs to",
                where=str(anchor),
            )
        try:
            for folder in (root, layout.public, layout.bodies, layout.journal, layout.ids, anchor):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (layout.bodies, layout.journal, layout.ids):
                folder.chmod(0o750)
            save_state(layout, State())
            place, around = anchor.resolve(), root.parent.resolve()
            inside = place.is_relative_to(around)  # then it moves with the folder that holds the log
            config = Config(1, origin, str(Path("..") / place.relative_to(around) if inside else place))
            atomic_write(layout.config, msgspec.json.encode(config) + b"\n")
            fsync_directory(root.parent)
        except OSError as error:
            raise translate_os_error(error, error.filename or root) from error
        return cls.open(root, clock=clock, socket=socket)

    @classmethod
    def open(cls, root: Path, *, clock: Clock | None = None, socket: Path | None = None) -> Self:
        """Open a log; takes no lock.

        Raises:
            UsageError: there is none.
            FormatError: its configuration or state is damaged.
            RefusedError: the journal lacks entries.
        """
        config = read_config(Layout(root))
        return cls(root, config, clock or SystemClock(), socket or root.parent / "ledger.sock")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files and give back the lock."""
        with self._mutex:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._lock.close()
            self._reader.close()

    @property
    def size(self) -> int:
        """Number of durable events, those of other processes included."""
        with self._mutex:
            return self._reader.refresh()

    @property
    def anchor(self) -> Path:
        """The file where the last checkpoint is kept apart."""
        return Anchor(self._layout.root / self._config.anchor, self.origin).path

    @contextmanager
    def hold(self, seconds: float = _WAIT) -> Iterator[Writer]:
        """Be the writer for longer: hold the lock over many batches.

        Raises:
            RefusedError: `ledger.busy`; or entries are missing or damaged.
        """
        with self._mutex:
            if not self._held:
                self._lock.acquire(seconds)
            self._held += 1
            try:
                yield self._ready()
            finally:
                self._held -= 1
                if not self._held:
                    self._lock.release()

    def _ready(self) -> Writer:
        if self._writer is None:
            writer = Writer(self._layout, self.origin, self.notices, self._reader.leaf)
            try:
                writer.refresh()
                check_history(self._layout, self._config, writer.size)
            except BaseException:
                writer.close()
                raise
            self._writer = writer
        elif self._held == 1:
            self._writer.refresh()
        return self._writer

    def record(self, events: Sequence[Event]) -> Sequence[Receipt]:
        """Write events durably; returns after fdatasync, one receipt an event, in order.

        An event whose ID is in the log already is not written again; its receipt says `duplicate`.

        Raises:
            SecguardError: nothing may be released.
        """
        if not events:
            return []
        with self._mutex:
            deadline = time.monotonic() + _WAIT
            while not self._held and not self._lock.try_acquire():
                try:
                    receipts = record_remotely(self.socket, events, self.origin)
                except SystemPartError as error:
                    # The service ended before it answered; trying again records nothing twice.
                    if error.code != "ledger.service.lost" or time.monotonic() > deadline:
                        raise
                    continue
                if receipts is not None:
                    return receipts
                break
            with self.hold() as writer:
                return writer.record(events)

    def ingest(self, batches: Iterable[Sequence[Event]]) -> Iterator[Sequence[Receipt]]:
        """Record many batches, holding the lock: the next is encoded while the last is on its way to the disk.

        Yields:
            One sequence of receipts a batch (long batches are split), after the fdatasync that covers it.

        Raises:
            SecguardError: what was not yielded is not acknowledged.
        """
        with self.hold() as writer:
            yield from writer.ingest(batches)

    def scan(self, start: int = 0, stop: int | None = None) -> Iterator[Bodies]:
        """Events as stored, in order, at most 256 at a time.

        Args:
            start: first index.
            stop: one past the last; default: all that is durable now.

        Raises:
            UsageError: the log has no such entries.
            FormatError: bodies are damaged or missing.
        """
        at, end = start, self.size if stop is None else stop
        while at < end:
            with self._mutex:
                block = next(self._reader.blocks(at, end))
            yield Bodies(at, block.bodies)
            at += len(block.bodies)

    def missing(self) -> Missing:
        """Bodies that are gone though nothing records their deletion: somebody deleted them by hand, or lost a file.

        Raises:
            SystemPartError: a file that is there cannot be read.
        """
        with self._mutex:
            self._reader.refresh()
            files = self._reader.state.size // BUNDLE
        # Read at last: a deletion that was recorded meanwhile is one.
        return find_missing(self._layout.bodies, files, lambda: self.scan(files * BUNDLE, self.size))

    def event(self, index: int) -> Event:
        """The event at an index.

        Raises:
            UsageError: there is none.
            RefusedError: `ledger.body.pruned`.
        """
        with self._mutex:
            return decode_stored(self._entry(index)[1])

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        salt, body = self._reader.entry(index)
        if body is None:
            raise RefusedError("ledger.body.pruned", f"the body of entry {index} was deleted by retention")
        return salt, body

    def find(self, event_id: str) -> int | None:
        """The index of the event with this ID, or None."""
        with self._mutex:
            self._reader.refresh()
            return self._reader.find_many([event_id]).get(event_id)

    def delete_bodies(self, indexes: Sequence[int], progress: Progress = silent) -> int:
        """Delete the bodies of entries (sorted) for good; their deletion must be recorded already.

        The journal keeps a copy of the newest entries. Where it has one of these, `fill` must have been called.

        Returns:
            How many were still there.

        Raises:
            SecguardError: see `secguard.ledger.pruning.delete_bodies`.
        """
        gone = delete_bodies(self._layout, indexes, progress)
        with self._mutex:
            self._reader.reload()
        return gone

    def in_journal(self, indexes: Sequence[int]) -> bool:
        """Whether the journal still holds a copy of one of these entries (sorted), which deletion must reach, too."""
        return in_journal(self._layout, indexes)

    def fill(self, make: Callable[[int], Sequence[Event]]) -> int:
        """Turn the journal's newest segment into files, and let it go: the last bundle is filled up.

        Args:
            make: gives as many events as are asked for, to fill up with.

        Returns:
            How many were recorded.

        Raises:
            SecguardError: they could not be recorded, or files not be made.
        """
        start = self.size
        turn_journal(self._layout)
        filled = 0
        while True:  # others may record meanwhile
            missing = -self.size % BUNDLE
            if not filled and not missing:
                missing = BUNDLE  # nothing turns the journal but a frame
            if missing:
                filled += len(self.record(make(missing)))
            if settle_journal(self._layout) >= start:
                return filled

    def publish(self, signer: Signer, *, name: str | None = None) -> bytes:
        """Sign a checkpoint of everything durable and store it, at the anchor first.

        Args:
            signer: the log's Ed25519 key.
            name: key name in the note; default: the log's origin.

        Raises:
            RefusedError: it would make a second history (`ledger.checkpoint.fork`, `.rollback`, `ledger.anchor.*`).
            SecguardError: see `secguard.ledger.publish.publish`.
        """
        return publish(self._layout, self._config, signer, name or self.origin)

    def put_cosigned(self, old: bytes, new: bytes) -> bool:
        """Keep cosignatures with the last checkpoint; see `secguard.ledger.publish.put_cosigned`."""
        return put_cosigned(self._layout, self._config, old, new)

    def root_at(self, size: int) -> bytes:
        """The root of the tree of the first `size` entries, published or not, by the tiles where there are any.

        Raises:
            UsageError: the log has not that many.
            FormatError: what it takes is damaged or missing.
        """
        if not 0 <= size <= self.size:
            raise UsageError("ledger.proof.size", f"the log has {self.size} entries, not {size}")
        note = self.checkpoint()
        published = parse_checkpoint(note, str(self._layout.checkpoint)).size if note is not None else 0
        tiles = TileReader(self._layout.public, published)

        def node(level: int, index: int) -> bytes:
            if (index + 1) << level <= published:
                with contextlib.suppress(FormatError):  # a missing tile is made good by what lies below
                    return tiles.node(level, index)
            if level == 0:
                with self._mutex:
                    return self._reader.leaf(index)
            return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

        return subtree(node, 0, size) if size else root_of(b"")

    def checkpoint(self) -> bytes | None:
        """The checkpoint that was published last, or None."""
        return read_checkpoint(self._layout)

    def receipt(
        self,
        index: int,
        chain: Sequence[str] = (),
        crls: Sequence[bytes] = (),
        witnesses: Sequence[Sequence[str]] = (),
    ) -> bytes:
        """A self-contained offline receipt under the last checkpoint; see `check_receipt`.

        Args:
            index: the event.
            chain: PEM certificates of the log's key, leaf first.
            crls: revocation lists of their issuers, DER or PEM.
            witnesses: PEM certificates of the witnesses that cosigned, one chain a witness.

        Raises:
            RefusedError: `ledger.receipt.unpublished`: publish first; `ledger.body.pruned`;
                `ledger.inclusion.invalid`: the log was tampered with.
        """
        note = self.checkpoint()
        signed = parse_checkpoint(note, str(self._layout.checkpoint)) if note is not None else None
        if note is None or signed is None or index >= signed.size:
            with self._mutex:
                self._reader.block(index)
            raise RefusedError(
                "ledger.receipt.unpublished",
                f"no checkpoint covers entry {index} yet",
                hint="run: secguard ledger checkpoint",
            )
        nodes = TileReader(self._layout.public, signed.size).node
        proof = inclusion_proof(nodes, index, signed.size)
        with self._mutex:
            salt, body = self._entry(index)
            leaf = self._reader.leaf(index)
        verify_inclusion(leaf, index, signed.size, proof, signed.root)
        return format_receipt(format_proof(index, proof, note), salt, body, chain, crls=crls, witnesses=witnesses)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `new` leaves only adds to the one of `old` leaves; both published sizes.

        Raises:
            UsageError: not 0 < old <= new, or `new` is past the last checkpoint.
        """
        note = self.checkpoint()
        size = parse_checkpoint(note, str(self._layout.checkpoint)).size if note is not None else 0
        if new > size:
            raise UsageError("ledger.proof.size", f"no checkpoint covers {new} entries", hint="publish first")
        return consistency_proof(TileReader(self._layout.public, size).node, old, new)
