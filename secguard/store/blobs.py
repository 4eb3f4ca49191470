"""Content-addressed blobs: anything too large for an event lies under its SHA-256; the event carries the digest."""

import hashlib
from pathlib import Path

import msgspec

from secguard.core.errors import FormatError, UsageError
from secguard.core.files import atomic_write
from secguard.core.limits import MAX_DOCUMENT, read_bounded

__all__ = ["BlobRef", "BlobStore"]


class BlobRef(msgspec.Struct, frozen=True):
    """A blob's name: SHA-256 in lower-case hex, and its size in bytes."""

    sha256: str
    size: int


class BlobStore:
    """A folder of blobs, `ab/cdef...`, each written once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise UsageError("store.blob.name", "a blob is named by 64 lower-case hex digits")
        return self._root / sha256[:2] / sha256[2:]

    def put(self, data: bytes) -> BlobRef:
        """Store `data` durably and return its name.

        Raises:
            SystemPartError: the write failed.
        """
        ref = BlobRef(hashlib.sha256(data).hexdigest(), len(data))
        path = self._path(ref.sha256)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, data, mode=0o640)
        return ref

    def get(self, sha256: str) -> bytes:
        """Read a blob and check it against its name.

        Raises:
            UsageError: there is no such blob.
            FormatError: the stored bytes are not what the name says.
        """
        path = self._path(sha256)
        data = read_bounded(path, MAX_DOCUMENT)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FormatError("store.blob.changed", "the stored bytes do not match their digest", where=str(path))
        return data
