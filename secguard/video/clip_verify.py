"""Verify a clip from its record: is it all of its declared range, as the camera's manifests say, and whose word is it?

The manifests in the record prove, GOP by GOP, the slices, the parameter sets and the sample times; the operator's
signature binds the range, the case and the approval to them. What the signatures in the stream say of GOPs that were
cut off is no loss here: the declared range decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from cryptography import x509

from secguard.core import Axis, Finding, Outcome, TimeSource, finding, parse_time
from secguard.gbid import GbId
from secguard.trust import MALFORMED, Purpose, TrustPolicy, stated_purposes
from secguard.video.clip_match import Declared, Matched, match_gops
from secguard.video.clip_record import ClipRecord, OpenedClip, wall_clock
from secguard.video.containers import map_file
from secguard.video.hashing import Hashed, hash_nals, hash_range
from secguard.video.manifest import Gops, Manifest, OpenedManifest, digest_config, gops_of
from secguard.video.nal import Stream
from secguard.video.timeline import Pictures

__all__ = ["ClipJudged", "judge_clip"]

# What the SEIs alone say of GOPs that stand elsewhere or not at all: the declared range tells it, and better.
_BY_RANGE = {
    "video.head.trimmed",
    "video.gop.missing",
    "video.gop.moved",
    "video.gop.repeated",
    "video.gop.foreign",
    "video.gop.unproven",
    "video.gop.link",
    "video.sei.missing",
    "video.sei.unlisted",
    "video.sei.none",
    "video.tail.unsigned",
}
_BY_MANIFEST = {"video.completeness.unproven", "video.presentation.unproven", "video.presentation.changed"}
_FRAMES = ("video.gop.hash-mismatch", "video.frame.", "video.head.cut")
_PASP = 12  # bytes of `Track.shape` that says nothing but the shape of a pixel
_IDENTITY = b"".join(value.to_bytes(4, "big") for value in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))


@dataclass(slots=True)
class ClipJudged:
    """What a record says against the file.

    Attributes:
        opened: the record.
        findings: what is wrong, and what there is to say.
        examined: axes that were really looked at.
        proven: every GOP of the declared range is there, as the camera sealed it.
        decided: the manifests are believed, so that the declared range decides what is missing.
        device: the camera that the manifests' certificate names.
        chain: its certificates, leaf first.
    """

    opened: OpenedClip
    findings: list[Finding] = field(default_factory=list)
    examined: set[Axis] = field(default_factory=set)
    proven: bool = False
    decided: bool = False
    device: GbId | None = None
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def shown(self) -> bool:
        """The frames are shown as they were sealed, whatever the times in the signatures say."""
        return self.decided and not any(
            item.axis is Axis.PRESENTATION for item in self.findings if item.outcome != "pass"
        )

    def settle(self, findings: Sequence[Finding]) -> list[Finding]:
        """What was found without the record, less what the record explains, and what it found itself."""
        gone = _BY_MANIFEST | (_BY_RANGE if self.decided else set())
        # A camera with the duty to sign: what was sealed at import may have been stripped before.
        imported = any(item is not None and item.manifest.sealed == "import" for item in self.opened.manifests)
        kept = {"video.sei.none"} if imported else set()
        return [
            item for item in findings if item.code not in gone or (item.code in kept and item.outcome is Outcome.FAIL)
        ] + self.findings


def _purpose(opened: OpenedManifest) -> Purpose:
    """Whose key may seal it: the camera's, or for an import an operator's or a platform's."""
    if opened.manifest.sealed != "import":
        return Purpose.MEDIA_SIGNING
    try:
        stated = stated_purposes(opened.chain[0])
    except MALFORMED:
        stated = []
    return Purpose.PLATFORM if Purpose.PLATFORM in stated else Purpose.OPERATOR


def _believed(
    judged: ClipJudged, trust: TrustPolicy, moment: tuple[datetime, TimeSource | None], expected: GbId | None
) -> tuple[bool, bool]:
    """Judge the operator's certificate and the manifests'; returns whether the record, and all manifests, count."""
    opened, record = judged.opened, judged.opened.record
    at, source = moment
    made = parse_time(record.created)
    answer = trust.judge_chain(
        opened.chain, Purpose.OPERATOR, max(at, made), source=TimeSource.CLAIMED if made > at else source
    )
    judged.findings += [_at("operator", item) for item in answer.findings]
    judged.examined |= answer.examined
    whole = opened.signed and answer.believed
    if not whole:
        code = "video.clip.unbelieved" if opened.signed else "video.clip.signature"
        judged.findings.append(finding(code))
    sealed = True
    seen: dict[bytes, bool] = {}
    for number, item in enumerate(opened.manifests, start=1):
        if item is None:
            sealed = False
            judged.findings.append(finding("video.clip.unsealed", f"recording {number}"))
            continue
        told = item.manifest.device
        key = item.chain[0].tbs_certificate_bytes + told.encode()
        if not item.signed:
            sealed = False
            judged.findings.append(finding("video.manifest.signature", f"recording {number}"))
            continue
        if key not in seen:
            seen[key] = _camera(judged, item, trust, moment, f"recording {number}")
            if expected is not None and told != expected.value:
                place = f"recording {number}"
                judged.findings.append(finding("video.device.mismatch", place, expected=expected.value, found=told))
            if not seen[key]:
                judged.findings.append(finding("video.manifest.unbelieved", f"recording {number}"))
        sealed = sealed and seen[key]
        if record.device != told:
            sealed = False
            judged.findings.append(finding("video.device.mismatch", "record", expected=told, found=record.device))
    return whole, sealed


def _camera(
    judged: ClipJudged,
    item: OpenedManifest,
    trust: TrustPolicy,
    moment: tuple[datetime, TimeSource | None],
    place: str,
) -> bool:
    told = item.manifest.device
    purpose = _purpose(item)
    answer = trust.judge_chain(item.chain, purpose, moment[0], source=moment[1])
    judged.findings += [_at(place, one) for one in answer.findings]
    judged.examined |= answer.examined
    judged.chain = judged.chain or item.chain
    named = answer.gbid.value if answer.gbid is not None else ""
    if purpose is not Purpose.MEDIA_SIGNING:
        by = item.manifest.sealed_at or item.manifest.end
        judged.findings.append(finding("video.clip.imported", place, time=by, device=told))
        named = told
    if named and named != told:
        judged.findings.append(finding("video.device.mismatch", place, expected=told, found=named))
    judged.device = judged.device or answer.gbid if purpose is Purpose.MEDIA_SIGNING else judged.device
    return answer.believed and named == told


def _at(place: str, item: Finding) -> Finding:
    return Finding(item.code, item.axis, item.outcome, f"{place}: {item.where}" if item.where else place, item.data)


def judge_clip(
    stream: Stream,
    hashed: Hashed,
    pictures: Pictures,
    opened: OpenedClip,
    *,
    trust: TrustPolicy,
    moment: tuple[datetime, TimeSource | None],
    expected: GbId | None = None,
    named: GbId | None = None,
) -> ClipJudged:
    """Judge a clip by its record.

    Where the manifests are believed, `pictures` is set right: rows count the recording's GOPs, and what the signatures
    alone say of GOPs beyond the declared range is taken out.

    Args:
        stream: the clip.
        hashed: its hashed slices.
        pictures: what its signatures say.
        opened: the record.
        trust: which roots and revocation lists are believed.
        moment: the time for which the camera's certificate is judged, and who vouches for it; the operator's is judged
            for the time of the cut, if that is later.
        expected: the camera it must come from.
        named: the camera that the signatures in the stream name.
    """
    judged = ClipJudged(opened)
    whole, sealed = _believed(judged, trust, moment, expected)
    manifests = [item.manifest for item in opened.manifests if item is not None]
    if not sealed:
        judged.findings.append(finding("video.presentation.unproven"))
        return judged
    device = manifests[0].device
    if named is not None and named.value != device:
        judged.findings.append(finding("video.device.mismatch", expected=device, found=named.value))
    declared = _declared(opened.record, manifests, opened, judged)
    if not declared:
        return judged
    if hashed.name != "sha256" or len(hashed) != int(stream.nals.vcl.sum()) or hashed.own.any():
        hashed = hash_nals(stream.source.data, stream.nals, np.flatnonzero(stream.nals.vcl))
    gops = gops_of(stream, hashed)
    matched = match_gops(stream, gops, declared, manifests, pictures)
    if opened.record.codec != stream.track.codec or not matched.known:
        judged.findings += [
            finding("video.clip.mismatch", case=opened.record.case),
            finding("video.presentation.unproven"),
        ]
        return judged
    judged.decided = True
    pictures.timeline = matched.timeline
    clean = matched.clean
    doubted = _doubted(gops, matched)
    # The signature that lists an unsigned SEI may lie beyond the range.
    gone = _BY_RANGE | ({"video.sei.foreign"} if clean else set())
    pictures.findings[:] = [item for item in pictures.findings if item.code not in gone and _stands(item, doubted)]
    judged.findings += matched.findings
    same = _same_file(stream, opened.record)
    judged.findings += _shown(stream, gops, declared, manifests, matched, same=same)
    judged.proven = clean
    if clean:
        judged.examined.add(Axis.INTEGRITY)
    if whole:
        judged.examined |= {Axis.COMPLETENESS}
    judged.examined.add(Axis.PRESENTATION)
    judged.findings += _file(stream, opened.record, pictures, judged, same=same)
    return judged


def _doubted(gops: Gops, matched: Matched) -> set[int]:
    """Numbers of frames in GOPs that are not as sealed."""
    proven = {own for own, _ in matched.pairs}
    heads = np.cumsum([1, *gops.frames]).tolist()
    rows = [own for own in range(len(gops.frames)) if own not in proven]
    return {frame for own in rows for frame in range(heads[own], heads[own + 1])}


def _stands(item: Finding, doubted: set[int]) -> bool:
    """What the signatures say of single frames counts, except of frames that the manifest proves."""
    if not item.code.startswith(_FRAMES):
        return True
    data = item.data
    first = data.get("first", data.get("after", 0))
    last = data.get("last", first + 1)
    return any(frame in doubted for frame in range(first, last + 1))


def _declared(
    record: ClipRecord, manifests: Sequence[Manifest], opened: OpenedClip, judged: ClipJudged
) -> list[Declared]:
    """The GOPs of the declared range, in order; empty where the record contradicts the manifests."""
    rows: list[Declared] = []

    def say(what: str, stated: str, found: str) -> None:
        judged.findings.append(finding("video.clip.range", "", field=what, stated=stated or "-", found=found or "-"))

    for number, (part, manifest) in enumerate(zip(record.parts, manifests, strict=True)):
        count = len(manifest.gops.sha256)
        if part.last > count:
            say("last GOP", str(part.last), str(count))
            return []
        several = len(manifests) > 1
        rows += [Declared(number, gop, manifest, segments=several) for gop in range(part.first - 1, part.last)]
    for number in range(1, len(manifests)):
        here, before = opened.manifests[number], opened.manifests[number - 1]
        assert here is not None
        assert before is not None
        follows = bool(here.manifest.recording) and here.manifest.recording == before.manifest.recording
        follows = follows and here.manifest.previous == before.sha256.hex()
        if (
            not follows
            or record.parts[number - 1].last != len(before.manifest.gops.sha256)
            or record.parts[number].first != 1
        ):
            judged.findings.append(finding("video.clip.segments", f"recording {number + 1}"))
    begin = wall_clock(manifests[0], record.parts[0].first, len(manifests[0].gops.sha256))[0]
    end = wall_clock(manifests[-1], 1, record.parts[-1].last)[1]
    for what, stated, found in (("start", record.start, begin), ("end", record.end, end)):
        if found and stated != found:
            say(what, stated, found)
    if record.gops != len(rows):
        say("GOPs", str(record.gops), str(len(rows)))
    if (
        begin
        and end
        and not (
            record.requested_start
            and record.requested_end
            and parse_time(begin)
            <= parse_time(record.requested_start)
            <= parse_time(record.requested_end)
            <= parse_time(end)
        )
    ):
        say("requested", f"{record.requested_start} - {record.requested_end}", f"{begin} - {end}")
    return rows


def _plain(stream: Stream, *, same: bool) -> bool:
    """The clip shows every sample, upright and whole, as a cut writes it.

    No edit list, no matrix, enabled, the only video track, as large as its pictures, no aperture. Pixels that are not
    square count if the file is byte for byte the one that the operator signed for.
    """
    track, source = stream.track, stream.source
    at = 52 if track.header[:1] == b"\1" else 40
    square = not track.shape or (same and track.shape.startswith(b"pasp") and len(track.shape) == _PASP)
    return (
        sum(item.handler == "vide" for item in source.tracks) == 1
        and not track.edits
        and len(track.header) > 3
        and bool(track.header[3] & 1)
        and track.header[at : at + 36] == _IDENTITY
        and square
    )


def _shown(
    stream: Stream,
    gops: Gops,
    declared: Sequence[Declared],
    manifests: Sequence[Manifest],
    matched: Matched,
    *,
    same: bool,
) -> list[Finding]:
    """Parameter sets and sample times of the GOPs that are there."""
    findings: list[Finding] = []
    if stream.source.container != "mp4":
        return [
            finding("video.presentation.unproven"),
            finding("video.parameter-sets.unproven", container=stream.source.container, sealed="mp4"),
        ]
    old = not all(item.starts and item.gops.times and item.gops.sets for item in manifests)
    if old:
        findings += [finding("video.clip.old-manifest"), finding("video.presentation.unproven")]
    retimed, edited = [], []
    for own, place in matched.pairs:
        row = declared[place]
        sealed = row.manifest.gops
        if sealed.times and gops.times[own] != sealed.times[row.gop]:
            retimed.append(row)
        if sealed.sets and gops.sets[own] != sealed.sets[row.gop]:
            edited.append(row)
    findings += [finding("video.presentation.changed", row.place) for row in retimed[:_MAX]]
    if not _plain(stream, same=same):
        findings.append(finding("video.presentation.changed", "track header or edit list"))
    findings += [finding("video.parameter-sets.changed", row.place) for row in edited[:_MAX]]
    if any(item.config and item.config != digest_config(stream) for item in manifests):
        findings.append(finding("video.parameter-sets.changed", "decoder configuration"))
    kept = {row.manifest.gops.sets[row.gop] for row in declared if row.manifest.gops.sets}
    before = manifests[0].gops.sets[: declared[0].gop]
    if any(value and value not in kept for value in before):
        findings.append(finding("video.parameter-sets.cut"))
    return findings


_MAX = 100


def _file(stream: Stream, record: ClipRecord, pictures: Pictures, judged: ClipJudged, *, same: bool) -> list[Finding]:
    """What the operator's word adds: how many signatures, which file; and what a viewer should know."""
    findings: list[Finding] = []
    wrong = any(item.outcome is not Outcome.PASS for item in (*judged.findings, *pictures.findings))
    seis = sum(1 for _ in _signed(stream))
    if judged.proven and seis < record.seis:
        findings.append(finding("video.sei.removed", expected=record.seis, found=seis))
        wrong = True
    if record.leading:
        findings.append(finding("video.clip.leading", "", frames=record.leading))
    if not wrong and not same:
        findings.append(finding("video.file.differs"))
    return findings


def _same_file(stream: Stream, record: ClipRecord) -> bool:
    with map_file(stream.source.path) as data:
        return len(data) == record.size and hash_range(data, 0, len(data)).hex() == record.sha256


def _signed(stream: Stream) -> list[Any]:
    from secguard.video.claims import read_claims

    return [claim for claim in read_claims(stream).claims if claim.sei.signature]
