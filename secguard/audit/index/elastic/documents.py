"""A row as an Elasticsearch document in ECS, and back; and the mapping without which answers would differ."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from secguard.audit.index.places import BESIDE, PLACES, rest_text, take
from secguard.audit.index.rows import Row

__all__ = ["INDEX_FIELD", "TIME_FIELD", "document_of", "mapping_problems", "row_from"]

INDEX_FIELD = ".".join(PLACES["seq"])
TIME_FIELD = ".".join(PLACES["time"])
"""Microseconds since 1970: `@timestamp`, for people and Kibana, is indexed in milliseconds."""

# What queries need of a field: another type or analysis finds other events.
_WORDS = {"type": "text", "analyzer": "whitespace", "index_prefixes": {"min_chars": 1, "max_chars": 8}}
_TYPES: dict[str, dict[str, Any]] = {
    **{name: {"type": "keyword"} for name in PLACES},
    "seq": {"type": "long"},
    "time": {"type": "long"},
    "reasoned": {"type": "boolean"},
    "reason": _WORDS,
    "text": _WORDS,
}
_KINDS: dict[str, type] = {"seq": int, "time": int, "reasoned": bool}
_HARMLESS = {"norms", "eager_global_ordinals"}  # parameters of a field that change no answer of ours


def document_of(row: Row) -> dict[str, Any]:
    """The document of a row; the same row gives the same document."""
    document: dict[str, Any] = msgspec.json.decode(row.ecs or "{}")
    columns = row._asdict() | {"reasoned": bool(row.reasoned), "digest": row.digest.hex(), "text": row.text}
    for column, path in PLACES.items():
        if columns[column] != "":
            *parents, last = path
            place = document
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = columns[column]
    return document


def row_from(document: Any) -> Row:
    """The row that a stored document stands for; takes the document apart.

    What fits no column stands in `Row.ecs`, so a document of any other content gives another row; one that lacks a
    column, or writes its digest otherwise, has no digest in its row, so that it equals no row made from an event.
    """
    rest = document
    taken = {
        column: take(rest, path, _KINDS.get(column, str)) if isinstance(rest, dict) else None
        for column, path in PLACES.items()
    }
    digest = b""
    if all(taken[column] is not None for column in (*_KINDS, "digest")):
        with suppress(ValueError):
            digest = bytes.fromhex(str(taken["digest"]))
    columns: dict[str, Any] = {name: value or (0 if name in _KINDS else "") for name, value in taken.items()}
    columns["reasoned"] = int(columns["reasoned"])
    columns["digest"] = digest if digest.hex() == taken["digest"] else b""
    text = columns.pop("text")
    return Row(**columns, data="", ecs=rest_text(rest) if rest != {} else "").with_text(text)


def _fields(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in mapping.get("properties", {}).items():
        if "properties" in value:
            yield from _fields(value, f"{path}{name}.")
        else:
            yield path + name, value


def mapping_problems(mapping: Mapping[str, Any]) -> list[str]:
    """What makes an index with this mapping answer otherwise than the query means; empty if nothing does."""
    found = dict(_fields(mapping))
    problems = [] if mapping.get("dynamic") == "strict" else ["its mapping is not strict"]
    for column, path in PLACES.items():
        name, wanted = ".".join(path), _TYPES[column]
        actual = {key: value for key, value in found.get(name, {}).items() if key not in _HARMLESS}
        if actual != wanted:
            problems.append(f"the field {name} is not mapped as {wanted['type']} for searching")
    problems += [
        f"the field {name} is not mapped as {kind}"
        for name, kind in BESIDE.items()
        if found.get(name, {}).get("type") != kind
    ]
    if mapping.get("runtime"):
        problems.append("it has runtime fields")
    return problems
