"""Syslog messages and their framing, as RFCs 5424, 3164, 5425 and 6587 have them, and as devices really write."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.audit.sources.framing import MAX_MESSAGE, Framer
from secguard.audit.sources.syslog import parse_syslog

NOW = datetime(2026, 11, 1, 8, tzinfo=UTC)
CST = timezone(timedelta(hours=8))


def parse(text: str, now: datetime = NOW, zone: Any = UTC) -> dict[str, Any]:
    return parse_syslog(text, now, zone)


def test_rfc_5424_with_structured_data() -> None:
    record = parse(
        '<165>1 2026-10-01T08:00:00.000003+08:00 vms.example app 8710 ID47 [ex@32473 iut="3" q="a \\"b\\" \\] \\\\ c"]'
        '[meta sequenceId="7" ip="10.0.0.1" ip="10.0.0.2"] \ufeff张三 看了'
    )
    assert record | {"sd": 0} == {
        "facility": "local4",
        "severity": "notice",
        "host": "vms.example",
        "app": "app",
        "proc": "8710",
        "msgid": "ID47",
        "message": "张三 看了",
        "time": "2026-10-01T00:00:00.000003Z",
        "timed": True,
        "sd": 0,
    }
    assert record["sd"] == {
        "ex@32473": {"iut": "3", "q": 'a "b" ] \\ c'},
        "meta": {"sequenceId": "7", "ip": ["10.0.0.1", "10.0.0.2"]},
    }


def test_rfc_5424_with_nothing() -> None:
    record = parse("<0>1 - - - - - -")
    assert (record["facility"], record["severity"], record["message"], record["timed"]) == (
        "kern",
        "emergency",
        "",
        False,
    )
    assert record["time"] == "2026-11-01T08:00:00Z"


@pytest.mark.parametrize(
    ("text", "time", "host", "app", "proc", "message"),
    [
        ("<34>Oct 11 22:14:15 mymachine su: 'su root'", "2026-10-11T22:14:15Z", "mymachine", "su", "", "'su root'"),
        ("<13>Oct  1 08:00:00 10.0.0.9 sshd[42]: ok", "2026-10-01T08:00:00Z", "10.0.0.9", "sshd", "42", "ok"),
        ("<13>Dec 31 23:59:59 h a: b", "2026-12-31T23:59:59Z", "h", "a", "", "b"),
        (
            "<13>2026-10-01T08:00:00.5+08:00 h prog[1]: 文",
            "2026-10-01T00:00:00.500000Z",
            "h",
            "prog",
            "1",
            "文",
        ),
        ("<13>Oct 1 2026 08:00:00 h a: b", "2026-10-01T08:00:00Z", "h", "a", "", "b"),
        ("<13>Oct 11 22:14:15 app: no host", "2026-10-11T22:14:15Z", "", "app", "", "no host"),
        ("<13>just words", None, "", "", "", "just words"),
        ("no priority at all", None, "", "", "", "no priority at all"),
        ("<999>x", None, "", "", "", "<999>x"),
        ("<13>Foo 11 22:14:15 h a: b", None, "", "", "", "Foo 11 22:14:15 h a: b"),
        ("<13>Feb 30 22:14:15 h a: b", None, "", "", "", "Feb 30 22:14:15 h a: b"),
        ("<13>1 nonsense", None, "", "", "", "1 nonsense"),
    ],
)
def test_what_devices_write(text: str, time: str | None, host: str, app: str, proc: str, message: str) -> None:  # noqa: PLR0917 - columns
    record = parse(text)
    assert (record["host"], record["app"], record["proc"], record["message"]) == (host, app, proc, message)
    assert record["timed"] == (time is not None)
    assert record["time"] == (time or "2026-11-01T08:00:00Z")


def test_a_year_is_the_nearest_and_a_zone_the_configured_one() -> None:
    assert parse("<13>Dec 31 23:59:00 h a: b", datetime(2027, 1, 1, tzinfo=UTC))["time"].startswith("2026-12-31")
    assert parse("<13>Jan  1 00:01:00 h a: b", datetime(2026, 12, 31, 23, tzinfo=UTC))["time"].startswith("2027-01-01")
    assert parse("<13>Feb 29 10:00:00 h a: b", datetime(2025, 1, 1, tzinfo=UTC))["time"].startswith("2024-02-29")
    assert parse("<13>Nov  1 16:00:00 h a: b", zone=CST)["time"] == "2026-11-01T08:00:00Z"


@given(st.text(max_size=300) | st.from_regex(r"<\d{1,3}>1? ?[A-Za-z0-9 :\-\[\]=\"\\]{0,80}", fullmatch=True))
def test_any_text_is_a_message(text: str) -> None:
    record = parse(text)
    assert isinstance(record["message"], str)
    datetime.fromisoformat(record["time"])


def test_hostile_messages_are_quick() -> None:
    for text in (
        "<1>1 - - - - - [a " + 'b="\\' * 60_000,
        "<1>1 " + "x " * 100_000,
        "<1>" + "[" * 200_000,
        "<1>1 - - - - - " + "[a]" * 80_000,
    ):
        assert parse(text)["message"] is not None


def frames(data: bytes, sizes: list[int]) -> list[Any]:
    framer, found, at = Framer(), [], 0
    for size in [*sizes, len(data)]:
        found += framer.feed(data[at : at + size])
        at += size
    return found + framer.close()


def test_both_framings_on_one_connection() -> None:
    data = b"<1>line one\n11 <2>counted.<3>crlf\r\n5 <4>\nx\n<5>nul\0\n<6>only nul\0<7>last"
    found = frames(data, [])
    assert [(f.data, f.problem) for f in found] == [
        (b"<1>line one", ""),
        (b"<2>counted.", ""),
        (b"<3>crlf\r", ""),
        (b"<4>\nx", ""),
        (b"<5>nul", ""),
        (b"<6>only nul", ""),
        (b"<7>last", ""),
    ]


@given(
    st.lists(st.binary(min_size=1, max_size=40).map(lambda raw: b"<" + raw.translate(None, b"\n\0"))),
    st.lists(st.integers(1, 9), max_size=60),
    st.booleans(),
)
def test_pieces_make_no_difference(messages: list[bytes], sizes: list[int], counted: bool) -> None:
    data = b"".join(b"%d %s" % (len(item), item) if counted else item + b"\n" for item in messages)
    assert [frame.data for frame in frames(data, sizes)] == messages


@given(st.lists(st.binary(max_size=300) | st.sampled_from([b"9999999 ", b"12 <1>", b"\n", b"300000 x"]), max_size=30))
def test_any_stream_is_cut_and_nothing_is_lost(parts: list[bytes]) -> None:
    framer, kept, size = Framer(), 0, 0
    for part in parts:
        for frame in framer.feed(part):
            kept += frame.size
        size += len(part)
        assert len(framer._buffer) <= MAX_MESSAGE + 300
    kept += sum(frame.size for frame in framer.close())
    assert kept <= size


def test_a_message_too_long_is_hashed_and_skipped() -> None:
    long = b"<1>" + b"x" * (MAX_MESSAGE + 10)
    for data in (b"%d %s" % (len(long), long), long + b"\n"):
        found = frames(data + b"<2>after\n", [1000] * 400)
        assert [bool(frame.problem) for frame in found] == [True, False]
        assert (found[0].size, found[0].sha256) == (len(long), hashlib.sha256(long).hexdigest())
        assert found[1].data == b"<2>after"


def test_a_counted_message_that_is_cut_off_is_told() -> None:
    (frame,) = frames(b"100 <1>only this", [])
    assert frame.problem
    (frame,) = frames(b"900000 <1>only this", [])
    assert frame.problem
