"""The registry: the open database and its transactions."""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from secguard.store import sqlite_failure, transaction

__all__ = ["Base", "batched"]

_BATCH = 500
_BULK_PAGES = 16_000
_BULK_CACHE_KIB = 64 << 10
_T = TypeVar("_T")


def batched(values: Iterable[_T]) -> Iterator[tuple[_T, ...]]:
    """Values in portions that one statement takes as parameters."""
    source = iter(values)
    while some := tuple(itertools.islice(source, _BATCH)):
        yield some


class Base:
    """An open database."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One durable step: committed (fsync'ed) when the block ends, rolled back when it raises.

        Raises:
            SystemPartError: the disk is full, or the database is busy or damaged.
        """
        try:
            with transaction(self._db):
                yield
        except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise sqlite_failure(error, self.path) from error

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """For a block of many large transactions: each is as durable as ever, but the log is checkpointed seldom.

        Keys and serial numbers are random, so a batch touches pages all over the indexes; with SQLite's own settings
        nearly every commit would be followed by a checkpoint of its own, and the pages be read again and again.
        """
        for pragma in (f"wal_autocheckpoint={_BULK_PAGES}", f"cache_size=-{_BULK_CACHE_KIB}"):
            self._db.execute(f"PRAGMA {pragma}")
        try:
            yield
        finally:
            for pragma in ("wal_autocheckpoint=1000", "cache_size=-2000"):  # SQLite's own
                self._db.execute(f"PRAGMA {pragma}")

    def snapshot(self, path: Path) -> None:
        """Copy the database as it stands at one moment into a new file, while others go on writing.

        Raises:
            SystemPartError: the disk is full, or the database is busy or damaged.
        """
        try:
            with contextlib.closing(sqlite3.connect(path)) as copy:
                self._db.backup(copy)
        except sqlite3.Error as error:
            raise sqlite_failure(error, path) from error
