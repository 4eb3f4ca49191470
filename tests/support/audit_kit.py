"""Random events and random query trees, and what a query must find among them."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from secguard.audit import matches
from secguard.audit.index.rows import Row, microseconds
from secguard.audit.index.words import phrase_of
from secguard.audit.query.groups import COUNTED, UNITS, ByField, ByTime
from secguard.audit.query.query import KEYWORDS, All, And, Equals, Node, Not, Or, Range, Wildcard, Words
from secguard.events import Actor, Event, Result

_START = datetime(2026, 10, 1, tzinfo=UTC)
_LETTERS = "aAbB*?[]^\\-张三录像查 é𠀀"
_value = st.text(alphabet=_LETTERS + "\0", max_size=5)
_asked = st.text(alphabet=_LETTERS, max_size=5)
_texts = st.text(alphabet="张三录像查 ，ab1-éＡ", max_size=14)


@st.composite
def events(draw: st.DrawFn) -> Event:
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
queries: st.SearchStrategy[Node] = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


groupings = st.one_of(
    st.builds(ByField, st.sampled_from(COUNTED)),
    st.builds(ByTime, st.sampled_from(UNITS), st.sampled_from([0, 8 * 3_600_000_000, -(5 * 60 + 30) * 60_000_000])),
)


def expected(query: Node, rows: list[Row]) -> list[int]:
    found = [row for row in rows if matches(query, row)]
    return [row.seq for row in sorted(found, key=lambda row: (row.time, row.seq), reverse=True)]
