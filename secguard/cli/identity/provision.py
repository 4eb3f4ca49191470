"""`secguard identity provision`: certificates for a list of devices."""

import os
from pathlib import Path

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.common import FILE, FOLDER, PASSPHRASE, open_authority, receipt_of
from secguard.core.verdict import Outcome

__all__ = ["provision"]

_SHOWN = 20


@command("identity.provision", "provision")
@click.argument("source", metavar="FILE", type=FILE)
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    required=True,
    metavar="DIR",
    help="For the files: DIR/CENTRE/GBID.PROFILE.pem.",
)
@click.option("--profile", default="", metavar="NAME", help="Where the list names none.  [default: by type]")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["pem", "p12"]),
    default="pem",
    show_default=True,
    help="Encrypted PKCS#8 and chain, or encrypted PKCS#12.",
)
@click.option("--csr-dir", type=FOLDER, metavar="DIR", help="Certify the requests GBID.csr there; make no keys.")
@click.option(
    "--key-passphrase-file",
    type=FILE,
    help="Encrypts the delivered keys (mode 0600).  [default: a random one, in DIR/passphrase.txt]",
)
@click.option("--encoding", type=click.Choice(["utf-8", "gb18030", "utf-16"]), help="[default: found out]")
@click.option("--jobs", type=click.IntRange(1, 256), help="Worker processes.  [default: one a core]")
@click.option("--replace", is_flag=True, help="Supersede active certificates over other keys, instead of refusing.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run, or fail; without it, both is done.")
@click.option("--dry-run", is_flag=True, help="Only check the list.")
@PASSPHRASE
def provision(
    ctx: Context,
    *,
    source: Path,
    output: Path,
    profile: str,
    kind: str,
    csr_dir: Path | None,
    key_passphrase_file: Path | None,
    encoding: str | None,
    jobs: int | None,
    replace: bool,
    resume: bool,
    dry_run: bool,
    passphrase_file: Path | None,
) -> Result:
    """Make and deliver keys and certificates for the devices of FILE (CSV with a head line, or JSON lines).

    Columns: gbid (or 设备编码); optional: profile, name, vendor_serial, csr. Run again to go on after an interruption;
    what has been delivered is not made again. Exit code 1: some lines were refused; they are in DIR/refused.csv.
    """
    from secguard.identity.issuing.provision import provision as run
    from secguard.identity.issuing.wishes import Setting
    from secguard.keys import find_passphrase

    setting = Setting(
        output,
        format=kind,
        profile=profile,
        jobs=jobs or len(os.sched_getaffinity(0)),
        encoding=encoding or "",
        requests=csr_dir,
        passphrase=find_passphrase(key_passphrase_file) if key_passphrase_file is not None else None,
        replace=replace,
        resume=resume,
        dry_run=dry_run,
    )
    with open_authority(ctx, passphrase_file) as (_, authority):
        done = run(authority, source, setting, ctx.progress("provisioning"))
        receipt = receipt_of(authority.receipts)
    rate = done.certificates / done.seconds if done.seconds else 0.0
    facts = {
        "devices": done.devices,
        "delivered": done.delivered,
        "again": done.again,
        "certificates": done.certificates,
        "issued": done.issued,
        "refused": len(done.refused),
        "seconds": round(done.seconds, 3),
        "rate": round(rate, 1),
    }
    rows = [(one.line, one.gbid, one.profile, one.reason, one.hint) for one in done.refused[:_SHOWN]]
    tables = [Table("", ("what", "value"), list(facts.items()))]
    if rows:
        tables.append(Table("Refused", ("line", "gbid", "profile", "reason", "hint"), rows))
    lines = list(done.notes)
    if dry_run:
        lines.append("nothing was made: --dry-run")
    if done.error_file is not None:
        lines.append(f"refused lines: {done.error_file}")
    if done.passphrase_file is not None:
        lines.append(f"passphrase of the keys: {done.passphrase_file} (carry it on another way than the keys)")
    return Result(
        data={
            **facts,
            "dry_run": dry_run,
            "folder": output,
            "error_file": done.error_file,
            "passphrase_file": done.passphrase_file,
            "refusals": done.refused,
        },
        outcome=Outcome.FAIL if done.refused else None,
        receipt=receipt,
        tables=tables,
        lines=lines,
        jsonl=[{**facts}],
    )
