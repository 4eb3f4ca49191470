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
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from secguard.audit.sources.content import (
    KEPT,
    Chunk,
    Gap,
    Generation,
    Line,
    Open,
    Saved,
    Stranger,
    beside,
    digest_of,
    inode_of,
    line_of,
    rotated_from,
)
from secguard.core.errors import FormatError, SystemPartError
from secguard.core.files import atomic_write
from secguard.core.limits import read_bounded

__all__ = ["Tail", "check_readable"]

HEAD = 4096
_CHUNK = 256 << 10
_MAX_OPEN = 1024
_LINGER = 10.0
"""Seconds for which a rotated file may still be written to."""
_REMEMBERED = 256
"""Files read to their end that are known again: copies and late lines."""


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
        self._open: list[Open] = []
        self._lost: list[Generation] = []  # known, and not found again yet
        self._dirty = False
        self._gaps: list[Gap] = []
        self._why: dict[str, tuple[str, int]] = {}
        self._done: list[Generation] = []  # read to their end
        self._dull: set[tuple[str, int, int]] = set()  # strangers that were looked at: inode, time, size
        self._since = 0.0  # begin of the last scan: what was written before it was seen, as far as it was there
        self._turn = 0
        self.problem = ""
        first = not state.exists()
        if not first:
            try:
                saved = msgspec.json.decode(read_bounded(state), type=Saved)
            except msgspec.MsgspecError as error:
                raise FormatError(
                    "audit.source.state",
                    f"the positions are damaged: {error}",
                    hint="move the file away: all is read again, and what the ledger has is not recorded twice",
                    where=str(state),
                ) from error
            self._lost, self._done, self._since = saved.generations, saved.done, saved.since
        self._dirty = first
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
            saved = Saved(generations=generations, done=self._done[-_REMEMBERED:], since=self._since)
            atomic_write(self._state, msgspec.json.encode(saved), mode=0o600)
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
                if not wild and entry[len(stem) : len(stem) + 1].isalnum():
                    continue  # cam10.log is no rotated cam1.log
                packed = entry.endswith(".gz")
                fresh = not packed and (fnmatch.fnmatchcase(entry, name) if wild else entry == name)
                yield pattern.parent / entry, fresh

    def scan(self, now: float) -> None:
        """Look for new, rotated and truncated files; call it before `read`, some times a second."""
        self.problem = ""
        begun = time.time()
        self._check_open(now)
        known = {one.inode for one in self._open}
        fresh_inodes: set[str] = set()
        strangers: list[Stranger] = []
        for path, fresh in dict.fromkeys(self._candidates()):
            try:
                status = path.stat()
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            inode = inode_of(status)
            if fresh:
                fresh_inodes.add(inode)
            if inode not in known and (inode, status.st_mtime_ns, status.st_size) not in self._dull:
                known.add(inode)  # one file may have two names
                strangers += self._stranger(path, status, fresh=fresh)
        for one in self._open:
            one.fresh = one.inode in fresh_inodes
            if one.generation.rotated == one.fresh:
                one.generation.rotated, self._dirty = not one.fresh, True
        # First those that are exactly what was known, then copies of what was, then new ones.
        for take in (self._take_known, self._take_copy, self._take_new):
            for stranger in strangers:
                if not stranger.taken:
                    take(stranger)
        for stranger in strangers:
            if not stranger.taken:
                stranger.file.close()
        for generation in self._lost:
            how, unread = self._why.get(
                generation.name, ("the file is gone", max(0, generation.seen - generation.offset))
            )
            if unread or (generation.head_size and not generation.rotated):
                self._gaps.append(Gap(generation.path, generation.name, unread, how))
            self._dirty = True
        self._lost.clear()
        self._why.clear()
        self._since = begun
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
                self._why[generation.name] = ("the file was truncated", max(0, generation.seen - one.at))
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

    def _drop(self, one: Open) -> None:
        """A rotated file that is read to its end is closed, and known again."""
        one.file.close()
        self._open.remove(one)
        self._done.append(one.generation)
        del self._done[:-_REMEMBERED]
        self._dirty = True

    def _same_head(self, one: Open) -> bool:
        generation = one.generation
        data = os.pread(one.file.fileno(), HEAD, 0)
        if len(data) < generation.head_size or digest_of(data[: generation.head_size]) != generation.head:
            return False
        if len(data) > generation.head_size:
            generation.head, generation.head_size = digest_of(data), len(data)
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

    def _stranger(self, path: Path, status: os.stat_result, *, fresh: bool) -> list[Stranger]:
        packed = path.suffix == ".gz"
        file = self._opened(path, packed=packed)
        if file is None:
            return []
        try:
            status = os.fstat(file.fileno())
            return [Stranger(path, fresh, status, file, file.read(HEAD))]
        except (OSError, EOFError):  # a file that is being packed
            file.close()
            return []

    def _ignore(self, stranger: Stranger) -> None:
        """There is nothing in it, until it changes."""
        if len(self._dull) > 65536:
            self._dull.clear()
        self._dull.add((inode_of(stranger.status), stranger.status.st_mtime_ns, stranger.status.st_size))
        stranger.file.close()
        stranger.taken = True

    def _adopt(self, generation: Generation, stranger: Stranger) -> None:
        """Go on with a generation in another file, or ignore a file that has nothing more of it."""
        if generation in self._done and (stranger.packed or stranger.status.st_size <= generation.offset):
            self._ignore(stranger)
            return
        stranger.taken = True
        for before in [item for item in self._open if item.generation is generation]:
            before.file.close()
            self._open.remove(before)
        for known in (self._lost, self._done):
            if generation in known:
                known.remove(generation)
        generation.inode = inode_of(stranger.status)
        generation.seen = max(generation.offset, 0 if stranger.packed else stranger.status.st_size)
        one = Open(
            generation,
            stranger.file,
            stranger.fresh,
            generation.offset,
            packed=stranger.packed,
            inode=generation.inode,
        )
        self._open.append(one)
        self._dirty = True

    def _take_known(self, stranger: Stranger) -> None:
        inode = inode_of(stranger.status)
        for generation in (*self._lost, *self._done):
            long_enough = not stranger.packed and stranger.status.st_size >= generation.offset
            if generation.inode == inode and long_enough and stranger.begins(generation):
                self._adopt(generation, stranger)
                return

    def _take_copy(self, stranger: Stranger) -> None:
        """A copy (also a compressed one) of a file that was truncated or removed: the rest is read from it."""
        removed = [one.generation for one in self._open if self._removed(one)]
        for generation in (*self._lost, *removed, *reversed(self._done)):
            long_enough = stranger.packed or stranger.status.st_size >= generation.offset
            if long_enough and beside(stranger.path, generation) and stranger.begins(generation):
                self._adopt(generation, stranger)
                return

    def _removed(self, one: Open) -> bool:
        """Read to its end, and without a name: a file that was written anew beside and renamed over it goes on."""
        if one.packed or one.fresh:
            return False
        status = os.fstat(one.file.fileno())
        return status.st_nlink == 0 and one.at >= status.st_size

    def _is_copy(self, stranger: Stranger) -> bool:
        """A copy that rotation makes: it is of use when the other is truncated."""
        for one in self._open:
            generation = one.generation
            if not one.packed and beside(stranger.path, generation) and stranger.begins(generation):
                other = os.fstat(one.file.fileno())
                if other.st_nlink and (stranger.packed or stranger.status.st_size <= other.st_size):
                    return True
        return False

    def _take_new(self, stranger: Stranger) -> None:
        if self._is_copy(stranger):
            return
        # What was rotated before it was ever seen, as while nothing ran, is new as well.
        missed = self._since and stranger.status.st_mtime > self._since - 1.0 and stranger.head
        if missed and not stranger.fresh:
            folder, name = stranger.path.parent, stranger.path.name
            missed = any(one.parent == folder and rotated_from(name, one.name) for one in self._patterns)
        if not stranger.fresh and not missed:
            self._ignore(stranger)
            return
        status = stranger.status
        start = status.st_size if self._skip_existing else 0
        generation = Generation(
            name=secrets.token_hex(8),
            path=str(stranger.path),
            inode=inode_of(status),
            head=digest_of(stranger.head),
            head_size=len(stranger.head),
            offset=start,
            seen=0 if stranger.packed else status.st_size,
            rotated=not stranger.fresh,
        )
        stranger.taken = True
        self._open.append(
            Open(
                generation,
                stranger.file,
                stranger.fresh,
                start,
                packed=stranger.packed,
                inode=generation.inode,
            )
        )
        self._dirty = True

    # Reading

    def read(self) -> Chunk | None:
        """The next lines of any file; None if there are none now."""
        for _ in range(len(self._open)):
            self._turn = (self._turn + 1) % len(self._open)
            chunk = self._read(self._open[self._turn])
            if chunk is not None:
                return chunk
        return None

    def _read(self, one: Open) -> Chunk | None:
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
                lines = [line_of(start, data, self._limit)]
                one.at += len(data)
            elif len(data) >= _CHUNK:
                one.skip, one.caught_up = hashlib.sha256(), False
                return self._skip_on(one, data)
            else:
                return None
        else:
            at = 0
            for raw in data[: end - 1].split(b"\n"):
                lines.append(line_of(start + at, raw, self._limit))
                at += len(raw) + 1
            one.at += end
        return Chunk(one.generation, lines, one.at, live)

    def _skip_on(self, one: Open, data: bytes) -> Chunk | None:
        """A line longer than a chunk: hash it piece by piece."""
        assert one.skip is not None
        end = data.find(b"\n")
        part = data if end < 0 else data[:end]
        one.skip.update(part)
        one.skip_size += len(part)
        one.skip_head = (one.skip_head + part)[:KEPT]
        one.at += len(part)
        begin = one.at - one.skip_size
        if end < 0 and data:
            return Chunk(one.generation, [], begin, False)  # nothing is settled before its end
        one.at += end >= 0
        line = Line(begin, None, one.skip_size, one.skip.hexdigest(), one.skip_head)
        one.skip, one.skip_size, one.skip_head = None, 0, b""
        return Chunk(one.generation, [line], one.at, False)


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
