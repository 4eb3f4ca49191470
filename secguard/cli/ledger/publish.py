"""`secguard ledger checkpoint`, `export`, `key`: what the log shows to the world."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.ledger.common import passphrase_option
from secguard.core.verdict import Outcome

if TYPE_CHECKING:
    from secguard.workspace.witnesses import Cosigned

__all__ = ["checkpoint_", "cosigned_result", "export_", "key_"]


@command("ledger.checkpoint", "checkpoint")
@passphrase_option
@click.option("--no-witness", is_flag=True, help="Do not ask the configured witnesses to cosign it.")
def checkpoint_(ctx: Context, *, passphrase_file: Path | None, no_witness: bool) -> Result:
    """Sign a checkpoint of everything recorded, keep it here and at the anchor, and have the witnesses cosign it.

    Exit code 1: a witness remembers another history, or a longer one; 3: fewer cosigned than the quorum asks for.
    """
    from secguard.ledger import parse_checkpoint

    with ctx.workspace() as ws:
        note = ws.publish(passphrase_file)
        asked = None
        if ws.config.ledger.witnesses and not no_witness:
            asked = ws.ask_witnesses()
            note = asked.note
        signed = parse_checkpoint(note)
        anchor = ws.ledger.anchor
    data = {"origin": signed.origin, "size": signed.size, "root": signed.root, "anchor": anchor, "note": note.decode()}
    root = signed.root.hex()[:16]
    line = ctx.say(
        f"{signed.origin}: {signed.size} entries signed, root {root}…",
        f"{signed.origin}：已签名 {signed.size} 个条目，根哈希 {root}…",
    )
    return cosigned_result(ctx, asked, data, line) if asked is not None else Result(data=data, lines=[line])


def cosigned_result(ctx: Context, asked: "Cosigned", data: dict[str, object], line: str) -> Result:
    """Who cosigned, and why others did not: where the quorum has, silence of the others changes nothing."""
    outcomes = {item.outcome for item in asked.findings}
    if asked.reached:
        outcomes.discard(Outcome.UNKNOWN)
    outcome = next((one for one in (Outcome.FAIL, Outcome.UNKNOWN) if one in outcomes), Outcome.PASS)
    cosigned = [{"name": item.name, "time": item.time} for item in asked.cosignatures]
    rows = [(item.name, item.time) for item in asked.cosignatures]
    return Result(
        data={**data, "cosignatures": cosigned},
        outcome=outcome,
        findings=asked.findings,
        tables=[Table("", ctx.heads(("cosigned by", "联署的见证方"), ("at", "联署时间")), rows)] if rows else (),
        lines=[line],
    )


@command("ledger.key", "key")
def key_(ctx: Context) -> Result:
    """Print the verifier keys of the log and of its witnesses, for whoever is to witness or to mirror it."""
    with ctx.workspace() as ws:
        keys = [key.vkey() for key in ws.log_keys()]
        witnesses = [key.vkey() for key in ws.witnesses().keys]
        origin = ws.ledger.origin
    data = {"origin": origin, "keys": keys, "witnesses": witnesses}
    if not (ctx.json or ctx.jsonl):  # data, also where stdout is a pipe: add-log ... "$(secguard ledger key)"
        for key in keys:
            click.echo(key)
    return Result(data=data, lines=[ctx.say(f"witness: {key}", f"见证方：{key}") for key in witnesses])


@command("ledger.export", "export")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
def export_(ctx: Context, directory: Path) -> Result:
    """Copy the last checkpoint, and the tiles and entries it covers, to DIRECTORY; no body is among them.

    Any static web server may serve it to any client of C2SP tlog-tiles. Run it again to bring it up to date: tiles go
    first, the checkpoint last.
    """
    from secguard.ledger import export_log

    with ctx.workspace() as ws:
        done = export_log(ws.state / "ledger", directory, ctx.progress("exporting"))
    return Result(
        data={"directory": directory, "size": done.size, "written": done.written},
        lines=[
            ctx.say(
                f"{directory}: {done.size} entries, {done.written} files written",
                f"{directory}：共 {done.size} 个条目，写入 {done.written} 个文件",
            )
        ],
    )
