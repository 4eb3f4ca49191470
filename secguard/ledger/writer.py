"""The one writer of a journal: lock, duplicates, encoding, group commit."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from secguard.core.errors import RefusedError
from secguard.core.files import translate_os_error
from secguard.events import Event, encode_many
from secguard.ledger.bodies import SALT_SIZE
from secguard.ledger.integrate import catch_up
from secguard.ledger.journal import MAX_FRAME_EVENTS
from secguard.ledger.layout import Layout
from secguard.ledger.reader import Reader
from secguard.ledger.receipts import Receipts

__all__ = ["Batch", "WriteLock", "Writer"]

KICK = 1 << 16
"""Entries that only the journal holds, from which on an integrator is started beside the writer."""
LIMIT = 1 << 20
"""Entries that only the journal holds, from which on the writer waits for the integrator."""


class WriteLock:
    """`flock` on the log's lock file: one writer on the machine."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.lock
        self._file = -1

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        if self._file < 0:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            except OSError as error:
                raise translate_os_error(error, self._path) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def acquire(self, seconds: float) -> None:
        """Take the lock, waiting at most `seconds`.

        Raises:
            RefusedError: `ledger.busy`.
        """
        deadline = time.monotonic() + seconds
        pause = 0.001
        while not self.try_acquire():
            if time.monotonic() > deadline:
                raise RefusedError(
                    "ledger.busy",
                    f"another process has been writing to the ledger for {seconds:.0f} s",
                    hint="wait for it to end, or run the service: it records for everyone",
                    where=str(self._path),
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock file, which also gives the lock back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@dataclass(frozen=True, slots=True)
class Batch:
    """Events on their way: receipts to be, and salts and bodies of the new ones."""

    receipts: Receipts
    salts: bytes
    bodies: list[bytes]


class Writer:
    """Appends to a log's journal; its caller holds the `WriteLock`."""

    def __init__(self, layout: Layout, origin: str, notices: list[str], leaf: Callable[[int], bytes]) -> None:
        self._layout = layout
        self._origin = origin
        self._notices = notices
        self._leaf = leaf
        self._reader = Reader(layout)
        self._next = 0
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def size(self) -> int:
        """Durable entries."""
        return self._reader.journal.size

    def close(self) -> None:
        """Wait for what is under way and close the files."""
        if self._child is not None:
            self._child.wait()
            self._child = None
        self._reader.close()

    def refresh(self) -> None:
        """After the lock was taken: read the tail anew and repair what a dead writer left torn.

        Raises:
            RefusedError: acknowledged entries are missing or damaged.
        """
        self._reader.refresh()
        notice = self._reader.journal.repair()
        if notice:
            self._notices.append(notice)
        self._next = self._reader.journal.size

    def prepare(self, events: Sequence[Event]) -> Batch:
        """Sort out duplicates and encode; nothing is written yet.

        Raises:
            FormatError: an event cannot be encoded, or is too large.
        """
        names = [event.id for event in events]
        bodies = encode_many(events)
        first, count = self._next, len(names)
        known = self._reader.find_many(names)
        indexes: Sequence[int] = range(first, first + count)
        duplicates: Sequence[bool] = (False,) * count
        if known or len(set(names)) != count:
            fresh: list[bytes] = []
            indexes, duplicates = [], []
            for name, body in zip(names, bodies, strict=True):
                old = known.get(name)
                duplicates.append(old is not None)
                if old is None:
                    old = known[name] = first + len(fresh)
                    fresh.append(body)
                indexes.append(old)
            bodies = fresh
        self._reader.remember(zip(names, indexes, strict=True), first + len(bodies))
        self._next += len(bodies)
        salts = os.urandom(SALT_SIZE * len(bodies))
        receipts = Receipts(self._origin, names, indexes, duplicates, self._leaf)
        receipts.hold(first, salts, bodies)
        return Batch(receipts, salts, bodies)

    def commit(self, batch: Batch, before_sync: Callable[[], object] | None = None) -> Receipts:
        """Write a prepared batch; returns when it is on the disk. After a failure only `recover` helps.

        Args:
            batch: what `prepare` made.
            before_sync: called when only the wait for the disk is left.

        Raises:
            SystemPartError: it is not; nothing of the batch counts.
        """
        if batch.bodies:
            lines = b"\n".join([*batch.bodies, b""])
            self._reader.journal.append(batch.salts, lines, len(batch.bodies), before_sync=before_sync)
        return batch.receipts

    def _commit_beside(self, batch: Batch, gate: threading.Lock) -> Receipts:
        opened = False

        def let_go() -> None:
            nonlocal opened
            opened = True
            gate.release()

        try:
            return self.commit(batch, let_go)
        finally:
            if not opened:
                gate.release()

    def recover(self) -> None:
        """Forget batches that were prepared and not written."""
        self._reader.reload()
        self._next = self._reader.journal.size

    def record(self, events: Sequence[Event]) -> Receipts:
        """Write events durably, in frames of at most `MAX_FRAME_EVENTS`.

        Raises:
            FormatError: an event cannot be encoded.
            SystemPartError: the disk failed; what was not returned is not acknowledged.
        """
        done = []
        try:
            for part in _bounded([events]):
                batch = self.prepare(part)
                done.append(self.commit(batch))
        except BaseException:
            self.recover()
            raise
        self.relieve()
        return done[0] if len(done) == 1 else Receipts.joined(self._origin, done)

    def ingest(self, batches: Iterable[Sequence[Event]]) -> Iterator[Receipts]:
        """`record` for many batches: the next is encoded while the last is on its way to the disk.

        Yields:
            The receipts of each batch, after the fdatasync that covers it.

        Raises:
            FormatError: an event cannot be encoded.
            SystemPartError: the disk failed; what was not yielded is not acknowledged.
        """
        flying: Future[Receipts] | None = None
        gate = threading.Lock()
        gate.acquire()
        with ThreadPoolExecutor(1, "ledger-sync") as thread:
            try:
                for events in _bounded(batches):
                    batch = self.prepare(events)
                    done = flying.result() if flying is not None else None
                    flying = thread.submit(self._commit_beside, batch, gate)
                    # Go on only when the other thread waits for the disk: it could not get there without the
                    # interpreter lock, which encoding the next batch would keep from it.
                    gate.acquire()
                    if done is not None:
                        yield done
                        self.relieve()
                if flying is not None:
                    done, flying = flying.result(), None
                    yield done
            except BaseException:
                if flying is not None:
                    flying.exception()
                self.recover()
                raise
        self.relieve()

    def relieve(self) -> None:
        """Have the journal turned into tiles: beside the writer, or in its place when too much waits."""
        reader = self._reader
        reader.refresh_state()
        waiting = self._next - reader.state.size
        if waiting < KICK:
            return
        if self._child is None or self._child.poll() is not None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable, "-P", "-m", "secguard.ledger", str(self._layout.root)]
            quiet = subprocess.DEVNULL
            self._child = subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
        if waiting > LIMIT:
            catch_up(self._layout.root)
            reader.refresh_state()


def _bounded(batches: Iterable[Sequence[Event]]) -> Iterator[Sequence[Event]]:
    for events in batches:
        if len(events) <= MAX_FRAME_EVENTS:
            yield events
        else:
            for at in range(0, len(events), MAX_FRAME_EVENTS):
                yield events[at : at + MAX_FRAME_EVENTS]
