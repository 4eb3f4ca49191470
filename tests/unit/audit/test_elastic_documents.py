"""What is sent to Elasticsearch, without a server: documents, the shipped mapping, and the shape of queries."""

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from audit_kit import events, queries
from hypothesis import given

from secguard.audit import parse, row_of
from secguard.audit.index.differences import differences
from secguard.audit.index.elastic.client import reason_of
from secguard.audit.index.elastic.documents import document_of, mapping_problems, row_from
from secguard.audit.index.elastic.query import compile_dsl
from secguard.audit.query.query import Node
from secguard.events import Actor, Event, Result, encode

TEMPLATE = Path(__file__).parents[3] / "audit" / "elasticsearch" / "index-template.json"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


@given(events())
def test_a_document_gives_its_row_back(event: Event) -> None:
    row = row_of(7, encode(event), ecs=True)
    document = document_of(row)
    assert row_from(json.loads(json.dumps(document))) == row
    for path, value in _leaves(document):
        assert value != "", path


def _leaves(document: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in document.items():
        found += _leaves(value, f"{path}{name}.") if isinstance(value, dict) else [(path + name, value)]
    return found


@pytest.mark.parametrize(("field", "value", "columns"), [
    ("subject", "x", "subject"), ("case", "案9", "case"), ("words", {"text": "x"}, "reason, data"),
    ("words", {"reason": "核查 查 case", "text": "张三"}, "data"), ("approver", "x", "approver"),
])  # fmt: skip
def test_an_edited_field_is_named_alone(make: Callable[..., Event], field: str, value: Any, columns: str) -> None:
    row = row_of(3, encode(make(1, case="案7", data={"session": "s-1"})), ecs=True)
    document = document_of(row)
    document["secguard"][field] = value
    (found,) = differences([row], [row_from(document)])
    assert (found.what, found.columns) == ("altered", columns)


def test_any_other_document_is_no_row_of_an_event(make: Callable[..., Event]) -> None:
    actor = Actor(name="张三", address="10.16.0.7")
    row = row_of(3, encode(make(1, actor=actor, outcome=Result.DENIED, approver="李四")), ecs=True)
    document = document_of(row)
    assert document["event"]["outcome"] == "failure"
    assert document["event"]["type"] == ["access", "denied"]
    assert document["source"] == {"address": "10.16.0.7", "ip": "10.16.0.7"}
    assert document["related"] == {"user": ["张三", "李四"], "ip": ["10.16.0.7"]}
    for path, _ in _leaves(document):
        for other in ("x", 1, -1, ["x"], None, {"x": 1}, 10**30, True):
            changed = json.loads(json.dumps(document))
            *parents, last = path.split(".")
            place = changed
            for name in parents:
                place = place[name]
            if place[last] == other:
                continue
            place[last] = other
            assert row_from(changed) != row, (path, other)
    for odd in (None, [], "x", {}, {"event": 1}):
        assert row_from(odd).digest == b""
    for odd in ({**document, "more": 1}, {**document, "organization": {}}, {**document, "user": {}}):
        assert row_from(deepcopy(odd)) != row


def test_the_template_maps_every_field_as_queries_need_it(make: Callable[..., Event]) -> None:
    mapping = json.loads(TEMPLATE.read_text(encoding="utf-8"))["template"]["mappings"]
    assert mapping_problems(mapping) == []
    mapping["properties"]["user"]["properties"]["name"]["ignore_above"] = 10
    del mapping["properties"]["secguard"]["properties"]["words"]["properties"]["text"]["index_prefixes"]
    del mapping["properties"]["network"]["properties"]["bytes"]
    assert mapping_problems({**mapping, "dynamic": "true", "runtime": {"x": {}}}) == [
        "its mapping is not strict",
        "the field user.name is not mapped as keyword for searching",
        "the field secguard.words.text is not mapped as text for searching",
        "the field network.bytes is not mapped as long",
        "it has runtime fields",
    ]


def _depth(query: Any) -> int:
    if isinstance(query, dict):
        return max((_depth(value) for value in query.values()), default=0) + ("bool" in query)
    return max(map(_depth, query), default=0) if isinstance(query, list) else 0


@given(queries)
def test_queries_only_filter_and_stay_flat(query: Node) -> None:
    dsl = json.dumps(compile_dsl(query))
    assert '"must"' not in dsl
    assert "function_score" not in dsl


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("a b c", 2),
        ("NOT NOT (subject:1 OR subject:2)", 1),
        ("kind:video.viewed NOT (subject:1 OR subject:2) actor:(li OR wang)", 1),
        ("((subject:1 OR (actor:2 (subject:3 OR (actor:4 subject:5)))))", 3),
    ],
)
def test_levels_are_joined(text: str, depth: int) -> None:
    assert _depth(compile_dsl(parse(text, now=NOW))) == depth


def test_reasons_of_the_server() -> None:
    shards = {
        "type": "search_phase",
        "reason": "all shards failed",
        "failed_shards": [{"reason": {"type": "x", "reason": "deep"}}],
    }
    assert reason_of({"error": shards}) == "x: deep"
    assert reason_of({"error": {"type": "a", "reason": "b", "caused_by": {"type": "c", "reason": "d"}}}) == "c: d"
    assert reason_of({"error": "text"}) == "{'error': 'text'}"
    assert reason_of(b"x" * 1000) == reason_of(b"x" * 2000)[:300]


def test_the_document_of_an_access_says_who_saw_what_and_each_changed_field_is_named(
    make: Callable[..., Event],
) -> None:
    data = {
        "start": "2026-10-01T08:00:00+08:00",
        "end": "2026-10-01T09:00:00+08:00",
        "bytes": 7_340_032,
        "client": "VLC",
        "recipient": "检察院",
        "files": [{"name": "a.mp4", "sha256": "AB" * 32, "bytes": 9}],
        "via": {"source": "nvr", "received": "2026-10-01T02:00:00Z", "peer": "10.0.0.9"},
    }
    actor = Actor(name="张三", role="侦查员", address="10.16.0.7")
    subject = "32011600001310000001"
    event = make(1, kind="video.downloaded", actor=actor, subject=subject, data=data, reason="查案", approver="李四")
    row = row_of(3, encode(event), ecs=True)
    document = document_of(row)
    assert document["secguard"]["camera"] == [subject]
    assert (document["secguard"]["start"], document["secguard"]["bytes"]) == (data["start"], 7_340_032)
    assert document["related"] == {
        "user": ["张三", "李四", "检察院"],
        "ip": ["10.16.0.7", "10.0.0.9"],
        "hash": ["ab" * 32],
    }
    assert (document["event"]["reason"], document["event"]["provider"]) == ("查案", "nvr")
    assert (document["event"]["sequence"], document["event"]["hash"]) == (3, row.digest.hex())
    document["secguard"]["bytes"] = 1
    document["related"]["ip"].pop()
    del document["file"]["hash"]
    document["labels"] = {"by": "hand"}
    (found,) = differences([row], [row_from(document)])
    assert (found.what, found.columns) == ("altered", "file.hash.sha256, labels.by, related.ip, secguard.bytes")


def test_odd_values_that_say_where_an_event_came_from_stay_out(make: Callable[..., Event]) -> None:
    via = {"source": {"x": 1}, "received": ["y"], "peer": {"z": 2}}
    document = document_of(row_of(0, encode(make(1, data={"via": via})), ecs=True))
    assert not {"provider", "created"} & document["event"].keys()
