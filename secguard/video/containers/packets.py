"""MPEG-2 packets (ISO/IEC 13818-1): what TS and PS have in common: PES headers, times, and taking a stream out."""

import mmap
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secguard.core import FormatError
from secguard.core.files import translate_os_error
from secguard.video.containers.annexb import Elementary, guess_codec, pictures, scan, table_of
from secguard.video.containers.source import Track, Units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["CLOCK", "CODECS", "Extract", "pes_header", "stamp"]

CODECS = {0x1B: "h264", 0x24: "h265"}
"""stream_type (13818-1, Table 2-34) of what we read."""
CLOCK = 90_000
"""Ticks a second of presentation and decoding times."""
_WRAP = 1 << 33
_LOOK = 1 << 20


def stamp(data: bytes) -> int:
    """A time stamp of 33 bits in five bytes (13818-1, 2.4.3.6)."""
    return (data[0] >> 1 & 7) << 30 | data[1] << 22 | (data[2] >> 1) << 15 | data[3] << 7 | data[4] >> 1


def pes_header(head: bytes) -> tuple[int, int, int]:
    """Where the payload of a PES packet begins, and its presentation and decoding time; -1 where it states none.

    Args:
        head: the packet's first bytes, from its start code on; 19 are enough.

    Raises:
        ValueError: it is no PES packet of MPEG-2.
    """
    if len(head) < 9 or head[6] >> 6 != 2:
        raise ValueError
    flags, begin = head[7] >> 6, 9 + head[8]
    pts = stamp(head[9:14]) if flags & 2 and len(head) >= 14 and head[8] >= 5 else -1
    dts = stamp(head[14:19]) if flags == 3 and len(head) >= 19 and head[8] >= 10 else pts
    return begin, pts, dts


@dataclass(slots=True)
class Extract:
    """A video stream taken out of its packets into a nameless temporary file, so that memory stays flat.

    Attributes:
        path: the recording.
        starts, sizes: file offset and size of each piece taken.
        stamps: (offset in the stream, presentation time, decoding time) of packets that state a time.
        gaps: offsets in the stream before which bytes are missing.
    """

    path: Path
    starts: "list[Any]" = field(default_factory=list)
    sizes: "list[Any]" = field(default_factory=list)
    stamps: list[tuple[int, int, int]] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    size: int = 0
    _file: Any = None

    def write(self, data: bytes) -> None:
        """Append to the stream.

        Raises:
            SystemPartError: the folder for temporary files is full.
        """
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="secguard-")  # noqa: SIM115 - mapped, then closed in `finish`
            self._file.write(data)
        except OSError as error:
            raise translate_os_error(error, Path(tempfile.gettempdir())) from error
        self.size += len(data)

    def finish(self, container: str, codec: str, tracks: Iterable[Track]) -> Elementary:
        """Close the stream and find its pictures.

        Raises:
            FormatError: the stream is empty, or of an unknown kind.
            SystemPartError: the folder for temporary files is full.
        """
        found = tuple(tracks)
        if not self.size:
            kinds = ", ".join(item.entry for item in found) or "no stream"
            raise FormatError("video.track.none", f"no H.264 or H.265 stream ({kinds})", where=str(self.path))
        try:
            self._file.flush()
            data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise translate_os_error(error, Path(tempfile.gettempdir())) from error
        finally:
            self._file.close()
        codec = codec or guess_codec(bytes(data[:_LOOK]))
        if not codec:
            raise FormatError(
                "video.track.none", "the video stream is neither H.264 nor H.265", hint="", where=str(self.path)
            )
        units = self._damaged(pictures(data, codec, scan(data, codec, str(self.path))))
        dts, pts = self._times(units)
        track = Track("vide", codec, codec, b"", 0, CLOCK)
        others = tuple(item for item in found if not item.codec)
        ends = np.cumsum(np.concatenate([np.atleast_1d(np.asarray(item, dtype=np.int64)) for item in self.sizes]))
        starts = np.concatenate([np.atleast_1d(np.asarray(item, dtype=np.int64)) for item in self.starts])
        table = table_of(units, dts, pts)
        return Elementary(self.path, data, container, CLOCK, 0, (track, *others), units, table, ends, starts)

    def _damaged(self, units: Units) -> Units:
        """Mark the units that a gap runs through."""
        if not self.gaps or not len(units.offset):
            return units
        gaps = np.array(self.gaps, dtype=np.int64)
        hit = np.searchsorted(units.offset, gaps, side="right") - 1
        inside = (hit >= 0) & (gaps > units.offset[np.maximum(hit, 0)]) & (gaps <= units.end[np.maximum(hit, 0)])
        units.damaged[hit[inside]] = True
        return units

    def _times(self, units: Units) -> "tuple[Int64s, Int64s]":
        """Decoding and presentation time of each picture: the first one that begins in a packet has the packet's."""
        count = int(units.sample[-1]) + 1 if len(units.sample) else 0
        if not self.stamps or not count:
            return np.zeros(count, np.int64), np.zeros(count, np.int64)
        begins = units.offset[np.searchsorted(units.sample, np.arange(count), side="left")]
        place = np.array([item[0] for item in self.stamps], dtype=np.int64)
        pts = _unwrap(np.array([item[1] for item in self.stamps], dtype=np.int64))
        dts = _unwrap(np.array([item[2] for item in self.stamps], dtype=np.int64))
        picture = np.minimum(np.searchsorted(begins, place), count - 1)
        picture, first = np.unique(picture, return_index=True)
        index = np.arange(count)
        # A picture without a time of its own lies evenly between its neighbours.
        decoded = np.interp(index, picture, dts[first]).astype(np.int64)
        shift = np.zeros(count, dtype=np.int64)
        shift[picture] = (pts - dts)[first]
        return decoded, decoded + shift


def _unwrap(times: "Int64s") -> "Int64s":
    """Times that start over after 26.5 hours, in a row."""
    step = np.diff(times)
    turns = np.cumsum((step < -_WRAP // 2).astype(np.int64) - (step > _WRAP // 2).astype(np.int64))
    unwrapped: Int64s = times + np.concatenate(([0], turns)) * _WRAP
    return unwrapped
