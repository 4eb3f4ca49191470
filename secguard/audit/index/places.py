"""Where a row's columns stand in an ECS document, and what an event's document holds beside them."""

import json
from collections.abc import Iterator
from typing import Any

from secguard.events import Event
from secguard.events.ecs import ecs

__all__ = ["BESIDE", "PLACES", "fields_of", "rest_of", "rest_text", "take"]

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
"""Where columns stand; empty text is left out. `Row.ecs` is all the rest."""

BESIDE: dict[str, str] = {
    name: kind
    for kind, names in {
        "keyword": (
            "ecs.version event.kind event.module event.dataset event.category event.type event.outcome event.reason "
            "event.provider user_agent.original network.protocol file.name file.hash.sha256 related.user related.hash "
            "secguard.assurance secguard.camera secguard.session secguard.stream secguard.recipient secguard.command "
            "secguard.setting secguard.key_id secguard.query"
        ),
        "long": "event.duration network.bytes file.size secguard.bytes secguard.hits",
        "date": "@timestamp event.created secguard.start secguard.end secguard.expires",
        "ip": "source.ip related.ip",
    }.items()
    for name in names.split()
}
"""The other fields and their types on the server; Kibana and people search them, queries of ours do not."""


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def rest_text(document: Any) -> str:
    """Part of a document as text: equal if, and only if, the parts are; a server may hold numbers of any size."""
    return _encode(document)


def take(document: dict[str, Any], path: tuple[str, ...], fits: type) -> Any:
    """Take a value of exactly that type out of a document, with objects that become empty; None if there is none."""
    inner: Any = document
    parents: list[dict[str, Any]] = []
    for name in path:
        if not isinstance(inner, dict) or name not in inner:
            return None
        parents.append(inner)
        inner = inner[name]
    if type(inner) is not fits:
        return None
    for parent, name in zip(reversed(parents), reversed(path), strict=True):
        del parent[name]
        if parent:
            break
    return inner


def rest_of(event: Event) -> str:
    """What the document of an event holds beside the row's columns."""
    document = ecs(event)
    for path in PLACES.values():
        take(document, path, list if path == PLACES["role"] else str)
    return rest_text(document)


def fields_of(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a document, by their full names."""
    if isinstance(document, dict) and (document or not path):
        for name, value in document.items():
            yield from fields_of(value, f"{path}.{name}" if path else name)
    else:
        yield path, document
