"""`secguard evidence`: export a recording as a bundle, and verify one; each command is one call of the library."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.evidence_clip import clip_
from secguard.cli.frame import Context, Result, Table, act_options, command, require_option
from secguard.core.clock import parse_time, rfc3339
from secguard.core.errors import UsageError
from secguard.core.verdict import Axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secguard.evidence import JudgedScan
    from secguard.evidence.manifest import ListedScan
    from secguard.ledger import CheckedReceipt

__all__ = ["evidence"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_CUSTODY = ("entry", "time", "act", "actor", "case", "reason")


@click.group()
def evidence() -> None:
    """Export and verify evidence bundles."""


@command("evidence.export", "export")
@click.argument("file", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, metavar="BUNDLE.zip", help="The bundle; must not exist.")
@click.option("--manifest", type=_FILE, help="Segment manifest.  [default: FILE.manifest.json, if it is there]")
@click.option("--operator", metavar="NAME", help="Whose certificate signs.  [default: yours, or the site's only one]")
@click.option("--passphrase-file", type=_FILE, help="Opens the keys (mode 0600).")
@act_options
def export_(
    ctx: Context,
    *,
    file: Path,
    output: Path,
    manifest: Path | None,
    operator: str | None,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Hand out the recording FILE as one zip that anyone verifies offline with the root certificate alone.

    The export is recorded in the ledger, and the ledger's checkpoint is published, before the bundle gets its name.
    Whatever the recording's own verdict is, the bundle states it. The last isolation scans before the recording ended
    and before the export are put in, too.
    """
    from secguard.evidence import export

    del yes  # nothing is asked
    with ctx.workspace() as ws:
        done = export(
            file,
            output,
            ledger=ws.ledger,
            sealers=ws.sealers(passphrase_file, operator),
            trust=ws.trust(),
            clock=ws.clock,
            actor=ws.actor(),
            case=case,
            reason=reason,
            segment=manifest,
            scans=ws.kept_scans(),
            progress=ctx.progress(f"exporting {file.name}"),
        )
    recording = done.manifest.recording
    return Result(
        data={
            "bundle": done.path,
            "id": done.manifest.id,
            "size": done.size,
            "sha256": done.sha256,
            "recording": recording,
            "video_outcome": done.video.verdict.outcome,
            "custody": [{"index": item.index, "kind": item.event.kind, "id": item.event.id} for item in done.custody],
            "scans": done.manifest.scans,
            "members": done.manifest.members,
        },
        receipt={"event_id": done.receipt.event_id, "index": done.receipt.index, "origin": done.receipt.origin},
        findings=done.video.verdict.findings,
        lines=[
            f"{done.path}: {len(done.manifest.members) + 1} files, {done.size:,} bytes, SHA-256 {done.sha256}",
            f"the recording is judged {done.video.verdict.outcome}; {len(done.custody)} acts of its custody are proven",
            *_scans(done.manifest.scans),
            "hand over the root certificate by another way than the bundle",
        ],
    )


def _scans(scans: "Sequence[ListedScan]") -> list[str]:
    """What the bundle says of isolation, in a line or two."""
    if not scans:
        return ["no isolation scan is recorded: the bundle says nothing of zones"]
    lines = []
    for scan in scans:
        when = " and before ".join(
            {"recording": "the recording ended", "export": "the export"}[n] for n in scan.in_force
        )
        missing = "" if scan.kept else "; its result is not kept, so that only the record of it is in the bundle"
        lines.append(f"the last isolation scan before {when}: {scan.recorded}, {scan.outcome}{missing}")
    return lines


def _row(item: "CheckedReceipt") -> tuple[Any, ...]:
    event = item.event
    return (item.index, rfc3339(event.time), event.kind, event.actor.name, event.case, event.reason)


def _scan(item: "JudgedScan") -> dict[str, Any]:
    listed, result = item.listed, item.result
    return {
        "in_force": listed.in_force,
        "entry": listed.finished,
        "recorded": listed.recorded,
        "outcome": item.outcome,
        "findings": item.kinds,
        "signer": item.signer or None,
        "result_sha256": listed.result_sha256,
        "run": result.run if result else None,
        "plan": result.plan if result else None,
        "policy": result.policy if result else None,
    }


@command("evidence.verify", "verify")
@click.argument("bundle", type=_FILE)
@click.option("--root", type=_FILE, help="Root certificate(s), PEM.  [default: the workspace's]")
@click.option("--crl", type=click.Path(path_type=Path), multiple=True, help="Newer revocation list (repeatable).")
@click.option(
    "--at",
    "moment",
    metavar="TIME",
    help="Judge certificates for this time.  [default: the signing and the export, as the log vouches for them]",
)
@require_option
def verify_(
    ctx: Context,
    *,
    bundle: Path,
    root: Path | None,
    crl: tuple[Path, ...],
    moment: str | None,
    require: tuple[Axis, ...],
) -> Result:
    """Judge the BUNDLE offline, from the root certificate alone: every byte, file, signature, receipt and frame.

    Exit code 0: everything holds; 1: something was changed or is wrong, and is named; 3: something cannot be judged.
    Whether isolation scans found the site's zones apart stands on the axis conformance, which decides only where
    --require names it.
    """
    from secguard.evidence import bundle_report, verify_bundle
    from secguard.trust import read_certificates, read_crls

    at = parse_time(moment) if moment else None
    ws = ctx.workspace_or_none()
    try:
        anchor = root or (ws.root_certificate if ws is not None else None)
        if anchor is None:
            raise UsageError("evidence.verify.root", "no root certificate to believe", hint="give --root CA.pem")
        answer = verify_bundle(
            bundle,
            read_certificates(anchor),
            at,
            crls=read_crls(crl),
            require=require,
            progress=ctx.progress(f"verifying {bundle.name}"),
        )
        receipt = None
        if ws is not None:
            subject = answer.manifest.recording.device if answer.manifest else ""
            recorded = ws.record(
                "evidence.verified",
                subject,
                data={
                    "bundle_sha256": answer.sha256,
                    "video_sha256": answer.manifest.recording.sha256 if answer.manifest else "",
                    "outcome": answer.verdict.outcome.value,
                },
            )
            receipt = {"event_id": recorded.event_id, "index": recorded.index, "origin": recorded.origin}
    finally:
        if ws is not None:
            ws.close()
    rows = [_row(item) for item in answer.custody]
    manifest = answer.manifest
    return Result.of(
        answer.verdict,
        data={
            "sha256": answer.sha256,
            "id": manifest.id if manifest else None,
            "case": manifest.case if manifest else None,
            "recording": manifest.recording if manifest else None,
            "time_source": answer.source or "stated",
            "video_outcome": answer.video.verdict.outcome if answer.video else None,
            "custody": [dict(zip(_CUSTODY, row, strict=True)) for row in rows],
            "scans": [_scan(item) for item in answer.scans],
            "members": [{"name": name, "size": size, "sha256": sha256} for name, size, sha256 in answer.members],
        },
        receipt=receipt,
        tables=[Table("custody, in the order of the log", _CUSTODY, rows)] if rows else [],
        report=lambda _: bundle_report(answer),
    )


evidence.add_command(export_)
evidence.add_command(clip_)
evidence.add_command(verify_)
