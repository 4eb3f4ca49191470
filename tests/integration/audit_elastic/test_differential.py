"""Elasticsearch answers exactly what the meaning of the query tree says, on random queries over random events."""

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from audit_kit import events, expected, groupings, queries
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.audit import ElasticIndex, row_of
from secguard.audit.index.index import Cursor
from secguard.audit.index.words import phrase_of
from secguard.audit.query.groups import Grouping, groups_that_mean
from secguard.audit.query.query import And, Node, Not, Or, Range, Wildcard, Words
from secguard.events import Actor, Event, encode


def test_elasticsearch_finds_what_the_query_means(
    elastic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secguard.audit.index.elastic.index._BUCKETS", 3)

    @settings(max_examples=10)
    @given(
        st.lists(events(), min_size=5, max_size=40),
        st.lists(queries, min_size=10, max_size=25),
        st.lists(groupings, min_size=1, max_size=6),
        st.sampled_from([1, 4, 50]),
    )
    def compare(happened: list[Event], asked: list[Node], counted: list[Grouping], limit: int) -> None:
        origin = f"test.example/{secrets.token_hex(5)}"
        index = ElasticIndex.open(tmp_path / f"{origin[-10:]}.json", elastic.as_user("admin"), origin, epoch=16)
        try:
            rows = [row_of(seq, encode(event), ecs=True) for seq, event in enumerate(happened)]
            assert index.add(origin, 0, len(rows), rows)
            assert index.rows(0, len(rows)) == rows
            for query in asked:
                wanted = expected(query, rows)
                page = index.find(query, limit=limit)
                assert (page.total, list(page.seqs)) == (len(wanted), wanted[:limit]), query
                if page.next is not None:
                    second = index.find(query, limit=100, after=Cursor(*page.next))
                    assert list(second.seqs) == wanted[limit:], query
            for query, by in zip(asked, counted, strict=False):  # with few buckets a request, and several indices
                wanted = expected(query, rows)
                assert index.count(query, by)[:2] == (len(wanted), groups_that_mean(query, rows, by)), (
                    query,
                    by,
                )
                pages = list(index.walk(query, size=limit))
                assert [place for page in pages for place in page.seqs] == wanted, query
                assert {page.total for page in pages} == {len(wanted)}
        finally:
            index.clear()
            index.close()

    compare()


def test_hard_queries(elastic: Any, tmp_path: Path) -> None:
    origin = f"test.example/{secrets.token_hex(5)}"
    index = ElasticIndex.open(tmp_path / "index.json", elastic.as_user("admin"), origin)
    words = "摄像机 " + " ".join(f"监{chr(0x4E00 + n)} downloading{n}" for n in range(1500))
    made = [
        Event(
            id=f"e-{n}",
            kind="video.viewed",
            time=datetime(2026, 10, 1, tzinfo=UTC),
            actor=Actor(name="a" * 40),
            reason=text,
        )
        for n, text in enumerate((words[:4000], words[4000:8000], "", "摄像"))
    ]
    rows = [row_of(seq, encode(event), ecs=True) for seq, event in enumerate(made)]
    try:
        assert index.add(origin, 0, len(rows), rows)
        deep: Node = Range("seq", 0, 1)
        for level in range(20):
            deep = And((Not(Range("seq", 3, 4)), Or((deep, Range("seq", level, level)))))
        for query in (
            Words("reason", phrase_of("监")),  # the beginning of more than a thousand words
            Words("text", phrase_of("摄像 监")),
            Words("reason", phrase_of("downloading1", prefix=True)),  # longer than the prefixes that are indexed
            Words("reason", phrase_of("监一 download", prefix=True)),
            Words("reason", phrase_of("一 downloading", prefix=True)),
            Wildcard("actor", "*a?" * 4 + "*b"),
            Wildcard("actor", "*a???????"),
            Or(tuple(Range("seq", n, n + 1) for n in range(128))),
            deep,
        ):
            assert list(index.find(query, limit=10).seqs) == expected(query, rows), query
    finally:
        index.clear()
        index.close()
