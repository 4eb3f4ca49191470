"""`secguard identity ca`: the site's certificate authorities."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.backup import ca_backup, ca_restore
from secguard.cli.identity.common import FILE, FOLDER, PASSPHRASE, certificate_row, receipt_of
from secguard.cli.identity.scopes import KEY, SCOPE, GroupedCommand, scope_from, with_passphrase
from secguard.core.errors import SecguardError, UsageError

if TYPE_CHECKING:
    from secguard.identity.ca.change import Changed
    from secguard.identity.ca.overview import CaView
    from secguard.identity.ca.setting import Setting
    from secguard.workspace import Workspace

__all__ = ["ca"]

_SOON = 365
"""Days before the end of a CA from which `show` says so: what it certifies is cut short by then."""


def _passphrase(ws: "Workspace", option: Path | None, *, make: bool, needed: bool) -> tuple[bytes | None, Path | None]:
    """The passphrase for a site's first keys, and the file if one was made; asks twice on a terminal."""
    from secguard.keys import make_passphrase

    passphrase = ws.passphrase(option)
    if passphrase is not None or not needed:
        return passphrase, None
    if make:
        made = ws.state / "passphrase"
        return make_passphrase(made), made
    if sys.stdin.isatty():
        answer = click.prompt("New passphrase for the keys", hide_input=True, confirmation_prompt=True, err=True)
        return str(answer).encode(), None
    raise UsageError(
        "keys.passphrase.missing",
        "no passphrase for the new keys",
        hint="give --passphrase-file FILE, or --yes to have one made",
    )


@command("identity.ca.init", "init")
@click.option("--name", default="", metavar="TEXT", help="Start of the CAs' names.  [default: organisation and area]")
@click.option(
    "--operator", default="", metavar="NAME", help="Name in the operator's certificate.  [default: your user]"
)
@click.option("--root-only", is_flag=True, help="Make an offline root only; it signs what `ca request` asks.")
@SCOPE
@KEY
@click.option("--yes", is_flag=True, help="Do not ask; make a passphrase in state/passphrase if none is given.")
@PASSPHRASE
def ca_init(
    ctx: Context,
    *,
    name: str,
    operator: str,
    root_only: bool,
    scope: str,
    area: tuple[str, ...],
    type: tuple[str, ...],
    network: tuple[str, ...],
    key: str,
    yes: bool,
    passphrase_file: Path | None,
) -> Result:
    """Make the root, the issuing CAs, the ledger's key, an operator's key and the first revocation lists.

    With --root-only it makes the root and its list: a ceremony on a machine without a network (docs/hierarchy.md).
    """
    wanted = scope_from(scope, area, type, network)
    with ctx.workspace() as ws:
        passphrase, made = _passphrase(ws, passphrase_file, make=yes, needed=not (root_only and key))
        try:
            authority = ws.create_authority(
                passphrase or b"", operator=operator, name=name, root_only=root_only, scope=wanted, key=key
            )
        except SecguardError:
            if made is not None and not ws.registry.authorities():
                made.unlink(missing_ok=True)  # it opens nothing
            raise
        lines = [f"root certificate: {ws.root_certificate} (give it to everyone who verifies)"]
        if made is not None:
            lines.append(
                f"hint: the keys are opened by {made}; move it to a safe place, or keep this folder to yourself"
            )
        lines.append(
            "next, on the site: secguard identity ca request -o DIR; then here: identity ca sign DIR -o DIR"
            if root_only
            else "next: secguard identity issue GBID --profile camera"
        )
        views = _views(ws.identity_setting(passphrase_file))
        return Result(
            data={"root": ws.root_certificate, "passphrase_file": made, **_data(views)},
            receipt=receipt_of(authority.receipts),
            tables=_tables(views),
            lines=lines,
        )


@command("identity.ca.show", "show")
def ca_show(ctx: Context) -> Result:
    """Show the CAs: status, purposes, scope, place of the key, validity, certificates in force, revocation list."""
    with ctx.workspace() as ws:
        views = _views(ws.identity_setting())
        if not views:
            raise UsageError(
                "workspace.authority.none", "there is no authority yet", hint="run: secguard identity ca init"
            )
        now = ws.clock.now()
        # An offline root has no other rows; a site of 100,000 has, and shows its CAs above.
        alone = len(views) == 1
        certified = [certificate_row(record, now) for record in ws.registry.certificates()] if alone else []
    soon = [view for view in views if view.not_after is not None and view.not_after < now + timedelta(days=_SOON)]
    lines = [f"hint: {view.name} ends on {view.not_after:%Y-%m-%d}: see docs/hierarchy.md" for view in soon]
    columns = ("holder", "serial", "status", "not_after")
    rows = [[row[column] for column in columns] for row in certified]
    listing = [Table("CAs that this root certified", columns, rows)] if certified else []
    return Result(
        data={"root": ws.root_certificate, **_data(views), "certified": certified},
        tables=[*_tables(views), *listing],
        lines=lines,
    )


@command("identity.ca.request", "request", cls=GroupedCommand)
@click.option("-o", "--output", type=FOLDER, required=True, metavar="DIR", help="Where the requests go.")
@click.option(
    "--kind", multiple=True, metavar="KIND", help="Kind of CA (certs/ca); repeatable, each followed by its own options."
)
@click.option("--name", multiple=True, metavar="NAME", help="Name of the CA.  [default: its kind]")
@SCOPE
@KEY
@click.option("--operator", default="", metavar="NAME", hidden=True)
@click.option("--yes", is_flag=True, help="Make a passphrase in state/passphrase if none is given.")
@PASSPHRASE
def ca_request(
    ctx: Context,
    *,
    output: Path,
    key: str,
    yes: bool,
    passphrase_file: Path | None,
    **_: Any,
) -> Result:
    """Ask an offline root for issuing CAs: make their keys, and write one request each into DIR.

    Without --kind, all kinds of certs/ca are asked for, with the site's scope. --area, --type, --network, --scope and
    --name belong to the --kind before them; --kind may be given several times.
    """
    from secguard.identity.ca.change import default_name
    from secguard.identity.ca.request import Wanted, request_cas

    with ctx.workspace() as ws:
        _secret, made = _passphrase(ws, passphrase_file, make=yes, needed=not key or yes)
        setting = ws.identity_setting(passphrase_file)
        if setting.passphrase is None and not key:
            setting = with_passphrase(setting)
        wanted: list[Wanted] = []
        for group in GroupedCommand.groups() or [{"kind": kind} for kind in setting.ca_profiles]:
            if group["kind"] == "root":
                continue
            stated = scope_from(
                group.get("scope", ""), group.get("area", ()), group.get("type", ()), group.get("network", ())
            )
            scope = stated or setting.scope
            taken = group["kind"] in {item.name for item in wanted}
            name = group.get("name") or (default_name(group["kind"], scope) if stated and taken else group["kind"])
            wanted.append(Wanted(name, scope))
        done = request_cas(setting, wanted, output, key=key)
    rows = [(item.ask.name, item.ask.kind, item.ask.scope, item.key_sha256, item.file) for item in done]
    return Result(
        data={
            "folder": output,
            "passphrase_file": made,
            "requests": [
                {
                    "name": item.ask.name,
                    "kind": item.ask.kind,
                    "scope": item.ask.scope.text,
                    "key_sha256": item.key_sha256,
                    "file": item.file,
                    "new": item.new,
                }
                for item in done
            ],
        },
        receipt=receipt_of(setting.receipts),
        tables=[Table("Requests", ("name", "kind", "scope", "key_sha256", "file"), rows)],
        lines=[f"next, on the root's machine: secguard identity ca sign {output} -o DIR"],
    )


@command("identity.ca.sign", "sign")
@click.argument("place", metavar="DIR|FILE", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", type=FOLDER, required=True, metavar="DIR", help="Where certificates and list go.")
@click.option("--scope", default="", metavar="SCOPE", help="Grant this scope instead: 'area=320116 type=131,132'.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@PASSPHRASE
def ca_sign(ctx: Context, *, place: Path, output: Path, scope: str, yes: bool, passphrase_file: Path | None) -> Result:
    """Certify the issuing CAs that the requests in DIR ask for, on the machine of the root."""
    from secguard.identity.ca.sign import read_requests, sign_requests

    with ctx.workspace() as ws:
        setting = with_passphrase(ws.identity_setting(passphrase_file))
        asked = read_requests(setting, place, scope_from(scope, (), (), ()))
        for item in asked:
            shown = f"{item.ask.name}: kind {item.ask.kind}, scope {item.scope}, domain {item.ask.domain}"
            click.echo(f"{shown}, of {item.ask.organization} ({item.ask.country})", err=True)
            click.echo(f"  key SHA-256 {item.key_sha256}", err=True)
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError(
                    "identity.ca.confirm", "nobody is there to confirm", hint="compare the keys; give --yes"
                )
            if not click.confirm(f"Certify {len(asked)} CAs?", err=True):
                raise UsageError(
                    "identity.ca.declined", "nothing was signed", hint="run again when all is as it should be"
                )
        rows = sign_requests(setting, asked, output)
    columns = ("name", "kind", "scope", "serial", "not_after", "key_sha256")
    table = [
        (item.ask.name, item.ask.kind, item.scope.text, row.serial, row.not_after, item.key_sha256)
        for item, row in zip(asked, rows, strict=True)
    ]
    return Result(
        data={"folder": output, "certificates": [dict(zip(columns, row, strict=True)) for row in table]},
        receipt=receipt_of(setting.receipts),
        tables=[Table("Certified", columns, table)],
        lines=[f"next, on the site: secguard identity ca install {output}"],
    )


@command("identity.ca.install", "install")
@click.argument("place", metavar="DIR|CRL", type=click.Path(path_type=Path, exists=True))
@click.option("--root-sha256", default="", metavar="HEX", help="The root must have this fingerprint.")
@click.option("--operator", default="", metavar="NAME", help="Name in the operator's certificate.")
@click.option(
    "--yes", is_flag=True, help="Make a passphrase in state/passphrase if none is given and no key needs one."
)
@PASSPHRASE
def ca_install(
    ctx: Context, *, place: Path, root_sha256: str, operator: str, yes: bool, passphrase_file: Path | None
) -> Result:
    """Put into force what the offline root signed: CA certificates with its list, or a fresh list alone."""
    from cryptography.hazmat.primitives import hashes

    from secguard.identity.ca.install import install

    with ctx.workspace() as ws:
        fresh = place.is_dir() and not list((ws.state / "identity" / "keys").glob("*.key.pem"))
        _passphrase(ws, passphrase_file, make=yes, needed=fresh)
        setting = ws.identity_setting(passphrase_file, operator=operator)
        if setting.passphrase is None and place.is_dir():
            setting = with_passphrase(setting)
        done = install(setting, place, root_sha256=root_sha256)
        views = _views(setting)
    fingerprint = done.root.fingerprint(hashes.SHA256()).hex()
    lines = [f"root SHA-256 {fingerprint}: compare it with `identity ca show` on the root's machine"]
    lines += [f"list of the root: number {done.crl_number}{' (the one brought is older)' if done.crl_older else ''}"]
    lines += [f"{name} issues no more; it goes on signing its list" for name in done.retiring]
    lines += [f"{name} was revoked by the root: it issues no more" for name in done.revoked]
    lines += [f"hint: the scope of {name} is narrower than asked for" for name in done.narrowed]
    lines += [f"hint: {name} still waits for the root" for name in done.pending]
    return Result(
        data={
            "root_sha256": fingerprint,
            "installed": done.names,
            "known": done.known,
            "retiring": done.retiring,
            "revoked": done.revoked,
            "pending": done.pending,
            "narrowed": done.narrowed,
            "crl_number": done.crl_number,
            **_data(views),
        },
        receipt=receipt_of(setting.receipts),
        tables=_tables(views),
        lines=lines,
    )


@command("identity.ca.add", "add")
@click.argument("kind")
@click.option("--name", default="", metavar="NAME", help="Name of the CA.  [default: kind and scope]")
@SCOPE
@KEY
@PASSPHRASE
def ca_add(
    ctx: Context,
    *,
    kind: str,
    name: str,
    scope: str,
    area: tuple[str, ...],
    type: tuple[str, ...],
    network: tuple[str, ...],
    key: str,
    passphrase_file: Path | None,
) -> Result:
    """Make another issuing CA of a KIND (certs/ca), for instance for a region; its scope lies within the root's."""
    from secguard.identity.ca.change import add_ca

    with ctx.workspace() as ws:
        setting = with_passphrase(ws.identity_setting(passphrase_file))
        wanted = scope_from(scope, area, type, network) or setting.scope
        return _changed(setting, add_ca(setting, kind, wanted, name=name, key=key))


@command("identity.ca.rollover", "rollover")
@click.argument("name")
@click.option("-o", "--output", type=FOLDER, metavar="DIR", help="Where the request for an offline root goes.")
@KEY
@PASSPHRASE
def ca_rollover(ctx: Context, *, name: str, output: Path | None, key: str, passphrase_file: Path | None) -> Result:
    """Make the successor of the CA NAME: new key, same kind and scope; the old one issues no more."""
    from secguard.identity.ca.change import rollover_ca

    with ctx.workspace() as ws:
        setting = with_passphrase(ws.identity_setting(passphrase_file))
        return _changed(setting, rollover_ca(setting, name, folder=output, key=key))


def _changed(setting: "Setting", changed: "Changed") -> Result:
    views = _views(setting)
    lines = []
    if changed.requested is not None:
        file = changed.requested.file
        lines = [
            f"request: {file}",
            f"next, on the root's machine: secguard identity ca sign {file.parent} -o DIR; then here: ca install DIR",
        ]
    elif changed.old:
        lines = [f"{changed.name} issues now; when no certificates of {changed.old} are left: ca retire {changed.old}"]
    return Result(
        data={
            "name": changed.name or None,
            "old": changed.old or None,
            "new": changed.new,
            "request": changed.requested.file if changed.requested else None,
            **_data(views),
        },
        receipt=receipt_of(setting.receipts),
        tables=_tables(views),
        lines=lines,
    )


@command("identity.ca.retire", "retire")
@click.argument("name")
def ca_retire(ctx: Context, *, name: str) -> Result:
    """End the CA NAME when no certificates of it are in force; of a pending one, drop the request."""
    from secguard.identity.ca.change import retire_ca

    with ctx.workspace() as ws:
        setting = ws.identity_setting()
        retire_ca(setting, name)
        views = _views(setting)
        return Result(data={"name": name, **_data(views)}, receipt=receipt_of(setting.receipts), tables=_tables(views))


@command("identity.ca.chain", "chain")
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help="PEM file to write.")
def ca_chain(ctx: Context, *, output: Path) -> Result:
    """Write the certificates of all CAs in force into one file, the root last; during a rollover, old and new."""
    from secguard.identity.ca.overview import chain_in_force
    from secguard.store import atomic_write

    with ctx.workspace() as ws:
        setting = ws.identity_setting()
        data = chain_in_force(setting)
        if not data:
            raise UsageError(
                "workspace.authority.none", "there is no authority yet", hint="run: secguard identity ca init"
            )
        atomic_write(output, data)
    count = data.count(b"BEGIN CERTIFICATE")
    return Result(data={"file": output, "certificates": count}, lines=[f"{output}: {count} certificates"])


def _views(setting: "Setting") -> "list[CaView]":
    from secguard.identity.ca.overview import view_cas

    return view_cas(setting)


def _data(views: "list[CaView]") -> dict[str, Any]:
    return {
        "authorities": [
            {
                "name": view.name,
                "status": view.status,
                "kind": view.kind,
                "purposes": view.purposes,
                "subject": view.subject,
                "serial": view.serial,
                "not_before": view.not_before,
                "not_after": view.not_after,
                "scope": str(view.scope) if view.scope is not None else None,
                "key": view.key,
                "sha256": view.sha256,
                "key_sha256": view.key_sha256,
                "in_force": view.in_force,
                "crl": view.crl,
                "crl_until": view.crl_until,
            }
            for view in views
        ]
    }


def _tables(views: "list[CaView]") -> list[Table]:
    def day(value: Any) -> str:
        return f"{value:%Y-%m-%d}" if value else ""

    columns = ("name", "status", "purposes", "scope", "key", "not_after", "in_force", "crl")
    rows = [
        (
            view.name,
            view.status,
            " ".join(view.purposes),
            view.scope if view.scope is not None else "",
            view.key,
            day(view.not_after),
            view.in_force,
            f"{view.crl} {day(view.crl_until)}".strip(),
        )
        for view in views
    ]
    prints = [(view.name, view.subject or "(pending)", view.sha256 or f"key {view.key_sha256}") for view in views]
    return [
        Table("Certificate authorities", columns, rows),
        Table("Fingerprints (SHA-256)", ("name", "subject", "sha256"), prints),
    ]


_COMMANDS = {
    "init": ca_init,
    "show": ca_show,
    "request": ca_request,
    "sign": ca_sign,
    "install": ca_install,
    "add": ca_add,
    "rollover": ca_rollover,
    "retire": ca_retire,
    "chain": ca_chain,
    "backup": ca_backup,
    "restore": ca_restore,
}


@click.group()
def ca() -> None:
    """The site's certificate authorities."""


for _command in _COMMANDS.values():
    ca.add_command(_command)
