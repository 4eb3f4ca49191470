"""From the journal to the log: commitments, tiles, entry bundles, bodies and the ID index, a bundle at a time.

Only entries that are durable in the journal are taken; only files that are fsynced are counted in `state`; only then
may the journal go. So a crash at any point costs nothing but doing the last part again. Holds `integrate.lock`; runs
in the writer, in the publisher, or beside a busy writer as `python -m secguard.ledger ROOT`.
"""

import base64
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from secguard.core.errors import FormatError, RefusedError
from secguard.core.files import atomic_write, fsync_directory, translate_os_error
from secguard.core.limits import read_bounded
from secguard.events import decode_stored
from secguard.ledger.bodies import commit_many, leaf_hashes, pack_bodies, unpack_bodies
from secguard.ledger.ids import IdIndex
from secguard.ledger.journal import Journal
from secguard.ledger.layout import Layout
from secguard.ledger.merkle import HASH_SIZE, root_of
from secguard.ledger.tiles import BUNDLE, body_path, bundle_path, pack_bundle, tile_path

__all__ = [
    "State",
    "Tail",
    "catch_up",
    "event_ids",
    "integrate",
    "integrate_once",
    "integration_lock",
    "load_state",
    "open_ids",
    "save_state",
    "write_partials",
]

_ROUND = 256
"""Bundles between two syncs to the disk (65,536 entries)."""
_SYNC_ONE_BY_ONE = 24
_GONE = b"{}"
_ID = b'{"id":"'


@dataclass(slots=True)
class State:
    """How far the log's files go.

    Attributes:
        size: entries in fsynced full bundles; a multiple of 256.
        rows: per tile level from 1 up, the joined hashes of the tile that is not full yet.
    """

    size: int = 0
    rows: list[bytearray] = field(default_factory=list)

    def copy(self) -> "State":
        """An independent copy."""
        return State(self.size, [bytearray(row) for row in self.rows])

    def push(self, root: bytes) -> list[tuple[int, int, bytes]]:
        """Add a full bundle by its subtree's root; returns the tiles it filled as (level, number, hashes)."""
        filled = []
        level, number = 1, self.size // BUNDLE
        while True:
            if len(self.rows) < level:
                self.rows.append(bytearray())
            row = self.rows[level - 1]
            row += root
            if len(row) < BUNDLE * HASH_SIZE:
                break
            filled.append((level, number >> 8 * level, bytes(row)))
            root = root_of(row)
            row.clear()
            level += 1
        self.size += BUNDLE
        return filled

    def root(self, tail: bytes) -> bytes:
        """The tree's root with the joined leaf hashes `tail` after the full bundles."""
        value = root_of(tail) if tail else b""
        for row in self.rows:
            if row or value:
                value = root_of(bytes(row) + value)
        return value or root_of(b"")


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    size: int
    rows: list[str]
    sha256: str


def _digest(size: int, rows: Sequence[str]) -> str:
    return hashlib.sha256(f"{size} {' '.join(rows)}".encode()).hexdigest()


def load_state(layout: Layout) -> State:
    """Read `state`.

    Raises:
        FormatError: `ledger.state.damaged`.
    """
    try:
        stored = msgspec.json.decode(read_bounded(layout.state, 1 << 20), type=_Stored)
        rows = [bytearray(base64.b64decode(row, validate=True)) for row in stored.rows]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        stored, rows = None, []
    sound = stored is not None and stored.v == 1 and stored.sha256 == _digest(stored.size, stored.rows)
    if stored is None or not sound:
        raise FormatError(
            "ledger.state.damaged",
            "the log's state file is damaged",
            hint="restore it from a backup; tiles and journal are untouched",
            where=str(layout.state),
        )
    return State(stored.size, rows)


def save_state(layout: Layout, state: State) -> None:
    """Write `state` durably.

    Raises:
        SystemPartError: it cannot be written.
    """
    rows = [base64.b64encode(row).decode() for row in state.rows]
    stored = _Stored(1, state.size, rows, _digest(state.size, rows))
    atomic_write(layout.state, msgspec.json.encode(stored))


@contextmanager
def integration_lock(layout: Layout) -> Iterator[None]:
    """Hold `integrate.lock`: one integrator or publisher at a time."""
    descriptor = os.open(layout.integrate_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def event_ids(bodies: Sequence[bytes]) -> list[str]:
    """The IDs of encoded events; `id` is the first field, as secguard writes it."""
    stops = [body.find(b'"', len(_ID)) for body in bodies]
    heads = b"\n".join([body[:stop] for body, stop in zip(bodies, stops, strict=True)])
    if bodies and heads.count(_ID) == len(bodies) and -1 not in stops and b"\\" not in heads:
        return heads.decode().replace(_ID.decode(), "").split("\n")
    names = []
    for body in bodies:
        stop = body.find(b'"', 7)
        plain = body.startswith(b'{"id":"') and stop > 0
        name = body[7:stop] if plain else b"\\"
        names.append(name.decode() if b"\\" not in name else decode_stored(body).id if body != _GONE else "")
    return names


def _put(path: Path, data: bytes, mode: int = 0o644) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def _sync_files(root: Path, paths: Sequence[Path]) -> None:
    if len(paths) > _SYNC_ONE_BY_ONE and sys.platform == "linux":
        # One syncfs(2) instead of thousands of fsyncs; since Linux 5.8 it reports write errors.
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if libc.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(root))
        finally:
            os.close(descriptor)
        return
    folders: dict[Path, None] = {}
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        parent = path.parent
        while parent != root and parent not in folders:
            folders[parent] = None
            parent = parent.parent
    for folder in folders:
        fsync_directory(folder)


def open_ids(layout: Layout, size: int, *, write: bool = False, locked: bool = False) -> IdIndex:
    """Open the ID index; where it lacks leaves below `size`, build it again from the bodies first.

    Args:
        layout: the log's folder.
        size: entries in body files.
        write: for inserting.
        locked: the caller holds `integration_lock`.

    Raises:
        FormatError: bodies are damaged or missing.
        SystemPartError: it cannot be written.
    """
    try:
        index = IdIndex(layout.ids, write=write)
    except (FormatError, FileNotFoundError):
        pass
    else:
        if index.covers(size) and not _building(layout).exists():
            return index
        index.close()
    try:
        with nullcontext() if locked else integration_lock(layout):
            _rebuild_ids(layout, size)
    except OSError as error:
        raise translate_os_error(error, error.filename or layout.ids) from error
    return IdIndex(layout.ids, write=write)


def _building(layout: Layout) -> Path:
    return layout.ids / "building"


def _rebuild_ids(layout: Layout, size: int) -> None:
    layout.ids.mkdir(exist_ok=True, mode=0o750)
    _building(layout).touch()  # until it is gone, nobody believes the tables
    for path in (*layout.ids.glob("*.tab"), layout.ids / "secret"):
        path.unlink(missing_ok=True)
    index = IdIndex(layout.ids, write=True)
    try:
        for number in range(size // BUNDLE):
            path = layout.bodies / body_path(number)
            _, bodies = unpack_bodies(path.read_bytes(), str(path))
            # A pruned body has no ID any more; nothing can ask for the one put in its place.
            index.insert(number * BUNDLE, event_ids([_GONE if body is None else body for body in bodies]))
        index.sync()
    finally:
        index.close()
    _building(layout).unlink()


class _Builder:
    """Takes full bundles and writes their files; nothing counts before `settle`."""

    def __init__(self, layout: Layout, state: State) -> None:
        self._layout = layout
        self.state = state
        self._written: list[Path] = []
        self._ids = open_ids(layout, state.size, write=True, locked=True)
        self._since = 0

    def close(self) -> None:
        self._ids.close()

    def add(self, salts: bytes, bodies: Sequence[bytes]) -> None:
        number = self.state.size // BUNDLE
        commitments = commit_many(salts, bodies)
        hashes = leaf_hashes(commitments)
        self._write(self._layout.public / bundle_path(number), pack_bundle(commitments))
        self._write(self._layout.public / tile_path(0, number), hashes)
        self._write(self._layout.bodies / body_path(number), pack_bodies(salts, bodies), 0o640)
        self._ids.insert(self.state.size, event_ids(bodies))
        for level, place, row in self.state.push(root_of(hashes)):
            self._write(self._layout.public / tile_path(level, place), row)
        self._since += 1

    def _write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        _put(path, data, mode)
        self._written.append(path)

    @property
    def due(self) -> bool:
        return self._since >= _ROUND

    def settle(self) -> None:
        if self._written:
            self._ids.sync()
            _sync_files(self._layout.root, self._written)
            save_state(self._layout, self.state)
            for path in self._written:  # partial versions of what is full and durable now
                shutil.rmtree(path.with_name(path.name + ".p"), ignore_errors=True)
            self._written.clear()
            self._since = 0


@dataclass(frozen=True, slots=True)
class Tail:
    """Durable entries after the last full bundle (fewer than 256): joined salts and bodies."""

    salts: bytes
    bodies: list[bytes]


def integrate(layout: Layout, journal: Journal, state: State, *, progress: Callable[[int], None] | None = None) -> Tail:
    """Turn all full bundles of the journal into files; the caller holds `integration_lock` and gave a fresh journal.

    Args:
        layout: the log's folder.
        journal: loaded; its entries are synced first, whoever wrote them.
        state: what `load_state` gave; moved forward.
        progress: told the size after each sync.

    Returns:
        What is left over.

    Raises:
        RefusedError: the journal is damaged or lacks entries.
        SystemPartError: files cannot be written; the journal keeps everything.
    """
    if journal.size <= state.size and journal.size != state.size:
        raise RefusedError(
            "ledger.journal.gap", "the journal ends before the log's files do", where=str(layout.journal)
        )
    salts, bodies = b"", []
    builder = _Builder(layout, state)
    try:
        if journal.size > state.size:
            journal.sync()
        at = state.size
        while at < journal.size:
            frame = journal.find(at)
            if frame is None:
                raise RefusedError("ledger.journal.gap", f"the journal lacks entry {at}", where=str(layout.journal))
            columns = journal.read(frame)
            skip = at - frame.first
            salts += columns.salts[skip * 16 :]
            bodies += columns.bodies[skip:]
            at = frame.first + frame.events
            full = len(bodies) // BUNDLE
            for number in range(full):
                part = slice(number * BUNDLE, (number + 1) * BUNDLE)
                builder.add(salts[part.start * 16 : part.stop * 16], bodies[part])
            if full:
                salts, bodies = salts[full * BUNDLE * 16 :], bodies[full * BUNDLE :]
            if builder.due:
                builder.settle()
                journal.retire(state.size)
                if progress is not None:
                    progress(state.size)
        builder.settle()
        journal.retire(state.size)
    except OSError as error:
        raise translate_os_error(error, error.filename or layout.root) from error
    finally:
        builder.close()
    return Tail(salts, bodies)


def write_partials(layout: Layout, state: State, tail: Tail) -> bytes:
    """Write the partial tiles and the partial bundle of a tree that ends in `tail`, durably.

    Returns:
        The tree's root.

    Raises:
        SystemPartError: they cannot be written.
    """
    commitments = commit_many(tail.salts, tail.bodies)
    hashes = leaf_hashes(commitments)
    size = state.size + len(tail.bodies)
    paths: list[Path] = []

    def put(name: str, data: bytes) -> None:
        path = layout.public / name
        if path.exists() and path.read_bytes() == data:
            return
        _put(path, data)
        paths.append(path)

    try:
        if commitments:
            put(bundle_path(size // BUNDLE, len(commitments)), pack_bundle(commitments))
            put(tile_path(0, size // BUNDLE, len(commitments)), hashes)
        for level, row in enumerate(state.rows, 1):
            if row:
                put(tile_path(level, size >> 8 * (level + 1), len(row) // HASH_SIZE), bytes(row))
        _sync_files(layout.root, paths)
    except OSError as error:
        raise translate_os_error(error, error.filename or layout.root) from error
    return state.root(hashes)


def integrate_once(layout: Layout) -> tuple[int, int]:
    """Turn what the journal holds now into files, under the lock.

    Returns:
        Entries in files before and after.

    Raises:
        SecguardError: see `integrate`.
    """
    with integration_lock(layout):
        state = load_state(layout)
        before = state.size
        journal = Journal(layout.journal)
        try:
            journal.load(before)
            integrate(layout, journal, state)
        finally:
            journal.close()
    return before, state.size


def catch_up(root: Path) -> int:
    """Integrate until nothing is left, and return the size reached."""
    layout = Layout(root)
    while True:
        before, size = integrate_once(layout)
        if size - before < BUNDLE:
            return size
