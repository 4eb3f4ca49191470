"""The values that events say again and again, and their numbers: see `secguard.audit.index.tables`."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any

import msgspec

from secguard.audit.index.rows import Row
from secguard.audit.index.tables import NAMED, NOTHING, STORED, numbers_of, quoted
from secguard.audit.index.words import Phrase, document_of
from secguard.core import SystemPartError

__all__ = ["ENOUGH", "Names", "list_words", "match_of"]

_PLACES = [Row._fields.index(field) for field in NAMED]
_STORED = [Row._fields.index(field) for field in STORED]
_USE = "UPDATE name SET uses = uses + ? WHERE id = ?"
_AT_ONCE = 500
_MAX_KNOWN = 1 << 18
_MAX_CHARACTERS = 1 << 25
"""Values that are remembered, and their characters: about 100 MB at worst."""
ENOUGH = 300
"""Names that are counted to tell a common phrase from a rare one; to list as many takes half a millisecond."""


def match_of(phrase: Phrase) -> str:
    """A phrase in FTS5's query language; its words are letters and digits, so the quotes hold."""
    return f'"{phrase.text}"{"*" if phrase.prefix else ""}'


def _parts(values: set[Any]) -> Iterator[str]:
    """Some hundred at a time as JSON: SQLite takes no text of more than a gigabyte."""
    rest = iter(values)
    while part := list(islice(rest, _AT_ONCE)):
        yield msgspec.json.encode(part).decode()


def list_words(field: str, value: str) -> str:
    """The words by which a name is found; a reason is kept as its words."""
    return value if field == "reason" else document_of(value)


class Names:
    """Numbers of the values that rows hold, for one connection; all calls inside its transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._known: dict[str, dict[str, int]] = {}
        self._values: dict[str, dict[int, str | None]] = {}
        self._characters = 0
        self._version = -1
        self.forget()

    def forget(self) -> None:
        """Remember nothing: what was given numbers was taken back, or is not there any more."""
        self._known = {field: {"": NOTHING} for field in NAMED}
        self._values = {field: {NOTHING: ""} for field in NAMED}
        self._characters = 0

    def numbered(self, rows: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
        """Rows as the table `event` has them; values that are new get their numbers."""
        self._begin()
        columns = list(zip(*rows, strict=True))
        for field, place in zip(NAMED, _PLACES, strict=True):
            known, uses = self._known[field], Counter(columns[place])
            if unknown := uses.keys() - known.keys():
                self._learn(field, unknown)
            columns[place] = tuple(map(known.__getitem__, columns[place]))
            self._db.executemany(_USE, ((count, known[value]) for value, count in uses.items()))
        return zip(*(columns[place] for place in _STORED), strict=True)

    def spelled(self, stored: Sequence[tuple[Any, ...]], data: Sequence[str]) -> list[tuple[Any, ...]]:
        """Rows of the table `event` and their other words as `Row` has them; None for a number that no name has."""
        if not stored:
            return []
        self._begin()
        columns: dict[str, Iterable[Any]] = dict(zip(STORED, zip(*stored, strict=True), strict=True))
        for field in NAMED:
            values = self._values[field]
            if unknown := set(columns[field]).difference(values):
                self._read(field, unknown)
            columns[field] = list(map(values.__getitem__, columns[field]))
        columns |= {"reasoned": [1 if reason else 0 for reason in columns["reason"]], "data": data, "ecs": repeat("")}
        return list(zip(*map(columns.__getitem__, Row._fields), strict=False))

    def _read(self, field: str, numbers: set[int]) -> None:
        values = self._values[field]
        values.update(dict.fromkeys(numbers))
        query = "SELECT name.id, name.value FROM json_each(?) AS j CROSS JOIN name ON name.id = j.value AND field = ?"
        for part in _parts(numbers):
            values.update(self._db.execute(query, (part, field)))
        self._characters += sum(len(values[number] or "") for number in numbers)

    def _begin(self) -> None:
        """Forget when there is too much, or when another process wrote: it may have deleted what we know."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        many = sum(map(len, self._known.values())) + sum(map(len, self._values.values()))
        if version != self._version or many > _MAX_KNOWN or self._characters > _MAX_CHARACTERS:
            self.forget()
            self._version = version

    def _learn(self, field: str, values: set[str]) -> None:
        known = self._known[field]
        query = "SELECT name.value, name.id FROM json_each(?) AS j CROSS JOIN name USING (value) WHERE field = ?"
        for part in _parts(values):
            known.update(self._db.execute(query, (part, field)))
        new = sorted(values.difference(known))
        numbers = self._numbers(field, len(new))
        self._db.executemany("INSERT INTO name VALUES (?, ?, ?, 0)", zip(numbers, repeat(field), new, strict=False))
        lists = ((number, list_words(field, value)) for number, value in zip(numbers, new, strict=True))
        self._db.executemany("INSERT INTO named (rowid, text) VALUES (?, ?)", (item for item in lists if item[1]))
        known.update(zip(new, numbers, strict=True))
        self._characters += sum(map(len, values))

    def _numbers(self, field: str, count: int) -> range:
        """New numbers, above all of the field."""
        first, last = numbers_of(field)
        (highest,) = self._db.execute("SELECT max(id) FROM name WHERE id BETWEEN ? AND ?", (first, last)).fetchone()
        start = first if highest is None else highest + 1
        if start + count - 1 > last:
            raise SystemPartError("audit.index.names", f"more than {last - first} different values of {field}")
        return range(start, start + count)

    def unsay(self, seqs: Sequence[int]) -> None:
        """Before events are deleted: count them out; names that no other event says go with their words."""
        uses = [Counter[int]() for _ in NAMED]
        query = f"SELECT {', '.join(map(quoted, NAMED))} FROM json_each(?) AS j CROSS JOIN event ON seq = j.value"  # noqa: S608 - our own constants
        for part in _parts(set(seqs)):
            for said, numbers in zip(uses, zip(*self._db.execute(query, (part,)), strict=True), strict=False):
                said.update(numbers)
        for column, said in zip(map(quoted, NAMED), uses, strict=True):
            self._db.executemany(_USE, ((-count, number) for number, count in said.items()))
            # counted, not believed: a number of uses may have been changed by hand
            query = f"SELECT count(*) FROM (SELECT 1 FROM event WHERE {column} = ? AND {column} <> {NOTHING} LIMIT ?)"  # noqa: S608 - as above
            lone = [
                (number,)
                for number, count in said.items()
                if self._db.execute(query, (number, count + 1)).fetchone()[0] == count
            ]
            self._db.executemany("DELETE FROM name WHERE id = ?", lone)
            self._db.executemany("DELETE FROM named WHERE rowid = ?", lone)
        self.forget()

    def number(self, field: str, value: str) -> int | None:
        """The number of a value; None if no event says it."""
        if not value:
            return NOTHING
        found = self._db.execute("SELECT id FROM name WHERE field = ? AND value = ?", (field, value)).fetchone()
        return None if found is None else int(found[0])

    def counts(self, phrase: Phrase, fields: Sequence[str]) -> dict[str, int]:
        """The fields among whose names a phrase stands, and in how many names, as far as `ENOUGH`."""
        spans = {field: numbers_of(field) for field in fields}
        few = self._some(phrase, min(spans.values())[0], max(spans.values())[1])
        if len(few) < ENOUGH:
            found = {field: sum(first <= number <= last for number in few) for field, (first, last) in spans.items()}
        else:
            found = {field: ENOUGH * len(self._some(phrase, *span, limit=1)) for field, span in spans.items()}
        return {field: count for field, count in found.items() if count}

    def _some(self, phrase: Phrase, first: int, last: int, *, limit: int = 0) -> list[int]:
        query = "SELECT rowid FROM named WHERE named MATCH ? AND rowid BETWEEN ? AND ? LIMIT ?"
        values = (match_of(phrase), first, last, limit or ENOUGH)
        return [number for (number,) in self._db.execute(query, values)]

    def count_words(self, phrase: Phrase) -> int:
        """How many events have a phrase among their other words, as far as `ENOUGH`."""
        query = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        return int(self._db.execute(query, (match_of(phrase), ENOUGH)).fetchone()[0])
