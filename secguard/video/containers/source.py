"""What every container gives: the file's bytes, its tracks, and the samples of the video track as columns."""

import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secguard.core import FormatError, SystemPartError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["MAX_SAMPLES", "Samples", "Source", "Track", "Units", "map_file", "present"]

MAX_SAMPLES = 1 << 24
"""Samples of a track: 6 days at 30 frames a second."""


@dataclass(frozen=True, slots=True)
class Samples:
    """A track's samples in decoding order, one column a property.

    Attributes:
        offset: file offset of the first byte.
        size: bytes.
        dts: decoding time in ticks of the track's timescale.
        delta: duration in ticks, as `stts` gives it.
        shift: composition offset in ticks (`ctts`), 0 where there is none.
        sync: True where `stss` lists the sample, or everywhere without an `stss`.
        lost: samples that the index lists and the file does not hold, or holds in part; what is there of them counts.
    """

    offset: "Int64s"
    size: "Int64s"
    dts: "Int64s"
    delta: "Int64s"
    shift: "Int64s"
    sync: "NDArray[np.bool_]"
    lost: int = 0

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a recording.

    Attributes:
        handler: `vide`, `soun`, ... as text.
        codec: `h264`, `h265`, or empty.
        entry: four-character code of the sample entry.
        config: the decoder configuration record (`avcC`, `hvcC`); empty where the container has none.
        length_size: bytes of the length before each NAL unit; 0 where start codes stand between them.
        timescale: ticks a second.
        header: MP4: body of the track header box (`tkhd`): flags, matrix, width and height.
        edits: edit list rows (segment duration, media time, rate), durations in the movie's timescale.
        tables: MP4: boxes of the sample table by type.
        number: its track_ID, PID or stream_id.
        shape: MP4: what else than `header` turns or shapes the picture: the movie's matrix, the sample entry's size,
            pixel shape and clean aperture; empty where they leave it as it is.
    """

    handler: str
    codec: str
    entry: str
    config: bytes
    length_size: int
    timescale: int
    header: bytes = b"\0"
    edits: tuple[tuple[int, int, int], ...] = ()
    tables: dict[bytes, Any] = field(default_factory=dict)
    number: int = 0
    shape: bytes = b""


@dataclass(frozen=True, slots=True)
class Units:
    """NAL units between start codes, one column a property, in stream order.

    Attributes:
        offset: of the NAL unit header, in the source's `data`.
        end: behind the last byte.
        sample: zero-based sample it lies in.
        damaged: bytes of it are missing, as far as the container tells.
    """

    offset: "Int64s"
    end: "Int64s"
    sample: "Int64s"
    damaged: "NDArray[np.bool_]"


@dataclass(frozen=True, slots=True)
class Source:
    """An opened recording.

    Attributes:
        path: the file.
        data: bytes in which the samples lie, mapped: the file itself, or the video stream taken out of its packets.
        container: `mp4`, `mkv`, `ts`, `ps` or `annexb`.
        timescale: the container's ticks a second.
        created: creation time, seconds since 1904 in UTC; 0 if unset.
        tracks: all tracks.
        cut: file offset from which on nothing could be read: the file was cut off or damaged there; -1 if it is whole.
    """

    path: Path
    data: mmap.mmap
    container: str
    timescale: int
    created: int
    tracks: tuple[Track, ...]
    cut: int = field(default=-1, kw_only=True)

    @property
    def video(self) -> Track:
        """The first H.264 or H.265 track.

        Raises:
            FormatError: there is none.
        """
        for track in self.tracks:
            if track.codec:
                return track
        kinds = ", ".join(t.entry or t.handler for t in self.tracks) or "no track"
        raise FormatError(
            "video.track.none",
            f"no H.264 or H.265 track ({kinds})",
            hint="convert nothing: other codecs are not supported by ONVIF Media Signing",
            where=str(self.path),
        )

    def samples(self, track: Track) -> Samples:
        """The samples of `track`, as columns.

        Raises:
            FormatError: the container contradicts itself.
        """
        raise NotImplementedError

    def units(self) -> Units | None:
        """NAL units between start codes; None where each has its length before it."""
        return None

    def place(self, offset: int) -> int:
        """The file offset of a byte of `data`."""
        return offset


def present(samples: Samples, length: int) -> Samples:
    """The samples as far as a file of `length` bytes holds them."""
    over = samples.offset + samples.size > length
    if not over.any():
        return samples
    kept = samples.offset < length
    size = np.minimum(samples.size[kept], length - samples.offset[kept])
    columns = (samples.dts[kept], samples.delta[kept], samples.shift[kept], samples.sync[kept])
    return Samples(samples.offset[kept], size, *columns, lost=int(over.sum()))


def map_file(path: Path) -> mmap.mmap:
    """Map a regular file, read-only.

    Raises:
        UsageError: no such file, or not a regular one.
        SystemPartError: it cannot be read.
        FormatError: it is too short for any video.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError("core.file.missing", "no such file", where=str(path)) from None
    except OSError as error:
        raise SystemPartError("core.file.unreadable", f"cannot read: {error.strerror}", where=str(path)) from error
    try:
        if os.fstat(descriptor).st_size < 16:
            raise FormatError("video.container.format", "not a video file: too short", where=str(path))
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UsageError("core.file.missing", "not a regular file", where=str(path)) from error
    finally:
        os.close(descriptor)
