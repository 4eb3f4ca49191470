"""Compare a recording with its segment manifest: what is missing, what was changed, how it is shown."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secguard.core import Axis, Finding, finding
from secguard.video.claims import Claims
from secguard.video.containers import map_file
from secguard.video.hashing import hash_range
from secguard.video.manifest import Gops, Manifest, digest_config, digest_presentation, digest_sets, shown_of
from secguard.video.match import common
from secguard.video.nal import Stream
from secguard.video.presentation import hidden_frames
from secguard.video.timeline import Pictures

__all__ = ["Compared", "compare"]

_MAX_FINDINGS = 1000
_MAX_RANGES = 20
_TOLD = {"changed", "incomplete", "repeated", "foreign", "moved"}
_CUT = {"video.tail.truncated", "video.head.truncated", "video.gop.missing"}
_LOST_SEI = {"video.sei.missing", "video.sei.malformed", "video.gop.missing"}


@dataclass(slots=True)
class Compared:
    """What a manifest says against the file.

    Attributes:
        findings: what is wrong.
        proven: numbers of the first frames of GOPs that are as sealed, whatever the SEIs can tell.
        pairs: (GOP in the file, GOP in the manifest) of them, zero-based.
        same_file: the file is the sealed one, byte for byte.
        fits: False if the manifest is another recording's, so that it tells nothing of this one.
    """

    findings: list[Finding] = field(default_factory=list)
    proven: set[int] = field(default_factory=set)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    fits: bool = True
    same_file: bool = False


class _Gops:
    """GOPs of the file against those of the manifest; what the SEIs already told is not said again."""

    def __init__(self, gops: Gops, sealed: Gops, pictures: Pictures) -> None:
        self.gops, self.sealed = gops, sealed
        self.heads = np.cumsum([1, *gops.frames]).tolist()  # number of each GOP's first frame
        self.result = Compared()
        timeline = pictures.timeline
        rows = list(zip(timeline.gop, timeline.first_frame, timeline.frames, timeline.state, strict=True))
        self.told = [(first, first + frames) for _, first, frames, state in rows if frames and state in _TOLD]
        self.broken = {gop for gop, _, _, state in rows if state in _TOLD}
        self.missing = sum(1 for *_, state in rows if state == "missing")
        self.present = set(gops.sha256)

    def say(self, code: str, where: str, **data: Any) -> None:
        if len(self.result.findings) < _MAX_FINDINGS:
            self.result.findings.append(finding(code, where, **data))

    def known(self, own: int) -> bool:
        """The SEIs told something of this GOP's frames."""
        low, high = self.heads[own], self.heads[own + 1]
        return any(first < high and low < stop for first, stop in self.told)

    def run(self) -> None:
        places: dict[str, list[int]] = {}
        for number, value in enumerate(self.sealed.sha256):
            places.setdefault(value, []).append(number)
        pairs = common([places.get(value, ()) for value in self.gops.sha256])
        self.result.pairs = pairs
        self.result.proven = {self.heads[own] for own, _ in pairs}
        ends = [(-1, -1), *pairs, (len(self.gops.sha256), len(self.sealed.sha256))]
        for (here, there), (next_here, next_there) in itertools.pairwise(ends):
            mine, theirs = list(range(here + 1, next_here)), list(range(there + 1, next_there))
            last = next_there == len(self.sealed.sha256)
            if there < 0 and not last:
                # The beginning: what is left of a cut GOP belongs to the latest one.
                spare = max(len(theirs) - len(mine), 0)
                self.head(theirs[:spare])
                theirs = theirs[spare:]
            for own, wanted in zip(mine, theirs, strict=False):
                self.pair(own, wanted, last=last and own == mine[-1], gone=theirs[len(mine) :])
            if theirs[len(mine) :] and not (last and mine and self.short(mine[-1], theirs[len(mine) - 1])):
                self.gone(theirs[len(mine) :], last=last)
            for own in mine[len(theirs) :]:
                if not self.known(own):
                    where = f"frames {self.heads[own]}-{self.heads[own + 1] - 1}"
                    self.say("video.gop.unsealed", where, frames=self.gops.frames[own])

    def short(self, own: int, wanted: int) -> bool:
        return self.gops.frames[own] < self.sealed.frames[wanted] and not self.known(own)

    def pair(self, own: int, wanted: int, *, last: bool, gone: Sequence[int]) -> None:
        """A GOP that stands where another one was sealed."""
        frames, sealed = self.gops.frames[own], self.sealed.frames[wanted]
        if last and self.short(own, wanted):
            lost = sealed - frames + sum(self.sealed.frames[number] for number in gone)
            self.say("video.tail.truncated", f"GOP {wanted + 1}", gops=len(gone), frames=lost)
        elif last and frames > sealed and not self.known(own):
            first, stop = self.heads[own] + sealed, self.heads[own + 1]
            self.say("video.gop.unsealed", f"frames {first}-{stop - 1}", frames=stop - first)
        elif not self.known(own):
            where = f"GOP {wanted + 1}, frames {self.heads[own]}-{self.heads[own + 1] - 1}"
            self.say("video.gop.manifest-mismatch", where, gop=wanted + 1)

    def head(self, gone: Sequence[int]) -> None:
        if gone:
            frames = sum(self.sealed.frames[number] for number in gone)
            self.say("video.head.truncated", f"GOP {gone[-1] + 1}", gops=len(gone), frames=frames)

    def gone(self, gone: Sequence[int], *, last: bool) -> None:
        """Sealed GOPs that are not in their place."""
        if last and not any(self.sealed.sha256[number] in self.present for number in gone):
            frames = sum(self.sealed.frames[number] for number in gone)
            self.say("video.tail.truncated", f"GOP {gone[0] + 1}", gops=len(gone), frames=frames)
            return
        for number in gone:
            if self.missing > 0:
                self.missing -= 1
            elif number + 1 in self.broken:
                continue
            else:
                code = "video.gop.moved" if self.sealed.sha256[number] in self.present else "video.gop.missing"
                if code != "video.gop.moved" or not self.told:
                    self.say(code, f"GOP {number + 1}", gop=number + 1)


def compare(stream: Stream, gops: Gops, claims: Claims, pictures: Pictures, manifest: Manifest) -> Compared:
    """What a believed manifest says against the file.

    Args:
        stream: the file.
        gops: its GOPs.
        claims: its SEIs.
        pictures: what they told.
        manifest: what was sealed.
    """
    sealed = manifest.gops
    foreign = len(sealed.sha256) > 1 and not set(sealed.sha256) & set(gops.sha256)
    if manifest.codec != stream.track.codec or foreign:
        strange = [finding("video.manifest.mismatch", device=manifest.device), finding("video.presentation.unproven")]
        return Compared(strange, fits=False)
    rows = _Gops(gops, sealed, pictures)
    rows.run()
    result = rows.result
    findings = result.findings
    seis = sum(1 for claim in claims.claims if claim.sei.signature)
    told = {item.code for item in pictures.findings}
    if seis < manifest.seis and not _CUT & {item.code for item in findings} and not told & _LOST_SEI:
        findings.append(finding("video.sei.removed", expected=manifest.seis, found=seis))
    if seis > manifest.seis:  # one that was sent twice counts once
        findings.append(finding("video.sei.added", expected=manifest.seis, found=seis))
    # Another container keeps parameter sets elsewhere and says times in other words: then a difference proves nothing.
    same_words = stream.source.container == manifest.container
    complete = not any(item.axis is Axis.COMPLETENESS for item in (*findings, *pictures.findings))
    whole = complete and not any(item.outcome == "fail" for item in (*findings, *pictures.findings))
    if digest_sets(stream).hex() != manifest.parameter_sets:
        findings += _other_sets(stream, gops, manifest, result, complete=complete)
    if digest_presentation(stream).hex() != manifest.presentation:
        findings += _presented(stream, gops, manifest, result, whole=whole)
    if not findings and not any(item.outcome != "pass" for item in pictures.findings):
        result.same_file = same_words and _same_file(stream, manifest)
        if not result.same_file:
            findings.append(finding("video.file.differs"))
    return result


def _presented(stream: Stream, gops: Gops, manifest: Manifest, result: Compared, *, whole: bool) -> list[Finding]:
    """In which way the recording is shown otherwise than it was sealed.

    A cut file has other sample times by necessity; what is left of it can still be told apart by its GOPs.
    """
    sealed = manifest.gops
    if stream.source.container != manifest.container:
        return [finding("video.presentation.unproven")]
    findings = []
    retimed = _differing(gops.times, sealed.times, result.pairs)
    if not whole:
        last = len(gops.sha256) - 1
        retimed = [(own, gop) for own, gop in retimed if own != last and sealed.sha256.count(gops.sha256[own]) == 1]
    if retimed:
        findings.append(finding("video.presentation.retimed", _gop_ranges([gop for _, gop in retimed])))
    if whole and manifest.shown is not None:
        here, there = shown_of(stream), manifest.shown
        if here.edits != there.edits:
            hidden = hidden_frames(stream)
            where = f"frames {int(hidden[0])}-{int(hidden[-1])}" if len(hidden) else ""
            findings.append(finding("video.presentation.edit-list", where, hidden=len(hidden)))
        if here.header != there.header:
            findings.append(finding("video.presentation.display"))
        if here.tracks != there.tracks:
            findings.append(finding("video.presentation.tracks"))
        if not findings and gops.times == sealed.times:
            return []  # the same times, said with another timescale
    if whole and not findings:
        return [finding("video.presentation.changed")]
    return findings or [finding("video.presentation.unproven")]


def _same_file(stream: Stream, manifest: Manifest) -> bool:
    """The file is byte for byte the sealed one."""
    # What is taken out of packets is not the file.
    with map_file(stream.source.path) as data:
        return len(data) == manifest.size and hash_range(data, 0, len(data)).hex() == manifest.sha256


def _differing(here: Sequence[str], there: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of GOPs whose values differ; none where the manifest has no such column."""
    return [(own, gop) for own, gop in pairs if here[own] != there[gop]] if there else []


def _gop_ranges(numbers: Sequence[int]) -> str:
    """`GOPs 2-5, 7` for zero-based numbers in order; empty for none."""
    if not numbers:
        return ""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = ", ".join(f"{low + 1}-{high + 1}" if high > low else f"{low + 1}" for low, high in ranges[:_MAX_RANGES])
    more = ", ..." if len(ranges) > _MAX_RANGES else ""
    return f"GOP{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _changed_sets(stream: Stream, manifest: Manifest, where: str) -> Finding:
    """Parameter sets that are not the sealed ones: those of the stream, or those beside it (`avcC`, `hvcC`)."""
    beside = bool(manifest.config) and digest_config(stream) != manifest.config
    # What the GOPs' columns do not name changed all the same: the sets before the first GOP, or an older manifest.
    place = ["index"] * beside + ["stream"] * bool(where or not beside)
    return finding("video.parameter-sets.changed", where, place="+".join(place))


def _other_sets(stream: Stream, gops: Gops, manifest: Manifest, result: Compared, *, complete: bool) -> list[Finding]:
    """The parameter sets as a whole are not the sealed ones: say where, or why that proves nothing."""
    sealed, container = manifest.gops, stream.source.container
    if container != manifest.container:
        return [finding("video.parameter-sets.unproven", container=container, sealed=manifest.container)]
    if complete or not sealed.sets:
        where = _gop_ranges([gop for _, gop in _differing(gops.sets, sealed.sets, result.pairs)])
        return [_changed_sets(stream, manifest, where)]
    # A cut file has fewer of them by necessity: those of the GOPs that are left must be as sealed.
    differing = [gop for _, gop in _differing(gops.sets, sealed.sets, result.pairs)]
    if differing or digest_config(stream) != manifest.config:
        return [_changed_sets(stream, manifest, _gop_ranges(differing))]
    kept = {gop for _, gop in result.pairs}
    lost = {value for gop, value in enumerate(sealed.sets) if value and gop not in kept}
    if lost - set(gops.sets):
        return [finding("video.parameter-sets.cut")]
    return []
