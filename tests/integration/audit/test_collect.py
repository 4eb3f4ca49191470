"""`secguard audit collect` as a process: killed, stopped, cut off from a real rsyslog over mutual TLS, in serve."""

import contextlib
import datetime as dt
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secguard.events import Event, decode_stored
from secguard.ledger import Ledger

RSYSLOG = shutil.which("rsyslogd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


_SEEN: dict[Path, list[Event]] = {}


def stored(folder: Path) -> list[Event]:
    """All events; those that were read before are not read again."""
    seen = _SEEN.setdefault(folder, [])
    with Ledger.open(folder / "state" / "ledger") as ledger:
        seen += [decode_stored(body) for batch in ledger.scan(len(seen), ledger.size) for body in batch.bodies if body]
    return seen


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def configure(folder: Path, text: str) -> None:
    with (folder / "secguard.toml").open("a") as file:
        file.write(text)


@contextlib.contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    arguments = command or ("audit", "collect")
    process = subprocess.Popen([sys.executable, "-m", "secguard", *arguments, "-w", str(folder), "-q"])
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def collects(folder: Path, process: subprocess.Popen[bytes]) -> bool:
    """Whether this very process has said that it collects."""
    path = folder / "state" / "audit" / "collect.json"
    return path.exists() and json.loads(path.read_bytes())["pid"] == process.pid


@pytest.fixture
def site_folder(site: Any) -> Path:
    return Path(site.folder)


def test_a_killed_collector_takes_every_line_once(site: Any, site_folder: Path) -> None:
    """Lines without IDs of their own: only their place tells them apart. Killed, rotated, and stopped."""
    rounds, count = (12, 2000) if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else (3, 700)
    log = site_folder / "vms.log"
    configure(
        site_folder,
        '[audit.sources.vms]\nkind = "file"\npaths = ["vms.log"]\nother = "reject"\n'
        '[audit.sources.vms.map]\nkind = "op"\n"actor.name" = "who"\n"data.number" = "n"\ntime = "at"\n',
    )
    written = 0

    def write(lines: int) -> None:
        nonlocal written
        with log.open("ab") as file:
            for _ in range(lines):
                record = {"op": "video.played", "who": "张三", "n": written, "at": 1790784000}
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                written += 1

    def size() -> int:
        with Ledger.open(site_folder / "state" / "ledger") as ledger:
            return ledger.size

    killed = 0
    for turn in range(rounds):
        write(count)
        enough = size() + count // 3
        with running(site_folder) as process:
            until(lambda enough=enough: size() > enough, "it does not record")
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        if turn % 2:
            log.rename(site_folder / f"vms.log.{turn}")
    write(5)
    with log.open("ab") as file:
        file.write(b"no record\n")
    with running(site_folder) as process:
        until(lambda: collects(site_folder, process), "it does not start")
        until(lambda: sum("number" in event.data for event in stored(site_folder)) >= written, "lines are missing")
        until(lambda: "record.rejected" in {event.kind for event in stored(site_folder)}, "the bad line is missing")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert killed == rounds
    events = stored(site_folder)
    assert sorted(event.data["number"] for event in events if "number" in event.data) == list(range(written))
    begun, ended = (
        {event.data["act"] if key else event.id for event in events if event.kind in kinds}
        for key, kinds in ((False, {"collect.started"}), (True, {"collect.failed", "collect.finished"}))
    )
    assert len(begun) == rounds + 1
    assert begun == ended, "a run that was killed is closed by the next"
    assert sum(event.kind == "record.rejected" for event in events) == 1
    assert [event.kind for event in events].count("collect.finished") == 1
    down = site.ask("collect", "--status", code=3)
    assert [item["code"] for item in down["findings"]] == ["audit.collect.down"]
    (kept,) = site.ask("rejected")["data"]["records"]
    assert site.run("rejected", "--raw", kept["sha256"]).stdout == "no record"


def test_a_torn_journal_is_repaired_and_said(site: Any, site_folder: Path) -> None:
    log = site_folder / "a.jsonl"
    log.write_bytes(b"")
    configure(site_folder, '[audit.sources.a]\nkind = "file"\npaths = ["a.jsonl"]\n')
    event = b'{"id":"%s","kind":"video.viewed","time":"2026-10-01T08:00:00Z","actor":{"name":"a"}}\n'
    (site_folder / "first.jsonl").write_bytes(event % b"p-0")
    site.run("import", site_folder / "first.jsonl")
    segment = max((site_folder / "state" / "ledger" / "journal").glob("*.seg"))
    with segment.open("ab") as file:
        file.write(b"SGJ1\x00\x00\x10\x00half a frame")
    log.write_bytes(event % b"p-1")
    with running(site_folder) as process:
        until(lambda: "p-1" in {item.id for item in stored(site_folder)}, "it does not record")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert [item.id for item in stored(site_folder) if item.kind == "video.viewed"] == ["p-0", "p-1"]


def test_serve_collects_where_it_is_told_to(site: Any, site_folder: Path) -> None:
    port = free_port()
    configure(site_folder, f'[audit]\nserve = true\n[audit.sources.net]\nkind = "syslog"\ntcp = "127.0.0.1:{port}"\n')
    with running(site_folder, "serve") as process:
        until(lambda: answers(port), "it does not listen")
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(b"<13>Oct  1 08:00:00 gate sshd[1]: hello\n")
        until(lambda: "log.received" in {item.kind for item in stored(site_folder)}, "it does not record")
        status = site.ask("collect", "--status")["data"]["service"]
        assert status["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    kinds = [item.kind for item in stored(site_folder)]
    assert kinds.count("collect.started") == kinds.count("collect.finished") == 1


class Authority:
    """A CA for the two ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self._write("ca", self._key, self._certificate("test CA", self._key.public_key(), ca=True))

    def _certificate(self, name: str, public: Any, *, ca: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if not ca:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(usage, critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, key: Any, certificate: x509.Certificate) -> None:
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        path = self.folder / f"{name}.key"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def issue(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(name, key, self._certificate(name, key.public_key()))


@contextlib.contextmanager
def rsyslog(folder: Path, port: int, name: str) -> Iterator[Path]:
    """A real rsyslogd that takes datagrams from a Unix socket, numbers them, and sends them over mutual TLS."""
    entry = folder / f"{name}.sock"
    work = folder / f"work-{name}"
    work.mkdir()
    configuration = folder / f"{name}.conf"
    configuration.write_text(
        f"""
global(workDirectory="{work}" maxMessageSize="64k" defaultNetstreamDriver="gtls"
  defaultNetstreamDriverCAFile="{folder}/ca.pem"
  defaultNetstreamDriverCertFile="{folder}/{name}.pem" defaultNetstreamDriverKeyFile="{folder}/{name}.key")
module(load="imuxsock" SysSock.Use="off")
module(load="mmsequence")
input(type="imuxsock" Socket="{entry}" RateLimit.Interval="0" UseSysTimeStamp="off")
template(name="numbered" type="string"
  string="<%PRI%>1 %TIMESTAMP:::date-rfc3339% %HOSTNAME% %APP-NAME% - - [meta sequenceId=\\"%$!seq%\\"] %msg%")
action(type="mmsequence" mode="instance" from="0" to="2000000000" var="$!seq")
action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" template="numbered" TCP_Framing="octet-counted"
  StreamDriver="gtls" StreamDriverMode="1" StreamDriverAuthMode="x509/name" StreamDriverPermittedPeers="collector.test"
  action.resumeRetryCount="-1" action.resumeInterval="1"
  queue.type="LinkedList" queue.filename="q" queue.size="200000" queue.saveOnShutdown="on")
"""
    )
    assert RSYSLOG is not None
    process = subprocess.Popen([RSYSLOG, "-n", "-f", configuration, "-i", folder / f"{name}.pid"])
    try:
        until(entry.exists, "rsyslogd does not start")
        yield entry
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def tls_site(site: Any, tmp_path: Path) -> tuple[Path, int, Path]:
    if RSYSLOG is None or not Path("/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_gtls.so").exists():
        pytest.skip("needs rsyslog: apt-get install rsyslog rsyslog-gnutls")
    folder = Path(site.folder)
    keys = tmp_path / "keys"
    keys.mkdir()
    authority = Authority(keys)
    for name in ("collector.test", "sender.test", "stranger.test"):
        authority.issue(name)
    port = free_port()
    configure(
        folder,
        f"""
[audit.sources.net]
kind = "syslog"
tls = "127.0.0.1:{port}"
certificate = "{keys}/collector.test.pem"
key = "{keys}/collector.test.key"
ca = "{keys}/ca.pem"
clients = ["sender.test"]
sequence = "sd.meta.sequenceId"
[audit.sources.net.map]
kind = "defaults.none"
"actor.name" = "json.who"
"data.number" = "json.n"
[audit.sources.net.defaults]
kind = "video.viewed"
""",
    )
    return folder, port, keys


def test_rsyslog_over_mutual_tls_cut_off_and_back(site: Any, tls_site: tuple[Path, int, Path]) -> None:
    """Every message is recorded once, or counted as lost: TCP acknowledges what a killed process has not yet read."""
    folder, port, keys = tls_site
    sent = 0

    def say(entry: Path, count: int) -> None:
        nonlocal sent
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.connect(str(entry))
            for _ in range(count):
                record = json.dumps({"who": "张三", "n": sent}, ensure_ascii=False)
                one.send(f"<13>Oct  1 08:00:00 vms: {record}".encode())
                sent += 1

    def recorded() -> list[int]:
        return [event.data["number"] for event in stored(folder) if event.kind == "video.viewed"]

    with rsyslog(keys, port, "sender.test") as entry:
        with running(folder) as process:
            until(lambda: answers(port), "it does not listen")
            say(entry, 1000)
            until(lambda: len(recorded()) >= 500, "nothing arrives")
            say(entry, 1000)
            process.kill()  # in the middle
            process.wait()
        say(entry, 1000)
        with running(folder) as process:
            until(lambda: answers(port), "it does not listen again")
            until(lambda: 2999 in recorded(), "it does not come back")
            say(entry, 500)
            until(lambda: sent - 1 in recorded(), "it does not go on")
            process.send_signal(signal.SIGTERM)  # graceful: what was taken in is recorded
            assert process.wait(60) == 0
        say(entry, 500)
        with running(folder) as process:
            until(lambda: sent - 1 in recorded(), "it does not come back a second time")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        numbers = recorded()
        assert len(numbers) == len(set(numbers))
        events = stored(folder)
        missing = sorted(set(range(sent)) - set(numbers))
        lost = [event.data for event in events if event.kind == "source.lost"]
        assert sum(item["count"] for item in lost) == len(missing), (missing, lost)
        print("LOST", len(missing), lost)
        assert events[-1].kind == "collect.finished"
        via = next(event.data["via"] for event in events if event.kind == "video.viewed")
        assert via["certificate"] == "sender.test"


def test_a_client_without_a_certificate_or_with_another_name_is_refused(
    site: Any, tls_site: tuple[Path, int, Path]
) -> None:
    import ssl

    folder, port, keys = tls_site

    def attempt(name: str) -> None:
        context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
        context.check_hostname = False
        if name:
            context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 10) as raw,
            context.wrap_socket(raw) as one,
        ):
            one.sendall(b'<13>Oct  1 08:00:00 vms: {"who":"%s","n":1}\n' % name.encode())
            one.recv(1)

    with running(folder) as process:
        until(lambda: answers(port), "it does not listen")
        for name in ("", "stranger.test"):
            attempt(name)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as plain:
            plain.sendall(b"<13>no TLS at all\n")
            plain.recv(1)
        status = folder / "state" / "audit" / "collect.json"
        until(lambda: json.loads(status.read_text())["sources"][0]["refused"] == 3, "they are not counted")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    events = stored(folder)
    assert {event.kind for event in events} == {"collect.started", "source.lost", "collect.finished"}
    turned: dict[str, int] = {}
    for event in events:
        turned |= event.data.get("clients", {})
    assert len(turned) == 3  # the third is the one without TLS, in OpenSSL's words
    told = {"127.0.0.1: peer did not return a certificate", "127.0.0.1: stranger.test is not among clients"}
    assert told < set(turned)
    assert events[-1].data["sources"]["net"]["refused"] == 3


def test_the_sites_own_certificates_serve_and_revoked_ones_are_refused(site: Any, tmp_path: Path) -> None:
    """TLS by `identity issue`: the server's certificate from the registry, clients by the site's CAs, leaf alone."""
    import ssl

    from secguard.identity import Request
    from secguard.identity.registry import Registry
    from secguard.workspace import Workspace

    folder, port, gbid = Path(site.folder), free_port(), "32011600002000000001"
    (folder / "state" / "passphrase").touch(mode=0o600)
    (folder / "state" / "passphrase").write_text("a passphrase for the test")
    with Workspace.find(folder) as ws:
        ws.create_authority(b"a passphrase for the test")
        authority = ws.authority()
        authority.issue([Request("127.0.0.1", "server")])
        authority.issue([Request(gbid, "platform", folder=tmp_path / "client")])
        assert isinstance(ws.registry, Registry)
        record = ws.registry.active(gbid, "platform")
        assert record is not None
        root = ws.root_certificate.read_text()
    files = sorted((tmp_path / "client").rglob("*.pem"))
    certificate = next(path for path in files if b"BEGIN CERTIFICATE" in path.read_bytes())
    configure(folder, f'[audit.sources.net]\nkind = "syslog"\ntls = "127.0.0.1:{port}"\n')

    def attempt(text: bytes) -> None:
        context = ssl.create_default_context(cadata=root)
        key = next(path for path in files if b"PRIVATE KEY" in path.read_bytes())
        context.load_cert_chain(certificate, key, password=b"a passphrase for the test")
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", port), 10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as one,
        ):
            one.sendall(b"<13>" + text + b"\n")
            one.settimeout(5)
            with contextlib.suppress(TimeoutError, ssl.SSLError):
                one.recv(1)

    def messages() -> list[str]:
        return [event.data["message"] for event in stored(folder) if event.kind == "log.received"]

    with running(folder) as process:
        until(lambda: answers(port), "it does not listen")
        attempt(b"before")
        until(lambda: messages() == ["before"], "it is not let in")
        with Workspace.find(folder) as ws:
            ws.authority().revoke(gbid, reason="keyCompromise")
        attempt(b"after")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert messages() == ["before"]


def test_a_disk_that_is_full_is_said_and_nothing_is_lost(site: Any, site_folder: Path) -> None:
    """The limit on a file's size stands for the disk's: the journal cannot grow, then it can again."""
    import resource

    log = site_folder / "a.jsonl"
    log.write_bytes(b"")
    configure(site_folder, '[audit.sources.a]\nkind = "file"\npaths = ["a.jsonl"]\n')
    event = b'{"id":"p-%d","kind":"video.viewed","time":"2026-10-01T08:00:00Z","actor":{"name":"a"},"reason":"%s"}\n'

    def recorded() -> int:
        return sum(item.kind == "video.viewed" for item in stored(site_folder))

    def findings() -> list[str]:
        from datetime import UTC, datetime

        from secguard.audit.sources.collector import judge_status

        state = site_folder / "state" / "audit"
        return [item.code for item in judge_status(state, ["a"], datetime.now(UTC))]

    with running(site_folder) as process:
        until(lambda: collects(site_folder, process), "it does not start")
        with log.open("ab") as file:
            file.writelines(event % (n, b"x" * 300) for n in range(500))
        until(lambda: recorded() == 500, "it does not record")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        with log.open("ab") as file:
            file.writelines(event % (n, b"y" * 300) for n in range(500, 900))
        until(lambda: "audit.collect.stalled" in findings(), "it says nothing")
        assert recorded() == 500
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: recorded() == 900, "it does not go on")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert len({item.id for item in stored(site_folder)}) == len(stored(site_folder))
