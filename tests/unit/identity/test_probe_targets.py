"""What may be probed, and every parser of what peers and lists send."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import SecguardError, UsageError
from secguard.identity.probe.clients import request_bytes
from secguard.identity.probe.handshake import Answer
from secguard.identity.probe.judge import Judge
from secguard.identity.probe.plain import recognise
from secguard.identity.probe.run import Options, ask
from secguard.identity.probe.served import parse_chain
from secguard.identity.probe.targets import Target, parse_target, read_targets, safe, unique

CAMERA = "32011600001320000001"


@pytest.mark.parametrize(
    ("text", "target", "shown"),
    [
        ("192.0.2.1:8443", Target("192.0.2.1", 8443), "192.0.2.1:8443"),
        ("192.0.2.1", Target("192.0.2.1", 443), "192.0.2.1:443"),
        ("[2001:DB8::1]:322", Target("2001:db8::1", 322), "[2001:db8::1]:322"),
        ("2001:db8:0:0::1", Target("2001:db8::1", 443), "[2001:db8::1]:443"),
        ("[fe80::1%eth0]:443", Target("fe80::1%eth0", 443), "[fe80::1%eth0]:443"),
        ("Cam1.Example.:443", Target("cam1.example", 443), "cam1.example:443"),
        ("摄像机.example:443", Target("xn--o1q278b98b.example", 443), "xn--o1q278b98b.example:443"),
        (f"{CAMERA}@cam:443", Target("cam", 443, CAMERA), "cam:443"),
    ],
)
def test_targets(text, target, shown):
    found = parse_target(text)
    assert (found.port, found.device, str(found)) == (target.port, target.device, shown)
    assert found == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "10.0.0.0/24",
        "https://camera/",
        "camera:0",
        "camera:65536",
        "camera:-1",
        "camera:4４3",
        "[::1",
        "[::1]443",
        "[camera]:443",
        "a b:443",
        "camera:443:444",
        "256.1.1.1:443",
        "1.2.3:443",
        "-cam:443",
        "cam..x:443",
        "a" * 300,
        "\x1b[31mcam:443",
        "12345@cam:443",
    ],
)
def test_no_targets(text):
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert str(caught.value).isprintable()


def test_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"﻿# all\ncam1:443 {CAMERA} # gate\n\ncam2,{CAMERA}\ncam1:443 {CAMERA}\n", encoding="utf-8")
    found = read_targets(path, 8443)
    assert [str(item) for item in unique(found)] == ["cam1:443", "cam2:8443"]
    path.write_text("cam1:443\ncam2:x\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"list.txt:2: ") as caught:
        read_targets(path)
    assert caught.value.code == "identity.probe.target"
    path.write_bytes(b"cam\xff:443\n")
    with pytest.raises(SecguardError, match="not UTF-8"):
        read_targets(path)
    with pytest.raises(UsageError, match="no endpoint"):
        unique([])
    with pytest.raises(UsageError, match="are the limit"):
        unique(found, 1)


@given(st.text(max_size=80))
def test_any_text_is_a_target_or_one_error(text):
    try:
        found = parse_target(text)
    except UsageError as error:
        assert str(error).isprintable()  # noqa: PT017 - also that nothing else is raised
    else:
        assert str(found).isprintable()
        assert 1 <= found.port <= 65535


@given(st.binary(max_size=400))
def test_any_banner(data):
    found = recognise(data)
    assert found is None or (found[0] and found[1].isprintable() and len(found[1]) <= 120)


@given(st.binary(max_size=400))
def test_any_certificate(data):
    try:
        parse_chain([data])
    except ValueError as error:
        assert str(error).isprintable()  # noqa: PT017 - also that nothing else is raised


@given(st.text())
def test_safe(text):
    assert safe(text, 50) == "" or safe(text, 50).isprintable()
    assert len(safe(text, 50)) <= 50


def test_mutated_certificates_are_judged(site):
    """Every byte of a right certificate, changed: never a traceback, never a pass."""
    import os
    import random

    from cryptography.hazmat.primitives.serialization import Encoding

    from secguard.core import Outcome
    from secguard.identity import Request
    from secguard.identity.probe.book import Book

    authority = site.open()
    (issued, *_) = authority.issue([Request(CAMERA, "camera")])
    leaf = issued.certificate.public_bytes(Encoding.DER)
    issuing = authority.certificates[issued.record.issuer].public_bytes(Encoding.DER)
    judge = Judge(site.policy(authority), site.clock.now(), book=Book(site.registry))
    target = parse_target(f"{CAMERA}@192.0.2.1:443")
    assert judge.endpoint(target, Answer("presented", chain=(leaf, issuing), sent=2)).outcome is Outcome.PASS
    random.seed(4)
    step = 1 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 5
    for position in range(random.randrange(step), len(leaf), step):
        bad = leaf[:position] + bytes((leaf[position] ^ random.randrange(1, 256),)) + leaf[position + 1 :]
        item = judge.endpoint(target, Answer("presented", chain=(bad, issuing), sent=2))
        assert item.outcome is Outcome.FAIL, position
        assert not item.active


def test_a_defect_of_ours_does_not_end_the_run(monkeypatch):
    from secguard.identity.probe import run

    monkeypatch.setattr(run, "look", lambda *_, **__: 1 / 0)
    answer = ask(Target("192.0.2.1", 443), Options(), threading.Event())
    assert answer.state == "garbage"
    assert "ZeroDivisionError" in answer.reason


@pytest.mark.parametrize(
    ("kind", "port", "start"),
    [
        ("auto", 443, b"GET / HTTP/1.1"),
        ("auto", 322, b"OPTIONS rtsps://"),
        ("auto", 5061, b"OPTIONS sips:"),
        ("rtsp", 443, b"OPTIONS rtsps://"),
        ("none", 443, b""),
        ("file", 443, b"HELLO"),
    ],
)
def test_requests_change_nothing(kind, port, start):
    assert request_bytes(kind, Target("cam", port), b"HELLO" if kind == "file" else b"").startswith(start)
