"""The GOPs of a clip against those of its declared range: in place, changed, missing, moved, repeated, foreign."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from secguard.core import Finding, finding
from secguard.video.clip_record import wall_clock
from secguard.video.manifest import Gops, Manifest, gop_starts
from secguard.video.match import common
from secguard.video.nal import Stream
from secguard.video.timeline import Pictures, Timeline

__all__ = ["Declared", "Matched", "match_gops"]

_MAX_FINDINGS = 1000


@dataclass(frozen=True, slots=True)
class Declared:
    """A GOP that the clip must hold.

    Attributes:
        part: which recording, zero-based.
        gop: its number there, zero-based.
        manifest: that recording's.
        segments: there are several recordings, so that its place names one.
    """

    part: int
    gop: int
    manifest: Manifest
    segments: bool

    @property
    def sha256(self) -> str:
        """Hash over its slices."""
        return self.manifest.gops.sha256[self.gop]

    @property
    def name(self) -> str:
        """`GOP 7`, of `segment 2` where there are several."""
        return f"segment {self.part + 1}, GOP {self.gop + 1}" if self.segments else f"GOP {self.gop + 1}"

    @property
    def place(self) -> str:
        """Its name, and when it was taken."""
        start, end = wall_clock(self.manifest, self.gop + 1, self.gop + 1)
        return f"{self.name}, {start} - {end}" if start and end else self.name


@dataclass(slots=True)
class Matched:
    """The outcome.

    Attributes:
        pairs: (GOP of the clip, place in the declared range), zero-based, of those that are as sealed and in place.
        findings: what is wrong.
        timeline: one row a GOP, with the recording's numbers; missing ones in their place.
        clean: every declared GOP is there, in place, and nothing else.
        known: the clip has anything to do with the record.
    """

    pairs: list[tuple[int, int]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)
    clean: bool = False
    known: bool = True


class _Rows:
    def __init__(self, stream: Stream, gops: Gops, pictures: Pictures) -> None:
        self.gops = gops
        self.heads = list(itertools.accumulate(gops.frames, initial=1))
        starts = [value / 1e6 for value in gop_starts(stream)]
        samples, scale = stream.samples, stream.track.timescale
        shown = samples.dts + samples.shift
        end = round(float(((shown + samples.delta).max() - shown.min()) / scale), 6) if len(samples) else 0.0
        self.times = [*starts, end]
        self.old = list(pictures.timeline.rows())
        self.timeline = Timeline()
        self.findings: list[Finding] = []

    def say(self, code: str, where: str, **data: Any) -> None:
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(finding(code, where, **data))

    def rows(self, own: int) -> list[dict[str, Any]]:
        """What the signatures say of a GOP of the clip."""
        low, high = self.heads[own], self.heads[own + 1]
        return [
            row
            for row in self.old
            if row["frames"] and row["first_frame"] < high and low < row["first_frame"] + row["frames"]
        ]

    def frames(self, own: int) -> str:
        return f"frames {self.heads[own]}-{self.heads[own + 1] - 1}"

    def add(self, own: int, number: int, state: str, reason: str = "") -> None:
        rows = self.rows(own)
        signs = {row["sei"] for row in rows}
        sei = "bad" if "bad" in signs else "valid" if signs == {"valid"} else "none"
        if not state:
            state = "intact" if {row["state"] for row in rows} == {"intact"} else "sealed"
        counter = max((row["counter"] for row in rows), default=-1)
        self.put(
            number,
            self.heads[own],
            self.gops.frames[own],
            self.times[own],
            self.times[own + 1],
            state,
            sei,
            reason,
            counter,
        )

    def put(self, *values: Any) -> None:
        names = ("gop", "first_frame", "frames", "start", "end", "state", "sei", "reason", "counter")
        for name, value in zip(names, values, strict=True):
            getattr(self.timeline, name).append(value)

    def gone(self, rows: Sequence[Declared]) -> None:
        """Declared GOPs that are nowhere: neighbours are one interval."""
        for row in rows:
            at = self.timeline.end[-1] if len(self.timeline) else 0.0
            self.put(row.gop + 1, 0, 0, at, at, "missing", "none", "video.clip.gop-missing", -1)
        for _, group in itertools.groupby(enumerate(rows), key=lambda item: (item[1].part, item[1].gop - item[0])):
            run = [row for _, row in group]
            first, last = run[0], run[-1]
            start, end = wall_clock(first.manifest, first.gop + 1, last.gop + 1)
            name = first.name if first is last else f"{first.name.replace('GOP', 'GOPs')}-{last.gop + 1}"
            where = f"{name}, {start} - {end}" if start and end else name
            frames = sum(row.manifest.gops.frames[row.gop] for row in run)
            self.say(
                "video.clip.gop-missing",
                where,
                gop=first.gop + 1,
                last=last.gop + 1,
                gops=len(run),
                frames=frames,
                segment=first.part + 1,
                start=start,
                end=end,
            )


def match_gops(
    stream: Stream, gops: Gops, declared: Sequence[Declared], manifests: Sequence[Manifest], pictures: Pictures
) -> Matched:
    """Match the GOPs of a clip with its declared range.

    Args:
        stream: the clip.
        gops: its GOPs.
        declared: what it must hold, in order.
        manifests: of the recordings.
        pictures: what its signatures say, for what changed inside a GOP.
    """
    rows = _Rows(stream, gops, pictures)
    places: dict[str, list[int]] = {}
    for number, row in enumerate(declared):
        places.setdefault(row.sha256, []).append(number)
    pairs = common([places.get(value, ()) for value in gops.sha256])
    outside = {value: (part, gop) for part, item in enumerate(manifests) for gop, value in enumerate(item.gops.sha256)}
    known = bool(pairs) or len(declared) == 1 or any(value in outside for value in gops.sha256)
    present = set(gops.sha256)
    held = {gops.sha256[own] for own, _ in pairs}
    ends = [(-1, -1), *pairs, (len(gops.sha256), len(declared))]
    for (here, there), (next_here, next_there) in itertools.pairwise(ends):
        lost = [declared[place] for place in range(there + 1, next_there) if declared[place].sha256 not in present]
        strangers = []
        for own in range(here + 1, next_here):
            value = gops.sha256[own]
            if value in places:
                meant = declared[places[value][0]]
                code = "video.gop.repeated" if value in held else "video.gop.moved"
                rows.say(code, f"{meant.name}, {rows.frames(own)}", gop=meant.gop + 1, frames=gops.frames[own])
                rows.add(own, meant.gop + 1, code.rsplit(".", 1)[1], code)
            elif value in outside:
                _, gop = outside[value]
                rows.say("video.clip.gop-outside", rows.frames(own), gop=gop + 1, frames=gops.frames[own])
                rows.add(own, gop + 1, "foreign", "video.clip.gop-outside")
            else:
                strangers.append(own)
        _strangers(rows, strangers, lost)
        if next_here < len(gops.sha256):
            rows.add(next_here, declared[next_there].gop + 1, "")
    clean = len(pairs) == len(declared) == len(gops.sha256)
    return Matched(pairs, rows.findings, rows.timeline, clean, known)


def _strangers(rows: _Rows, strangers: Sequence[int], lost: Sequence[Declared]) -> None:
    """GOPs that no manifest knows stand for changed ones, as far as GOPs are missing here; the rest was put in."""
    frames = rows.gops.frames
    options = [
        [n for n, row in enumerate(lost) if row.manifest.gops.frames[row.gop] == frames[own]] for own in strangers
    ]
    fitting = dict(common(options)) if len(strangers) < len(lost) else {}
    if len(fitting) < len(strangers):
        fitting = dict(zip(range(len(strangers)), range(len(lost)), strict=False))
    done = 0
    for position, own in enumerate(strangers):
        place = fitting.get(position)
        if place is None:
            rows.say("video.gop.unsealed", rows.frames(own), frames=frames[own])
            rows.add(own, 0, "foreign", "video.gop.unsealed")
            continue
        rows.gone(lost[done:place])
        done = place + 1
        row = lost[place]
        rows.say("video.gop.manifest-mismatch", f"{row.place}, {rows.frames(own)}", gop=row.gop + 1)
        rows.add(own, row.gop + 1, "changed", "video.gop.manifest-mismatch")
    rows.gone(lost[done:])
