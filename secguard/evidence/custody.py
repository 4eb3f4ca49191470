"""Custody: which recorded acts are about one recording, and whether receipts prove a coherent story of it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Finding, Progress, RefusedError, finding, rfc3339, silent
from secguard.events import Event, decode_stored
from secguard.evidence.manifest import BundleManifest
from secguard.ledger import CheckedReceipt, Ledger

__all__ = ["EXPORTED", "SIGNED", "Custody", "custody_of", "judge_custody", "receipt_name"]

SIGNED = "video.signed"
EXPORTED = "evidence.exported"
_MAX_EVENTS = 1000
_MAX_FINDINGS = 50


@dataclass(frozen=True, slots=True)
class Custody:
    """An act of the custody story: its place in the log, and the event."""

    index: int
    event: Event


def receipt_name(index: int, kind: str) -> str:
    """Name of a receipt in the bundle; they sort by place in the log."""
    return f"receipts/{index:012}-{kind}.json"


def _mentions(event: Event, sha256: str) -> bool:
    return any(value == sha256 for value in event.data.values())


def custody_of(ledger: Ledger, sha256: str, progress: Progress = silent) -> Iterator[Custody]:
    """Every act in the log whose data name this recording, in order.

    Args:
        ledger: the log; bodies that were deleted by retention are skipped.
        sha256: the recording's hash, hex.
        progress: called with entries done.

    Raises:
        RefusedError: more acts than a bundle can carry.
    """
    needle, size, count = sha256.encode(), ledger.size, 0
    for batch in ledger.scan():
        for offset, body in enumerate(batch.bodies):
            if body is None or needle not in body:
                continue
            event = decode_stored(body)
            if not _mentions(event, sha256):
                continue
            count += 1
            if count > _MAX_EVENTS:
                raise RefusedError(
                    "evidence.custody.too-many", f"more than {_MAX_EVENTS} acts are about this recording", where=sha256
                )
            yield Custody(batch.first + offset, event)
        progress(batch.first + len(batch.bodies), size, "events")


def judge_custody(
    manifest: BundleManifest, receipts: Sequence[CheckedReceipt], chain: Sequence[x509.Certificate]
) -> list[Finding]:
    """Judge what proven receipts say about the recording and this export of it.

    Args:
        manifest: the bundle's manifest.
        receipts: receipts that hold, in the order of the log.
        chain: the certificates that the recording's signatures name, leaf first; empty if it is not signed.
    """
    recording = manifest.recording
    findings = [
        finding("evidence.custody.foreign", _place(item), kind=item.event.kind)
        for item in receipts
        if not _mentions(item.event, recording.sha256)
    ]
    exports = [
        item for item in receipts if item.event.kind == EXPORTED and item.event.data.get("bundle") == manifest.id
    ]
    signings = [item for item in receipts if _signs(item.event, recording.sha256)]
    if exports:
        findings += _export(manifest, exports[0])
    else:
        findings.append(finding("evidence.custody.export-missing", "receipts", bundle=manifest.id))
    if signings:
        findings += _signing(manifest, signings[-1], chain)
    else:
        findings.append(finding("evidence.custody.signing-missing", "receipts"))
    findings += _order(receipts)
    return findings[:_MAX_FINDINGS]


def _signs(event: Event, sha256: str) -> bool:
    return event.kind == SIGNED and event.data.get("output_sha256") == sha256


def _place(item: CheckedReceipt) -> str:
    return receipt_name(item.index, item.event.kind)


def _compare(item: CheckedReceipt, pairs: Sequence[tuple[str, object, object]]) -> list[Finding]:
    return [
        finding("evidence.custody.mismatch", _place(item), field=name, recorded=str(recorded), found=str(found))
        for name, recorded, found in pairs
        if recorded != found
    ]


def _export(manifest: BundleManifest, item: CheckedReceipt) -> list[Finding]:
    event, recording = item.event, manifest.recording
    return _compare(
        item,
        [
            ("case", event.case, manifest.case),
            ("reason", event.reason, manifest.reason),
            ("time", rfc3339(event.time), manifest.created),
            ("video_sha256", event.data.get("video_sha256"), recording.sha256),
            ("manifest_sha256", event.data.get("manifest_sha256"), recording.manifest_sha256),
        ],
    )


def _signing(manifest: BundleManifest, item: CheckedReceipt, chain: Sequence[x509.Certificate]) -> list[Finding]:
    event, recording = item.event, manifest.recording
    found = _compare(item, [("manifest_sha256", event.data.get("manifest_sha256"), recording.manifest_sha256)])
    if chain:
        leaf = hashlib.sha256(chain[0].public_bytes(Encoding.DER)).hexdigest()
        found += _compare(item, [("certificate_sha256", event.data.get("certificate_sha256"), leaf)])
    if event.subject != recording.device:
        found.append(
            finding("evidence.custody.device", _place(item), recorded=event.subject, found=recording.device or "-")
        )
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
