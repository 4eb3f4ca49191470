"""`secguard identity enrol`: which devices may ask for their first certificate over the network (EST)."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.common import FILE, receipt_of
from secguard.core.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secguard.identity.enrol.secrets import OneTimeSecret

__all__ = ["enrol"]


@click.group()
def enrol() -> None:
    """One-time secrets with which devices enrol over the network (EST)."""


@command("identity.enrol.allow", "allow")
@click.argument("gbids", metavar="GBID...", nargs=-1, required=True)
@click.option("--profile", default="", metavar="NAME", help="Which certificate.  [default: the one for the ID's type]")
@click.option(
    "--hours", type=click.FloatRange(0.01, 2160), default=24, show_default=True, help="How long it can be used."
)
@click.option(
    "-o", "--output", type=FILE, metavar="FILE", help="Write it there (mode 0600); of several devices, as CSV."
)
@click.option("--show", is_flag=True, help="Print it to stdout, also where that is no terminal, and with --json.")
def allow(
    ctx: Context, *, gbids: tuple[str, ...], profile: str, hours: float, output: Path | None, show: bool
) -> Result:
    """Allow devices to enrol, each with a one-time secret of its own.

    The installer gives the ID as the user's name and the secret as the password. Only its digest is kept: it is shown
    once, and a new one makes the one before void.
    """
    from secguard.identity.enrol.secrets import allow as allow_devices

    if output is None and not show and (ctx.json or not sys.stdout.isatty()):
        raise UsageError(
            "identity.enrol.output", "nowhere to put the secret", hint="give -o FILE, or --show to print it"
        )
    if output is not None and output.exists():
        raise RefusedError("identity.enrol.exists", "the file is there already", hint="name another", where=str(output))
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError("core.file.missing", "no such folder", where=str(output.absolute().parent))
    with ctx.workspace() as ws:
        authority = ws.authority()
        made = allow_devices(authority, gbids, profile, hours)
        receipt = receipt_of(authority.receipts)
    if output is not None:
        _write(output, made)
    shown = show or output is None
    columns = ("gbid", "profile", "expires", *(("secret",) if shown else ()))
    rows = [{column: getattr(one, column) for column in columns} for one in made]
    lines = [f"secret: {output}" if output is not None else "shown only now: it is kept nowhere"]
    return Result(
        data={"total": len(rows), "allowed": rows, "file": output},
        receipt=receipt,
        tables=[Table("", columns, [list(row.values()) for row in rows])],
        lines=lines,
        jsonl=rows,
    )


def _write(path: Path, made: "Sequence[OneTimeSecret]") -> None:
    from secguard.store import atomic_write

    if len(made) == 1:
        text = f"{made[0].secret}\n"
    else:
        rows = [f"{one.gbid},{one.profile},{one.secret},{one.expires}\n" for one in made]
        text = "".join(["gbid,profile,secret,expires\n", *rows])
    atomic_write(path, text.encode(), mode=0o600)


@command("identity.enrol.list", "list")
def list_(ctx: Context) -> Result:
    """List which devices may enrol, until when, and which have used their secret."""
    from secguard.core import rfc3339

    with ctx.workspace() as ws:
        now = rfc3339(ws.clock.now())
        found = ws.registry.secrets()
    rows = [
        {
            "gbid": one.device,
            "profile": one.profile,
            "status": "used" if one.used else "expired" if one.expires <= now else "open",
            "created": one.created,
            "expires": one.expires,
            "used": one.used,
        }
        for one in found
    ]
    columns = ("gbid", "profile", "status", "expires", "used")
    table = Table("One-time secrets", columns, [[row[column] or "" for column in columns] for row in rows])
    return Result(data={"total": len(rows), "secrets": rows}, tables=[table], jsonl=rows)


@command("identity.enrol.withdraw", "withdraw")
@click.argument("gbid")
@click.option("--profile", default="", metavar="NAME", help="Only the one for this profile.")
def withdraw(ctx: Context, *, gbid: str, profile: str) -> Result:
    """Make a device's unused secrets void."""
    from secguard.identity.enrol.secrets import withdraw as withdraw_secrets

    with ctx.workspace() as ws:
        authority = ws.authority()
        count = withdraw_secrets(authority, gbid, profile)
        receipt = receipt_of(authority.receipts)
    return Result(data={"gbid": gbid, "withdrawn": count}, receipt=receipt, lines=[f"withdrawn: {count}"])


for _command in (allow, list_, withdraw):
    enrol.add_command(_command)
