"""From matched slices to what a judge reads: one row a GOP, and one finding for each thing that is wrong."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from secguard.core import Finding, finding
from secguard.video.claims import Claim, Claims
from secguard.video.hashing import Hashed
from secguard.video.match import CHANGED, FOREIGN, INTACT, MOVED, REPEATED, UNSIGNED, Match, Unit
from secguard.video.nal import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pictures", "Timeline", "build"]

_CODES = {
    CHANGED: "video.gop.hash-mismatch",
    FOREIGN: "video.frame.foreign",
    REPEATED: "video.frame.repeated",
    MOVED: "video.frame.moved",
}
_MAX_FINDINGS = 1000


@dataclass(slots=True)
class Timeline:
    """One column a property, one row a GOP (or a part of one), in the order they were signed in.

    Attributes:
        gop: number of the GOP, from 1.
        first_frame: number of its first frame in the file, from 1; 0 where nothing of it is there.
        frames: frames in the file.
        start, end: when it is shown, seconds from the beginning of the track.
        state: `intact`, `changed`, `missing`, `incomplete`, `unsigned`, `repeated`, `moved`, `foreign`,
            `sealed` (proven by the manifest alone).
        sei: its signature: `valid`, `bad`, `none`.
        reason: code of the first finding about it; empty if nothing is wrong.
        counter: running number in its SEI; -1 without one.
    """

    gop: list[int] = field(default_factory=list)
    first_frame: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    sei: list[str] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)
    counter: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.gop)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as mappings, for JSON and tables."""
        names = ("gop", "first_frame", "frames", "start", "end", "state", "sei", "reason", "counter")
        for values in zip(*(getattr(self, name) for name in names), strict=True):
            yield dict(zip(names, values, strict=True))


@dataclass(slots=True)
class _Row:
    """A row before it has its number: a claim, the slices found for it, their frames, and whether it begins a GOP."""

    claim: int
    slices: "NDArray[np.int64]"
    begins: bool
    kind: str = ""
    frames: "NDArray[np.int64]" = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(slots=True)
class Pictures:
    """What matching says about the pictures.

    Attributes:
        timeline: the rows.
        findings: what is wrong.
        status: one character a NAL unit, `M` put in for what is missing: `.` good, `N` not, `M` missing, `P` pending
            (behind the last signature), `U` unsigned, `_` not judged.
        proven: slices that a valid signature covers.
        total: slices.
        spoiled: numbers of frames with a finding, or of GOPs that have one as a whole.
    """

    timeline: Timeline
    findings: list[Finding]
    status: str
    proven: int
    total: int


class _Builder:
    def __init__(self, stream: Stream, hashed: Hashed, claims: Claims, found: Match) -> None:
        nals, samples, track = stream.nals, stream.samples, stream.track
        self.nals, self.hashed, self.claims, self.found = nals, hashed, claims, found
        self.sample = nals.sample[hashed.nal]
        holds = np.zeros(len(samples) + 1, dtype=np.int64)
        holds[np.unique(nals.sample[nals.vcl])] = 1
        self.frame_of = np.cumsum(holds)  # frame number of a sample that holds a slice
        origin = int((samples.dts + samples.shift).min()) if len(samples) else 0
        self.shown = (samples.dts + samples.shift - origin) / track.timescale
        self.until = self.shown + samples.delta / track.timescale
        self.timeline = Timeline()
        self.findings: list[Finding] = list(claims.findings)
        self.number = 0

    def say(self, code: str, where: str, **data: Any) -> None:
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(finding(code, where, **data))

    def trust(self) -> None:
        """An unsigned SEI is as good as the signed one that lists it, which always comes later."""
        place = {int(self.hashed.nal[at]): int(at) for at in np.flatnonzero(self.hashed.own)}
        for claim in sorted(self.claims.claims, key=lambda item: -item.nal):
            if claim.sei.signature:
                continue
            at = place.get(claim.nal, -1)
            owner = int(self.found.unit[at]) if at >= 0 else -1
            claim.valid = owner >= 0 and self.found.state[at] == INTACT and self.claims.claims[owner].valid

    def rows(self) -> list[_Row]:
        """Claims in the order they were signed in, with what stands unclaimed before, between and behind them."""
        unit, state = self.found.unit, self.found.state
        claims = self.claims.claims
        order = np.argsort(unit, kind="stable")
        borders = np.searchsorted(unit[order], np.arange(-1, len(claims) + 1))
        bare = self._pieces(order[borders[0] : borders[1]])
        held = [order[borders[n + 1] : borders[n + 2]] for n in range(len(claims))]
        rows: list[_Row] = []
        seen_stop = 0
        last_stop = max((int(item[-1]) for item in held if len(item)), default=-1)
        for number, claim in enumerate(claims):
            slices = held[number]
            again = self._again(slices, state)
            kept = slices if again is None else slices[~again]
            # Unclaimed pieces before this claim, as far as missing numbers explain them.
            limit = int(kept[0]) if len(kept) else self._position(claim)
            gap = self._gap(number)
            before = [piece for piece in bare if seen_stop <= int(piece[0]) < limit]
            bare = [piece for piece in bare if not seen_stop <= int(piece[0]) < limit]
            for piece in before:
                explained = gap > 0 or number == 0
                gap -= 1
                rows.append(_Row(-1, piece, begins=True, kind="lost" if explained else "foreign"))
            if number:  # what came before the first claim may lie in another file
                rows += [_Row(-1, slices[:0], begins=True, kind="gap") for _ in range(max(gap, 0))]
            rows.append(_Row(number, kept, begins=not claim.unit.continues))
            if again is not None:
                rows.append(_Row(number, slices[again], begins=False, kind="again"))
            seen_stop = max(seen_stop, int(kept[-1]) + 1 if len(kept) else 0)
        for piece in bare:
            tail = int(piece[0]) > last_stop
            rows.append(_Row(-1, piece, begins=bool(self.hashed.leads[piece[0]]), kind="tail" if tail else "foreign"))
        return rows

    def _position(self, claim: Claim) -> int:
        return int(np.searchsorted(self.hashed.nal, claim.nal))

    def _gap(self, number: int) -> int:
        """SEIs whose numbers are skipped before a claim."""
        if number == 0:
            return 0
        return min(self.claims.claims[number].unit.skipped, _MAX_FINDINGS)

    def _pieces(self, slices: "NDArray[np.int64]") -> "list[NDArray[np.int64]]":
        """Unclaimed slices, cut where they are not neighbours and where a GOP begins."""
        if not len(slices):
            return []
        cut = (np.diff(slices) != 1) | self.hashed.leads[slices[1:]]
        return np.split(slices, np.flatnonzero(cut) + 1)

    def _again(self, slices: "NDArray[np.int64]", state: "NDArray[np.int8]") -> "NDArray[np.bool_] | None":
        """Which slices are a second copy of the whole GOP; None if there is none."""
        copies: NDArray[np.bool_] = state[slices] == REPEATED
        if copies.any() and self.hashed.leads[slices[copies]].any() and int(copies.sum()) * 2 >= int((~copies).sum()):
            return copies
        return None

    def frames(self, slices: "NDArray[np.int64]") -> "NDArray[np.int64]":
        pictures = slices[self.nals.vcl[self.hashed.nal[slices]]]
        return _distinct(self.frame_of[self.sample[pictures]])

    def add(self, row: _Row, state: str, sei: str, mark: int) -> None:
        timeline = self.timeline
        frames = row.frames
        samples = _distinct(self.sample[row.slices])
        timeline.gop.append(self.number)
        timeline.first_frame.append(int(frames[0]) if len(frames) else 0)
        timeline.frames.append(len(frames))
        at = timeline.end[-1] if timeline.end else 0.0
        timeline.start.append(round(float(self.shown[samples].min()), 6) if len(samples) else at)
        timeline.end.append(round(float(self.until[samples].max()), 6) if len(samples) else at)
        timeline.state.append(state)
        timeline.sei.append(sei)
        timeline.reason.append(self.findings[mark].code if len(self.findings) > mark else "")
        timeline.counter.append(self.claims.claims[row.claim].sei.counter if row.claim >= 0 else -1)

    def span(self, frames: "NDArray[np.int64]") -> str:
        if not len(frames):
            return f"GOP {self.number}"
        low, high = int(frames[0]), int(frames[-1])
        return f"GOP {self.number}, frame {low}" if low == high else f"GOP {self.number}, frames {low}-{high}"

    def judge(self, row: _Row) -> None:
        """Findings and the line of one row."""
        mark = len(self.findings)
        if self._before_the_file(row):
            self.say("video.head.trimmed", "", counter=self.claims.claims[row.claim].sei.counter)
            return None
        self.number += row.begins or self.number == 0
        frames = row.frames = self.frames(row.slices)
        where, gop = self.span(frames), self.number
        if row.kind == "gap":
            self.say("video.gop.missing", where, gop=gop)
            return self.add(row, "missing", "none", mark)
        if row.kind == "lost":
            self.say("video.sei.missing", where, gop=gop)
            self.say("video.gop.unproven", where, gop=gop, frames=len(frames), first=_first(frames))
            return self.add(row, "unsigned", "none", mark)
        if row.kind == "foreign":
            own = self.nals.vcl[self.hashed.nal[row.slices]].any()
            self.say("video.gop.foreign" if own else "video.sei.foreign", where, gop=gop, frames=len(frames))
            return self.add(row, "foreign", "none", mark)
        if row.kind == "tail":
            self.say("video.tail.unsigned", where, gop=gop, frames=len(frames), first=_first(frames))
            return self.add(row, "unsigned", "none", mark)
        if row.kind == "again":
            self.say("video.gop.repeated", where, gop=gop, frames=len(frames))
            return self.add(row, "repeated", "valid", mark)
        return self._claimed(row, where, frames, mark)

    def _before_the_file(self, row: _Row) -> bool:
        """The first SEI covers a GOP that ends where the file begins: a clip, not a loss."""
        if row.claim != 0 or len(row.slices) or not len(self.hashed):
            return False
        claim = self.claims.claims[0]
        if int(self.found.unit[0]) != 1:
            return claim.valid and claim.nal < int(self.hashed.nal[0])
        # Some signers write it a frame or more into the next GOP, which is then the next claim's.
        later = np.flatnonzero(self.hashed.leads[1:]) + 1
        second = int(self.hashed.nal[later[0]]) if len(later) else len(self.nals)
        return claim.valid and claim.nal < second

    def _claimed(self, row: _Row, where: str, frames: "NDArray[np.int64]", mark: int) -> None:
        claim = self.claims.claims[row.claim]
        if not claim.valid and self._waits(row.claim):
            self.say("video.tail.unsigned", where, gop=self.number, frames=len(frames), first=_first(frames))
        elif not claim.valid:
            code = "video.sei.signature" if claim.sei.signature else "video.sei.unlisted"
            self.say(code, f"GOP {self.number}", gop=self.number)
            self.say("video.gop.unproven", where, gop=self.number, frames=len(frames), first=_first(frames))
        if not len(row.slices):
            self.say("video.gop.missing", where, gop=self.number)
            return self.add(row, "missing", "valid" if claim.valid else "bad", mark)
        state = self.found.state[row.slices]
        if not (claim.unit.exact and (state == INTACT).all()):
            self._details(row, state)
        changed = bool((state != INTACT).any())
        lost = bool(self.found.missing.get(row.claim))
        name = "changed" if changed else "incomplete" if lost else "intact" if claim.valid else "unsigned"
        return self.add(row, name, "valid" if claim.valid else "bad", mark)

    def _waits(self, number: int) -> bool:
        """An unsigned SEI behind which no signature comes any more: the end was cut off, or never signed."""
        claims = self.claims.claims
        return not claims[number].sei.signature and not any(item.sei.signature for item in claims[number + 1 :])

    def _details(self, row: _Row, state: "NDArray[np.int8]") -> None:
        """One finding a run of neighbouring frames of the same kind, and one a gap."""
        for kind, code in _CODES.items():
            frames = self.frames(row.slices[state == kind])
            for run in np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1) if len(frames) else ():
                self.say(code, self.span(run), gop=self.number, first=int(run[0]), last=int(run[-1]), frames=len(run))
        strangers = row.slices[(state != INTACT) & ~self.nals.vcl[self.hashed.nal[row.slices]]]
        if len(strangers):
            self.say("video.sei.foreign", f"GOP {self.number}", gop=self.number, frames=0)
        gaps: dict[int, int] = {}
        for _place, after in self.found.missing.get(row.claim, ()):
            if row.claim == 0 and after < 0 and int(row.slices[0]) == 0:
                gaps[-2] = gaps.get(-2, 0) + 1
            else:
                gaps[after] = gaps.get(after, 0) + 1
        for after, count in gaps.items():
            if after == -2:
                self.say("video.head.cut", f"GOP {self.number}", gop=self.number, slices=count)
                continue
            frame = int(self.frame_of[self.sample[after]]) if after >= 0 else int(self.frames(row.slices)[0]) - 1
            self.say(
                "video.frame.missing",
                f"GOP {self.number}, after frame {frame}" if frame > 0 else f"GOP {self.number}, at its beginning",
                gop=self.number,
                after=frame,
                slices=count,
            )

    def order(self) -> None:
        """GOPs that stand elsewhere than they were signed."""
        highest = -1
        timeline = self.timeline
        for row in sorted(range(len(timeline)), key=lambda n: n):
            first = timeline.first_frame[row]
            if first == 0 or timeline.state[row] in {"repeated", "foreign"}:
                continue
            if first < highest:
                where = f"GOP {timeline.gop[row]}, frame {first}"
                self.say("video.gop.moved", where, gop=timeline.gop[row])
                if timeline.state[row] == "intact":
                    timeline.state[row], timeline.reason[row] = "moved", "video.gop.moved"
            highest = max(highest, first)

    def links(self) -> None:
        """Each claim names the first hash of the one before it."""
        claims = self.claims.claims
        width = self.hashed.width
        for number, (before, here) in enumerate(itertools.pairwise(claims), start=1):
            follows = before.session == here.session and here.sei.counter == before.sei.counter + 1
            if not (follows and before.valid and here.valid):
                continue
            first = before.unit.hashes[:width]
            if not first and before.unit.exact:
                first = self.hashed.linked[before.unit.first * width : (before.unit.first + 1) * width]
            if first and here.sei.link_hash not in {first, self._lead(before.unit)}:
                gop = next(
                    (g for g, c in zip(self.timeline.gop, self.timeline.counter, strict=True) if c == here.sei.counter),
                    0,
                )
                self.say("video.gop.link", f"GOP {gop}", gop=gop, counter=claims[number].sei.counter)

    def _lead(self, unit: Unit) -> bytes:
        """Hash of the first slice of a claim whose list begins with an unsigned SEI."""
        width = self.hashed.width
        if not unit.exact or not self.hashed.own[unit.first]:
            return unit.hashes[:width]
        slices = np.flatnonzero(~self.hashed.own[unit.first : unit.stop])
        at = unit.first + (int(slices[0]) if len(slices) else 0)
        return self.hashed.linked[at * width : at * width + width]

    def status(self) -> str:
        if not self.claims.claims:
            marks = np.full(len(self.nals), ord("_"), dtype=np.uint8)
            marks[self.hashed.nal] = ord("U")
            return marks.tobytes().decode()
        marks = np.full(len(self.nals), ord("_"), dtype=np.uint8)
        letters = np.full(6, ord("N"), dtype=np.uint8)
        letters[INTACT], letters[UNSIGNED] = ord("."), ord("P")
        own = letters[self.found.state]
        bad = [number for number, claim in enumerate(self.claims.claims) if not claim.valid]
        own[np.isin(self.found.unit, bad)] = ord("N")
        last = int(np.flatnonzero(self.found.unit >= 0)[-1]) if (self.found.unit >= 0).any() else -1
        own[: last + 1][self.found.state[: last + 1] == UNSIGNED] = ord("N")
        marks[self.hashed.nal] = own
        for claim in self.claims.claims:
            if claim.sei.signature:
                marks[claim.nal] = ord("." if claim.valid else "N")
        for index in self.claims.broken:
            marks[index] = ord("N")
        text = marks.tobytes().decode()
        gaps = sorted(
            (int(self.hashed.nal[after]) + 1 if after >= 0 else 0)
            for items in self.found.missing.values()
            for _, after in items
        )
        for place in reversed(gaps[:_MAX_FINDINGS]):
            text = text[:place] + "M" + text[place:]
        return text


def _distinct(values: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Ascending values, each once."""
    return values[np.concatenate(([True], values[1:] != values[:-1]))] if len(values) else values


def _first(frames: "NDArray[np.int64]") -> int:
    return int(frames[0]) if len(frames) else 0


def build(stream: Stream, hashed: Hashed, claims: Claims, found: Match) -> Pictures:
    """Judge the pictures of a track by what its SEIs claim.

    Args:
        stream: the recording.
        hashed: its hashed slices.
        claims: its SEIs.
        found: how they match.
    """
    nals = stream.nals
    builder = _Builder(stream, hashed, claims, found)
    builder.trust()
    for row in builder.rows():
        builder.judge(row)
    builder.order()
    builder.links()
    for index, what in claims.broken.items():
        place = int(np.searchsorted(hashed.nal, index))
        frame = int(builder.frame_of[builder.sample[place - 1]]) if place else 0
        where = f"after frame {frame}, byte {stream.source.place(int(nals.offset[index]))}"
        builder.say("video.sei.malformed", where, reason=what)
    valid = np.array([claim.valid for claim in claims.claims] + [False], dtype=np.bool_)
    proven = int((valid[found.unit] & (found.state == INTACT) & nals.vcl[hashed.nal]).sum()) if len(hashed) else 0
    return Pictures(builder.timeline, builder.findings, builder.status(), proven, int(nals.vcl[hashed.nal].sum()))
