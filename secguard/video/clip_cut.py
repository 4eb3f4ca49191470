"""Write the samples of a clip into an MP4 file of its own: nothing is encoded again, every NAL unit is kept as it is.

Each GOP becomes a chunk, with the sound of its time behind it. Samples are copied piece by piece, so memory does not
grow with the clip; the file stands under a temporary name until the caller, having recorded the act, releases it.
"""

import hashlib
import itertools
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from secguard.core import FormatError, Progress, RefusedError, silent
from secguard.video.clip_boxes import Lane, file_type, index, media_header
from secguard.video.clip_range import Chosen, Part
from secguard.video.containers import Samples, Source, Track
from secguard.video.containers.mp4 import Movie
from secguard.video.signing.output import Pending, writing_beside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

Sound: TypeAlias = Literal["kept", "dropped", "none"]

__all__ = ["Cut", "check_source", "cut", "sound_of"]

_COPY = 1 << 20
_RELEASE = 32 << 20
_WIDE = 0xF0000000  # bytes from which on chunk offsets take 64 bits
_SIZE = 16 + 8 + 24  # where `stsd` holds width and height of a visual sample entry (ISO/IEC 14496-12, 12.1.3)


@dataclass(frozen=True, slots=True)
class Cut:
    """A written clip.

    Attributes:
        pending: the file, not yet under its name.
        sound: `kept`, `dropped` or `none`.
        dropped: kinds of other tracks that were left out.
    """

    pending: Pending
    sound: Sound
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Samples `low` to `high` of a track: one chunk."""

    source: Source
    samples: Samples
    low: int
    high: int


def check_source(source: Source) -> Movie:
    """Refuse what is not cut.

    Raises:
        RefusedError: the container is none whose samples go into an MP4 file as they are.
    """
    if not isinstance(source, Movie):
        raise RefusedError(
            "video.clip.container",
            f"clips are cut from MP4 files, not from {source.container}",
            hint="remux it and seal it again: ffmpeg -i IN -c copy OUT.mp4; secguard video seal OUT.mp4",
            where=str(source.path),
        )
    return source


def _description(source: Source, track: Track) -> bytes:
    box = track.tables.get(b"stsd")
    if box is None or box.end - box.start > 1 << 20:
        raise FormatError("video.mp4.format", "a track without a usable sample description", where=str(source.path))
    return bytes(source.data[box.start : box.end])


def _format(track: Track, description: bytes) -> tuple[object, ...]:
    """What samples of one track must share; bit rates that writers note in the description need not."""
    size = description[_SIZE : _SIZE + 4]
    return track.entry, track.config, track.timescale, track.length_size, size


def sound_of(parts: Sequence[Part]) -> tuple[list[Track], Sound]:
    """The sound track of each part, and what becomes of it: `kept`, `dropped` (it changes its format) or `none`."""
    found: list[Track] = []
    for part in parts:
        source = part.recorded.stream.source
        track = next((item for item in source.tracks if item.handler == "soun" and b"stsd" in item.tables), None)
        if track is None:
            return [], "dropped" if found else "none"
        found.append(track)
    sources = [part.recorded.stream.source for part in parts]
    kinds = {(_description(source, track), track.timescale) for source, track in zip(sources, found, strict=True)}
    return (found, "kept") if len(kinds) == 1 else ([], "dropped")


def _skipped(track: Track) -> int:
    """Ticks of a track's media time at which its presentation begins, by its edit list."""
    return next((begin for _, begin, _ in track.edits if begin >= 0), 0)


def _sound_pieces(part: Part, track: Track) -> list[_Piece]:
    """The sound of each GOP, by its decoding time, as the edit lists lay both tracks beside each other."""
    stream = part.recorded.stream
    video, samples = stream.samples, stream.source.samples(track)
    own = samples.dts - _skipped(track)
    edges = [*part.recorded.first[part.first : part.last + 1].tolist(), part.samples[1]]
    times = []
    for edge in edges:
        last = edge == len(video)
        ticks = int(video.dts[edge - 1] + video.delta[edge - 1]) if last else int(video.dts[edge])
        times.append((ticks - _skipped(stream.track)) * track.timescale // stream.track.timescale)
    places = np.searchsorted(own, times).tolist()
    return [_Piece(stream.source, samples, low, high) for low, high in itertools.pairwise(places)]


def _lane(track: Track, description: bytes, pieces: Sequence[_Piece], extra: int = 0) -> Lane:
    def column(name: str) -> "Int64s":
        values: Int64s = np.concatenate([getattr(item.samples, name)[item.low : item.high] for item in pieces])
        return values

    size = column("size").copy()
    if extra:
        size[-1] += extra
    width, height = (int.from_bytes(description[at : at + 2], "big") for at in (_SIZE, _SIZE + 2))
    shown = track.handler == "vide"
    return Lane(
        track.handler,
        description,
        track.timescale,
        size,
        column("delta"),
        column("shift"),
        column("sync").astype(np.bool_),
        np.array([item.high - item.low for item in pieces if item.high > item.low], dtype=np.int64),
        width if shown else 0,
        height if shown else 0,
    )


def cut(
    chosen: Chosen,
    seis: Sequence[bytes],
    target: Path,
    *,
    sound: bool = True,
    made: int = 0,
    progress: Progress = silent,
) -> Cut:
    """Write the clip beside its final name.

    Args:
        chosen: the GOPs.
        seis: NAL units that sign the last GOP and stand behind it: they end the last sample.
        target: final name.
        sound: take the sound along.
        made: creation time, seconds since 1904; 0 if not known.
        progress: called with bytes written.

    Raises:
        RefusedError: the parts do not fit into one track.
        SystemPartError: the disk is full, or any other failed write; nothing is left behind.
    """
    parts = chosen.parts
    stream = parts[0].recorded.stream
    description = _description(stream.source, stream.track)
    for part in parts:
        other = part.recorded.stream
        check_source(other.source)
        if _format(other.track, _description(other.source, other.track)) != _format(stream.track, description):
            raise RefusedError(
                "video.clip.segments",
                "the segments are of different formats",
                hint="cut a clip from each",
                where=str(other.source.path),
            )
    video = [
        _Piece(part.recorded.stream.source, part.recorded.stream.samples, int(low), int(high))
        for part in parts
        for low, high in zip(
            part.recorded.first[part.first : part.last + 1], part.recorded.stop[part.first : part.last + 1], strict=True
        )
    ]
    tracks, kept = sound_of(parts)
    if not sound and kept == "kept":
        tracks, kept = [], "dropped"
    heard = (
        [piece for part, track in zip(parts, tracks, strict=True) for piece in _sound_pieces(part, track)]
        if tracks
        else []
    )
    if tracks and not any(item.high > item.low for item in heard):
        tracks, heard, kept = [], [], "none"
    size = stream.track.length_size
    extra = b"".join(len(unit).to_bytes(size, "big") + unit for unit in seis)
    lanes = [_lane(stream.track, description, video, len(extra))]
    if tracks:
        lanes.append(_lane(tracks[0], _description(stream.source, tracks[0]), heard))
    others = {
        item.entry or item.handler
        for part in parts
        for item in part.recorded.stream.source.tracks
        if item is not part.recorded.stream.track and item not in tracks and item.handler != "soun"
    }
    return Cut(_write(lanes, video, heard, extra, target, made=made, progress=progress), kept, tuple(sorted(others)))


def _write(
    lanes: Sequence[Lane],
    video: Sequence[_Piece],
    heard: Sequence[_Piece],
    extra: bytes,
    target: Path,
    *,
    made: int,
    progress: Progress,
) -> Pending:
    """File type, index, media data: the index stands in front, so that players begin at once."""
    order: list[tuple[int, _Piece]] = []
    for number, piece in enumerate(video):
        order += [(0, piece), *([(1, heard[number])] if heard else [])]
    order = [(lane, piece) for lane, piece in order if piece.high > piece.low]
    sizes = [int(piece.samples.size[piece.low : piece.high].sum()) for _, piece in order]
    last = max(number for number, (lane, _) in enumerate(order) if lane == 0)
    sizes[last] += len(extra)
    places = np.cumsum(np.array([0, *sizes], dtype=np.int64))
    total = int(places[-1])
    wide = total > _WIDE
    starts = [places[:-1][np.array([lane == own for lane, _ in order])] for own in range(len(lanes))]
    head = file_type()
    length = len(index(lanes, starts, made=made, wide=wide))
    base = len(head) + length + 16
    front = head + index(lanes, [column + base for column in starts], made=made, wide=wide) + media_header(total)
    digest = hashlib.sha256()
    done = 0
    with writing_beside(target) as (beside, descriptor):
        _put(descriptor, front, digest)
        for number, (_, piece) in enumerate(order):
            for data in _bytes(piece):
                _put(descriptor, data, digest)
                done += len(data)
                progress(min(done, total - 1), total, "bytes")
            if number == last:
                _put(descriptor, extra, digest)
    progress(total, total, "bytes")
    return Pending(beside, target, digest.digest(), len(front) + total)


def _put(descriptor: int, data: bytes, digest: "hashlib._Hash") -> None:
    digest.update(data)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _bytes(piece: _Piece) -> Iterator[bytes]:
    """The samples' bytes; neighbours in the file are read together, and their pages given back."""
    data = piece.source.data
    offset, size = piece.samples.offset[piece.low : piece.high], piece.samples.size[piece.low : piece.high]
    cuts = np.flatnonzero(offset[1:] != offset[:-1] + size[:-1]) + 1
    begins = np.concatenate(([0], cuts))
    stops = np.append(cuts, len(offset)) - 1
    read = 0
    for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True):
        low, high = int(offset[begin]), int(offset[stop] + size[stop])
        for at in range(low, high, _COPY):
            chunk = bytes(data[at : min(at + _COPY, high)])
            read += len(chunk)
            yield chunk
            if read > _RELEASE:
                data.madvise(mmap.MADV_DONTNEED)
                read = 0
    data.madvise(mmap.MADV_DONTNEED)
