"""`secguard evidence clip`: cut a clip out of a recording; recorded before it is released."""

from pathlib import Path

import click

from secguard.cli.frame import Context, Result, Table, act_options, command

__all__ = ["clip_"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@command("evidence.clip", "clip")
@click.argument("recordings", type=_FILE, nargs=-1, required=True, metavar="RECORDING...")
@click.option("--from", "begin", required=True, metavar="TIME", help="Wall clock time, or +SECONDS from the beginning.")
@click.option("--to", "end", required=True, metavar="TIME", help="Wall clock time, or +SECONDS from the beginning.")
@click.option("-o", "--output", type=_FILE, required=True, metavar="CLIP.mp4", help="The clip; must not exist.")
@click.option("--approver", default="", metavar="NAME", help="Who approved it, as you claim; recorded.")
@click.option(
    "--manifest",
    type=_FILE,
    multiple=True,
    help="Segment manifest of each recording, in order.  [default: RECORDING.manifest.json, if it is there]",
)
@click.option("--no-sound", is_flag=True, help="Leave the sound out.")
@click.option("--operator", metavar="NAME", help="Whose certificate signs.  [default: yours, or the site's only one]")
@click.option("--passphrase-file", type=_FILE, help="Opens the key (mode 0600).")
@act_options
def clip_(
    ctx: Context,
    *,
    recordings: tuple[Path, ...],
    begin: str,
    end: str,
    output: Path,
    approver: str,
    manifest: tuple[Path, ...],
    no_sound: bool,
    operator: str | None,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Cut a clip out of RECORDING, or out of adjacent segments of one, and write CLIP.mp4 and CLIP.mp4.clip.json.

    The clip holds every GOP that overlaps the time from --from to --to, whole; nothing is encoded again. Its record
    binds it to the recording's manifest, the case and the approval, so that `video verify CLIP.mp4` proves it complete
    without the recording. The act is recorded in the ledger before the files get their names.
    """
    from secguard.video.clip import clip

    del yes  # nothing is asked
    with ctx.workspace() as ws:
        signer, chain = ws.operator_signer(passphrase_file, operator)
        with clip(
            recordings,
            output,
            begin=begin,
            end=end,
            signer=signer,
            chain=chain,
            clock=ws.clock,
            case=case,
            reason=reason,
            approver=approver,
            manifests=manifest,
            sound=not no_sound,
            progress=ctx.progress(f"cutting {output.name}"),
        ) as made:
            receipt = ws.record(
                "clip.made",
                made.record.device or f"sha256:{made.record.sha256}",
                case=case,
                approver=approver,
                reason=reason,
                data=made.event_data(),
            )
    record = made.record
    rows = [(part.name, f"{part.first}-{part.last}", "yes" if part.manifest else "no") for part in record.parts]
    span = f"{record.start} - {record.end}" if record.start and record.end else "the wall clock is not known"
    lines = [f"{made.output}: {record.frames} frames in {record.gops} GOPs, {span}; sound {record.sound}"]
    if made.manifests < len(record.parts):
        lines.append("without the recording's manifest nobody can tell whether the clip is complete")
    if record.leading:
        lines.append(f"the first {record.leading} frames refer to pictures before the clip: players leave them out")
    if record.dropped:
        lines.append(f"other tracks were left out: {', '.join(record.dropped)}")
    lines.append(f"{made.record_path}: keep it with the clip")
    return Result(
        data={"clip": made.output, "record": made.record_path, "record_sha256": made.record_sha256, **record.summary()},
        receipt={"event_id": receipt.event_id, "index": receipt.index, "origin": receipt.origin},
        tables=[Table("cut from", ("recording", "GOPs", "sealed"), rows)],
        lines=lines,
    )
