"""Files that grow: read once from the first byte to the last, through rotation by renaming and by copy and truncate.

What is read is named by a generation, a random name given to the content that began at offset 0, and an offset in it.
The generation is known again after a restart by inode and the SHA-256 of its head; it is on the disk before its first
event is recorded. A position that was lost only means that lines are read again: their IDs follow from generation and
offset, so the ledger takes none of them twice.
"""

import fnmatch
import gzip
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from secguard.core.errors import FormatError, SystemPartError
from secguard.core.files import atomic_write
from secguard.core.limits import read_bounded

__all__ = ["Chunk", "Gap", "Generation", "Line", "Tail"]

HEAD = 4096
_CHUNK = 256 << 10
_MAX_OPEN = 1024
_LINGER = 10.0
"""Seconds for which a rotated file may still be written to."""


class Generation(msgspec.Struct, kw_only=True):
    """The content of a file from its offset 0, wherever it lies by now.

    Attributes:
        name: its random name.
        path: where it was first found.
        inode: device and inode, `dev:inode`.
        head: SHA-256 of its first `head_size` bytes, in hex.
        head_size: at most 4096; grows with the file.
        offset: all before it is recorded.
        seen: the size that was seen last.
        rotated: it lies no more where it is written to.
    """

    name: str
    path: str
    inode: str
    head: str
    head_size: int
    offset: int = 0
    seen: int = 0
    rotated: bool = False


class _Saved(msgspec.Struct, kw_only=True):
    version: int = 1
    generations: list[Generation] = []


class Line(NamedTuple):
    """A line: where it begins, its bytes (None if too long to keep), and what is known of one that is too long."""

    offset: int
    data: bytes | None
    size: int
    sha256: str
    head: bytes


class Chunk(NamedTuple):
    """Lines of one generation, the place after them, and whether they were written since the last read (`live`)."""

    generation: Generation
    lines: list[Line]
    end: int
    live: bool


class Gap(NamedTuple):
    """Content that is gone before it was read: of which file, how many bytes at least, and how."""

    path: str
    generation: str
    bytes: int
    how: str


@dataclass(slots=True, eq=False)
class _Open:
    generation: Generation
    file: BinaryIO
    fresh: bool  # at the path that is written to, not rotated away
    at: int  # what is read; `generation.offset` follows when it is recorded
    packed: bool = False
    inode: str = ""  # of the file that is open: a copy's differs from the generation's
    idle_since: float = -1.0
    skip: "hashlib._Hash | None" = None  # a line too long to keep is under way
    skip_size: int = 0
    skip_head: bytes = b""
    quiet: bool = False  # rotated, and nothing more will come
    caught_up: bool = False


def _inode(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _beside(path: Path, generation: Generation) -> bool:
    """Whether a file is named as what the other was rotated to: `a.log.1`, `a-20261101.log`; or as itself."""
    stem = Path(generation.path).stem
    return path.name.startswith(stem) and not path.name[len(stem) : len(stem) + 1].isalnum()


class Tail:
    """Follows the files of one source.

    Args:
        patterns: absolute paths; the last part may have `*` and `?`.
        state: the file that keeps the positions.
        limit: bytes of a line that is kept.
        from_end: at the very first start, begin at the end of files that are there.

    Raises:
        FormatError: the state is damaged.
    """

    def __init__(self, patterns: list[Path], state: Path, limit: int, *, from_end: bool = False) -> None:
        self._patterns = patterns
        self._state = state
        self._limit = limit
        self._open: list[_Open] = []
        self._lost: list[Generation] = []  # known, and not found again yet
        self._dirty = False
        self._gaps: list[Gap] = []
        self._why: dict[str, str] = {}
        self._turn = 0
        self.problem = ""
        first = not state.exists()
        if not first:
            try:
                self._lost = msgspec.json.decode(read_bounded(state), type=_Saved).generations
            except msgspec.MsgspecError as error:
                raise FormatError(
                    "audit.source.state",
                    f"the positions are damaged: {error}",
                    hint="move the file away: all is read again, and what the ledger has is not recorded twice",
                    where=str(state),
                ) from error
        self._skip_existing = first and from_end
        self.scan(0.0)
        self._skip_existing = False

    @property
    def behind(self) -> int:
        """Bytes that are not read yet."""
        return sum(max(0, one.generation.seen - one.at) for one in self._open if not one.packed)

    @property
    def paths(self) -> list[str]:
        """Files that are read."""
        return [one.generation.path for one in self._open if one.fresh]

    def close(self) -> None:
        """Save the positions and close the files."""
        self.save()
        for one in self._open:
            one.file.close()
        self._open.clear()

    def save(self) -> None:
        """Write the positions down, if they have changed.

        Raises:
            SystemPartError: they cannot be written.
        """
        if self._dirty:
            generations = [one.generation for one in self._open] + self._lost
            self._state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic_write(self._state, msgspec.json.encode(_Saved(generations=generations)), mode=0o600)
            self._dirty = False

    def gaps(self) -> list[Gap]:
        """What was found to be gone since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def settle(self, generation: Generation, end: int) -> None:
        """All lines before `end` are recorded."""
        if end > generation.offset:
            generation.offset = end
            self._dirty = True

    # Finding files

    def _candidates(self) -> Iterator[tuple[Path, bool]]:
        """Files that are followed, and (False) those beside them that may be what a followed one was rotated to."""
        for pattern in self._patterns:
            name, wild = pattern.name, any(sign in pattern.name for sign in "*?[")
            stem = name.partition("*")[0].partition("?")[0].partition("[")[0] if wild else pattern.stem
            try:
                entries = sorted(entry.name for entry in os.scandir(pattern.parent) if entry.name.startswith(stem))
            except OSError as error:
                self.problem = f"{pattern.parent}: {os.strerror(error.errno or 0)}"
                continue
            for entry in entries:
                packed = entry.endswith(".gz")
                fresh = not packed and (fnmatch.fnmatchcase(entry, name) if wild else entry == name)
                yield pattern.parent / entry, fresh

    def scan(self, now: float) -> None:
        """Look for new, rotated and truncated files; call it before `read`, some times a second."""
        self.problem = ""
        self._check_open(now)
        found = list(dict.fromkeys(self._candidates()))
        known = {one.inode for one in self._open}
        fresh_inodes: set[str] = set()
        strangers: list[tuple[Path, bool, os.stat_result]] = []
        for path, fresh in found:
            try:
                status = path.stat()
            except OSError:
                continue
            if not os.path.isfile(path):  # noqa: PTH113 - the same stat, and follows symbolic links
                continue
            if fresh:
                fresh_inodes.add(_inode(status))
            if _inode(status) not in known:
                strangers.append((path, fresh, status))
        for one in self._open:
            one.fresh = one.inode in fresh_inodes
            if one.generation.rotated == one.fresh:
                one.generation.rotated, self._dirty = not one.fresh, True
        # First those that are exactly what was known, then copies of what was, then new ones.
        for take in (self._take_known, self._take_copy, self._take_new):
            strangers = [stranger for stranger in strangers if not take(*stranger)]
        for generation in self._lost:
            unread = max(0, generation.seen - generation.offset)
            if unread or (generation.head_size and not generation.rotated):
                why = self._why.get(generation.name, "the file is gone")
                self._gaps.append(Gap(generation.path, generation.name, unread, why))
            self._dirty = True
        self._lost.clear()
        self._why.clear()
        if self._dirty:
            self.save()

    def _check_open(self, now: float) -> None:
        for one in list(self._open):
            generation = one.generation
            if one.packed:
                one.quiet = True
                if one.caught_up and generation.offset >= one.at:
                    self._drop(one)
                continue
            status = os.fstat(one.file.fileno())
            truncated = status.st_size < one.at or not self._same_head(one)
            if truncated:
                # The rest is in a copy, or gone: `scan` looks for the copy.
                one.file.close()
                self._open.remove(one)
                generation.seen = max(generation.seen, one.at)
                self._why[generation.name] = "the file was truncated"
                self._lost.append(generation)
                self._dirty = True
                continue
            if status.st_size != generation.seen or one.fresh:
                generation.seen = status.st_size
                one.idle_since = now
                one.quiet = False
            elif now - one.idle_since > _LINGER:
                one.quiet = True
                if one.at >= generation.seen and generation.offset >= one.at:
                    self._drop(one)

    def _drop(self, one: _Open) -> None:
        """A rotated file that is read to its end is forgotten."""
        one.file.close()
        self._open.remove(one)
        self._dirty = True

    def _same_head(self, one: _Open) -> bool:
        generation = one.generation
        data = os.pread(one.file.fileno(), HEAD, 0)
        if len(data) < generation.head_size or _digest(data[: generation.head_size]) != generation.head:
            return False
        if len(data) > generation.head_size:
            generation.head, generation.head_size = _digest(data), len(data)
            self._dirty = True
        return True

    def _opened(self, path: Path, *, packed: bool) -> BinaryIO | None:
        if len(self._open) >= _MAX_OPEN:
            self.problem = f"more than {_MAX_OPEN} files"
            return None
        try:
            return gzip.open(path, "rb") if packed else path.open("rb", buffering=0)  # type: ignore[return-value] # GzipFile reads and seeks like a file
        except OSError as error:
            self.problem = f"{path}: {os.strerror(error.errno or 0)}"
            return None

    def _take_known(self, path: Path, fresh: bool, status: os.stat_result) -> bool:
        inode = _inode(status)
        generation = next((item for item in self._lost if item.inode == inode and item.head_size), None)
        if generation is None or path.suffix == ".gz":
            return False
        file = self._opened(path, packed=False)
        if file is None:
            return False
        one = _Open(generation, file, fresh, generation.offset, inode=inode)
        if os.fstat(file.fileno()).st_size < generation.offset or not self._same_head(one):
            file.close()
            return False
        self._adopt(one)
        return True

    def _take_copy(self, path: Path, fresh: bool, status: os.stat_result) -> bool:
        """A copy (also a compressed one) of a file that was truncated or removed: the rest is read from it."""
        del fresh
        packed = path.suffix == ".gz"
        known = [*self._lost, *(one.generation for one in self._open if self._removed(one))]
        if not known or status.st_size == 0:
            return False
        file = self._opened(path, packed=packed)
        if file is None:
            return False
        try:
            head = file.read(HEAD)
            for generation in known:
                size = generation.head_size
                if (
                    not size
                    or not _beside(path, generation)
                    or len(head) < size
                    or _digest(head[:size]) != generation.head
                ):
                    continue
                if not packed and status.st_size < generation.offset:
                    continue
                self._adopt(_Open(generation, file, False, generation.offset, packed=packed, inode=_inode(status)))
                return True
        except (OSError, EOFError):
            pass
        file.close()
        return False

    def _removed(self, one: _Open) -> bool:
        """Read to its end, and without a name: a file that was written anew beside and renamed over it goes on."""
        if one.packed or one.fresh:
            return False
        status = os.fstat(one.file.fileno())
        return status.st_nlink == 0 and one.at >= status.st_size

    def _adopt(self, one: _Open) -> None:
        for before in [item for item in self._open if item.generation is one.generation]:
            before.file.close()
            self._open.remove(before)
        if one.generation in self._lost:
            self._lost.remove(one.generation)
        one.generation.inode = one.inode
        self._open.append(one)
        self._dirty = True

    @staticmethod
    def _is_copy(path: Path, head: bytes, status: os.stat_result, one: _Open) -> bool:
        generation, size = one.generation, one.generation.head_size
        if one.packed or not size or not _beside(path, generation):
            return False
        other = os.fstat(one.file.fileno())
        alike = len(head) >= size and _digest(head[:size]) == generation.head
        return alike and bool(other.st_nlink) and status.st_size <= other.st_size

    def _take_new(self, path: Path, fresh: bool, status: os.stat_result) -> bool:
        if not fresh:
            return False
        file = self._opened(path, packed=False)
        if file is None:
            return False
        status = os.fstat(file.fileno())
        head = os.pread(file.fileno(), HEAD, 0)
        if any(self._is_copy(path, head, status, one) for one in self._open):
            file.close()  # rotation is about to truncate the other: the copy is of use then
            return True
        start = status.st_size if self._skip_existing else 0
        generation = Generation(
            name=secrets.token_hex(8),
            path=str(path),
            inode=_inode(status),
            head=_digest(head),
            head_size=len(head),
            offset=start,
            seen=status.st_size,
        )
        self._open.append(_Open(generation, file, True, start, inode=generation.inode))
        self._dirty = True
        return True

    # Reading

    def read(self) -> Chunk | None:
        """The next lines of any file; None if there are none now."""
        for _ in range(len(self._open)):
            self._turn = (self._turn + 1) % len(self._open)
            chunk = self._read(self._open[self._turn])
            if chunk is not None:
                return chunk
        return None

    def _read(self, one: _Open) -> Chunk | None:
        try:
            one.file.seek(one.at)
            data = one.file.read(_CHUNK)
        except (OSError, EOFError) as error:
            self.problem = f"{one.generation.path}: {error}"
            return None
        if data and not one.packed and not self._same_head(one):
            return None  # truncated while it was read: what came is of nobody knows which content
        live, one.caught_up = one.caught_up, len(data) < _CHUNK
        if one.skip is not None:
            return self._skip_on(one, data) if data or one.quiet else None
        if not data:
            return None
        start = one.at
        lines: list[Line] = []
        end = data.rfind(b"\n") + 1
        if end == 0:
            if one.quiet and one.caught_up:  # rotated, and never ended: what stands there is all there will be
                lines = [_line(start, data, self._limit)]
                one.at += len(data)
            elif len(data) >= _CHUNK:
                one.skip, one.caught_up = hashlib.sha256(), False
                return self._skip_on(one, data)
            else:
                return None
        else:
            at = 0
            for raw in data[: end - 1].split(b"\n"):
                lines.append(_line(start + at, raw, self._limit))
                at += len(raw) + 1
            one.at += end
        return Chunk(one.generation, lines, one.at, live)

    def _skip_on(self, one: _Open, data: bytes) -> Chunk | None:
        """A line longer than a chunk: hash it piece by piece."""
        assert one.skip is not None
        end = data.find(b"\n")
        part = data if end < 0 else data[:end]
        one.skip.update(part)
        one.skip_size += len(part)
        one.skip_head = (one.skip_head + part)[: 64 << 10]
        one.at += len(part)
        begin = one.at - one.skip_size
        if end < 0 and data:
            return Chunk(one.generation, [], begin, False)  # nothing is settled before its end
        one.at += end >= 0
        line = Line(begin, None, one.skip_size, one.skip.hexdigest(), one.skip_head)
        one.skip, one.skip_size, one.skip_head = None, 0, b""
        return Chunk(one.generation, [line], one.at, False)


def _line(offset: int, raw: bytes, limit: int) -> Line:
    # NULs at the begin are the hole that a writer leaves which goes on at its old offset after a truncation.
    data = raw.rstrip(b"\r").lstrip(b"\0")
    if len(data) > limit:
        return Line(offset, None, len(data), _digest(data), data[: 64 << 10])
    return Line(offset, data, len(data), "", b"")


def check_readable(patterns: list[Path]) -> None:
    """Say at once which folder is missing.

    Raises:
        SystemPartError: `audit.source.folder`.
    """
    for pattern in patterns:
        if not pattern.parent.is_dir():
            raise SystemPartError(
                "audit.source.folder", "no such folder", hint="make it, or correct the path", where=str(pattern.parent)
            )
