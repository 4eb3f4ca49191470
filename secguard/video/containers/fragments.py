"""The samples of a fragmented MP4 (ISO/IEC 14496-12, 8.8): `mvex` defaults, and the runs of each movie fragment.

Cameras and platforms record so, since a file that is cut off stays readable up to the last whole fragment.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from secguard.video.containers.mp4 import Box, fail, walk
from secguard.video.containers.source import MAX_SAMPLES, Samples, Track, present

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from secguard.video.containers.mp4 import Movie

    Int64s = NDArray[np.int64]

__all__ = ["BASE", "BASE_IS_MOOF", "EACH", "FIRST_FLAGS", "OFFSET", "SIZE", "Defaults", "defaults_of", "read_fragments"]

BASE, _DESCRIPTION, _DURATION, SIZE, _FLAGS, BASE_IS_MOOF = 0x1, 0x2, 0x8, 0x10, 0x20, 0x20000
"""Flags of `tfhd`, 8.8.7."""
OFFSET, FIRST_FLAGS, EACH = 0x1, 0x4, (0x100, 0x200, 0x400, 0x800)
"""Flags of `trun`, 8.8.8; the last ones say what stands there for each sample."""
_NON_SYNC = 0x10000
"""sample_is_non_sync_sample of the sample flags (8.8.3)."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What samples say that say nothing themselves."""

    duration: int = 0
    size: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class _Run:
    """Samples in a row; columns as in `Samples`, `dts` None where the fragment states no time."""

    offset: "Int64s"
    size: "Int64s"
    delta: "Int64s"
    shift: "Int64s"
    sync: "NDArray[np.bool_]"
    dts: int | None


def read_fragments(movie: "Movie", track: Track, before: Samples) -> Samples:
    """The samples of `track` in the movie box, if any, and in all movie fragments after it.

    Durations are the distances of decoding times, so a gap between two fragments shows.

    Args:
        movie: the opened file.
        track: the track.
        before: its samples in the movie box's own tables.

    Raises:
        FormatError: a fragment contradicts itself.
    """
    defaults = defaults_of(movie, track.number)
    runs: list[_Run] = []
    total = len(before)
    for moof in movie.boxes:
        if moof.kind != b"moof":
            continue
        data_end = moof.start  # without an offset the first traf's data begin at the moof (8.8.7.1)
        for traf in walk(movie.data, moof.body, moof.end, movie.path):
            if traf.kind != b"traf":
                continue
            found, data_end = _fragment(movie, track, moof, traf, defaults=defaults, data_end=data_end)
            total += sum(len(run.size) for run in found)
            if total > MAX_SAMPLES:
                raise fail(movie.path, moof.start, f"more than {MAX_SAMPLES} samples")
            runs += found
    return _join(movie, before, runs)


def _join(movie: "Movie", before: Samples, runs: list[_Run]) -> Samples:
    offset = np.concatenate([before.offset, *(run.offset for run in runs)])
    size = np.concatenate([before.size, *(run.size for run in runs)])
    pieces = [before.dts]
    clock = int(before.dts[-1] + before.delta[-1]) if len(before) else 0
    for run in runs:
        start = clock if run.dts is None else run.dts
        pieces.append(start + np.cumsum(run.delta) - run.delta)
        clock = start + int(run.delta.sum())
    dts = np.concatenate(pieces)
    delta = np.concatenate([before.delta, *(run.delta for run in runs)])
    if len(dts) > 1:
        delta = np.append(np.diff(dts), delta[-1])
    shift = np.concatenate([before.shift, *(run.shift for run in runs)])
    sync = np.concatenate([before.sync, *(run.sync for run in runs)])
    joined = present(Samples(offset, size, dts, delta, shift, sync), len(movie.data))
    return replace(joined, lost=joined.lost + before.lost)


def _number(movie: "Movie", box: Box, at: int, size: int = 4) -> int:
    """A number at an offset of the box's body."""
    start = box.body + at
    if start + size > box.end:
        raise fail(movie.path, box.start, f"box {box.kind.decode('latin-1')!r} is too short")
    return int.from_bytes(movie.data[start : start + size], "big")


def defaults_of(movie: "Movie", number: int) -> Defaults:
    """The `trex` of the track of that track_ID."""
    for mvex in walk(movie.data, movie.moov.body, movie.moov.end, movie.path):
        if mvex.kind != b"mvex":
            continue
        for box in walk(movie.data, mvex.body, mvex.end, movie.path):
            if box.kind == b"trex" and _number(movie, box, 4) == number:
                return Defaults(*(_number(movie, box, at) for at in (12, 16, 20)))
    return Defaults()


def _fragment(
    movie: "Movie", track: Track, moof: Box, traf: Box, *, defaults: Defaults, data_end: int
) -> tuple[list[_Run], int]:
    """The runs of one track fragment, none if it is another track's, and where its data end."""
    boxes = list(walk(movie.data, traf.body, traf.end, movie.path))
    head = next((box for box in boxes if box.kind == b"tfhd"), None)
    if head is None:
        raise fail(movie.path, traf.start, "box 'traf' holds no 'tfhd'")
    flags, at = _number(movie, head, 0) & 0xFFFFFF, 8
    base = moof.start if flags & BASE_IS_MOOF else data_end
    if flags & BASE:
        base, at = _number(movie, head, at, 8), at + 8
    at += 4 if flags & _DESCRIPTION else 0
    values = [defaults.duration, defaults.size, defaults.flags]
    for index, bit in enumerate((_DURATION, SIZE, _FLAGS)):
        if flags & bit:
            values[index], at = _number(movie, head, at), at + 4
    time = next((box for box in boxes if box.kind == b"tfdt"), None)
    start = None if time is None else _number(movie, time, 4, 8 if _number(movie, time, 0, 1) == 1 else 4)
    if start is not None and start >= 1 << 62:
        raise fail(movie.path, traf.start, "a decoding time that cannot be")
    mine, runs, end = _number(movie, head, 4) == track.number, [], base
    for box in boxes:
        if box.kind == b"trun":
            run = _run(movie, box, base, end, defaults=Defaults(*values), dts=start)
            start = None
            end = int(run.offset[-1] + run.size[-1]) if len(run.size) else end
            runs += [run] if mine else []
    return runs, end


def _run(movie: "Movie", box: Box, base: int, end: int, *, defaults: Defaults, dts: int | None) -> _Run:
    word = _number(movie, box, 0)
    version, flags = word >> 24, word & 0xFFFFFF
    count, at = _number(movie, box, 4), 8
    begin = end
    if flags & OFFSET:
        relative = _number(movie, box, at)
        begin, at = base + relative - (1 << 32 if relative >> 31 else 0), at + 4
    first = None
    if flags & FIRST_FLAGS:
        first, at = _number(movie, box, at), at + 4
    width = sum(1 for bit in EACH if flags & bit)
    if not 0 <= begin < 1 << 62:
        raise fail(movie.path, box.start, "a fragment's data lie outside the file")
    if count > MAX_SAMPLES or count * width * 4 > box.end - box.body - at:
        raise fail(movie.path, box.start, f"box 'trun' claims {count} samples, more than it holds")
    raw = bytes(movie.data[box.body + at : box.body + at + count * width * 4])
    rows: NDArray[Any] = np.frombuffer(raw, dtype=">u4").reshape(count, width)
    columns, place = [], 0
    for bit, value in zip(EACH, (defaults.duration, defaults.size, defaults.flags, 0), strict=True):
        if flags & bit:
            columns.append(rows[:, place].astype(np.int64))
            place += 1
        else:
            columns.append(np.full(count, value, dtype=np.int64))
    delta, size, marks, shift = columns
    if version or flags & 0x800:  # signed in version 1; in version 0 no real offset exceeds 31 bits
        shift = shift.astype(np.int32).astype(np.int64)
    if first is not None and count:
        marks[0] = first
    return _Run(begin + np.cumsum(size) - size, size, delta, shift, (marks & _NON_SYNC) == 0, dts)
