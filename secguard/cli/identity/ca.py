"""`secguard identity ca`: the site's certificate authorities."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.common import (
    PASSPHRASE,
    receipt_of,
)
from secguard.core.errors import SecguardError, UsageError

if TYPE_CHECKING:
    from secguard.identity import Authority

__all__ = ["ca"]


@click.group()
def ca() -> None:
    """The site's certificate authorities."""


@command("identity.ca.init", "init")
@click.option("--name", default="", metavar="TEXT", help="Start of the CAs' names.  [default: organisation and area]")
@click.option(
    "--operator", default="", metavar="NAME", help="Name in the operator's certificate.  [default: your user]"
)
@click.option("--yes", is_flag=True, help="Do not ask; make a passphrase in state/passphrase if none is given.")
@PASSPHRASE
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
            receipt=receipt_of(authority.receipts),
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


ca.add_command(ca_init)
ca.add_command(ca_show)
