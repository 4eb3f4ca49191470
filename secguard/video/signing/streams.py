"""Sign what comes from a pipe, and send it into one.

A file's index may stand at its end and its signatures at its beginning, so both sides are kept in a temporary file
(`TMPDIR`) as large as the recording; memory stays flat. Nothing is sent before the act is recorded.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from secguard.core import Progress, SystemPartError, UsageError
from secguard.core.files import translate_os_error

__all__ = ["send", "spool", "spooled"]

_PIECE = 1 << 20


@contextmanager
def spool() -> Iterator[Path]:
    """A folder for temporary files, readable by nobody else; removed behind the block."""
    try:
        folder = tempfile.mkdtemp(prefix="secguard-")
    except OSError as error:
        raise translate_os_error(error, Path(tempfile.gettempdir())) from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spooled(stream: BinaryIO, folder: Path, progress: Progress) -> Path:
    """Write all that comes from a stream into a file of `folder`.

    Raises:
        UsageError: nothing came.
        SystemPartError: the disk is full.
    """
    path, done = folder / "stdin", 0
    try:
        with path.open("wb") as file:
            while piece := stream.read(_PIECE):
                file.write(piece)
                done += len(piece)
                progress(done, 0, "bytes")
    except OSError as error:
        raise translate_os_error(error, path) from error
    if not done:
        raise UsageError("video.sign.empty", "nothing came from the standard input")
    return path


def send(path: Path, descriptor: int) -> None:
    """Write a file to a pipe.

    Raises:
        SystemPartError: the reader went away before it had everything.
    """
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                view = memoryview(piece)
                while view:
                    view = view[os.write(descriptor, view) :]
    except BrokenPipeError:
        raise SystemPartError(
            "video.sign.pipe",
            "the reader of the output went away: what it has is incomplete",
            hint="sign again; no manifest was written",
        ) from None
    except OSError as error:
        raise translate_os_error(error, Path("-")) from error
