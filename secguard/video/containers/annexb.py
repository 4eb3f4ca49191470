"""NAL units between start codes (Annex B of H.264 and H.265): where they are, and which picture each belongs to."""

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secguard.core import FormatError
from secguard.video.containers.source import MAX_SAMPLES, Samples, Source, Track, Units, map_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["Elementary", "guess_codec", "open_annexb", "pictures", "scan"]

MAX_UNITS = 1 << 25
_RELEASE = 32 << 20
_LOOK = 64 << 10  # bytes in which a stream must show what it is
_SEI = {"h264": b"\x06\x05", "h265": b"\x4e\x01\x05"}
_UUID = bytes.fromhex("005bc93f2d715e95ada4796f90877a6f")  # of ONVIF Media Signing
_MAX_SEI = 1 << 18

# Units that can only stand before the first slice of a picture (H.264 7.4.1.2.3, H.265 7.4.2.4.4).
_H264_BEFORE = np.isin(np.arange(256), (6, 7, 8, 9, 14, 15, 16, 17, 18))
_H265_BEFORE = np.isin(np.arange(256), (32, 33, 34, 35, 39, *range(41, 45), *range(48, 56)))
_H264_FIRST = np.isin(np.arange(256), (1, 2, 5))
_H265_FIRST = np.isin(np.arange(256), (*range(10), *range(16, 22)))


@dataclass(frozen=True, slots=True)
class Elementary(Source):
    """A video stream between start codes, with the times that its container gave.

    Attributes:
        found: its NAL units.
        table: its pictures.
        ends: cumulative sizes of the pieces of `data`, and `starts`, where in the file each piece lies.
    """

    found: Units | None = None
    table: Samples | None = None
    ends: "Int64s" = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: "Int64s" = field(default_factory=lambda: np.zeros(0, np.int64))

    def samples(self, track: Track) -> Samples:  # noqa: ARG002 - there is one video track
        """The pictures."""
        assert self.table is not None
        return self.table

    def units(self) -> Units | None:
        """The NAL units."""
        return self.found

    def place(self, offset: int) -> int:
        """The file offset of a byte of the stream."""
        if not len(self.ends):
            return offset
        piece = min(int(np.searchsorted(self.ends, offset, side="right")), len(self.ends) - 1)
        before = int(self.ends[piece - 1]) if piece else 0
        return int(self.starts[piece]) + offset - before


def open_annexb(path: Path) -> Elementary:
    """Open a bare H.264 or H.265 stream. It states no times: every picture is shown at 0.

    Raises:
        UsageError: no such file.
        SystemPartError: the file cannot be read.
        FormatError: it is no such stream.
    """
    data = map_file(path)
    codec = guess_codec(bytes(data[:_LOOK]))
    if not codec:
        raise FormatError("video.container.format", "neither an H.264 nor an H.265 stream", where=f"{path}, byte 0")
    units = pictures(data, codec, scan(data, codec, str(path)))
    count = int(units.sample[-1]) + 1 if len(units.sample) else 0
    zeros = np.zeros(count, dtype=np.int64)
    track = Track("vide", codec, "annexb", b"", 0, 1)
    table = table_of(units, zeros, zeros)
    return Elementary(path, data, "annexb", 1, 0, (track,), units, table)


def guess_codec(head: bytes) -> str:
    """`h264` or `h265` by the parameter sets at the beginning of a stream; empty if there are none.

    H.265 sets have the types 32 to 34 in two bytes, layer 0; an H.264 SPS has type 7 and names a known profile.
    """
    at = head.find(b"\x00\x00\x01")
    while 0 <= at < len(head) - 6:
        first, second = head[at + 3], head[at + 4]
        if first in {0x40, 0x42, 0x44} and second == 1:
            return "h265"
        if first & 0x9F == 7 and second in {66, 77, 88, 100, 110, 118, 122, 128, 138, 144, 244, 44, 83, 86}:
            return "h264"
        at = head.find(b"\x00\x00\x01", at + 3)
    return ""


def scan(data: mmap.mmap, codec: str, where: str) -> tuple["Int64s", "Int64s"]:
    """Offsets and ends of the NAL units. An SEI of ONVIF's that start codes run through is kept whole.

    Signers that apply no emulation prevention write such SEIs, and a change of container leaves them so; the size that
    the SEI states says how far it goes.

    Raises:
        FormatError: more units than `MAX_UNITS`.
    """
    starts: list[int] = []
    codes: list[int] = []
    released, skip_to = 0, 0
    mark = _SEI[codec]
    at = data.find(b"\x00\x00\x01")
    while at >= 0:
        if at >= skip_to:
            start = at + 3
            starts.append(start)
            codes.append(at)
            if data[start : start + len(mark)] == mark:
                skip_to = _sei_end(data, start + len(mark))
            if len(starts) > MAX_UNITS:
                raise FormatError("video.nal.too-many", f"more than {MAX_UNITS} NAL units", where=where)
        at = data.find(b"\x00\x00\x01", at + 3)
        if at - released > _RELEASE:
            released = at
            data.madvise(mmap.MADV_DONTNEED)
    offset = np.array(starts, dtype=np.int64)
    end = np.array([*codes[1:], len(data)] if starts else [], dtype=np.int64)
    kept = end > offset
    return offset[kept], end[kept]


def _sei_end(data: mmap.mmap, at: int) -> int:
    """Where an SEI of ONVIF's ends that has no emulation prevention; 0 for any other SEI."""
    size = 0
    head = data[at : at + 1100]
    step = 0
    while step < len(head) and head[step] == 0xFF:
        size += 255
        step += 1
    if step >= len(head):
        return 0
    size += head[step]
    if size > _MAX_SEI or head[step + 1 : step + 17] != _UUID:
        return 0
    # With emulation prevention applied no start code can stand inside, and the unit is longer than this.
    return at + step + 1 + size


def pictures(data: mmap.mmap, codec: str, spans: tuple["Int64s", "Int64s"]) -> Units:
    """Give each unit the number of its picture (access unit)."""
    offset, end = spans
    view = np.frombuffer(data, dtype=np.uint8)
    last = len(view) - 1
    first = view[offset] if len(offset) else np.zeros(0, np.uint8)
    if codec == "h264":
        kind, after = first & 0x1F, view[np.minimum(offset + 1, last)]
        before, begins = _H264_BEFORE[kind], _H264_FIRST[kind] & (after >= 0x80)
    else:
        kind, after = (first >> 1) & 0x3F, view[np.minimum(offset + 2, last)]
        before, begins = _H265_BEFORE[kind], _H265_FIRST[kind] & (after >= 0x80)
    preceded = np.concatenate(([False], before[:-1])) if len(before) else before
    new = (before | begins) & ~preceded
    new[_behind(kind, codec) :] = False  # an SEI behind the last picture ends it, and begins no other
    sample = np.maximum(np.cumsum(new) - 1, 0).astype(np.int64)
    if len(sample) and int(sample[-1]) >= MAX_SAMPLES:
        raise FormatError("video.nal.too-many", f"more than {MAX_SAMPLES} pictures")
    return Units(offset, end, sample, np.zeros(len(offset), dtype=np.bool_))


def _behind(kind: "NDArray[Any]", codec: str) -> int:
    """The first unit behind the last slice."""
    slices = np.flatnonzero((kind >= 1) & (kind <= 5) if codec == "h264" else kind < 32)
    return int(slices[-1]) + 1 if len(slices) else len(kind)


def table_of(units: Units, dts: "Int64s", pts: "Int64s") -> Samples:
    """The pictures as samples, with their times."""
    count = len(dts)
    index = np.arange(count)
    low = np.searchsorted(units.sample, index, side="left")
    high = np.searchsorted(units.sample, index, side="right") - 1
    offset = units.offset[low] if count else np.zeros(0, np.int64)
    size = units.end[high] - offset if count else offset
    delta = np.diff(dts, append=dts[-1:] + (dts[-1] - dts[-2] if count > 1 else 0)) if count else offset
    return Samples(offset, size, dts, delta, pts - dts, np.ones(count, dtype=np.bool_))
