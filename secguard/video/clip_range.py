"""Which GOPs a clip takes: every one that overlaps the range that was asked for, whole.

A GOP is shown from its first frame in display order up to that of the next GOP. In an open GOP (H.265 RASL pictures)
the first frames shown refer to the GOP before: where the range begins with them, that GOP is taken as well.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import RefusedError, UsageError, parse_time, rfc3339
from secguard.video.claims import read_claims
from secguard.video.manifest import OpenedManifest, gop_samples, gop_starts
from secguard.video.nal import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["Chosen", "Part", "Recorded", "choose", "moment", "wall_start"]

_EPOCH_1601 = datetime(1601, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000
_RASL = (8, 9)  # nal_unit_type of RASL_N and RASL_R (H.265 Table 7-1)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording that a clip is cut from.

    Attributes:
        stream: the file.
        opened: its manifest, if it has one.
        envelope: that manifest as it is; empty without one.
        first, stop: first sample of each GOP, and the sample behind its last.
        begins: when each GOP's first frame is shown, in microseconds after the recording's first.
        keys: when the picture is shown that each GOP begins with.
        end: end of the last frame.
        start: wall clock of the first frame; None if nothing tells it.
    """

    stream: Stream
    opened: OpenedManifest | None
    envelope: bytes
    first: "Int64s"
    stop: "Int64s"
    begins: "Int64s"
    keys: "Int64s"
    end: int
    start: datetime | None

    @classmethod
    def of(cls, stream: Stream, opened: OpenedManifest | None, envelope: bytes = b"") -> "Recorded":
        """Lay the GOPs of a recording on the time line.

        Raises:
            UsageError: it holds no picture.
        """
        samples, scale = stream.samples, stream.track.timescale
        first, stop = gop_samples(stream)
        if not len(first):
            raise UsageError("video.clip.empty", "the video track holds no picture", where=str(stream.source.path))
        shown = samples.dts + samples.shift
        origin = int(shown.min())
        begins = np.array(gop_starts(stream), dtype=np.int64)
        end = (int((shown + samples.delta).max()) - origin) * _SECOND // scale
        keys = (shown[first] - origin) * _SECOND // scale
        return cls(stream, opened, envelope, first, stop, begins, keys, end, wall_start(stream, opened))

    @property
    def ends(self) -> "Int64s":
        """When each GOP's last frame ends, in microseconds after the recording's first."""
        return np.append(self.begins[1:], self.end)


def wall_start(stream: Stream, opened: OpenedManifest | None) -> datetime | None:
    """Wall clock of the first frame: by the manifest, else by the first good signature that tells it."""
    if opened is not None:
        return parse_time(opened.manifest.start) if opened.manifest.start else None
    for claim in read_claims(stream).claims:
        if claim.valid and claim.sei.start and not any(claim.sei.link_hash):
            try:
                return _EPOCH_1601 + timedelta(microseconds=claim.sei.start // 10)
            except OverflowError:
                return None
    return None


@dataclass(frozen=True, slots=True)
class Part:
    """GOPs `first` to `last` of a recording, zero-based."""

    recorded: Recorded
    first: int
    last: int

    @property
    def samples(self) -> tuple[int, int]:
        """Its first sample, and the one behind its last."""
        return int(self.recorded.first[self.first]), int(self.recorded.stop[self.last])

    @property
    def gops(self) -> int:
        """How many GOPs it has."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a clip takes.

    Attributes:
        parts: the recordings' parts, in order.
        low, high: the range asked for, in microseconds after the first recording's first frame.
        begin, end: what the GOPs of it span.
        start: wall clock of that first frame; None if not known.
        leading: frames at the beginning that refer to pictures before.
    """

    parts: tuple[Part, ...]
    low: int
    high: int
    begin: int
    end: int
    start: datetime | None
    leading: int

    def clock(self, at: int) -> str:
        """Wall clock, RFC 3339, of a time after the first recording's first frame; empty if not known."""
        return rfc3339(self.start + timedelta(microseconds=at)) if self.start is not None else ""


def moment(text: str, start: datetime | None) -> int:
    """Microseconds after the first frame that `+SECONDS` or a wall clock time names.

    Raises:
        UsageError: it is neither, or the recording's wall clock is not known.
    """
    if text.startswith("+"):
        try:
            seconds = float(text[1:])
        except ValueError:
            seconds = float("nan")
        if not 0 <= seconds < 1e9:
            raise UsageError("video.clip.time", f"not a number of seconds: {text[:40]!r}", hint="write +12.5")
        return round(seconds * _SECOND)
    at = parse_time(text)
    if start is None:
        raise UsageError(
            "video.clip.clock",
            "nothing tells when the recording was made",
            hint="give its manifest, or seconds from its beginning: --from +12.5",
        )
    return (at - start) // timedelta(microseconds=1)


def choose(recordings: list[Recorded], begin: str, end: str) -> Chosen:
    """The GOPs that overlap a range.

    Args:
        recordings: in order; several are adjacent segments with known wall clocks.
        begin: `+SECONDS` from the beginning of the first, or a wall clock time.
        end: the same.

    Raises:
        UsageError: a time cannot be read.
        RefusedError: the range is empty, or not within the recordings.
    """
    start = recordings[0].start
    low, high = moment(begin, start), moment(end, start)
    if high <= low:
        raise RefusedError("video.clip.range", "the range ends before it begins")
    bases = [0]
    for item in recordings[1:]:
        assert start is not None
        assert item.start is not None
        bases.append((item.start - start) // timedelta(microseconds=1))
    whole = bases[-1] + recordings[-1].end
    if low < 0 or high > whole:
        edges = [rfc3339(start + timedelta(microseconds=at)) for at in (0, whole)] if start is not None else []
        raise RefusedError(
            "video.clip.range",
            f"the range is not within the recording, which lasts {whole / _SECOND:.3f} s",
            hint=f"it runs from {edges[0]} to {edges[1]}" if edges else "give --from and --to within it",
        )
    rows = [
        (number, gop)
        for number, item in enumerate(recordings)
        for gop in np.flatnonzero((item.begins + bases[number] < high) & (item.ends + bases[number] > low)).tolist()
    ]
    if not rows:
        raise RefusedError(
            "video.clip.range", "there is no picture in the range", hint="it lies between two segments; widen it"
        )
    rows = _with_reference(recordings, rows, bases, low)
    parts = []
    for number in sorted({number for number, _ in rows}):
        gops = [gop for item, gop in rows if item == number]
        parts.append(Part(recordings[number], min(gops), max(gops)))
    head, tail = rows[0], rows[-1]
    return Chosen(
        tuple(parts),
        low,
        high,
        bases[head[0]] + int(recordings[head[0]].begins[head[1]]),
        bases[tail[0]] + int(recordings[tail[0]].ends[tail[1]]),
        start,
        _leading(recordings[head[0]], head[1]),
    )


def _with_reference(
    recordings: list[Recorded], rows: list[tuple[int, int]], bases: list[int], low: int
) -> list[tuple[int, int]]:
    """With the GOP before the first, where the range begins with pictures that refer to it."""
    number, gop = rows[0]
    item = recordings[number]
    if bases[number] + int(item.keys[gop]) <= low or not _leading(item, gop) or (number, gop) == (0, 0):
        return rows
    before = (number, gop - 1) if gop else (number - 1, len(recordings[number - 1].first) - 1)
    return [before, *rows]


def _leading(item: Recorded, gop: int) -> int:
    """Frames of a GOP that refer to pictures before it."""
    nals = item.stream.nals
    if nals.codec != "h265":
        return 0
    inside = (nals.sample >= item.first[gop]) & (nals.sample < item.stop[gop]) & np.isin(nals.kind, _RASL)
    return len(np.unique(nals.sample[inside]))
