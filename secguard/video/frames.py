"""Where each frame of a recording stands: for inspection, and for whoever must point at one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secguard.video.nal import open_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["Frames", "frame_offsets"]


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames in decoding order, one column a property; row n is frame n + 1.

    Attributes:
        offset: file offset of the first slice's NAL unit header.
        size: bytes from there to the end of the frame's last slice.
        gop: number of its GOP, from 1.
        time: when it is shown, seconds from the beginning of the track.
        slices: slices in it.
        leads: it begins a GOP.
    """

    offset: "Int64s"
    size: "Int64s"
    gop: "Int64s"
    time: "NDArray[np.float64]"
    slices: "Int64s"
    leads: "NDArray[np.bool_]"

    def __len__(self) -> int:
        return len(self.offset)


def frame_offsets(path: Path) -> Frames:
    """The frames of a recording's video track.

    Raises:
        UsageError: no such file.
        FormatError: its container is not read here, is cut off, or holds no H.264 or H.265.
    """
    stream = open_stream(path)
    nals, samples = stream.nals, stream.samples
    index = np.flatnonzero(nals.vcl)
    sample = nals.sample[index]
    first = np.flatnonzero(np.concatenate(([True], np.diff(sample) != 0))) if len(index) else np.zeros(0, np.int64)
    last = np.append(first[1:], len(index)) - 1
    begins = np.add.reduceat(nals.leads[index].astype(np.int64), first) > 0 if len(first) else np.zeros(0, np.bool_)
    shown = samples.dts + samples.shift
    origin = int(shown.min()) if len(samples) else 0
    heads = nals.offset[index[first]]
    if stream.source.units() is not None:
        heads = np.array([stream.source.place(offset) for offset in heads.tolist()], dtype=np.int64)
    return Frames(
        heads,
        nals.end[index[last]] - nals.offset[index[first]],
        np.maximum(np.cumsum(begins), 1),
        (shown[sample[first]] - origin) / stream.track.timescale,
        last - first + 1,
        begins,
    )
