"""NAL units of a track as columns, what each of them is, and emulation prevention (H.264 7.3.1, H.265 7.3.1).

Positions are those of the units in the source's bytes: exact, nothing re-muxed. A length that runs
past its sample is clipped and marked as damaged; the unit's hash then cannot match, so the damage is reported where
it is instead of stopping the work.
"""

import itertools
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import FormatError
from secguard.video.containers import Samples, Source, Track, open_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]
    Bools = NDArray[np.bool_]

__all__ = ["Nals", "Stream", "add_prevention", "header_size", "open_stream", "strip_prevention"]

_BATCH = 32 << 20  # bytes of samples after which the pages touched are given back, so that memory stays flat
_MAX_ROUNDS = 1 << 14  # NAL units of a sample; H.264 allows a picture of 8,160 macroblocks as many slices
MAX_NALS = 1 << 25
"""NAL units of a track."""

# H.264 Table 7-1: 1-5 are slices; H.265 Table 7-1: 0-9 and 16-21 are slice segments, 16-21 begin a coded sequence.
_H264_VCL = np.isin(np.arange(256), (1, 2, 3, 4, 5))
_H264_IRAP = np.isin(np.arange(256), (5,))
_H264_SETS = np.isin(np.arange(256), (7, 8, 13, 15))
_H265_VCL = np.isin(np.arange(256), (*range(10), *range(16, 22)))
_H265_IRAP = np.isin(np.arange(256), tuple(range(16, 22)))
_H265_SETS = np.isin(np.arange(256), (32, 33, 34))

_SEQUENCE = re.compile(rb"\x00\x00(?=[\x00-\x03])")


@dataclass(frozen=True, slots=True)
class Nals:
    """NAL units in decoding order, one column a property.

    Attributes:
        codec: `h264` or `h265`.
        offset: file offset of the NAL unit header.
        end: file offset behind the last byte that counts (trailing zero bytes are not part of a NAL unit).
        sample: zero-based sample it lies in.
        kind: nal_unit_type.
        vcl: it is a slice.
        leads: it is the first slice of a picture that begins a GOP (H.264 IDR, H.265 IRAP).
        sets: it is a parameter set.
        sei: it is an SEI that may be ONVIF's (`06 05`, `4E 01 05`).
        damaged: its length runs past its sample.
    """

    codec: str
    offset: "Int64s"
    end: "Int64s"
    sample: "Int64s"
    kind: "NDArray[np.uint8]"
    vcl: "Bools"
    leads: "Bools"
    sets: "Bools"
    sei: "Bools"
    damaged: "Bools"

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True, slots=True)
class Stream:
    """The video track of an opened file.

    Attributes:
        source: the file.
        track: its video track.
        samples: the track's samples.
        nals: the NAL units in them.
    """

    source: Source
    track: Track
    samples: Samples
    nals: Nals


def open_stream(path: Path) -> Stream:
    """Open a recording and find the NAL units of its video track.

    Raises:
        UsageError: no such file.
        SystemPartError: the file cannot be read.
        FormatError: its container is not read here, is cut off, or holds no H.264 or H.265.
    """
    source = open_source(path)
    track = source.video
    samples = source.samples(track)
    return Stream(source, track, samples, _read_nals(source, track, samples))


def header_size(codec: str) -> int:
    """Bytes of the NAL unit header: 1 in H.264, 2 in H.265."""
    return 1 if codec == "h264" else 2


def _split(
    view: "NDArray[np.uint8]", width: int, at: "Int64s", stop: "Int64s", path: Path
) -> tuple["Int64s", "Int64s", "Int64s", "Bools"]:
    """Offsets, ends, samples and damage of the units in samples `at` to `stop`; round k reads the k-th unit of all."""
    index = np.arange(len(at), dtype=np.int64)
    pieces: list[tuple[Int64s, Int64s, Int64s, Bools]] = []
    while len(index):
        whole = stop - at > width  # what is left and too short for a length and one byte is padding
        at, stop, index = at[whole], stop[whole], index[whole]
        if not len(index):
            break
        length = np.zeros(len(at), dtype=np.int64)
        for byte in range(width):
            length = (length << 8) | view[at + byte]
        begin = at + width
        finish = begin + length
        damaged = finish > stop
        finish = np.minimum(finish, stop)
        kept = finish > begin
        pieces.append((begin[kept], finish[kept], index[kept], damaged[kept]))
        at = finish
        if len(pieces) > _MAX_ROUNDS:
            where = f"{path}, byte {int(at[0])}"
            raise FormatError("video.nal.too-many", f"more than {_MAX_ROUNDS} NAL units in one sample", where=where)
    if not pieces:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty, np.zeros(0, dtype=np.bool_)
    offset, end, sample, damage = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.argsort(sample, kind="stable")
    return offset[order], end[order], sample[order], damage[order]


def _batches(samples: Samples) -> list[tuple[int, int]]:
    """Ranges of samples of about `_BATCH` bytes each."""
    total = np.cumsum(samples.size)
    size = int(total[-1]) if len(total) else 0
    borders = np.unique(np.searchsorted(total, np.arange(_BATCH, size, _BATCH)) + 1).tolist()
    edges = [0, *(border for border in borders if border < len(total)), len(total)]
    return list(itertools.pairwise(edges))


def _read_nals(source: Source, track: Track, samples: Samples) -> Nals:
    """Find and classify all NAL units of a track.

    Raises:
        FormatError: more NAL units than `MAX_NALS`.
    """
    data = source.data
    view = np.frombuffer(data, dtype=np.uint8)
    size, last = header_size(track.codec), len(view) - 1
    batches, total = [], 0
    for offset, end, sample, damaged in _spans(source, track, samples, view):
        for index in np.flatnonzero(view[end - 1] == 0).tolist():
            end[index] = _without_zeros(data, int(offset[index]), int(end[index]))
        after = view[np.minimum(offset + size, last)]  # slice header, or the SEI's payload type
        batches.append((offset, end, sample, damaged, view[offset], after))
        total += len(offset)
        if total > MAX_NALS:
            raise FormatError("video.nal.too-many", f"more than {MAX_NALS} NAL units", where=str(source.path))
        data.madvise(mmap.MADV_DONTNEED)
    offset, end, sample, damaged, first, after = (np.concatenate(column) for column in zip(*batches, strict=True))
    long_enough = end - offset > size
    if track.codec == "h264":
        kind = (first & 0x1F).astype(np.uint8)
        tables = (_H264_VCL, _H264_IRAP, _H264_SETS)
        sei = (kind == 6) & (after == 5) & long_enough
    else:
        kind = ((first >> 1) & 0x3F).astype(np.uint8)
        tables = (_H265_VCL, _H265_IRAP, _H265_SETS)
        sei = (kind == 39) & (after == 5) & long_enough
    vcl, irap, sets = (table[kind] for table in tables)
    leads = irap & (after >= 0x80) & long_enough  # first_mb_in_slice == 0, first_slice_segment_in_pic_flag
    return Nals(track.codec, offset, end, sample, kind, vcl, leads, sets, sei, damaged)


def _spans(
    source: Source, track: Track, samples: Samples, view: "NDArray[np.uint8]"
) -> Iterator[tuple["Int64s", "Int64s", "Int64s", "Bools"]]:
    """Offsets, ends, samples and damage of all units, about `_BATCH` bytes at a time."""
    units = source.units()
    if units is not None:
        low = 0
        while low < len(units.offset) or low == 0:
            high = int(np.searchsorted(units.offset, units.offset[low] + _BATCH)) if len(units.offset) else 0
            part = slice(low, max(high, low + 1))
            yield units.offset[part], units.end[part], units.sample[part], units.damaged[part]
            low = max(high, low + 1)
        return
    for low, high in _batches(samples):
        begin = samples.offset[low:high]
        offset, end, sample, damaged = _split(
            view, track.length_size, begin, begin + samples.size[low:high], source.path
        )
        yield offset, end, sample + low, damaged


def _without_zeros(data: mmap.mmap, start: int, end: int) -> int:
    """Where a unit ends when its trailing zero bytes are left out; at least one byte stays."""
    step = 64
    while end - start > 1:
        low = max(start + 1, end - step)
        rest = bytes(data[low:end]).rstrip(b"\0")
        if rest:
            return low + len(rest)
        end, step = low, step * 4
    return end


def add_prevention(data: bytes) -> bytes:
    """Insert emulation prevention bytes: `00 00 0x` (x <= 3) becomes `00 00 03 0x`."""
    return _SEQUENCE.sub(b"\x00\x00\x03", data)


def strip_prevention(data: bytes) -> bytes:
    """Take emulation prevention bytes out: `00 00 03` becomes `00 00`."""
    return data.replace(b"\x00\x00\x03", b"\x00\x00")
