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
from secguard.core.clock import rfc3339

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


@command("identity.revoke", "revoke")
@click.argument("target", metavar="GBID|SERIAL")
@click.option(
    "--reason",
    type=click.Choice(_REASONS, case_sensitive=False),
    default="unspecified",
    show_default=True,
    help="CRLReason of RFC 5280.",
)
@click.option("--profile", default="", metavar="NAME", help="Of a device, only the certificates of this profile.")
@click.option("--case", default="", help="Case number that justifies the act, recorded.")
@PASSPHRASE
def revoke(ctx: Context, *, target: str, reason: str, profile: str, case: str, passphrase_file: Path | None) -> Result:
    """Revoke a certificate, or all certificates of a device, and publish the revocation lists."""
    with open_authority(ctx, passphrase_file) as (_, authority):
        rows = [certificate_row(record) for record in authority.revoke(target, reason, profile=profile, case=case)]
        result = certificate_listing("Revoked", rows)
        result.receipt = receipt_of(authority.receipts)
        result.lines = [f"revocation lists: {authority.crl_folder}"]
        return result


@command("identity.crl", "crl")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Also write all lists into one file, in PEM.")
@PASSPHRASE
def crl(ctx: Context, *, output: Path | None, passphrase_file: Path | None) -> Result:
    """Publish fresh revocation lists of all CAs."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from secguard.store import atomic_write
    from secguard.trust import read_crls

    with open_authority(ctx, passphrase_file) as (_, authority):
        paths = authority.publish_crls()
        lists = read_crls(paths)
        if output is not None:
            atomic_write(output, b"".join(item.public_bytes(Encoding.PEM) for item in lists))
        rows = [
            (
                path,
                len(item),
                rfc3339(item.last_update_utc),
                rfc3339(item.next_update_utc) if item.next_update_utc else "",
            )
            for path, item in zip(paths, lists, strict=True)
        ]
        columns = ("file", "revoked", "this_update", "next_update")
        return Result(
            data={"lists": [dict(zip(columns, row, strict=True)) for row in rows], "output": output},
            receipt=receipt_of(authority.receipts),
            tables=[Table("Revocation lists", columns, rows)],
        )
