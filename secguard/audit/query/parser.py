"""Reads a query: `video.downloaded 张三 case:2026-* time:[2026-10-01 TO 2026-10-31] AND NOT reason:*`.

Words next to each other must all match. Operators are AND, OR, NOT in any case (quote such a word to search for it),
and parentheses, also after a field (`actor:(li OR wang)`). The full-width punctuation of Chinese keyboards is
understood. docs/audit.md has the whole language.
"""

import difflib
import re
from datetime import UTC, datetime, timedelta, tzinfo

from secguard.audit.index.rows import microseconds
from secguard.audit.index.words import phrase_of
from secguard.audit.query.query import (
    FIELDS,
    KEYWORDS,
    NUMBERS,
    All,
    And,
    Equals,
    Node,
    Not,
    Or,
    Range,
    Wildcard,
    Words,
    wildcard_parts,
)
from secguard.core import FormatError, UsageError
from secguard.events import Result, canonical_kind

__all__ = ["MAX_DEPTH", "MAX_QUERY", "MAX_TERMS", "field_name", "parse", "parse_cursor"]

MAX_QUERY = 4096
"""Characters of a query."""
MAX_DEPTH = 32
"""Levels of parentheses and NOT."""
MAX_TERMS = 128
"""Terms of a query."""
_MAX_WILDCARDS = 8

_ALIASES = {
    "@timestamp": "time",
    "timestamp": "time",
    "index": "seq",
    "ledger_index": "seq",
    "actor.name": "actor",
    "actor.role": "role",
    "actor.org": "org",
    "actor.address": "address",
    # As ECS and the documents on Elasticsearch name them.
    "event.id": "id",
    "event.action": "kind",
    "event.sequence": "seq",
    "event.reason": "reason",
    "user.name": "actor",
    "user.roles": "role",
    "organization.name": "org",
    "source.address": "address",
    "source.ip": "address",
    **{f"secguard.{name}": name for name in ("subject", "case", "approver", "outcome")},
}
# What a Chinese keyboard types for the same signs; one character for one, so positions stay.
_WIDE = str.maketrans("：（）“”＞＜＝［］｛｝＊　", ':()""><=[]{}* ')

_FIELD = re.compile(r"([^\W\d][\w.]*|@timestamp)\s*(:\s*>=|:\s*<=|:\s*>|:\s*<|:|>=|<=|>|<|=)\s*")
_OPERATOR = re.compile(r"(AND|OR|NOT)(?=[\s()\"]|$)", re.IGNORECASE)
_WORD = re.compile(r'(?:\\.|[^\s()"\\])+', re.DOTALL)
_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_RANGE = re.compile(r'([\[{])\s*("[^"]*"|[^\s"\]}]+)\s+TO\s+("[^"]*"|[^\s"\]}]+)\s*([\]}])', re.IGNORECASE)
_TIME = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?(Z|[+-]\d\d:?\d\d)?)?)?)?", re.ASCII
)
_RELATIVE = re.compile(r"now(?:([+-])(\d{1,6})([smhdw]))?", re.ASCII)
_LAST = microseconds(datetime.max.replace(tzinfo=UTC)) + 1
"""The end of the year 9999: no event is later."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def field_name(name: str) -> str:
    """The short name of a field, whatever its case, also of one in the words of ECS (`user.name`)."""
    return _ALIASES.get(name.lower(), name.lower())


def parse(text: str, *, now: datetime, zone: tzinfo = UTC) -> Node:
    """Read a query.

    Args:
        text: the query; an empty one matches everything.
        now: what `now-7d` counts from, aware.
        zone: zone of dates that name none.

    Raises:
        UsageError: what is wrong, and at which character.
    """
    if len(text) > MAX_QUERY:
        raise UsageError("audit.query.length", f"a query of {len(text)} characters; {MAX_QUERY} is the limit")
    if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
        raise UsageError("audit.query.encoding", "the query is not valid text", hint="use a UTF-8 terminal")
    return _Parser(text, now, zone).parse()


class _Parser:
    def __init__(self, text: str, now: datetime, zone: tzinfo) -> None:
        self._text = text.translate(_WIDE)
        self._raw = text
        self._pos = 0
        self._depth = 0
        self._terms = 0
        self._now = now
        self._zone = zone

    def parse(self) -> Node:
        self._space()
        if self._end():
            return All()
        node = self._or("")
        if not self._end():
            raise self._error("a closing parenthesis without an opening one")
        return node

    def _error(self, message: str, hint: str = "", at: int | None = None) -> UsageError:
        place = self._pos if at is None else at
        return UsageError("audit.query.syntax", message, hint=hint, where=f"query, character {place + 1}")

    def _end(self) -> bool:
        return self._pos >= len(self._text)

    def _space(self) -> None:
        while not self._end() and self._text[self._pos].isspace():
            self._pos += 1

    def _operator(self, name: str) -> bool:
        found = _OPERATOR.match(self._text, self._pos)
        if found is None or found[1].upper() != name:
            return False
        self._pos = found.end()
        self._space()
        return True

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels")

    def _or(self, field: str) -> Node:
        parts = [self._and(field)]
        while self._operator("OR"):
            parts.append(self._and(field))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _and(self, field: str) -> Node:
        parts = [self._not(field)]
        while not self._end() and self._text[self._pos] != ")":
            found = _OPERATOR.match(self._text, self._pos)
            if found is not None and found[1].upper() == "OR":
                break
            self._operator("AND")
            parts.append(self._not(field))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _not(self, field: str) -> Node:
        if not self._operator("NOT"):
            return self._primary(field)
        self._deeper()
        node = Not(self._not(field))
        self._depth -= 1
        return node

    def _primary(self, field: str) -> Node:
        if self._end() or self._text[self._pos] == ")" or _OPERATOR.match(self._text, self._pos):
            raise self._error("a term is missing here", 'quote a word to search for it: "or"')
        if self._text[self._pos] == "(":
            return self._group(field)
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._error(f"more than {MAX_TERMS} terms")
        node = self._term(field)
        self._space()
        return node

    def _group(self, field: str) -> Node:
        start = self._pos
        self._deeper()
        self._pos += 1
        self._space()
        node = self._or(field)
        if self._end():
            raise self._error("this parenthesis is not closed", at=start)
        self._pos += 1
        self._depth -= 1
        self._space()
        return node

    def _term(self, field: str) -> Node:
        found = _FIELD.match(self._text, self._pos)
        if found is None:
            return self._value(field, ":")
        if field:
            raise self._error("a field inside the values of another field")
        field = self._field(found[1])
        operator = found[2].replace(":", "").strip() or ":"
        self._pos = found.end()
        if self._end():
            raise self._error(f"a value for {field} is missing here")
        if self._text[self._pos] == "(" and operator in {":", "="}:
            return self._group(field)
        return self._value(field, operator)

    def _field(self, name: str) -> str:
        name = field_name(name)
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"fields: {', '.join(FIELDS)}; quote text that has a colon"
            raise self._error(f"unknown field {name[:40]!r}", hint)
        return name

    def _value(self, field: str, operator: str) -> Node:
        if field in NUMBERS:
            return self._number(field, operator)
        if operator not in {":", "="}:
            raise self._error(f"{operator} works on {' and '.join(NUMBERS)} only")
        start = self._pos
        if self._text[self._pos] == '"':
            literal = self._quoted()
            return self._literal(field, literal, start)
        if field == "" and self._text[self._pos] in "[{":
            raise self._error("a range needs a field", "write time:[2026-10-01 TO 2026-10-31]")
        pattern = self._word()
        if field == "" and pattern[0] in "+-!":
            raise self._error(f"{pattern[0]} is no operator here", "write AND, OR, NOT, or quote the word", start)
        return self._pattern(field, pattern, start)

    def _quoted(self) -> str:
        found = _QUOTED.match(self._text, self._pos)
        if found is None:
            raise self._error("this quote is not closed")
        raw = self._raw[found.start(1) : found.end(1)]
        self._pos = found.end()
        return re.sub(r"\\(.)", r"\1", raw, flags=re.DOTALL)

    def _word(self) -> str:
        found = _WORD.match(self._text, self._pos)
        if found is None:
            raise self._error("a value is missing here")
        self._pos = found.end()
        # Full-width signs inside a word belong to it, except the wildcard.
        raw = self._raw[found.start() : found.end()].replace("＊", "*")
        trimmed = raw.rstrip(",;，；、。")
        return trimmed or raw

    def _pattern(self, field: str, pattern: str, start: int) -> Node:
        parts = wildcard_parts(pattern)
        wild = sum(flag for _, flag in parts)
        literal = "".join(character for character, _ in parts)
        if wild == 0:
            return self._literal(field, literal, start)
        if wild > _MAX_WILDCARDS:
            raise self._error(f"more than {_MAX_WILDCARDS} wildcards in one term", at=start)
        if pattern == "*":
            if field in {"", "text"}:
                return All()
            return Not(Equals(field, ""))
        if field in KEYWORDS:
            return Wildcard(field, pattern)
        if wild > 1 or parts[-1] != ("*", True):
            raise self._error(
                "in text only one * at the end of a word works",
                f"fields take them anywhere: {', '.join(KEYWORDS)}",
                start,
            )
        return self._words(field, literal[:-1], start, prefix=True)

    def _literal(self, field: str, value: str, start: int) -> Node:
        if field in KEYWORDS:
            return Equals(field, self._known(field, value, start))
        if field == "reason" and not value:
            return Equals(field, "")
        return self._words(field, value, start)

    def _known(self, field: str, value: str, start: int) -> str:
        if field == "outcome" and value not in {item.value for item in Result}:
            raise self._error(f"unknown outcome {value[:40]!r}", f"one of {', '.join(Result)}", start)
        if field == "kind":
            try:
                return canonical_kind(value)
            except FormatError as error:
                raise self._error(error.message, error.hint, start) from error
        return value

    def _words(self, field: str, value: str, start: int, *, prefix: bool = False) -> Node:
        phrase = phrase_of(value, prefix=prefix)
        if phrase is None:
            raise self._error("nothing to search for: no letter, digit or Chinese character", at=start)
        return Words("reason" if field == "reason" else "text", phrase)

    def _number(self, field: str, operator: str) -> Node:
        start = self._pos
        found = _RANGE.match(self._text, start)
        if found is not None and operator in {":", "="}:
            self._pos = found.end()
            low = self._bound(field, found[2].strip('"'), start)
            high = self._bound(field, found[3].strip('"'), start)
            return Range(
                field,
                low and low[0 if found[1] == "[" else 1],
                high and high[1 if found[4] == "]" else 0],
            )
        if self._text[start] in "[{":
            raise self._error("not a range", f"write {field}:[FROM TO UNTIL], with * for an open end")
        text = self._quoted() if self._text[start] == '"' else self._word()
        bound = self._bound(field, text, start)
        if bound is None:
            return All()
        first, after = bound
        match operator:
            case ">":
                return Range(field, after, None)
            case ">=":
                return Range(field, first, None)
            case "<":
                return Range(field, None, first)
            case "<=":
                return Range(field, None, after)
        return Range(field, first, after)

    def _bound(self, field: str, text: str, start: int) -> tuple[int, int] | None:
        """The first value that `text` names and the first one after it; None for an open end."""
        if text == "*":
            return None
        if field == "seq":
            if not text.isascii() or not text.isdigit() or len(text) > 15:
                raise self._error(f"not a ledger index: {text[:40]!r}", at=start)
            return int(text), int(text) + 1
        try:
            return self._instant(text)
        except (ValueError, OverflowError):
            raise self._error(
                f"not a time: {text[:40]!r}", "write 2026-10-01, 2026-10, 2026-10-01T08:00:00+08:00 or now-7d", start
            ) from None

    def _instant(self, text: str) -> tuple[int, int]:
        relative = _RELATIVE.fullmatch(text)
        if relative is not None:
            sign, count, unit = relative.groups()
            shift = timedelta(**{_UNITS[unit]: int(count)}) if unit else timedelta()
            instant = microseconds(self._now - shift if sign == "-" else self._now + shift)
            return instant, instant + 1
        found = _TIME.fullmatch(text)
        if found is None:
            raise ValueError(text)
        year, month, day, hour, minute, second, fraction, offset = found.groups()
        zone = datetime.fromisoformat(f"2000-01-01T00:00{offset}").tzinfo if offset else self._zone
        moment = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0),
                          int((fraction or "").ljust(6, "0")), zone)  # fmt: skip
        first = microseconds(moment)
        if fraction:
            return first, first + 10 ** (6 - len(fraction))
        for part, seconds in ((second, 1), (minute, 60), (day, 86_400)):
            if part:
                return first, first + seconds * 1_000_000
        months = 1 if month else 12
        following = moment.year * 12 + moment.month - 1 + months
        if following >= 120_000:  # there is no year 10000 to say where 9999 ends
            return first, _LAST
        return first, microseconds(moment.replace(year=following // 12, month=following % 12 + 1))


def parse_cursor(text: str) -> tuple[int, int, int]:
    """Read the cursor of an earlier answer.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d{1,15})\.(-?\d{1,18})\.(\d{1,15})", text, re.ASCII)
    if found is None:
        raise UsageError("audit.query.cursor", "not a cursor", hint="take data.next of the page before")
    return int(found[1]), int(found[2]), int(found[3])
