"""SQLite answers exactly what the meaning of the query tree says, on random queries over random events."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from audit_kit import events, expected, groupings, queries
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.audit import SqliteIndex, matches, parse, row_of
from secguard.audit.index import names
from secguard.audit.index.index import Cursor
from secguard.audit.index.rows import Row
from secguard.audit.query.groups import Grouping, groups_that_mean
from secguard.audit.query.query import Node, Wildcard
from secguard.core import UsageError
from secguard.events import Actor, Event, encode


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[SqliteIndex]:
    path: Path = tmp_path_factory.mktemp("differential") / "audit.db"
    opened = SqliteIndex.open(path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def typed_index(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[SqliteIndex, list[Row]]]:
    made = [
        Event(
            id=f"a{number}",
            kind="video.viewed" if number % 2 else "video.played",
            time=datetime(2026, 10, 1, tzinfo=UTC) + timedelta(hours=number * 7),
            actor=Actor(name=("张三", "李四", "a")[number % 3]),
            subject="b" * (number % 4),
            case="2026-10-01" if number % 5 else "",
            reason=("录像查", "a b", "", "查 录像机 NEAR b")[number % 4],
        )
        for number in range(30)
    ]
    rows = [row_of(seq, encode(event)) for seq, event in enumerate(made)]
    opened = SqliteIndex.open(tmp_path_factory.mktemp("typed") / "audit.db")
    assert opened.add("log", 0, len(rows), rows)
    yield opened, rows
    opened.close()


@settings(max_examples=60)
@given(
    st.lists(events(), min_size=1, max_size=8),
    st.lists(queries, min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([1, 300]),
)
def test_sqlite_finds_what_the_query_means(
    shared: SqliteIndex, happened: list[Event], asked: list[Node], limit: int, enough: int
) -> None:
    shared.clear()
    rows = [row_of(seq, encode(event)) for seq, event in enumerate(happened)]
    assert shared.add("log", 0, len(rows), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "ENOUGH", enough)  # few names that hold a phrase, and more than are looked at
        _same(shared, rows, asked, limit)


def _same(shared: SqliteIndex, rows: list[Row], asked: list[Node], limit: int) -> None:
    for query in asked:
        wanted = expected(query, rows)
        seen: list[int] = []
        cursor: Cursor | None = None
        while True:
            page = shared.find(query, limit=limit, after=cursor)
            assert page.total == len(wanted), query
            seen.extend(page.seqs)
            cursor = page.next
            if cursor is None:
                break
        assert seen == wanted, query


@settings(max_examples=30)
@given(
    st.lists(events(), min_size=1, max_size=8),
    st.lists(st.tuples(queries, groupings), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_sqlite_counts_and_walks_as_the_query_means(
    shared: SqliteIndex, happened: list[Event], asked: list[tuple[Node, Grouping]], size: int
) -> None:
    shared.clear()
    rows = [row_of(seq, encode(event)) for seq, event in enumerate(happened)]
    assert shared.add("log", 0, len(rows), rows)
    for query, by in asked:
        wanted = expected(query, rows)
        assert shared.count(query, by) == (len(wanted), groups_that_mean(query, rows, by), len(rows)), (query, by)
        pages = list(shared.walk(query, size=size))
        assert [place for page in pages for place in page.seqs] == wanted, query
        assert {page.total for page in pages} == {len(wanted)}


_TYPED = st.lists(
    st.sampled_from(
        [
            *(
                "张三",
                "录像",
                "查",
                "a",
                "b*",
                '"a b"',
                "(",
                ")",
                "NOT ",
                " AND ",
                " or ",
                "actor:",
                "case:",
                "subject:*",
            ),
            *(
                "kind:",
                "video.viewed",
                "time:",
                "time>=",
                "2026-10-01",
                "now-7d",
                "[",
                " TO ",
                "]",
                "{",
                "*",
                "?",
                "\\",
            ),
            *(":", "seq<", "3", "reason:", "，", "（", "）", "＊", '"', "-", "'", ";", "%", "_", "NEAR", "^", "+"),
            *("\u0661", "é", "𠀀"),
        ]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=150)
@given(_TYPED, groupings)
def test_what_is_typed_is_found_or_refused(typed_index: tuple[SqliteIndex, list[Row]], text: str, by: Grouping) -> None:
    index, rows = typed_index
    try:
        query = parse(text, now=datetime(2026, 10, 8, tzinfo=UTC))
    except UsageError:
        return
    wanted = expected(query, rows)
    assert list(index.find(query, limit=100).seqs) == wanted, text
    assert index.count(query, by)[:2] == (len(wanted), groups_that_mean(query, rows, by)), text


def test_a_pattern_cannot_make_a_match_explode() -> None:
    row = Row.blank(0, "a" * 20_000)
    assert not matches(Wildcard("id", "*a" * 8 + "*b"), row)
