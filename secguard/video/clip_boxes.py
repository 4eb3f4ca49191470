"""The boxes of an MP4 file that shows its samples plainly (ISO/IEC 14496-12): no edit list, no matrix, no fragments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["Lane", "file_type", "index", "media_header"]

_MATRIX = b"".join(value.to_bytes(4, "big") for value in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))
_SOUND = "soun"


@dataclass(frozen=True, slots=True)
class Lane:
    """One track of the file.

    Attributes:
        handler: `vide` or `soun`.
        description: the sample description box (`stsd`), whole.
        timescale: ticks a second.
        size, delta, shift: columns of its samples, as in `Samples`.
        sync: samples that a player may begin with.
        chunks: samples in each chunk.
        width, height: of the picture, in pixels.
    """

    handler: str
    description: bytes
    timescale: int
    size: "Int64s"
    delta: "Int64s"
    shift: "Int64s"
    sync: "NDArray[np.bool_]"
    chunks: "Int64s"
    width: int = 0
    height: int = 0


def _box(kind: bytes, *parts: bytes) -> bytes:
    size = 8 + sum(map(len, parts))
    return b"".join((size.to_bytes(4, "big"), kind, *parts))


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, bytes((version,)) + flags.to_bytes(3, "big"), *parts)


def _numbers(width: int, *values: int) -> bytes:
    return b"".join(value.to_bytes(width, "big") for value in values)


def _runs(column: "Int64s") -> tuple["Int64s", "Int64s"]:
    """Run lengths and values."""
    if not len(column):
        return column, column
    edges = np.concatenate(([0], np.flatnonzero(np.diff(column)) + 1))
    return np.diff(np.append(edges, len(column))), column[edges]


def _table(*columns: "Int64s") -> bytes:
    rows = np.stack(columns, axis=1).astype(">i8") & 0xFFFFFFFF
    return len(rows).to_bytes(4, "big") + rows.astype(">u4").tobytes()


def _sample_table(lane: Lane, offsets: "Int64s", *, wide: bool) -> bytes:
    counts, chunks = lane.chunks, np.arange(1, len(lane.chunks) + 1)
    changes = np.concatenate(([True], np.diff(counts) != 0)) if len(counts) else np.zeros(0, dtype=np.bool_)
    parts = [lane.description, _full(b"stts", 0, 0, _table(*_runs(lane.delta)))]
    if lane.shift.any():
        parts.append(_full(b"ctts", 1 if (lane.shift < 0).any() else 0, 0, _table(*_runs(lane.shift))))
    if not lane.sync.all():
        parts.append(_full(b"stss", 0, 0, _table(np.flatnonzero(lane.sync) + 1)))
    parts += [
        _full(b"stsz", 0, 0, bytes(4), len(lane.size).to_bytes(4, "big"), lane.size.astype(">u4").tobytes()),
        _full(b"stsc", 0, 0, _table(chunks[changes], counts[changes], np.ones(int(changes.sum()), dtype=np.int64))),
        _full(
            b"co64" if wide else b"stco",
            0,
            0,
            len(offsets).to_bytes(4, "big"),
            offsets.astype(">u8" if wide else ">u4").tobytes(),
        ),
    ]
    return _box(b"stbl", *parts)


def _track(lane: Lane, number: int, offsets: "Int64s", *, scale: int, made: int, wide: bool) -> bytes:
    length = int(lane.delta.sum())
    sound = lane.handler == _SOUND
    header = _full(
        b"tkhd",
        1,
        3,  # enabled, in the movie
        _numbers(8, made, made),
        _numbers(4, number, 0),
        _numbers(8, length * scale // lane.timescale, 0),
        _numbers(2, 0, 0, 0x100 if sound else 0, 0),
        _MATRIX,
        _numbers(4, lane.width << 16, lane.height << 16),
    )
    media = _full(
        b"mdhd", 1, 0, _numbers(8, made, made), _numbers(4, lane.timescale), _numbers(8, length), b"\x55\xc4\0\0"
    )
    name = b"SoundHandler\0" if sound else b"VideoHandler\0"
    handler = _full(b"hdlr", 0, 0, bytes(4), lane.handler.encode("latin-1"), bytes(12), name)
    kind = _full(b"smhd", 0, 0, bytes(4)) if sound else _full(b"vmhd", 0, 1, bytes(8))
    place = _box(b"dinf", _full(b"dref", 0, 0, _numbers(4, 1), _full(b"url ", 0, 1)))
    return _box(
        b"trak",
        header,
        _box(b"mdia", media, handler, _box(b"minf", kind, place, _sample_table(lane, offsets, wide=wide))),
    )


def file_type() -> bytes:
    """The box that a file begins with."""
    return _box(b"ftyp", b"isom", _numbers(4, 0x200), b"isomiso2mp41")


def media_header(size: int) -> bytes:
    """The header of the media data box before `size` bytes."""
    return _numbers(4, 1) + b"mdat" + _numbers(8, size + 16)


def index(lanes: Sequence[Lane], offsets: "Sequence[Int64s]", *, made: int, wide: bool) -> bytes:
    """The movie box.

    Args:
        lanes: the tracks; the first is the video's.
        offsets: file offsets of each track's chunks.
        made: creation time, seconds since 1904; 0 if not known.
        wide: write offsets of 64 bits.
    """
    scale = lanes[0].timescale
    length = max(int(lane.delta.sum()) * scale // lane.timescale for lane in lanes)
    header = _full(
        b"mvhd",
        1,
        0,
        _numbers(8, made, made),
        _numbers(4, scale),
        _numbers(8, length),
        _numbers(4, 0x10000),
        _numbers(2, 0x100, 0),
        bytes(8),
        _MATRIX,
        bytes(24),
        _numbers(4, len(lanes) + 1),
    )
    tracks = [
        _track(lane, number, places, scale=scale, made=made, wide=wide)
        for number, (lane, places) in enumerate(zip(lanes, offsets, strict=True), start=1)
    ]
    return _box(b"moov", header, *tracks)
