"""Dead letters: the raw bytes of records that were put aside, in files of mode 0600, bounded.

What the ledger holds is the reason and the SHA-256; these files only help to see what came. They may hold secrets.
"""

import base64
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from secguard.core.clock import rfc3339
from secguard.core.files import fsync_directory, translate_os_error

__all__ = ["MAX_KEPT", "DeadLetters", "Letter"]

MAX_KEPT = 64 << 10
"""Bytes of one record that are kept."""
_FILE_BYTES = 32 << 20
_TOTAL_BYTES = 256 << 20


class Letter(msgspec.Struct, frozen=True):
    """A record that was put aside.

    Attributes:
        sha256: digest of all its bytes, in hex.
        source: where it came from.
        raw: its bytes, at most `MAX_KEPT`.
        size: how many it had.
    """

    sha256: str
    source: str
    raw: bytes
    size: int


class DeadLetters:
    """Keeps them.

    Args:
        folder: made when the first comes, mode 0700.
        limit: bytes of all files; when it is reached, nothing more is kept until files are removed by hand.
    """

    def __init__(self, folder: Path, limit: int = _TOTAL_BYTES) -> None:
        self._folder = folder
        self._limit = limit

    @property
    def used(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self._folder.glob("*.jsonl"))

    @property
    def full(self) -> bool:
        """Whether nothing more is kept."""
        return self.used >= self._limit

    def keep(self, letters: Sequence[Letter], now: datetime) -> int:
        """Keep letters durably, as far as there is room; returns how many.

        Raises:
            SystemPartError: they cannot be written.
        """
        kept: list[bytes] = []
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            room = self._limit - self.used
            for letter in letters:
                line = _encode(letter, now)
                room -= len(line)
                if room < 0:
                    break
                kept.append(line)
            if kept:  # a line break first: a writer that died may have left half a line
                self._append(self._current(), b"\n" + b"".join(kept))
        except OSError as error:
            raise translate_os_error(error, self._folder) from error
        return len(kept)

    def _current(self) -> Path:
        """The file that is written to: the last one, or a new one when that is long."""
        numbers = sorted(int(path.stem) for path in self._folder.glob("*.jsonl") if path.stem.isdecimal())
        number = numbers[-1] if numbers else 1
        path = self._folder / f"{number:06d}.jsonl"
        return self._folder / f"{number + 1:06d}.jsonl" if numbers and path.stat().st_size >= _FILE_BYTES else path

    def _append(self, path: Path, data: bytes) -> None:
        new = not path.exists()
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fdatasync(file)
        finally:
            os.close(file)
        if new:
            fsync_directory(self._folder)

    def read(self) -> Iterator[dict[str, Any]]:
        """All that is kept, oldest first: `sha256 source received size raw` (raw as bytes); torn lines are left out."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                for line in file:
                    try:
                        value = msgspec.json.decode(line)
                        yield {**value, "raw": base64.b64decode(value["raw"])}
                    except (msgspec.MsgspecError, ValueError, KeyError, TypeError):
                        continue

    def digests(self) -> set[str]:
        """SHA-256, in hex, of every record that is kept."""
        return {value["sha256"] for value in self.read()}


def _encode(letter: Letter, now: datetime) -> bytes:
    value = {
        "sha256": letter.sha256,
        "source": letter.source,
        "received": rfc3339(now),
        "size": letter.size,
        "raw": base64.b64encode(letter.raw[:MAX_KEPT]).decode(),
    }
    return msgspec.json.encode(value) + b"\n"
