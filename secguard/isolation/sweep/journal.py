"""The journal of an agent's rounds: what it saw, appended and synced after each, so that a kill costs one round.

A record is length (4), CRC-32 (4) and MessagePack. A torn end is what a kill or a full disk leaves: it is cut off, and
its round is done again. The file belongs to one plan and one agent; the first record says which.
"""

import contextlib
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from secguard.core.errors import RefusedError
from secguard.core.files import translate_os_error
from secguard.isolation.sweep.seen import Round

__all__ = ["Journal", "Record", "Slice", "journal_path"]

_HEAD = 8
_MAX_RECORD = 64 << 20
_KEPT_SECONDS = 40 * 86400


class Slice(msgspec.Struct, forbid_unknown_fields=True, array_like=True):
    """Part of a sweep's columns: from probe `first` on, as `seen.pack` packs them."""

    sweep: int
    first: int
    last: int
    left: bytes = b""
    answers: bytes = b""
    heard: bytes = b""


class Record(msgspec.Struct, forbid_unknown_fields=True, array_like=True):
    """One round as it was kept; `packets` and `repeated` are those since the last record."""

    round: Round
    slices: list[Slice]
    repeated: int = 0
    packets: list[tuple[int, int, bool, str]] = []


class _First(msgspec.Struct, forbid_unknown_fields=True, array_like=True):
    plan: str
    agent: str
    v: int = 1


def journal_path(folder: Path, plan: str, agent: str) -> Path:
    """The journal of a plan (by its SHA-256) and an agent."""
    return folder / f"{plan[:16]}-{agent}.rounds"


def _forget(folder: Path) -> None:
    """Remove journals of runs that are long over: no plan is valid for more than a month."""
    for path in folder.glob("*.rounds"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _KEPT_SECONDS:
                path.unlink()


class Journal:
    """Appends records, and reads those of an earlier life."""

    def __init__(self, folder: Path, plan: str, agent: str) -> None:
        """Open or make the journal of a plan (by its SHA-256) and an agent.

        Raises:
            SystemPartError: the folder cannot be written.
            RefusedError: the file belongs to another plan or agent.
        """
        self.path = journal_path(folder, plan, agent)
        first = msgspec.msgpack.encode(_First(plan, agent))
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _forget(folder)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            items = list(self._read())
            if items and items[0][1] != first:
                os.close(self._file)
                raise RefusedError(
                    "isolation.resume.other", "the folder holds the journal of another run", where=str(self.path)
                )
            self.records = [msgspec.msgpack.decode(data, type=Record) for _, data in items[1:]]
            os.ftruncate(self._file, items[-1][0] if items else 0)
            os.lseek(self._file, 0, os.SEEK_END)
            if not items:
                self._append(first)
        except OSError as error:
            raise translate_os_error(error, self.path) from error
        except msgspec.MsgspecError:
            raise RefusedError("isolation.resume.format", "not a journal of rounds", where=str(self.path)) from None

    def _read(self) -> Iterator[tuple[int, bytes]]:
        """(end, payload) of each whole record."""
        at = 0
        while len(head := os.pread(self._file, _HEAD, at)) == _HEAD:
            size, check = int.from_bytes(head[:4]), int.from_bytes(head[4:])
            if size > _MAX_RECORD:
                return
            data = os.pread(self._file, size, at + _HEAD)
            if len(data) != size or zlib.crc32(data) != check:
                return
            at += _HEAD + size
            yield at, data

    def _append(self, data: bytes) -> None:
        line = len(data).to_bytes(4) + zlib.crc32(data).to_bytes(4) + data
        while line:
            line = line[os.write(self._file, line) :]
        os.fdatasync(self._file)

    def append(self, record: Record) -> None:
        """Write a record down for good.

        Raises:
            SystemPartError: it cannot be written.
        """
        try:
            self._append(msgspec.msgpack.encode(record))
        except OSError as error:
            raise translate_os_error(error, self.path) from error

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
