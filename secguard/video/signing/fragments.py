"""Correct movie fragments whose samples grow (ISO/IEC 14496-12, 8.8), and the boxes that point to them.

Sizes of samples (`trun`), data offsets (`trun`, `tfhd`), sizes of subsegments (`sidx`) and places of random access
(`tfra`). A run whose samples had one size for all gets a size each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from secguard.video.containers.fragments import BASE, BASE_IS_MOOF, EACH, FIRST_FLAGS, OFFSET, SIZE, defaults_of
from secguard.video.containers.mp4 import Box, Movie, fail, walk
from secguard.video.containers.source import Track

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from secguard.video.signing.output import Edit

    Int64s = NDArray[np.int64]

__all__ = ["Fragments"]

_SIZES = 0x200  # sample_size_present of trun, 8.8.8
_BEFORE_SIZE = (0x2, 0x8)  # fields of tfhd between the base data offset and the default size, 8.8.7

_Move: TypeAlias = Callable[[int], int]


@dataclass(slots=True)
class _Run:
    """One `trun`: its flags, where its data begin, what they are relative to, its sizes as they are and as they get."""

    flags: int
    begin: int
    base: int
    sizes: "Int64s"
    new: "Int64s | None" = None


@dataclass(slots=True)
class _Moof:
    """A fragment: its runs by the place of their `trun`, and its explicit bases by the place of their `tfhd`."""

    box: Box
    runs: dict[int, _Run] = field(default_factory=dict)
    bases: dict[int, int] = field(default_factory=dict)


class Fragments:
    """The fragments of a movie.

    Args:
        movie: the input; the reader of its samples has gone through the fragments without an error.
        track: the track whose samples grow.
        first: its samples that lie in the movie box's tables.
        growth: bytes added to each of its samples; samples behind the last one do not grow.
    """

    def __init__(self, movie: Movie, track: Track, first: int, growth: "Int64s") -> None:
        self.movie, self.track, self.next, self.added = movie, track, first, growth
        self.moofs = [self._moof(box) for box in movie.boxes if box.kind == b"moof"]

    def growth(self) -> Iterator[tuple[Box, int]]:
        """Each fragment box, and the bytes that it grows by itself."""
        for moof in self.moofs:
            grown = [run for run in moof.runs.values() if run.new is not None and not run.flags & _SIZES]
            yield moof.box, sum(len(run.sizes) * 4 for run in grown)

    def edits(self, move: _Move) -> "Iterator[Edit]":
        """The boxes written anew.

        Args:
            move: tells where a file offset of the input lands in the output.
        """
        for moof in self.moofs:
            yield moof.box.start, moof.box.end, self._write(moof, moof.box, move)
        for box in self.movie.boxes:
            if box.kind == b"sidx":
                yield box.start, box.end, self._sidx(box, move)
            elif box.kind == b"mfra":
                for child in walk(self.movie.data, box.body, box.end, self.movie.path):
                    if child.kind == b"tfra":
                        yield child.start, child.end, self._tfra(child, move)

    def _number(self, box: Box, at: int, size: int = 4) -> int:
        start = box.body + at
        if start + size > box.end:
            raise fail(self.movie.path, box.start, f"box {box.kind.decode('latin-1')!r} is too short")
        return int.from_bytes(self.movie.data[start : start + size], "big")

    def _put(self, box: Box, body: bytearray, at: int, size: int, value: int) -> None:
        """A number in a box's body, unless it has outgrown its field."""
        if not 0 <= value < 1 << (8 * size) or at + size > len(body):
            name = box.kind.decode("latin-1")
            raise fail(self.movie.path, box.start, f"an offset in box {name!r} does not fit any more")
        body[at : at + size] = value.to_bytes(size, "big")

    def _moof(self, box: Box) -> _Moof:
        moof = _Moof(box)
        data_end = box.start
        for traf in walk(self.movie.data, box.body, box.end, self.movie.path):
            if traf.kind == b"traf":
                data_end = self._traf(moof, traf, data_end)
        return moof

    def _traf(self, moof: _Moof, traf: Box, data_end: int) -> int:
        """Read one track fragment; returns where its data end."""
        boxes = list(walk(self.movie.data, traf.body, traf.end, self.movie.path))
        head = next(box for box in boxes if box.kind == b"tfhd")
        flags, number, at = self._number(head, 0) & 0xFFFFFF, self._number(head, 4), 8
        base = moof.box.start if flags & BASE_IS_MOOF else data_end
        if flags & BASE:
            base, at = self._number(head, 8, 8), 16
            moof.bases[head.start] = base
        at += 4 * sum(1 for bit in _BEFORE_SIZE if flags & bit)
        usual = self._number(head, at) if flags & SIZE else defaults_of(self.movie, number).size
        end = base
        for box in boxes:
            if box.kind == b"trun":
                run = moof.runs[box.start] = self._run(box, base, end, usual)
                end = run.begin + int(run.sizes.sum())
                if number == self.track.number:
                    self._grow(run)
        return end

    def _grow(self, run: _Run) -> None:
        added = np.zeros(len(run.sizes), dtype=np.int64)
        part = self.added[self.next : self.next + len(run.sizes)]
        added[: len(part)] = part
        self.next += len(run.sizes)
        run.new = run.sizes + added if added.any() else None

    def _run(self, box: Box, base: int, end: int, usual: int) -> _Run:
        flags, count, begin = self._number(box, 0) & 0xFFFFFF, self._number(box, 4), end
        if flags & OFFSET:
            relative = self._number(box, 8)
            begin = base + relative - (1 << 32 if relative >> 31 else 0)
        if not flags & _SIZES:
            return _Run(flags, begin, base, np.full(count, usual, dtype=np.int64))
        rows = self._rows(box, flags, count)
        return _Run(flags, begin, base, rows[:, 1 if flags & EACH[0] else 0].astype(np.int64))

    def _rows(self, box: Box, flags: int, count: int) -> "NDArray[Any]":
        at = 8 + (4 if flags & OFFSET else 0) + (4 if flags & FIRST_FLAGS else 0)
        width = sum(1 for bit in EACH if flags & bit)
        raw = self.movie.data[box.body + at : box.body + at + count * width * 4]
        return np.frombuffer(raw, dtype=">u4").reshape(count, width)

    def _write(self, moof: _Moof, box: Box, move: _Move) -> bytes:
        """`moof`, or a box in it, with its numbers corrected."""
        if box.kind in {b"moof", b"traf"}:
            children = walk(self.movie.data, box.body, box.end, self.movie.path)
            body = bytearray(b"".join(self._write(moof, child, move) for child in children))
        else:
            body = bytearray(self.movie.data[box.body : box.end])
        if box.start in moof.bases:
            self._put(box, body, 8, 8, move(moof.bases[box.start]))
        if box.start in moof.runs:
            body = self._trun(box, moof.runs[box.start], body, move)
        if box.header == 16:
            return (1).to_bytes(4, "big") + box.kind + (len(body) + 16).to_bytes(8, "big") + bytes(body)
        return (len(body) + 8).to_bytes(4, "big") + box.kind + bytes(body)

    def _trun(self, box: Box, run: _Run, body: bytearray, move: _Move) -> bytearray:
        if run.flags & OFFSET:
            relative = move(run.begin) - move(run.base)
            if not -(1 << 31) <= relative < 1 << 31:
                raise fail(self.movie.path, box.start, "an offset in box 'trun' does not fit any more")
            body[8:12] = relative.to_bytes(4, "big", signed=True)
        if run.new is None:
            return body
        rows = self._rows(box, run.flags, len(run.sizes))
        place = 1 if run.flags & EACH[0] else 0
        sizes = run.new.astype(">u4")
        if run.flags & _SIZES:
            rows = rows.copy()
            rows[:, place] = sizes
        else:
            rows = np.insert(rows, place, sizes, axis=1) if rows.shape[1] else sizes.reshape(-1, 1)
            body[1:4] = (run.flags | _SIZES).to_bytes(3, "big")
        at = 8 + (4 if run.flags & OFFSET else 0) + (4 if run.flags & FIRST_FLAGS else 0)
        return body[:at] + bytearray(rows.astype(">u4").tobytes())

    def _sidx(self, box: Box, move: _Move) -> bytes:
        """Segment index, 8.16.3: sizes of what follows one another behind it."""
        body = bytearray(self.movie.data[box.body : box.end])
        wide = 8 if self._number(box, 0, 1) else 4
        first = self._number(box, 12 + wide, wide)
        here = box.end + first
        self._put(box, body, 12 + wide, wide, move(here) - move(box.end))
        at = 16 + 2 * wide
        for place in range(at, at + 12 * self._number(box, at - 2, 2), 12):
            word = self._number(box, place)
            after = here + (word & 0x7FFFFFFF)
            size = move(after) - move(here)
            if size >> 31:
                raise fail(self.movie.path, box.start, "a size in box 'sidx' does not fit any more")
            self._put(box, body, place, 4, word & 0x80000000 | size)
            here = after
        return bytes(self.movie.data[box.start : box.body]) + bytes(body)

    def _tfra(self, box: Box, move: _Move) -> bytes:
        """Random access, 8.8.10: the fragment of each sync sample."""
        body = bytearray(self.movie.data[box.body : box.end])
        wide = 8 if self._number(box, 0, 1) else 4
        lengths = self._number(box, 8)
        row = 2 * wide + sum((lengths >> bit & 3) + 1 for bit in (0, 2, 4))
        for place in range(16, 16 + row * self._number(box, 12), row):
            self._put(box, body, place + wide, wide, move(self._number(box, place + wide, wide)))
        return bytes(self.movie.data[box.start : box.body]) + bytes(body)
