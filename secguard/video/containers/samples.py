"""Expand a track's sample table (`stsz stsc stco stts ctts stss`) into columns (ISO/IEC 14496-12, section 8)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from secguard.video.containers.mp4 import Box, fail
from secguard.video.containers.source import MAX_SAMPLES, Samples, Track, present

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from secguard.video.containers.mp4 import Movie

    Int64s = NDArray[np.int64]

__all__ = ["chunk_offsets", "read_samples"]

_FAR = 1 << 62  # behind the end of any file


def _rows(movie: "Movie", box: Box, kind: str, columns: int, skip: int = 8) -> "NDArray[Any]":
    """The rows of a table box: a count before `skip`, then rows of `columns` numbers of NumPy kind `kind`."""
    data, path = movie.data, movie.path
    if box.end - box.body < skip:
        raise fail(path, box.start, f"box {box.kind.decode('latin-1')!r} is too short")
    count = int.from_bytes(data[box.body + skip - 4 : box.body + skip], "big")
    width = np.dtype(kind).itemsize * columns
    if count * width > box.end - box.body - skip:
        raise fail(path, box.start, f"box {box.kind.decode('latin-1')!r} claims {count} rows, more than it holds")
    raw = bytes(data[box.body + skip : box.body + skip + count * width])
    return np.frombuffer(raw, dtype=kind).reshape(count, columns)


def chunk_offsets(movie: "Movie", track: Track, *, whole: bool = True) -> "Int64s":
    """File offsets of a track's chunks, from `stco` or `co64`.

    Args:
        movie: the opened file.
        track: the track.
        whole: refuse a file that ends before one of them.

    Raises:
        FormatError: neither is there, or an offset cannot be.
    """
    box = track.tables.get(b"stco") or track.tables.get(b"co64")
    if box is None:
        raise fail(movie.path, movie.moov.start, "a track without chunk offsets")
    column = _rows(movie, box, ">u4" if box.kind == b"stco" else ">u8", 1)[:, 0]
    if whole and len(column) and int(column.max()) > len(movie.data):
        raise fail(
            movie.path,
            box.start,
            "a chunk lies behind the end of the file",
            "video.mp4.truncated",
            "the file is incomplete: copy it again from its source",
        )
    return np.minimum(column.astype(np.uint64), np.uint64(_FAR)).astype(np.int64)


def _sizes(movie: "Movie", track: Track) -> "Int64s":
    box = track.tables.get(b"stsz")
    if box is None:
        raise fail(movie.path, movie.moov.start, "a track without sample sizes (stsz)")
    data = movie.data
    if box.end - box.body < 12:
        raise fail(movie.path, box.start, "box 'stsz' is too short")
    fixed = int.from_bytes(data[box.body + 4 : box.body + 8], "big")
    count = int.from_bytes(data[box.body + 8 : box.body + 12], "big")
    if count > MAX_SAMPLES:
        raise fail(movie.path, box.start, f"{count} samples; {MAX_SAMPLES} is the limit")
    if fixed:
        return np.full(count, fixed, dtype=np.int64)
    return _rows(movie, box, ">u4", 1, skip=12)[:, 0].astype(np.int64)


def _repeat(movie: "Movie", box: Box, rows: "NDArray[Any]", count: int) -> "Int64s":
    """Run-length rows (count, value) expanded to exactly `count` values."""
    lengths = rows[:, 0].astype(np.int64)
    if int(lengths.sum()) != count:
        name = box.kind.decode("latin-1")
        raise fail(movie.path, box.start, f"box {name!r} covers {int(lengths.sum())} samples of {count}")
    return np.repeat(rows[:, 1].astype(np.int64), lengths)


def _offsets(movie: "Movie", track: Track, sizes: "Int64s") -> "Int64s":
    """File offset of each sample: chunk offsets plus the sizes of the samples before it in its chunk."""
    chunks = chunk_offsets(movie, track, whole=False)
    box = track.tables.get(b"stsc")
    if box is None:
        raise fail(movie.path, movie.moov.start, "a track without a sample-to-chunk table (stsc)")
    rows = _rows(movie, box, ">u4", 3).astype(np.int64)
    count = len(sizes)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    first = rows[:, 0]
    if len(rows) == 0 or first[0] != 1 or (np.diff(first) <= 0).any() or first[-1] > len(chunks):
        raise fail(movie.path, box.start, "box 'stsc' does not run through the chunks in order")
    per_chunk = np.repeat(rows[:, 1], np.diff(np.append(first, len(chunks) + 1)))
    if int(per_chunk.sum()) != count or (per_chunk < 0).any():
        raise fail(movie.path, box.start, f"the chunks hold {int(per_chunk.sum())} samples of {count}")
    before = np.cumsum(sizes) - sizes
    used = per_chunk > 0
    heads = (np.cumsum(per_chunk) - per_chunk)[used]
    base = np.repeat(chunks[used] - before[heads], per_chunk[used])
    offsets: Int64s = base + before
    return offsets


def read_samples(movie: "Movie", track: Track) -> Samples:
    """The sample table of `track` as columns, as far as the file holds the samples.

    Raises:
        FormatError: a table is missing, or the tables contradict each other.
    """
    sizes = _sizes(movie, track)
    count = len(sizes)
    offsets = _offsets(movie, track, sizes)
    times = track.tables.get(b"stts")
    if times is None:
        raise fail(movie.path, movie.moov.start, "a track without decoding times (stts)")
    delta = _repeat(movie, times, _rows(movie, times, ">u4", 2), count)
    dts = np.cumsum(delta) - delta
    shift = np.zeros(count, dtype=np.int64)
    composition = track.tables.get(b"ctts")
    if composition is not None:
        # Version 0 says unsigned; writers that mean negative values exist, and no real offset exceeds 31 bits.
        rows = _rows(movie, composition, ">i4", 2)
        if (rows[:, 0] < 0).any():
            raise fail(movie.path, composition.start, "box 'ctts' has a negative count")
        shift = _repeat(movie, composition, rows, count)
    listed = track.tables.get(b"stss")
    sync = np.ones(count, dtype=np.bool_)
    if listed is not None:
        numbers = _rows(movie, listed, ">u4", 1)[:, 0].astype(np.int64)
        if len(numbers) and (int(numbers.min()) < 1 or int(numbers.max()) > count):
            raise fail(movie.path, listed.start, "box 'stss' names a sample that is not there")
        sync[:] = False
        sync[numbers - 1] = True
    return present(Samples(offsets, sizes, dts, delta, shift, sync), len(movie.data))
