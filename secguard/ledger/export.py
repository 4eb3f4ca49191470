"""A copy of what the log shows to the world: checkpoint, tiles, entries (commitments). No body is in it."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from secguard.core.errors import RefusedError, UsageError
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.progress import Progress, Throttle, silent
from secguard.ledger.layout import Layout, read_config
from secguard.ledger.note import parse_checkpoint
from secguard.ledger.publish import read_checkpoint
from secguard.ledger.tiles import BUNDLE, TileReader, bundle_path, needed_tiles, tile_path

__all__ = ["Exported", "export_log"]


class Exported(NamedTuple):
    """How many entries the copy has, and how many files were written now."""

    size: int
    written: int


def export_log(root: Path, target: Path, progress: Progress = silent) -> Exported:
    """Copy the last checkpoint and all that it covers; what is there already stays as it is.

    The checkpoint is written last: whoever reads meanwhile finds every tile that the checkpoint needs.

    Args:
        root: the log's folder.
        target: where the copy goes; made if missing.
        progress: told the files done.

    Raises:
        UsageError: nothing was published yet.
        RefusedError: the folder holds another log, or a longer one.
        FormatError: a tile is missing.
        SystemPartError: it cannot be written.
    """
    layout = Layout(root)
    read_config(layout)
    note = read_checkpoint(layout)
    if note is None:
        raise UsageError("ledger.checkpoint.none", "nothing is signed yet", hint="run: secguard ledger checkpoint")
    signed = parse_checkpoint(note, str(layout.checkpoint))
    _check_target(target, signed.origin, signed.size)
    tiles = TileReader(layout.public, signed.size)
    report = Throttle(progress)
    needed = list(needed_tiles(signed.size))
    written = 0
    try:
        for done, (level, number, width) in enumerate(needed, 1):
            if level == 0:
                written += _copy_bundle(layout.public, target, number, width)
            path = target / tile_path(level, number, width)
            if not path.exists():
                _put(path, tiles.tile(level, number))
                written += 1
            report(done, len(needed), "tiles")
        os.sync()
    except OSError as error:
        raise translate_os_error(error, error.filename or target) from error
    atomic_write(target / "checkpoint", note)
    for level, number, width in needed:  # partial versions of what is full now
        if width == BUNDLE:
            for name in (tile_path(level, number), *([bundle_path(number)] if level == 0 else [])):
                shutil.rmtree(target / f"{name}.p", ignore_errors=True)
    return Exported(signed.size, written + 1)


def _check_target(target: Path, origin: str, size: int) -> None:
    path = target / "checkpoint"
    if path.exists():
        there = parse_checkpoint(path.read_bytes()[: 1 << 17], str(path))
        if there.origin != origin or there.size > size:
            raise RefusedError(
                "ledger.export.target",
                f"the folder holds {there.size} entries of {there.origin[:80]}",
                hint="export to a folder of its own",
                where=str(target),
            )
    elif target.exists() and any(target.iterdir()) and not (target / "tile").exists():
        raise RefusedError("ledger.export.target", "the folder holds something else", where=str(target))


def _copy_bundle(public: Path, target: Path, number: int, width: int) -> int:
    path = target / bundle_path(number, width)
    if path.exists():
        return 0
    for candidate in (width, BUNDLE):
        source = public / bundle_path(number, candidate)
        if source.exists():
            _put(path, source.read_bytes()[: width * 34])
            return 1
    raise RefusedError(
        "ledger.bundle.missing", "an entry bundle is missing", where=str(public / bundle_path(number, width))
    )


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data, durable=False)
