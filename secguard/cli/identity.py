"""`secguard identity`: the CA, certificates and their holders; each command is one call of `secguard.identity`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity_verify import verify
from secguard.core.clock import rfc3339
from secguard.core.errors import SecguardError, UsageError

if TYPE_CHECKING:
    from secguard.events import Receipt
    from secguard.identity import Authority, CertificateRecord, Issued
    from secguard.workspace import Workspace

__all__ = ["identity"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_PASSPHRASE = click.option("--passphrase-file", type=_FILE, help="Opens the keys (mode 0600).")
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


@click.group()
def identity() -> None:
    """Device certificates: issue, verify, revoke."""


@identity.group()
def ca() -> None:
    """The site's certificate authorities."""


@identity.group()
def device() -> None:
    """The register of devices."""


def _receipt(receipts: "Sequence[Receipt]") -> dict[str, Any] | None:
    if not receipts:
        return None
    last = receipts[-1]
    return {"event_id": last.event_id, "index": last.index, "origin": last.origin}


def _ask() -> str:
    return str(click.prompt("Passphrase of the keys", hide_input=True, err=True))


@contextmanager
def _authority(ctx: Context, passphrase_file: Path | None) -> "Iterator[tuple[Workspace, Authority]]":
    with ctx.workspace() as ws:
        authority = ws.authority(passphrase_file)
        if authority.passphrase is None and sys.stdin.isatty():
            authority.passphrase = _ask().encode()
        yield ws, authority


@command("identity.ca.init", "init")
@click.option("--name", default="", metavar="TEXT", help="Start of the CAs' names.  [default: organisation and area]")
@click.option(
    "--operator", default="", metavar="NAME", help="Name in the operator's certificate.  [default: your user]"
)
@click.option("--yes", is_flag=True, help="Do not ask; make a passphrase in state/passphrase if none is given.")
@_PASSPHRASE
def ca_init(ctx: Context, *, name: str, operator: str, yes: bool, passphrase_file: Path | None) -> Result:
    """Make the root, the issuing CAs, the ledger's key, an operator's key and the first revocation lists."""
    from secguard.keys import make_passphrase

    with ctx.workspace() as ws:
        passphrase = ws.passphrase(passphrase_file)
        made: Path | None = None
        if passphrase is None and yes:
            made = ws.state / "passphrase"
            passphrase = make_passphrase(made)
        elif passphrase is None and sys.stdin.isatty():
            answer = click.prompt("New passphrase for the keys", hide_input=True, confirmation_prompt=True, err=True)
            passphrase = str(answer).encode()
        if passphrase is None:
            raise UsageError(
                "keys.passphrase.missing",
                "no passphrase for the new keys",
                hint="give --passphrase-file FILE, or --yes to have one made",
            )
        try:
            authority = ws.create_authority(passphrase, operator=operator, name=name)
        except SecguardError:
            if made is not None and not ws.registry.authorities():
                made.unlink(missing_ok=True)  # it opens nothing
            raise
        lines = [f"root certificate: {ws.root_certificate} (give it to everyone who verifies)"]
        if made is not None:
            lines.append(
                f"hint: the keys are opened by {made}; move it to a safe place, or keep this folder to yourself"
            )
        lines.append("next: secguard identity issue GBID --profile camera")
        return Result(
            data={"root": ws.root_certificate, "passphrase_file": made, **_cas(authority)},
            receipt=_receipt(authority.receipts),
            tables=[_ca_table(authority)],
            lines=lines,
        )


@command("identity.ca.show", "show")
def ca_show(ctx: Context) -> Result:
    """Show the CAs: names, validity, scope and fingerprints."""
    with ctx.workspace() as ws:
        authority = ws.authority()
        return Result(data={"root": ws.root_certificate, **_cas(authority)}, tables=[_ca_table(authority)])


def _cas(authority: "Authority") -> dict[str, Any]:
    from cryptography.hazmat.primitives import hashes

    from secguard.trust import common_name, scope_of

    return {
        "authorities": [
            {
                "name": name,
                "subject": common_name(certificate),
                "serial": f"{certificate.serial_number:032x}",
                "not_before": certificate.not_valid_before_utc,
                "not_after": certificate.not_valid_after_utc,
                "scope": str(scope_of(certificate)),
                "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            }
            for name, certificate in authority.certificates.items()
        ]
    }


def _ca_table(authority: "Authority") -> Table:
    columns = ("name", "subject", "not_after", "scope", "sha256")
    rows = [[item[column] for column in columns] for item in _cas(authority)["authorities"]]
    return Table("Certificate authorities", columns, rows)


@command("identity.issue", "issue")
@click.argument("holder", metavar="GBID")
@click.option(
    "--profile", required=True, metavar="NAME", help="A profile of certs/: camera, nvr, platform, operator ..."
)
@click.option("-o", "--output", type=_FOLDER, metavar="DIR", help="[default: state/identity/devices/GBID]")
@click.option("--csr", type=_FILE, help="Certify the key of this request instead of making one.")
@click.option("--name", default="", metavar="TEXT", help="What people call the device, for the register.")
@click.option(
    "--vendor-serial", default="", metavar="SN", help="The maker's serial number, for register and certificate."
)
@_PASSPHRASE
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
    with _authority(ctx, passphrase_file) as (_, authority):
        issued = authority.issue([request])
        companions = authority.profiles[profile].companions
        result = _issued(issued, authority)
        if csr is not None and companions:
            result.lines = [*result.lines, f"not issued along with a request: {', '.join(companions)}"]
        return result


def _issued(issued: "Sequence[Issued]", authority: "Authority") -> Result:
    rows = [
        (item.record.holder, item.record.profile, item.record.serial, item.record.not_after, item.new)
        for item in issued
    ]
    folder = issued[0].files[-1].parent
    return Result(
        data={
            "certificates": [
                {**_row(item.record), "new": item.new, "files": list(item.files), "folder": item.files[-1].parent}
                for item in issued
            ]
        },
        receipt=_receipt(authority.receipts),
        tables=[Table("", ("holder", "profile", "serial", "not_after", "new"), rows)],
        lines=[f"files: {folder}"],
    )


def _row(record: "CertificateRecord", at: datetime | None = None) -> dict[str, Any]:
    expired = at is not None and record.status == "active" and record.expired(at)
    return {
        "holder": record.holder,
        "profile": record.profile,
        "purpose": record.purpose,
        "issuer": record.issuer,
        "serial": record.serial,
        "status": "expired" if expired else record.status,
        "not_before": record.not_before,
        "not_after": record.not_after,
        "key": record.key or None,
        "revoked": record.revoked,
        "reason": record.reason,
    }


def _listing(title: str, rows: "Sequence[dict[str, Any]]") -> Result:
    columns = ("holder", "profile", "serial", "status", "not_after", "revoked")
    table = Table(title, columns, [[row[column] or "" for column in columns] for row in rows])
    return Result(data={"total": len(rows), "certificates": rows}, tables=[table], jsonl=rows)


@command("identity.renew", "renew")
@click.argument("holder", metavar="GBID")
@click.option("--profile", required=True, metavar="NAME", help="The profile of the certificate.")
@_PASSPHRASE
def renew(ctx: Context, *, holder: str, profile: str, passphrase_file: Path | None) -> Result:
    """Certify the key of an active certificate again, for a fresh validity."""
    with _authority(ctx, passphrase_file) as (_, authority):
        return _issued([authority.renew(holder, profile)], authority)


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
@_PASSPHRASE
def revoke(ctx: Context, *, target: str, reason: str, profile: str, case: str, passphrase_file: Path | None) -> Result:
    """Revoke a certificate, or all certificates of a device, and publish the revocation lists."""
    with _authority(ctx, passphrase_file) as (_, authority):
        rows = [_row(record) for record in authority.revoke(target, reason, profile=profile, case=case)]
        result = _listing("Revoked", rows)
        result.receipt = _receipt(authority.receipts)
        result.lines = [f"revocation lists: {authority.crl_folder}"]
        return result


@command("identity.crl", "crl")
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Also write all lists into one file, in PEM.")
@_PASSPHRASE
def crl(ctx: Context, *, output: Path | None, passphrase_file: Path | None) -> Result:
    """Publish fresh revocation lists of all CAs."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from secguard.store import atomic_write
    from secguard.trust import read_crls

    with _authority(ctx, passphrase_file) as (_, authority):
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
            receipt=_receipt(authority.receipts),
            tables=[Table("Revocation lists", columns, rows)],
        )


@command("identity.list", "list")
@click.option("--profile", default="", metavar="NAME", help="Only certificates of this profile.")
@click.option("--status", default="", metavar="STATUS", help="Only: active, expired, superseded, revoked, reserved ...")
def list_(ctx: Context, *, profile: str, status: str) -> Result:
    """List all certificates of the register."""
    with ctx.workspace() as ws:
        now = ws.clock.now()
        rows = [_row(record, now) for record in ws.registry.certificates()]
    rows = [r for r in rows if profile in {"", r["profile"]} and status in {"", r["status"]}]
    return _listing("Certificates", rows)


@command("identity.expiring", "expiring")
@click.option("--days", type=click.IntRange(0, 36500), default=30, show_default=True, help="Within so many days.")
def expiring(ctx: Context, *, days: int) -> Result:
    """List active certificates that end soon, or have ended, soonest first."""
    with ctx.workspace() as ws:
        now = ws.clock.now()
        rows = [_row(record, now) for record in ws.registry.expiring(now + timedelta(days=days))]
    return _listing(f"Ending within {days} days", rows)


@command("identity.device.list", "list")
def device_list(ctx: Context) -> Result:
    """List the registered devices."""
    with ctx.workspace() as ws:
        records = list(ws.registry.devices())
    columns = ("gbid", "name", "vendor_serial", "status", "registered")
    rows = [{column: getattr(record, column) for column in columns} for record in records]
    table = Table("Devices", columns, [list(row.values()) for row in rows])
    return Result(data={"total": len(rows), "devices": rows}, tables=[table], jsonl=rows)


@command("identity.device.show", "show")
@click.argument("gbid")
def device_show(ctx: Context, *, gbid: str) -> Result:
    """Show one device: what its ID says, and its certificates."""
    from secguard.gbid import GbId

    parsed = GbId.parse(gbid)
    with ctx.workspace() as ws:
        record = ws.registry.device(parsed.value)
        now = ws.clock.now()
        rows = [_row(item, now) for item in ws.registry.certificates(parsed.value)]
        parts = parsed.explain(str(ws.config.site.edition), ctx.lang)
    if record is None:
        raise UsageError(
            "identity.device.unknown", f"{parsed} is not registered", hint="`secguard identity device list` shows all"
        )
    facts = [("name", record.name), ("vendor_serial", record.vendor_serial), ("status", record.status)]
    meaning = [(part.name, f"{part.digits} {part.meaning}".strip()) for part in parts]
    listing = _listing("Certificates", rows)
    return Result(
        data={"gbid": parsed.value, **dict(facts), "registered": record.registered, "certificates": rows},
        tables=[Table(parsed.value, ("what", "value"), [*meaning, *facts]), *listing.tables],
    )


for _group, _commands in (
    (ca, (ca_init, ca_show)),
    (device, (device_list, device_show)),
    (identity, (issue, verify, renew, revoke, crl, list_, expiring)),
):
    for _command in _commands:
        _group.add_command(_command)
