"""Checks of the index in SQLite apart from its rows: definitions, B-trees, full-text lists, names with their words."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from itertools import zip_longest

from secguard.audit.index.directory import directory_is_sound
from secguard.audit.index.index import Damage
from secguard.audit.index.names import list_words
from secguard.audit.index.tables import LISTS, LOADING, NAMED, NOTHING, SCHEMA, TREES, numbers_of, quoted
from secguard.core import SystemPartError

__all__ = ["MISCOUNTED", "PARTS", "check_part", "schema_damage"]

MISCOUNTED = "how many events say each name is counted wrongly"
"""How this problem begins; a row that was changed, added or deleted brings it along."""
_MAX_SEQS = 1000
_MAX_NAMES = 10_000


def check_part(db: sqlite3.Connection, part: str) -> Damage:
    """Check one of `PARTS`.

    Raises:
        sqlite3.Error: it cannot be read.
        SystemPartError: another process writes the index all the time.
    """
    return _CHECKS[part](db)


def schema_damage(db: sqlite3.Connection) -> list[str]:
    """What was changed in the definitions of tables and trees."""
    query = "SELECT type, name, sql FROM sqlite_schema"
    fresh = sqlite3.connect(":memory:")
    try:
        fresh.executescript(SCHEMA)
        expected = set(fresh.execute(query))
    finally:
        fresh.close()
    # sqlite_stat tables come from ANALYZE, which only helps the planner.
    actual = {row for row in db.execute(query) if not row[1].startswith("sqlite_stat")}
    if db.execute("PRAGMA application_id").fetchone()[0] == LOADING:
        names = {row[1] for row in actual}
        expected = {row for row in expected if row[1] not in TREES or row[1] in names}
    changed = sorted({(row[0], row[1]) for row in expected ^ actual})
    return [f"the definition of {kind} {name} was changed" for kind, name in changed]


def _trees(db: sqlite3.Connection) -> Damage:
    problems = schema_damage(db)
    problems += [text for (text,) in db.execute("PRAGMA integrity_check(20)") if text != "ok"]
    return Damage(problems, [])


def _directory(db: sqlite3.Connection) -> Damage:
    lost = [table for table in LISTS if not directory_is_sound(db, table)]
    return Damage([f"the directory of the full-text lists {table} does not lead to all words" for table in lost], [])


def _words(db: sqlite3.Connection) -> Damage:
    problems: list[str] = []
    seqs: list[int] = []
    for table in LISTS:
        try:
            db.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")  # noqa: S608 - our own constant
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise
            if error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                (_, _, file), *_ = db.execute("PRAGMA database_list")
                raise SystemPartError(
                    "audit.index.busy", "another process writes the index", hint="try again", where=file
                ) from error
            problems.append(f"full-text lists {table}: {error}")
        except sqlite3.DatabaseError:
            problems.append(f"the full-text lists {table} do not hold the words of the rows")
            rows = _unlisted(db, table)
            seqs += rows if table == "words" else _saying(db, rows)
    return Damage(problems, seqs[:_MAX_SEQS])


def _names(db: sqlite3.Connection) -> Damage:
    """Whether each name has a number of its field's, and is listed with its words."""
    spans = {field: numbers_of(field) for field in NAMED}
    query = "SELECT name.id, field, value, c0 FROM name LEFT JOIN named_content AS list ON list.id = name.id"
    wrong: list[int] = []
    for number, field, value, text in db.execute(query):
        first, last = spans.get(field, (1, 0))
        if not first <= number <= last or text != (list_words(field, value) or None):
            wrong.append(number)
    problems = [f"{len(wrong)} names are not listed by their words"] if wrong else []
    (strays,) = db.execute("SELECT count(*) FROM named_content WHERE id NOT IN (SELECT id FROM name)").fetchone()
    if strays:
        problems.append(f"{strays} lists of words belong to no name")
    return Damage(problems, _saying(db, wrong))


def _uses(db: sqlite3.Connection) -> Damage:
    """Whether as many events say each name as it is counted to be said."""
    wrong: list[str] = []
    for field in NAMED:
        kept = db.execute("SELECT id, uses FROM name WHERE id BETWEEN ? AND ? ORDER BY id", numbers_of(field))
        column = quoted(field)
        said = db.execute(f"SELECT {column}, count(*) FROM event WHERE {column} <> {NOTHING} GROUP BY 1 ORDER BY 1")  # noqa: S608 - our own constants
        if any(name != count for name, count in zip_longest(kept, said)):
            wrong.append(field)
    return Damage([f"{MISCOUNTED}: {', '.join(wrong)}"] if wrong else [], [])


def _saying(db: sqlite3.Connection, numbers: Sequence[int]) -> list[int]:
    """Events that say one of these names."""
    some = json.dumps(numbers[:_MAX_NAMES])
    wanted = " OR ".join(f"{quoted(field)} IN (SELECT value FROM json_each(?1))" for field in NAMED)  # noqa: S608 - our own constants
    query = f"SELECT seq FROM event WHERE {wanted} ORDER BY seq LIMIT ?2"  # noqa: S608 - as above
    return [seq for (seq,) in db.execute(query, (some, _MAX_SEQS))] if numbers else []


def _unlisted(db: sqlite3.Connection, table: str) -> list[int]:
    # Slow, and only after a failed check: sums the inverted lists per row, and compares with the rows' words.
    sums: dict[int, int] = {}
    try:
        db.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS temp.list_{table} USING fts5vocab (main, {table}, instance)")
        for word, index, offset in db.execute(f"SELECT term, doc, offset FROM temp.list_{table}"):  # noqa: S608 - our own constant
            sums[index] = sums.get(index, 0) + hash((word, offset))
        for index, text in db.execute(f"SELECT id, c0 FROM {table}_content"):  # noqa: S608 - as above
            for offset, word in enumerate(str(text).split()):
                sums[index] = sums.get(index, 0) - hash((word, offset))
    except sqlite3.DatabaseError:
        return []  # too damaged to tell; the failed check is reported
    return sorted(index for index, difference in sums.items() if difference)[:_MAX_SEQS]


_CHECKS: dict[str, Callable[[sqlite3.Connection], Damage]] = {
    "trees": _trees,
    "words": _words,
    "directory": _directory,
    "names": _names,
    "uses": _uses,
}
PARTS = tuple(_CHECKS)
"""What can be checked apart from the rows, the longest first: definitions and B-trees; the lists of words; where a
search in them starts; the names with their words; how many events say each."""
