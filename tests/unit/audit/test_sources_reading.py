"""How another system's record becomes an event, and what a configuration may say."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.audit.sources.reading import MAX_RECORD, Ignored, Reader
from secguard.audit.sources.settings import load_sources
from secguard.audit.sources.times import parse_zone, read_time
from secguard.core import FormatError, UsageError
from secguard.events import MAX_EVENT, Assurance, Event, decode_stored, encode

NOW = datetime(2026, 11, 1, 8, tzinfo=UTC)
VENDOR = {
    "kind": "file",
    "paths": ["x.log"],
    "map": {
        "id": "eventId",
        "kind": "op.type",
        "time": "ts",
        "actor.name": "user.account|user.name",
        "actor.address": "ip",
        "subject": "devices.0.id",
        "outcome": "result",
        "reason": "remark",
        "data.bytes": "size",
        "data.start": "range.from",
        "data.vendor.code": "op.code",
    },
    "kinds": {"PLAYBACK": "video.played", "HEARTBEAT": "-"},
    "outcomes": {"0": "success", "*": "failure"},
    "defaults": {"actor.org": "分局"},
    "zone": "+08:00",
}
RECORD = {
    "eventId": 77,
    "op": {"type": "PLAYBACK", "code": 3},
    "ts": 1790784000000,
    "user": {"name": "张三"},
    "ip": "10.0.0.1",
    "devices": [{"id": "32011600001310000001"}],
    "result": 0,
    "remark": "核查 rtsp://admin:hunter2@10.0.0.9/live",
    "size": "1048576",
    "range": {"from": "2026-09-30 08:00:00"},
}


def reader(**values: Any) -> Reader:
    table = {**VENDOR, **values}
    return Reader("vms", load_sources({"vms": table})["vms"])


def read(record: Any, using: Reader | None = None, **options: Any) -> Event:
    raw = record if isinstance(record, bytes) else json.dumps(record, ensure_ascii=False).encode()
    return (using or reader()).read(raw, NOW, **options)[0].event


def test_a_record_by_its_table() -> None:
    event = read(RECORD, peer="10.9.9.9", certificate="vms.example")
    assert (event.id, event.kind, event.subject) == ("vms:77", "video.played", "32011600001310000001")
    assert event.time == datetime(2026, 9, 30, 16, tzinfo=UTC)
    assert (event.actor.name, event.actor.org, event.actor.address) == ("张三", "分局", "10.0.0.1")
    assert event.actor.assurance is Assurance.CLAIMED
    assert event.reason == "核查 rtsp://[redacted]@10.0.0.9/live"
    assert event.data == {
        "source_kind": "PLAYBACK",
        "bytes": 1048576,
        "start": "2026-09-30T00:00:00Z",
        "vendor": {"code": 3},
        "via": {
            "source": "vms",
            "received": "2026-11-01T08:00:00Z",
            "peer": "10.9.9.9",
            "certificate": "vms.example",
        },
    }
    assert decode_stored(encode(event)) == event


def test_what_is_unwanted_unknown_or_wrong() -> None:
    with pytest.raises(Ignored):
        read({**RECORD, "op": {"type": "HEARTBEAT"}})
    for change, code in [
        ({"op": {"type": "NEW"}}, "audit.map.kind"),
        ({"op": None}, "audit.map.kind"),
        ({"ts": "yesterday"}, "audit.map.time"),
        ({"ts": 1e300}, "audit.map.time"),
        ({"size": -1}, "events.data"),
        ({"size": "NaN"}, "events.data"),
        ({"ip": ["a"]}, "audit.map.value"),
        ({"eventId": "x" * 200}, "events.field"),
    ]:
        with pytest.raises(FormatError) as caught:
            read({**RECORD, **change})
        assert caught.value.code == code, change
    assert read({**RECORD, "op": {"type": "NEW"}}, reader(other="record")).kind == "log.received"
    with pytest.raises(Ignored):
        read({**RECORD, "op": {"type": "NEW"}}, reader(other="ignore"))
    denied = read({**RECORD, "result": "拒绝"}, reader(outcomes={}))
    assert (denied.outcome.value, denied.data["source_outcome"]) == ("unknown", "拒绝")


def test_what_is_too_long_for_a_field_is_cut_with_a_trace() -> None:
    event = read({**RECORD, "remark": "x" * 5000, "user": {"name": "n" * 300}})
    assert event.reason.endswith("…")
    assert event.data["source_reason"] == "x" * 5000
    assert event.data["source_actor_name"] == "n" * 300


def test_records_without_id_or_time_get_them_from_their_place() -> None:
    record = {key: value for key, value in RECORD.items() if key not in {"eventId", "ts"}}
    event = read(record, derived="vms:gen:5")
    assert (event.id, event.time) == ("vms:gen:5", NOW)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"kind":"a","kind":"b"}', "events.key.duplicate"),
        (b'{"op":{"type":"PLAYBACK"},"size":NaN}', "events.number.not-finite"),
        (b'{"size":1e999}', "events.number.not-finite"),
        (b"{", "events.json"),
        (b"[1]", "audit.map.record"),
        (b"[" * 100_000, "events.depth"),
        (b'{"a":"\\ud800"}', "events.text.surrogate"),
        (b'"' + b"x" * MAX_RECORD + b'"', "events.size"),
        (b"\xff\xfe{}", "events.encoding"),
    ],
)
def test_strict(raw: bytes, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(raw)
    assert caught.value.code == code


def test_chinese_encodings_are_told_apart() -> None:
    raw = json.dumps(RECORD, ensure_ascii=False).encode("gb18030")
    assert read(raw).actor.name == "张三"
    with pytest.raises(FormatError) as caught:
        read(raw, reader(encoding="utf-8"))
    assert caught.value.code == "events.encoding"


def test_our_own_events_need_no_table_and_cannot_forge_our_marks() -> None:
    plain = {"kind": "file", "paths": ["x"], "map": {}, "kinds": {}, "outcomes": {}, "defaults": {}}
    own = reader(**plain)
    base = {"id": "p-1", "kind": "video.view", "time": "2026-10-01T08:00:00+08:00", "actor": {"name": "张三"}}
    event = read({**base, "data": {"via": {"source": "other"}, "peer_uid": 0}}, own)
    assert event.data["via"]["source"] == "vms"
    assert event.data["source_via"] == {"source": "other"}
    assert event.data["source_peer_uid"] == 0
    sure = read({**base, "actor": {"name": "a", "assurance": "certificate"}}, own)
    assert (sure.actor.assurance, sure.data["source_assurance"]) == (Assurance.CLAIMED, "certificate")
    for change, code in [
        ({"kind": "certificate.issued"}, "audit.record.own-kind"),
        ({"id": "secguard:x"}, "audit.record.reserved-id"),
        ({"data": {"bytes": "x"}}, "events.data"),
        ({"extra": 1}, "events.field"),
        ({"data": {"x": "y" * (MAX_EVENT - 100)}}, "events.size"),
    ]:
        with pytest.raises(FormatError) as caught:
            read({**base, **change}, own)
        assert caught.value.code == code


def syslog(**values: Any) -> Reader:
    return Reader("net", load_sources({"net": {"kind": "syslog", "udp": "127.0.0.1:0", **values}})["net"])


def test_syslog_that_is_our_event_or_json_or_text() -> None:
    own = b'{"id":"p-1","kind":"video.viewed","time":"2026-10-01T08:00:00Z","actor":{"name":"a"}}'
    assert read(b"<13>Oct  1 08:00:00 h vms: @cee: " + own, syslog()).id == "p-1"
    table = {"map": {"kind": "json.op", "actor.name": "json.user"}, "kinds": {"look": "video.viewed"}}
    event = read(b'<13>Oct  1 08:00:00 h vms: {"op":"look","user":"b"}', syslog(**table))
    assert (event.kind, event.actor.name, event.time.isoformat()) == ("video.viewed", "b", "2026-10-01T08:00:00+00:00")
    text = read("<86>Oct  1 08:00:00 gate sshd[7]: 用户 root 登录 密码=hunter2".encode("gb18030"), syslog())
    assert (text.kind, text.subject, text.actor.name) == ("log.received", "gate", "sshd")
    assert text.data["message"] == "用户 root 登录 密码=[redacted]"
    assert (text.data["facility"], text.data["severity"]) == ("authpriv", "informational")
    pattern = {
        "pattern": r"user=(?P<user>\S+) op=(?P<op>\S+)",
        "map": {"kind": "match.op", "actor.name": "match.user", "subject": "host"},
        "kinds": {"PTZ": "camera.controlled"},
    }
    event = read(b"<13>Oct  1 08:00:00 cam7 vms: user=c op=PTZ", syslog(**pattern))
    assert (event.kind, event.actor.name, event.subject) == ("camera.controlled", "c", "cam7")
    assert read(b"<13>something else", syslog(**pattern)).kind == "log.received"
    with pytest.raises(FormatError):
        read(b"<13>something else", syslog(**pattern, other="reject"))


_values = st.recursive(
    st.text(max_size=5) | st.floats() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["op", "type", "ts", "user", "name", "size", "devices"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=200) | _values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_event_or_are_put_aside(raw: bytes) -> None:
    for using in (_MAPPED, _SYSLOG):
        try:
            event = using.read(raw, NOW)[0].event
        except (FormatError, Ignored):
            continue
        assert decode_stored(encode(event)) == event


_MAPPED, _SYSLOG = reader(other="record", keep=True), syslog()


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        (1790784000, "auto", "2026-09-30T16:00:00"),
        ("1790784000.5", "auto", "2026-09-30T16:00:00.500000"),
        (1790784000000000, "auto", "2026-09-30T16:00:00"),
        ("2026-10-01T00:00:00Z", "auto", "2026-10-01T00:00:00"),
        ("2026/10/01 00:00:00,123", "auto", "2026-09-30T16:00:00.123000"),
        ("20261001000000", "%Y%m%d%H%M%S", "2026-09-30T16:00:00"),
        ("1790784000000", "unix-ms", "2026-09-30T16:00:00"),
    ],
)
def test_times(value: Any, form: str, expected: str) -> None:
    assert read_time(value, form, parse_zone("+08:00")).isoformat() == expected + "+00:00"


@pytest.mark.parametrize("value", ["", "x", None, True, [], {}, float("nan"), float("inf"), 10**40, "9" * 40])
def test_what_is_no_time(value: Any) -> None:
    with pytest.raises(FormatError):
        read_time(value, "auto", UTC)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"kind": "files"}, "kind"),
        ({"kind": "file", "path": ["x"]}, "paths"),
        ({"kind": "file", "paths": []}, "paths"),
        ({"kind": "file", "paths": ["*/x.log"]}, "folder"),
        ({"kind": "file", "paths": ["x"], "map": {"actr.name": "u"}}, "actor.name"),
        ({"kind": "file", "paths": ["x"], "map": {"subject": "u"}}, "kind"),
        ({"kind": "file", "paths": ["x"], "kinds": {"A": "video.playd"}}, "video.played"),
        ({"kind": "file", "paths": ["x"], "kinds": {"A": "certificate.issued"}}, "itself"),
        ({"kind": "file", "paths": ["x"], "pattern": "("}, "pattern"),
        ({"kind": "file", "paths": ["x"], "zone": "Shanghai"}, "+08:00"),
        ({"kind": "syslog"}, "udp"),
        ({"kind": "syslog", "udp": "x"}, "udp"),
        ({"kind": "syslog", "udp": "h:1", "peers": ["10.0.0.0/99"]}, "10.0.0.0/99"),
        ({"kind": "syslog", "tls": "h:1", "certificate": "c.pem"}, "key"),
        ({"kind": "http", "listen": "0.0.0.0:80", "plain": True}, "TLS"),
        ({"kind": "http", "listen": ""}, "listen"),
        ("x", "table"),
    ],
)
def test_a_configuration_that_cannot_be(table: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_sources({"one": table})
    assert said in f"{caught.value.message} {caught.value.hint}"
    assert "audit.sources.one" in caught.value.where or caught.value.code == "audit.source.zone"


def test_names_of_sources() -> None:
    for name in ("", "A", "a b", "secguard", "x" * 33):
        with pytest.raises(UsageError):
            load_sources({name: {"kind": "file", "paths": ["x"]}})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"defaults": {"kind": "video.playd"}}, "defaults.kind: 'video.playd'"),
        ({"defaults": {"outcome": "well"}}, "defaults.outcome: 'well'"),
        ({"zone": "Mars"}, "not a zone: 'Mars'"),
        ({"kind": "syslog", "udp": "127.0.0.1:65536"}, "no port 65536"),
    ],
)
def test_settings_that_would_put_everything_aside_are_refused(table: dict[str, Any], message: str) -> None:
    whole = {"kind": "file", "paths": ["a.log"], **table}
    if whole["kind"] != "file":
        del whole["paths"]
    with pytest.raises(UsageError, match=re.escape(f"secguard.toml: audit.sources.vms: {message}")) as caught:
        load_sources({"vms": whole})
    assert caught.value.hint
