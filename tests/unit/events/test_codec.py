import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError
from secguard.events import (
    MAX_EVENT,
    Actor,
    Assurance,
    Event,
    Result,
    decode_stored,
    decode_untrusted,
    encode,
    new_event_id,
)
from secguard.events.codec import _check, _read_plain, _strict

BASE: dict[str, Any] = {
    "id": "e-1",
    "kind": "video.viewed",
    "time": "2026-10-01T08:00:00+08:00",
    "actor": {"name": "张三"},
}


def raw(**values: Any) -> bytes:
    return json.dumps({**BASE, **values}, ensure_ascii=False).encode()


def test_the_least_and_the_most_an_event_says() -> None:
    assert decode_untrusted(raw()) == Event(
        id="e-1", kind="video.viewed", time=datetime(2026, 10, 1, tzinfo=UTC), actor=Actor(name="张三")
    )
    full = raw(
        actor={"name": "a", "assurance": "os-user", "role": "r", "org": "o", "address": "10.0.0.1"},
        subject="s",
        case="c",
        approver="p",
        reason="why",
        outcome="denied",
        data={"n": None, "t": True, "i": 1, "f": 0.5, "l": ["x", {"y": []}]},
        v=1,
    )
    event = decode_untrusted(full)
    assert event.actor.assurance is Assurance.OS_USER
    assert event.outcome is Result.DENIED
    assert event.data["l"] == ["x", {"y": []}]
    assert decode_stored(encode(event)) == event


def test_encoding_is_deterministic_and_leaves_defaults_out() -> None:
    event = decode_untrusted(raw(data={"b": 1, "a": {"d": 1, "c": 2}}))
    assert (
        encode(event)
        == (
            '{"id":"e-1","kind":"video.viewed","time":"2026-10-01T00:00:00Z","actor":{"name":"张三"},'
            '"data":{"a":{"c":2,"d":1},"b":1}}'
        ).encode()
    )


def test_an_alias_is_mapped_and_kept() -> None:
    event = decode_untrusted(raw(kind="video.download", data={"x": 1}))
    assert (event.kind, event.data) == ("video.downloaded", {"x": 1, "source_kind": "video.download"})


@pytest.mark.parametrize(
    ("data", "code", "where"),
    [
        (b"", "events.json", "character 0"),
        (b'{"id":', "events.json", "character 6"),
        (raw() + b"{}", "events.json", f"character {len(raw().decode())}"),
        (b"\xff", "events.encoding", "byte 0"),
        (b"null", "events.field", ""),
        (raw()[:-1] + b',"kind":"video.viewed"}', "events.key.duplicate", ""),
        (raw(data={"a": float("nan")}), "events.number.not-finite", ""),
        (raw(data={"a": [float("-inf")]}), "events.number.not-finite", ""),
        (raw(data={"a": 0}).replace(b"0}", b"-1e400}"), "events.number.not-finite", ""),
        (raw(data={"a": 1 << 64}), "events.number.range", ""),
        (raw(data={"a": -(1 << 63) - 1}), "events.number.range", ""),
        (raw(data={"a": 0}).replace(b"0}", b"1" * 5000 + b"}"), "events.depth", ""),
        (raw(reason="?").replace(b"?", b"\\udfff"), "events.text.surrogate", ""),
        (raw(data={"?": 1}).replace(b"?", b"\\ud800"), "events.text.surrogate", ""),
        (raw(kind="?").replace(b"?", b"\\ud800"), "events.text.surrogate", ""),
        (b"[" * 20_000, "events.depth", ""),
        (raw(data={"a": json.loads("[" * 40 + "]" * 40)}), "events.depth", ""),
        (raw(time="yesterday"), "events.field", ""),
        (raw(time="2026-10-01T08:00:00"), "events.time.naive", "time"),
        (raw(time="0001-01-01T00:00:00+08:00"), "events.time.range", "time"),
        (raw(time=1_700_000_000), "events.field", ""),
        (raw(v=2), "events.version", "v"),
        (raw(kind="video.looked"), "events.kind.unknown", "kind"),
        (raw(outcome="fine"), "events.field", ""),
        (raw(extra=1), "events.field", ""),
        (raw(actor={"name": "x", "age": 1}), "events.field", ""),
        (raw(actor={"name": "x", "assurance": "sworn"}), "events.field", ""),
        (raw(actor={"name": "x" * 257}), "events.field", ""),
        (raw(actor="x"), "events.field", ""),
        (raw(id="x" * 129), "events.field", ""),
        (raw(reason="x" * 4097), "events.field", ""),
        (raw(data=[1]), "events.field", ""),
        (b" " * (MAX_EVENT + 1), "events.size", ""),
    ],
)
def test_what_is_refused(data: bytes, code: str, where: str) -> None:
    with pytest.raises(FormatError) as caught:
        decode_untrusted(data)
    assert (caught.value.code, caught.value.where) == (code, where)


def test_the_edges_that_are_allowed() -> None:
    deep = json.loads("[" * 30 + "]" * 30)
    event = decode_untrusted(raw(data={"low": -(1 << 63), "high": (1 << 64) - 1, "deep": deep}))
    assert decode_stored(encode(event)) == event
    pair = raw(reason="?").replace(b"?", b"\\ud83d\\udcf7")  # a whole surrogate pair is one character
    assert decode_untrusted(pair).reason == "\U0001f4f7"
    assert decode_untrusted(raw().decode()) == decode_untrusted(raw())


def test_text_with_half_a_pair_is_refused_however_it_comes() -> None:
    with pytest.raises(FormatError, match="surrogate"):
        decode_untrusted(raw(reason="?").decode().replace("?", "\ud800"))


def test_a_stored_event_that_is_none_and_one_that_is_too_large() -> None:
    for data in (b"", b"{}", b"[" * 100_000, b"\xff\xff"):
        with pytest.raises(FormatError, match="not an event"):
            decode_stored(data)
    event = decode_untrusted(raw())
    with pytest.raises(FormatError, match="is the limit"):
        encode(msgspec.structs.replace(event, data={"a": "x" * MAX_EVENT}))


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_a_clear_error(data: bytes) -> None:
    _try(data)


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=5))
def test_any_mutation_is_an_event_or_a_clear_error(changes: list[tuple[int, bytes]]) -> None:
    data = raw(data={"a": [1, 2.5, {"b": "录像"}]}, reason="核查")
    for place, value in changes:
        at = place % len(data)
        data = data[:at] + value + data[at + 1 :]
    _try(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_json)
def test_any_data_survives_or_is_refused(data: Any) -> None:
    event = _try(json.dumps({**BASE, "data": {"value": data}}).encode())
    if event is not None:
        assert decode_stored(encode(event)).data == event.data


def _try(data: bytes) -> Event | None:
    try:
        event = decode_untrusted(data)
    except FormatError:
        return None
    assert decode_stored(encode(event)) == event
    return event


def test_event_ids_are_uuids_of_version_7_that_sort_by_time() -> None:
    import uuid

    names = [new_event_id() for _ in range(100)]
    assert len(set(names)) == 100
    assert {uuid.UUID(name).version for name in names} == {7}
    assert {uuid.UUID(name).variant for name in names} == {uuid.RFC_4122}
    assert [name[:8] for name in names] == sorted(name[:8] for name in names)


def test_stored_bytes_that_are_no_utf8_are_no_event() -> None:
    with pytest.raises(FormatError) as caught:
        decode_stored(b'{"id":"\xff","kind":"video.viewed"}')
    assert caught.value.code == "events.format"


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 66), 1 << 66) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(_json, st.booleans(), st.integers(0, 200), st.binary(max_size=2))
def test_the_quick_reader_takes_only_what_the_strict_one_takes(
    value: object, escape: bool, place: int, noise: bytes
) -> None:
    """With a piece put in anywhere, and with keys said twice."""
    text = json.dumps(value, ensure_ascii=escape).encode("utf-8", "surrogatepass")
    if isinstance(value, dict) and value:
        text = text[:-1] + b"," + text[1:]  # every key twice
    text = text[:place] + noise + text[place:]
    quick = _read_plain(text)
    if quick is not None:
        strict = _strict.decode(text.decode())
        _check((strict,), 0, escaped=True)
        assert json.dumps(quick) == json.dumps(strict)
