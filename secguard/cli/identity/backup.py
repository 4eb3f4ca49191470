"""`secguard identity ca backup` and `restore`: the CAs' keys, registry and lists, saved and brought back."""

from pathlib import Path

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.common import FILE, PASSPHRASE, receipt_of
from secguard.cli.identity.scopes import with_passphrase
from secguard.core.errors import UsageError

__all__ = ["ca_backup", "ca_restore"]


@command("identity.ca.backup", "backup")
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help="The archive (tar); must not exist.")
@PASSPHRASE
def ca_backup(ctx: Context, *, output: Path, passphrase_file: Path | None) -> Result:
    """Save keys (encrypted as they are), registry, lists, root certificate, profiles and configuration in one FILE.

    The passphrase is not in it: keep it elsewhere. The archive is authenticated with it.
    """
    from secguard.identity.ca.backup import backup
    from secguard.workspace.site import CONFIG_NAME

    with ctx.workspace() as ws:
        setting = with_passphrase(ws.identity_setting(passphrase_file))
        saved = backup(
            setting, output, config=ws.root / CONFIG_NAME, ledger_size=ws.ledger.size, progress=ctx.progress("Saving")
        )
    lines = ["keep it away from this machine, and its passphrase away from it"]
    lines += [f"hint: the key of {name} is in its token, and not in the backup" for name in saved.tokens]
    return Result(
        data={
            "file": saved.file,
            "files": saved.files,
            "bytes": saved.size,
            "manifest_sha256": saved.sha256,
            "in_tokens": saved.tokens,
        },
        receipt=receipt_of(setting.receipts),
        tables=[Table("Backup", ("file", "files", "bytes"), [(saved.file, saved.files, saved.size)])],
        lines=lines,
    )


@command("identity.ca.restore", "restore")
@click.argument("file", type=FILE)
@PASSPHRASE
def ca_restore(ctx: Context, *, file: Path, passphrase_file: Path | None) -> Result:
    """Bring back what `ca backup` saved in FILE, into a workspace without CAs; nothing is overwritten.

    What the ledger has recorded since the backup is applied: what was revoked is revoked again.
    """
    import sys

    from secguard.identity.ca.first import first_certificates
    from secguard.identity.ca.restore import Place, restore
    from secguard.identity.certificate import ROOT
    from secguard.workspace.site import CONFIG_NAME

    with ctx.workspace() as ws:
        passphrase = ws.passphrase(passphrase_file)
        if passphrase is None and sys.stdin.isatty():
            passphrase = str(click.prompt("Passphrase of the backup", hide_input=True, err=True)).encode()
        if passphrase is None:
            raise UsageError(
                "keys.passphrase.missing", "no passphrase to open the backup", hint="give --passphrase-file FILE"
            )
        ledger = ws.ledger
        place = Place(
            folder=ws.state / "identity",
            certs=ws.certs,
            config=ws.root / CONFIG_NAME,
            clock=ws.clock,
            recorder=ledger,
            actor=ws.actor(),
            origin=ledger.origin,
            shards=ws.config.identity.crl_shards,
            since=lambda start: map(ledger.event, range(start, ledger.size)),
        )
        done = restore(file, place, passphrase, ctx.progress("Restoring"))
        setting = ws.identity_setting(passphrase_file)
        if ROOT in setting.registry.authorities():
            authority = setting.authority()
            authority.publish_crls(every=True)
            first_certificates(authority, setting)
            setting.receipts.extend(authority.receipts)
    lines = [f"restored as of {done.created}; fresh revocation lists are published"]
    if not done.same_ledger:
        lines.append(f"hint: the ledger of that time ({done.origin}) is not here: what was revoked since is not known")
    if done.unknown:
        lines.append(
            f"hint: {len(done.unknown)} certificates were issued after the backup, and their bytes are lost: "
            "issue them anew; --json names them"
        )
    lines += [f"hint: {path} differs here; the backup's is in state/identity/restored" for path in done.differing]
    return Result(
        data={
            "backup_of": done.created,
            "origin": done.origin,
            "files": done.files,
            "same_ledger": done.same_ledger,
            "revoked_again": done.revoked,
            "retired_again": done.retired,
            "unknown": done.unknown,
            "differing": done.differing,
        },
        receipt=receipt_of(setting.receipts),
        tables=[
            Table(
                "Restored",
                ("backup of", "files", "revoked again", "unknown"),
                [(done.created, done.files, len(done.revoked), len(done.unknown))],
            )
        ],
        lines=lines,
    )
