"""SQLite opened one way everywhere: WAL, foreign keys, a busy timeout, and a schema version that must match."""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from secguard.core.errors import FormatError, RefusedError, SystemPartError

__all__ = ["open_sqlite", "sqlite_failure", "transaction"]

_BUSY_MS = 5000


_LITTLE = 256 << 10
"""Bytes of free space below which SQLite's "disk I/O error" means a full disk: its shared memory could not grow."""


def sqlite_failure(error: sqlite3.Error, path: Path) -> SystemPartError:
    """The error a user can act on for what SQLite says: a full disk is named as one."""
    if "full" in str(error) or ("I/O" in str(error) and shutil.disk_usage(path.parent).free < _LITTLE):
        return SystemPartError(
            "store.sqlite.full",
            "cannot write the database: No space left on device",
            hint="free some space and run again; nothing was half-written",
            where=str(path),
        )
    return SystemPartError(
        "store.sqlite.failed",
        f"the database failed: {error}",
        hint="check the folder's owner, its disk, and whether another process holds it",
        where=str(path),
    )


def _version(path: Path) -> int:
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One step that no other process writes into: committed when the block ends, rolled back when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself may have rolled back, as on a full disk
            connection.execute("ROLLBACK")
        raise


def _upgrade(connection: sqlite3.Connection, upgrades: Mapping[int, str], version: int) -> None:
    with transaction(connection):
        (found,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have been first
        for step in range(found, version):
            for statement in upgrades[step].split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={version}")


def open_sqlite(
    path: Path, schema: str, version: int, *, durable: bool = True, upgrades: Mapping[int, str] | None = None
) -> sqlite3.Connection:
    """Open a database, creating it from `schema` when new; autocommit, so callers write in a `transaction`.

    Args:
        path: the file; its directory is made.
        schema: SQL script of STRICT tables.
        version: the schema's `user_version`.
        durable: `synchronous=FULL` (records) or `NORMAL` (what can be rebuilt).
        upgrades: SQL scripts by the version they lead away from, each to the next one; run in one transaction.

    Raises:
        FormatError: the file is no database.
        RefusedError: the file has another schema version.
        SystemPartError: the file cannot be opened or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise sqlite_failure(error, path) from error
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE;\n{schema}\nPRAGMA user_version={version};\nCOMMIT;")
        elif found < version and all(step in (upgrades or {}) for step in range(found, version)):
            _upgrade(connection, upgrades or {}, version)
        elif found != version:
            raise RefusedError(
                "store.sqlite.version",
                f"the database has schema {found}, this version works with {version}",
                hint="an index can be rebuilt with `secguard audit reindex`; else use the version that wrote it",
                where=str(path),
            )
    except sqlite3.OperationalError as error:
        connection.close()
        if "already exists" in str(error):
            if _version(path):  # another process made it between our look and our BEGIN
                return open_sqlite(path, schema, version, durable=durable, upgrades=upgrades)
            raise FormatError(
                "store.sqlite.format",
                "the database has tables and no version: it was damaged or changed by hand",
                where=str(path),
            ) from error
        raise sqlite_failure(error, path) from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise FormatError("store.sqlite.format", "not a database, or a damaged one", where=str(path)) from error
    except RefusedError:
        connection.close()
        raise
    return connection
