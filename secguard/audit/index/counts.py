"""How many events of the index in SQLite match, together or by groups; inside the caller's transaction."""

import sqlite3
from typing import Any

from secguard.audit.index.sql import Condition
from secguard.audit.index.tables import NAMED, NOTHING, numbers_of, quoted
from secguard.audit.query.groups import MAX_GROUPS, ByField, Grouping
from secguard.audit.query.query import All

__all__ = ["count_events", "count_groups"]


def count_events(db: sqlite3.Connection, condition: Condition, snapshot: int) -> int:
    """How many of the first `snapshot` events match."""
    if _reaches_beyond(db, snapshot):
        wanted, values = condition.sql()
        query, values = f"SELECT count(*) FROM event WHERE +seq < ? AND {wanted}", [snapshot, *values]  # noqa: S608 - values are parameters
    else:
        query, values = condition.total()
    return int(db.execute(query, values).fetchone()[0])


def count_groups(db: sqlite3.Connection, condition: Condition, by: Grouping, snapshot: int) -> list[tuple[Any, int]]:
    """How many of the first `snapshot` events match, by groups; of more than `MAX_GROUPS`, some are left out."""
    beyond = _reaches_beyond(db, snapshot)
    if isinstance(condition.query, All) and isinstance(by, ByField) and by.field in NAMED and not beyond:
        return _uses(db, by.field)
    wanted, values = condition.sql()
    if isinstance(by, ByField):
        key = quoted(by.field)
    else:  # SQLite's remainder has the sign of the time
        local = f"time + {by.shift:d}"
        key = f"time - (({local}) % {by.step:d} + {by.step:d}) % {by.step:d}"
    if beyond:
        wanted, values = f"+seq < ? AND {wanted}", [snapshot, *values]
    # values are parameters; the rest are our own constants and numbers
    grouped = f"SELECT {key} AS key, count(*) AS many FROM event WHERE {wanted} GROUP BY key LIMIT ?"  # noqa: S608
    if isinstance(by, ByField) and by.field in NAMED:
        value = f"CASE key WHEN {NOTHING} THEN '' ELSE (SELECT value FROM name WHERE name.id = key) END"  # noqa: S608
        grouped = f"SELECT {value}, many FROM ({grouped})"  # noqa: S608
    return db.execute(grouped, [*values, MAX_GROUPS + 1]).fetchall()


def _reaches_beyond(db: sqlite3.Connection, snapshot: int) -> bool:
    """Whether later events are in than a search may see; to look at each row's place is half the work."""
    (last,) = db.execute("SELECT max(seq) FROM event").fetchone()
    return last is not None and last >= snapshot


def _uses(db: sqlite3.Connection, field: str) -> list[tuple[str, int]]:
    query = "SELECT value, uses FROM name WHERE id BETWEEN ? AND ? LIMIT ?"
    counts = db.execute(query, (*numbers_of(field), MAX_GROUPS + 1)).fetchall()
    (events,) = db.execute("SELECT count(*) FROM event").fetchone()
    silent = events - sum(count for _, count in counts)
    return [("", silent), *counts] if silent else counts
