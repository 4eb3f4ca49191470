"""`secguard identity probe`: ask live devices for their certificates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, act_options, command, require_option
from secguard.cli.identity.common import FILE, FOLDER, PASSPHRASE, open_authority, receipt_of
from secguard.core.clock import SystemClock
from secguard.core.errors import UsageError
from secguard.core.verdict import Axis

if TYPE_CHECKING:
    from secguard.identity.probe.book import Book
    from secguard.identity.probe.clients import Clients
    from secguard.identity.probe.probe import Probed
    from secguard.identity.probe.result import Endpoint
    from secguard.identity.probe.targets import Target
    from secguard.identity.records import DeviceRecord
    from secguard.trust import TrustPolicy
    from secguard.workspace import Workspace

__all__ = ["probe", "probe_credentials"]

_NAMES = ("good", "none", "stranger", "expired", "revoked", "other")
_KINDS = ("auto", "http", "rtsp", "sip", "none")
_SHOWN = 40
_MAX_REQUEST = 1 << 16


@command("identity.probe", "probe")
@click.argument("endpoints", metavar="[HOST:PORT]...", nargs=-1)
@click.option("--registry", is_flag=True, help="Probe the registered devices that have an address.")
@click.option("--area", default="", metavar="PREFIX", help="With --registry: only IDs that start with this.")
@click.option("--file", "list_", type=FILE, help="A list, one HOST:PORT [ID] a line.")
@click.option("--port", type=click.IntRange(1, 65535), default=443, show_default=True, help="Where none is given.")
@click.option("--root", type=FILE, help="Root certificate(s), PEM.  [default: the workspace's]")
@click.option("--crl", type=click.Path(path_type=Path), multiple=True, help="Revocation list, PEM or DER (repeatable).")
@click.option(
    "--days",
    type=click.IntRange(0, 3650),
    help="Certificates must be good for this many days more.  [default: those that end within 30 are remarked]",
)
@click.option("--sni", default="", metavar="NAME", help="Server name to send, and to find in the certificate.")
@click.option("--versions", is_flag=True, help="Also try whether TLS 1.0 or 1.1 is accepted.")
@click.option("--jobs", type=click.IntRange(1, 1024), default=64, show_default=True, help="Connections at a time.")
@click.option(
    "--rate", type=click.FloatRange(0, 100_000), default=0.0, metavar="N", help="At most N endpoints a second."
)
@click.option(
    "--timeout", type=click.FloatRange(0.1, 120), default=5.0, show_default=True, help="Seconds a connection."
)
@click.option("--max", "limit", type=click.IntRange(1), default=200_000, show_default=True, help="Endpoints at most.")
@click.option("--mutual", is_flag=True, help="Also try client certificates that must be refused.")
@click.option("--cert", type=FILE, help="With --mutual: the right client's certificate and chain, PEM.")
@click.option("--key", metavar="REF", help="With --mutual: its private key, file:PATH.")
@click.option("--credentials", type=FOLDER, help="With --mutual: the folder that probe-credentials made.")
@click.option(
    "--try", "tried", multiple=True, type=click.Choice(_NAMES[1:]), help="With --mutual: only this (repeatable)."
)
@click.option(
    "--request", default="auto", show_default=True, metavar="KIND|FILE", help=f"What clients ask: {', '.join(_KINDS)}."
)
@click.option("--update", is_flag=True, help="Note in the registry which devices serve their active certificate.")
@PASSPHRASE
@act_options
@require_option
def probe(
    ctx: Context,
    *,
    endpoints: tuple[str, ...],
    registry: bool,
    area: str,
    list_: Path | None,
    port: int,
    root: Path | None,
    crl: tuple[Path, ...],
    days: int | None,
    sni: str,
    versions: bool,
    jobs: int,
    rate: float,
    timeout: float,
    limit: int,
    mutual: bool,
    cert: Path | None,
    key: str | None,
    credentials: Path | None,
    tried: tuple[str, ...],
    request: str,
    update: bool,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
    require: tuple[Axis, ...],
) -> Result:
    """Shake hands with live endpoints and judge the certificates that they really serve.

    Exit code 0: all are as they must be; 1: something is wrong; 3: some were not reached, or their status is not known.
    """
    del yes
    from secguard.identity.probe.judge import Judge
    from secguard.identity.probe.probe import as_row
    from secguard.identity.probe.probe import probe as run
    from secguard.identity.probe.run import Options
    from secguard.identity.probe.targets import parse_target, read_targets, unique

    if area and not registry:
        raise UsageError("cli.usage", "--area narrows --registry", hint="give --registry too")
    if not mutual and (cert or key or credentials or tried):
        raise UsageError("cli.usage", "client certificates are for --mutual", hint="give --mutual too")
    ws = ctx.workspace_or_none()
    try:
        if (registry or update) and ws is None:
            raise UsageError("workspace.none", "--registry and --update need a workspace", hint="give -w DIR")
        targets = [parse_target(item, port) for item in endpoints]
        targets += read_targets(list_, port) if list_ else []
        policy, book = _trust(ws, root, crl, port)
        left_out: Sequence[DeviceRecord] = ()
        if registry:
            more, left_out = _registered(book, area, port)
            targets += more
        targets = unique(targets, limit) if targets or not left_out else []
        clients = (
            _clients(
                ws,
                cert=cert,
                key=key,
                folder=credentials,
                tried=tried,
                request=request,
                passphrase_file=passphrase_file,
            )
            if mutual
            else None
        )
        at = (ws.clock if ws is not None else SystemClock()).now()
        wanted = tuple(dict.fromkeys(("good", *(tried or _NAMES[1:])))) if mutual else ()
        judge = Judge(
            policy, at, book=book, days=30 if days is None else days, demanded=days is not None, sni=sni, wanted=wanted
        )
        probed = run(
            targets,
            judge,
            Options(jobs, rate, timeout, sni, versions, clients),
            subject=str(targets[0]) if len(targets) == 1 else f"{len(targets)} endpoints",
            at=at,
            left_out=left_out,
            progress=ctx.progress("probe"),
            tell=(lambda item: _write({"endpoint": as_row(item, ctx.lang)})) if ctx.jsonl else None,
        )
        updated, receipt = _keep(ws, probed, update=update, case=case, reason=reason)
    finally:
        if ws is not None:
            ws.close()
    if probed.interrupted:
        if ctx.jsonl:
            _write({"summary": _summary(probed, updated)})
        click.echo(f"{probed.answered} of {len(targets)} endpoints were probed", err=True)
        raise KeyboardInterrupt
    return _show(ctx, probed, require, updated, receipt)


def _trust(
    ws: "Workspace | None", root: Path | None, crls: tuple[Path, ...], port: int
) -> "tuple[TrustPolicy, Book | None]":
    from secguard.identity.probe.book import Book
    from secguard.trust import TrustPolicy, read_certificates, read_crls

    if ws is None:
        if root is None:
            raise UsageError("identity.probe.root", "no root certificate to believe", hint="give --root CA.pem")
        return TrustPolicy(read_certificates(root), read_crls(crls)), None
    if root is None and not ws.root_certificate.exists():
        raise UsageError("identity.ca.none", "this site has no CA yet", hint="give --root CA.pem, or: identity ca init")
    return ws.trust(root, crls), Book(ws.registry, port)


def _registered(book: "Book | None", area: str, port: int) -> "tuple[list[Target], Sequence[DeviceRecord]]":
    from secguard.identity.probe.targets import registry_targets

    assert book is not None
    if area and not (area.isascii() and area.isdigit() and len(area) <= 20):
        raise UsageError("identity.probe.area", f"not the start of an ID: {area[:40]!r}", hint="digits, such as 320116")
    targets, left_out = registry_targets(book.devices, area, port)
    if not targets and not left_out:
        raise UsageError(
            "identity.probe.none", "no registered device to probe", hint="identity device import enters devices"
        )
    return targets, left_out


def _clients(
    ws: "Workspace | None",
    *,
    cert: Path | None,
    key: str | None,
    folder: Path | None,
    tried: tuple[str, ...],
    request: str,
    passphrase_file: Path | None,
) -> "Clients":
    """The client certificates to try, as far as they are given; the stranger's is made here."""
    from secguard.core.limits import read_bounded
    from secguard.identity.probe.clients import Client, Clients, client_names, make_stranger
    from secguard.keys import find_passphrase, load_signer
    from secguard.trust import read_certificates

    if (cert is None) != (key is None):
        raise UsageError("cli.usage", "--cert and --key belong together", hint="give both")
    passphrase = ws.passphrase(passphrase_file) if ws is not None else find_passphrase(passphrase_file)

    def load(chain: Path, reference: str) -> Client:
        return Client(tuple(read_certificates(chain)), load_signer(reference, passphrase).private_key())

    found: dict[str, Client] = {"none": Client()}
    if cert is not None and key is not None:
        found["good"] = load(cert, key)
    if folder is not None:
        names = client_names(folder)
        if not names:
            raise UsageError(
                "identity.probe.credentials",
                "no credentials here",
                hint="run: secguard identity probe-credentials DIR",
                where=str(folder),
            )
        for name in names:
            found.setdefault(name, load(folder / f"{name}.pem", f"file:{folder / f'{name}.key.pem'}"))
    model = next((found[name] for name in ("good", "other", "revoked", "expired") if name in found), None)
    if model is not None:
        found["stranger"] = make_stranger(model.chain)
    else:
        found["stranger"] = make_stranger(_some_chain(ws))
    wanted = {"good", *(tried or _NAMES)}
    body = b""
    if request not in _KINDS:
        body, request = read_bounded(Path(request), _MAX_REQUEST), "file"
    return Clients.of({name: item for name, item in found.items() if name in wanted}, request, body)


def _some_chain(ws: "Workspace | None") -> "Sequence[Any]":
    """A chain whose names a stranger can copy: a site's, or made up."""
    from secguard.identity.probe.clients import made_up

    if ws is not None:
        cas = [item.x509() for name, item in ws.registry.authorities().items() if item.certificate and name != "root"]
        return made_up(cas[0] if cas else None)
    return made_up(None)


def _keep(
    ws: "Workspace | None", probed: "Probed", *, update: bool, case: str, reason: str
) -> tuple[list[str], dict[str, Any] | None]:
    """Record the run, then note in the registry which devices are alive with their certificate."""
    if ws is None:
        return [], None
    from secguard.identity.probe.book import to_activate

    found = to_activate(ws.registry, probed.endpoints) if update else []
    data = {
        "endpoints": len(probed.endpoints),
        "asked": probed.answered,
        "outcomes": probed.outcomes(),
        "findings": {code: count for code, _, count in probed.codes()},
        "sha256": probed.digest(),
        "activated": len(found),
        "interrupted": probed.interrupted,
    }
    receipt = ws.record("endpoints.probed", probed.subject, case=case, reason=reason, data=data)
    if found:
        from secguard.events import Event, new_event_id
        from secguard.identity.probe.book import activate

        events = [
            Event(
                id=new_event_id(),
                kind="device.updated",
                time=ws.clock.now(),
                actor=ws.actor(),
                subject=gbid,
                case=case,
                reason=reason,
                data={"status": "active"},
            )
            for gbid in found
        ]
        ws.ledger.record(events)
        activate(ws.registry, found)
    return found, receipt_of([receipt])


def _write(record: Mapping[str, Any]) -> None:
    from secguard.cli.render import write_json

    write_json(record)


def _summary(probed: "Probed", updated: Sequence[str]) -> dict[str, Any]:
    from secguard.identity.probe.probe import EXPIRY_BANDS, expiry_bands

    return {
        "asked": probed.answered,
        "outcomes": probed.outcomes(),
        "by_finding": {code: count for code, _, count in probed.codes()},
        "days_left": {"bands": list(EXPIRY_BANDS), "certificates": expiry_bands(probed)},
        "not_probed": [item.gbid for item in probed.left_out],
        "updated": list(updated),
        "seconds": round(probed.seconds, 3),
        "rate": round(probed.rate, 1),
        "sha256": probed.digest(),
        "interrupted": probed.interrupted,
    }


def _line(item: "Endpoint") -> list[object]:
    found = item.certificate
    codes = ", ".join(dict.fromkeys(one.code.removeprefix("identity.endpoint.") for one in item.findings))
    return [
        item.target,
        item.outcome,
        item.device or (found.gbid if found else ""),
        found.subject if found else "",
        found.not_after[:10] if found else "",
        item.protocol,
        codes,
    ]


def _show(
    ctx: Context,
    probed: "Probed",
    require: tuple[Axis, ...],
    updated: Sequence[str],
    receipt: dict[str, Any] | None,
) -> Result:
    from secguard.identity.probe.probe import as_row
    from secguard.identity.probe.report import probe_report

    verdict = probed.verdict(require)
    summary = _summary(probed, updated)
    rank = ("fail", "unknown", "pass")
    rows = sorted(probed.endpoints, key=lambda one: rank.index(one.outcome.value))
    tables = [
        Table(
            "Endpoints" if len(rows) <= _SHOWN else f"Endpoints (the first {_SHOWN} of {len(rows)})",
            ("endpoint", "outcome", "device", "certificate", "until", "protocol", "findings"),
            [_line(item) for item in rows[:_SHOWN]],
        )
    ]
    if codes := probed.codes():
        tables.append(
            Table("By finding", ("finding", "outcome", "endpoints"), [(code, out, count) for code, out, count in codes])
        )
    counts = summary["outcomes"]
    told = f"{counts['pass']} pass, {counts['fail']} fail, {counts['unknown']} inconclusive"
    lines = [f"{probed.answered} endpoints in {probed.seconds:.1f} s ({probed.rate:,.0f}/s): {told}"]
    if updated:
        lines.append(f"{len(updated)} devices are active now")
    late = [{"revised": as_row(item, ctx.lang)} for item in probed.late]
    last = {"outcome": verdict.outcome, "exit": verdict.outcome.exit_code, **summary}
    junit = ctx.report is not None and ctx.report.suffix.lower() == ".xml"
    return Result.of(
        verdict,
        data={**summary, "endpoints": [as_row(item) for item in probed.endpoints]},
        receipt=receipt,
        tables=tables,
        lines=lines,
        jsonl=[*late, {"summary": last}],
        report=lambda _: probe_report(probed, verdict, junit=junit),
    )


@command("identity.probe-credentials", "probe-credentials")
@click.argument("folder", type=FOLDER)
@click.option(
    "--profile", default="platform", show_default=True, metavar="NAME", help="Profile of device certificates."
)
@click.option(
    "--type", "type_code", default="200", show_default=True, metavar="CODE", help="Type code of the test IDs."
)
@click.option("--area", default="", metavar="CODE", help="Area of the test IDs.  [default: the site's]")
@click.option("--end", is_flag=True, help="Revoke what is still valid, and remove the folder's keys.")
@PASSPHRASE
def probe_credentials(
    ctx: Context, *, folder: Path, profile: str, type_code: str, area: str, end: bool, passphrase_file: Path | None
) -> Result:
    """Make client certificates that devices must refuse, for `probe --mutual --credentials`: other, revoked, expired.

    All are recorded; the one that is valid ends within a day. Devices need the fresh revocation lists before probing.
    """
    from secguard.identity.probe.credentials import end_credentials, make_credentials

    with open_authority(ctx, passphrase_file) as (ws, authority):
        if end:
            serials = end_credentials(authority, folder)
            return Result(
                data={"folder": folder, "revoked": serials},
                receipt=receipt_of(authority.receipts),
                lines=[f"revoked: {', '.join(serials) or 'nothing was valid any more'}"],
            )
        made = make_credentials(
            authority, folder, profile=profile, area=area or ws.config.site.area, type_code=type_code
        )
        rows = [(name, record.holder, record.serial, record.not_after) for name, record in made.items()]
        columns = ("name", "holder", "serial", "not_after")
        return Result(
            data={"folder": folder, "credentials": [dict(zip(columns, row, strict=True)) for row in rows]},
            receipt=receipt_of(authority.receipts),
            tables=[Table("", columns, rows)],
            lines=[
                f"next: secguard identity probe --registry --mutual --credentials {folder} --cert PEM --key file:KEY",
                f"then: secguard identity probe-credentials {folder} --end",
            ],
        )
