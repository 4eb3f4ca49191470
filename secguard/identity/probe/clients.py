"""Whether an endpoint that should demand a client certificate does: with none, a stranger's, and wrong ones of ours.

A refusal in TLS 1.3 comes after the handshake (RFC 8446, 4.4.2.4), so each client asks something and reads on. Closing
is refusing, answering is accepting; a server that answers by a refusal in its own protocol (HTTP 400, 403) is compared
with what the right client gets. What stays unclear is said to be so.
"""

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto

from secguard.core import UsageError
from secguard.identity.probe.handshake import Tried, alert_of, reason_of
from secguard.identity.probe.link import Closed, Link, NoConnection, Silent, context, open_socket
from secguard.identity.probe.targets import Target, safe

__all__ = [
    "CLIENTS",
    "REQUESTS",
    "Client",
    "Clients",
    "client_names",
    "made_up",
    "make_stranger",
    "request_bytes",
    "try_clients",
]

CLIENTS = ("good", "none", "stranger", "expired", "revoked", "other")
"""Clients that are tried, in this order; `good` is the control: without it, refusals prove nothing."""

REQUESTS = ("auto", "http", "rtsp", "sip", "none")

_STATUS = re.compile(rb"(?:HTTP|RTSP|SIP)/[0-9.]{1,4} ([0-9]{3})")
_REFUSING = re.compile(rb"HTTP/[0-9.]{1,4} 4")
_DENIALS = {400, 401, 403, 495, 496}
_MAX_ANSWER = 8192
_RTSP_PORTS = {322, 554, 7441, 8322, 8554}
_SIP_PORTS = {5060, 5061}


@dataclass(frozen=True, slots=True)
class Client:
    """A certificate, its chain, and the key; all None and empty for the client that shows none."""

    chain: tuple[x509.Certificate, ...] = ()
    key: PrivateKeyTypes | None = None

    def context(self, maximum: int | None) -> SSL.Context:
        """A TLS client that shows it.

        Raises:
            UsageError: `identity.probe.client`: the key is not the certificate's.
        """
        made = context(maximum)
        if self.chain and self.key is not None:
            try:
                made.use_certificate(self.chain[0])
                made.use_privatekey(self.key)  # type: ignore[arg-type]  # any TLS key
                made.check_privatekey()
                for item in self.chain[1:]:
                    made.add_extra_chain_cert(item)
            except (SSL.Error, crypto.Error, TypeError, ValueError) as error:
                raise UsageError(
                    "identity.probe.client",
                    "the client's certificate and key cannot be used together",
                    hint="give the certificate with its own private key",
                ) from error
        return made


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients that are tried at every endpoint, ready for use by many threads.

    Attributes:
        contexts: by name, for all versions and for TLS 1.2 at most.
        request: one of `REQUESTS`, or `file`.
        body: the bytes of `file`.
    """

    contexts: Mapping[str, tuple[SSL.Context, SSL.Context]]
    request: str = "auto"
    body: bytes = b""

    @classmethod
    def of(cls, clients: Mapping[str, Client], request: str = "auto", body: bytes = b"") -> "Clients":
        """Prepare clients; raises as `Client.context`."""
        made = {
            name: (clients[name].context(None), clients[name].context(SSL.TLS1_2_VERSION))
            for name in CLIENTS
            if name in clients
        }
        return cls(made, request, body)


def request_bytes(kind: str, target: Target, body: bytes = b"") -> bytes:
    """What is asked: a question that changes nothing, in the protocol of the port or the one that is named."""
    if kind == "auto":
        kind = "rtsp" if target.port in _RTSP_PORTS else "sip" if target.port in _SIP_PORTS else "http"
    if kind == "http":
        return f"GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode("ascii", "replace")
    if kind == "rtsp":
        return f"OPTIONS rtsps://{target}/ RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode("ascii", "replace")
    if kind == "sip":
        return (
            f"OPTIONS sips:{target} SIP/2.0\r\nVia: SIP/2.0/TLS probe.invalid;branch=z9hG4bKprobe\r\n"
            f"From: <sips:probe@probe.invalid>;tag=1\r\nTo: <sips:{target}>\r\nCall-ID: probe@probe.invalid\r\n"
            "CSeq: 1 OPTIONS\r\nMax-Forwards: 0\r\nContent-Length: 0\r\n\r\n"
        ).encode("ascii", "replace")
    return body


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How one connection ended: `refused`, `answered`, `quiet` (nothing more came), or `failed` (nothing is known)."""

    how: str
    reason: str = ""
    answer: bytes = b""
    old: bool = False  # TLS 1.2 or older: the handshake alone tells
    showed: bool = False  # the server had shown its certificate before the end

    @property
    def status(self) -> int:
        found = _STATUS.match(self.answer)
        return int(found[1]) if found else 0


def _attempt(
    target: Target, made: SSL.Context, request: bytes, timeout: float, stop: threading.Event, *, sni: str
) -> _Attempt:
    deadline = time.monotonic() + timeout
    try:
        link = Link(open_socket(target, deadline, stop), deadline, stop)
    except NoConnection as error:
        return _Attempt("failed", f"{error.state} {error}".strip())
    done = False
    answer = b""
    try:
        link.start(made, sni or (target.host if target.is_name else ""))
        done = True
        link.send(request)
        while len(answer) < _MAX_ANSWER:
            answer += link.receive()
            # The page of a refusal says whether it is about the certificate.
            if b"\r\n\r\n" in answer and (b"ertificate" in answer or not _REFUSING.match(answer)):
                break
        return _Attempt("answered", answer=answer)
    except Silent:
        if answer:
            return _Attempt("answered", answer=answer)
        old = done and link.tls is not None and link.tls.get_protocol_version_name() != "TLSv1.3"
        return _Attempt("quiet" if done else "failed", "no answer in time", old=old)
    except Closed as error:
        if answer:
            return _Attempt("answered", answer=answer)
        return _Attempt("refused", f"closed ({error})", showed=_showed(link))
    except SSL.Error as error:
        if answer:
            return _Attempt("answered", answer=answer)
        alert = alert_of(error)
        return _Attempt("refused" if alert else "failed", reason_of(error), showed=_showed(link))
    finally:
        link.close()


def _showed(link: Link) -> bool:
    return link.tls is not None and link.tls.get_peer_certificate() is not None


def _clear(
    target: Target,
    pair: tuple[SSL.Context, SSL.Context],
    request: bytes,
    timeout: float,
    stop: threading.Event,
    *,
    sni: str,
) -> _Attempt:
    """One client's attempt; where TLS 1.3 leaves it open, once more with TLS 1.2, whose handshake tells."""
    first = _attempt(target, pair[0], request, timeout, stop, sni=sni)
    if first.how != "quiet" or first.old:
        return first
    second = _attempt(target, pair[1], request, timeout, stop, sni=sni)
    told = (
        second.how == "answered"
        or (second.how == "quiet" and second.old)
        or (second.how == "refused" and second.showed)
    )
    return second if told else first


def _judge(attempt: _Attempt, good: _Attempt | None) -> Tried:
    if attempt.how == "refused":
        return Tried("refused", attempt.reason)
    if attempt.how == "failed":
        return Tried("unclear", attempt.reason)
    if attempt.how == "quiet":
        return Tried("accepted", "the handshake ended well") if attempt.old else Tried("unclear", attempt.reason)
    status = attempt.status
    said = safe(attempt.answer.splitlines()[0].decode("utf-8", "replace"), 60) if attempt.answer.splitlines() else ""
    if status not in _DENIALS:
        return Tried("accepted", said)
    if status != 401 and b"ertificate" in attempt.answer:
        return Tried("refused", said)  # as nginx says it: 400, "No required SSL certificate was sent"
    if good is None or good.how != "answered":
        return Tried("unclear", said)
    return Tried("accepted" if good.status == status else "refused", said)


def try_clients(
    target: Target, clients: Clients, *, timeout: float, stop: threading.Event, sni: str = ""
) -> dict[str, Tried]:
    """Try each client at an endpoint; never raises for what the peer does."""
    request = request_bytes(clients.request, target, clients.body)
    attempts = {
        name: _clear(target, pair, request, timeout, stop, sni=sni)
        for name, pair in clients.contexts.items()
        if not stop.is_set()
    }
    good = attempts.get("good")
    judged = {name: _judge(attempt, good) for name, attempt in attempts.items()}
    if good is not None and good.how == "answered" and good.status in {400, 403, 495, 496}:
        judged["good"] = Tried("refused" if b"ertificate" in good.answer else "unclear", judged["good"].reason)
    return judged


def make_stranger(models: Sequence[x509.Certificate]) -> Client:
    """A client certificate with the names of a right one, from a CA of our own making with the names of the right CA.

    Args:
        models: the right certificate and its issuing CA's.
    """
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    leaf = models[0]
    issuing = _copy(models[1], leaf.issuer, ca_key.public_key(), ca_key) if len(models) > 1 else None
    made = _copy(leaf, leaf.issuer, key.public_key(), ca_key)
    return Client((made, issuing) if issuing is not None else (made,), key)


def _copy(
    model: x509.Certificate, issuer: x509.Name, public: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(model.subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(model.serial_number)
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
    )
    for item in model.extensions:
        builder = builder.add_extension(item.value, item.critical)
    return builder.sign(signer, hashes.SHA256())


def client_names(folder: Path) -> list[str]:
    """The clients that a folder of credentials holds: `<name>.pem` beside `<name>.key.pem`."""
    return [name for name in CLIENTS if (folder / f"{name}.pem").exists()]


def made_up(ca: x509.Certificate | None) -> tuple[x509.Certificate, ...]:
    """A client's chain to be copied where there is no real one; below a CA of the given certificate's name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    now = datetime.now(UTC).replace(microsecond=0)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca is not None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (leaf, ca) if ca is not None else (leaf,)
