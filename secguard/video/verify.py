"""Verify a recording: is it what the camera recorded, all of it, shown as it was, and whose key says so?

The workflow, in order:

1. read the index and the NAL units (`mp4`, `nal`); 2. read the SEIs and check their signatures (`claims`);
3. hash every slice once (`hashing`); 4. match slices with claims (`match`) and judge them (`timeline`);
5. compare with the segment manifest, if there is one (`manifest`): only it can prove that nothing was cut off, that
   the parameter sets are the camera's, and that every frame is shown when it was taken;
6. judge the certificates (`trust`) at the time that counts, and say one verdict over all axes.

What the evidence at hand cannot tell is `unknown`: never pass, never a guess.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import (
    Axis,
    Finding,
    Outcome,
    Progress,
    SecguardError,
    TimeSource,
    Verdict,
    finding,
    judge,
    parse_time,
    rfc3339,
    silent,
)
from secguard.gbid import GbId
from secguard.trust import ChainJudgement, Purpose, TrustPolicy
from secguard.trust.names import title
from secguard.video.claims import Claims, read_claims
from secguard.video.clip_record import OpenedClip
from secguard.video.clip_verify import judge_clip
from secguard.video.compare import Compared, compare
from secguard.video.hashing import Hashed, hash_nals
from secguard.video.manifest import OpenedManifest, gops_of
from secguard.video.match import INTACT, Match, match
from secguard.video.nal import Stream, open_stream
from secguard.video.presentation import judge_presentation
from secguard.video.seal import OTHER, hash_file, import_purpose
from secguard.video.timeline import Pictures, Timeline, build

__all__ = ["DEFAULT_AXES", "Expectation", "VideoVerdict", "verify"]

DEFAULT_AXES = (Axis.INTEGRITY, Axis.COMPLETENESS, Axis.PRESENTATION, Axis.PROVENANCE, Axis.REVOCATION)
"""Axes a video is judged by unless the caller narrows them."""

_MAX_DAMAGED = 50  # findings about damaged samples
# Slices that the reference implementation leaves out of its hash lists although the standard asks for all.
_LEFT_OUT = {"h264": (2, 3, 4), "h265": tuple(range(2, 10))}


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is known of the recording from elsewhere.

    Attributes:
        device: the camera it must come from.
        must_sign: that camera has the duty to sign, so an unsigned recording is a violation.
        manifest: the segment manifest's envelope.
        manifest_name: where it came from, for messages.
        clip: the record of the clip that the file is; then its manifests count, not `manifest`.
        clip_name: where it came from.
    """

    device: GbId | None = None
    must_sign: bool = False
    manifest: bytes | None = None
    manifest_name: str = "manifest"
    clip: bytes | None = None
    clip_name: str = "clip record"


@dataclass(frozen=True, slots=True)
class VideoVerdict:
    """The answer about one recording.

    Attributes:
        verdict: over all axes.
        timeline: one row a GOP.
        nal_status: one character a NAL unit, see `timeline.Pictures`.
        codec: `h264` or `h265`.
        frames, nals, gops: counts in the file.
        seis: signed SEIs that cover pictures; `valid_seis` of them have a good signature.
        slices, proven: slices, and those that a good signature covers.
        device: the camera that the certificate names.
        chain: certificates of the signing key, leaf first.
        manifest: the manifest, if one was given.
        sha256: of the whole file, hex; empty if verifying did not need it.
    """

    verdict: Verdict
    timeline: Timeline
    nal_status: str
    codec: str
    frames: int
    nals: int
    gops: int
    seis: int
    valid_seis: int
    slices: int
    proven: int
    device: GbId | None
    chain: tuple[x509.Certificate, ...]
    manifest: OpenedManifest | None
    sha256: str = ""
    clip: OpenedClip | None = None


def _hash(stream: Stream, claims: Claims, skip: Sequence[int], progress: Progress) -> Hashed:
    """Hash slices and unsigned SEIs, leaving out slices of the kinds in `skip`."""
    nals = stream.nals
    chosen = nals.vcl & ~np.isin(nals.kind, skip)
    chosen[claims.unsigned] = True
    index = np.flatnonzero(chosen)
    own = np.isin(index, claims.unsigned)
    hashed = hash_nals(stream.source.data, nals, index, own, name=claims.hash_name, progress=progress)
    return hashed.with_own(claims.digests)


def _match(stream: Stream, claims: Claims, progress: Progress) -> tuple[Hashed, Match, list[Finding]]:
    """Match all slices; where that fails and the stream has slices that the reference leaves out, match without."""
    nals = stream.nals
    hashed = _hash(stream, claims, (), progress)
    units = [claim.unit for claim in claims.claims]
    found = match(hashed, units)
    left_out = np.isin(nals.kind, _LEFT_OUT[nals.codec]) & nals.vcl
    if not left_out.any() or (found.state == INTACT).all() or not units:
        return hashed, found, []
    keep = [(unit.first, unit.stop, unit.exact) for unit in units]
    fewer = _hash(stream, claims, _LEFT_OUT[nals.codec], progress)
    for unit in units:
        unit.first, unit.stop, unit.exact = -1, -1, False
    other = match(fewer, units)
    if _wrong(other) >= _wrong(found):
        for unit, (first, stop, exact) in zip(units, keep, strict=True):
            unit.first, unit.stop, unit.exact = first, stop, exact
        return hashed, found, []
    return fewer, other, [finding("video.slice.uncovered", "", slices=int(left_out.sum()))]


def _wrong(found: Match) -> int:
    """Slices that are not as signed, and places of lists that nothing fills."""
    return int((found.state != INTACT).sum()) + sum(len(places) for places in found.missing.values())


def verify(
    path: Path,
    trust: TrustPolicy,
    at: datetime,
    expectation: Expectation | None = None,
    *,
    require: Sequence[Axis] = (),
    source: TimeSource | None = None,
    progress: Progress = silent,
) -> VideoVerdict:
    """Verify one recording.

    Args:
        path: a recording with an H.264 or H.265 track; see `containers`.
        trust: which roots and revocation lists are believed.
        at: the time for which certificates are judged, aware; the recording's time, if that is known.
        expectation: what is known from elsewhere.
        require: axes that decide; default `DEFAULT_AXES`.
        source: who vouches for `at`; None means that the caller states it.
        progress: called with bytes done.

    Raises:
        UsageError: no such file.
        FormatError: its container is not read here, has no index, or holds no H.264 or H.265.
    """
    expected = expectation or Expectation()
    opened = None
    if expected.manifest is not None:
        opened = OpenedManifest.read(expected.manifest, expected.manifest_name)
        if opened.manifest.container == OTHER:
            none = np.zeros(0, dtype=np.int64)
            judged = _certificates(trust, (at, source), Claims([], none, none), opened, expected)
            return _verify_whole(path, at, judged, expected, opened, require=require, progress=progress)
    stream = open_stream(path)
    claims = read_claims(stream)
    hashed, found, findings = _match(stream, claims, progress)
    pictures = build(stream, hashed, claims, found)
    pictures.findings += _lost(stream)
    findings += _whole(stream, claims, pictures, expected)
    examined: set[Axis] = set()
    if any(claim.valid for claim in claims.claims):
        examined |= {Axis.INTEGRITY, Axis.COVERAGE}
    judged = _certificates(trust, (at, source), claims, opened, expected)
    findings += judged.findings
    examined |= judged.examined
    sha256 = ""
    told = judge_presentation(stream, claims, hashed, found)
    clip = None
    if expected.clip is not None:
        record = OpenedClip.read(expected.clip, expected.clip_name)
        clip = judge_clip(
            stream,
            hashed,
            pictures,
            record,
            trust=trust,
            moment=(at, source),
            expected=expected.device,
            named=judged.device,
        )
        findings, examined = clip.settle(findings), examined | clip.examined
        told = [] if clip.shown else told
    elif opened is not None and judged.manifest_believed:
        compared = _sealed(stream, hashed, claims, pictures, opened)
        if compared.fits:
            examined |= {Axis.COMPLETENESS, Axis.PRESENTATION}
        if len(compared.proven) == len(opened.manifest.gops.sha256):
            examined.add(Axis.INTEGRITY)  # the manifest's own hashes prove the pictures
        findings = [*_settle(pictures, findings, compared, opened), *compared.findings]
        sha256 = opened.manifest.sha256 if compared.same_file else ""
        if not any(item.axis is Axis.PRESENTATION for item in compared.findings):
            told = []  # shown as it was sealed, whatever a camera's clock did meanwhile
    elif opened is None:
        findings += [finding("video.completeness.unproven"), finding("video.presentation.unproven")]
    else:
        code = "video.manifest.unbelieved" if opened.signed else "video.manifest.signature"
        findings += [finding(code), finding("video.presentation.unproven")]
    findings += told
    nals = stream.nals
    signed = [claim for claim in claims.claims if claim.sei.signature]
    return VideoVerdict(
        judge(
            str(path),
            at,
            examined=examined,
            findings=[*pictures.findings, *findings],
            default=DEFAULT_AXES,
            require=require,
        ),
        pictures.timeline,
        pictures.status,
        nals.codec,
        frames=len(np.unique(nals.sample[nals.vcl])),
        nals=len(nals),
        gops=int(nals.leads.sum()),
        seis=len(signed),
        valid_seis=sum(1 for claim in signed if claim.valid),
        slices=pictures.total,
        proven=pictures.proven,
        device=judged.device or (clip.device if clip else None),
        chain=claims.chain or (opened.chain if opened else clip.chain if clip else ()),
        manifest=opened,
        sha256=sha256,
        clip=clip.opened if clip else None,
    )


def _lost(stream: Stream) -> list[Finding]:
    """What the file says itself that it does not hold: samples of its index, and whatever follows a cut."""
    findings = []
    frames, end = len(np.unique(stream.nals.sample[stream.nals.vcl])), len(stream.source.data)
    if stream.samples.lost:
        where = f"after frame {frames}, byte {end}" if stream.source.units() is None else f"after frame {frames}"
        findings.append(finding("video.sample.missing", where, samples=stream.samples.lost))
    if stream.source.cut >= 0 and not (stream.samples.lost and stream.source.cut == end):
        findings.append(finding("video.file.cut", f"byte {stream.source.cut}", frames=frames))
    return findings


def _verify_whole(
    path: Path,
    at: datetime,
    judged: "_Judged",
    expected: Expectation,
    opened: OpenedManifest,
    *,
    require: Sequence[Axis],
    progress: Progress,
) -> VideoVerdict:
    """A file that was sealed as a whole: equality proves everything, a difference nothing but itself."""
    findings, examined = judged.findings, judged.examined
    if expected.must_sign:
        findings.append(finding("video.sei.none", outcome=Outcome.FAIL))
    if not judged.manifest_believed:
        code = "video.manifest.unbelieved" if opened.signed else "video.manifest.signature"
        findings += [finding(code), finding("video.presentation.unproven")]
    elif hash_file(path, progress) == (opened.manifest.size, bytes.fromhex(opened.manifest.sha256)):
        examined |= {Axis.INTEGRITY, Axis.COMPLETENESS, Axis.PRESENTATION}
    else:
        findings.append(finding("video.file.changed"))
    return VideoVerdict(
        judge(str(path), at, examined=examined, findings=findings, default=DEFAULT_AXES, require=require),
        Timeline(),
        "",
        OTHER,
        frames=0,
        nals=0,
        gops=0,
        seis=0,
        valid_seis=0,
        slices=0,
        proven=0,
        device=judged.device,
        chain=opened.chain,
        manifest=opened,
    )


def _whole(stream: Stream, claims: Claims, pictures: Pictures, expected: Expectation) -> list[Finding]:
    """What there is to say about the stream as a whole."""
    findings = []
    nals = stream.nals
    if not len(claims.own):
        # The rows call each GOP a tail behind the last signature; without any signature one sentence says it.
        pictures.findings[:] = [item for item in pictures.findings if item.code != "video.tail.unsigned"]
        pictures.timeline.reason[:] = ["video.sei.none"] * len(pictures.timeline)
        outcome = Outcome.FAIL if expected.must_sign else Outcome.UNKNOWN
        findings.append(finding("video.sei.none", outcome=outcome))
    if pictures.proven < pictures.total:
        findings.append(finding("video.coverage.partial", proven=pictures.proven, total=pictures.total))
    for index in np.flatnonzero(nals.damaged).tolist()[:_MAX_DAMAGED]:
        frame = len(np.unique(nals.sample[: index + 1][nals.vcl[: index + 1]]))
        gop = int(nals.leads[: index + 1].sum())
        place = f"GOP {gop}, frame {frame}, byte {stream.source.place(int(nals.offset[index]))}"
        findings.append(finding("video.sample.damaged", place))
    extra = sum(1 for item in stream.source.tracks if item.handler == "vide" and item is not stream.track)
    if extra:
        findings.append(finding("video.track.extra", tracks=extra))
    stale = [
        claim.sei.counter
        for claim in claims.claims
        if claim.sei.hashes and hashlib.new(claims.hash_name, claim.sei.hashes).digest() != claim.sei.gop_hash
    ]
    if stale:
        findings.append(finding("video.sei.stale", seis=len(stale), counter=stale[0]))
    return findings


@dataclass(slots=True)
class _Judged:
    """What the certificates say: findings, examined axes, the device named, and whether the manifest is believed."""

    findings: list[Finding] = field(default_factory=list)
    examined: set[Axis] = field(default_factory=set)
    device: GbId | None = None
    manifest_believed: bool = False


def _leaf(chain: Sequence[x509.Certificate]) -> bytes:
    return hashlib.sha256(chain[0].public_bytes(Encoding.DER)).digest() if chain else b""


def _certificates(
    trust: TrustPolicy,
    when: tuple[datetime, TimeSource | None],
    claims: Claims,
    opened: OpenedManifest | None,
    expected: Expectation,
) -> _Judged:
    """Judge every chain that vouches for something: the SEIs', foreign ones, the manifest's."""
    chains = [chain for chain in (claims.chain, *claims.others) if chain]
    sealing = _leaf(opened.chain) if opened is not None and opened.signed else None
    if opened is not None and sealing is not None and sealing not in {_leaf(chain) for chain in chains}:
        chains.append(opened.chain)
    judged = _Judged()
    if opened is not None and opened.signed and opened.manifest.sealed == "import":
        chains = [chain for chain in chains if _leaf(chain) != sealing]
        _judge_import(trust, when, opened, expected, judged)
        sealing = None
    for number, chain in enumerate(chains):
        judgement = trust.judge_chain(chain, Purpose.MEDIA_SIGNING, when[0], source=when[1])
        judged.findings += judgement.findings
        judged.findings += _claimed_time(trust, chain, judgement, opened)
        judged.examined |= judgement.examined
        named = judgement.gbid
        wanted = expected.device if expected.device is not None or number == 0 else judged.device
        if number == 0:
            judged.device = named
        if wanted is not None and named != wanted:
            code = "video.device.unnamed" if named is None else "video.device.mismatch"
            judged.findings.append(finding(code, expected=wanted.value, found=named.value if named else ""))
        if sealing is not None and _leaf(chain) == sealing and opened is not None:
            told = opened.manifest.device
            judged.manifest_believed = judgement.believed and named is not None and named.value == told
            if named is not None and named.value != told:
                judged.findings.append(finding("video.device.mismatch", expected=told, found=named.value))
    return judged


def _claimed_time(
    trust: TrustPolicy, chain: Sequence[x509.Certificate], judgement: ChainJudgement, opened: OpenedManifest | None
) -> list[Finding]:
    """An expired certificate that was good when the recording claims to be made: said, and no more believed for it."""
    if opened is None or not opened.signed or "trust.certificate.expired" not in {f.code for f in judgement.findings}:
        return []
    try:
        claimed = parse_time(opened.manifest.end)
    except SecguardError:
        return []
    if not trust.judge_chain(chain, Purpose.MEDIA_SIGNING, claimed, source=TimeSource.CLAIMED).believed:
        return []
    return [finding("video.time.claimed", time=rfc3339(claimed))]


def _judge_import(
    trust: TrustPolicy,
    when: tuple[datetime, TimeSource | None],
    opened: OpenedManifest,
    expected: Expectation,
    judged: _Judged,
) -> None:
    """A manifest by an operator or a platform: it proves what the file has been since then, and no more."""
    leaf, manifest = opened.chain[0], opened.manifest
    judgement = trust.judge_chain(opened.chain, import_purpose(leaf), when[0], source=when[1])
    judged.findings += judgement.findings
    judged.examined |= judgement.examined
    judged.manifest_believed = judgement.believed
    judged.findings.append(finding("video.manifest.imported", by=title(leaf), time=manifest.sealed_at))
    if expected.device is not None and expected.device.value != manifest.device:
        judged.findings.append(finding("video.device.mismatch", expected=expected.device.value, found=manifest.device))


def _settle(pictures: Pictures, findings: list[Finding], compared: Compared, opened: OpenedManifest) -> list[Finding]:
    """Pictures that the manifest proves are no longer in doubt, whatever SEIs were lost; their loss stays a finding."""
    timeline = pictures.timeline
    for row, first in enumerate(timeline.first_frame):
        if timeline.state[row] == "unsigned" and first in compared.proven:
            timeline.state[row] = "sealed"
    pictures.findings[:] = [
        item
        for item in pictures.findings
        if item.code not in {"video.gop.unproven", "video.tail.unsigned"} or item.data["first"] not in compared.proven
    ]
    if len(compared.proven) == len(opened.manifest.gops.sha256) and "unsigned" not in timeline.state:
        # Sealing at import does not stand for the signatures that a camera had to make.
        late = opened.manifest.sealed == "import"
        return [i for i in findings if i.code != "video.sei.none" or (late and i.outcome is Outcome.FAIL)]
    return findings


def _sealed(stream: Stream, hashed: Hashed, claims: Claims, pictures: Pictures, opened: OpenedManifest) -> Compared:
    """What a believed manifest tells beyond the SEIs."""
    nals = stream.nals
    if claims.hash_name != "sha256" or len(hashed) != int(nals.vcl.sum()) + len(claims.unsigned):
        # The manifest's own hashes are SHA-256 over every slice, whatever the SEIs use.
        hashed = hash_nals(stream.source.data, nals, np.flatnonzero(nals.vcl))
    gops = gops_of(stream, hashed)
    return compare(stream, gops, claims, pictures, opened.manifest)
