"""Custody: which recorded acts are about one recording, and whether receipts prove a coherent story of it."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Finding, Progress, RefusedError, finding, rfc3339, silent
from secguard.events import Event, decode_stored
from secguard.evidence.manifest import BundleManifest
from secguard.ledger import CheckedReceipt, Ledger
from secguard.video.clip_record import OpenedClip

__all__ = [
    "EXPORTED",
    "SCANNED",
    "SIGNED",
    "Custody",
    "Story",
    "clip_sources",
    "compare",
    "custody_of",
    "judge_custody",
    "receipt_name",
    "signed_at",
    "story_of",
]

SIGNED = "video.signed"
SEALED = "video.sealed"
CLIPPED = "clip.made"
EXPORTED = "evidence.exported"
SCANNED = "scan.finished"
_MAX_EVENTS = 1000
_MAX_FINDINGS = 50
_MAX_SHOWN = 400


@dataclass(frozen=True, slots=True)
class Custody:
    """An act of the custody story: its place in the log, and the event."""

    index: int
    event: Event


def receipt_name(index: int, kind: str) -> str:
    """Name of a receipt in the bundle; they sort by place in the log."""
    return f"receipts/{index:012}-{kind}.json"


def clip_sources(clip: OpenedClip | None) -> tuple[str, ...]:
    """Hashes, hex, of the recordings that a clip was cut from."""
    return tuple(part.sha256 for part in clip.record.parts) if clip is not None else ()


def _mentions(event: Event, names: Sequence[str]) -> bool:
    return any(value in names for value in event.data.values() if isinstance(value, str))


def custody_of(
    ledger: Ledger, sha256: str, progress: Progress = silent, *, sources: Sequence[str] = (), also: str = ""
) -> Iterator[Custody]:
    """Every act in the log whose data name this recording, in order.

    Args:
        ledger: the log; bodies that were deleted by retention are skipped.
        sha256: the recording's hash, hex.
        sources: hashes of the recordings that it was cut from: acts that name those count too.
        progress: called with entries done.
        also: a kind of act that is wanted whatever it is about.

    Raises:
        RefusedError: more acts than a bundle can carry.
    """
    names, size, count = (sha256, *sources), ledger.size, 0
    needles = [name.encode() for name in (*names, also) if name]
    for batch in ledger.scan():
        for offset, body in enumerate(batch.bodies):
            if body is None or not any(needle in body for needle in needles):
                continue
            event = decode_stored(body)
            if event.kind != also:
                if not _mentions(event, names):
                    continue
                count += 1
                if count > _MAX_EVENTS:
                    raise RefusedError(
                        "evidence.custody.too-many",
                        f"more than {_MAX_EVENTS} acts are about this recording",
                        where=sha256,
                    )
            yield Custody(batch.first + offset, event)
        progress(batch.first + len(batch.bodies), size, "events")


@dataclass(frozen=True, slots=True)
class Story:
    """What the log holds for a bundle.

    Attributes:
        acts: on the recording, in their order.
        scans: (entry, time) of every isolation scan that ended with a verdict, labs among them, in their order.
    """

    acts: tuple[Custody, ...]
    scans: tuple[tuple[int, datetime], ...]


def story_of(ledger: Ledger, sha256: str, progress: Progress = silent, *, sources: Sequence[str] = ()) -> Story:
    """The acts on a recording and the site's isolation scans, in one pass over the log; see `custody_of`.

    Raises:
        RefusedError: more acts than a bundle can carry.
    """
    acts: list[Custody] = []
    scans: list[tuple[int, datetime]] = []
    for item in custody_of(ledger, sha256, progress, sources=sources, also=SCANNED):
        if item.event.kind == SCANNED:
            scans.append((item.index, item.event.time))
        else:
            acts.append(item)
    return Story(tuple(acts), tuple(scans))


def signed_at(events: Iterable[Event], names: Collection[str]) -> datetime | None:
    """When the log says that one of these recordings (hashes, hex) was signed last; None if it does not."""
    times = [event.time for event in events if event.kind == SIGNED and event.data.get("output_sha256") in names]
    return times[-1] if times else None


def judge_custody(
    manifest: BundleManifest,
    receipts: Sequence[CheckedReceipt],
    chain: Sequence[x509.Certificate],
    clip: OpenedClip | None = None,
    scans: Sequence[CheckedReceipt] = (),
) -> list[Finding]:
    """Judge what proven receipts say about the recording and this export of it.

    Args:
        manifest: the bundle's manifest.
        receipts: receipts that hold, in the order of the log.
        chain: the certificates that the recording's signatures name, leaf first; empty if it is not signed.
        clip: the record, if the recording is a clip: then its sources' signing counts, and its making must be known.
        scans: receipts of the isolation scans: here only their place in the order of times counts.
    """
    recording = manifest.recording
    sources = clip_sources(clip)
    findings = [
        finding("evidence.custody.foreign", _place(item), kind=item.event.kind)
        for item in receipts
        if not _mentions(item.event, (recording.sha256, *sources))
    ]
    exports = [
        item for item in receipts if item.event.kind == EXPORTED and item.event.data.get("bundle") == manifest.id
    ]
    if exports:
        findings += _export(manifest, exports[0])
    else:
        findings.append(finding("evidence.custody.export-missing", "receipts", bundle=manifest.id))
    if clip is None:
        sealed = {recording.sha256: recording.manifest_sha256}
    else:
        findings += _clipping(manifest, receipts, clip)
        sealed = {
            part.sha256: opened.sha256.hex() if opened is not None else ""
            for part, opened in zip(clip.record.parts, clip.manifests, strict=True)
        }
    for sha256, manifest_sha256 in sealed.items():
        signings = [item for item in receipts if _signs(item.event, sha256)]
        if signings:
            findings += _signing(signings[-1], recording.device, manifest_sha256, chain)
        else:
            findings.append(finding("evidence.custody.signing-missing", "receipts"))
    findings += _order([*receipts, *scans])
    return findings[:_MAX_FINDINGS]


def _signs(event: Event, sha256: str) -> bool:
    name = {SIGNED: "output_sha256", SEALED: "file_sha256"}.get(event.kind)
    return name is not None and event.data.get(name) == sha256


def _place(item: CheckedReceipt) -> str:
    return receipt_name(item.index, item.event.kind)


def compare(item: CheckedReceipt, pairs: Sequence[tuple[str, object, object]]) -> list[Finding]:
    """`evidence.custody.mismatch` for each (field, recorded, found) of an act that differs."""
    return [
        finding("evidence.custody.mismatch", _place(item), field=name, recorded=_short(recorded), found=_short(found))
        for name, recorded, found in pairs
        if recorded != found
    ]


def _short(value: object) -> str:
    return str(value)[:_MAX_SHOWN]


def _export(manifest: BundleManifest, item: CheckedReceipt) -> list[Finding]:
    event, recording = item.event, manifest.recording
    return compare(
        item,
        [
            ("case", event.case, manifest.case),
            ("reason", event.reason, manifest.reason),
            ("time", rfc3339(event.time), manifest.created),
            ("video_sha256", event.data.get("video_sha256"), recording.sha256),
            ("manifest_sha256", event.data.get("manifest_sha256"), recording.manifest_sha256),
            ("clip_sha256", event.data.get("clip_sha256", ""), recording.clip_sha256),
            ("scans", event.data.get("scans", []), [scan.result_sha256 for scan in manifest.scans]),
            ("scan_every", event.data.get("scan_every", ""), manifest.scan_every),
        ],
    )


def _clipping(manifest: BundleManifest, receipts: Sequence[CheckedReceipt], clip: OpenedClip) -> list[Finding]:
    """What the log knows of the making of a clip, against its record."""
    record = clip.record
    made = [
        item
        for item in receipts
        if item.event.kind == CLIPPED and item.event.data.get("clip_sha256") == manifest.recording.sha256
    ]
    if not made:
        return [finding("evidence.custody.clip-missing", "receipts")]
    # The same range cut twice gives the same file, with two records.
    same = [item for item in made if item.event.data.get("record_sha256") == clip.sha256.hex()]
    chosen = (same or made)[-1]
    event = chosen.event
    return compare(
        chosen,
        [
            ("record_sha256", event.data.get("record_sha256"), clip.sha256.hex()),
            ("clip", event.data.get("clip"), record.id),
            ("case", event.case, record.case),
            ("approver", event.approver, record.approver),
            ("reason", event.reason, record.reason),
        ],
    )


def _signing(
    item: CheckedReceipt, device: str, manifest_sha256: str, chain: Sequence[x509.Certificate]
) -> list[Finding]:
    event = item.event
    found = compare(item, [("manifest_sha256", event.data.get("manifest_sha256"), manifest_sha256)])
    if chain and event.kind == SIGNED:
        leaf = hashlib.sha256(chain[0].public_bytes(Encoding.DER)).hexdigest()
        found += compare(item, [("certificate_sha256", event.data.get("certificate_sha256"), leaf)])
    if event.subject != device:
        found.append(finding("evidence.custody.device", _place(item), recorded=event.subject, found=device or "-"))
    return found


def _order(receipts: Sequence[CheckedReceipt]) -> list[Finding]:
    findings: list[Finding] = []
    latest: tuple[datetime, int] | None = None
    for item in sorted(receipts, key=lambda one: one.index):
        if latest is not None and item.event.time < latest[0]:
            findings.append(
                finding(
                    "evidence.time.order",
                    _place(item),
                    time=rfc3339(item.event.time),
                    before=rfc3339(latest[0]),
                    index=latest[1],
                )
            )
        else:
            latest = (item.event.time, item.index)
    return findings
