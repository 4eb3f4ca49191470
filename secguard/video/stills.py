"""Stills of chosen frames, for the eye only: PyAV decodes them in a process of its own (the optional part `media`).

Nothing here is evidence: what is proven is proven over the bytes that were signed. A decoder conceals damage, and
hostile bytes may end it; then the still is missing, and the report says so.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from secguard.core import SecguardError
from secguard.video.nal import Stream, open_stream

__all__ = ["Look", "Still", "look"]

_MAX_STILLS = 16
_MAX_GOP = 1000  # frames decoded for one still
_MAX_PIXELS = 8192 * 8192
_WIDTH = 480
_SECONDS = 60
_START = b"\0\0\0\1"


@dataclass(frozen=True, slots=True)
class Still:
    """One frame as a picture.

    Attributes:
        jpeg: empty if it does not decode.
        damaged: the decoder reported errors in it.
    """

    jpeg: bytes
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What the eye gets of a recording.

    Attributes:
        available: PyAV is installed.
        stills: by frame number, from 1.
        times: when frames are shown, seconds from the beginning, by frame number.
    """

    available: bool = True
    stills: dict[int, Still] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)


def look(path: Path, frames: Sequence[int], timed: Sequence[int] = ()) -> Look:
    """Decode stills of some frames; never raises for what the recording holds.

    Args:
        path: the recording.
        frames: numbers of frames, from 1, in decoding order; the first 16 count.
        timed: numbers of frames whose times are wanted.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        return Look(available=False)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_run, args=(theirs, path, list(frames)[:_MAX_STILLS], list(timed)), daemon=True)
    process.start()
    theirs.close()
    found = Look()
    try:
        while ours.poll(_SECONDS):
            kind, value = ours.recv()
            if kind == "times":
                found.times.update(value)
            elif kind == "none":
                found = Look(available=False, times=found.times)
            else:
                found.stills[kind] = value
    except (EOFError, ConnectionResetError):
        pass  # it is done, or it died; what it sent counts
    finally:
        process.terminate()
        process.join()
        ours.close()
    return found


def _run(pipe: Any, path: Path, frames: list[int], timed: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stream = open_stream(path)
    except SecguardError:
        return
    nals, samples = stream.nals, stream.samples
    pictures = np.unique(nals.sample[nals.vcl])
    if len(samples):
        shown = samples.dts + samples.shift
        origin = int(shown.min())
        inside = [number for number in {*frames, *timed} if 0 < number <= len(pictures)]
        scale = stream.track.timescale
        pipe.send(("times", {n: float(shown[pictures[n - 1]] - origin) / scale for n in inside}))
    try:
        import av  # noqa: F401 - the optional part
    except ImportError:
        pipe.send(("none", None))
        return
    for number in frames:
        if 0 < number <= len(pictures):
            pipe.send((number, _decode(stream, int(pictures[number - 1]))))


def _packet(stream: Stream, sample: int) -> bytes:
    """The units of a sample between start codes."""
    nals, data = stream.nals, stream.source.data
    low, high = np.searchsorted(nals.sample, [sample, sample + 1]).tolist()
    return b"".join(_START + data[int(nals.offset[at]) : int(nals.end[at])] for at in range(low, high))


def _sets(stream: Stream) -> bytes:
    """The parameter sets of a decoder configuration record between start codes (ISO/IEC 14496-15, 5.3.3 and 8.3.3)."""
    config, units = stream.track.config, []
    if not config:
        return b""
    if stream.track.codec == "h264":
        at, groups = 5, [0x1F, 0xFF]
        for mask in groups:
            count, at = config[at] & mask, at + 1
            for _ in range(count):
                size = int.from_bytes(config[at : at + 2], "big")
                units.append(config[at + 2 : at + 2 + size])
                at += 2 + size
    else:
        arrays, at = config[22], 23
        for _ in range(arrays):
            count, at = int.from_bytes(config[at + 1 : at + 3], "big"), at + 3
            for _ in range(count):
                size = int.from_bytes(config[at : at + 2], "big")
                units.append(config[at + 2 : at + 2 + size])
                at += 2 + size
    return b"".join(_START + unit for unit in units)


def _decode(stream: Stream, wanted: int) -> Still:
    """The picture of one sample, from the beginning of its GOP; empty if the decoder gives none."""
    import av

    av.logging.set_level(av.logging.PANIC)
    nals = stream.nals
    leads = np.unique(nals.sample[nals.leads])
    before = leads[leads <= wanted]
    first = int(before[-1]) if len(before) else 0
    behind = leads[leads > wanted]
    # Pictures that are shown later come out later: the GOP is fed on until the wanted one is there.
    last = min(int(behind[0]) if len(behind) else len(stream.samples), first + _MAX_GOP)
    decoder: Any = av.CodecContext.create("h264" if stream.track.codec == "h264" else "hevc", "r")
    decoder.thread_count = 1
    try:
        packets = [_sets(stream) + _packet(stream, first), *(_packet(stream, n) for n in range(first + 1, last))]
        for number, data in enumerate([*packets, None]):
            packet = None
            if data is not None:
                packet = av.Packet(data)
                packet.pts = packet.dts = first + number
                packet.time_base = Fraction(1, 25)
            try:
                frames = decoder.decode(packet)
            except av.error.FFmpegError:
                continue  # the next unit may be whole
            for frame in frames:
                if frame.pts == wanted and frame.width * frame.height <= _MAX_PIXELS:
                    return Still(_jpeg(frame), damaged=bool(frame.is_corrupt))
    except (av.error.FFmpegError, IndexError, ValueError):
        pass
    return Still(b"")


def _jpeg(frame: Any) -> bytes:
    import av

    width = min(frame.width, _WIDTH) // 2 * 2
    height = max(frame.height * width // frame.width // 2 * 2, 2)
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    picture = frame.reformat(width=width, height=height, format="yuvj420p")
    picture.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)])
