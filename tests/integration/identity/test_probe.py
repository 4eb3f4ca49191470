"""Live servers of many kinds, asked by the library: OpenSSL's, Python's, plain and hostile ones."""

import contextlib
import ipaddress
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secguard.core import Outcome
from secguard.identity.probe.clients import Client, Clients, make_stranger, try_clients
from secguard.identity.probe.handshake import Answer, look
from secguard.identity.probe.judge import Judge
from secguard.identity.probe.run import Options, ask, ask_all
from secguard.identity.probe.targets import Target
from secguard.trust import TrustPolicy

NOW = datetime.now(UTC).replace(microsecond=0)
NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"


def make(subject, *, issuer=None, signer=None, days=(-2, 300), ca=False, key=None, serial=None, names=()):
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if ca:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    else:
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        names = names or [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer or key, hashes.SHA256()), key


def pem(*items) -> bytes:
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in items)


def key_pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class World:
    """A root, a CA, a server, and five clients, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root, self.root_key = make("root", ca=True)
        self.ca, self.ca_key = make("ca", ca=True, issuer=self.root, signer=self.root_key)
        self.server = self.below("server")
        self.clients = {
            "good": self.below("platform"),
            "other": self.below("camera"),
            "revoked": self.below("gone"),
            "expired": self.below("past", days=(-20, -10)),
        }
        revoked = self.clients["revoked"][0].serial_number
        self.crls = [self.crl(self.root, self.root_key), self.crl(self.ca, self.ca_key, revoked)]
        (folder / "root.pem").write_bytes(pem(self.root))
        (folder / "ca.pem").write_bytes(pem(self.ca))
        (folder / "trusted.pem").write_bytes(pem(self.root, self.ca, *self.crls))
        self.write("server", *self.server)

    def below(self, name, **values):
        return make(name, issuer=self.ca, signer=self.ca_key, **values)

    def crl(self, issuer, key, *serials):
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(NOW - timedelta(hours=1))
            .next_update(NOW + timedelta(days=7))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - timedelta(hours=2))
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key, hashes.SHA256())

    def write(self, name, certificate, key) -> tuple[str, str]:
        (self.folder / f"{name}.pem").write_bytes(pem(certificate))
        (self.folder / f"{name}.key").write_bytes(key_pem(key))
        return f"{name}.pem", f"{name}.key"

    @property
    def policy(self) -> TrustPolicy:
        return TrustPolicy([self.root], self.crls)

    def tried(self, request="http") -> Clients:
        clients = {name: Client((certificate, self.ca), key) for name, (certificate, key) in self.clients.items()}
        clients["none"] = Client()
        clients["stranger"] = make_stranger(clients["good"].chain)
        return Clients.of(clients, request)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def s_server(world) -> Iterator[Callable[..., Target]]:
    """Start OpenSSL's server: `s_server("-tls1_2", "-Verify", "1")`."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs openssl: apt-get install openssl")
    running = []

    def start(*words, cert="server", chain=True) -> Target:
        files = ["-cert", f"{cert}.pem", "-key", f"{cert}.key"] if cert else ["-nocert"]
        files += ["-cert_chain", "ca.pem"] if chain and cert else []
        for _ in range(5):
            port = free_port()
            process = subprocess.Popen(
                [tool, "s_server", "-accept", f"127.0.0.1:{port}", "-www", *files, *words],
                cwd=world.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            running.append(process)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    return Target("127.0.0.1", port)
                time.sleep(0.02)
        raise AssertionError("openssl s_server does not start")

    yield start
    for process in running:
        process.kill()
        process.wait()


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[Target]:
    """A server whose every connection is handled in a thread; errors of the handler are the peer's business."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    over = threading.Event()

    def one(sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError), sock:
            handle(sock)

    def loop() -> None:
        while not over.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield Target("127.0.0.1", listener.getsockname()[1])
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def see(target: Target, timeout=2.0, **values) -> Answer:
    return look(target, timeout=timeout, stop=threading.Event(), **values)


def codes(world: World, target: Target, answer: Answer, **values) -> set[str]:
    found = Judge(world.policy, datetime.now(UTC), **values).endpoint(target, answer).findings
    return {item.code.removeprefix("identity.endpoint.") for item in found}


# --- what OpenSSL serves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_3", "-tls1_2"])
def test_a_right_server_passes(world, s_server, version):
    target = s_server(version)
    answer = see(target)
    assert answer.state == "presented"
    assert answer.sent == 2
    item = Judge(world.policy, datetime.now(UTC)).endpoint(target, answer)
    assert item.outcome is Outcome.PASS, item.findings


def test_old_protocol_only(world, s_server):
    target = s_server("-tls1", "-cipher", "ALL:@SECLEVEL=0")
    answer = see(target)
    assert answer.protocol == "TLSv1"
    assert codes(world, target, answer) == {"protocol-old"}


def test_old_protocol_still_accepted(world, s_server):
    target = s_server("-cipher", "ALL:@SECLEVEL=0")
    assert codes(world, target, see(target)) == set()
    assert codes(world, target, see(target, versions=True)) == {"protocol-accepted"}
    new = s_server("-tls1_2")
    assert codes(world, new, see(new, versions=True)) == set()


def test_anonymous(world, s_server):
    target = s_server("-tls1_2", "-cipher", "aNULL:@SECLEVEL=0", cert="")
    assert codes(world, target, see(target)) == {"no-certificate"}


def test_tls_without_a_certificate_installed(world, s_server):
    target = s_server(cert="")
    assert codes(world, target, see(target)) == {"handshake"}


@pytest.mark.parametrize("version", ["-tls1_3", "-tls1_2"])
def test_the_chain_is_read_also_where_a_client_certificate_is_demanded(world, s_server, version):
    target = s_server(version, "-Verify", "2", "-verify_return_error", "-CAfile", "trusted.pem")
    assert codes(world, target, see(target)) == set()


def test_wrong_chains(world, s_server):
    lone = s_server(chain=False)
    assert codes(world, lone, see(lone)) == {"incomplete"}
    world.write("self", *make("IPC"))
    own = s_server(cert="self", chain=False)
    assert codes(world, own, see(own)) == {"self-signed"}
    world.write("expired", *world.below("old", days=(-30, -3)))
    old = s_server(cert="expired")
    assert codes(world, old, see(old)) == {"expired", "status-unknown"}, "a list may drop what has expired"
    world.write("early", *world.below("new", days=(3, 30)))
    early = s_server(cert="early")
    assert codes(world, early, see(early)) == {"not-yet-valid"}
    world.write("revoked", *world.clients["revoked"])
    gone = s_server(cert="revoked")
    assert codes(world, gone, see(gone)) == {"revoked"}


# --- client certificates ----------------------------------------------------------------------------------------------

_STRICT = ("-Verify", "3", "-verify_return_error", "-CAfile", "trusted.pem", "-crl_check")


@pytest.mark.parametrize("version", ["-tls1_3", "-tls1_2"])
def test_a_server_that_verifies_accepts_the_right_one_and_refuses_the_wrong(world, s_server, version):
    target = s_server(version, *_STRICT)
    tried = try_clients(target, world.tried(), timeout=3, stop=threading.Event())
    assert {name: item.outcome for name, item in tried.items()} == {
        "good": "accepted",
        "none": "refused",
        "stranger": "refused",
        "expired": "refused",
        "revoked": "refused",
        # OpenSSL's server knows no identities; that another device's certificate opens it is the finding.
        "other": "accepted",
    }, tried


@pytest.mark.parametrize("version", ["-tls1_3", "-tls1_2"])
def test_a_server_that_only_asks_accepts_all(world, s_server, version):
    target = s_server(version, "-verify", "1")
    tried = try_clients(target, world.tried(), timeout=3, stop=threading.Event())
    assert {item.outcome for item in tried.values()} == {"accepted"}, tried


def test_a_server_without_the_list_takes_a_revoked_one(world, s_server):
    target = s_server("-Verify", "3", "-verify_return_error", "-CAfile", "root.pem")
    tried = try_clients(target, world.tried(), timeout=3, stop=threading.Event())
    assert tried["revoked"].outcome == "accepted"
    assert tried["expired"].outcome == "refused"


def tls_server(world: World, answer: Callable[[ssl.SSLSocket], None], *, demand=ssl.CERT_REQUIRED):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(world.folder / "server.pem", world.folder / "server.key")
    made.load_verify_locations(world.folder / "trusted.pem")
    made.verify_mode = demand
    made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF

    def handle(sock: socket.socket) -> None:
        sock.settimeout(10)
        with made.wrap_socket(sock, server_side=True) as tls:
            answer(tls)

    return serving(handle)


def _name(tls: ssl.SSLSocket) -> str:
    found = tls.getpeercert() or {}
    return next((value for part in found.get("subject", ()) for key, value in part if key == "commonName"), "")


def test_a_server_that_knows_who_it_talks_to_passes(world):
    def answer(tls):
        tls.recv(4096)
        if _name(tls) == "platform":
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            tls.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with tls_server(world, answer) as target:
        tried = try_clients(target, world.tried(), timeout=3, stop=threading.Event())
        item = ask(target, Options(timeout=3, clients=world.tried()), threading.Event())
    assert {name: one.outcome for name, one in tried.items()} == {
        "good": "accepted",
        **dict.fromkeys(("none", "stranger", "expired", "revoked", "other"), "refused"),
    }, tried
    wanted = ("good", "none", "stranger", "expired", "revoked", "other")
    assert codes(world, target, item, wanted=wanted) == set()


def test_as_nginx_refuses_in_http(world):
    """The handshake succeeds, and the refusal is a page that names the certificate."""

    def answer(tls):
        tls.recv(4096)
        if _name(tls):
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        body = b"<html><head><title>400 No required SSL certificate was sent</title></head></html>"
        tls.sendall(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with tls_server(world, answer, demand=ssl.CERT_OPTIONAL) as target:
        tried = try_clients(target, world.tried(), timeout=3, stop=threading.Event())
        without = Clients.of({"none": Client()}, "http")
        alone = try_clients(target, without, timeout=3, stop=threading.Event())
    assert tried["none"].outcome == alone["none"].outcome == "refused"
    assert tried["good"].outcome == "accepted"
    assert tried["other"].outcome == "accepted", "identity not enforced"


def test_a_password_page_for_everybody_authenticates_no_certificate(world):
    def answer(tls):
        tls.recv(4096)
        tls.sendall(b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Digest realm="IPC"\r\n\r\n')

    with tls_server(world, answer, demand=ssl.CERT_NONE) as target:
        tried = try_clients(target, world.tried(), timeout=3, stop=threading.Event())
        alone = try_clients(target, Clients.of({"none": Client()}), timeout=3, stop=threading.Event())
    assert {item.outcome for item in tried.values()} == {"accepted"}, tried
    assert alone["none"].outcome == "unclear", "without the control nothing is known"


def test_a_server_that_never_answers_is_told_by_the_older_handshake(world):
    def answer(tls):
        time.sleep(4)

    with tls_server(world, answer) as target:
        tried = try_clients(target, world.tried(), timeout=1.0, stop=threading.Event())
    assert tried["good"].outcome == "accepted"
    assert tried["none"].outcome == tried["stranger"].outcome == tried["revoked"].outcome == "refused", tried


def test_a_server_that_is_silent_and_speaks_only_1_3_is_unclear(world, s_server):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(world.folder / "server.pem", world.folder / "server.key")
    made.minimum_version = ssl.TLSVersion.TLSv1_3

    def handle(sock):
        with made.wrap_socket(sock, server_side=True) as tls:
            time.sleep(3)
            del tls

    with serving(handle) as target:
        tried = try_clients(target, Clients.of({"none": Client()}, "none"), timeout=0.7, stop=threading.Event())
    assert tried["none"].outcome == "unclear"


# --- ports that speak something else, or nothing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "reply", "protocol"),
    [
        (b"OPTIONS rtsp", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nPublic: DESCRIBE\r\n\r\n", "RTSP"),
        (b"GET / HTTP", b"HTTP/1.1 200 OK\r\nServer: \x1b[31mapp\x07<script>\r\n\r\n", "HTTP"),
        (b"OPTIONS sip", b"SIP/2.0 405 Method Not Allowed\r\n\r\n", "SIP"),
        (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (b"", b"SSH-2.0-OpenSSH_9.2\x1b]0;x\x07\r\n", "SSH"),
        (b"", b"220 camera FTP ready\r\n", "FTP/SMTP"),
    ],
)
def test_plaintext_is_named(world, start, reply, protocol):
    def handle(sock):
        sock.settimeout(5)
        asked = sock.recv(4096)
        if asked.startswith(start):
            sock.sendall(reply)

    with serving(handle) as target:
        answer = see(target)
    assert (answer.state, answer.protocol) == ("plain", protocol)
    assert answer.reason.isprintable()
    assert codes(world, target, answer) == {"plaintext"}


def test_refused_blackhole_and_silence(world):
    assert see(Target("127.0.0.1", free_port())).state == "refused"
    assert see(Target("no-such-name.invalid", 443)).state == "unresolved"
    with serving(lambda sock: time.sleep(20)) as target:
        began = time.monotonic()
        assert see(target, timeout=0.4).state == "silent"
        assert time.monotonic() - began < 5
    # A full backlog drops what comes: the nearest to a firewall that says nothing.
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place = listener.getsockname()
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(place)
        time.sleep(0.1)
        assert see(Target(*place), timeout=0.5).state == "timeout"


def test_tlcp_is_named(world):
    with serving(lambda sock: (sock.recv(4096), sock.sendall(b"\x15\x01\x01\x00\x02\x02\x46"))) as target:
        assert codes(world, target, see(target)) == {"tlcp"}


def test_ipv6(world):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(world.folder / "server.pem", world.folder / "server.key")
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("needs IPv6: switch it on for the loopback interface")

    def one():
        with contextlib.suppress(OSError, ssl.SSLError):
            sock, _ = listener.accept()
            with made.wrap_socket(sock, server_side=True) as tls:
                tls.recv(1)

    thread = threading.Thread(target=one, daemon=True)
    thread.start()
    with listener:
        assert see(Target("::1", listener.getsockname()[1])).state == "presented"
    thread.join(5)


def test_server_name_is_sent(world):
    seen = []
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(world.folder / "server.pem", world.folder / "server.key")
    made.sni_callback = lambda sock, name, _: seen.append(name)

    def handle(sock):
        with made.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1)

    with serving(handle) as target:
        see(Target("localhost", target.port))
        see(target)
        see(target, sni="cam.example")
    assert seen == ["localhost", None, "cam.example"]


# --- hostile peers ----------------------------------------------------------------------------------------------------


def _record(kind: int, data: bytes, version=b"\x03\x03") -> bytes:
    return bytes((kind,)) + version + struct.pack(">H", len(data)) + data


def _handshake(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


_HELLO = _record(
    22, _handshake(2, b"\x03\x03" + bytes(32) + b"\x00" + b"\xc0\x2b" + b"\x00" + b"\x00\x05\xff\x01\x00\x01\x00")
)


def _certificate(*items: bytes) -> bytes:
    body = b"".join(len(item).to_bytes(3, "big") + item for item in items)
    message = _handshake(11, len(body).to_bytes(3, "big") + body)
    return b"".join(_record(22, message[i : i + 16000]) for i in range(0, len(message), 16000))


def _flood(sock, data):
    while True:
        sock.sendall(data)


def _drip(sock, data):
    for byte in data * 50:
        sock.sendall(bytes((byte,)))
        time.sleep(0.05)


def _reset(sock):
    sock.recv(100)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


_DER = make("x")[0].public_bytes(serialization.Encoding.DER)

_HOSTILE = {
    "one megabyte of chain": lambda s: (s.recv(4096), s.sendall(_HELLO + _certificate(*[_DER] * 2500)), s.recv(1)),
    "a thousand certificates": lambda s: (s.recv(4096), s.sendall(_HELLO + _certificate(*[_DER] * 1000)), s.recv(1)),
    "endless certificate": lambda s: (
        s.recv(4096),
        s.sendall(_HELLO + _record(22, b"\x0b\xff\xff\xff" + bytes(1000))),
        _flood(s, _record(22, bytes(16000))),
    ),
    "malformed DER": lambda s: (
        s.recv(4096),
        s.sendall(_HELLO + _certificate(b"0\x82\xff\xff" + bytes(50))),
        s.recv(1),
    ),
    "cut DER": lambda s: (s.recv(4096), s.sendall(_HELLO + _certificate(_DER[:-9])), s.recv(1)),
    "empty chain": lambda s: (s.recv(4096), s.sendall(_HELLO + _certificate()), s.recv(1)),
    "slow drip of a hello": lambda s: (s.recv(4096), _drip(s, _HELLO)),
    "slow drip of nothing": lambda s: (s.recv(4096), _drip(s, b"\x16")),
    "empty records for ever": lambda s: (s.recv(4096), s.sendall(_HELLO), _flood(s, _record(22, b"") * 500)),
    "warnings for ever": lambda s: (s.recv(4096), _flood(s, _record(21, b"\x01\x00") * 500)),
    "hello requests for ever": lambda s: (s.recv(4096), _flood(s, _record(22, _handshake(0, b"")) * 500)),
    "zeroes for ever": lambda s: _flood(s, bytes(65536)),
    "noise": lambda s: (s.sendall(os.urandom(5000)), s.recv(1)),
    "lines for ever": lambda s: _flood(s, b"A" * 65536),
    "reset at once": _reset,
    "closed at once": lambda s: None,
    "closed after hello": lambda s: (s.recv(4096), s.sendall(_HELLO)),
    "half a record": lambda s: (s.recv(4096), s.sendall(b"\x16\x03\x03\x40\x00abc")),
}


@pytest.mark.parametrize("kind", list(_HOSTILE))
def test_hostile_peers_end_in_time_with_an_answer(world, kind):
    with serving(_HOSTILE[kind]) as target:
        began = time.monotonic()
        answer = ask(target, Options(timeout=0.8), threading.Event())
        took = time.monotonic() - began
    assert answer.state not in {"presented", "anonymous"}, answer
    assert took < 8, answer
    found = codes(world, target, answer)
    assert found, answer
    assert answer.reason.isprintable()
    assert "Error:" not in answer.reason, answer
    if kind in {"one megabyte of chain", "a thousand certificates"}:
        assert found == {"oversized"}
    if kind in {"malformed DER", "cut DER"}:
        assert found == {"malformed"}


def test_names_that_would_run(world):
    nasty = "=cmd|'/c calc'!A1 \x1b[2J\u202e<script>"
    leaf, key = world.below(nasty[:60])
    world.write("nasty", leaf, key)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(world.folder / "nasty.pem", world.folder / "nasty.key")

    def handle(sock):
        with made.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1)

    with serving(handle) as target:
        answer = see(target)
    item = Judge(world.policy, datetime.now(UTC)).endpoint(target, answer)
    for text in (item.certificate.subject, item.certificate.issuer, *(str(f.data) for f in item.findings)):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\x00" not in text


def test_a_huge_alternative_name(world):
    names = [x509.DNSName(f"d{i}.example") for i in range(3000)]
    leaf, key = world.below("huge", names=names)
    world.write("huge", leaf, key)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(world.folder / "huge.pem", world.folder / "huge.key")

    def handle(sock):
        with made.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1)

    with serving(handle) as target:
        assert "name-mismatch" in codes(world, target, see(target))


# --- many -------------------------------------------------------------------------------------------------------------


def test_many_at_once_the_rate_and_the_stop(world):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(world.folder / "server.pem", world.folder / "server.key")

    def handle(sock):
        with made.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1)

    count = 1000 if NIGHTLY else 200
    with serving(handle) as target:
        # 127.0.0.0/8 is all loopback, but the listener has one address: many targets need different keys only.
        targets = [Target("127.0.0.1", target.port, f"{index:020d}") for index in range(count)]
        answers = list(ask_all(targets, Options(jobs=16, timeout=10), threading.Event()))
        assert len(answers) == count
        assert {item[0] for item in answers} == set(targets)
        assert {answer.state for _, answer in answers} == {"presented"}
        began = time.monotonic()
        assert len(list(ask_all(targets[:11], Options(jobs=8, rate=20, timeout=10), threading.Event()))) == 11
        assert time.monotonic() - began >= 0.5, "eleven endpoints at twenty a second"
    with serving(lambda sock: time.sleep(30)) as slow:
        stop = threading.Event()
        threading.Timer(0.5, stop.set).start()
        began = time.monotonic()
        many = [Target("127.0.0.1", slow.port, str(index)) for index in range(100)]
        assert list(ask_all(many, Options(jobs=8, timeout=20), stop)) == []
        assert time.monotonic() - began < 2
