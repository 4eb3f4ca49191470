from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.events import Actor, Event, encode, may_hold_secrets, redact


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
        ("sip:32011600:geheim@10.0.0.1:5060", "sip:32011600:[redacted]@10.0.0.1:5060"),
        ("sip:32011600@10.0.0.1:5060", "sip:32011600@10.0.0.1:5060"),
        (
            'Digest username="u", nonce="1f", response="0123456789abcdef0123456789abcdef"',
            'Digest username="u", nonce="1f", response=[redacted]',
        ),
        ("login user=u password=hunter2, ok", "login user=u password=[redacted], ok"),
        ("用户 张三 密码：hunter2，登录", "用户 张三 密码：[redacted]，登录"),
        ('{"user":"u","password":"hunter 2"}', '{"user":"u","password":[redacted]}'),
        ("key eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2ln end", "key [redacted] end"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----", "[redacted]"),
        ("the passage was open: token ring", "the passage was open: token ring"),
        ("http://h/x?X-Amz-Signature=ab12&b=1", "http://h/x?X-Amz-Signature=[redacted]&b=1"),
        ("AccessKeyId=LTAI1&SecretAccessKey=ab12", "AccessKeyId=LTAI1&SecretAccessKey=[redacted]"),
        (
            "AWS_SECRET_ACCESS_KEY=ab12 accessKeySecret: cd",
            "AWS_SECRET_ACCESS_KEY=[redacted] accessKeySecret: [redacted]",
        ),
        ("GET /\r\nCookie: JSESSIONID=ab; b=c\r\nHost: h", "GET /\r\nCookie: [redacted]\r\nHost: h"),
        ("Authorization: Token ab12", "Authorization: [redacted]"),
        ('Authorization: Digest username="u"', 'Authorization: Digest username="u"'),
        ("/x;jsessionid=ab12?c=d", "/x;jsessionid=[redacted]"),
        ("<Name>u</Name><Password>ab 12</Password>", "<Name>u</Name><Password>[redacted]</Password>"),
        ("login --password ab12 --user u", "login --password [redacted] --user u"),
        ("密码＝ab12，令牌=cd34", "密码＝[redacted]，令牌=[redacted]"),
        ("http://h/x?pass%77ord=ab12&b=1", "http://h/x?pass%77ord=[redacted]&b=1"),
        ("http://h/x?na%6De=ab12", "http://h/x?na%6De=ab12"),
        ("/r?to=http%3A%2F%2Fu%3Ap%40h%3Ftoken%3Dab%26b", "/r?to=http%3A%2F%2F[redacted]%40h%3Ftoken%3D[redacted]%26b"),
        ("mysql -h db -P 3306 -u root -pab12 vms", "mysql -h db -P 3306 -u root -p[redacted] vms"),
        ("sshpass -p ab12 ssh h; curl -su u:ab h", "sshpass -p [redacted] ssh h; curl -su u:ab h"),
        ("mysql -uroot -p'ab 12' vms", "mysql -uroot -p[redacted] vms"),
        ("curl -u u:ab12 http://h", "curl -u u:[redacted] http://h"),
        ("snmpwalk -v2c -c ab12 10.0.0.1", "snmpwalk -v2c -c [redacted] 10.0.0.1"),
        ("snmp-agent community read cipher ab12", "snmp-agent community read cipher [redacted]"),
        (
            "PGPASSWORD=ab12 userPassword=cd clientSecret: ef",
            "PGPASSWORD=[redacted] userPassword=[redacted] clientSecret: [redacted]",
        ),
        ("ｐａｓｓｗｏｒｄ＝ab12，看", "password＝[redacted]，看"),
        ("ＰＴＺ 控制，ｏｋ", "ＰＴＺ 控制，ｏｋ"),
        ("community: 幸福小区", "community: 幸福小区"),
        ("私钥保管人：张三，令牌已交回", "私钥保管人：张三，令牌已交回"),
    ],
)
def test_secrets_in_texts(text: str, expected: str) -> None:
    clean = redact(event(reason=text, subject=text, case=text, approver=text, data={"a": [{"b": text}]}))
    assert {clean.reason, clean.subject, clean.case, clean.approver} == {expected}
    assert clean.data == {"a": [{"b": expected}]}


_SECRET_KEYS = [
    *("password", "Passwd", "pwd", "user.password", "db-secret", "api_key", "apikey", "api-keys", "密码", "口令"),
    *("access_token", "AUTHORIZATION", "private_key", "passphrase", "cookies", "accessToken", "userPassword", "apiKey"),
    *("sk", "secretKey", "accessKeySecret", "secret_access_key", "JSESSIONID", "用户密码", "登录口令", "私钥", "令牌"),
    *("PassWord", "ＰａｓｓＷｏｒｄ", "ｐｗｄ", "snmpCommunity", "community_string"),
]


@pytest.mark.parametrize("key", _SECRET_KEYS)
def test_values_under_secret_keys(key: str) -> None:
    for value in ("hunter2", {"deep": "hunter2"}, ["hunter2"], 12345):
        clean = redact(event(data={"outer": {key: value}}))
        assert clean.data == {"outer": {key: "[redacted]"}}
        assert b"hunter2" not in encode(clean)


@pytest.mark.parametrize("key", ["keyframe", "tokenizer", "compass", "passenger", "design", "community"])
def test_keys_that_only_look_alike(key: str) -> None:
    item = event(data={key: "value"})
    assert redact(item) is item


def test_nothing_to_take_out_is_the_same_object_and_twice_is_once() -> None:
    item = event(reason="核查", data={"seconds": 5, "list": [1, None, True]})
    assert redact(item) is item
    clean = redact(event(reason="rtsp://a:b@c/?token=x"))
    assert redact(clean) is clean


def test_actors_names_of_keys_and_limits() -> None:
    clean = redact(event(data={"rtsp://a:b@h": 1, "rtsp://c:d@h": 2}, subject="x://a@ " * 36))
    assert sorted(clean.data.values()) == [1, 2]
    assert not any("b@" in key or "d@" in key for key in clean.data)
    assert len(clean.subject) <= 256
    named = Event(id="e", kind="video.viewed", time=clean.time, actor=Actor(name="rtsp://u:p@h"))
    assert redact(named).actor.name == "rtsp://[redacted]@h"


@given(st.text(alphabet="passwordtokeybri:/?=@ &\"'密码口令eyJ.B-ｐＰｗｄ%3D", max_size=80))
def test_the_quick_look_misses_nothing(text: str) -> None:
    item = event(reason=text, data={text: text})
    if redact(item) is not item:
        assert may_hold_secrets(encode(item))


def test_a_session_of_the_vocabulary_needs_no_second_look() -> None:
    assert not may_hold_secrets(encode(event(data={"session": "95850031b94b7633"})))
    for name in ("sessionId", "session_id", "SESSION-ID", "JSESSIONID"):
        item = event(data={name: "95850031b94b7633"})
        assert may_hold_secrets(encode(item))
        assert redact(item).data == {name: "[redacted]"}


def test_long_hostile_text_is_quick() -> None:
    for text in (
        "password: " * 400,
        "sip:" * 900 + "@",
        "eyJ" * 1300,
        "://" + "a" * 4000,
        "?token" * 600,
        "bearer " * 500,
        "a://" * 1000,
        "mysql " * 900,
        "snmp-server " * 900,
        "%3a%2f%2f" * 900,
        "?a%" * 2000,
    ):
        redact(event(reason=text, data={"t": text}))
