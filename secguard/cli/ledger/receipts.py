"""`secguard ledger prove` and `check-receipt`: one event, proven offline."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.ledger.common import (
    FILE,
    at_option,
    certified,
    crl_option,
    passphrase_option,
    root_option,
    vkey_option,
)
from secguard.cli.ledger.publish import cosigned_result
from secguard.core.errors import RefusedError, UsageError
from secguard.core.findings import finding
from secguard.core.verdict import Axis, Finding, judge

if TYPE_CHECKING:
    from secguard.ledger.witness import Cosignature, WitnessKey
    from secguard.trust import TrustPolicy
    from secguard.workspace import Workspace
    from secguard.workspace.witnesses import Cosigned

__all__ = ["check_receipt_", "prove_"]


@command("ledger.prove", "prove")
@click.argument("event", metavar="EVENT_ID|INDEX")
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help="Where the receipt goes.")
@passphrase_option
def prove_(ctx: Context, *, event: str, output: Path, passphrase_file: Path | None) -> Result:
    """Write a receipt that proves, offline, that an event is in the log.

    A checkpoint is published first when none covers the event yet; where witnesses are configured and too few have
    cosigned it, they are asked. Exit code 3: fewer than the quorum have.
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
        asked = _cosigned(ws)
        chain, witnesses = ws.log_chain(), [list(one) for one in ws.witnesses().chains] if asked is not None else []
        # The list of a city's cameras is no part of a receipt.
        issuers = {certificate.issuer for one in (chain, *witnesses) for certificate in one}
        crls = [crl.public_bytes(Encoding.DER) for crl in read_crls(ws.crl_paths()) if crl.issuer in issuers]
        texts = [[chain_pem([certificate]).decode() for certificate in one] for one in (chain, *witnesses)]
        receipt = log.receipt(index, texts[0], crls, texts[1:])
        record = log.event(index)
    atomic_write(output, receipt)
    data = {"file": output, "index": index, "event_id": record.id, "bytes": len(receipt)}
    line = ctx.say(
        f"{output}: entry {index}, {record.kind} {record.subject}",
        f"{output}：条目 {index}，{record.kind} {record.subject}",
    )
    return cosigned_result(ctx, asked, data, line) if asked is not None else Result(data=data, lines=[line])


def _cosigned(ws: "Workspace") -> "Cosigned | None":
    """The last checkpoint's cosignatures; asked for where they are fewer than wanted. None without witnesses."""
    from secguard.ledger.witness import cosignatures
    from secguard.workspace.witnesses import Cosigned

    if not ws.config.ledger.witnesses:
        return None
    witnesses = ws.witnesses()
    note = ws.ledger.checkpoint() or b""
    given = cosignatures(note, witnesses.keys) if note else []
    if len(given) < max(1, witnesses.quorum):
        return ws.ask_witnesses()
    return Cosigned(note, (), given, witnesses.findings, False)


@command("ledger.check-receipt", "check-receipt")
@click.argument("file", type=FILE)
@root_option
@crl_option
@vkey_option
@click.option(
    "--witness-key",
    "witness_keys",
    multiple=True,
    metavar="VKEY",
    help="Key of a witness that is believed (repeatable).",
)
@click.option("--quorum", type=click.IntRange(0, 64), default=0, help="How many believed witnesses must have cosigned.")
@at_option
def check_receipt_(
    ctx: Context,
    *,
    file: Path,
    root: Path | None,
    crl: tuple[Path, ...],
    vkeys: tuple[str, ...],
    witness_keys: tuple[str, ...],
    quorum: int,
    moment: str | None,
) -> Result:
    """Check a receipt, completely offline: the root certificate is all that it takes.

    Cosignatures count where the root certifies the witness, or --witness-key names it.

    Exit code 0: it holds; 1: it was changed, or its key is not the log's; 3: not all could be proven, for example
    because the revocation list in it is older than --at.
    """
    from secguard.core.clock import SystemClock, parse_time, rfc3339
    from secguard.core.limits import read_bounded
    from secguard.ledger import NoteKey, check_receipt, receipt_chain, receipt_crls, receipt_origin
    from secguard.ledger.receipts import MAX_RECEIPT
    from secguard.ledger.witness import WitnessKey
    from secguard.trust import TrustPolicy, parse_certificates, parse_crls, read_certificates, read_crls

    data = read_bounded(file, MAX_RECEIPT)
    origin = receipt_origin(data, str(file))
    at = parse_time(moment) if moment else SystemClock().now()
    keys = [NoteKey.parse(text) for text in vkeys]
    believed = [WitnessKey.parse(text) for text in witness_keys]
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
        policy = TrustPolicy(roots, [*carried, *read_crls(crl)])
        keys, findings, examined = certified(policy, chain, at)
        believed += _certified_witnesses(policy, data, str(file), at)
    values: dict[str, Any] = {"origin": origin, "cosignatures": []}
    tables = []
    try:
        if keys:
            checked = check_receipt(data, keys, str(file))
            event = checked.event
            examined.add(Axis.INTEGRITY)
            values |= {"index": checked.index, "size": checked.size, "event": event}
            given = _cosignatures(data, believed, quorum, str(file), findings)
            values["cosignatures"] = [{"name": item.name, "time": item.time} for item in given]
            if quorum:
                default.append(Axis.COMPLETENESS)
                examined.add(Axis.COMPLETENESS)
            rows = [
                (ctx.say("event", "事件编号"), event.id),
                (ctx.say("kind", "操作"), event.kind),
                (ctx.say("time (claimed)", "时间（来源自述）"), rfc3339(event.time)),
                (ctx.say("actor", "用户"), f"{event.actor.name} ({event.actor.assurance})"),
                (ctx.say("subject", "对象"), event.subject),
                (ctx.say("case", "案件号"), event.case),
                (
                    ctx.say("entry", "账本条目"),
                    ctx.say(
                        f"{checked.index} of {checked.size} in {origin}",
                        f"{origin} 共 {checked.size} 条，序号 {checked.index}",
                    ),
                ),
                *((ctx.say("cosigned by", "联署") + f" {item.name}", rfc3339(item.time)) for item in given),
            ]
            tables.append(Table("", (ctx.say("the receipt proves", "回执所证明的事项"), ""), rows))
    except RefusedError as error:
        findings.append(finding("ledger.receipt.invalid", str(file), reason=error.message))
    verdict = judge(str(file), at, examined=examined, findings=findings, default=default)
    return Result.of(verdict, data=values, tables=tables)


def _certified_witnesses(policy: "TrustPolicy", data: bytes, where: str, at: datetime) -> "list[WitnessKey]":
    """Keys of the witnesses in the receipt that the root certifies; what it does not certify counts for nothing."""
    from secguard.ledger import receipt_witnesses
    from secguard.ledger.witness import WitnessKey
    from secguard.trust import Purpose, parse_certificates

    chains = [parse_certificates("".join(chain).encode(), where) for chain in receipt_witnesses(data, where) if chain]
    return [WitnessKey(key.name, key.public_key) for key in policy.log_keys(chains, at, Purpose.WITNESS).keys]


def _cosignatures(
    data: bytes, keys: "Sequence[WitnessKey]", quorum: int, where: str, findings: list[Finding]
) -> "list[Cosignature]":
    from secguard.ledger import receipt_checkpoint
    from secguard.ledger.witness import cosignatures

    try:
        given = cosignatures(receipt_checkpoint(data, where), keys, where)
    except RefusedError as error:
        findings.append(finding("ledger.cosignature.invalid", where, reason=error.message))
        return []
    if len(given) < quorum:
        findings.append(finding("ledger.witness.quorum", where, have=len(given), need=quorum))
    return given
