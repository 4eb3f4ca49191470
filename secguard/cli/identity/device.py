"""`secguard identity device`: the register of devices."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.common import (
    FILE,
    PASSPHRASE,
    ask_passphrase,
    certificate_listing,
    certificate_row,
    receipt_of,
)
from secguard.cli.lazy import LazyGroup
from secguard.core.errors import UsageError

if TYPE_CHECKING:
    from secguard.identity import DeviceRecord
    from secguard.identity.inventory.importing import Plan
    from secguard.identity.inventory.register import Register
    from secguard.identity.registry.devices import DeviceFilter
    from secguard.workspace import Workspace

__all__ = ["check_prefixes", "device", "open_register"]

_HERE = "secguard.cli.identity"
_COMMANDS = {
    "import": (f"{_HERE}.device", "device_import", "Enter devices from a list or a platform's catalog."),
    "add": (f"{_HERE}.device", "device_add", "Enter one device."),
    "set": (f"{_HERE}.device", "device_set", "Change fields or the status of a device."),
    "retire": (f"{_HERE}.device", "device_retire", "End a device's service and revoke its certificates."),
    "list": (f"{_HERE}.device", "device_list", "List the registered devices."),
    "show": (f"{_HERE}.device", "device_show", "Show one device."),
    "export": (f"{_HERE}.device", "device_export", "Write the register to a file."),
    "coverage": (f"{_HERE}.coverage", "coverage", "Compare the register with the platform's catalog."),
    "coverage-verify": (f"{_HERE}.coverage", "coverage_verify", "Verify a signed coverage report."),
}
device = LazyGroup(name="device", table=_COMMANDS, help="The register of devices.", no_args_is_help=True)

_LINES = 50
_STATUSES = ("registered", "issued", "installed", "active", "retired")
_TEXTS = ("name", "vendor_serial", "mac", "model", "maker", "address", "site", "datum", "zone", "sensitivity")
_FIELD_HELP = {
    "name": "What people call it.",
    "vendor_serial": "The maker's serial number.",
    "mac": "MAC address.",
    "model": "The maker's model.",
    "maker": "The maker.",
    "address": "HOST:PORT of its TLS endpoint.",
    "site": "Where it is installed.",
    "datum": "Of the coordinates: WGS-84, GCJ-02 or CGCS2000.",
    "zone": "Network zone of the isolation policy.",
    "sensitivity": "Class of what it sees.",
    "longitude": "Degrees east.",
    "latitude": "Degrees north.",
    "must_sign": "Whether it has the duty to sign its video: yes or no.",
}


def open_register(ws: "Workspace") -> "Register":
    """The register of a workspace; needs no CA."""
    from secguard.identity.inventory.policy import load_register_policy
    from secguard.identity.inventory.register import Register

    return Register(
        ws.state / "identity",
        registry=ws.registry,
        clock=ws.clock,
        recorder=ws.ledger,
        actor=ws.actor(),
        edition=str(ws.config.site.edition),
        policy=load_register_policy(ws.policies / "register.yaml"),
    )


def _field_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed((*_TEXTS, "longitude", "latitude", "must_sign")):
        option = f"--{name.replace('_', '-')}"
        function = click.option(option, name, metavar="TEXT", help=_FIELD_HELP[name])(function)
    return function


def _given(fields: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value is not None}


def _record_table(record: "DeviceRecord") -> Table:
    from secguard.identity.inventory.export import device_row

    rows = [(name, value) for name, value in device_row(record).items() if name != "gbid" and value not in {"", None}]
    return Table(record.gbid, ("what", "value"), rows)


@command("identity.device.import", "import")
@click.argument("files", type=FILE, nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "form", type=click.Choice(["csv", "json", "catalog"]), help="[default: by content]")
@click.option("--encoding", default="", metavar="NAME", help="utf-8, gb18030 or utf-16.  [default: found out]")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@click.option("--keep-going", is_flag=True, help="Take the good rows where others cannot be taken.")
@click.option(
    "--errors",
    type=FILE,
    metavar="FILE.csv",
    help="Write the problems here.  [default with --keep-going: FILE.errors.csv]",
)
@click.option("--datum", default="", metavar="NAME", help="Of coordinates in the file: WGS-84, GCJ-02, CGCS2000.")
@click.option("--zone", default="", metavar="NAME", help="For devices whose row names no network zone.")
@click.option(
    "--tls-port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="Make the address for `identity probe` of a catalog's IP address and this port.",
)
@click.option("--case", default="", help="Case number that justifies the act, recorded.")
@click.option("--reason", default="", help="Purpose of the act, recorded.")
def device_import(
    ctx: Context,
    *,
    files: tuple[Path, ...],
    form: str | None,
    encoding: str,
    dry_run: bool,
    keep_going: bool,
    errors: Path | None,
    datum: str,
    zone: str,
    tls_port: int,
    case: str,
    reason: str,
) -> Result:
    """Enter devices from FILE: CSV, JSON, JSON lines, or a platform's GB/T 28181 catalog (MANSCDP XML).

    An empty cell leaves a field as it is. With a row that cannot be taken nothing is imported, and all of them are
    listed. Exit code 0: imported; 1: problems (with --keep-going the good rows are in).
    """
    from secguard.identity.inventory.fields import parse_field
    from secguard.identity.inventory.importing import import_devices
    from secguard.identity.inventory.read import merge, read_list

    defaults = {name: str(parse_field(name, text)) for name, text in (("datum", datum), ("zone", zone)) if text}
    source = merge([read_list(path, form=form or "", encoding=encoding) for path in files])
    with ctx.workspace() as ws:
        register = open_register(ws)
        plan = import_devices(
            register,
            source,
            keep_going=keep_going,
            dry_run=dry_run,
            defaults=defaults,
            port=tls_port,
            case=case,
            reason=reason,
            progress=ctx.progress("importing"),
        )
    done = not dry_run and (keep_going or not plan.problems)
    if errors is None and keep_going and not dry_run and plan.problems:
        errors = files[0].with_name(f"{files[0].name}.errors.csv")
    if errors is not None and plan.problems:
        _write_problems(errors, plan)
    return _import_result(plan, done=done, dry_run=dry_run, errors=errors, receipt=receipt_of(register.receipts))


def _write_problems(path: Path, plan: "Plan") -> None:
    import io

    from secguard.report.tables import write_csv
    from secguard.store import atomic_write

    stream = io.StringIO(newline="")
    columns = ("where", "gbid", "field", "code", "reason", "hint")
    write_csv(stream, columns, ([getattr(item, name) for name in columns] for item in plan.problems))
    atomic_write(path, stream.getvalue().encode("utf-8-sig"))


def _import_result(
    plan: "Plan", *, done: bool, dry_run: bool, errors: Path | None, receipt: dict[str, Any] | None
) -> Result:
    from secguard.core.verdict import Outcome

    counts = plan.counts
    tables = [Table("Import" if done else "What would change", ("what", "devices"), list(counts.items()))]
    if plan.changed and not done:
        rows = [
            (change.gbid, name, "" if old is None else old, "" if new is None else new)
            for _, change in plan.changed[:_LINES]
            for name, (old, new) in change.fields.items()
        ]
        tables.append(Table("Changed", ("gbid", "field", "old", "new"), rows[:_LINES]))
    if plan.new and dry_run:
        tables.append(
            Table(
                "New", ("gbid", "name", "vendor_serial"), [(r.gbid, r.name, r.vendor_serial) for r in plan.new[:_LINES]]
            )
        )
    if plan.problems:
        shown = [(p.where, p.gbid, p.field, p.reason, p.hint) for p in plan.problems[:_LINES]]
        more = f" (the first {_LINES} of {len(plan.problems)})" if len(plan.problems) > _LINES else ""
        tables.append(Table(f"Problems{more}", ("where", "gbid", "field", "reason", "hint"), shown))
    lines = [f"note: {note}" for note in plan.notes]
    if plan.skipped:
        lines.append(f"no devices to register: {', '.join(f'{n} {kind}' for kind, n in sorted(plan.skipped.items()))}")
    if plan.problems and not done:
        lines.append("nothing was imported: correct the rows, or take the good ones with --keep-going")
    if errors is not None and plan.problems:
        lines.append(f"problems: {errors}")
    return Result(
        data={
            "file": plan.source.name,
            "sha256": plan.source.sha256,
            "format": plan.source.format,
            "encoding": plan.source.encoding,
            "imported": done,
            "dry_run": dry_run,
            **counts,
            "skipped_kinds": dict(plan.skipped),
            "repeated": plan.repeated,
            "notes": plan.notes,
            "errors": errors if plan.problems else None,
            "problems": plan.problems,
            "changes": [change for _, change in plan.changed],
            "new_devices": [record.gbid for record in plan.new],
            "missing_devices": plan.missing,
        },
        outcome=Outcome.FAIL if plan.problems else None,
        receipt=receipt,
        tables=tables,
        lines=lines,
    )


@command("identity.device.add", "add")
@click.argument("gbid")
@_field_options
def device_add(ctx: Context, *, gbid: str, **fields: str | None) -> Result:
    """Enter one device into the register."""
    from secguard.identity.inventory.edit import add_device
    from secguard.identity.inventory.export import device_row

    with ctx.workspace() as ws:
        register = open_register(ws)
        record = add_device(register, gbid, _given(fields))
    return Result(data=device_row(record), receipt=receipt_of(register.receipts), tables=[_record_table(record)])


@command("identity.device.set", "set")
@click.argument("gbid")
@_field_options
@click.option("--status", type=click.Choice(["registered", "issued", "installed", "active"]), help="Move it on.")
@click.option("--clear", multiple=True, metavar="FIELD", help="Empty a field (repeatable).")
@click.option("--case", default="", help="Case number that justifies the act, recorded.")
@click.option("--reason", default="", help="Purpose of the act, recorded.")
def device_set(
    ctx: Context,
    *,
    gbid: str,
    status: str | None,
    clear: tuple[str, ...],
    case: str,
    reason: str,
    **fields: str | None,
) -> Result:
    """Change fields, or the status, of a device.

    `issued` becomes `installed` and `active` by hand, or by a probe; a retired device becomes `registered` again.
    """
    from secguard.identity.inventory.edit import set_device
    from secguard.identity.inventory.export import device_row

    texts = _given(fields)
    for name in clear:
        if name.replace("-", "_") in texts:
            raise UsageError("identity.device.field", f"{name[:40]} is both set and cleared")
        texts[name.replace("-", "_")] = ""
    if not texts and not status:
        raise UsageError("identity.device.nothing", "nothing to change", hint="give fields, --clear or --status")
    with ctx.workspace() as ws:
        register = open_register(ws)
        record, changed = set_device(register, gbid, texts, status=status or "", case=case, reason=reason)
    rows = [(name, old, new) for name, (old, new) in changed.items()]
    return Result(
        data={**device_row(record), "changed": changed},
        receipt=receipt_of(register.receipts),
        tables=[Table(record.gbid, ("field", "old", "new"), rows)],
        lines=[] if changed else ["nothing differs from the register"],
    )


@command("identity.device.retire", "retire")
@click.argument("gbid")
@click.option("--keep", is_flag=True, help="Leave its certificates in force until they expire.")
@click.option("--case", default="", help="Case number that justifies the act, recorded.")
@click.option("--reason", default="", help="Purpose of the act, recorded.")
@PASSPHRASE
def device_retire(
    ctx: Context, *, gbid: str, keep: bool, case: str, reason: str, passphrase_file: Path | None
) -> Result:
    """End a device's service: revoke its certificates (cessationOfOperation) and mark it retired."""
    from secguard.identity.inventory.edit import retire_device
    from secguard.identity.inventory.export import device_row

    with ctx.workspace() as ws:
        register = open_register(ws)
        authority = ask_passphrase(ws.authority(passphrase_file)) if ws.root_certificate.exists() else None
        record, revoked = retire_device(register, gbid, authority, keep=keep, case=case, reason=reason)
    rows = [certificate_row(item) for item in revoked]
    listing = certificate_listing("Revoked", rows)
    return Result(
        data={**device_row(record), "revoked": rows},
        receipt=receipt_of(register.receipts),
        tables=[_record_table(record), *(listing.tables if rows else [])],
    )


def check_prefixes(area: str, type_code: str = "") -> None:
    """Refuse an area or type that no ID can start with."""
    if area and not (area.isascii() and area.isdigit() and len(area) <= 20):
        raise UsageError("identity.device.area", f"{area[:30]!r} is no area", hint="digits an ID starts with: 320116")
    if type_code and not (type_code.isascii() and type_code.isdigit() and len(type_code) <= 3):
        raise UsageError("identity.device.type", f"{type_code[:30]!r} is no type", hint="a type code or its start: 132")


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--area", default="", metavar="DIGITS", help="IDs that start so: 320116."),
            click.option("--type", "type_code", default="", metavar="CODE", help="Type code, or its start: 132."),
            click.option("--status", type=click.Choice(_STATUSES), help="Where the device stands."),
            click.option("--zone", default="", metavar="NAME", help="Network zone."),
            click.option("--missing", multiple=True, metavar="FIELD", help="This field is empty (repeatable)."),
            click.option("--find", "text", default="", metavar="TEXT", help="Part of the name or site."),
        )
    ):
        function = option(function)
    return function


def _chosen(
    *, area: str, type_code: str, status: str | None, zone: str, missing: Sequence[str], text: str
) -> "DeviceFilter":
    from secguard.identity.inventory.fields import EDITABLE
    from secguard.identity.registry.devices import DeviceFilter

    check_prefixes(area, type_code)
    names = tuple(name.replace("-", "_") for name in missing)
    for name in names:
        if name not in EDITABLE or name == "must_sign":
            near = difflib.get_close_matches(name, EDITABLE, 1)
            known = ", ".join(field for field in EDITABLE if field != "must_sign")
            raise UsageError(
                "identity.device.field",
                f"no field {name[:40]!r}",
                hint=f"did you mean {near[0]}?" if near else f"one of {known}",
            )
    return DeviceFilter(area, type_code, status or "", zone, names, text)


@command("identity.device.list", "list")
@_filters
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=None,
    metavar="N",
    help="At most so many; 0: all.  [default: 100 for people, all for --json and --jsonl]",
)
@click.option("--after", default="", metavar="GBID", help="Go on behind this ID.")
def device_list(
    ctx: Context,
    *,
    limit: int | None,
    after: str,
    **filters: Any,
) -> Result:
    """List the registered devices, by ID."""
    from secguard.identity.inventory.export import device_row

    chosen = _chosen(**filters)
    most = (0 if ctx.json else 100) if limit is None else limit
    with ctx.workspace() as ws:
        total = ws.registry.count_devices(chosen)
        found = list(ws.registry.find_devices(chosen, after=after, limit=most + 1 if most else -1))
    more = bool(most) and len(found) > most
    found = found[:most] if more else found
    rows = [device_row(record) for record in found]
    columns = ("gbid", "name", "vendor_serial", "maker", "model", "site", "zone", "status")
    table = Table("Devices", columns, [[row[column] for column in columns] for row in rows])
    following = found[-1].gbid if more else None
    return Result(
        data={"total": total, "devices": rows, "next": following},
        tables=[table],
        jsonl=rows,
        lines=[f"{len(rows)} of {total}" + (f"; go on with --after {following}" if following else "")],
    )


@command("identity.device.show", "show")
@click.argument("gbid")
def device_show(ctx: Context, *, gbid: str) -> Result:
    """Show one device: what its ID says, its record, and its certificates."""
    from secguard.gbid import GbId
    from secguard.identity.inventory.export import device_row
    from secguard.identity.inventory.register import unknown_device

    parsed = GbId.parse(gbid)
    with ctx.workspace() as ws:
        record = ws.registry.device(parsed.value)
        now = ws.clock.now()
        rows = [certificate_row(item, now) for item in ws.registry.certificates(parsed.value)]
        parts = parsed.explain(str(ws.config.site.edition), ctx.lang)
        near: list[str] = []
        if record is None:
            near = difflib.get_close_matches(
                parsed.value, [item.gbid for item in ws.registry.devices()[:10_000]], 1, 0.9
            )
    if record is None:
        raise unknown_device(parsed.value, near)
    meaning = [(part.name, f"{part.digits} {part.meaning}".strip()) for part in parts]
    facts = _record_table(record)
    listing = certificate_listing("Certificates", rows)
    return Result(
        data={
            **device_row(record),
            "id": [{"part": part.name, "digits": part.digits, "meaning": part.meaning} for part in parts],
            "certificates": rows,
        },
        tables=[Table(parsed.value, ("what", "value"), [*meaning, *facts.rows]), *listing.tables],
    )


@command("identity.device.export", "export")
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help="FILE.csv, FILE.json or FILE.jsonl.")
@_filters
@click.option(
    "--encoding",
    type=click.Choice(["utf-8-sig", "utf-8", "gb18030"]),
    default="utf-8-sig",
    show_default=True,
    help="Of CSV.",
)
@click.option("--excel", is_flag=True, help="Guard IDs and serial numbers, so that a spreadsheet does not round them.")
def device_export(
    ctx: Context,
    *,
    output: Path,
    encoding: str,
    excel: bool,
    **filters: Any,
) -> Result:
    """Write the register to a file that `device import` reads; no cell runs as a formula.

    `--lang zh` writes the heads in Chinese.
    """
    from secguard.identity.inventory.export import export_devices

    chosen = _chosen(**filters)
    with ctx.workspace() as ws:
        count = export_devices(output, ws.registry.find_devices(chosen), encoding=encoding, lang=ctx.lang, excel=excel)
    return Result(data={"file": output, "devices": count}, lines=[f"{count} devices: {output}"])
