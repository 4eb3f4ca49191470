"""The values that events say again and again, and their numbers: see `secguard.audit.index.tables`."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from secguard.audit.index.rows import Row
from secguard.audit.index.tables import NAMED, numbers_of, quoted
from secguard.audit.index.words import Phrase, document_of
from secguard.core import SystemPartError

__all__ = ["Names", "list_words", "match_of", "unsaid"]

_PLACES = [Row._fields.index(field) for field in NAMED]
_FIRST = [Row._fields.index(field) for field in ("seq", "id", "kind", "time", "outcome", "digest")]
_REASONED, _REASON = Row._fields.index("reasoned"), Row._fields.index("reason")
_MAX_KNOWN = 1 << 18
_MAX_CHARACTERS = 1 << 25
"""Values that are remembered, and their characters: about 100 MB at worst."""
_ENOUGH = 300
"""Names that are counted to tell a common phrase from a rare one."""


def match_of(phrase: Phrase) -> str:
    """A phrase in FTS5's query language; its words are letters and digits, so the quotes hold."""
    return f'"{phrase.text}"{"*" if phrase.prefix else ""}'


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
        self._known = {field: {} for field in NAMED}
        self._values = {field: {} for field in NAMED}
        self._characters = 0

    def numbered(self, rows: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
        """Rows as the table `event` has them; values that are new get their numbers."""
        self._begin()
        columns = list(zip(*rows, strict=True))
        for field, place in zip(NAMED, _PLACES, strict=True):
            known = self._known[field]
            self._learn(field, set(columns[place]).difference(known))
            columns[place] = tuple(map(known.__getitem__, columns[place]))
        return zip(*(columns[place] for place in (*_FIRST, *_PLACES)), strict=True)

    def spelled(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Rows with values where `rows` have their numbers; None where a number is none of that field."""
        if not rows:
            return []
        self._begin()
        columns: list[Iterable[Any]] = list(zip(*rows, strict=True))
        for field, place in zip(NAMED, _PLACES, strict=True):
            values = self._values[field]
            for number in set(columns[place]).difference(values):
                values[number] = value = self._value(field, number)
                self._characters += len(value or "")
            columns[place] = tuple(map(values.__getitem__, columns[place]))
        columns[_REASONED] = (1 if reason else 0 for reason in columns[_REASON])
        return list(zip(*columns, strict=True))

    def _value(self, field: str, number: int) -> str | None:
        found = self._db.execute("SELECT value FROM name WHERE id = ? AND field = ?", (number, field)).fetchone()
        return None if found is None else str(found[0])

    def _begin(self) -> None:
        """Forget when there is too much, or when another process wrote: it may have deleted what we know."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        many = sum(map(len, self._known.values())) + sum(map(len, self._values.values()))
        if version != self._version or many > _MAX_KNOWN or self._characters > _MAX_CHARACTERS:
            self.forget()
            self._version = version

    def _learn(self, field: str, values: set[str]) -> None:
        known, listed = self._known[field], list[tuple[int, str]]()
        for value in values:
            number = self.number(field, value)
            if number is None:
                number = self._add(field, value)
                if words := list_words(field, value):
                    listed.append((number, words))
            known[value] = number
            self._characters += len(value)
        self._db.executemany("INSERT INTO named (rowid, text) VALUES (?, ?)", listed)

    def _add(self, field: str, value: str) -> int:
        """A new number, the smallest above all of the field."""
        first, last = numbers_of(field)
        query = "INSERT INTO name SELECT ifnull(max(id) + 1, ?), ?, ? FROM name WHERE id BETWEEN ? AND ? RETURNING id"
        ((number,),) = self._db.execute(query, (first, field, value, first, last)).fetchall()
        if number > last:
            raise SystemPartError("audit.index.names", f"more than {last - first} different values of {field}")
        return int(number)

    def number(self, field: str, value: str) -> int | None:
        """The number of a value; None if no event says it."""
        found = self._db.execute("SELECT id FROM name WHERE field = ? AND value = ?", (field, value)).fetchone()
        return None if found is None else int(found[0])

    def counts(self, phrase: Phrase, fields: Sequence[str]) -> dict[str, int]:
        """The fields among whose names a phrase stands, and in how many names: at most some hundred are counted."""
        spans = {field: numbers_of(field) for field in fields}
        few = self._some(phrase, min(spans.values())[0], max(spans.values())[1])
        if len(few) < _ENOUGH:
            found = {field: sum(first <= number <= last for number in few) for field, (first, last) in spans.items()}
        else:
            found = {field: len(self._some(phrase, *span)) for field, span in spans.items()}
        return {field: count for field, count in found.items() if count}

    def _some(self, phrase: Phrase, first: int, last: int) -> list[int]:
        query = "SELECT rowid FROM named WHERE named MATCH ? AND rowid BETWEEN ? AND ?"
        return [number for (number,) in islice(self._db.execute(query, (match_of(phrase), first, last)), _ENOUGH)]

    def count_words(self, phrase: Phrase) -> int:
        """How many events have a phrase among their other words: at most some hundred are counted."""
        found = self._db.execute("SELECT 1 FROM words WHERE words MATCH ?", (match_of(phrase),))
        return sum(1 for _ in islice(found, _ENOUGH))


def unsaid(db: sqlite3.Connection) -> list[int]:
    """Numbers of the names that no event says."""
    found: list[int] = []
    for field in NAMED:
        query = (
            f"SELECT id FROM name WHERE field = ? AND NOT EXISTS (SELECT 1 FROM event WHERE {quoted(field)} = name.id)"  # noqa: S608 - our own constants
        )
        found += [number for (number,) in db.execute(query, (field,))]
    return found
