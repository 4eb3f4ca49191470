"""`secguard identity issue` and `list`."""

from pathlib import Path

import click

from secguard.cli.frame import Context, Result, command
from secguard.cli.identity.common import (
    FILE,
    FOLDER,
    PASSPHRASE,
    certificate_listing,
    certificate_row,
    issued_result,
    open_authority,
)

__all__ = ["issue", "list_"]


@command("identity.issue", "issue")
@click.argument("holder", metavar="GBID")
@click.option(
    "--profile", required=True, metavar="NAME", help="A profile of certs/: camera, nvr, platform, operator ..."
)
@click.option("-o", "--output", type=FOLDER, metavar="DIR", help="[default: state/identity/devices/GBID]")
@click.option("--csr", type=FILE, help="Certify the key of this request instead of making one.")
@click.option("--name", default="", metavar="TEXT", help="What people call the device, for the register.")
@click.option(
    "--vendor-serial", default="", metavar="SN", help="The maker's serial number, for register and certificate."
)
@PASSPHRASE
def issue(
    ctx: Context,
    *,
    holder: str,
    profile: str,
    output: Path | None,
    csr: Path | None,
    name: str,
    vendor_serial: str,
    passphrase_file: Path | None,
) -> Result:
    """Issue a certificate to a device (GBID) or, with a profile for names, to a person or service.

    A camera also gets a media signing certificate with a key of its own. Asking again gives the same certificate again.
    """
    from secguard.core.limits import MAX_PEM, read_bounded
    from secguard.identity import Request

    request = Request(
        holder,
        profile,
        folder=output,
        csr=read_bounded(csr, MAX_PEM) if csr is not None else None,
        name=name,
        vendor_serial=vendor_serial,
    )
    with open_authority(ctx, passphrase_file) as (_, authority):
        issued = authority.issue([request])
        companions = authority.profiles[profile].companions
        result = issued_result(issued, authority)
        if csr is not None and companions:
            result.lines = [*result.lines, f"not issued along with a request: {', '.join(companions)}"]
        return result


@command("identity.list", "list")
@click.option("--profile", default="", metavar="NAME", help="Only certificates of this profile.")
@click.option("--status", default="", metavar="STATUS", help="Only: active, expired, superseded, revoked, reserved ...")
def list_(ctx: Context, *, profile: str, status: str) -> Result:
    """List all certificates of the register."""
    with ctx.workspace() as ws:
        now = ws.clock.now()
        rows = [certificate_row(record, now) for record in ws.registry.certificates()]
    rows = [r for r in rows if profile in {"", r["profile"]} and status in {"", r["status"]}]
    return certificate_listing("Certificates", rows)
