"""A row as an Elasticsearch document in ECS, and back; and the mapping without which answers would differ."""

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from secguard.audit.index.rows import COLUMNS, Row
from secguard.events.ecs import CATEGORIES, ECS_VERSION

__all__ = ["INDEX_FIELD", "PLACES", "TIME_FIELD", "document_of", "mapping_problems", "row_from"]

PLACES: dict[str, tuple[str, ...]] = {
    "seq": ("event", "sequence"),
    "id": ("event", "id"),
    "kind": ("event", "action"),
    "time": ("secguard", "time"),
    "actor": ("user", "name"),
    "role": ("user", "roles"),
    "org": ("organization", "name"),
    "address": ("source", "address"),
    "subject": ("secguard", "subject"),
    "case": ("secguard", "case"),
    "approver": ("secguard", "approver"),
    "outcome": ("secguard", "outcome"),
    "reasoned": ("secguard", "reasoned"),
    "digest": ("event", "hash"),
    "reason": ("secguard", "words", "reason"),
    "text": ("secguard", "words", "text"),
}
"""Where a row's columns stand in a document; empty text is left out. The rest of a document follows from these."""

INDEX_FIELD = ".".join(PLACES["seq"])
TIME_FIELD = ".".join(PLACES["time"])
"""Microseconds since 1970: `@timestamp`, for people and Kibana, is indexed in milliseconds."""

# What queries need of a field: another type or analysis finds other events.
_WORDS = {"type": "text", "analyzer": "whitespace", "index_prefixes": {"min_chars": 1, "max_chars": 8}}
_TYPES: dict[str, dict[str, Any]] = {
    **{name: {"type": "keyword"} for name in COLUMNS},
    "seq": {"type": "long"},
    "time": {"type": "long"},
    "reasoned": {"type": "boolean"},
    "reason": _WORDS,
    "text": _WORDS,
}
_HARMLESS = {"norms", "eager_global_ordinals"}  # parameters of a field that change no answer of ours

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def document_of(row: Row) -> dict[str, Any]:
    """The document of a row; the same row gives the same document.

    Raises:
        ValueError, OverflowError: the row's time or digest is none; rows made from events have both.
    """
    category, kind = CATEGORIES.get(row.kind, ("api", "access"))
    denied = row.outcome == "denied"
    people = [name for name in dict.fromkeys((row.actor, row.approver)) if name]
    source = {"address": row.address} if row.address else {}
    with suppress(ValueError):
        source["ip"] = str(ipaddress.ip_address(row.address))
    words = {name: text for name, text in (("reason", row.reason), ("text", row.text)) if text}
    document: dict[str, Any] = {
        "@timestamp": (_EPOCH + timedelta(microseconds=row.time)).isoformat(timespec="microseconds"),
        "ecs": {"version": ECS_VERSION},
        "event": {
            "kind": "event",
            "module": "secguard",
            "category": [category],
            "type": [kind, "denied"] if denied else [kind],
            "action": row.kind,
            "outcome": "failure" if denied else row.outcome,
            "id": row.id,
            "sequence": row.seq,
            "hash": row.digest.hex(),
        },
        "user": _filled(name=row.actor, roles=row.role),
        "organization": _filled(name=row.org),
        "source": source,
        "related": {"user": people} if people else {},
        "secguard": {
            "time": row.time,
            "outcome": row.outcome,
            "reasoned": bool(row.reasoned),
            **_filled(subject=row.subject, case=row.case, approver=row.approver),
            **({"words": words} if words else {}),
        },
    }
    return {name: value for name, value in document.items() if value != {}}


def _filled(**texts: str) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}


def row_from(document: Any) -> Row:
    """The row that a stored document stands for.

    A document that is not exactly what its row gives (another field edited, one added, a value of the wrong type) has
    no digest in its row, so that it equals no row made from an event.
    """
    values: dict[str, Any] = {}
    for column, path in PLACES.items():
        value = document
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        values[column] = value
    texts = {column: value if isinstance(value, str) else "" for column, value in values.items()}
    numbers = {name: value if type(value) is int else 0 for name, value in values.items()}
    try:
        digest = bytes.fromhex(texts["digest"])
    except ValueError:
        digest = b""
    columns: dict[str, Any] = {
        **texts,
        "seq": numbers["seq"],
        "time": numbers["time"],
        "reasoned": int(values["reasoned"] is True),
        "digest": digest,
    }
    row = Row(**columns)
    try:
        same = document_of(row) == document
    except (ValueError, OverflowError):
        same = False
    return row if same else row._replace(digest=b"")


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
    for column, wanted in _TYPES.items():
        name = ".".join(PLACES[column])
        actual = {key: value for key, value in found.get(name, {}).items() if key not in _HARMLESS}
        if actual != wanted:
            problems.append(f"the field {name} is not mapped as {wanted['type']} for searching")
    if mapping.get("runtime"):
        problems.append("it has runtime fields")
    return problems
