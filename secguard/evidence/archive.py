"""A zip file of which every byte is accounted for.

Members are stored, not compressed, one behind the other; all header fields follow from name, size and CRC-32. The
reader rebuilds each header and the directory, and refuses the first byte that is not what the writer would have
written: no gaps, comments, extra fields, duplicate names, second directory or trailing bytes are possible. Any zip
program opens the file (PKWARE APPNOTE 6.3.10, version 1.0, without ZIP64).
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from secguard.core import FormatError, Progress, RefusedError, SecguardError, SystemPartError, UsageError, silent
from secguard.core.files import translate_os_error
from secguard.core.limits import MAX_DOCUMENT

__all__ = ["MAX_ARCHIVE", "MAX_MEMBERS", "Member", "Source", "fingerprint", "read_archive", "write_archive"]

MAX_ARCHIVE = (1 << 32) - (1 << 20)
"""Bytes of an archive: what 32-bit fields can say, with room for the directory."""
MAX_MEMBERS = 4096
"""Members of an archive."""
_MAX_MEMORY = 256 << 20
_CHUNK = 1 << 20

_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,2}")
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION = 10  # stored members need version 1.0
_UNIX = 3 << 8 | _VERSION
_DATE = 1 << 5 | 1  # 1980-01-01: the manifest says when the bundle was made
_MODE = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class Member:
    """A member as it lies in the archive.

    Attributes:
        name: path inside the archive: ASCII letters, digits, `.`, `_`, `-`, at most two `/`.
        size: bytes.
        crc: CRC-32 that the headers state.
        sha256: hash of the bytes that are there, hex.
        data: the bytes; None for a member that was spooled to a file.
        sound: the bytes have the stated CRC-32.
        offset: of the local header in the archive.
    """

    name: str
    size: int
    crc: int
    sha256: str
    data: bytes | None
    sound: bool
    offset: int


@dataclass(frozen=True, slots=True)
class Source:
    """What shall become a member: its name, where the bytes are, and what they are known to hash to."""

    name: str
    content: bytes | Path
    size: int
    crc: int
    sha256: str

    @classmethod
    def of(cls, name: str, data: bytes) -> "Source":
        """A member from bytes in memory."""
        return cls(name, data, len(data), zlib.crc32(data), hashlib.sha256(data).hexdigest())


def fingerprint(name: str, path: Path, progress: Progress = silent) -> Source:
    """A member from a file, which is read once to hash it.

    Raises:
        UsageError: there is no such file.
        SystemPartError: it cannot be read.
    """
    digest, crc, done = hashlib.sha256(), 0, 0
    try:
        with path.open("rb") as file:
            total = path.stat().st_size
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                crc = zlib.crc32(chunk, crc)
                done += len(chunk)
                progress(done, total, "bytes")
    except OSError as error:
        raise _unreadable(error, path) from error
    return Source(name, path, done, crc, digest.hexdigest())


def _unreadable(error: OSError, path: Path) -> SecguardError:
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return UsageError("evidence.file.missing", "no such file", where=str(path))
    return SystemPartError("core.file.unreadable", f"cannot read: {error.strerror}", where=str(path))


def _local(name: bytes, size: int, crc: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0) + name


def _directory(entries: Sequence[tuple[bytes, int, int, int]], start: int) -> bytes:
    """The central directory and the end record for (name, size, CRC-32, offset)."""
    parts = [
        _CENTRAL.pack(b"PK\1\2", _UNIX, _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0, 0, 0, 0, _MODE, offset)
        + name
        for name, size, crc, offset in entries
    ]
    length = sum(map(len, parts))
    end = _END.pack(b"PK\5\6", 0, 0, len(entries), len(entries), length, start, 0)
    return b"".join([*parts, end])


def write_archive(stream: BinaryIO, sources: Iterable[Source], progress: Progress = silent) -> None:
    """Write members in their order.

    Raises:
        RefusedError: `evidence.bundle.too-large`, or a file changed since it was hashed.
    """
    chosen = list(sources)
    total = sum(len(source.name) * 2 + source.size + _LOCAL.size + _CENTRAL.size for source in chosen) + _END.size
    if total > MAX_ARCHIVE or len(chosen) > MAX_MEMBERS:
        raise RefusedError(
            "evidence.bundle.too-large",
            f"{total} bytes in {len(chosen)} files; {MAX_ARCHIVE} bytes and {MAX_MEMBERS} files are the limit",
            hint="export a shorter recording",
        )
    entries = []
    offset = 0
    for source in chosen:
        name = source.name.encode()
        assert _NAME.fullmatch(name), source.name
        entries.append((name, source.size, source.crc, offset))
        stream.write(_local(name, source.size, source.crc))
        _copy(source, stream, progress)
        offset += _LOCAL.size + len(name) + source.size
    stream.write(_directory(entries, offset))


def _copy(source: Source, stream: BinaryIO, progress: Progress) -> None:
    if isinstance(source.content, bytes):
        stream.write(source.content)
        return
    digest, done = hashlib.sha256(), 0
    with source.content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            stream.write(chunk)
            progress(done, source.size, "bytes")
    if done != source.size or digest.hexdigest() != source.sha256:
        raise RefusedError(
            "evidence.file.changed",
            "the file changed while it was exported",
            hint="run again",
            where=str(source.content),
        )


def _broken(offset: int, reason: str) -> FormatError:
    return FormatError("evidence.archive.structure", reason, where=f"byte {offset}")


def read_archive(path: Path, spool: Mapping[str, Path], progress: Progress = silent) -> list[Member]:
    """Read an archive that `write_archive` wrote, in one pass, and account for every byte of it.

    Args:
        path: the archive.
        spool: names of members that are written to files instead of kept in memory.
        progress: called with bytes done.

    Raises:
        UsageError: there is no such file.
        SystemPartError: it cannot be read, or there is no room for what is spooled.
        FormatError: `evidence.bundle.format` if it is no zip file at all; `evidence.archive.structure` with the offset
            of the first byte that the writer would not have written so.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _read(file, size, spool, progress, str(path))
    except OSError as error:
        raise _unreadable(error, path) from error


def _read(file: BinaryIO, size: int, spool: Mapping[str, Path], progress: Progress, where: str) -> list[Member]:
    start = file.read(4)
    file.seek(max(size - _END.size, 0))
    if start != b"PK\3\4" and file.read(4) != b"PK\5\6":
        raise FormatError(
            "evidence.bundle.format", "not an evidence bundle", hint="give the .zip that the export wrote", where=where
        )
    if size > MAX_ARCHIVE:
        raise FormatError("evidence.bundle.format", f"larger than {MAX_ARCHIVE} bytes", where=where)
    members: list[Member] = []
    names: set[str] = set()
    memory = offset = 0
    file.seek(0)
    while (head := file.read(_LOCAL.size)).startswith(b"PK\3\4"):
        if len(members) == MAX_MEMBERS:
            raise _broken(offset, f"it holds more than {MAX_MEMBERS} files")
        member = _member(file, head, offset, size, spool)
        if member.name in names:
            raise _broken(offset, f"it holds {member.name} twice")
        memory += len(member.data or b"")
        if memory > _MAX_MEMORY:
            raise _broken(offset, f"its small files hold more than {_MAX_MEMORY} bytes")
        names.add(member.name)
        members.append(member)
        offset = file.tell()
        progress(offset, size, "bytes")
    expected = _directory([(item.name.encode(), item.size, item.crc, item.offset) for item in members], offset)
    file.seek(offset)
    found = file.read(len(expected) + 1)
    if found != expected:
        at = next(
            (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
        )
        raise _broken(offset + at, "the directory at its end is not the one that belongs to its files")
    return members


def _member(file: BinaryIO, head: bytes, offset: int, size: int, spool: Mapping[str, Path]) -> Member:
    if len(head) < _LOCAL.size:
        raise _broken(offset, "it ends inside a header")
    fields = _LOCAL.unpack(head)
    crc, length, name_length = fields[6], fields[7], fields[9]
    name = file.read(min(name_length, 256))
    if not _NAME.fullmatch(name):
        raise _broken(offset + _LOCAL.size, "a file name in it is not one that the export writes")
    expected = _local(name, length, crc)
    if head + name != expected:
        at = next(i for i, (a, b) in enumerate(zip(head + name, expected, strict=True)) if a != b)
        raise _broken(offset + at, f"the header of {name.decode()} is not the one that belongs to it")
    if file.tell() + length > size:
        raise _broken(offset, f"it ends inside {name.decode()}")
    digest, checksum, left = hashlib.sha256(), 0, length
    kept: list[bytes] = []
    target = spool.get(name.decode())
    if target is None and length > MAX_DOCUMENT:
        raise _broken(offset, f"{name.decode()} is larger than {MAX_DOCUMENT} bytes")
    with _Spool(target) if target is not None else nullcontext(kept) as out:
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise _broken(offset, f"it ends inside {name.decode()}")
            digest.update(chunk)
            checksum = zlib.crc32(chunk, checksum)
            left -= len(chunk)
            out.append(chunk)
    data = None if target is not None else b"".join(kept)
    return Member(name.decode(), length, crc, digest.hexdigest(), data, checksum == crc, offset)


class _Spool:
    """A file that takes chunks; a full disk is said as such, with the file's name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            self._file = self._path.open("wb", buffering=0)
        except OSError as error:
            raise translate_os_error(error, self._path) from error
        return self

    def append(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise translate_os_error(error, self._path) from error

    def __exit__(self, *_: object) -> None:
        self._file.close()
