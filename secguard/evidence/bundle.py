"""Export a recording as an evidence bundle: prepare -> record `evidence.exported` -> publish -> assemble -> release."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import (
    Clock,
    Progress,
    RefusedError,
    UsageError,
    Verdict,
    describe,
    hint,
    rfc3339,
    silent,
)
from secguard.core.files import fsync_directory, translate_os_error
from secguard.core.limits import MAX_DOCUMENT, read_bounded
from secguard.events import Actor, Event, Receipt, new_event_id
from secguard.evidence.archive import Source, fingerprint, write_archive
from secguard.evidence.custody import EXPORTED, Custody, clip_sources, receipt_name, signed_at, story_of
from secguard.evidence.manifest import BundleManifest, Listed, Recording
from secguard.evidence.readme import readme
from secguard.evidence.scans import KeptScans, ended_at, in_force
from secguard.keys import Signer, key_id
from secguard.ledger import Ledger, parse_checkpoint
from secguard.trust import TrustPolicy, chain_pem, common_name
from secguard.video import Expectation, VideoVerdict, manifest_path, verify
from secguard.video.clip_record import OpenedClip, clip_path

__all__ = [
    "CHECKPOINT",
    "CLIP",
    "LOG_CHAIN",
    "MANIFEST",
    "OPERATOR_CHAIN",
    "README",
    "SEGMENT",
    "VERDICT",
    "VIDEO",
    "Exported",
    "Sealers",
    "export",
    "verdict_document",
]

README = "README.txt"
MANIFEST = "bundle.dsse.json"
OPERATOR_CHAIN = "chains/operator.pem"
LOG_CHAIN = "chains/log.pem"
VIDEO_CHAIN = "chains/video.pem"
VIDEO = "video/recording.mp4"
SEGMENT = "video/manifest.json"
CLIP = "video/clip.json"
VERDICT = "verdict.json"
CHECKPOINT = "checkpoint.txt"


@dataclass(frozen=True, slots=True)
class Sealers:
    """Who signs: the operator the manifest, the log its checkpoint; chains leaf first, without the root."""

    operator: Signer
    operator_chain: Sequence[x509.Certificate]
    log: Signer
    log_chain: Sequence[x509.Certificate]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was handed out.

    Attributes:
        path: the bundle.
        manifest: its manifest.
        video: the recording's verdict at export.
        receipt: of the event `evidence.exported`.
        custody: every act in the bundle, the export itself last.
        size, sha256: the bundle.
    """

    path: Path
    manifest: BundleManifest
    video: VideoVerdict
    receipt: Receipt
    custody: tuple[Custody, ...]
    size: int
    sha256: str


def verdict_document(verdict: Verdict) -> bytes:
    """A verdict as JSON for people: outcome, axes, and each finding in English and Chinese."""
    document = {
        "outcome": verdict.outcome,
        "at": rfc3339(verdict.at),
        "axes": {axis.value: outcome.value for axis, outcome in verdict.axes.items()},
        "findings": [
            {
                "code": item.code,
                "axis": item.axis,
                "outcome": item.outcome,
                "where": item.where,
                "en": describe(item, "en"),
                "zh": describe(item, "zh"),
                "hint_en": hint(item, "en"),
                "hint_zh": hint(item, "zh"),
                "data": dict(item.data),
            }
            for item in verdict.findings
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def export(
    video: Path,
    output: Path,
    *,
    ledger: Ledger,
    sealers: Sealers,
    trust: TrustPolicy,
    clock: Clock,
    actor: Actor,
    case: str,
    reason: str = "",
    segment: Path | None = None,
    scans: KeptScans | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write the bundle of a recording, or of a clip with the record beside it; whatever its verdict is, it is stated.

    The act is in the log, durably, before the file gets its name; if anything fails, no bundle is left behind.

    Args:
        video: the recording.
        output: the bundle; must not exist.
        ledger: the site's log; gets `evidence.exported` and a new checkpoint.
        sealers: operator and log keys with their chains.
        trust: roots and revocation lists; the lists go into the bundle.
        clock: the time of the export.
        actor: who exports.
        case: case number; must not be empty.
        reason: purpose.
        segment: the recording's segment manifest; default: the one beside it, if there is one.
        scans: where the site keeps its isolation scans; those that were in force go into the bundle.
        progress: called with bytes or events done.

    Raises:
        UsageError: no case, no such file, or a key that its chain does not certify.
        RefusedError: the output exists, the recording is too large, or recording the act failed.
        FormatError: the recording cannot be read.
        SystemPartError: the disk is full; nothing is left behind.
    """
    _check(output, sealers, case)
    source = fingerprint(VIDEO, video, progress)
    beside = segment or manifest_path(video)
    envelope = read_bounded(beside, MAX_DOCUMENT) if segment is not None or beside.exists() else None
    record = read_bounded(clip_path(video), MAX_DOCUMENT) if clip_path(video).exists() else None
    clip = OpenedClip.read(record, str(clip_path(video))) if record is not None else None
    names = (source.sha256, *clip_sources(clip))
    story = story_of(ledger, source.sha256, progress, sources=names[1:])
    now = clock.now()
    signed = signed_at((item.event for item in story.acts), names)
    judged = verify(
        video,
        trust,
        signed or now,
        Expectation(manifest=envelope, clip=record),
        progress=progress,
    )
    recording = Recording(
        name=video.name,
        size=source.size,
        sha256=source.sha256,
        device=judged.device.value if judged.device else "",
        manifest_sha256=hashlib.sha256(envelope).hexdigest() if envelope is not None else "",
        clip_sha256=hashlib.sha256(record).hexdigest() if record is not None else "",
    )
    ended = ended_at(judged, signed, now)
    found = (
        in_force(ledger, story.scans, scans, ended=ended, exported=now, trust=trust, operator=sealers.operator_chain)
        if scans is not None
        else []
    )
    every = scans.every if scans is not None and found else ""
    event = Event(
        id=new_event_id(),
        kind=EXPORTED,
        time=now,
        actor=actor,
        subject=recording.device or f"sha256:{recording.sha256}",
        case=case,
        reason=reason,
        data={
            "bundle": (name := new_event_id()),
            "video_sha256": recording.sha256,
            "manifest_sha256": recording.manifest_sha256,
            **({"clip_sha256": recording.clip_sha256} if record is not None else {}),
            "video_outcome": judged.verdict.outcome.value,
            **({"scans": [item.listed.result_sha256 for item in found]} if found else {}),
            **({"scan_every": every} if every else {}),
        },
    )
    (receipt,) = ledger.record([event])
    checkpoint = ledger.publish(sealers.log)
    custody = (*story.acts, Custody(receipt.index, event))
    acts = sorted((*custody, *(act for item in found for act in item.acts)), key=lambda act: act.index)
    chain = [item.public_bytes(Encoding.PEM).decode() for item in sealers.log_chain]
    receipts = [
        Source.of(receipt_name(item.index, item.event.kind), ledger.receipt(item.index, chain)) for item in acts
    ]
    sources = [
        Source.of(OPERATOR_CHAIN, chain_pem(sealers.operator_chain)),
        Source.of(LOG_CHAIN, chain_pem(sealers.log_chain)),
        *([Source.of(VIDEO_CHAIN, chain_pem(judged.chain))] if judged.chain else []),
        *(
            Source.of(f"crls/{number:02}.crl", item.public_bytes(Encoding.DER))
            for number, item in enumerate(trust.crls)
        ),
        Source.of(CHECKPOINT, checkpoint),
        *receipts,
        Source.of(VERDICT, verdict_document(judged.verdict)),
        *(member for item in found for member in item.files),
        *([Source.of(SEGMENT, envelope)] if envelope is not None else []),
        *([Source.of(CLIP, record)] if record is not None else []),
        source,
    ]
    manifest = BundleManifest(
        id=name,
        created=rfc3339(now),
        case=case,
        reason=reason,
        operator=common_name(sealers.operator_chain[0]) or "",
        recording=recording,
        origin=ledger.origin,
        log_size=parse_checkpoint(checkpoint).size,
        members=(),
        scans=tuple(item.listed for item in found),
        scan_every=every,
    )
    sources.insert(0, Source.of(README, readme(manifest)))
    listed = tuple(Listed(item.name, item.size, item.sha256) for item in sources)
    manifest = msgspec.structs.replace(manifest, members=listed)
    sources.insert(1, Source.of(MANIFEST, manifest.seal(sealers.operator)))
    size, sha256 = _release(output, sources, progress)
    return Exported(output, manifest, judged, receipt, custody, size, sha256)


def _check(output: Path, sealers: Sealers, case: str) -> None:
    if not case.strip():
        raise UsageError("evidence.case.missing", "an export needs a case number", hint="give --case NUMBER")
    if os.path.lexists(output):
        raise RefusedError("evidence.bundle.exists", "the output exists", hint="choose another name", where=str(output))
    if not output.parent.is_dir():
        raise UsageError("evidence.bundle.folder", "no such folder", where=str(output.parent))
    for signer, chain, name in (
        (sealers.operator, sealers.operator_chain, "operator"),
        (sealers.log, sealers.log_chain, "log"),
    ):
        if not chain or key_id(chain[0].public_key()) != key_id(signer.public_key()):
            raise UsageError(
                "evidence.chain.key", f"the {name} chain does not certify the {name} key", hint="leaf first"
            )


def _release(output: Path, sources: Sequence[Source], progress: Progress) -> tuple[int, str]:
    """Write beside, fsync, rename; hard links would refuse a race, but sticks for a court are FAT and have none."""
    beside = output.with_name(f".{output.name}.{secrets.token_hex(6)}.tmp")
    try:
        with beside.open("xb") as stream:
            write_archive(stream, sources, progress)
            stream.flush()
            os.fsync(stream.fileno())
        whole = fingerprint(output.name, beside)
        if os.path.lexists(output):
            raise RefusedError("evidence.bundle.exists", "the output exists", where=str(output))
        beside.rename(output)
        fsync_directory(output.parent)
    except OSError as error:
        raise translate_os_error(error, output) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return whole.size, whole.sha256
