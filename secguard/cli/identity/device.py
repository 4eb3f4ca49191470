"""`secguard identity device`: the register of devices."""

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.common import certificate_listing, certificate_row
from secguard.core.errors import UsageError

__all__ = ["device"]


@click.group()
def device() -> None:
    """The register of devices."""


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
        rows = [certificate_row(item, now) for item in ws.registry.certificates(parsed.value)]
        parts = parsed.explain(str(ws.config.site.edition), ctx.lang)
    if record is None:
        raise UsageError(
            "identity.device.unknown", f"{parsed} is not registered", hint="`secguard identity device list` shows all"
        )
    facts = [("name", record.name), ("vendor_serial", record.vendor_serial), ("status", record.status)]
    meaning = [(part.name, f"{part.digits} {part.meaning}".strip()) for part in parts]
    listing = certificate_listing("Certificates", rows)
    return Result(
        data={"gbid": parsed.value, **dict(facts), "registered": record.registered, "certificates": rows},
        tables=[Table(parsed.value, ("what", "value"), [*meaning, *facts]), *listing.tables],
    )


device.add_command(device_list)
device.add_command(device_show)
