"""An enrolment service in the test's own process, and devices that talk to it over TLS."""

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7
from cryptography.x509.oid import AttributeOID, NameOID

from secguard.core.listening import listen
from secguard.identity import Authority, Certified, Order, Request
from secguard.identity.enrol.app import DOORKEEPER, ENROLMENT, est_app, refusals
from secguard.identity.enrol.enrolment import Enrolment
from secguard.identity.enrol.sender import Doorkeeper
from secguard.service.gate import Gate
from secguard.service.tls import credentials, find_server, server_context

CAMERA = "32011600001320000001"
OTHER = "32011600001320000002"
PKCS10 = {"Content-Type": "application/pkcs10"}


@dataclass
class Device:
    """A device with a key, and what it was given."""

    gbid: str = CAMERA
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: bytes | None = None

    def request(self, subject: str | None = None, *, extra=(), names=(), challenge: bytes | None = None) -> bytes:
        """PKCS#10 in DER; `subject` "" names nothing."""
        cn = self.gbid if subject is None else subject
        parts = [*extra, *([(NameOID.COMMON_NAME, cn)] if cn else [])]
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if challenge is not None:
            builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def enrolled(self, authority: Authority, profile: str = "camera") -> "Device":
        """The same device, certified without EST."""
        (answer,) = authority.certify([Order(self.gbid, profile, csr=self.request(), replace=True)])
        assert isinstance(answer, Certified), answer
        self.certificate = answer.certificate
        return self

    def tls(self, folder: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """How it connects; the clock of a test is not the machine's, so it does not look at the server's dates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if version is not None:
            context.maximum_version = version
        if self.certificate is not None:
            path = folder / f"{id(self)}.pem"
            key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            path.write_bytes(x509.load_der_x509_certificate(self.certificate).public_bytes(Encoding.PEM) + key)
            context.load_cert_chain(path)
        return context


@dataclass
class Served:
    """A running service."""

    url: str
    enrolment: Enrolment
    doorkeeper: Doorkeeper
    gate: Gate
    folder: Path

    async def post(self, path: str, body: bytes, device: Device | None = None, **options) -> tuple[int, bytes, dict]:
        """Send a request; the status, the body, and the headers."""
        headers = {**PKCS10, **options.pop("headers", {})}
        auth = options.pop("auth", None)
        if auth is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(':'.join(auth).encode()).decode()}"
        context = (device or Device()).tls(self.folder, options.pop("version", None))
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/{path}", data=body, ssl=context, headers=headers, **options) as answer,
        ):
            return answer.status, await answer.read(), dict(answer.headers)

    async def get(self, path: str, device: Device | None = None, **options) -> tuple[int, bytes, dict]:
        """Ask for something."""
        context = (device or Device()).tls(self.folder)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/{path}", ssl=context, **options) as answer,
        ):
            return answer.status, await answer.read(), dict(answer.headers)


@asynccontextmanager
async def served(authority: Authority, folder: Path, *, connections: int = 4096, **options) -> AsyncIterator[Served]:
    """Serve EST on a free port."""
    if authority.registry.active("127.0.0.1", "server") is None:
        authority.issue([Request("127.0.0.1", "server", folder=folder / "server")])
    app = est_app(authority, **options)
    record = find_server(authority.registry, "127.0.0.1")
    context = server_context(*credentials(authority, record), app[DOORKEEPER].anchors)
    gate = Gate(app, lambda: context, connections=connections, refused=refusals(app[ENROLMENT]))
    await gate.open(listen("127.0.0.1", 0, "est"))
    try:
        yield Served(
            f"https://127.0.0.1:{gate.address[1]}/.well-known/est", app[ENROLMENT], app[DOORKEEPER], gate, folder
        )
    finally:
        await gate.close()


def certificates_in(der: bytes) -> list[x509.Certificate]:
    """The certificates of a certs-only message."""
    return pkcs7.load_der_pkcs7_certificates(der)


class Maker:
    """A maker of cameras with a CA of its own."""

    def __init__(self, name: str = "Hikvision") -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} root")]), self.key, ca=True)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool, end=None) -> x509.Certificate:
        issuer = subject if ca else self.root.subject
        start = datetime(2025, 1, 1, tzinfo=UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end or start + timedelta(days=7300))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        return builder.sign(self.key, hashes.SHA256())

    def write(self, certs: Path) -> None:
        """Put its root where the site believes it."""
        (certs / "makers").mkdir(exist_ok=True)
        (certs / "makers" / f"{self.name}.pem").write_bytes(self.root.public_bytes(Encoding.PEM))

    def device(self, serial: str, gbid: str = CAMERA) -> Device:
        """A device with an IDevID without an end (IEEE 802.1AR)."""
        device = Device(gbid)
        subject = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, serial)] if serial else [])
        never = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        device.certificate = self._sign(subject, device.key, ca=False, end=never).public_bytes(Encoding.DER)
        return device
