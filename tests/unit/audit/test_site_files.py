"""The Elasticsearch files of the example site: strict, of free field types, and with roles that cannot rewrite."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secguard.audit.index.places import BESIDE, PLACES
from secguard.audit.index.rows import COLUMNS

_TYPES = {"keyword", "text", "ip", "date", "long", "boolean", "flattened"}
FOLDER = Path(__file__).parents[3] / "audit" / "elasticsearch"


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def fields(mapping: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in mapping["properties"].items():
        if "properties" in value:
            yield from fields(value, f"{path}{name}.")
        else:
            yield path + name, value


def test_the_mapping_is_strict_and_holds_every_column() -> None:
    template = load("index-template.json")
    mapping = template["template"]["mappings"]
    assert mapping["dynamic"] == "strict"
    assert template["index_patterns"] == ["secguard-audit-*"]
    found = dict(fields(mapping))
    assert {value["type"] for value in found.values()} <= _TYPES
    assert PLACES.keys() - {"text"} == set(COLUMNS) - {"data"}
    assert {".".join(path) for path in PLACES.values()} | BESIDE.keys() == found.keys()
    assert all(found[name]["type"] == kind for name, kind in BESIDE.items())
    for name in ("reason", "text"):
        assert found[f"secguard.words.{name}"]["analyzer"] == "whitespace"
    assert set(template["template"]["settings"]["index"]["sort.field"]) <= found.keys()


def test_roles_can_add_or_read_and_nothing_else() -> None:
    roles = load("roles.json")
    allowed = {
        "secguard_audit_shipper": {"create_doc", "create_index", "auto_configure", "view_index_metadata"},
        "secguard_audit_searcher": {"read", "view_index_metadata"},
    }
    assert roles.keys() == allowed.keys()
    for name, role in roles.items():
        assert role["cluster"] == []
        (indices,) = role["indices"]
        assert set(indices["privileges"]) == allowed[name]
        assert indices["names"] == ["secguard-audit-*"]
