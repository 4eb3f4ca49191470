"""The anchor: the last checkpoint, kept apart from the log, replaced only by compare-and-swap.

A log restored from an old backup finds an anchor that is ahead of it, and refuses to sign a second history.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from secguard.core.errors import RefusedError, SystemPartError
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.limits import read_bounded

__all__ = ["Anchor"]

_MAX = 64 << 10


class Anchor:
    """One file that holds the last signed checkpoint of one log, in a folder that may hold those of many."""

    def __init__(self, folder: Path, origin: str) -> None:
        self.path = folder / f"{quote(origin, safe='')}.checkpoint"

    def read(self) -> bytes | None:
        """The checkpoint, or None if there is none.

        Raises:
            SystemPartError: it cannot be read.
        """
        try:
            return read_bounded(self.path, _MAX) if self.path.exists() else None
        except OSError as error:
            raise translate_os_error(error, self.path) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o640)
        except OSError as error:
            raise SystemPartError(
                "ledger.anchor.unreachable",
                f"cannot reach the anchor: {error.strerror}",
                hint="mount the store that holds the anchor, then publish again",
                where=str(self.path),
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def swap(self, old: bytes | None, new: bytes) -> None:
        """Replace `old` by `new`, durably.

        Raises:
            RefusedError: `ledger.anchor.changed`: the anchor does not hold `old`.
            SystemPartError: it cannot be written.
        """
        with self._locked():
            if self.read() != old:
                raise RefusedError(
                    "ledger.anchor.changed",
                    "another process has published meanwhile",
                    hint="run the command again",
                    where=str(self.path),
                )
            atomic_write(self.path, new)
