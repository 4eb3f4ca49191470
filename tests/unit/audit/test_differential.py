"""SQLite answers exactly what the meaning of the query tree says, on random queries over random events."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.audit import SqliteIndex, matches, row_of
from secguard.audit.index import Cursor
from secguard.audit.query import KEYWORDS, All, And, Equals, Node, Not, Or, Range, Wildcard, Words
from secguard.audit.rows import Row, microseconds
from secguard.audit.words import phrase_of
from secguard.events import Actor, Event, Result, encode

_START = datetime(2026, 10, 1, tzinfo=UTC)
_LETTERS = "aAbB*?[]^\\-张三录像查 é𠀀"
_value = st.text(alphabet=_LETTERS + "\0", max_size=5)
_asked = st.text(alphabet=_LETTERS, max_size=5)
_texts = st.text(alphabet="张三录像查 ，ab1-éＡ", max_size=14)


@st.composite
def _events(draw: st.DrawFn) -> Event:
    return Event(
        id=draw(st.text(alphabet="ab\0*", min_size=1, max_size=3)),
        kind=draw(st.sampled_from(["video.viewed", "video.played"])),
        time=_START + timedelta(microseconds=draw(st.integers(0, 3)), hours=draw(st.integers(-3, 3))),
        actor=Actor(name=draw(st.text(alphabet=_LETTERS, min_size=1, max_size=5)), role=draw(_value), org=draw(_value)),
        subject=draw(_value),
        case=draw(_value),
        approver=draw(_value),
        reason=draw(_texts),
        outcome=draw(st.sampled_from(Result)),
        data=draw(
            st.dictionaries(st.text(max_size=2), st.one_of(_texts, st.integers(0, 9), st.lists(_texts)), max_size=2)
        ),
    )


_phrases = st.builds(lambda text, prefix: phrase_of(text, prefix=prefix), _texts, st.booleans()).filter(bool)
_bound = st.one_of(st.none(), st.integers(0, 8))
_leaves = st.one_of(
    st.just(All()),
    st.builds(Equals, st.sampled_from(KEYWORDS), _asked),
    st.just(Equals("reason", "")),
    st.builds(Wildcard, st.sampled_from(KEYWORDS), st.text(alphabet=_LETTERS, min_size=1, max_size=5)),
    st.builds(Range, st.just("seq"), _bound, _bound),
    st.builds(
        lambda low, high: Range("time", microseconds(_START) + low, microseconds(_START) + high),
        st.integers(-2, 2),
        st.integers(-2, 4),
    ),
    st.builds(Words, st.sampled_from(["text", "reason"]), _phrases),
)
_queries: st.SearchStrategy[Node] = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[SqliteIndex]:
    path: Path = tmp_path_factory.mktemp("differential") / "audit.db"
    opened = SqliteIndex.open(path)
    yield opened
    opened.close()


def _expected(query: Node, rows: list[Row]) -> list[int]:
    found = [row for row in rows if matches(query, row)]
    return [row.seq for row in sorted(found, key=lambda row: (row.time, row.seq), reverse=True)]


@settings(max_examples=60)
@given(st.lists(_events(), min_size=1, max_size=8), st.lists(_queries, min_size=1, max_size=12), st.integers(1, 4))
def test_sqlite_finds_what_the_query_means(
    shared: SqliteIndex, events: list[Event], queries: list[Node], limit: int
) -> None:
    shared.clear()
    rows = [row_of(seq, encode(event)) for seq, event in enumerate(events)]
    assert shared.add("log", 0, len(rows), rows)
    for query in queries:
        expected = _expected(query, rows)
        seen: list[int] = []
        cursor: Cursor | None = None
        while True:
            page = shared.find(query, limit=limit, after=cursor)
            assert page.total == len(expected), query
            seen.extend(page.seqs)
            cursor = page.next
            if cursor is None:
                break
        assert seen == expected, query


def test_a_pattern_cannot_make_a_match_explode() -> None:
    row = Row.blank(0, "a" * 20_000)
    assert not matches(Wildcard("id", "*a" * 8 + "*b"), row)
