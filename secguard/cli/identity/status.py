"""`secguard identity revoke` and `crl`: ending certificates, and saying so."""

from pathlib import Path

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.common import (
    FILE,
    PASSPHRASE,
    certificate_listing,
    certificate_row,
    open_authority,
    receipt_of,
)

__all__ = ["crl", "revoke"]

_REASONS = (
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
    "aACompromise",
)


_SHOWN = 100
"""Rows shown to people; a fleet's are counted."""


@command("identity.revoke", "revoke")
@click.argument("targets", metavar="[GBID|SERIAL|CA]...", nargs=-1)
@click.option("--file", "file", type=FILE, metavar="LIST", help="Revoke many: a line each, TARGET[,REASON[,SINCE]].")
@click.option(
    "--reason",
    type=click.Choice(_REASONS, case_sensitive=False),
    default="unspecified",
    show_default=True,
    help="CRLReason of RFC 5280.",
)
@click.option("--since", metavar="TIME", help="When the key stopped being trustworthy, if before now (invalidityDate).")
@click.option("--profile", default="", metavar="NAME", help="Of a device, only the certificates of this profile.")
@click.option("--case", default="", help="Case number that justifies the act, recorded.")
@PASSPHRASE
def revoke(
    ctx: Context,
    *,
    targets: tuple[str, ...],
    file: Path | None,
    reason: str,
    since: str | None,
    profile: str,
    case: str,
    passphrase_file: Path | None,
) -> Result:
    """Revoke certificates, by serial number, device or CA, and publish the revocation lists that change.

    All are looked up before anything is changed. Revoking what is revoked already changes nothing.
    """
    from collections import Counter

    from secguard.core import UsageError, parse_time
    from secguard.identity.status.revoke import Revocation, read_revocations

    if not targets and file is None:
        raise UsageError("cli.argument.missing", "nothing to revoke", hint="name certificates, or give --file LIST")
    at = parse_time(since) if since else None
    wanted = [Revocation(target, reason, at) for target in targets]
    if file is not None:
        wanted += read_revocations(file, reason, at)
    with open_authority(ctx, passphrase_file) as (_, authority):
        records = authority.revoke_all(wanted, profile=profile, case=case)
        rows = [certificate_row(record) for record in records]
        result = certificate_listing("Revoked", rows)
        if len(rows) > _SHOWN:
            counted = sorted(Counter((row["issuer"], row["profile"], row["reason"]) for row in rows).items())
            table = [(*what, number) for what, number in counted]
            result.tables = [Table("Revoked", ("issuer", "profile", "reason", "certificates"), table)]
        result.receipt = receipt_of(authority.receipts)
        others = [record for record in records if record.reason != reason]
        if file is None and others:
            result.lines = [f"revoked before as {others[0].reason} at {others[0].revoked}: that stands"]
        result.lines = [*result.lines, f"revocation lists: {authority.crl_folder}"]
        return result


@command("identity.crl", "crl")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Also write all lists into one file, in PEM.")
@click.option("--all", "every", is_flag=True, help="Publish all lists, made anew from the register.")
@PASSPHRASE
def crl(ctx: Context, *, output: Path | None, every: bool, passphrase_file: Path | None) -> Result:
    """Publish the revocation lists that changed, are missing, or have lived half their time. For a timer."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from secguard.identity.status.publish import publish
    from secguard.store import atomic_write

    with open_authority(ctx, passphrase_file) as (_, authority):
        lists = publish(authority, every=every)
        if output is not None:
            crls = [x509.load_der_x509_crl(item.path.read_bytes()) for item in lists]
            atomic_write(output, b"".join(item.public_bytes(Encoding.PEM) for item in crls))
        rows = []
        for item in lists:
            state = item.state
            rows.append((item.path, state.entries, state.number, state.this_update, state.next_update, item.new))
        columns = ("file", "revoked", "number", "this_update", "next_update", "published")
        data = [dict(zip(columns, row, strict=True)) for row in rows]
        return Result(
            data={"lists": data, "published": sum(item.new for item in lists), "output": output},
            receipt=receipt_of(authority.receipts),
            tables=[Table("Revocation lists", columns, rows)],
        )
