from datetime import UTC, datetime
from typing import Any

import pytest

from secguard.events import Actor, Event, encode, redact


def event(**values: Any) -> Event:
    return Event(id="e", kind="video.viewed", time=datetime(2026, 1, 1, tzinfo=UTC), actor=Actor(name="a"), **values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://admin:hunter2@10.0.0.1/live", "rtsp://[redacted]@10.0.0.1/live"),
        ("see http://u@h/x and ftp://a:b@c/", "see http://[redacted]@h/x and ftp://[redacted]@c/"),
        ("http://h/x?token=abc&b=1", "http://h/x?token=[redacted]&b=1"),
        ("http://h/x?a=1&access_token=abc#top", "http://h/x?a=1&access_token=[redacted]#top"),
        ("/play;sign=abc;t=1", "/play;sign=[redacted];t=1"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer [redacted]"),
        ("basic QWxhZGRpbjpvcGVu", "basic [redacted]"),
        ("mail a@b.example about passwords", "mail a@b.example about passwords"),
        ("http://h/x?tokens_left=3", "http://h/x?tokens_left=3"),
        ("basic checks", "basic checks"),
    ],
)
def test_secrets_in_texts(text: str, expected: str) -> None:
    clean = redact(event(reason=text, subject=text, case=text, approver=text, data={"a": [{"b": text}]}))
    assert {clean.reason, clean.subject, clean.case, clean.approver} == {expected}
    assert clean.data == {"a": [{"b": expected}]}


_SECRET_KEYS = [
    *("password", "Passwd", "pwd", "user.password", "db-secret", "api_key", "apikey", "api-keys", "密码", "口令"),
    *("access_token", "AUTHORIZATION", "private_key", "passphrase", "cookies", "accessToken", "userPassword", "apiKey"),
]


@pytest.mark.parametrize("key", _SECRET_KEYS)
def test_values_under_secret_keys(key: str) -> None:
    for value in ("hunter2", {"deep": "hunter2"}, ["hunter2"], 12345):
        clean = redact(event(data={"outer": {key: value}}))
        assert clean.data == {"outer": {key: "[redacted]"}}
        assert b"hunter2" not in encode(clean)


@pytest.mark.parametrize("key", ["keyframe", "tokenizer", "compass", "passenger", "design"])
def test_keys_that_only_look_alike(key: str) -> None:
    item = event(data={key: "value"})
    assert redact(item) is item


def test_nothing_to_take_out_is_the_same_object_and_twice_is_once() -> None:
    item = event(reason="核查", data={"seconds": 5, "list": [1, None, True]})
    assert redact(item) is item
    clean = redact(event(reason="rtsp://a:b@c/?token=x"))
    assert redact(clean) is clean


def test_long_hostile_text_is_quick() -> None:
    for text in ("://" + "a" * 4000, "?token" * 600, "bearer " * 500, "a://" * 1000):
        redact(event(reason=text, data={"t": text}))
