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


def fields_of(properties: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in properties.items():
        if "properties" in value:
            yield from fields_of(value["properties"], f"{prefix}{name}.")
        else:
            yield prefix + name, value["type"]


TYPES = dict(fields_of(TEMPLATE["template"]["mappings"]["properties"]))
FIELDS = TYPES.keys()


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
        else:
            assert aggregation["type"] == "count"
    source = json.loads(attributes.get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}"))
    yield from (match[1] for match in _FIELD.finditer(source.get("query", {}).get("query", "")))


@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: f"{item['type']}/{item['id']}")
def test_an_object(item: dict[str, Any]) -> None:
    assert set(named(item)) <= FIELDS
    known = {(other["type"], other["id"]) for other in OBJECTS}
    assert {(ref["type"], ref["id"]) for ref in item["references"]} <= known
    # Without versions an import runs every migration since Kibana 6 over it; these are of 8.x, which 9.x takes.
    versions = {"index-pattern": "8.0.0", "search": "10.5.0", "visualization": "8.5.0", "dashboard": "8.9.0"}
    assert (item["coreMigrationVersion"], item["typeMigrationVersion"]) == ("8.8.0", versions[item["type"]])
    names = {ref["name"] for ref in item["references"]}
    attributes = item["attributes"]
    assert "secguard" in attributes["title"]
    for panel in json.loads(attributes.get("panelsJSON", "[]")):
        assert f"{panel['panelIndex']}:{panel['panelRefName']}" in names
        assert panel["gridData"]["x"] + panel["gridData"]["w"] <= 48
    source = json.loads(attributes.get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}"))
    assert source.get("indexRefName", next(iter(names), "")) in names or not names


def test_aggregations_count_what_can_be_counted() -> None:
    for item in OBJECTS:
        state = json.loads(item["attributes"].get("visState", "{}"))
        assert len({one["id"] for one in state.get("aggs", ())}) == len(state.get("aggs", ()))
        for one in state.get("aggs", ()):
            kind = TYPES.get(one["params"].get("field"))
            assert (one["type"], kind) in {("count", None), ("terms", "keyword"), ("date_histogram", "date")}
            assert one["schema"] in {"metric", "segment", "group", "bucket"}
        if state:
            assert state["title"] == item["attributes"]["title"]


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
