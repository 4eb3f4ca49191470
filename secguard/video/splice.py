"""Insert NAL units into the samples of an MP4 file: every other byte stays, every offset in the file is corrected.

The index (`moov`) is written anew where samples grow or move; movie fragments, and the boxes that point to them
(`sidx`, `tfra`), are corrected in `signing.fragments`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import Progress, RefusedError, silent
from secguard.video.containers import Track
from secguard.video.containers.mp4 import Box, Movie, fail, walk
from secguard.video.containers.samples import chunk_offsets, read_samples
from secguard.video.signing.fragments import Fragments
from secguard.video.signing.output import Edit, Insertion, Pending, write_edits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["Insertion", "Pending", "movie_edits", "splice"]

_FIXED = {b"saio", b"iloc", b"ssix"}  # boxes with file offsets or byte ranges that this module does not correct
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}


def _header(kind: bytes, size: int, wide: bool) -> bytes:
    """A box header for `size` bytes of body; 16 bytes if `wide` or needed."""
    if wide or size + 8 > 0xFFFFFFFF:
        return (1).to_bytes(4, "big") + kind + (size + 16).to_bytes(8, "big")
    return (size + 8).to_bytes(4, "big") + kind


class _Shift:
    """Where file offsets of the input land in the output."""

    def __init__(self) -> None:
        self.edits: list[tuple[int, int, int]] = []  # (offset, 0 moves a thing at the offset | 1 does not, bytes)
        self.keys = self.sums = np.zeros(0, dtype=np.int64)

    def add(self, offset: int, size: int, *, behind: bool) -> None:
        self.edits.append((offset, 0 if behind else 1, size))

    def settle(self) -> None:
        """Take in what was added."""
        edits = np.array(sorted(self.edits), dtype=np.int64).reshape(-1, 3)
        # Keys 2 * offset (moves what is at the offset) and 2 * offset + 1 (does not) against 2 * target.
        self.keys = 2 * edits[:, 0] + edits[:, 1]
        self.sums = np.concatenate(([0], np.cumsum(edits[:, 2])))

    def apply(self, offsets: "Int64s") -> "Int64s":
        moved: Int64s = offsets + self.sums[np.searchsorted(self.keys, 2 * offsets, side="right")]
        return moved

    def one(self, offset: int) -> int:
        return offset + int(self.sums[np.searchsorted(self.keys, 2 * offset, side="right")])


def _check(movie: Movie) -> None:
    for box in movie.boxes:
        if box.kind == b"meta":
            for child in walk(movie.data, box.body + 4, box.end, movie.path):
                _refuse(movie, child)
        elif box.kind == b"moof":
            for traf in walk(movie.data, box.body, box.end, movie.path):
                for child in walk(movie.data, traf.body, traf.end, movie.path) if traf.kind == b"traf" else ():
                    _refuse(movie, child)
        _refuse(movie, box)
    for track in movie.tracks:
        for box in track.tables.values():
            _refuse(movie, box)


def _refuse(movie: Movie, box: Box) -> None:
    if box.kind in _FIXED:
        raise RefusedError(
            "video.mp4.fixed-offsets",
            f"box {box.kind.decode('latin-1')!r} holds file offsets that would be wrong afterwards",
            hint="remux the file first: ffmpeg -i IN -c copy OUT.mp4",
            where=f"{movie.path}, byte {box.start}",
        )


def _stsz(sizes: "Int64s") -> bytes:
    return bytes(4) + bytes(4) + len(sizes).to_bytes(4, "big") + sizes.astype(">u4").tobytes()


def _offsets(kind: bytes, offsets: "Int64s") -> tuple[bytes, bytes]:
    """Type and body of the chunk offset box; `co64` where 32 bits no longer do."""
    wide = kind == b"co64" or (len(offsets) > 0 and int(offsets.max()) > 0xFFFFFFFF)
    body = bytes(4) + len(offsets).to_bytes(4, "big") + offsets.astype(">u8" if wide else ">u4").tobytes()
    return (b"co64" if wide else b"stco"), body


def _rebuild(movie: Movie, box: Box, replaced: dict[int, tuple[bytes, bytes]]) -> bytes:
    """`box` with the boxes that start at the keys of `replaced` exchanged; all else as it is."""
    if box.start in replaced:
        kind, body = replaced[box.start]
        return _header(kind, len(body), wide=False) + body
    if box.kind not in _CONTAINERS:
        return bytes(movie.data[box.start : box.end])
    inner = b"".join(_rebuild(movie, child, replaced) for child in walk(movie.data, box.body, box.end, movie.path))
    return _header(box.kind, len(inner), wide=box.header == 16) + inner


def _moov(movie: Movie, track: Track, sizes: "Int64s", chunks: "list[Int64s]") -> bytes:
    replaced = {}
    if len(sizes):
        replaced[track.tables[b"stsz"].start] = (b"stsz", _stsz(sizes))
    for other, offsets in zip(movie.tracks, chunks, strict=True):
        table = other.tables.get(b"stco") or other.tables[b"co64"]
        if len(offsets):
            replaced[table.start] = _offsets(table.kind, offsets)
    return _rebuild(movie, movie.moov, replaced)


def movie_edits(movie: Movie, track: Track, insertions: Sequence[Insertion]) -> list[Edit]:
    """The edits that put `insertions` into a movie, in order.

    Args:
        movie: the input.
        track: the track whose samples grow.
        insertions: in order of `offset`.

    Raises:
        RefusedError: the file holds offsets that cannot be corrected.
        FormatError: samples lie outside the media data.
    """
    _check(movie)
    table = read_samples(movie, track)
    growth = np.zeros(max(len(table), max((item.sample for item in insertions), default=0) + 1), dtype=np.int64)
    shift = _Shift()
    edits: list[Edit] = []
    for item in insertions:
        at, data = item.framed(track.length_size)
        shift.add(at, len(data), behind=item.behind)
        growth[item.sample] += len(data)
        edits.append((at, at, data))
    edits += _mdats(movie, edits, shift)
    fragments = Fragments(movie, track, len(table), growth)
    for moof, grown in fragments.growth():
        shift.add(moof.start, grown, behind=False)
    sizes = table.size + growth[: len(table)]
    chunks = [chunk_offsets(movie, item) for item in movie.tracks]
    still = [*shift.edits]
    added = 0
    while True:  # the index may stand before the samples, and may itself grow when offsets need 64 bits
        shift.edits = [*still, (movie.moov.start, 0, added)]
        shift.settle()
        moov = _moov(movie, track, sizes, [shift.apply(column) for column in chunks])
        if len(moov) - (movie.moov.end - movie.moov.start) == added:
            break
        added = len(moov) - (movie.moov.end - movie.moov.start)
    edits.append((movie.moov.start, movie.moov.end, moov))
    edits += fragments.edits(shift.one)
    return sorted(edits, key=lambda edit: edit[0])


def _mdats(movie: Movie, edits: Sequence[Edit], shift: _Shift) -> list[Edit]:
    """New headers for the media data boxes that grow."""
    places = np.array([at for at, _, _ in edits], dtype=np.int64)
    sums = np.concatenate(([0], np.cumsum(np.array([len(data) for _, _, data in edits], dtype=np.int64))))
    made: list[Edit] = []
    held = 0
    for box in movie.boxes:
        if box.kind != b"mdat":
            continue
        low = int(np.searchsorted(places, box.body, side="left"))
        high = int(np.searchsorted(places, box.end, side="right"))
        held += high - low
        added = int(sums[high] - sums[low])
        if added and movie.data[box.start : box.start + 4] != bytes(4):
            header = _header(b"mdat", box.end - box.body + added, wide=box.header == 16)
            made.append((box.start, box.body, header))
            shift.add(box.start, len(header) - box.header, behind=True)
    if held != len(edits):
        raise fail(movie.path, int(places[0]), "samples lie outside the media data (mdat)")
    return made


def splice(
    movie: Movie, track: Track, insertions: Sequence[Insertion], target: Path, *, progress: Progress = silent
) -> Pending:
    """Write a copy of the movie with `insertions` made.

    Raises:
        RefusedError: the file holds offsets that cannot be corrected.
        SystemPartError: the disk is full, or any other failed write; nothing is left behind.
    """
    return write_edits(movie.data, movie_edits(movie, track, insertions), target, progress)
