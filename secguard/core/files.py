"""Atomic, durable files: write beside, fsync, rename, fsync the directory."""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from secguard.core.errors import SystemPartError

__all__ = ["atomic_write", "fsync_directory", "translate_os_error"]

_HINTS = {
    errno.ENOSPC: "free some space and run again; nothing was half-written",
    errno.EDQUOT: "the quota is used up; nothing was half-written",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "run as the owner of the folder",
    errno.EPERM: "run as the owner of the folder",
    errno.EIO: "the disk reports errors; check it before anything else",
}


def translate_os_error(error: OSError, where: object) -> SystemPartError:
    """The error a user can act on for a failed system call on `where`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return SystemPartError(
        "core.write.failed", f"cannot write: {reason}", hint=_HINTS.get(error.errno or 0, ""), where=str(where)
    )


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: as the system call does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace `path` by `data` in one step; after a crash the old or the new content stands, never a part.

    What is no file, `/dev/null` or a pipe, is written to and stays what it is.

    Args:
        path: the file; its directory must exist.
        data: its whole content.
        mode: permission bits of the new file.
        durable: wait until the bytes and the name are on the disk.

    Raises:
        SystemPartError: the disk is full, or any other failed write; the old file is untouched.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        if _is_device(path):
            _write(os.open(path, os.O_WRONLY | os.O_CLOEXEC), data, durable=False)
            return
        _write(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), data, durable=durable)
        beside.replace(path)
        if durable:
            fsync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise translate_os_error(error, path) from error


def _is_device(path: Path) -> bool:
    """A device, pipe or socket, or a name that the system keeps for one (`/dev/stdout`)."""
    try:
        kind = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)) or (path.parent == Path("/dev") and path.is_symlink())


def _write(descriptor: int, data: bytes, *, durable: bool) -> None:
    """Write everything and close."""
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
