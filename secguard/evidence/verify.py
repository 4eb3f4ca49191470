"""Verify an evidence bundle offline, from the root certificate alone.

The workflow, in order:

1. read the archive and account for every byte (`archive`); 2. check the operator's signature over the list of files,
and every file against it (`manifest`); 3. judge the operator's and the log's certificates at the time that counts;
4. check every receipt against the log's key, and what the events say (`custody`); 5. verify the recording again;
6. check the isolation scans against what the log recorded (`scan_check`); 7. say one verdict over all axes. An axis
passes only if every part that bears on it was really examined.
"""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import (
    Axis,
    Finding,
    FormatError,
    Outcome,
    Progress,
    RefusedError,
    SystemClock,
    TimeSource,
    UsageError,
    Verdict,
    finding,
    judge,
    parse_time,
    rfc3339,
    silent,
)
from secguard.evidence.archive import Member, read_archive
from secguard.evidence.bundle import (
    CHECKPOINT,
    CLIP,
    LOG_CHAIN,
    MANIFEST,
    OPERATOR_CHAIN,
    SEGMENT,
    VERDICT,
    VIDEO,
)
from secguard.evidence.custody import EXPORTED, clip_sources, judge_custody, signed_at
from secguard.evidence.manifest import BundleManifest, OpenedBundle
from secguard.evidence.scan_check import JudgedScans, judge_scans, scan_receipts
from secguard.evidence.scan_verdict import ROLES, WHEN, JudgedScan
from secguard.evidence.scans import PLACE, ended_at
from secguard.ledger import CheckedReceipt, check_receipt, open_checkpoint, receipt_chain
from secguard.trust import Purpose, TrustPolicy, chain_pem, parse_certificates, parse_crls
from secguard.video import Expectation, VideoVerdict, verify
from secguard.video.clip_record import OpenedClip

__all__ = ["DEFAULT_AXES", "BundleVerdict", "verify_bundle"]

DEFAULT_AXES = (
    Axis.INTEGRITY,
    Axis.COMPLETENESS,
    Axis.PRESENTATION,
    Axis.PROVENANCE,
    Axis.REVOCATION,
    Axis.TIME,
)
"""Axes a bundle is judged by unless the caller names others; what scans show, conformance, decides only if named."""

_RECEIPTS = "receipts/"
_CRLS = "crls/"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BundleVerdict:
    """The answer about one bundle.

    Attributes:
        verdict: over all axes.
        manifest: the operator's list; None if it cannot be read.
        video: the recording's own verdict; None if it is not there or cannot be read.
        custody: the receipts on the recording that hold, in the order of the log.
        scans: the isolation scans in it.
        members: every file: name, bytes, SHA-256 as found.
        at: the time that certificates were judged for.
        source: who vouches for it; None if the caller stated it.
        sha256: of the bundle file as given, hex.
    """

    verdict: Verdict
    manifest: BundleManifest | None
    video: VideoVerdict | None
    custody: tuple[CheckedReceipt, ...]
    members: tuple[tuple[str, int, str], ...]
    at: datetime
    source: TimeSource | None
    sha256: str
    scans: tuple[JudgedScan, ...] = ()


@dataclass(slots=True)
class _Case:
    """One bundle under examination; `lacking` are axes for which some part could not be examined."""

    members: dict[str, Member]
    at: datetime
    source: TimeSource | None = None
    findings: list[Finding] = field(default_factory=list)
    lacking: set[Axis] = field(default_factory=set)

    def data(self, name: str) -> bytes:
        member = self.members.get(name)
        if member is None or member.data is None:
            raise FormatError("evidence.member.missing", "it is not in the bundle", where=name)
        return member.data

    def attempt(self, name: str, work: Callable[[], _T], *axes: Axis) -> _T | None:
        """Do a piece of work on a file of the bundle; if it fails, that is a finding, and `axes` stay open."""
        try:
            return work()
        except (FormatError, RefusedError, UsageError) as error:
            if name in self.members or error.code != "evidence.member.missing":
                self.findings.append(finding("evidence.member.malformed", name, reason=error.message))
            self.lacking.update(axes)
            return None

    def add(self, place: str, findings: Sequence[Finding]) -> None:
        """Take over a part's findings, their place named."""
        self.findings += [replace(item, where=f"{place}: {item.where}" if item.where else place) for item in findings]


def verify_bundle(
    path: Path,
    roots: Sequence[x509.Certificate],
    at: datetime | None = None,
    *,
    crls: Sequence[x509.CertificateRevocationList] = (),
    require: Sequence[Axis] = (),
    progress: Progress = silent,
) -> BundleVerdict:
    """Verify a bundle.

    Args:
        path: the bundle.
        roots: the root certificates that the verifier believes, from elsewhere.
        at: judge all certificates for this time, aware; default: the time of the signing for the recording, of the
            export for the others, as the log vouches for them.
        crls: newer revocation lists than the bundle's.
        require: axes that decide; default `DEFAULT_AXES`.
        progress: called with bytes done.

    Raises:
        UsageError: there is no such file, or no root.
        FormatError: the file is no bundle at all; one that was changed is no error but a verdict.
        SystemPartError: no room for the recording in the temporary folder.
    """
    case = _Case({}, at or SystemClock().now())
    manifest: BundleManifest | None = None
    video: VideoVerdict | None = None
    custody: list[CheckedReceipt] = []
    scans = JudgedScans()
    with tempfile.TemporaryDirectory(prefix="secguard-") as folder:
        spool = Path(folder) / "recording.mp4"
        _archive(case, path, spool, progress)
        manifest, operator_chain = _operator(case)
        trust = TrustPolicy(roots, [*crls, *_lists(case)])
        if manifest is not None:
            if at is None:
                case.at, case.source = _created(case, manifest), TimeSource.LEDGER
            _judge(case, trust, operator_chain, Purpose.OPERATOR)
            custody, scanned = scan_receipts(manifest, _receipts(case, trust, manifest))
            video = _recording(case, trust, manifest, custody, spool)
            if Axis.TIME not in case.lacking:
                chain, clip = (video.chain, video.clip) if video is not None else ((), None)
                case.findings += judge_custody(manifest, custody, chain, clip, scanned)
            scans = _scans(
                case,
                trust,
                manifest,
                operator=operator_chain,
                custody=custody,
                scanned=scanned,
                video=video,
                asked=Axis.CONFORMANCE in require,
            )
        whole = _hash(path)
    verdict = judge(
        str(path),
        case.at,
        examined={*DEFAULT_AXES, *([Axis.CONFORMANCE] if scans.apart else [])} - case.lacking,
        findings=case.findings,
        default=DEFAULT_AXES,
        require=require,
    )
    files = tuple((item.name, item.size, item.sha256) for item in case.members.values())
    return BundleVerdict(
        verdict, manifest, video, tuple(custody), files, case.at, case.source, whole, tuple(scans.scans)
    )


def _archive(case: _Case, path: Path, spool: Path, progress: Progress) -> None:
    """Every byte of the file; if one is out of place, the rest is not looked at."""
    try:
        case.members = {item.name: item for item in read_archive(path, {VIDEO: spool}, progress)}
    except FormatError as error:
        if error.code != "evidence.archive.structure":
            raise
        case.findings.append(finding("evidence.archive.structure", error.where, reason=error.message))
        case.lacking.update(Axis)


def _lists(case: _Case) -> list[x509.CertificateRevocationList]:
    """The bundle's revocation lists; whether they are their issuers' is judged with each certificate."""
    found: list[x509.CertificateRevocationList] = []
    for name in sorted(item for item in case.members if item.startswith(_CRLS)):
        found += case.attempt(name, partial(parse_crls, case.members[name].data or b"", name), Axis.REVOCATION) or []
    return found


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _operator(case: _Case) -> tuple[BundleManifest | None, list[x509.Certificate]]:
    """The signed list, and every file against it."""
    if not case.members:
        case.lacking.update(Axis)
        return None, []
    for name in (MANIFEST, OPERATOR_CHAIN):
        if name not in case.members:
            case.findings.append(finding("evidence.member.missing", name))
    chain = (
        case.attempt(OPERATOR_CHAIN, lambda: parse_certificates(case.data(OPERATOR_CHAIN), OPERATOR_CHAIN), *Axis) or []
    )
    keys = case.attempt(OPERATOR_CHAIN, lambda: _keys(chain), *Axis) or []
    opened = case.attempt(MANIFEST, lambda: OpenedBundle.read(case.data(MANIFEST), keys, MANIFEST), *Axis)
    if opened is None:
        return None, chain
    if not opened.signed:
        case.findings.append(finding("evidence.manifest.signature", MANIFEST))
    elif not opened.plain:
        case.findings.append(finding("evidence.manifest.form", MANIFEST))
    listed = {item.name: item for item in opened.manifest.members}
    for name, item in listed.items():
        member = case.members.get(name)
        if member is None:
            case.findings.append(finding("evidence.member.missing", name))
        elif member.sha256 != item.sha256 or member.size != item.size:
            case.findings.append(finding("evidence.member.changed", name, found=member.sha256, signed=item.sha256))
        elif not member.sound:
            reason = f"the header of {name} states another CRC-32 than its bytes have"
            case.findings.append(finding("evidence.archive.structure", f"byte {member.offset}", reason=reason))
    case.findings += [
        finding("evidence.member.extra", name) for name in case.members if name not in listed and name != MANIFEST
    ]
    expected = [item.name for item in opened.manifest.members]
    found = [name for name in case.members if name != MANIFEST]
    if (sorted(expected) == sorted(found) and expected != found) or len(set(expected)) != len(expected):
        reason = "its files stand in another order than on the operator's list"
        case.findings.append(finding("evidence.archive.structure", "", reason=reason))
    return opened.manifest, chain


def _keys(chain: Sequence[x509.Certificate]) -> list[PublicKeyTypes]:
    try:
        return [chain[0].public_key()] if chain else []
    except (UnsupportedAlgorithm, ValueError) as error:
        raise FormatError(
            "evidence.operator.key", "the operator's certificate holds no key that can be used", where=OPERATOR_CHAIN
        ) from error


def _created(case: _Case, manifest: BundleManifest) -> datetime:
    """When the bundle says that it was exported; the receipt of the export must say the same (`judge_custody`)."""
    return case.attempt(MANIFEST, lambda: parse_time(manifest.created), *Axis) or case.at


def _judge(case: _Case, trust: TrustPolicy, chain: Sequence[x509.Certificate], purpose: Purpose) -> None:
    judgement = trust.judge_chain(chain, purpose, case.at, source=case.source)
    case.add(purpose.value, judgement.findings)
    case.lacking |= {Axis.PROVENANCE, Axis.REVOCATION} - judgement.examined


def _receipts(case: _Case, trust: TrustPolicy, manifest: BundleManifest) -> list[CheckedReceipt]:
    """Every receipt against the log's key; the checkpoint against what the manifest says."""
    chain = case.attempt(LOG_CHAIN, lambda: parse_certificates(case.data(LOG_CHAIN), LOG_CHAIN), Axis.TIME) or []
    _judge(case, trust, chain, Purpose.LOG)
    keys = [key for key in trust.log_keys([chain], case.at).keys if key.name == manifest.origin] if chain else []
    if not keys:
        case.findings.append(finding("evidence.receipt.unverified", LOG_CHAIN))
        case.lacking |= {Axis.TIME, Axis.COMPLETENESS}
        return []
    checked: list[CheckedReceipt] = []
    pem = [chain_pem([item]).decode() for item in chain]
    for name in sorted(item for item in case.members if item.startswith(_RECEIPTS)):
        data = case.members[name].data or b""
        try:
            checked.append(_timed(check_receipt(data, keys, name), name))
            if receipt_chain(data, name) != pem:
                reason = f"its certificates are not those of {LOG_CHAIN}"
                case.findings.append(finding("evidence.receipt.invalid", name, reason=reason))
        except (FormatError, RefusedError) as error:
            case.findings.append(finding("evidence.receipt.invalid", name, reason=error.message))
    checkpoint = case.attempt(CHECKPOINT, lambda: open_checkpoint(case.data(CHECKPOINT), keys, CHECKPOINT), Axis.TIME)
    if checkpoint is not None and checkpoint.size != manifest.log_size:
        case.findings.append(
            finding("evidence.checkpoint.differs", CHECKPOINT, found=checkpoint.size, stated=manifest.log_size)
        )
    case.findings += [
        finding("evidence.checkpoint.differs", _RECEIPTS, found=size, stated=manifest.log_size)
        for size in sorted({item.size for item in checked} - {manifest.log_size})
    ]
    if any(item.event.kind == EXPORTED for item in checked):
        case.findings.append(finding("evidence.time.ledger", "", origin=manifest.origin, size=manifest.log_size))
    else:
        case.lacking.add(Axis.TIME)
    return checked


def _timed(item: CheckedReceipt, name: str) -> CheckedReceipt:
    """A receipt whose event has a time that can be compared."""
    try:
        if item.event.time.tzinfo is not None and rfc3339(item.event.time):
            return item
    except OverflowError:
        pass
    raise FormatError("evidence.receipt.time", "its event has no time that can be compared", where=name)


def _signed(manifest: BundleManifest, custody: Sequence[CheckedReceipt], clip: OpenedClip | None) -> datetime | None:
    """When the log says that the recording, or what it was cut from, was signed."""
    names = (manifest.recording.sha256, *clip_sources(clip))
    return signed_at((item.event for item in custody), names)


def _recording(
    case: _Case, trust: TrustPolicy, manifest: BundleManifest, custody: Sequence[CheckedReceipt], spool: Path
) -> VideoVerdict | None:
    """The recording again, for the time of its signing when the log vouches for it."""
    recording = manifest.recording
    member = case.members.get(VIDEO)
    if member is None:
        case.lacking.update(Axis)
        if VIDEO not in {item.name for item in manifest.members}:
            case.findings.append(finding("evidence.member.missing", VIDEO))
        return None
    record = case.members[CLIP].data if CLIP in case.members else None
    clip = case.attempt(CLIP, lambda: OpenedClip.read(record or b"", CLIP), *Axis) if record is not None else None
    signed = _signed(manifest, custody, clip)
    when = signed if signed is not None and case.source is not None else case.at
    segment = case.members[SEGMENT].data if SEGMENT in case.members else None
    expected = Expectation(manifest=segment, clip=record if clip is not None else None)
    video = case.attempt(VIDEO, lambda: verify(spool, trust, when, expected), *Axis)
    if video is None:
        return None
    case.add("recording", video.verdict.findings)
    for axis in DEFAULT_AXES:
        if axis is not Axis.TIME and video.verdict.axes.get(axis, Outcome.UNKNOWN) is Outcome.UNKNOWN:
            case.lacking.add(axis)
    named = video.device.value if video.device else ""
    if named != recording.device:
        case.findings.append(
            finding("evidence.recording.device", VIDEO, listed=recording.device or "-", found=named or "-")
        )
    stated = ((VIDEO, recording.sha256), (SEGMENT, recording.manifest_sha256), (CLIP, recording.clip_sha256))
    for name, value in stated:
        found = case.members[name].sha256 if name in case.members else ""
        listed = {item.name: item.sha256 for item in manifest.members}.get(name, "")
        if value != listed:
            case.findings.append(finding("evidence.member.changed", name, found=found or "-", signed=value or "-"))
    _compare(case, video)
    return video


def _scans(
    case: _Case,
    trust: TrustPolicy,
    manifest: BundleManifest,
    *,
    operator: Sequence[x509.Certificate],
    custody: Sequence[CheckedReceipt],
    scanned: Sequence[CheckedReceipt],
    video: VideoVerdict | None,
    asked: bool,
) -> JudgedScans:
    """The isolation scans; nothing that they show counts where more than the recording is not as it was exported."""
    stated = case.at if case.source is None else None
    exported = case.at
    if stated is not None:
        exported = case.attempt(MANIFEST, lambda: parse_time(manifest.created), *Axis) or case.at
    unverified = any(item.code == "evidence.receipt.unverified" for item in case.findings)
    signed = _signed(manifest, custody, video.clip if video is not None else None)
    answer = judge_scans(
        manifest,
        {name: member.data for name, member in case.members.items()},
        None if unverified else scanned,
        trust,
        operator=operator,
        ended=ended_at(video, signed, exported),
        exported=exported,
        at=stated,
        asked=asked,
    )
    case.findings += answer.findings
    case.lacking |= answer.lacking
    wrong = [item for item in case.findings if item.outcome is Outcome.FAIL and item.code.startswith("evidence.")]
    if answer.apart and any(item.where != VIDEO for item in wrong):
        case.findings.append(finding("evidence.scan.unsound", PLACE, when=WHEN[ROLES]))
        case.lacking.add(Axis.CONFORMANCE)
    return answer


class _Stated(msgspec.Struct):
    outcome: str
    axes: dict[str, str]


def _compare(case: _Case, video: VideoVerdict) -> None:
    """The verdict that the site wrote down at export, against the one reached now."""
    if any(item.where in {VIDEO, SEGMENT, CLIP, VERDICT} for item in case.findings):
        return  # what is compared is not what was exported; that is said already
    stated = case.attempt(VERDICT, lambda: _stated(case.data(VERDICT)))
    if stated is not None and stated.outcome != video.verdict.outcome.value:
        case.findings.append(
            finding("evidence.verdict.differs", VERDICT, stated=stated.outcome, found=video.verdict.outcome.value)
        )


def _stated(data: bytes) -> _Stated:
    try:
        return msgspec.json.decode(data, type=_Stated)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError("evidence.verdict.format", "not a verdict", where=VERDICT) from error
