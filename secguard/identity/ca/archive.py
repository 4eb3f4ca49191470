"""The file format of a backup: a tar archive whose first members are a manifest and its MAC under the passphrase.

    manifest.json   what is in it: path, size and SHA-256 of every file, in order
    manifest.mac    HMAC-SHA256 over the manifest, hex; its key comes from the passphrase (scrypt, RFC 7914)
    <path> ...      the files

Nothing of the archive is believed before the MAC fits; headers are read one block at a time (ustar), so a hostile file
costs no memory. Private keys are in it as they lie on the disk: encrypted.
"""

import hashlib
import hmac
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated

import msgspec

from secguard.core import FormatError, Progress, RefusedError, SystemPartError, silent
from secguard.core.files import translate_os_error

__all__ = ["BackupFile", "Manifest", "check_manifest", "hash_file", "read_files", "write_archive"]

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_MANIFEST = 256 << 20
_MAC_BYTES = 64
_CONTEXT = b"secguard identity backup, version 1\n"
_MANIFEST, _MAC = "manifest.json", "manifest.mac"
_PATH = re.compile(r"(identity|certs)(/[^/\x00-\x1f\x7f]{1,200}){1,8}|secguard\.toml")
_SHORT = 100  # bytes of a name in a ustar header

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class BackupFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a backup: where it belongs, bytes, SHA-256 in hex."""

    path: str
    size: _Count
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds.

    Attributes:
        version: of this format.
        created: RFC 3339.
        origin: name of the site's ledger.
        ledger_size: entries of the ledger before the backup was begun.
        salt: of the key derivation, hex.
        files: the files, in the order of the archive.
    """

    version: int
    created: str
    origin: str
    ledger_size: _Count
    salt: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    files: tuple[BackupFile, ...]


def hash_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file.

    Raises:
        SystemPartError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest
    except OSError as error:
        raise SystemPartError("core.file.unreadable", f"cannot read: {error.strerror}", where=str(path)) from error


def write_archive(
    out: IO[bytes], manifest: Manifest, sources: Sequence[Path], passphrase: bytes, progress: Progress = silent
) -> str:
    """Write a backup; returns the SHA-256 of its manifest.

    Args:
        out: an empty file.
        manifest: what it holds.
        sources: where each file of the manifest is read from.
        passphrase: authenticates it.
        progress: told of bytes.

    Raises:
        SystemPartError: a file has changed since it was hashed, or a write failed.
    """
    body = msgspec.json.encode(manifest)
    _put(out, _MANIFEST, body)
    _put(out, _MAC, _mac(body, manifest.salt, passphrase).encode("ascii"))
    total, done = sum(item.size for item in manifest.files), 0
    for number, (item, source) in enumerate(zip(manifest.files, sources, strict=True)):
        out.write(_header(_member(item.path, number), item.size))
        digest, size = hashlib.sha256(), 0
        for chunk in _content(source, item.size):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        if size != item.size or digest.hexdigest() != item.sha256:
            raise SystemPartError(
                "identity.backup.changed", "changed while it was read", hint="run the backup again", where=str(source)
            )
        out.write(bytes(-item.size % _BLOCK))
        done += item.size
        progress(done, total, "bytes")
    out.write(bytes(2 * _BLOCK))
    return hashlib.sha256(body).hexdigest()


def _content(source: Path, size: int) -> Iterator[bytes]:
    """The bytes of a file up to one more than `size`; what fails here is the file, and not the archive."""
    try:
        with source.open("rb") as file:
            while chunk := file.read(min(_CHUNK, size)):
                yield chunk
                size -= len(chunk)
            yield file.read(1)
    except OSError as error:
        raise translate_os_error(error, source) from error


def _member(path: str, number: int) -> str:
    """The name in the archive; it is for people: the manifest says what a file is."""
    return path if len(path.encode("utf-8")) <= _SHORT else f"long-names/{number}"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.USTAR_FORMAT if size < 1 << 33 else tarfile.GNU_FORMAT, "utf-8", "strict")


def _put(out: IO[bytes], name: str, data: bytes) -> None:
    out.write(_header(name, len(data)) + data + bytes(-len(data) % _BLOCK))


def _mac(body: bytes, salt: str, passphrase: bytes) -> str:
    key = hashlib.scrypt(passphrase, salt=bytes.fromhex(salt), n=1 << 15, r=8, p=1, maxmem=64 << 20, dklen=32)
    return hmac.new(key, _CONTEXT + body, hashlib.sha256).hexdigest()


def check_manifest(file: IO[bytes], passphrase: bytes, where: str) -> Manifest:
    """Read the manifest, and believe it only if its MAC fits.

    Raises:
        FormatError: not a backup, damaged, or of another version.
        RefusedError: `identity.backup.forged`: another passphrase, or somebody changed it.
    """
    body = _take(file, _MANIFEST, _MAX_MANIFEST, where)
    mac = _take(file, _MAC, _MAC_BYTES, where)
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _bad("not a backup of `identity ca backup`", where) from error
    if not hmac.compare_digest(_mac(body, manifest.salt, passphrase).encode("ascii"), mac):
        raise RefusedError(
            "identity.backup.forged",
            "this is another passphrase than the backup was made with, or somebody changed the backup",
            hint="give the passphrase of that time with --passphrase-file; else use another copy",
            where=where,
        )
    if manifest.version != 1:
        raise _bad(f"a backup of version {manifest.version}; this program reads version 1", where)
    paths = [item.path for item in manifest.files]
    if len(set(paths)) != len(paths) or not all(
        _PATH.fullmatch(path) and ".." not in path.split("/") for path in paths
    ):
        raise _bad("the manifest names a file twice, or one outside the site", where)
    return manifest


def read_files(file: IO[bytes], manifest: Manifest, where: str) -> Iterator[tuple[BackupFile, Iterator[bytes]]]:
    """The files of a backup, each to be read to its end before the next.

    Raises:
        FormatError: a file is not what the manifest says, or the archive is cut short or has more in it.
    """
    for item in manifest.files:
        _, size = _next(file, where)
        if size != item.size:
            raise _bad(f"{item.path} has another size than the manifest says", where)
        yield item, _chunks(file, item, where)
    if file.read(2 * _BLOCK) != bytes(2 * _BLOCK) or file.read(1):
        raise _bad("it is cut short, or holds more than the manifest says", where)


def _chunks(file: IO[bytes], item: BackupFile, where: str) -> Iterator[bytes]:
    digest, left = hashlib.sha256(), item.size
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            raise _bad("it is cut short", where)
        digest.update(chunk)
        left -= len(chunk)
        yield chunk
    if digest.hexdigest() != item.sha256:
        raise _bad(f"{item.path} is not what the manifest says", where)
    file.read(-item.size % _BLOCK)


def _next(file: IO[bytes], where: str) -> tuple[str, int]:
    block = file.read(_BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _bad("not a tar archive, or cut short", where) from error
    if info.type != tarfile.REGTYPE or info.size < 0:
        raise _bad("it holds something else than files", where)
    return info.name, info.size


def _take(file: IO[bytes], name: str, limit: int, where: str) -> bytes:
    found, size = _next(file, where)
    if found != name or size > limit:
        raise _bad("not a backup of `identity ca backup`", where)
    data = file.read(size)
    file.read(-size % _BLOCK)
    if len(data) != size:
        raise _bad("it is cut short", where)
    return data


def _bad(message: str, where: str) -> FormatError:
    return FormatError("identity.backup.format", message, hint="use another copy of the backup", where=where)
