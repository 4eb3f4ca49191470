"""Floor 1: how bytes reach the disk: atomic files, SQLite opened one way, content-addressed blobs."""

from secguard.core.files import atomic_write, fsync_directory, translate_os_error
from secguard.store.blobs import BlobRef, BlobStore
from secguard.store.sqlite import open_sqlite, sqlite_failure, transaction

__all__ = [
    "BlobRef",
    "BlobStore",
    "atomic_write",
    "fsync_directory",
    "open_sqlite",
    "sqlite_failure",
    "transaction",
    "translate_os_error",
]
