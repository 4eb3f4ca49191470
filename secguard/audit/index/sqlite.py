"""The index in SQLite: rows, names and words (`secguard.audit.index.tables`). Derived, so written without fsync."""

import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secguard.audit.index.counts import count_events, count_groups
from secguard.audit.index.helpers import MANY
from secguard.audit.index.index import Counted, Cursor, Damage, Found, Health, Refused, refuse
from secguard.audit.index.names import Names
from secguard.audit.index.rows import Row
from secguard.audit.index.soundness import PARTS, check_part, schema_damage
from secguard.audit.index.sql import Condition
from secguard.audit.index.tables import LISTS, LOADING, SCHEMA, STORED, TREES, UPGRADES, VERSION, quoted
from secguard.audit.query.groups import Grouping, check_groups, groups_of
from secguard.audit.query.query import Node
from secguard.core import FormatError, RefusedError, SecguardError, SystemPartError
from secguard.store import open_sqlite

__all__ = ["SqliteIndex"]

_HASH_BYTES = 32 << 20
"""Memory for new words before FTS5 writes a segment of them; its own default of 1 MB makes it merge all the time."""
_MERGED = 4
"""Segments of words that FTS5 merges by default."""
_CACHE_KIB = 64 << 10
_MAPPED = (1 << 31) - (1 << 16)  # SQLite's own limit
_ADD_EVENT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_WORDS = "INSERT INTO words (rowid, text) VALUES (?, ?)"

_ROWS = f"SELECT {', '.join(map(quoted, STORED))} FROM event WHERE seq"  # noqa: S608 - our own constants
# words_content is where FTS5 keeps the text as given: an ordinary table, far faster to read in order.
_WORDS = "SELECT id, c0 FROM words_content WHERE id"


class SqliteIndex:
    """`secguard.audit.index.index.Index` in one SQLite file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._db = connection
        # Called every few milliseconds while SQLite works, so that Python can see an interrupt.
        connection.set_progress_handler(lambda: 0, 500_000)
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._names = Names(connection)

    @classmethod
    def open(cls, path: Path, *, rebuild: bool = False) -> "SqliteIndex":
        """Open the index, or make an empty one.

        Args:
            path: the database file; its directory is made.
            rebuild: the caller empties it next: a file that cannot be opened is removed and made anew.

        Raises:
            FormatError: the file is no database.
            RefusedError: another version wrote it.
            SystemPartError: it cannot be opened.
        """
        try:
            index = cls(path, _open(path))
        except (FormatError, RefusedError):
            if not rebuild:
                raise
        else:
            if not rebuild or index.is_whole():
                return index
            index.close()
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return cls(path, _connect(path))

    def map_file(self) -> None:
        """Read the file as memory: a third faster; but if somebody cuts it off meanwhile, this process ends."""
        self._db.execute(f"PRAGMA mmap_size={_MAPPED}")

    def is_whole(self) -> bool:
        """Whether all tables are there, as they should be."""
        try:
            return not schema_damage(self._db)
        except sqlite3.DatabaseError:
            return False

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextmanager
    def _guard(self, *, transaction: str = "") -> Iterator[None]:
        try:
            if transaction:
                self._db.execute(transaction)
            yield
            if transaction:
                self._db.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            raise RefusedError(
                "audit.index.conflict",
                "rows stand in the index where none should be",
                hint="compare it with the ledger: secguard audit reconcile",
                where=str(self._path),
            ) from error
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise KeyboardInterrupt from error
            raise SystemPartError(
                "audit.index.failed",
                f"the index failed: {error}",
                hint="free space or wait; rebuild: secguard audit reindex",
                where=str(self._path),
            ) from error
        except sqlite3.DatabaseError as error:
            raise FormatError(
                "audit.index.unreadable",
                f"the index is damaged: {error}",
                hint="rebuild it: secguard audit reindex",
                where=str(self._path),
            ) from error
        finally:
            if transaction and self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _meta(self) -> tuple[str | None, int]:
        with self._guard():
            row = self._db.execute("SELECT origin, position FROM meta").fetchone()
        if row is None:
            raise FormatError(
                "audit.index.unreadable", "the index has lost its position", hint="rebuild it: secguard audit reindex"
            )
        return row[0], row[1]

    @property
    def position(self) -> int:
        """Number of events whose rows are in."""
        return self._meta()[1]

    @property
    def generation(self) -> int:
        """SQLite's own count of changes of the structure: tables are dropped when the index is begun anew."""
        with self._guard():
            return int(self._db.execute("PRAGMA schema_version").fetchone()[0])

    @property
    def origin(self) -> str | None:
        """Name of the log; None while empty."""
        return self._meta()[0]

    def add(
        self,
        origin: str,
        first: int,
        stop: int,
        rows: Sequence[Row],
        put_aside: Callable[[Sequence[Refused]], None] = refuse,
    ) -> bool:
        """Add rows and move the position in one transaction; False if another process was faster."""
        del put_aside  # every row fits
        try:
            with self._guard(transaction="BEGIN IMMEDIATE"):
                if self._meta()[1] != first:
                    return False
                if rows:
                    self._db.executemany(_ADD_EVENT, self._names.numbered(rows))
                    self._db.executemany(_ADD_WORDS, [(row.seq, row.data) for row in rows if row.data])
                self._db.execute("UPDATE meta SET origin = ?, position = ?", (origin, stop))
        except BaseException:
            self._names.forget()
            raise
        return True

    @property
    def refused(self) -> frozenset[int]:
        """None: every row fits."""
        return frozenset()

    @property
    def ecs(self) -> bool:
        """No: columns and words alone."""
        return False

    @property
    def file(self) -> Path:
        """The database file."""
        return self._path

    def prepare(self, count: int) -> None:
        """Drop the trees where more rows come than stand there, and give new words more memory."""
        if count < MANY:
            return
        with self._guard(transaction="BEGIN IMMEDIATE"):
            self._set_lists("hashsize", _HASH_BYTES)
            if count >= self._meta()[1]:
                self._db.execute(f"PRAGMA application_id={LOADING}")
                self._merge_from(0)
                for name in TREES:
                    self._db.execute(f"DROP INDEX IF EXISTS {name}")

    def settle(self) -> None:
        """Build the trees that are not there."""
        with self._guard():
            found = {name for (name,) in self._db.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
        for name, statement in TREES.items():
            if name not in found:
                with self._guard(transaction="BEGIN IMMEDIATE"):
                    self._db.execute(statement.replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS", 1))
        with self._guard():
            if self._db.execute("PRAGMA application_id").fetchone()[0] == LOADING:
                self._merge_from(_MERGED)
                self._db.execute("PRAGMA application_id=0")

    def _merge_from(self, segments: int) -> None:
        # 0: FTS5 merges only where there are 16, all at once; a fifth less work than a few at a time.
        self._set_lists("automerge", segments)

    def _set_lists(self, option: str, value: int) -> None:
        for table in LISTS:
            self._db.execute(f"INSERT INTO {table} ({table}, rank) VALUES (?, ?)", (option, value))  # noqa: S608 - our own constant

    def clear(self) -> None:
        """Drop everything that stands in the file, whoever made it, and begin anew."""
        with self._guard(transaction="BEGIN IMMEDIATE"):
            for kind in ("trigger", "view", "table"):
                names = self._db.execute(
                    "SELECT name FROM sqlite_schema WHERE type = ? AND name NOT LIKE 'sqlite!_%' ESCAPE '!' "
                    "ORDER BY sql LIKE 'CREATE VIRTUAL%' DESC",
                    (kind,),
                ).fetchall()
                for (name,) in names:
                    whole = name.replace('"', '""')
                    self._db.execute(f'DROP {kind} IF EXISTS "{whole}"')
            for statement in filter(None, map(str.strip, SCHEMA.split(";"))):
                self._db.execute(statement)
        self._names.forget()

    def _page(self, condition: Condition, limit: int, total: int, position: int, after: Cursor | None) -> Found:
        snapshot = after.snapshot if after else position
        # Walking meets the page after limit * position / total rows; sorting looks at total rows.
        walked = limit * position // max(total, 1) + 1
        wanted, values = condition.sql(walked=walked if walked < total else 0)
        more = "AND (time, seq) < (?, ?)" if after else ""
        page = f"SELECT time, seq FROM event WHERE seq < ? AND {wanted} {more}"  # noqa: S608 - values are parameters
        bounds = [*(after[1:] if after else ()), limit + 1]
        rows = self._db.execute(f"{page} ORDER BY time DESC, seq DESC LIMIT ?", [snapshot, *values, *bounds]).fetchall()
        following = Cursor(snapshot, *rows[limit - 1]) if len(rows) > limit else None
        return Found(total, [seq for _, seq in rows[:limit]], position, following)

    def find(self, query: Node, *, limit: int, after: Cursor | None = None) -> Found:
        """The newest `limit` matching events, and how many there are."""
        with self._guard(transaction="BEGIN"):
            position, condition = self._meta()[1], Condition(query, self._names)
            total = count_events(self._db, condition, after.snapshot if after else position)
            return self._page(condition, limit, total, position, after)

    def walk(self, query: Node, *, size: int) -> Generator[Found]:
        """All events that match, `size` at a time; what is indexed meanwhile is not among them."""
        page = self.find(query, limit=size)
        yield page
        while page.next is not None:
            with self._guard(transaction="BEGIN"):
                page = self._page(Condition(query, self._names), size, page.total, page.position, page.next)
            yield page

    def count(self, query: Node, by: Grouping) -> Counted:
        """How many events match, by the values of a field or by time."""
        with self._guard(transaction="BEGIN"):
            position = self._meta()[1]
            counts = count_groups(self._db, Condition(query, self._names), by, position)
        check_groups(len(counts))
        return Counted(sum(count for _, count in counts), groups_of(counts, by), position)

    def forget(self, seqs: Sequence[int]) -> int:
        """Delete the rows of events; returns how many there were."""
        places = [(seq,) for seq in seqs]
        self.settle()  # without its tree, each name would be looked for in all rows
        with self._guard(transaction="BEGIN IMMEDIATE"):
            self._db.execute("PRAGMA secure_delete=ON")  # on this connection: freed pages are overwritten
            self._names.unsay(seqs)
            count = self._db.executemany("DELETE FROM event WHERE seq = ?", places).rowcount
            self._db.executemany("DELETE FROM words WHERE rowid = ?", places)
        if count:
            with self._guard():  # the lists keep deleted words until they are merged
                for table in LISTS:
                    self._db.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")  # noqa: S608 - our own constant
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return count

    def health(self) -> Health:
        """Whether the file can be read."""
        try:
            self._meta()
        except SecguardError as error:
            return Health("down", error.message)
        return Health("ok", "SQLite")

    def rows(self, start: int, stop: int) -> list[Row]:
        """The rows with ledger indices [start, stop), in order."""
        return list(map(Row._make, self.plain_rows(start, stop)))

    def plain_rows(self, start: int, stop: int) -> list[tuple[Any, ...]]:
        """`rows` as plain tuples, which equal rows of the same values and take less time to make."""
        return self._rows("BETWEEN ? AND ?", (start, stop - 1))

    def stray(self, stop: int) -> list[Row]:
        """Rows outside [0, stop), at most 1000."""
        return list(map(Row._make, self._rows("NOT BETWEEN ? AND ?", (0, stop - 1), "LIMIT 1000")[:1000]))

    def _rows(self, span: str, bounds: tuple[int, int], limit: str = "") -> list[tuple[Any, ...]]:
        with self._guard(transaction="BEGIN"):
            stored = self._db.execute(f"{_ROWS} {span} ORDER BY seq {limit}", bounds).fetchall()
            words = dict(self._db.execute(f"{_WORDS} {span} ORDER BY id {limit}", bounds))
            rows = self._names.spelled(stored, [words.pop(row[0], "") for row in stored])
        return sorted([*rows, *(Row.blank(seq, data=data) for seq, data in words.items())]) if words else rows

    def damage(self) -> Damage:
        """Check the tables' definitions, the B-trees, and FTS5's inverted lists against the words they come from.

        Works on a connection of its own, so that another thread may read on meanwhile: two threads on one connection
        can wait for each other for ever.
        """
        own = SqliteIndex.open(self._path)
        try:
            found = [own.check(part) for part in PARTS]
        finally:
            own.close()
        return Damage(
            [problem for one in found for problem in one.problems], [place for one in found for place in one.seqs]
        )

    def check(self, part: str) -> Damage:
        """One of `PARTS` of what `damage` checks."""
        # Lists are checked by a statement that counts as writing; else others may write meanwhile.
        with self._guard(transaction="" if part == "words" else "BEGIN"):
            return check_part(self._db, part)


def _connect(path: Path) -> sqlite3.Connection:
    return open_sqlite(path, SCHEMA, VERSION, durable=False, upgrades=UPGRADES)


def _open(path: Path) -> sqlite3.Connection:
    """Open the file without statistics for SQLite's planner.

    Nothing here runs ANALYZE; forged statistics make it join by reading a whole table for each row.
    """
    db = _connect(path)
    names: list[tuple[str]] = []
    with suppress(sqlite3.DatabaseError):  # what is wrong with the file is said where it is used
        query = "SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite!_stat%' ESCAPE '!'"
        names = db.execute(query).fetchall()
        for (name,) in names:
            db.execute(f'DROP TABLE IF EXISTS "{name}"')
    if names:  # this connection remembers what it has read
        db.close()
        db = _connect(path)
    return db
