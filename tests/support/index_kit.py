"""Tampering with the index in SQLite as somebody would who knows its tables."""

import sqlite3

from secguard.audit.index.names import list_words
from secguard.audit.index.tables import NAMED, numbers_of, quoted

_OTHERS = ", ".join(("kind", "time", "outcome", "digest", *map(quoted, NAMED)))


def say(db: sqlite3.Connection, seq: int, field: str, value: str) -> None:
    """Have an event say another value in a field, with all that belongs to it."""
    known = db.execute("SELECT id FROM name WHERE field = ? AND value = ?", (field, value)).fetchone()
    number = known[0] if known else numbers_of(field)[1]
    if not known:
        db.execute("INSERT INTO name VALUES (?, ?, ?, 0)", (number, field, value))
        db.execute("INSERT INTO named (rowid, text) VALUES (?, ?)", (number, list_words(field, value)))
    db.execute(f"UPDATE event SET {quoted(field)} = ? WHERE seq = ?", (number, seq))


def copy(db: sqlite3.Connection, seq: int, as_seq: int, as_id: str | None = None) -> None:
    """Put a copy of an event's row somewhere else."""
    db.execute(f"INSERT INTO event SELECT ?, ifnull(?, id), {_OTHERS} FROM event WHERE seq = ?", (as_seq, as_id, seq))
