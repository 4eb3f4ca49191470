"""Write a copy of a file with edits: ranges of the input, and new bytes between them.

The copy stands beside its final name until the caller, having recorded the act, gives it that name. Ranges are copied
piece by piece, so memory does not grow with the file; the copy is hashed as it is written.
"""

import hashlib
import mmap
import os
import queue
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

from secguard.core import Progress
from secguard.core.files import fsync_directory, translate_os_error

__all__ = ["Edit", "Insertion", "Pending", "write_edits", "writing_beside"]

_COPY = 1 << 20
_AHEAD = 8  # pieces written that are not hashed yet
_LAG = (_AHEAD + 2) * _COPY
_RELEASE = 32 << 20  # bytes after which pages already copied are given back

Edit: TypeAlias = tuple[int, int, bytes]
"""Bytes `start` to `stop` of the input become these."""


@dataclass(frozen=True, slots=True)
class Insertion:
    """A NAL unit that goes into a sample.

    Attributes:
        sample: zero-based sample of the video track that grows.
        offset: place in the source's `data` of the NAL unit (its header) that it is put before, or the sample's end.
        unit: the NAL unit, without length or start code.
        behind: it ends the sample, so a chunk that begins at `offset` moves.
        counter: running number of a signed SEI that covers pictures; 0 for any other.
    """

    sample: int
    offset: int
    unit: bytes
    behind: bool = False
    counter: int = 0

    def framed(self, length_size: int) -> tuple[int, bytes]:
        """Where the bytes go, and the unit with its length before it."""
        at = self.offset if self.behind else self.offset - length_size
        return at, len(self.unit).to_bytes(length_size, "big") + self.unit


class Pending:
    """A complete output file under a temporary name; `release` gives it its name, `discard` removes it.

    Attributes:
        path: where it stands now.
        target: where it will stand.
        sha256: hash of its bytes.
        size: its bytes.
    """

    def __init__(self, path: Path, target: Path, sha256: bytes, size: int) -> None:
        self.path = path
        self.target = target
        self.sha256 = sha256
        self.size = size

    def release(self) -> Path:
        """Rename to `target`, durably."""
        try:
            self.path.replace(self.target)
            fsync_directory(self.target.parent)
        except OSError as error:
            raise translate_os_error(error, self.target) from error
        return self.target

    def discard(self) -> None:
        """Remove the temporary file; no error if it is gone."""
        with suppress(OSError):
            self.path.unlink()


def write_edits(data: mmap.mmap, edits: Iterable[Edit], target: Path, progress: Progress) -> Pending:
    """Write `data` with `edits`, which are in order and do not overlap.

    Args:
        data: the mapped input.
        edits: what changes.
        target: final name; the copy stands beside it under a temporary name.
        progress: called with bytes written.

    Raises:
        SystemPartError: the disk is full, or any other failed write; nothing is left behind.
    """
    with writing_beside(target) as (beside, descriptor):
        digest, written = _copy(data, edits, descriptor, progress)
    return Pending(beside, target, digest, written)


@contextmanager
def writing_beside(target: Path) -> Iterator[tuple[Path, int]]:
    """A new file beside `target`, and its descriptor; durable behind the block, removed when the block raises.

    Raises:
        SystemPartError: the disk is full, or any other failed write; nothing is left behind.
    """
    beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            yield beside, descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise translate_os_error(error, target) from error
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


class _Hasher:
    """SHA-256 of what is written, on a second core while the first writes; leaving the block ends it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._queue: queue.Queue[memoryview | bytes | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (piece := self._queue.get()) is not None:
            self._digest.update(piece)
            del piece  # the mapping is closed with its last view

    def update(self, piece: memoryview | bytes) -> None:
        self._queue.put(piece)

    def digest(self) -> bytes:
        """The hash of all; only behind the block."""
        return self._digest.digest()


def _copy(data: mmap.mmap, edits: Iterable[Edit], descriptor: int, progress: Progress) -> tuple[bytes, int]:
    written, total, at, released = 0, len(data), 0, 0
    with memoryview(data) as view, _Hasher() as hasher:
        for start, stop, new in _with_end(edits, total):
            for low in range(at, start, _COPY):
                piece = view[low : min(low + _COPY, start)]
                hasher.update(piece)
                written += _put(descriptor, piece)
                progress(min(low, total - 1), total, "bytes")
                done = low - _LAG  # what is not hashed yet would come back and stay
                if done - released > _RELEASE:
                    page = released - released % mmap.PAGESIZE
                    data.madvise(mmap.MADV_DONTNEED, page, done - done % mmap.PAGESIZE - page)
                    released = done
            if new:
                hasher.update(new)
                written += _put(descriptor, memoryview(new))
            at = stop
    progress(total, total, "bytes")
    return hasher.digest(), written


def _with_end(edits: Iterable[Edit], end: int) -> Iterable[Edit]:
    yield from edits
    yield end, end, b""


def _put(descriptor: int, piece: memoryview) -> int:
    length = len(piece)
    while piece:
        piece = piece[os.write(descriptor, piece) :]
    return length
