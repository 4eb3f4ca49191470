"""How a recording is shown, told from itself: frames that its edit list hides, and times that contradict the SEIs'.

Media Signing signs no sample times. But each signed SEI says when its pictures were taken, and the file says when they
are shown: a file that shows in two seconds what was taken in ten contradicts what was signed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import Finding, finding
from secguard.video.claims import Claim, Claims
from secguard.video.hashing import Hashed
from secguard.video.match import Match
from secguard.video.nal import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["hidden_frames", "judge_presentation"]

_TICKS = 10_000_000  # of an SEI's time, a second
_FACTOR = 1.25  # clocks are set while a camera records; this much is no clock being set
_LEAST = 0.5  # seconds; shorter differences are a frame or two


def hidden_frames(stream: Stream) -> "Int64s":
    """Numbers, from 1, of the frames that a player leaves out because of the edit list (ISO/IEC 14496-12, 8.6.6)."""
    samples, track = stream.samples, stream.track
    rows = [row for row in track.edits if row[1] >= 0]
    if not rows or not len(samples):
        return np.zeros(0, dtype=np.int64)
    shown = samples.dts + samples.shift
    until = shown + np.maximum(samples.delta, 1)
    seen = np.zeros(len(samples), dtype=np.bool_)
    for duration, begin, _rate in rows:
        # A duration of 0 lasts to the end; durations are in the movie's timescale, and rounded there.
        length = duration * track.timescale // max(stream.source.timescale, 1)
        slack = 2 * track.timescale // max(stream.source.timescale, 1) + 1
        seen |= (until > begin) & ((shown < begin + length + slack) if duration else True)
    pictures = np.unique(stream.nals.sample[stream.nals.vcl])
    hidden: Int64s = np.flatnonzero(~seen[pictures]) + 1
    return hidden


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch between two signed times: by the SEIs, and by the file, in seconds."""

    signed: float
    shown: float

    @property
    def apart(self) -> bool:
        low, high = sorted((self.signed, self.shown))
        return high - low > _LEAST and high > low * _FACTOR


def _session(claims: list[Claim], first: "Int64s", end: "Int64s", where: "Int64s") -> _Span | None:
    """The whole of one session, by the reading of its times under which it differs least.

    A time is that of the GOP's first frame, or, as the reference implementation writes it, of the frame after it.
    """
    ticks = [claim.sei.start for claim in claims]
    if not all(ticks) or sorted(ticks) != ticks:
        return None
    spans = [_Span((ticks[-1] - ticks[0]) / _TICKS, float(times[-1] - times[0])) for times in (first, where)]
    last = claims[-1].sei
    if last.end > last.start:  # version 2 tells the end as well
        spans.append(_Span((last.end - ticks[0]) / _TICKS, float(end[-1] - first[0])))
    known = (span for span in spans if span.signed > 0)
    return min(known, key=lambda span: abs(span.signed - span.shown), default=None)


def _disagreements(stream: Stream, claims: Claims, hashed: Hashed, found: Match) -> list[Finding]:
    samples, nals = stream.samples, stream.nals
    if not len(samples) or not len(hashed) or int(samples.dts[-1]) == int(samples.dts[0]):
        return []  # no times, or none that say anything
    order = np.argsort(found.unit, kind="stable")
    borders = np.searchsorted(found.unit[order], np.arange(len(claims.claims) + 1))
    scale = stream.track.timescale
    shown = (samples.dts + samples.shift) / scale
    sessions: dict[int, list[tuple[Claim, float, float, float]]] = {}
    for number, claim in enumerate(claims.claims):
        slices = order[borders[number] : borders[number + 1]]
        if claim.valid and len(slices):
            held = nals.sample[hashed.nal[slices]]
            until = float((shown[held] + samples.delta[held] / scale).max())
            place = float(samples.dts[nals.sample[claim.nal]]) / scale
            sessions.setdefault(claim.session, []).append((claim, float(shown[held].min()), until, place))
    findings = []
    for rows in sessions.values():
        # The reference's last SEI repeats the time before it.
        kept = [row for n, row in enumerate(rows) if n == 0 or row[0].sei.start != rows[n - 1][0].sei.start]
        columns = (np.array([row[at] for row in kept]) for at in (1, 2, 3))
        span = _session([row[0] for row in kept], *columns)
        if span is not None and span.apart:
            findings.append(
                finding("video.presentation.contradicted", signed=round(span.signed, 2), shown=round(span.shown, 2))
            )
    return findings


def judge_presentation(stream: Stream, claims: Claims, hashed: Hashed, found: Match) -> list[Finding]:
    """What a recording tells of its presentation without a manifest; silence proves nothing.

    Args:
        stream: the recording.
        claims: its SEIs.
        hashed: its slices.
        found: how they match.
    """
    findings = _disagreements(stream, claims, hashed, found)
    hidden = hidden_frames(stream)
    if len(hidden):
        low, high = int(hidden[0]), int(hidden[-1])
        where = f"frame {low}" if low == high else f"frames {low}-{high}"
        findings.append(finding("video.presentation.hidden", where, frames=len(hidden)))
    return findings
