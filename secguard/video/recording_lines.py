"""Judge the lines of a chain: whose they are, and whether one is missing, edited, moved or put in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from secguard.core import Axis, Finding, FormatError, TimeSource, UsageError, finding, parse_time
from secguard.gbid import GbId
from secguard.trust import Purpose, TrustPolicy
from secguard.trust.names import title
from secguard.video.recording_chain import Line, Record, read_lines
from secguard.video.seal import import_purpose

__all__ = ["ChainStory", "read_story"]

_MAX_SIGNERS = 16
_MAX_FINDINGS = 200


@dataclass(slots=True)
class _Signer:
    """Who signed lines: the certificates, and when the first of its good lines was written."""

    pem: str
    chain: tuple[x509.Certificate, ...]
    sealed: str
    since: str
    believed: bool = False


@dataclass(slots=True)
class _Good:
    """A line with a good signature."""

    line: int
    sha256: str
    record: Record
    signer: int


@dataclass(slots=True)
class ChainStory:
    """What a chain says, as far as it can be believed.

    Attributes:
        recording, device: as its lines say; empty if not one could be read.
        records: the believed lines, in the order they were written.
        believed: the chain's first signer is believed, so its lines count.
        imported: an operator or a platform sealed, not the camera.
        chain: certificates of the last signer, leaf first.
        lines: lines in the file.
        findings: everything worth saying about lines and signers.
        examined: axes that the certificates spoke about.
    """

    recording: str = ""
    device: str = ""
    records: list[Record] = field(default_factory=list)
    believed: bool = False
    imported: bool = False
    chain: tuple[x509.Certificate, ...] = ()
    lines: int = 0
    findings: list[Finding] = field(default_factory=list)
    examined: set[Axis] = field(default_factory=set)

    def say(self, code: str, where: str = "", **data: Any) -> None:
        """Add a finding, up to a bound."""
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(finding(code, where, **data))


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


class _Reader:
    """Reads line by line, and knows every signer that has appeared."""

    def __init__(self, story: ChainStory) -> None:
        self.story = story
        self.signers: list[_Signer] = []
        self.rows: list[_Good | int] = []  # a number stands for a line that is not as it was signed

    def take(self, line: Line) -> None:
        self.story.lines = line.number
        record = line.record
        if record is not None and record.chain:
            self._meet(line, record)
        if record is None and line.torn:
            self.story.say("video.recording.line-torn", f"line {line.number}")
            return
        signer = self._who(line) if record is not None else -1
        if record is None or signer < 0:
            self.rows.append(line.number)
            return
        self.signers[signer].since = self.signers[signer].since or record.time
        self.rows.append(_Good(line.number, line.sha256, record, signer))

    def _meet(self, line: Line, record: Record) -> None:
        """Certificates are believed for their issuer's sake, whatever became of the line that brings them."""
        if len(self.signers) < _MAX_SIGNERS and record.chain not in {item.pem for item in self.signers}:
            try:
                chain = line.certificates()
            except FormatError:
                return
            self.signers.append(_Signer(record.chain, chain, record.sealed, ""))

    def _who(self, line: Line) -> int:
        for number in range(len(self.signers) - 1, -1, -1):
            if line.signed_by(self.signers[number].chain[0].public_key()):
                return number
        return -1


def _when(text: str, at: datetime) -> datetime:
    """A claimed time that a later signer vouches for; never later than `at`."""
    try:
        return min(parse_time(text), at)
    except UsageError:
        return at


def _believe(
    story: ChainStory,
    signers: list[_Signer],
    trust: TrustPolicy,
    when: tuple[datetime, TimeSource | None],
    device: GbId | None,
) -> None:
    """Judge each signer; the lines of those that follow the first count only if they are believed as well."""
    time, source = when
    for number in range(len(signers) - 1, -1, -1):
        signer = signers[number]
        imported = signer.sealed == "import"
        purpose = import_purpose(signer.chain[0]) if imported else Purpose.MEDIA_SIGNING
        judgement = trust.judge_chain(signer.chain, purpose, time, source=source)
        named = judgement.gbid.value if judgement.gbid is not None else ""
        signer.believed = judgement.believed and (imported or named == story.device)
        if number and not signer.believed:
            continue  # its lines are foreign ones; nothing else is to be said of it
        story.findings += judgement.findings
        story.examined |= judgement.examined
        if not imported and judgement.gbid is None:
            story.say("video.device.unnamed", expected=story.device)
        elif not imported and named != story.device:
            story.say("video.device.mismatch", expected=story.device, found=named)
        if imported:
            story.imported = True
            story.say("video.manifest.imported", by=title(signer.chain[0]), time=signer.since)
        story.chain = story.chain or signer.chain
        # Who continued the chain vouches that it stood before: an older certificate is judged for that time.
        time, source = _when(signer.since, time), TimeSource.CLAIMED
    if device is not None and story.device and device.value != story.device:
        story.say("video.device.mismatch", expected=device.value, found=story.device)
    story.believed = bool(signers) and signers[0].believed
    if not story.believed:
        story.say("video.recording.unbelieved")


class _Order:
    """Puts the good lines into the order they were written in, and tells what became of that order."""

    def __init__(self, story: ChainStory) -> None:
        self.story = story
        self.seen: dict[int, _Good] = {}
        self.missing: set[int] = set()
        self.expected, self.last, self.bad = 1, "", 0

    def take(self, row: _Good) -> None:
        number = row.record.sequence
        where = f"line {row.line}"
        known = self.seen.get(number)
        if known is not None:
            code = "video.recording.line-moved" if known.sha256 == row.sha256 else "video.recording.link"
            self.story.say(code, where, line=number)
            return
        self.seen[number] = row
        if number < self.expected:
            self.missing.discard(number)
            self.story.say("video.recording.line-moved", where, line=number)
            return
        gone = range(self.expected + self.bad, number)
        self.missing |= set(gone)
        if number == self.expected and not self.bad and row.record.previous != self.last:
            self.story.say("video.recording.link", where, line=number)
        self.expected, self.last, self.bad = number + 1, row.sha256, 0


def _order(story: ChainStory, reader: _Reader) -> None:
    order = _Order(story)
    for row in reader.rows:
        if isinstance(row, int):
            order.bad += 1
            if reader.signers:  # without a certificate nobody can tell
                story.say("video.recording.line-changed", f"line {row}")
            continue
        record = row.record
        foreign = (record.recording, record.device) != (story.recording, story.device)
        if foreign or (story.believed and not reader.signers[row.signer].believed):
            story.say("video.recording.line-foreign", f"line {row.line}", recording=record.recording)
            continue
        order.take(row)
    for low, high in _ranges(sorted(order.missing)):
        story.say(
            "video.recording.line-missing", f"lines {low}-{high}" if high > low else f"line {low}", lines=high - low + 1
        )
    story.records = [order.seen[number].record for number in sorted(order.seen)]
    closed = next((number for number, item in enumerate(story.records) if item.kind == "close"), None)
    if closed is not None and closed + 1 < len(story.records):
        after = story.records[closed + 1]
        story.say("video.recording.link", f"line {after.sequence}", line=after.sequence)


def read_story(
    path: Path,
    trust: TrustPolicy,
    at: datetime,
    *,
    source: TimeSource | None = None,
    device: GbId | None = None,
) -> ChainStory:
    """Read a chain and judge its lines.

    Args:
        path: the chain.
        trust: which roots and revocation lists are believed.
        at: the time for which the last signer's certificates are judged, aware.
        source: who vouches for `at`.
        device: the camera that it must be of.

    Raises:
        UsageError: no such file.
        FormatError: it is no chain, or too long.
    """
    story = ChainStory()
    reader = _Reader(story)
    first: Record | None = None
    for line in read_lines(path):
        first = first or line.record
        reader.take(line)
    if first is None:
        raise FormatError("video.recording.format", "not a chain of a recording", where=str(path))
    good = next((row.record for row in reader.rows if isinstance(row, _Good)), first)
    story.recording, story.device = good.recording, good.device
    _believe(story, reader.signers, trust, (at, source), device)
    _order(story, reader)
    if not reader.signers and first.sequence > 1:
        # The first line brings the certificates; without it nothing can be checked.
        story.say("video.recording.line-missing", "line 1", lines=first.sequence - 1)
    return story
