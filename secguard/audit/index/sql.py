"""The query tree as SQL over the tables of `secguard.audit.index.tables`; values stand only in parameters."""

from collections.abc import Mapping, Sequence

from secguard.audit.index import names
from secguard.audit.index.names import Names, match_of
from secguard.audit.index.tables import NAMED, NOTHING, numbers_of, quoted
from secguard.audit.index.words import Phrase
from secguard.audit.query.query import All, And, Equals, Node, Not, Or, Range, Wildcard, Words, wildcard_parts

__all__ = ["Condition"]

_Sql = tuple[str, list[str | int]]
_FEW = 5000
_USES = "SELECT ifnull(sum(uses), 0) FROM name WHERE"
_LIKE = "field = ? AND value GLOB ?"
_HOLDING = "SELECT rowid FROM named WHERE named MATCH ? AND rowid BETWEEN ? AND ?"
_NOWHERE: _Sql = ("0", [])


def _glob(pattern: str) -> str:
    return "".join(
        character if wild or character not in "*?[" else f"[{character}]" for character, wild in wildcard_parts(pattern)
    )


def _is_all(pattern: str) -> bool:
    return not pattern.strip("*")


def _said(field: str, names: str) -> str:
    """The condition that an event says one of some names, as SQLite finds the field's tree by it."""
    return f"({quoted(field)} {names} AND {quoted(field)} <> {NOTHING})"


class Condition:
    """A query as a condition over `event`, for one transaction; where its phrases stand is looked up once.

    Args:
        query: the tree.
        known: looks up what it names.
    """

    def __init__(self, query: Node, known: Names) -> None:
        self.query = query
        self._names = known
        self._places: dict[Words, dict[str, int]] = {}
        self._common = self._few = False

    def sql(self, *, walked: int = 0) -> _Sql:
        """The condition and its parameters; values stand only in the parameters.

        Args:
            walked: many rows match: walk this many rows in the asked order and look each up, rather than sort all that
                match; 0 otherwise.
        """
        self._common, self._few = walked > 0, 0 < walked < _FEW
        return self._compile(self.query)

    def total(self) -> _Sql:
        """A query for how many events match; where names of one field are all that is asked for, their uses tell."""
        match self.query:
            case Equals(field, "") if field in NAMED:
                said = f"{_USES} id BETWEEN ? AND ?"
                return f"SELECT (SELECT count(*) FROM event) - ({said})", [*numbers_of(field)]  # noqa: S608 - our own constants
            case Not(Equals(field, "")) if field in NAMED:
                return f"{_USES} id BETWEEN ? AND ?", [*numbers_of(field)]
            case Equals(field, value) if field in NAMED:
                return f"{_USES} field = ? AND value = ?", [field, value]
            case Wildcard(field, pattern) if field in NAMED and not _is_all(pattern):
                return f"{_USES} {_LIKE}", [field, _glob(pattern)]
            case Words(_, phrase) as node:
                field, *others = self._placed(node) or ("",)
                if field in NAMED and not others:
                    return f"{_USES} id IN ({_HOLDING})", [match_of(phrase), *numbers_of(field)]
        wanted, values = self.sql()
        return f"SELECT count(*) FROM event WHERE {wanted}", values  # noqa: S608 - values are parameters

    def _compile(self, node: Node) -> _Sql:
        match node:
            case And(parts):
                return self._joint(parts, " AND ")
            case Or(parts):
                return self._joint(parts, " OR ")
            case Words():
                return self._joint((node,), " AND ")
            case Not(part):
                sql, values = self._compile(part)
                return f"NOT {sql}", values
            case Equals("reason", _):
                return self._equal("reason", "")
            case Equals(field, value):
                return self._equal(field, value)
            case Wildcard(_, pattern) if _is_all(pattern):
                return "1", []
            case Wildcard(field, pattern) if field in NAMED:
                return _said(field, f"IN (SELECT id FROM name WHERE {_LIKE})"), [field, _glob(pattern)]  # noqa: S608 - our own constants
            case Wildcard(field, pattern):
                return f"{field} GLOB ?", [_glob(pattern)]
            case Range(field, low, high):
                bounds = [(f"{field} {sign} ?", v) for sign, v in ((">=", low), ("<", high)) if v is not None]
                return f"({' AND '.join(sql for sql, _ in bounds) or '1'})", [v for _, v in bounds]
            case All():
                return "1", []

    def _equal(self, field: str, value: str) -> _Sql:
        if field == "outcome" and value != "success":  # said once more for SQLite, which has a tree of these alone
            return "(outcome = ? AND outcome <> 'success')", [value]
        if field not in NAMED:
            return f"{field} = ?", [value]
        number = self._names.number(field, value)
        if not number:
            return _NOWHERE if number is None else (f"{quoted(field)} = {NOTHING}", [])
        return _said(field, "= ?"), [number]

    def _joint(self, parts: Sequence[Node], joint: str) -> _Sql:
        """The parts of an AND or OR; phrases that stand only among other words are looked for together."""
        compiled = [self._compile(part) for part in parts if not isinstance(part, Words)]
        placed = [(self._placed(part), part.phrase) for part in parts if isinstance(part, Words)]
        if only := [match_of(phrase) for places, phrase in placed if places.keys() == {"seq"}]:
            text = joint.join(f"({match})" for match in only)
            compiled.append(self._listed({"seq": 0}, text, walk=self._common))
        spoken = sorted(
            ((places, phrase) for places, phrase in placed if places.keys() != {"seq"}),
            key=lambda item: sum(item[0].values()),
        )
        for place, (places, phrase) in enumerate(spoken):  # start at the rarest
            if self._few and sum(places.values()) >= names.ENOUGH:
                compiled.append(self._read(places, phrase))
            else:
                walk = self._common or (joint == " AND " and place > 0)
                compiled.append(self._listed(places, match_of(phrase), walk=walk))
        return f"({joint.join(sql for sql, _ in compiled)})", [value for _, values in compiled for value in values]

    def _placed(self, node: Words) -> dict[str, int]:
        """In how many names of which fields a phrase stands, and, as `seq`, among other words of how many events."""
        if node not in self._places:
            places = self._names.counts(node.phrase, ("reason",) if node.field == "reason" else NAMED)
            if node.field == "text" and (beside := self._names.count_words(node.phrase)):
                places["seq"] = beside
            self._places[node] = places
        return self._places[node]

    def _listed(self, places: Mapping[str, int], match: str, *, walk: bool) -> _Sql:
        """Events that hold one of the names that match, or match by their other words.

        IN, not JOIN: a hundred times faster. The plus keeps SQLite from starting at the list.
        """
        found: list[str] = []
        values: list[str | int] = []
        for field in places:
            if field == "seq":
                found.append(f"{'+' if walk else ''}seq IN (SELECT rowid FROM words WHERE words MATCH ?)")  # noqa: S608 - our own constants
                values.append(match)
            else:
                found.append(f"+{quoted(field)} IN ({_HOLDING})" if walk else _said(field, f"IN ({_HOLDING})"))
                values += (match, *numbers_of(field))
        return f"({' OR '.join(found) or '0'})", values

    def _read(self, places: Mapping[str, int], phrase: Phrase) -> _Sql:
        """The same by reading the words of a row: for few rows, where to list all that match would take longer."""
        table = {"seq": "words_content"}
        found = [
            f"EXISTS (SELECT 1 FROM {table.get(field, 'named_content')} AS list "  # noqa: S608 - our own constants
            f"WHERE list.id = event.{quoted(field)} AND instr(' ' || list.c0 || ' ', ?))"
            for field in places
        ]
        text = f" {phrase.text}{'' if phrase.prefix else ' '}"
        return f"({' OR '.join(found)})", [text] * len(found)
