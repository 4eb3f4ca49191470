"""The query language of auditors, as a tree. Parsed by `secguard.audit.query.parser`; any index compiles the tree.

`matches` is the meaning of the tree: every index must find exactly the rows for which it is true.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from secguard.audit.index.rows import Row
from secguard.audit.index.words import Phrase

__all__ = [
    "FIELDS",
    "KEYWORDS",
    "NUMBERS",
    "All",
    "And",
    "Equals",
    "Node",
    "Not",
    "Or",
    "Range",
    "Wildcard",
    "Words",
    "matches",
    "wildcard_parts",
]

KEYWORDS = ("id", "kind", "actor", "role", "org", "address", "subject", "case", "approver", "outcome")
"""Fields that are compared whole: exact values or `*` and `?`."""
NUMBERS = ("time", "seq")
"""Fields with an order: ranges and comparisons; time in microseconds since 1970 UTC, seq the ledger index."""
FIELDS = (*KEYWORDS, *NUMBERS, "reason", "text")
"""All fields; `reason` and `text` are searched by words, and `text` is everything, the reason included."""


@dataclass(frozen=True, slots=True)
class All:
    """Every event."""


@dataclass(frozen=True, slots=True)
class And:
    """All parts match."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part matches."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not match."""

    part: "Node"


@dataclass(frozen=True, slots=True)
class Equals:
    """A keyword field has this value; `reason` only with the empty value: no reason is given."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A keyword field matches a pattern: `*` any characters, `?` one, a backslash makes the next one literal."""

    field: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Range:
    """A number lies in [low, high); None is open."""

    field: str
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class Words:
    """A phrase stands in `reason`, or anywhere in `text`."""

    field: str
    phrase: Phrase


Node = All | And | Or | Not | Equals | Wildcard | Range | Words


def wildcard_parts(pattern: str) -> list[tuple[str, bool]]:
    """A pattern's characters, each with whether it is a wildcard."""
    parts: list[tuple[str, bool]] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            parts.append((next(characters, "\\"), False))
        else:
            parts.append((character, character in "*?"))
    return parts


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    # Each star is atomic up to the next literal, so a hostile pattern cannot make the match exponential.
    pieces: list[str] = [""]
    for character, wild in wildcard_parts(pattern):
        if wild and character == "*":
            pieces.append("")
        else:
            pieces[-1] += "." if wild else re.escape(character)
    head, *middle = pieces
    if not middle:
        return re.compile(head, re.DOTALL)
    *middle, tail = middle
    return re.compile(head + "".join(f"(?>.*?{piece})" for piece in middle if piece) + ".*" + tail, re.DOTALL)


def _phrase_in(phrase: Phrase, text: str) -> bool:
    end = "" if phrase.prefix else " "
    return f" {phrase.text}{end}" in f" {text} "


def matches(node: Node, row: Row) -> bool:
    """Tell whether a row is what the query asks for."""
    match node:
        case And(parts):
            return all(matches(part, row) for part in parts)
        case Or(parts):
            return any(matches(part, row) for part in parts)
        case Not(part):
            return not matches(part, row)
        case Equals(field, value):
            return bool(getattr(row, field) == value)
        case Wildcard(field, pattern):
            return _expression(pattern).fullmatch(getattr(row, field)) is not None
        case Range(field, low, high):
            value = getattr(row, field)
            return (low is None or value >= low) and (high is None or value < high)
        case Words(field, phrase):
            return _phrase_in(phrase, row.reason) or (field == "text" and _phrase_in(phrase, row.text))
        case All():
            return True
