"""The index in SQLite: one STRICT table of rows, one FTS5 table of words. Derived, so written without fsync a batch."""

import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secguard.audit.index.directory import directory_is_sound
from secguard.audit.index.helpers import MANY
from secguard.audit.index.index import Counted, Cursor, Damage, Found, Health, Refused, refuse
from secguard.audit.index.rows import Row
from secguard.audit.index.sql import column, compile_query, whole_words
from secguard.audit.query.groups import MAX_GROUPS, ByField, Grouping, check_groups, groups_of
from secguard.audit.query.query import Node
from secguard.core import FormatError, RefusedError, SecguardError, SystemPartError
from secguard.store import open_sqlite

__all__ = ["PARTS", "SqliteIndex"]

PARTS = ("trees", "directory", "words")
"""What `damage` checks: definitions and B-trees; where a search for words starts; the lists of words."""

_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT, position INTEGER NOT NULL) STRICT;
INSERT INTO meta VALUES (1, NULL, 0);
CREATE TABLE event (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, kind TEXT NOT NULL, time INTEGER NOT NULL, actor TEXT NOT NULL,
  role TEXT NOT NULL, org TEXT NOT NULL, address TEXT NOT NULL, subject TEXT NOT NULL, "case" TEXT NOT NULL,
  approver TEXT NOT NULL, outcome TEXT NOT NULL, reasoned INTEGER NOT NULL, digest BLOB NOT NULL
) STRICT;
CREATE VIRTUAL TABLE words USING fts5 (reason, text, tokenize = 'ascii', columnsize = 0);
"""
_TREES = {
    "event_id": "CREATE INDEX event_id ON event (id)",
    "event_time": "CREATE INDEX event_time ON event (time)",
    "event_kind": "CREATE INDEX event_kind ON event (kind, time)",
    "event_actor": "CREATE INDEX event_actor ON event (actor, time)",
    "event_subject": "CREATE INDEX event_subject ON event (subject, time)",
    "event_case": 'CREATE INDEX event_case ON event ("case", time)',
}
"""Built after many rows, not with them: that takes a third of the time. A search without them is slow, and right."""
_LOADING = 1  # the database's application ID while trees are left out
_HASH_BYTES = 32 << 20
"""Memory for new words before FTS5 writes a segment of them; its own default of 1 MB makes it merge all the time."""
_MERGED = 4
"""Segments of words that FTS5 merges by default."""
_CACHE_KIB = 64 << 10
_WHOLE = ";\n".join((_SCHEMA.strip().removesuffix(";"), *_TREES.values())) + ";\n"
_ADD_EVENT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_WORDS = "INSERT INTO words (rowid, reason, text) VALUES (?, ?, ?)"


class SqliteIndex:
    """`secguard.audit.index.index.Index` in one SQLite file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._db = connection
        # Called every few milliseconds while SQLite works, so that Python can see an interrupt.
        connection.set_progress_handler(lambda: 0, 500_000)
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")

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
        return cls(path, open_sqlite(path, _WHOLE, _VERSION, durable=False))

    def is_whole(self) -> bool:
        """Whether all tables are there, as they should be."""
        try:
            return not _schema_damage(self._db)
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
        with self._guard(transaction="BEGIN IMMEDIATE"):
            if self._meta()[1] != first:
                return False
            self._db.executemany(_ADD_EVENT, [row[:14] for row in rows])
            self._db.executemany(_ADD_WORDS, [(row.seq, row.reason, row.text) for row in rows])
            self._db.execute("UPDATE meta SET origin = ?, position = ?", (origin, stop))
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
            self._db.execute("INSERT INTO words (words, rank) VALUES ('hashsize', ?)", (_HASH_BYTES,))
            if count >= self._meta()[1]:
                self._db.execute(f"PRAGMA application_id={_LOADING}")
                self._merge_from(0)
                for name in _TREES:
                    self._db.execute(f"DROP INDEX IF EXISTS {name}")

    def settle(self) -> None:
        """Build the trees that are not there."""
        with self._guard():
            found = {name for (name,) in self._db.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
        for name, statement in _TREES.items():
            if name not in found:
                with self._guard(transaction="BEGIN IMMEDIATE"):
                    self._db.execute(statement.replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS", 1))
        with self._guard():
            if self._db.execute("PRAGMA application_id").fetchone()[0] == _LOADING:
                self._merge_from(_MERGED)
                self._db.execute("PRAGMA application_id=0")

    def _merge_from(self, segments: int) -> None:
        # 0: FTS5 merges only where there are 16, all at once; a fifth less work than a few at a time.
        self._db.execute("INSERT INTO words (words, rank) VALUES ('automerge', ?)", (segments,))

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
                    quoted = name.replace('"', '""')
                    self._db.execute(f'DROP {kind} IF EXISTS "{quoted}"')
            for statement in filter(None, map(str.strip, _WHOLE.split(";"))):
                self._db.execute(statement)

    def _total(self, query: Node, snapshot: int) -> int:
        match_text, others = whole_words(query)
        condition, values = compile_query(query)
        # Words alone are counted without looking at the rows.
        alone = match_text and not others
        table, key = ("words WHERE words MATCH ?", "rowid") if alone else (f"event WHERE {condition}", "seq")
        count = f"SELECT count(*) FROM {table} AND {key} < ?"  # noqa: S608 - values are parameters
        return int(self._db.execute(count, [*values, snapshot]).fetchone()[0])

    def _page(self, query: Node, limit: int, total: int, position: int, after: Cursor | None) -> Found:
        snapshot = after.snapshot if after else position
        # Walking meets the page after limit * position / total rows; sorting looks at total rows.
        condition, values = compile_query(query, common=total * total > limit * position)
        more = "AND (time, seq) < (?, ?)" if after else ""
        page = f"SELECT time, seq FROM event WHERE seq < ? AND {condition} {more}"  # noqa: S608 - values are parameters
        bounds = [*(after[1:] if after else ()), limit + 1]
        rows = self._db.execute(f"{page} ORDER BY time DESC, seq DESC LIMIT ?", [snapshot, *values, *bounds]).fetchall()
        following = Cursor(snapshot, *rows[limit - 1]) if len(rows) > limit else None
        return Found(total, [seq for _, seq in rows[:limit]], position, following)

    def find(self, query: Node, *, limit: int, after: Cursor | None = None) -> Found:
        """The newest `limit` matching events, and how many there are."""
        with self._guard(transaction="BEGIN"):
            position = self._meta()[1]
            total = self._total(query, after.snapshot if after else position)
            return self._page(query, limit, total, position, after)

    def walk(self, query: Node, *, size: int) -> Generator[Found]:
        """All events that match, `size` at a time; what is indexed meanwhile is not among them."""
        page = self.find(query, limit=size)
        yield page
        while page.next is not None:
            with self._guard(transaction="BEGIN"):
                page = self._page(query, size, page.total, page.position, page.next)
            yield page

    def count(self, query: Node, by: Grouping) -> Counted:
        """How many events match, by the values of a field or by time."""
        with self._guard(transaction="BEGIN"):
            position = self._meta()[1]
            condition, values = compile_query(query)
            if isinstance(by, ByField):
                key = column(by.field)
            else:  # SQLite's remainder has the sign of the time
                local = f"time + {by.shift:d}"
                key = f"time - (({local}) % {by.step:d} + {by.step:d}) % {by.step:d}"
            # values are parameters; the rest are our own constants and numbers
            grouped = f"SELECT {key} AS key, count(*) FROM event WHERE seq < ? AND {condition} GROUP BY key LIMIT ?"  # noqa: S608
            counts = self._db.execute(grouped, [position, *values, MAX_GROUPS + 1]).fetchall()
        check_groups(len(counts))
        return Counted(sum(count for _, count in counts), groups_of(counts, by), position)

    def forget(self, seqs: Sequence[int]) -> int:
        """Delete the rows of events; returns how many there were."""
        places = [(seq,) for seq in seqs]
        with self._guard(transaction="BEGIN IMMEDIATE"):
            self._db.execute("PRAGMA secure_delete=ON")  # on this connection: freed pages are overwritten
            count = self._db.executemany("DELETE FROM event WHERE seq = ?", places).rowcount
            self._db.executemany("DELETE FROM words WHERE rowid = ?", places)
        if count:
            with self._guard():  # the lists keep deleted words until they are merged
                self._db.execute("INSERT INTO words (words) VALUES ('optimize')")
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
        return list(map(Row._make, self._rows("NOT BETWEEN ? AND ?", (0, stop - 1), "LIMIT 1000")))

    def _rows(self, span: str, bounds: tuple[int, int], limit: str = "") -> list[tuple[Any, ...]]:
        # words_content is where FTS5 keeps the text as given: an ordinary table, far faster to read in order.
        events = f"event WHERE seq {span} ORDER BY seq {limit}"
        words = f"words_content WHERE id {span} ORDER BY id {limit}"
        both = f"event JOIN words_content ON words_content.id = seq WHERE seq {span} ORDER BY seq {limit}"
        with self._guard(transaction="BEGIN"):
            query = f"SELECT event.*, c0, c1, '' FROM {both}"  # noqa: S608 - our own constants, here and below
            joined = self._db.execute(query, bounds).fetchall()
            counts = [
                self._db.execute(f"SELECT count(*) FROM (SELECT 1 FROM {table})", bounds).fetchone()[0]  # noqa: S608
                for table in (events, words)
            ]
            if counts == [len(joined)] * 2:
                return joined
            rows = self._db.execute(f"SELECT * FROM {events}", bounds).fetchall()  # noqa: S608
            texts = {row[0]: row[1:] for row in self._db.execute(f"SELECT id, c0, c1 FROM {words}", bounds)}  # noqa: S608
        found: dict[int, tuple[Any, ...]] = {row[0]: (*row, *texts.pop(row[0], ("", "")), "") for row in rows}
        found |= {seq: Row.blank(seq, "", reason, text) for seq, (reason, text) in texts.items()}
        return [found[seq] for seq in sorted(found)]

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
        if part == "words":
            return self._check_words()
        problems: list[str] = []
        if part == "trees":
            with self._guard():
                problems = _schema_damage(self._db)
                problems += [text for (text,) in self._db.execute("PRAGMA integrity_check(20)") if text != "ok"]
        else:
            with self._guard(transaction="BEGIN"):  # others may write meanwhile
                if not directory_is_sound(self._db):
                    problems.append("the directory of the full-text lists does not lead to all words")
        return Damage(problems, [])

    def _check_words(self) -> Damage:
        try:
            self._db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise KeyboardInterrupt from error
            if error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise SystemPartError(
                    "audit.index.busy", "another process writes the index", hint="try again", where=str(self._path)
                ) from error
            return Damage([f"full-text lists: {error}"], [])
        except sqlite3.DatabaseError:
            return Damage(["the full-text lists do not hold the words of the rows"], self._unlisted())
        return Damage([], [])

    def _unlisted(self) -> list[int]:
        # Slow, and only after a failed check: sums the inverted lists per row, and compares with the rows' words.
        sums: dict[int, int] = {}
        try:
            self._db.execute("CREATE VIRTUAL TABLE IF NOT EXISTS temp.list USING fts5vocab (main, words, instance)")
            for word, index, column, offset in self._db.execute("SELECT term, doc, col, offset FROM temp.list"):
                sums[index] = sums.get(index, 0) + hash((word, column, offset))
            for index, *texts in self._db.execute("SELECT id, c0, c1 FROM words_content"):
                for column, text in zip(("reason", "text"), texts, strict=True):
                    for offset, word in enumerate(text.split()):
                        sums[index] = sums.get(index, 0) - hash((word, column, offset))
        except sqlite3.DatabaseError:
            return []  # too damaged to tell; the failed check is reported
        return sorted(index for index, difference in sums.items() if difference)[:1000]


def _open(path: Path) -> sqlite3.Connection:
    """Open the file without statistics for SQLite's planner.

    Nothing here runs ANALYZE; forged statistics make it join by reading a whole table for each row.
    """
    db = open_sqlite(path, _WHOLE, _VERSION, durable=False)
    names: list[tuple[str]] = []
    with suppress(sqlite3.DatabaseError):  # what is wrong with the file is said where it is used
        query = "SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite!_stat%' ESCAPE '!'"
        names = db.execute(query).fetchall()
        for (name,) in names:
            db.execute(f'DROP TABLE IF EXISTS "{name}"')
    if names:  # this connection remembers what it has read
        db.close()
        db = open_sqlite(path, _WHOLE, _VERSION, durable=False)
    return db


def _schema_damage(db: sqlite3.Connection) -> list[str]:
    query = "SELECT type, name, sql FROM sqlite_schema"
    fresh = sqlite3.connect(":memory:")
    try:
        fresh.executescript(_WHOLE)
        expected = set(fresh.execute(query))
    finally:
        fresh.close()
    # sqlite_stat tables come from ANALYZE, which only helps the planner.
    actual = {row for row in db.execute(query) if not row[1].startswith("sqlite_stat")}
    if db.execute("PRAGMA application_id").fetchone()[0] == _LOADING:
        names = {row[1] for row in actual}
        expected = {row for row in expected if row[1] not in _TREES or row[1] in names}
    changed = sorted({(row[0], row[1]) for row in expected ^ actual})
    return [f"the definition of {kind} {name} was changed" for kind, name in changed]
