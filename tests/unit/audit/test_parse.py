import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.audit.index.rows import microseconds
from secguard.audit.index.words import Phrase
from secguard.audit.query.parser import MAX_DEPTH, MAX_QUERY, MAX_TERMS, parse, parse_cursor
from secguard.audit.query.query import All, And, Equals, Node, Not, Or, Range, Wildcard, Words
from secguard.core import UsageError

NOW = datetime(2026, 11, 1, 8, tzinfo=UTC)


def read(text: str) -> Node:
    return parse(text, now=NOW)


def words(*text: str, prefix: bool = False, field: str = "text") -> Words:
    return Words(field, Phrase(text, prefix))


def span(low: str | None, high: str | None, field: str = "time") -> Range:
    bounds = [microseconds(datetime.fromisoformat(value)) if value else None for value in (low, high)]
    return Range(field, *bounds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", All()),
        ("*", All()),
        ("录像", words("录像")),
        ("download", words("download")),
        ("down*", words("down", prefix=True)),
        ('"Li Si"', words("li", "si")),
        ("actor:张三", Equals("actor", "张三")),
        ("actor：张三", Equals("actor", "张三")),
        ("actor.name = li", Equals("actor", "li")),
        ("user.name:张三", Equals("actor", "张三")),
        ("source.ip:10.16.*", Wildcard("address", "10.16.*")),
        ("secguard.case:案1", Equals("case", "案1")),
        ("event.sequence:7", Range("seq", 7, 8)),
        ("subject:320116*", Wildcard("subject", "320116*")),
        (r"subject:a\*b", Equals("subject", "a*b")),
        (r"subject:a\*b?", Wildcard("subject", r"a\*b?")),
        ('case:"2026 (7)"', Equals("case", "2026 (7)")),
        ('case:"a*"', Equals("case", "a*")),
        ("case:*", Not(Equals("case", ""))),
        ('case:""', Equals("case", "")),
        ("NOT reason:*", Not(Not(Equals("reason", "")))),
        ("reason:抓捕", words("抓捕", field="reason")),
        ("kind:video.download", Equals("kind", "video.downloaded")),
        ("a b", And((words("a"), words("b")))),
        ("a AND b or c", Or((And((words("a"), words("b"))), words("c")))),
        ("a (b OR c)", And((words("a"), Or((words("b"), words("c")))))),
        ("a（b OR c）", And((words("a"), Or((words("b"), words("c")))))),
        ("not a b", And((Not(words("a")), words("b")))),
        ("actor:(li OR wa*)", Or((Equals("actor", "li"), Wildcard("actor", "wa*")))),
        ("seq>=100", Range("seq", 100, None)),
        ("index:[1 TO 9]", Range("seq", 1, 10)),
        ("ledger_index:{1 TO 9}", Range("seq", 2, 9)),
        ("time:[2026-10-01 TO 2026-10-31]", span("2026-10-01T00:00Z", "2026-11-01T00:00Z")),
        ("time:{2026-10-01 to 2026-10-31}", span("2026-10-02T00:00Z", "2026-10-31T00:00Z")),
        ("time:[* TO 2026-12]", span(None, "2027-01-01T00:00Z")),
        ("time:2026", span("2026-01-01T00:00Z", "2027-01-01T00:00Z")),
        ("time:9999", Range("time", microseconds(datetime(9999, 1, 1, tzinfo=UTC)), 253402300800_000000)),
        ("time:[2026 TO 9999-12]", Range("time", microseconds(datetime(2026, 1, 1, tzinfo=UTC)), 253402300800_000000)),
        ("time<=9999-12-31", Range("time", None, 253402300800_000000)),
        ("time>2026-10-01T08:00", span("2026-10-01T08:01Z", None)),
        ("time:>=2026-10-01T08:00:00+08:00", span("2026-10-01T00:00Z", None)),
        ("@timestamp<=2026-10-01T08:00:00.5Z", span(None, "2026-10-01T08:00:00.6Z")),
        ('time<"2026-10-01 08:00:00Z"', span(None, "2026-10-01T08:00Z")),
        ("time>=now-7d", Range("time", microseconds(NOW - timedelta(days=7)), None)),
        ("time:*", All()),
    ],
)
def test_queries(text: str, expected: Node) -> None:
    assert read(text) == expected


def test_dates_count_from_the_asked_zone() -> None:
    found = parse("time>=2026-10-01", now=NOW, zone=timezone(timedelta(hours=8)))
    assert found == span("2026-09-30T16:00Z", None)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("(a", 1, "not closed"),
        ("a)", 2, "without an opening"),
        ("a AND", 6, "term is missing"),
        ("OR a", 1, "term is missing"),
        ("a AND OR b", 7, "term is missing"),
        ("()", 2, "term is missing"),
        ('"open', 1, "quote is not closed"),
        ('a actor:"open', 9, "quote is not closed"),
        ("actor:", 7, "value for actor is missing"),
        ("actor:)", 7, "value is missing"),
        ("akteur:x", 1, "unknown field"),
        ("rtsp://camera", 1, "unknown field"),
        ("actor:(b case:c)", 10, "inside the values"),
        ("kind:video.looked", 6, "unknown kind"),
        ("outcome:good", 9, "unknown outcome"),
        ("actor>li", 7, "works on time and seq only"),
        ("time:[2026-10-01", 6, "not a range"),
        ("time:yesterday", 6, "not a time"),
        ("time:2026-13-01", 6, "not a time"),
        ("time:0000", 6, "not a time"),
        ("time>=now-999999w", 7, "not a time"),
        ("seq:x", 5, "not a ledger index"),
        ("[a TO b]", 1, "needs a field"),
        ("-secret", 1, "no operator"),
        ("*end", 1, "in text only one"),
        ("a ...", 3, "nothing to search"),
        ("actor:" + "*a" * 9, 7, "wildcards"),
        ("(" * (MAX_DEPTH + 1) + "a", MAX_DEPTH + 1, "nested deeper"),
        ("not " * (MAX_DEPTH + 1) + "a", None, "nested deeper"),
        ("a " * (MAX_TERMS + 1), None, "terms"),
    ],
)
def test_errors_say_where(text: str, place: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(text)
    assert caught.value.code == "audit.query.syntax"
    if place is not None:
        assert caught.value.where == f"query, character {place}"


def test_bounds() -> None:
    with pytest.raises(UsageError, match="4097 characters"):
        read("a" * (MAX_QUERY + 1))
    with pytest.raises(UsageError, match="not valid text"):
        read("a\udcff")
    with pytest.raises(UsageError, match="not valid text"):
        read("a\0")


_ALPHABET = 'ab*?\\"()[]{}:<>=+-!.,& \n\0　：（“录像' + "actor time kind seq reason AND OR NOT TO now 2026-10-01 "
_TOKENS = '" ( ) a 录像 AND_ not_ or_ actor: time: time> [ ] *_TO_ 2026 - * \\ : _ _'.replace("_", " _").split(" ")


def _try(text: str) -> UsageError | None:
    try:
        read(text)
    except UsageError as error:
        return error
    return None


@given(
    st.one_of(
        st.text(max_size=200),
        st.text(alphabet=_ALPHABET, max_size=200),
        st.lists(st.sampled_from(_TOKENS), max_size=40).map(lambda tokens: "".join(tokens).replace("_", " ")),
    )
)
def test_any_text_is_a_query_or_a_clear_error(text: str) -> None:
    error = _try(text)
    if error is not None:
        assert error.code.startswith("audit.query.")
        if place := re.search(r"character (\d+)", error.where):
            assert 1 <= int(place[1]) <= len(text) + 1


def test_cursors() -> None:
    assert parse_cursor("5.-7.3") == (5, -7, 3)
    for text in ("", "1.2", "1.2.3.4", "a.b.c", "1.2.-3", "9" * 99 + ".1.1"):
        with pytest.raises(UsageError, match="not a cursor"):
            parse_cursor(text)
