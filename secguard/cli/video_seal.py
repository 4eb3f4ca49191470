"""`secguard video seal`: manifests for files of any kind, and the chain of a recording."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from secguard.cli.frame import Context, Result, Table, act_options, command
from secguard.core.clock import parse_time, rfc3339
from secguard.core.errors import UsageError
from secguard.core.verdict import Outcome

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.gbid import GbId
    from secguard.keys import Signer
    from secguard.video.recording_seal import Sealed, SigningInto
    from secguard.workspace import Workspace

__all__ = ["seal", "signing_into"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_MAX_ROWS = 20


def _signer(
    ws: "Workspace", device: "GbId", key: str | None, chain: Path | None, passphrase: Path | None, *, imported: bool
) -> "tuple[Signer, list[x509.Certificate]]":
    from secguard.keys import load_signer
    from secguard.trust import read_certificates

    if key is not None and chain is not None:
        return load_signer(key, ws.passphrase(passphrase)), read_certificates(chain)
    if not imported:
        return ws.media_signer(device, passphrase)
    own = ws.actor().name
    name = own if ws.registry.active(own, "operator") else None
    return ws.authority(passphrase).operator_signer(name)


def _folder(paths: tuple[Path, ...], recording: str) -> tuple[Path, list[str] | None]:
    """The recording's folder, and the files in it that were named; None for all."""
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0], None
    folders = {path.parent.resolve() for path in paths}
    if len(folders) != 1:
        raise UsageError(
            "video.seal.folders",
            f"the files of recording {recording} must lie in one folder",
            hint="give the folder that holds them",
        )
    return paths[0].parent, [path.name for path in paths]


@command("video.seal", "seal")
@click.argument("paths", type=click.Path(path_type=Path), metavar="FILE...|DIR", nargs=-1, required=True)
@click.option("--device", required=True, metavar="GBID", help="GB/T 28181 ID of the camera.")
@click.option("--recording", default="", metavar="ID", help="ID of the recording.  [default for DIR: device and time]")
@click.option("--start", "begin", metavar="TIME", help="Time of the first frame.  [default: as the files say]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for manifests and chain."
)
@click.option("--at-import", is_flag=True, help="Seal old files with an operator's or a platform's key, and say so.")
@click.option("--key", metavar="REF", help="Key, file:PATH or pkcs11:.  [default: the workspace's]")
@click.option("--chain", type=_FILE, help="Its certificates in PEM, leaf first; with --key.")
@click.option("--order", type=click.Choice(["name", "time"]), default="name", help="Order of the files in DIR.")
@click.option(
    "--min-age", type=click.FloatRange(min=0), default=0, metavar="SECONDS", help="Leave fresher files alone."
)
@click.option("--heartbeat", is_flag=True, help="Then state that there is nothing else up to now.")
@click.option("--close", is_flag=True, help="Then state that the recording ended.")
@click.option("--promise-heartbeat", type=click.IntRange(min=1), metavar="SECONDS", help="A new recording's promise.")
@click.option("--promise-gap", type=click.FloatRange(min=0), metavar="SECONDS", help="Longest gap between segments.")
@click.option("--passphrase-file", type=_FILE, help="Opens the key.")
@act_options
def seal(
    ctx: Context,
    *,
    paths: tuple[Path, ...],
    device: str,
    recording: str,
    begin: str | None,
    output: Path | None,
    at_import: bool,
    key: str | None,
    chain: Path | None,
    order: str,
    min_age: float,
    heartbeat: bool,
    close: bool,
    promise_heartbeat: int | None,
    promise_gap: float | None,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Seal recordings as they are: a signed manifest beside each FILE, which stays untouched.

    For DIR, or with --recording, also the chain that binds the files to each other: recording.chain.jsonl. Run it again
    to go on: only what is new is sealed. Each act is recorded in the workspace's ledger first.

    Exit code 0: all are sealed; 1: some could not be; 2: nothing was done.
    """
    from secguard.gbid import GbId
    from secguard.video.recording_seal import seal_files, seal_recording
    from secguard.video.recording_writer import Promise
    from secguard.video.seal import Sealer

    del yes  # nothing is asked
    if (key is None) != (chain is None):
        raise UsageError("video.seal.key", "--key and --chain belong together")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise UsageError("video.seal.paths", "give one folder, or files", hint="each recording has a folder of its own")
    chained = bool(folders or recording)
    if not chained and (heartbeat or close or promise_heartbeat or promise_gap is not None):
        raise UsageError("video.seal.paths", "heartbeats and closing belong to a recording", hint="give a folder")
    gbid = GbId.parse(device)
    start = parse_time(begin) if begin else None
    kind: Literal["recording", "import"] = "import" if at_import else "recording"
    with ctx.workspace() as ws:
        signer, certificates = _signer(ws, gbid, key, chain, passphrase_file, imported=at_import)
        receipts: list[Any] = []

        def record(data: Mapping[str, Any]) -> None:
            receipts[:] = [ws.record("video.sealed", gbid.value, case=case, reason=reason, data=dict(data))]

        sealer = Sealer(signer, tuple(certificates), kind)
        if chained:
            folder, names = _folder(paths, recording)
            promise = Promise(promise_heartbeat or 0, -1.0 if promise_gap is None else promise_gap)
            done = seal_recording(
                folder,
                device=gbid,
                sealer=sealer,
                clock=ws.clock,
                record=record,
                names=names,
                recording=recording,
                output=output,
                start=start,
                order=order,
                min_age=min_age,
                heartbeat=heartbeat,
                close=close,
                promise=promise,
                progress=ctx.progress(f"sealing {folder.name or folder}"),
            )
        else:
            done = seal_files(
                paths,
                device=gbid,
                sealer=sealer,
                clock=ws.clock,
                record=record,
                start=start,
                output=output,
                progress=ctx.progress("sealing"),
            )
    return _result(done, gbid.value, kind, receipts)


@contextmanager
def signing_into(
    ws: "Workspace",
    folder: Path,
    device: "GbId",
    who: "tuple[Signer, list[x509.Certificate]]",
    *,
    case: str,
    reason: str,
) -> "Iterator[SigningInto]":
    """Hold the chain of a folder's recording open for a file that is about to be signed into it.

    Raises:
        RefusedError: it is closed or broken, or another process holds it; nothing was signed yet.
    """
    from secguard.video.recording_seal import SigningInto
    from secguard.video.seal import Sealer

    def record(data: Mapping[str, Any]) -> None:
        ws.record("video.sealed", device.value, case=case, reason=reason, data=dict(data))

    sealer = Sealer(who[0], tuple(who[1]))
    with SigningInto.open(folder, device=device, sealer=sealer, clock=ws.clock, record=record) as into:
        yield into


def _result(done: "Sealed", device: str, kind: str, receipts: list[Any]) -> Result:
    good, refused = [item for item in done.files if not item.error], done.refused
    rows: list[dict[str, Any]] = [{name: getattr(item, name) for name in type(item).__slots__} for item in done.files]
    shown = refused[:_MAX_ROWS] or good[:_MAX_ROWS]
    tables = []
    if refused:
        tables = [Table(f"{len(refused)} not sealed", ("file", "why"), [[item.name, item.error] for item in shown])]
    elif good:
        columns = ("file", "container", "GOPs", "frames", "note")
        values = [
            [item.name, item.container, item.gops, item.frames, "its own manifest" if item.adopted else item.note]
            for item in shown
        ]
        tables = [Table(f"{len(good)} sealed", columns, values)]
    lines = [f"{len(good)} sealed for {device}, {done.before} were sealed before", *done.notices]
    if done.fresh:
        lines.append(f"{done.fresh} left for later: changed a moment ago")
    if done.chain:
        state = "closed" if done.closed else f"open, complete up to {rfc3339(done.until)}" if done.until else "open"
        lines.append(f"{done.chain}: recording {done.recording}, {state}")
    return Result(
        data={
            "device": device,
            "sealed": kind,
            "recording": done.recording or None,
            "chain": done.chain or None,
            "closed": done.closed,
            "until": done.until,
            "files": rows,
            "done": len(good),
            "before": done.before,
            "fresh": done.fresh,
            "refused": len(refused),
            "notices": done.notices,
        },
        outcome=Outcome.FAIL if refused else None,
        receipt=(
            {"event_id": receipts[0].event_id, "index": receipts[0].index, "origin": receipts[0].origin}
            if receipts
            else None
        ),
        tables=tables,
        lines=lines,
        jsonl=rows,
    )
