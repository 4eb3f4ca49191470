"""Scheduled scans: when one is due, when one was missed, and what is told whom."""

import hashlib
import hmac
import http.server
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secguard.core import (
    Axis,
    FixedClock,
    FormatError,
    Outcome,
    RefusedError,
    SecguardError,
    SystemPartError,
    UsageError,
    Verdict,
    finding,
    judge,
)
from secguard.isolation.schedule.alerts import SIGNATURE, Alerts, reason_of, summary
from secguard.isolation.schedule.book import Book, Entry, is_due, missed, parse_every
from secguard.isolation.schedule.scheduled import Scheduled

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
AXES = (Axis.INTEGRITY, Axis.COVERAGE, Axis.CONFORMANCE)


def verdict(*codes: str, where: str = "a -> b") -> Verdict:
    found = [finding(code, where, src="a", dst="b", probes="TCP 22", families="IPv4") for code in codes]
    return judge("plan", NOW, examined=AXES, findings=found, default=AXES)


def test_intervals() -> None:
    assert [parse_every(text) for text in ("30m", "24h", "7d")] == [timedelta(minutes=30), DAY, 7 * DAY]
    for text in ("", "0h", "24", "h", "1w", "-1h", "24h ", "1.5h", "999999d"):
        with pytest.raises(UsageError, match="not an interval"):
            parse_every(text)


@pytest.mark.parametrize(
    ("hours", "due", "late"),
    [(0, False, False), (20, False, False), (22, True, False), (24, True, False), (35, True, False), (37, True, True)],
)
def test_due_and_missed(hours: int, due: bool, late: bool) -> None:
    entry = Entry(policy="p", every="24h", started=NOW - timedelta(hours=hours), outcome="pass")
    assert is_due(entry, DAY, NOW) is due
    found = missed(entry, DAY, NOW)
    assert (found is not None) is late
    if found is not None:
        assert (found.code, found.outcome, found.axis) == (
            "isolation.schedule.missed",
            Outcome.UNKNOWN,
            Axis.COVERAGE,
        )


def test_never_scanned_in_the_future_and_many_missed() -> None:
    assert is_due(Entry(policy="p"), DAY, NOW)
    assert missed(Entry(policy="p"), DAY, NOW) is None
    failed = missed(Entry(policy="p", every="24h", failed=NOW - DAY), DAY, NOW)
    assert failed is not None
    assert failed.data["last"] == "-"
    assert is_due(Entry(policy="p", started=NOW + DAY), DAY, NOW), "a clock that was set back stops no scan"
    week = missed(Entry(policy="p", every="24h", started=NOW - 7 * DAY), DAY, NOW)
    assert week is not None
    assert week.data["count"] == 7


def test_the_book_keeps_one_entry_a_policy_and_one_scan_at_a_time(tmp_path: Path) -> None:
    book = Book(tmp_path / "schedule")
    assert book.entries() == []
    for policy in ("b.yaml", "a.yaml"):
        book.put(Entry(policy=policy, every="24h", started=NOW, outcome="pass"))
    assert [entry.policy for entry in book.entries()] == ["a.yaml", "b.yaml"]
    assert book.get("a.yaml").started == NOW
    assert book.get("c.yaml") == Entry(policy="c.yaml")
    with book.hold("a.yaml"), book.hold("b.yaml"), pytest.raises(RefusedError, match="under way"), book.hold("a.yaml"):
        pass
    with book.hold("a.yaml"):
        pass
    (path,) = [item for item in (tmp_path / "schedule").glob("*.json") if b"a.yaml" in item.read_bytes()]
    assert path.stat().st_mode & 0o077 == 0
    for damage in (b"", b"[]", b'{"policy": 1}', b"[" * 100_000):
        path.write_bytes(damage)
        with pytest.raises(FormatError, match="damaged"):
            book.get("a.yaml")


def row(tmp_path: Path, at: datetime, alerts: Alerts | None = None) -> Scheduled:
    made = Scheduled("p.yaml", "24h", alerts or Alerts(), FixedClock(at), Book(tmp_path / "schedule"))
    made.begin()
    return made


def test_a_row_of_scans(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    alerts = Alerts(command=f"sh -c 'cat >> {heard}; echo >> {heard}'")

    def reasons() -> list[str]:
        return [json.loads(line)["reason"] for line in heard.read_text().split("\n") if line] if heard.exists() else []

    first = row(tmp_path, NOW, alerts)
    assert first.due()
    assert first.settle(verdict(), "aa").outcome is Outcome.PASS
    assert reasons() == [], "a first scan that passes is no news"
    assert not row(tmp_path, NOW + timedelta(hours=1), alerts).due()
    assert row(tmp_path, NOW + timedelta(hours=1), alerts).next() == NOW + DAY

    leak = verdict("isolation.leak.open")
    assert row(tmp_path, NOW + DAY, alerts).settle(leak, "bb").outcome is Outcome.FAIL
    assert reasons() == ["outcome"]
    row(tmp_path, NOW + 2 * DAY, alerts).settle(leak, "cc")
    assert reasons() == ["outcome"], "the same again is no news"
    row(tmp_path, NOW + 3 * DAY, alerts).settle(verdict("isolation.leak.open", "isolation.leak.icmp"), "dd")
    assert reasons() == ["outcome", "findings"]

    # Two scans are missed: said with the next one, which is not a pass, and told once.
    late = row(tmp_path, NOW + 6 * DAY, alerts)
    whole = late.settle(verdict(), "ee")
    assert whole.outcome is Outcome.UNKNOWN
    assert [item.code for item in whole.findings] == ["isolation.schedule.missed"]
    assert whole.findings[0].data["count"] == 3
    row(tmp_path, NOW + 7 * DAY, alerts).settle(verdict(), "ff")
    assert reasons() == ["outcome", "findings", "outcome"]

    # A scan that fails is told once, does not count as one, and is told when it is over.
    broken = SystemPartError("isolation.agent.unreachable", "agent a: it does not answer")
    for hours in (24, 25, 37):
        again = row(tmp_path, NOW + 7 * DAY + timedelta(hours=hours), alerts)
        assert again.due()
        again.fail(broken)
    assert reasons()[3:] == ["outcome"]
    assert json.loads(heard.read_text().strip().splitlines()[-1])["error"]["code"] == "isolation.agent.unreachable"
    status = row(tmp_path, NOW + 9 * DAY)
    assert [item.code for item in status.standing()[0]] == ["isolation.schedule.missed"]
    assert status.before.error == "agent a: it does not answer"
    row(tmp_path, NOW + 8 * DAY, alerts).settle(verdict(), "gg")
    assert reasons()[4:] == ["outcome"]
    assert row(tmp_path, NOW + 8 * DAY).before.failed is None


def test_reasons() -> None:
    codes = ("isolation.leak.open a -> b",)
    assert reason_of(Entry(policy="p"), "pass", ()) == ""
    assert reason_of(Entry(policy="p"), "unknown", ()) == "first"
    assert reason_of(Entry(policy="p", outcome="fail", codes=codes), "fail", codes) == ""
    assert reason_of(Entry(policy="p", outcome="fail", codes=codes), "fail", ()) == "findings"
    assert reason_of(Entry(policy="p", outcome="pass", failed=NOW), "error", ()) == ""
    assert reason_of(Entry(policy="p", outcome="pass", failed=NOW), "pass", ()) == "outcome"


class Hook:
    """A web server that takes what is posted, over TLS."""

    def __init__(self, folder: Path) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                self.send_response(outer.answers.pop(0) if outer.answers else 204)
                self.send_header("Location", "https://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name.from_rfc4514_string("CN=hook")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime.now(UTC) - DAY)
            .not_valid_after(datetime.now(UTC) + DAY)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.ca = folder / "hook.pem"
        self.ca.write_bytes(certificate.public_bytes(Encoding.PEM))
        both = folder / "both.pem"
        both.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + self.ca.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/hook?site=1"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Hook]:
    made = Hook(tmp_path)
    yield made
    made.close()


def document() -> dict[str, object]:
    return summary("p.yaml", Entry(policy="p.yaml"), "first", NOW, verdict=verdict("isolation.leak.open"), run="ab")


def test_a_web_hook_gets_a_signed_summary(hook: Hook, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"key of the hook\n")
    secret.chmod(0o600)
    (told,) = Alerts(webhook=hook.url, ca=hook.ca, secret=secret).tell(document())
    assert told.delivered, told.text
    ((headers, body),) = hook.got
    said = json.loads(body)
    assert (said["schema"], said["outcome"], said["exit"]) == ("secguard.isolation.alert/1", "fail", 1)
    assert said["findings"][0]["code"] == "isolation.leak.open"
    at, mac = headers[SIGNATURE].split(",")
    expected = hmac.new(b"key of the hook", at.removeprefix("t=").encode() + b"." + body, hashlib.sha256).hexdigest()
    assert mac == f"v1={expected}"
    assert len(headers["Secguard-Delivery"]) == 32


def test_a_web_hook_is_tried_again_only_where_that_helps(hook: Hook) -> None:
    pauses: list[float] = []
    alerts = Alerts(webhook=hook.url, ca=hook.ca, sleep=pauses.append)
    hook.answers = [503, 429]
    assert alerts.tell(document())[0].delivered
    assert len(hook.got) == 3
    assert len({headers["Secguard-Delivery"] for headers, _ in hook.got}) == 1
    assert pauses == [0.0, 0.5, 2.0]
    hook.answers = [500, 500, 500, 500]
    (told,) = alerts.tell(document())
    assert (told.delivered, told.text) == (False, "127.0.0.1 answered 500")
    assert len(hook.got) == 6
    for status in (404, 302):
        hook.answers = [status]
        (told,) = alerts.tell(document())
        assert not told.delivered
        assert str(status) in told.text
    assert len(hook.got) == 8, "no redirects, no second try"


def test_a_web_hook_nobody_believes_or_nobody_serves(hook: Hook) -> None:
    (told,) = Alerts(webhook=hook.url, sleep=lambda _: None).tell(document())
    assert not told.delivered
    assert "not believed" in told.text
    assert hook.got == []
    (told,) = Alerts(webhook="https://127.0.0.1:1/", sleep=lambda _: None).tell(document())
    assert (told.delivered, "refused" in told.text.lower()) == (False, True)


def test_a_web_hook_that_answers_in_drops_or_never_is_left(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secguard.isolation.schedule.alerts._POST_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (told,) = Alerts(webhook=f"https://127.0.0.1:{silent.getsockname()[1]}/").tell(document())
    assert (told.delivered, told.text) == (False, "127.0.0.1: no answer within 0 s")
    monkeypatch.setattr("secguard.isolation.schedule.alerts._POST_SECONDS", 60)
    assert Alerts(webhook=hook.url, ca=hook.ca).tell(document())[0].delivered


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"webhook": "http://a/"}, "is https"),
        ({"webhook": "https://u:p@a/"}, "is https"),
        ({"webhook": "https://a:99999/"}, "is https"),
        ({"command": "sh 'x"}, "not a command line"),
        ({"command": " "}, "empty command"),
        ({"webhook": "https://a/", "secret": Path("/nonexistent")}, "no such key file"),
        ({"webhook": "https://a/", "ca": Path("/nonexistent")}, "not a CA certificate"),
    ],
)
def test_settings_that_cannot_work_are_found_before_the_scan(values: dict[str, object], text: str) -> None:
    with pytest.raises(SecguardError, match=text):
        Alerts(**values).check()


def test_a_secret_that_others_may_read_or_is_empty(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    secret.chmod(0o600)
    with pytest.raises(UsageError, match="empty"):
        Alerts(webhook="https://a/", secret=secret).check()
    secret.chmod(0o644)
    with pytest.raises(RefusedError, match="others may read"):
        Alerts(webhook="https://a/", secret=secret).check()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("/nonexistent/program", "No such file"),
        ("sh -c 'echo no way >&2; exit 7'", "sh ended with 7: no way"),
        (f"{sys.executable} -c 'import time; time.sleep(60)'", "did not end within"),
    ],
)
def test_a_command_that_fails_is_told_and_never_raised(
    command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secguard.isolation.schedule.alerts._COMMAND_SECONDS", 0.5)
    made = row(tmp_path, NOW, Alerts(command=command))
    assert made.settle(verdict("isolation.leak.open"), "aa").outcome is Outcome.FAIL
    (told,) = made.told
    assert not told.delivered
    assert text in told.text
    assert row(tmp_path, NOW + DAY).before.outcome == "fail", "the scan is remembered all the same"


def _gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked after yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_command_that_hangs_ends_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secguard.isolation.schedule.alerts._COMMAND_SECONDS", 0.5)
    note = tmp_path / "pid"
    (told,) = Alerts(command=f"sh -c 'sleep 300 & echo $! > {note}; wait'").tell(document())
    assert not told.delivered
    pid = int(note.read_text())
    deadline = time.monotonic() + 30
    while not _gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_command_may_leave_something_running_and_need_not_read(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    (told,) = Alerts(command=f"sh -c 'sleep 300 & echo $! > {note}'").tell(document() | {"more": "x" * 300_000})
    try:
        assert (told.delivered, told.text) == (True, "sh took it")
    finally:
        os.kill(int(note.read_text()), signal.SIGKILL)


def test_a_clock_that_jumps_never_keeps_a_scan_from_running() -> None:
    """A scan of a day when the clock was years ahead is no reason to wait for that day, nor a missed scan."""
    ahead = Entry(policy="p", every="24h", started=NOW + 4000 * DAY, outcome="pass")
    assert is_due(ahead, DAY, NOW)
    assert missed(ahead, DAY, NOW) is None
    back = Entry(policy="p", every="24h", started=NOW, outcome="pass")
    assert not is_due(back, DAY, NOW - DAY / 1000), "a clock that is set right by a minute or two"
    assert is_due(back, DAY, NOW - DAY)
    assert missed(back, DAY, NOW + 400 * DAY) is not None
