"""The journal: where an event becomes durable. Acknowledged means that fdatasync returned for its frame.

Segments `journal/<first index>.seg` hold frames, one a group commit:
magic, payload length, count, first index, CRC-32 of all that and the payload; the payload is salts, then events as JSON
lines.
Tiles and bodies are made from it later; a segment goes once all its entries are in fsynced files.
"""

import errno
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from secguard.core.errors import RefusedError, SystemPartError
from secguard.core.files import fsync_directory, translate_os_error
from secguard.ledger.bodies import SALT_SIZE

__all__ = ["MAX_FRAME_EVENTS", "Columns", "Frame", "Journal", "Retired"]

MAX_FRAME_EVENTS = 4096
"""Events in one frame; longer batches take several frames."""
SEGMENT_BYTES = 32 << 20
"""A segment is closed when it is this long."""
_MAX_PAYLOAD = 512 << 20
_MAGIC = b"SGJ1"
_HEADER = struct.Struct(">4sIIQI")
_SUFFIX = ".seg"


class Retired(Exception):  # noqa: N818 - tells a reader to look in the body files, not an error of the user
    """The segment has been turned into tiles and bodies, and deleted."""


class Columns(NamedTuple):
    """Events in columns: index of the first, joined 16-byte salts, event bytes."""

    first: int
    salts: bytes
    bodies: list[bytes]


class Frame(NamedTuple):
    """Where a frame lies."""

    first: int
    events: int
    segment: int
    offset: int
    length: int


def _crc(header: bytes, parts: Sequence[bytes]) -> int:
    value = zlib.crc32(header[:-4])
    for part in parts:
        value = zlib.crc32(part, value)
    return value


class Journal:
    """All segments of a journal; any number of readers, one writer (which holds the log's lock)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.frames: list[Frame] = []
        self.size = 0
        self.base = 0
        self.garbage = 0
        self._segment = -1
        self._end = 0
        self._files: dict[int, int] = {}
        self._failed = False
        self._turn = folder / "turn"

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self._folder / f"{segment:020d}{_SUFFIX}"

    def segments(self) -> list[int]:
        """First indexes of the segments on the disk, sorted."""
        names = (p.name.removesuffix(_SUFFIX) for p in self._folder.iterdir() if p.name.endswith(_SUFFIX))
        return sorted(int(name) for name in names if name.isdigit() and len(name) == 20)

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def load(self, integrated: int) -> None:
        """Read the segments afresh.

        Args:
            integrated: entries that are in fsynced files; the journal must go on from there or earlier.

        Raises:
            RefusedError: `ledger.journal.gap` or `ledger.journal.damaged`: acknowledged events are missing.
        """
        self.close()
        self.frames.clear()
        self.garbage = 0
        found = self.segments()
        self.base = self.size = found[0] if found else integrated
        self._segment, self._end = (found[0] if found else -1), 0
        if self.base > integrated:
            raise self._gap(integrated, self.base)
        for number, segment in enumerate(found):
            last = number == len(found) - 1
            if segment != self.size:
                raise self._gap(self.size, segment)
            self._segment, self._end = segment, 0
            self._read_on(check=last)
            if self.garbage and not last:
                raise self._damaged()
        if self.size < integrated:
            raise self._gap(self.size, integrated)

    def poll(self, integrated: int) -> bool:
        """Take in what other processes appended; returns whether anything changed."""
        if self._segment < 0:
            if not self.segments():
                self.size = self.base = integrated
                return False
            self.load(integrated)
            return True
        try:
            length = self.path(self._segment).stat().st_size
        except FileNotFoundError:
            self.load(integrated)
            return True
        if length < self._end:
            self.load(integrated)
            return True
        before = self.size
        if length > self._end:
            self._read_on(check=True)
        while not self.garbage and self.size > self._segment and self.path(self.size).exists():
            self._segment, self._end = self.size, 0
            self._read_on(check=True)
        return self.size != before

    def _gap(self, want: int, have: int) -> RefusedError:
        return RefusedError(
            "ledger.journal.gap",
            f"the journal lacks entries {want} to {have - 1}",
            hint="restore the ledger's folder as a whole from a backup, then run: secguard ledger verify",
            where=str(self._folder),
        )

    def _damaged(self) -> RefusedError:
        return RefusedError(
            "ledger.journal.damaged",
            "a frame in the middle of the journal does not match its checksum",
            hint="check the disk; restore this segment from a backup, then run: secguard ledger verify",
            where=f"{self.path(self._segment)} byte {self._end}",
        )

    def _open(self, segment: int) -> int:
        descriptor = self._files.get(segment)
        if descriptor is None:
            try:
                descriptor = os.open(self.path(segment), os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                raise Retired from None
            except OSError as error:  # a reader that may not write, or a copy on a read-only disk
                if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                    raise
                descriptor = os.open(self.path(segment), os.O_RDONLY | os.O_CLOEXEC)
            self._files[segment] = descriptor
        return descriptor

    def _read_on(self, *, check: bool) -> None:
        descriptor = self._open(self._segment)
        length = os.fstat(descriptor).st_size
        self.garbage = 0
        while self._end < length:
            header = os.pread(descriptor, _HEADER.size, self._end)
            frame = self._parse(header, self._end, length)
            if frame is None or (check and not self._sound(descriptor, frame, header)):
                self.garbage = length - self._end
                return
            self.frames.append(frame)
            self.size = frame.first + frame.events
            self._end = frame.offset + frame.length

    def _parse(self, header: bytes, offset: int, length: int, first: int | None = None) -> Frame | None:
        if len(header) < _HEADER.size:
            return None
        magic, payload, count, start, _ = _HEADER.unpack(header)
        whole = _HEADER.size + payload
        if magic != _MAGIC or not 0 < count <= MAX_FRAME_EVENTS or payload > _MAX_PAYLOAD or offset + whole > length:
            return None
        if start != (self.size if first is None else first):
            return None
        return Frame(start, count, self._segment, offset, whole)

    @staticmethod
    def _sound(descriptor: int, frame: Frame, header: bytes) -> bool:
        payload = os.pread(descriptor, frame.length - _HEADER.size, frame.offset + _HEADER.size)
        return _crc(header, [payload]) == int.from_bytes(header[-4:], "big")

    def place(self) -> str:
        """Where reading stopped: file and byte."""
        return f"{self.path(self._segment).name} byte {self._end}"

    def repair(self) -> str:
        """Cut off a torn tail (writer only, under the lock).

        Returns:
            What was done, in words; empty if there was nothing to do.

        Raises:
            RefusedError: `ledger.journal.damaged`: sound frames follow the broken one, so it is no torn write.
            SystemPartError: the file cannot be written.
        """
        if not self.garbage:
            return ""
        descriptor = self._open(self._segment)
        rest = os.pread(descriptor, self.garbage, self._end)
        at = rest.find(_MAGIC, 1)
        while at >= 0:
            header = rest[at : at + _HEADER.size]
            if len(header) == _HEADER.size:
                start = _HEADER.unpack(header)[3]
                frame = self._parse(header, self._end + at, self._end + len(rest), start)
                if frame is not None and start > self.size and self._sound(descriptor, frame, header):
                    raise self._damaged()
            at = rest.find(_MAGIC, at + 1)
        try:
            os.ftruncate(descriptor, self._end)
            os.fdatasync(descriptor)
        except OSError as error:
            raise translate_os_error(error, self.path(self._segment)) from error
        cut, self.garbage = self.garbage, 0
        return f"cut {cut} bytes of a torn, unacknowledged write at byte {self._end} of {self.path(self._segment).name}"

    def append(
        self, salts: bytes, lines: bytes, count: int, *, before_sync: Callable[[], object] | None = None
    ) -> None:
        """Write one frame and wait until it is on the disk (writer only, after `poll`).

        Args:
            salts: joined salts.
            lines: the events as JSON, one a line, each ending in LF.
            count: how many.
            before_sync: called when the bytes are written and only the wait for the disk is left.

        Raises:
            SystemPartError: `ledger.journal.write`; nothing of the frame counts.
        """
        if self._failed:
            raise SystemPartError(
                "ledger.journal.failed",
                "the disk failed while the journal was written; nothing is recorded any more",
                hint="check the disk, then start again",
                where=str(self._folder),
            )
        bare = _HEADER.pack(_MAGIC, len(salts) + len(lines), count, self.size, 0)
        header = bare[:-4] + _crc(bare, (salts, lines)).to_bytes(4, "big")
        length = len(header) + len(salts) + len(lines)
        path = self.path(self._segment)
        try:
            if self._segment < 0 or self._end >= SEGMENT_BYTES or (self._end and self._turn.exists()):
                self._rotate()
                path = self.path(self._segment)
            descriptor = self._open(self._segment)
            written = os.pwritev(descriptor, [header, salts, lines], self._end)
            while written < length:
                rest = (header + salts + lines)[written:]
                written += os.pwrite(descriptor, rest, self._end + written)
            if before_sync is not None:
                before_sync()
            os.fdatasync(descriptor)
        except OSError as error:
            self._take_back()
            cause = translate_os_error(error, path)
            raise SystemPartError(
                "ledger.journal.write", f"nothing was recorded: {cause.message}", hint=cause.hint, where=cause.where
            ) from error
        self.frames.append(Frame(self.size, count, self._segment, self._end, length))
        self.size += count
        self._end += length

    def _rotate(self) -> None:
        descriptor = os.open(self.path(self.size), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._files[self.size] = descriptor
        fsync_directory(self._folder)
        self._segment, self._end = self.size, 0
        self._turn.unlink(missing_ok=True)

    def ask_to_turn(self) -> None:
        """Have the writer, whoever it is, begin a new segment with the next frame: then the others can be retired.

        Raises:
            OSError: as the system call does.
        """
        self._turn.touch()

    def _take_back(self) -> None:
        # A frame whose fdatasync failed must not be found whole later: it was never acknowledged.
        descriptor = self._files.get(self._segment)
        if descriptor is None:
            return
        try:
            os.ftruncate(descriptor, self._end)
        except OSError:
            self._failed = True

    def read(self, frame: Frame) -> Columns:
        """The events of a frame.

        Raises:
            Retired: its segment is gone; the events are in body files.
            RefusedError: `ledger.journal.damaged`.
        """
        descriptor = self._open(frame.segment)
        data = os.pread(descriptor, frame.length, frame.offset)
        header = data[: _HEADER.size]
        cut = _HEADER.size + frame.events * SALT_SIZE
        bodies = data[cut:].split(b"\n")
        sound = len(header) == _HEADER.size and zlib.crc32(data[_HEADER.size :], zlib.crc32(header[:-4])) == (
            int.from_bytes(header[-4:], "big")
        )
        if not sound or len(bodies) != frame.events + 1:
            raise RefusedError(
                "ledger.journal.damaged",
                "a frame of the journal does not match its checksum",
                hint="check the disk; restore this segment from a backup, then run: secguard ledger verify",
                where=f"{self.path(frame.segment)} byte {frame.offset}",
            )
        bodies.pop()
        return Columns(frame.first, data[_HEADER.size : cut], bodies)

    def find(self, index: int) -> Frame | None:
        """The frame that holds an index."""
        at = bisect_right(self.frames, index, key=lambda frame: frame.first) - 1
        if at < 0 or index >= self.frames[at].first + self.frames[at].events:
            return None
        return self.frames[at]

    def sync(self) -> None:
        """Make what is read here durable, whoever wrote it (before tiles are made from it)."""
        for segment in {frame.segment for frame in self.frames}:
            os.fdatasync(self._open(segment))

    def retire(self, integrated: int) -> None:
        """Delete segments whose entries all are in fsynced files; never the last one, which a writer may hold open."""
        found = self.segments()
        for segment, following in pairwise(found):
            if following <= integrated:
                self.path(segment).unlink(missing_ok=True)

    def forget(self, integrated: int) -> None:
        """Drop from memory the frames that lie below `integrated` in whole segments that are gone."""
        at = bisect_right(self.frames, integrated, key=lambda frame: frame.first + frame.events)
        if at > 1024:
            gone = {frame.segment for frame in self.frames[:at]} - {frame.segment for frame in self.frames[at:]}
            gone.discard(self._segment)
            del self.frames[:at]
            self.base = integrated
            for segment in gone:
                descriptor = self._files.pop(segment, None)
                if descriptor is not None:
                    os.close(descriptor)
