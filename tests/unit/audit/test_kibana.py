"""Kibana's saved objects: every field they name is in the index template, every reference leads somewhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from secguard.events import KINDS

ROOT = Path(__file__).parents[3]
OBJECTS = [json.loads(line) for line in (ROOT / "audit/kibana/dashboard.ndjson").read_text().splitlines()]
TEMPLATE = json.loads((ROOT / "audit/elasticsearch/index-template.json").read_text())
_FIELD = re.compile(r"([a-z@][a-z_@.]*)\s*:\s*(\([^)]*\)|\S+)")


def fields_of(properties: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in properties.items():
        if "properties" in value:
            yield from fields_of(value["properties"], f"{prefix}{name}.")
        else:
            yield prefix + name


FIELDS = frozenset(fields_of(TEMPLATE["template"]["mappings"]["properties"]))


def named(item: dict[str, Any]) -> Iterator[str]:
    """Every field that a saved object names."""
    attributes = item["attributes"]
    yield from attributes.get("columns", ())
    yield from (field for field, _ in attributes.get("sort", ()))
    yield from json.loads(attributes.get("fieldAttrs", "{}"))
    if "timeFieldName" in attributes:
        yield attributes["timeFieldName"]
    for aggregation in json.loads(attributes.get("visState", "{}")).get("aggs", ()):
        if "field" in aggregation["params"]:
            yield aggregation["params"]["field"]
    source = json.loads(attributes.get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}"))
    yield from (match[1] for match in _FIELD.finditer(source.get("query", {}).get("query", "")))


@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: f"{item['type']}/{item['id']}")
def test_an_object(item: dict[str, Any]) -> None:
    assert set(named(item)) <= FIELDS
    known = {(other["type"], other["id"]) for other in OBJECTS}
    assert {(ref["type"], ref["id"]) for ref in item["references"]} <= known
    names = {ref["name"] for ref in item["references"]}
    attributes = item["attributes"]
    assert "secguard" in attributes["title"]
    for panel in json.loads(attributes.get("panelsJSON", "[]")):
        assert f"{panel['panelIndex']}:{panel['panelRefName']}" in names
        assert panel["gridData"]["x"] + panel["gridData"]["w"] <= 48
    source = json.loads(attributes.get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}"))
    assert source.get("indexRefName", next(iter(names), "")) in names or not names


def test_all_kinds_named_are_kinds() -> None:
    text = json.dumps([item["attributes"].get("kibanaSavedObjectMeta", {}) for item in OBJECTS])
    words = set(re.findall(r"\b(?:video|clip|evidence|key|audit)\.[a-z-]+", text))
    assert {"video.viewed", "video.exported", "key.released"} <= words
    assert {word for word in words if not word.startswith("audit.")} <= set(KINDS)


def test_the_data_view_is_of_the_template() -> None:
    (view,) = (item for item in OBJECTS if item["type"] == "index-pattern")
    assert [view["attributes"]["title"]] == TEMPLATE["index_patterns"]
    assert sum(item["type"] == "search" for item in OBJECTS) == 5
    (dashboard,) = (item for item in OBJECTS if item["type"] == "dashboard")
    assert len(json.loads(dashboard["attributes"]["panelsJSON"])) == 7


def test_the_compose_file() -> None:
    services = yaml.safe_load((ROOT / "docs/kibana/compose.yaml").read_text())["services"]
    assert set(services) == {"elasticsearch", "kibana"}
    versions = {service["image"].partition(":")[2] for service in services.values()}
    assert len(versions) == 1, "Kibana and Elasticsearch must be of one version"
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
    for service in services.values():
        for word in re.findall(r"certs/(\w+\.\w+)", json.dumps(service)):
            assert word in (ROOT / "docs/kibana/README.md").read_text()
