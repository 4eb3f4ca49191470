"""`secguard video`: sign, verify and inspect recordings; each command is one call of `secguard.video`."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, act_options, command
from secguard.cli.video_seal import seal, signing_into
from secguard.cli.video_verify import verify
from secguard.core.clock import parse_time
from secguard.core.errors import UsageError

if TYPE_CHECKING:
    from secguard.events import Receipt

__all__ = ["video"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_MAX_ROWS = 20


@click.group()
def video() -> None:
    """Sign and verify video."""


def _receipt(receipt: "Receipt") -> dict[str, Any]:
    return {"event_id": receipt.event_id, "index": receipt.index, "origin": receipt.origin}


@command("video.sign", "sign")
@click.argument("source", type=_FILE, metavar="IN")
@click.argument("target", type=_FILE, metavar="OUT")
@click.option("--manifest", type=_FILE, help="Write the manifest here.  [default: OUT.manifest.json]")
@click.option("--device", required=True, metavar="GBID", help="GB/T 28181 ID of the camera.")
@click.option("--key", metavar="REF", help="Media signing key, file:PATH.  [default: the workspace's for the device]")
@click.option("--chain", type=_FILE, help="Its certificates in PEM, leaf first; with --key.")
@click.option("--start", "begin", metavar="TIME", help="Time of the first frame.  [default: as the file says]")
@click.option("--recording", is_flag=True, help="Also put OUT into the chain of the recording in its folder.")
@click.option("--passphrase-file", type=_FILE, help="Opens the key.")
@click.option(
    "--hash",
    "hash_name",
    type=click.Choice(["sha256", "sha384", "sha512"]),
    default="sha256",
    show_default=True,
    help="Hash of slices and documents.",
)
@click.option("--every", type=int, default=1, metavar="N", help="Sign every N-th GOP.  [default: 1]")
@click.option("--partial", type=int, default=0, metavar="N", help="Sign after N frames at the latest.")
@click.option("--max-slices", type=int, default=0, metavar="N", help="Sign after N slices at the latest.")
@click.option("--low-bitrate", is_flag=True, help="Leave hash lists out: changes are placed by GOP, not by frame.")
@click.option("--certificate-sei", is_flag=True, help="Certificates once, at the beginning.")
@click.option("--prevention-after", is_flag=True, help="Apply emulation prevention after signing, not before.")
@click.option("--firmware", default="", metavar="TEXT", help="Vendor information: firmware version.")
@click.option(
    "--serial", default="", metavar="TEXT", help="Vendor information: serial number.  [default: the device's ID]"
)
@click.option("--manufacturer", default="secguard", metavar="TEXT", show_default=True, help="Vendor information.")
@act_options
def sign_(
    ctx: Context,
    *,
    source: Path,
    target: Path,
    manifest: Path | None,
    device: str,
    key: str | None,
    chain: Path | None,
    begin: str | None,
    recording: bool,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
    prevention_after: bool,
    **options: Any,
) -> Result:
    """Sign the recording IN (H.264 or H.265) and write OUT and OUT.manifest.json.

    Nothing is encoded again. The act is recorded in the workspace's ledger before the files get their names.
    IN and OUT may be "-": then the recording passes through a temporary file, and --manifest says where the manifest
    goes.
    """
    from secguard.gbid import GbId
    from secguard.keys import load_signer
    from secguard.trust import read_certificates
    from secguard.video import sign
    from secguard.video.signing import Mode
    from secguard.video.signing.streams import send, spool, spooled

    del yes  # nothing is asked
    if (key is None) != (chain is None):
        raise UsageError("video.sign.key", "--key and --chain belong together")
    gbid = GbId.parse(device)
    start = parse_time(begin) if begin else None
    mode = Mode(prevent_first=not prevention_after, **options)
    mode.check()
    piped = str(target) == "-"
    if piped and manifest is None:
        raise UsageError("video.sign.manifest", "OUT is a pipe: say where the manifest goes", hint="--manifest FILE")
    if piped and (ctx.json or sys.stdout.isatty()):
        raise UsageError(
            "video.sign.output", "the recording itself goes to the standard output", hint="give a file as OUT"
        )
    if recording and (piped or manifest is not None):
        raise UsageError("video.sign.recording", "--recording takes a file and its manifest beside it as OUT")
    chained: dict[str, str] = {}
    with ctx.workspace() as ws, ExitStack() as stack:
        if key is not None and chain is not None:
            signer, certificates = load_signer(key, ws.passphrase(passphrase_file)), read_certificates(chain)
        else:
            signer, certificates = ws.media_signer(gbid, passphrase_file)
        into = None
        if recording:
            who = (signer, certificates)
            into = stack.enter_context(signing_into(ws, target.parent, gbid, who, case=case, reason=reason))
        folder = stack.enter_context(spool()) if piped or str(source) == "-" else None
        if folder is not None and str(source) == "-":
            source = spooled(sys.stdin.buffer, folder, ctx.progress("reading"))
        out = folder / "out" if folder is not None and piped else target
        progress = ctx.progress(f"signing {source.name}")
        with sign(
            source,
            out,
            signer=signer,
            chain=certificates,
            device=gbid,
            clock=ws.clock,
            start=start,
            mode=mode,
            manifest=manifest,
            place=into.place if into is not None else None,
            progress=progress,
        ) as done:
            receipt = ws.record("video.signed", gbid.value, case=case, reason=reason, data=done.event_data())
        if into is not None:
            into.add(done.output, done.manifest)
            chained = {"recording": into.chain.recording, "chain": str(into.chain.path)}
        if piped:
            try:
                send(out, sys.stdout.fileno())
            except BaseException:
                done.manifest.unlink(missing_ok=True)  # nobody has the recording that it speaks of
                raise
    values = {
        "output": target,
        "manifest": done.manifest,
        "device": gbid.value,
        **done.event_data(),
        "seis": done.seis,
        "frames": done.frames,
        "size": done.size,
        "start": done.start,
        "end": done.end,
        **chained,
    }
    return Result(
        data=values,
        receipt=_receipt(receipt),
        lines=[
            f"{target}: {done.frames} frames in {done.gops} GOPs signed by {gbid.value}",
            f"{done.manifest}: keep it with the recording; it proves that nothing was cut off",
        ],
    )


@command("video.inspect", "inspect")
@click.argument("file", type=_FILE)
def inspect_(ctx: Context, *, file: Path) -> Result:
    """Show what FILE holds: tracks, GOPs, NAL units by type, and its signing data, without judging it."""
    from secguard.video.inspection import inspect

    found = inspect(file)
    return Result(
        data=found,
        tables=[
            Table(
                "tracks", ("handler", "codec", "entry", "timescale"), [list(row.values()) for row in found["tracks"]]
            ),
            Table("NAL units", ("type", "count", "bytes"), [list(row.values()) for row in found["nal_types"]]),
            Table(
                "signing data (not verified)",
                ("counter", "slices", "partial", "start", "end", "bytes", "serial", "problem"),
                [list(row.values()) for row in found["seis"][:_MAX_ROWS]],
            ),
        ],
        lines=[f"{found['frames']} frames, {found['gops']} GOPs, {found['nals']} NAL units, {found['seconds']:.2f} s"],
    )


video.add_command(sign_)
video.add_command(seal)
video.add_command(verify)
video.add_command(inspect_)
