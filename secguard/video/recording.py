"""Judge a recording of many files by its chain: is each segment there, in its place, as it was sealed, and none beside?

1. read the chain and judge its lines (`recording_lines`); 2. hash the files and match them with the segments
(`recording_match`); 3. a file that is not byte for byte the sealed one is verified against its manifest (`verify`):
another container is no alarm, a cut is named; 4. compare wall clocks and counters from segment to segment; 5. say how
far the chain reaches.

A file that equals what a believed chain names is proven as a whole, whatever SEIs it has or has lost.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from secguard.core import (
    Axis,
    Finding,
    FormatError,
    Outcome,
    Progress,
    SecguardError,
    TimeSource,
    UsageError,
    Verdict,
    finding,
    judge,
    parse_time,
    silent,
)
from secguard.core.limits import read_bounded
from secguard.gbid import GbId
from secguard.trust import TrustPolicy
from secguard.video.manifest import OpenedManifest
from secguard.video.recording_chain import Record, Segment
from secguard.video.recording_files import CHAIN_NAME, MANIFEST_SUFFIX, list_segments, safe_name
from secguard.video.recording_lines import ChainStory, read_story
from secguard.video.recording_match import FileFacts, Matched, match_files
from secguard.video.seal import hash_file
from secguard.video.verify import DEFAULT_AXES, Expectation, VideoVerdict, verify

__all__ = ["RecordingVerdict", "SegmentState", "chain_path", "judge_recording", "recording_files"]

_MAX_FINDINGS = 1000
_RANK = {"claimed": 2, "container": 1}  # file times change with every copy
_TRUNCATED = {"video.tail.truncated", "video.head.truncated"}
_CODES = {
    "changed": "video.recording.changed",
    "truncated": "video.recording.truncated",
    "replaced": "video.recording.replaced",
}
_PICTURES = (Axis.INTEGRITY, Axis.COMPLETENESS)


@dataclass(frozen=True, slots=True)
class SegmentState:
    """One row of the answer.

    Attributes:
        number: of the segment; 0 for a file that is none.
        name: as sealed; for a file that is none, its name.
        file: name of the file that holds it; empty if there is none.
        state: `intact`, `renamed`, `reordered`, `remade` (another file with the sealed pictures), `changed`,
            `truncated`, `replaced`, `missing`, `repeated`, `unlisted`; `unproven` where the chain is not believed.
        start, end: wall clock as sealed.
    """

    number: int
    name: str
    file: str
    state: str
    start: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class RecordingVerdict:
    """The answer about one recording.

    Attributes:
        verdict: over all axes.
        recording, device: as the chain says.
        segments: one row a segment, then one for each file that is none.
        closed: the chain says that the recording ended.
        until: up to this time it tells of everything; None if it says nothing.
        imported: sealed at import, not by the camera.
        chain: certificates of the last signer, leaf first.
        lines: lines of the chain.
    """

    verdict: Verdict
    recording: str
    device: str
    segments: tuple[SegmentState, ...]
    closed: bool
    until: datetime | None
    imported: bool
    chain: tuple[x509.Certificate, ...]
    lines: int


def chain_path(path: Path) -> Path:
    """The chain of a folder, or the chain itself.

    Raises:
        UsageError: there is none.
    """
    found = path / CHAIN_NAME if path.is_dir() else path
    if not found.is_file():
        raise UsageError(
            "video.recording.none",
            "no chain of a recording here",
            hint=f"it is called {CHAIN_NAME}, and lies beside the files",
            where=str(path),
        )
    return found


def recording_files(folder: Path, segments: Sequence[Segment], *, whole: bool) -> list[str]:
    """Names of the files to be hashed: those of the segments, and whatever else lies there, if that counts."""
    names = {item.name for item in segments if safe_name(item.name) and (folder / item.name).is_file()}
    others = list_segments(folder)
    # Without `whole` the folder may hold other recordings; still a segment may lie there under another name.
    return (
        [*sorted(names), *(name for name in others if name not in names)]
        if whole or len(names) < len(segments)
        else sorted(names)
    )


def _hash_all(folder: Path, names: Sequence[str], progress: Progress) -> dict[str, FileFacts]:
    sizes = {name: (folder / name).stat().st_size for name in names}
    total, done = max(sum(sizes.values()), 1), 0
    facts = {}
    for name in names:
        base = done

        def update(part: int, _: int | None, __: str, base: int = base) -> None:
            progress(min(base + part, total - 1), total, "bytes")

        size, digest = hash_file(folder / name, update)
        facts[name] = (size, digest.hex())
        done += sizes[name]
    progress(total, total, "bytes")
    return facts


def judge_recording(
    path: Path,
    trust: TrustPolicy,
    at: datetime,
    *,
    folder: Path | None = None,
    device: GbId | None = None,
    source: TimeSource | None = None,
    require: Sequence[Axis] = (),
    facts: Mapping[str, FileFacts] | None = None,
    verdicts: Mapping[str, VideoVerdict] | None = None,
    progress: Progress = silent,
) -> RecordingVerdict:
    """Judge a recording by its chain.

    Args:
        path: the chain, or the folder that holds it.
        trust: which roots and revocation lists are believed.
        at: the time for which certificates are judged, aware.
        folder: where the files are; default: beside the chain.
        device: the camera that it must be of.
        source: who vouches for `at`; None means that the caller states it.
        require: axes that decide; default `DEFAULT_AXES`.
        facts: size and SHA-256 (hex) of files that the caller has hashed already, by their relative names; others are
            hashed here.
        verdicts: what the caller has found out about single files, by name; without, files that are not as sealed are
            verified here.
        progress: called with bytes done.

    Raises:
        UsageError: there is no chain, or no such folder.
        FormatError: it is no chain, or too long.
        SystemPartError: a file cannot be read.
    """
    place = chain_path(path)
    home = folder or place.parent
    story = read_story(place, trust, at, source=source, device=device)
    work = _Work(home, place.parent, story, trust, at, source, dict(verdicts or {}))
    rows = [SegmentState(item.number, item.name, "", "unproven", item.start, item.end) for item in work.segments]
    if story.believed:  # a chain that anybody could have written accuses nobody
        names = recording_files(home, work.segments, whole=work.whole)
        known = dict(facts or {})
        known |= _hash_all(home, [name for name in names if name not in known], progress)
        rows = work.judge_files({name: known[name] for name in names})
        work.judge_times()
    until = work.judge_end()
    examined = set(story.examined)
    if story.believed:
        examined |= {Axis.INTEGRITY, Axis.COMPLETENESS, Axis.PRESENTATION}
    return RecordingVerdict(
        judge(
            str(path),
            at,
            examined=examined,
            findings=[*story.findings, *work.findings],
            default=DEFAULT_AXES,
            require=require,
        ),
        story.recording,
        story.device,
        tuple(rows),
        work.closed,
        until,
        story.imported,
        story.chain,
        story.lines,
    )


def _time(text: str) -> datetime | None:
    try:
        return parse_time(text)
    except UsageError:
        return None


@dataclass(slots=True)
class _Work:
    """The judging of one recording."""

    folder: Path
    manifests: Path
    story: ChainStory
    trust: TrustPolicy
    at: datetime
    source: TimeSource | None
    verdicts: dict[str, VideoVerdict]
    findings: list[Finding] = field(default_factory=list)

    @property
    def segments(self) -> list[Segment]:
        """The believed segments; the first record counts where two say the same number."""
        found: dict[int, Segment] = {}
        for item in self.story.records:
            if item.segment is not None:
                found.setdefault(item.segment.number, item.segment)
        return [found[number] for number in sorted(found)]

    @property
    def opening(self) -> Record | None:
        """The first line, if it is there."""
        first = self.story.records[0] if self.story.records else None
        return first if first is not None and first.kind == "open" else None

    @property
    def whole(self) -> bool:
        """Whatever else lies in the folder is an intruder; without the first line that is assumed."""
        return self.opening is None or self.opening.whole

    @property
    def closed(self) -> bool:
        """The chain says that the recording ended."""
        return any(item.kind == "close" for item in self.story.records)

    def say(self, code: str, where: str = "", *, outcome: Outcome | None = None, **data: Any) -> None:
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(finding(code, where, outcome=outcome, **data))

    def judge_files(self, facts: Mapping[str, FileFacts]) -> list[SegmentState]:
        segments = self.segments
        matched = match_files(segments, facts)
        states = self._states(segments, matched)
        rows = []
        for item in segments:
            state = states[item.number]
            file = matched.found.get(item.number, item.name if item.name in facts and state != "missing" else "")
            rows.append(SegmentState(item.number, item.name, file, state, item.start, item.end))
            if state in {"intact", "renamed", "reordered"}:
                self._manifest(item)
        for name, number in matched.repeated.items():
            self.say("video.recording.repeated", name, number=number)
            rows.append(SegmentState(0, name, name, "repeated"))
        for name in matched.unlisted if self.whole else []:
            self._unlisted(name)
            rows.append(SegmentState(0, name, name, "unlisted"))
        return rows

    def _states(self, segments: Sequence[Segment], matched: Matched) -> dict[int, str]:
        states = {}
        for item in segments:
            number, where = item.number, item.name
            if number in matched.missing:
                states[number] = "missing"
                self.say("video.recording.missing", where, number=number, start=item.start, end=item.end)
            elif number in matched.changed:
                states[number] = self._changed(item)
            elif number in matched.reordered:
                states[number] = "reordered"
                self.say("video.recording.reordered", matched.found[number], number=number, name=item.name)
            elif number in matched.renamed:
                states[number] = "renamed"
                self.say("video.recording.renamed", matched.found[number], number=number, name=item.name)
            else:
                states[number] = "intact"
        return states

    def _envelope(self, name: str) -> bytes | None:
        for folder in dict.fromkeys((self.manifests, self.folder)):
            path = folder / (name + MANIFEST_SUFFIX)
            if path.is_file():
                return read_bounded(path)
        return None

    def _manifest(self, item: Segment) -> None:
        """The manifest beside a segment that is proven already."""
        if not safe_name(item.name):
            return
        try:
            envelope = self._envelope(item.name)
        except SecguardError:
            envelope = b""
        if envelope is None:
            self.say("video.recording.manifest-missing", item.name)
        elif hashlib.sha256(envelope).hexdigest() != item.manifest:
            self.say("video.recording.manifest-changed", item.name)

    def _verify(self, name: str, manifest: bytes | None) -> VideoVerdict | None:
        if name not in self.verdicts:
            expected = Expectation(manifest=manifest, manifest_name=name + MANIFEST_SUFFIX)
            try:
                self.verdicts[name] = verify(self.folder / name, self.trust, self.at, expected, source=self.source)
            except SecguardError:
                return None
        return self.verdicts[name]

    def _changed(self, item: Segment) -> str:
        """What became of a segment whose file is another one: the manifest tells, if it is the sealed one."""
        try:
            envelope = self._envelope(item.name)
        except SecguardError:
            envelope = None
        if envelope is not None and hashlib.sha256(envelope).hexdigest() != item.manifest:
            self.say("video.recording.manifest-changed", item.name)
            envelope = None
        answer = self._verify(item.name, envelope)
        told = {entry.code for entry in answer.verdict.findings} if answer is not None else set()
        axes = answer.verdict.axes if answer is not None else {}
        proven = envelope is not None and self.story.believed
        data: dict[str, Any] = {"number": item.number, "start": item.start, "end": item.end}
        if proven and all(axes.get(axis) is Outcome.PASS for axis in _PICTURES):
            self.say("video.recording.remade", item.name, **data)
            if axes.get(Axis.PRESENTATION) is not Outcome.PASS:
                self.say("video.presentation.unproven", item.name)
            return "remade"
        if "video.manifest.mismatch" in told:
            state = "replaced"
        elif told & _TRUNCATED or (answer is None and (self.folder / item.name).stat().st_size < item.size):
            state = "truncated"
        else:
            state = "changed"
        self.say(_CODES[state], item.name, **data)
        if answer is not None and answer.device is not None and answer.device.value != self.story.device:
            self.say("video.recording.other-camera", item.name, found=answer.device.value, expected=self.story.device)
        return state

    def _unlisted(self, name: str) -> None:
        """A file that no line of the chain names."""
        self.say(
            "video.recording.unlisted",
            name,
            outcome=Outcome.FAIL if self.closed else Outcome.UNKNOWN,
            closed=self.closed,
        )
        named = ""
        try:
            envelope = self._envelope(name)
            if envelope is not None:
                named = OpenedManifest.read(envelope, name).manifest.device
            else:
                answer = self._verify(name, None)
                named = answer.device.value if answer is not None and answer.device is not None else ""
        except (SecguardError, FormatError):
            pass
        if named and named != self.story.device:
            self.say("video.recording.other-camera", name, found=named, expected=self.story.device)

    def judge_times(self) -> None:
        """From segment to segment: wall clocks, and the camera's own counter."""
        promise = self.opening.max_gap if self.opening is not None else -1.0
        quiet = [
            time for item in self.story.records if item.kind == "heartbeat" and (time := _time(item.until)) is not None
        ]
        for before, after in itertools.pairwise(self.segments):
            if after.number != before.number + 1:
                continue
            where = f"{before.name}, {after.name}"
            end, start = _time(before.end), _time(after.start)
            rank = min(_RANK.get(before.time_source, 0), _RANK.get(after.time_source, 0))
            if end is not None and start is not None and rank:
                if rank == _RANK["claimed"] and start < end - timedelta(seconds=1):
                    self.say("video.recording.overlap", where, seconds=round((end - start).total_seconds(), 3))
                reached = max([end, *(time for time in quiet if time <= start)])
                gap = (start - reached).total_seconds()
                if promise >= 0 and gap > promise:
                    self.say("video.recording.gap", where, seconds=round(gap, 3), promised=promise)
            jump = after.first_counter - before.last_counter
            # A stream that begins anew counts from 1 (or 0) again.
            if before.last_counter and after.first_counter > 1 and jump != 1:
                outcome = Outcome.FAIL if promise >= 0 else Outcome.UNKNOWN
                self.say(
                    "video.recording.counter",
                    where,
                    outcome=outcome,
                    last=before.last_counter,
                    first=after.first_counter,
                )

    def judge_end(self) -> datetime | None:
        """How far the chain reaches: it ends with `close`, or nobody knows what came after it."""
        records = self.story.records
        told = [item.segment.end if item.segment is not None else item.until for item in records]
        until = max((time for text in told if (time := _time(text)) is not None), default=None)
        if not self.closed and self.story.believed:
            shown = until.isoformat() if until is not None else "-"
            last = _time(records[-1].time) if records else None
            promise = self.opening.heartbeat if self.opening is not None else 0
            if promise and last is not None and self.at > last + timedelta(seconds=promise):
                self.say("video.recording.silent", until=shown, seconds=promise, last=records[-1].time)
            else:
                self.say("video.recording.unclosed", until=shown)
        return until
