"""What the commands of `secguard identity` share: options, the opened authority, rows and tables."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table

if TYPE_CHECKING:
    from secguard.events import Receipt
    from secguard.identity import Authority, CertificateRecord, Issued
    from secguard.workspace import Workspace

__all__ = [
    "FILE",
    "FOLDER",
    "PASSPHRASE",
    "ask_passphrase",
    "certificate_listing",
    "certificate_row",
    "issued_result",
    "open_authority",
    "receipt_of",
]

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
PASSPHRASE = click.option("--passphrase-file", type=FILE, help="Opens the keys (mode 0600).")


def receipt_of(receipts: "Sequence[Receipt]") -> dict[str, Any] | None:
    """The last receipt, as the frame prints it."""
    if not receipts:
        return None
    last = receipts[-1]
    return {"event_id": last.event_id, "index": last.index, "origin": last.origin}


def ask_passphrase(authority: "Authority") -> "Authority":
    """Ask for the passphrase on a terminal if no source has one."""
    if authority.passphrase is None and sys.stdin.isatty():
        authority.passphrase = str(click.prompt("Passphrase of the keys", hide_input=True, err=True)).encode()
    return authority


@contextmanager
def open_authority(ctx: Context, passphrase_file: Path | None) -> "Iterator[tuple[Workspace, Authority]]":
    """The workspace and its authority; asks for the passphrase on a terminal if no source has one."""
    with ctx.workspace() as ws:
        yield ws, ask_passphrase(ws.authority(passphrase_file))


def certificate_row(record: "CertificateRecord", at: datetime | None = None) -> dict[str, Any]:
    """A certificate's row as JSON."""
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


def certificate_listing(title: str, rows: "Sequence[dict[str, Any]]") -> Result:
    """A table of certificates."""
    columns = ("holder", "profile", "serial", "status", "not_after", "revoked")
    table = Table(title, columns, [[row[column] or "" for column in columns] for row in rows])
    return Result(data={"total": len(rows), "certificates": rows}, tables=[table], jsonl=rows)


def issued_result(issued: "Sequence[Issued]", authority: "Authority") -> Result:
    """What was issued, and where the files lie."""
    rows = [
        (item.record.holder, item.record.profile, item.record.serial, item.record.not_after, item.new)
        for item in issued
    ]
    folder = issued[0].files[-1].parent
    return Result(
        data={
            "certificates": [
                {
                    **certificate_row(item.record),
                    "new": item.new,
                    "files": list(item.files),
                    "folder": item.files[-1].parent,
                }
                for item in issued
            ]
        },
        receipt=receipt_of(authority.receipts),
        tables=[Table("", ("holder", "profile", "serial", "not_after", "new"), rows)],
        lines=[f"files: {folder}"],
    )
