"""`secguard ledger`: verify the log, hand out receipts and check them, publish checkpoints."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.core.errors import RefusedError, SystemPartError, UsageError
from secguard.core.findings import finding
from secguard.core.verdict import Axis, Finding, Outcome, judge

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from secguard.core.verdict import Verdict
    from secguard.ledger import NoteKey
    from secguard.report import Report
    from secguard.trust import TrustPolicy

__all__ = ["ledger"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def ledger() -> None:
    """The tamper-evident log under everything."""


_root = click.option("--root", type=_FILE, help="Root certificate(s), PEM.  [default: the workspace's]")
_crl = click.option("--crl", type=_FILE, multiple=True, help="Revocation list, PEM or DER (repeatable).")
_vkey = click.option(
    "--key", "vkeys", multiple=True, metavar="VKEY", help="Log key as a note verifier key (repeatable)."
)
_moment = click.option("--at", "moment", metavar="TIME", help="Judge certificates for this time.  [default: now]")
_passphrase = click.option("--passphrase-file", type=_FILE, help="Opens the log's key.")


def _certified(
    policy: "TrustPolicy", chain: "list[x509.Certificate]", at: "datetime"
) -> "tuple[list[NoteKey], list[Finding], set[Axis]]":
    """The key that a certificate of purpose `log` names, with what was found and examined on the way."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from secguard.ledger import NoteKey
    from secguard.trust import Purpose, common_name

    judgement = policy.judge_chain(chain, Purpose.LOG, at)
    keys = []
    if judgement.believed and judgement.leaf is not None:
        key, name = judgement.leaf.public_key(), common_name(judgement.leaf)
        if name and isinstance(key, Ed25519PublicKey):
            keys.append(NoteKey(name, key))
    return keys, list(judgement.findings), set(judgement.examined)


@command("ledger.verify", "verify")
@_root
@_vkey
@_moment
def verify_(ctx: Context, *, root: Path | None, vkeys: tuple[str, ...], moment: str | None) -> Result:
    """Verify the whole log: bodies, entries, tiles, journal, checkpoint and anchor.

    Exit code 0: all of it holds; 1: something was changed or is missing; 3: something could not be proven.
    """
    from secguard.core.clock import parse_time
    from secguard.ledger import NoteKey, verify_log

    with ctx.workspace() as ws:
        at = parse_time(moment) if moment else ws.clock.now()
        keys = [NoteKey.parse(text) for text in vkeys]
        findings: list[Finding] = []
        if not keys:
            # Without an authority, or on a read-only disk, the log can be verified all the same, but for who signed it.
            with contextlib.suppress(UsageError, SystemPartError):
                keys, findings, _ = _certified(ws.trust(root), ws.log_chain(), at)
        verdict = verify_log(ws.state / "ledger", keys, at=at, progress=ctx.progress("verifying the ledger"))
        data = {"origin": ws.ledger.origin, "size": ws.ledger.size, "keys": [key.vkey() for key in keys]}
    if findings:
        examined = [axis for axis, outcome in verdict.axes.items() if outcome is not Outcome.UNKNOWN]
        together = (*verdict.findings, *findings)
        verdict = judge(verdict.subject, at, examined=examined, findings=together, default=verdict.required)
    return Result.of(verdict, data=data, lines=[verdict.subject], report=lambda _: _report(verdict, data))


def _report(verdict: "Verdict", data: dict[str, Any]) -> "Report":
    from secguard.report import Code, Report, Text

    facts = [
        (Text("log", "日志"), Code(data["origin"])),
        (Text("entries", "条目数"), data["size"]),
        *((Text("log key", "日志公钥"), Code(key)) for key in data["keys"]),
    ]
    return Report.of(verdict, Text("Ledger verification", "账本验证"), facts=facts)


@command("ledger.checkpoint", "checkpoint")
@_passphrase
def checkpoint_(ctx: Context, *, passphrase_file: Path | None) -> Result:
    """Sign a checkpoint of everything recorded, and keep it here and at the anchor."""
    from secguard.ledger import parse_checkpoint

    with ctx.workspace() as ws:
        note = ws.publish(passphrase_file)
        signed = parse_checkpoint(note)
        anchor = ws.ledger.anchor
    data = {"origin": signed.origin, "size": signed.size, "root": signed.root, "anchor": anchor, "note": note.decode()}
    return Result(data=data, lines=[f"{signed.origin}: {signed.size} entries signed, root {signed.root.hex()[:16]}…"])


@command("ledger.prove", "prove")
@click.argument("event", metavar="EVENT_ID|INDEX")
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="Where the receipt goes.")
@_passphrase
def prove_(ctx: Context, *, event: str, output: Path, passphrase_file: Path | None) -> Result:
    """Write a receipt that proves, offline, that an event is in the log.

    A checkpoint is published first when none covers the event yet.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from secguard.core.files import atomic_write
    from secguard.ledger import parse_checkpoint
    from secguard.trust import chain_pem, read_crls

    with ctx.workspace() as ws:
        log = ws.ledger
        index = log.find(event)
        if index is None and event.isascii() and event.isdigit() and len(event) < 19:
            index = int(event)
        if index is None:
            raise UsageError(
                "ledger.event.unknown", f"no event {event[:80]!r} in the log", hint="secguard audit search"
            )
        note = log.checkpoint()
        if note is None or parse_checkpoint(note).size <= index < log.size:
            ws.publish(passphrase_file)
        chain = ws.log_chain()
        issuers = {certificate.issuer for certificate in chain}  # the list of a city's cameras is no part of a receipt
        crls = [crl.public_bytes(Encoding.DER) for crl in read_crls(ws.crl_paths()) if crl.issuer in issuers]
        receipt = log.receipt(index, [chain_pem([certificate]).decode() for certificate in chain], crls)
        record = log.event(index)
    atomic_write(output, receipt)
    data = {"file": output, "index": index, "event_id": record.id, "bytes": len(receipt)}
    return Result(data=data, lines=[f"{output}: entry {index}, {record.kind} {record.subject}"])


@command("ledger.check-receipt", "check-receipt")
@click.argument("file", type=_FILE)
@_root
@_crl
@_vkey
@_moment
def check_receipt_(
    ctx: Context,
    *,
    file: Path,
    root: Path | None,
    crl: tuple[Path, ...],
    vkeys: tuple[str, ...],
    moment: str | None,
) -> Result:
    """Check a receipt, completely offline: the root certificate is all that it takes.

    Exit code 0: it holds; 1: it was changed, or its key is not the log's; 3: not all could be proven, for example
    because the revocation list in it is older than --at.
    """
    from secguard.core.clock import SystemClock, parse_time, rfc3339
    from secguard.core.limits import read_bounded
    from secguard.ledger import NoteKey, check_receipt, receipt_chain, receipt_crls, receipt_origin
    from secguard.ledger.receipts import MAX_RECEIPT
    from secguard.trust import TrustPolicy, parse_certificates, parse_crls, read_certificates, read_crls

    data = read_bounded(file, MAX_RECEIPT)
    origin = receipt_origin(data, str(file))
    at = parse_time(moment) if moment else SystemClock().now()
    keys = [NoteKey.parse(text) for text in vkeys]
    findings: list[Finding] = []
    examined = {Axis.PROVENANCE} if keys else set()
    default = [Axis.INTEGRITY, Axis.PROVENANCE] if keys else [Axis.INTEGRITY, Axis.PROVENANCE, Axis.REVOCATION]
    if not keys:
        if root is None:
            site = ctx.workspace_or_none()
            if site is None:
                raise UsageError("ledger.receipt.root", "no root certificate to believe", hint="give --root CA.pem")
            root = site.root_certificate
        roots = read_certificates(root)
        carried = [item for blob in receipt_crls(data, str(file)) for item in parse_crls(blob, str(file))]
        pem = "".join(receipt_chain(data, str(file))).encode()
        chain = parse_certificates(pem, str(file)) if pem else []
        keys, findings, examined = _certified(TrustPolicy(roots, [*carried, *read_crls(crl)]), chain, at)
    values: dict[str, Any] = {"origin": origin}
    tables = []
    try:
        if keys:
            checked = check_receipt(data, keys, str(file))
            event = checked.event
            examined.add(Axis.INTEGRITY)
            values |= {"index": checked.index, "size": checked.size, "event": event}
            rows = [
                ("event", event.id),
                ("kind", event.kind),
                ("time (claimed)", rfc3339(event.time)),
                ("actor", f"{event.actor.name} ({event.actor.assurance})"),
                ("subject", event.subject),
                ("case", event.case),
                ("entry", f"{checked.index} of {checked.size} in {origin}"),
            ]
            tables.append(Table("", ("the receipt proves", ""), rows))
    except RefusedError as error:
        findings.append(finding("ledger.receipt.invalid", str(file), reason=error.message))
    verdict = judge(str(file), at, examined=examined, findings=findings, default=default)
    return Result.of(verdict, data=values, tables=tables)


for _command in (verify_, prove_, check_receipt_, checkpoint_):
    ledger.add_command(_command)
