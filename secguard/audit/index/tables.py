"""The tables of the index in SQLite: what stands where, and which version wrote it.

`event` has one row an event. What people and devices are called, and why somebody looked, comes again and again: such a
value stands once in `name` with the number of events that say it, its words once in the full-text table `named`, and
events hold its number, or `NOTHING`. The full-text table `words` holds the rest of an event's words.
"""

__all__ = [
    "LISTS",
    "LOADING",
    "NAMED",
    "NOTHING",
    "SCHEMA",
    "STORED",
    "TREES",
    "UPGRADES",
    "VERSION",
    "numbers_of",
    "quoted",
]

NAMED = ("actor", "role", "org", "address", "subject", "case", "approver", "reason")
"""Columns of `event` that hold numbers of `name`."""
STORED = ("seq", "id", "kind", "time", "outcome", "digest", *NAMED)
"""Columns of `event`."""
LISTS = ("words", "named")
"""Full-text tables."""
NOTHING = 0
"""What stands there where an event says nothing; it is no name, and not in the trees."""
_SPAN = 1 << 28


def quoted(field: str) -> str:
    """A field's column; `case` is a word of SQL."""
    return '"case"' if field == "case" else field


def numbers_of(field: str) -> tuple[int, int]:
    """First and last number of a field's names: each has a span of its own, so that a search can keep to one field."""
    first = NAMED.index(field) * _SPAN + 1
    return first, first + _SPAN - 1


VERSION = 3
_META = """
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT, position INTEGER NOT NULL) STRICT;
INSERT INTO meta VALUES (1, NULL, 0)
""".strip()
_TABLES = f"""
CREATE TABLE name (
  id INTEGER PRIMARY KEY, field TEXT NOT NULL, value TEXT NOT NULL, uses INTEGER NOT NULL, UNIQUE (field, value)
) STRICT;
CREATE TABLE event (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, kind TEXT NOT NULL, time INTEGER NOT NULL, outcome TEXT NOT NULL,
  digest BLOB NOT NULL, {", ".join(f"{quoted(field)} INTEGER NOT NULL" for field in NAMED)}
) STRICT;
CREATE VIRTUAL TABLE named USING fts5 (text, tokenize = 'ascii', columnsize = 0);
CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'ascii', columnsize = 0)
""".strip()
TREES = {
    "event_id": "CREATE INDEX event_id ON event (id)",
    "event_time": "CREATE INDEX event_time ON event (time)",
    "event_kind": "CREATE INDEX event_kind ON event (kind, time)",
    "event_refused": "CREATE INDEX event_refused ON event (outcome, kind, time) WHERE outcome <> 'success'",
    **{
        f"event_{field}": f"CREATE INDEX event_{field} ON event ({column}, time) WHERE {column} <> {NOTHING}"
        for field, column in zip(NAMED, map(quoted, NAMED), strict=True)
    },
}
"""Built after many rows, not with them: that takes a third of the time. A search without them is slow, and right."""
LOADING = 1
"""The database's application ID while trees are left out."""
SCHEMA = ";\n".join((_META, _TABLES, *TREES.values())) + ";\n"
_ANEW = (
    *(f"DROP TABLE IF EXISTS {table}" for table in ("event", "name", *LISTS)),
    "UPDATE meta SET origin = NULL, position = 0",
)
UPGRADES = dict.fromkeys(range(1, VERSION), ";\n".join((*_ANEW, _TABLES, *TREES.values())))
"""An index of an earlier version is begun anew, and built again from the ledger."""
