"""Insert bytes into the samples of an MP4 file: every other byte stays, every chunk offset of every track is corrected.

The output is written beside its final name by copying ranges of the input, so memory does not grow with the file; the
caller renames it when the act is recorded.
"""

import hashlib
import mmap
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import Progress, RefusedError, silent
from secguard.core.files import fsync_directory, translate_os_error
from secguard.video.containers import Track
from secguard.video.containers.mp4 import Box, Movie, fail, walk
from secguard.video.containers.samples import chunk_offsets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["Insertion", "Pending", "splice"]

_COPY = 1 << 20
_RELEASE = 32 << 20  # bytes after which pages already copied are given back
_FIXED = {b"saio", b"iloc", b"tfra", b"tfhd"}  # boxes with file offsets that this module does not correct
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}


@dataclass(frozen=True, slots=True)
class Insertion:
    """Bytes that go into a sample.

    Attributes:
        sample: zero-based sample of the video track that grows.
        offset: file offset in the input that the bytes are put before.
        data: the bytes.
        behind: they end the sample, so a chunk that begins at `offset` moves.
    """

    sample: int
    offset: int
    data: bytes
    behind: bool = False


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


def _header(kind: bytes, size: int, wide: bool) -> bytes:
    """A box header for `size` bytes of body; 16 bytes if `wide` or needed."""
    if wide or size + 8 > 0xFFFFFFFF:
        return (1).to_bytes(4, "big") + kind + (size + 16).to_bytes(8, "big")
    return (size + 8).to_bytes(4, "big") + kind


class _Shift:
    """Where a file offset of the input lands in the output."""

    def __init__(self) -> None:
        self.edits: list[tuple[int, int, int]] = []  # (offset, 0 moves a thing at the offset | 1 does not, bytes)

    def add(self, offset: int, size: int, *, behind: bool) -> None:
        self.edits.append((offset, 0 if behind else 1, size))

    def apply(self, offsets: "Int64s") -> "Int64s":
        edits = sorted(self.edits)
        # Keys 2 * offset (moves what is at the offset) and 2 * offset + 1 (does not) against 2 * target.
        keys = np.array([2 * offset + order for offset, order, _ in edits], dtype=np.int64)
        sums = np.concatenate(([0], np.cumsum(np.array([size for _, _, size in edits], dtype=np.int64))))
        moved: Int64s = offsets + sums[np.searchsorted(keys, 2 * offsets, side="right")]
        return moved


def _check(movie: Movie) -> None:
    if movie.fragmented:
        raise RefusedError(
            "video.mp4.fragmented",
            "a fragmented MP4 file is not signed in place",
            hint="store it unfragmented first: ffmpeg -i IN -c copy OUT.mp4",
            where=str(movie.path),
        )
    for box in movie.boxes:
        if box.kind in {b"meta", b"mfra"}:
            for child in walk(movie.data, box.body + (4 if box.kind == b"meta" else 0), box.end, movie.path):
                _refuse(movie, child)
        _refuse(movie, box)
    for track in movie.tracks:
        for box in track.tables.values():
            _refuse(movie, box)


def _refuse(movie: Movie, box: Box) -> None:
    if box.kind in _FIXED:
        raise RefusedError(
            "video.mp4.fixed-offsets",
            f"box {box.kind.decode('latin-1')!r} holds file offsets that would be wrong afterwards",
            hint="remux the file first: ffmpeg -i IN -c copy OUT.mp4",
            where=f"{movie.path}, byte {box.start}",
        )


def _stsz(sizes: "Int64s") -> bytes:
    return bytes(4) + bytes(4) + len(sizes).to_bytes(4, "big") + sizes.astype(">u4").tobytes()


def _offsets(kind: bytes, offsets: "Int64s") -> tuple[bytes, bytes]:
    """Type and body of the chunk offset box; `co64` where 32 bits no longer do."""
    wide = kind == b"co64" or (len(offsets) > 0 and int(offsets.max()) > 0xFFFFFFFF)
    body = bytes(4) + len(offsets).to_bytes(4, "big") + offsets.astype(">u8" if wide else ">u4").tobytes()
    return (b"co64" if wide else b"stco"), body


def _rebuild(movie: Movie, box: Box, replaced: dict[int, tuple[bytes, bytes]]) -> bytes:
    """`box` with the boxes that start at the keys of `replaced` exchanged; all else as it is."""
    if box.start in replaced:
        kind, body = replaced[box.start]
        return _header(kind, len(body), wide=False) + body
    if box.kind not in _CONTAINERS:
        return bytes(movie.data[box.start : box.end])
    inner = b"".join(_rebuild(movie, child, replaced) for child in walk(movie.data, box.body, box.end, movie.path))
    return _header(box.kind, len(inner), wide=box.header == 16) + inner


def _moov(movie: Movie, track: Track, sizes: "Int64s", chunks: "list[Int64s]") -> bytes:
    replaced = {track.tables[b"stsz"].start: (b"stsz", _stsz(sizes))}
    for other, offsets in zip(movie.tracks, chunks, strict=True):
        table = other.tables.get(b"stco") or other.tables[b"co64"]
        replaced[table.start] = _offsets(table.kind, offsets)
    return _rebuild(movie, movie.moov, replaced)


def splice(
    movie: Movie,
    track: Track,
    sizes: "Int64s",
    insertions: Sequence[Insertion],
    target: Path,
    *,
    progress: Progress = silent,
) -> Pending:
    """Write a copy of the movie with `insertions` made.

    Args:
        movie: the input.
        track: the track whose samples grow.
        sizes: its sample sizes in the input.
        insertions: in order of `offset`.
        target: final name of the output; the copy stands beside it under a temporary name.
        progress: called with bytes written.

    Raises:
        RefusedError: the file holds offsets that cannot be corrected.
        SystemPartError: the disk is full, or any other failed write; nothing is left behind.
    """
    _check(movie)
    shift = _Shift()
    grown = sizes.copy()
    for item in insertions:
        shift.add(item.offset, len(item.data), behind=item.behind)
        grown[item.sample] += len(item.data)
    # The pieces of the output: ranges of the input, and new bytes between them.
    edits: list[tuple[int, int, bytes]] = [(item.offset, item.offset, item.data) for item in insertions]
    for box in movie.boxes:
        added = sum(len(item.data) for item in insertions if box.body <= item.offset <= box.end)
        if box.kind == b"mdat" and added and movie.data[box.start : box.start + 4] != bytes(4):
            header = _header(b"mdat", box.end - box.body + added, wide=box.header == 16)
            edits.append((box.start, box.body, header))
            shift.add(box.start, len(header) - box.header, behind=True)
    held = sum(
        1 for item in insertions for box in movie.boxes if box.kind == b"mdat" and box.body <= item.offset <= box.end
    )
    if held != len(insertions):
        raise fail(movie.path, insertions[0].offset, "samples lie outside the media data (mdat)")
    chunks = [chunk_offsets(movie, item) for item in movie.tracks]
    growth = 0
    while True:  # the index may stand before the samples, and may itself grow when offsets need 64 bits
        moved = _Shift()
        moved.edits = [*shift.edits, (movie.moov.start, 0, growth)]
        moov = _moov(movie, track, grown, [moved.apply(column) for column in chunks])
        if len(moov) - (movie.moov.end - movie.moov.start) == growth:
            break
        growth = len(moov) - (movie.moov.end - movie.moov.start)
    edits.append((movie.moov.start, movie.moov.end, moov))
    return _write(movie, sorted(edits, key=lambda edit: edit[0]), target, progress)


def _write(movie: Movie, edits: list[tuple[int, int, bytes]], target: Path, progress: Progress) -> Pending:
    beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    digest = hashlib.sha256()
    written, total = 0, len(movie.data) + sum(len(data) for _, _, data in edits)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with memoryview(movie.data) as view:
                at = released = 0
                for start, stop, data in [*edits, (len(movie.data), len(movie.data), b"")]:
                    for low in range(at, start, _COPY):
                        piece = view[low : min(low + _COPY, start)]
                        digest.update(piece)
                        written += _put(descriptor, piece)
                        progress(min(written, total - 1), total, "bytes")
                    if start - released > _RELEASE:
                        released = start
                        movie.data.madvise(mmap.MADV_DONTNEED)
                    digest.update(data)
                    written += _put(descriptor, memoryview(data))
                    at = stop
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
    progress(total, total, "bytes")
    return Pending(beside, target, digest.digest(), written)


def _put(descriptor: int, piece: memoryview) -> int:
    length = len(piece)
    while piece:
        piece = piece[os.write(descriptor, piece) :]
    return length
