"""The query tree as Elasticsearch's query DSL, in filter context: no scores, and the same answers as `matches`."""

from typing import Any

from secguard.audit.index.places import PLACES
from secguard.audit.index.words import Phrase
from secguard.audit.query.query import All, And, Equals, Node, Not, Or, Range, Wildcard, Words, wildcard_parts

__all__ = ["compile_dsl"]

_FIELD = {column: ".".join(path) for column, path in PLACES.items()}
_EVERYTHING: dict[str, Any] = {"match_all": {}}


def _bool(**clauses: Any) -> dict[str, Any]:
    return {"bool": clauses}


def _filled(field: str) -> dict[str, Any]:
    return {"exists": {"field": field}}


def _wildcard(field: str, pattern: str) -> dict[str, Any]:
    parts = wildcard_parts(pattern)
    if all(part == ("*", True) for part in parts):
        return _EVERYTHING  # it also matches the empty value, which is no term of the index
    escaped = "".join(sign if wild or sign not in "*?\\" else f"\\{sign}" for sign, wild in parts)
    return {"wildcard": {field: {"value": escaped}}}


def _phrase(field: str, phrase: Phrase) -> dict[str, Any]:
    *before, last = phrase.words
    if not phrase.prefix:
        return {"match_phrase": {field: phrase.text}} if before else {"term": {field: last}}
    beginning = {"prefix": {field: {"value": last}}}
    if not before:
        return beginning
    # match_phrase_prefix stops at max_expansions and finds less; spans find all, or fail.
    clauses = [*({"span_term": {field: word}} for word in before), {"span_multi": {"match": beginning}}]
    return {"span_near": {"clauses": clauses, "slop": 0, "in_order": True}}


def compile_dsl(node: Node) -> dict[str, Any]:
    """A query for the `filter` of a bool query.

    AND, OR and NOT share one bool query where they can, since a server refuses more than 30 levels.
    """
    match node:
        case And(parts):
            return _and(parts)
        case Or(parts):
            return _bool(should=[compile_dsl(part) for part in _flat(parts, Or)], minimum_should_match=1)
        case Not(Not(part)):
            return compile_dsl(part)
        case Not():
            return _and((node,))
        case Equals("reason", _):
            return {"term": {_FIELD["reasoned"]: False}}
        case Equals(field, ""):
            return _bool(must_not=[_filled(_FIELD[field])])
        case Equals(field, value):
            return {"term": {_FIELD[field]: value}}
        case Wildcard(field, pattern):
            return _wildcard(_FIELD[field], pattern)
        case Range(field, low, high):
            bounds = {name: value for name, value in (("gte", low), ("lt", high)) if value is not None}
            return {"range": {_FIELD[field]: bounds}} if bounds else _EVERYTHING
        case Words("reason", phrase):
            return _phrase(_FIELD["reason"], phrase)
        case Words(_, phrase):
            both = [_phrase(_FIELD[name], phrase) for name in ("reason", "text")]
            return _bool(should=both, minimum_should_match=1)
        case All():
            return _EVERYTHING


def _flat(parts: tuple[Node, ...], kind: type[And] | type[Or]) -> list[Node]:
    found: list[Node] = []
    for part in parts:
        found.extend(_flat(part.parts, kind) if isinstance(part, And | Or) and isinstance(part, kind) else (part,))
    return found


def _and(parts: tuple[Node, ...]) -> dict[str, Any]:
    clauses: dict[str, Any] = {}
    for part in _flat(parts, And):
        match part:
            case Not(Or(inner)):
                clauses.setdefault("must_not", []).extend(compile_dsl(one) for one in _flat(inner, Or))
            case Not(inner) if not isinstance(inner, Not):
                clauses.setdefault("must_not", []).append(compile_dsl(inner))
            case Or(inner) if "should" not in clauses:
                clauses["should"] = [compile_dsl(one) for one in _flat(inner, Or)]
                clauses["minimum_should_match"] = 1
            case _:
                clauses.setdefault("filter", []).append(compile_dsl(part))
    return _bool(**clauses)
