"""What one endpoint presents: reached or not, TLS or not, and the certificates it really sends."""

import threading
import time
from dataclasses import dataclass, field, replace

from OpenSSL import SSL, crypto

from secguard.identity.probe.link import Closed, Link, NoConnection, Silent, context, open_socket
from secguard.identity.probe.plain import recognise, talk_plainly
from secguard.identity.probe.targets import Target, safe

__all__ = ["Answer", "Tried", "alert_of", "look", "reason_of"]

MAX_PRESENTED = 16
"""Certificates that are looked at; a real chain has two to four."""

_OLD = ("TLSv1", "TLSv1.1")
_PLAIN_WAIT = 3.0


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one client: `accepted`, `refused` or `unclear`, and why."""

    outcome: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint did.

    Attributes:
        state: `presented` (a chain came), `anonymous`, `plain`, or why nothing came: `refused`, `unreachable`,
            `timeout`, `unresolved`, `silent`, `handshake`, `tlcp`, `garbage`, `malformed`, `oversized`, `stopped`.
        reason: more about it; of `plain`, what it said.
        protocol: TLS version of the handshake, or of `plain` the protocol.
        cipher: its cipher suite.
        chain: DER, as sent, end entity first; at most `MAX_PRESENTED`.
        sent: how many certificates were sent.
        legacy: a version older than TLS 1.2 that it accepts though it can do better; empty if not or not asked.
        address: the IP address that answered.
        seconds: how long it took.
        clients: what became of each client that was tried.
    """

    state: str
    reason: str = ""
    protocol: str = ""
    cipher: str = ""
    chain: tuple[bytes, ...] = ()
    sent: int = 0
    legacy: str = ""
    address: str = ""
    seconds: float = 0.0
    clients: dict[str, Tried] = field(default_factory=dict)


def reason_of(error: SSL.Error) -> str:
    """What OpenSSL says, in a few words."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return safe(entries[-1][2] if entries else str(error) or type(error).__name__)


def alert_of(error: SSL.Error) -> bool:
    """Tell whether the peer sent an alert."""
    return "alert" in reason_of(error)


def look(target: Target, *, timeout: float, stop: threading.Event, sni: str = "", versions: bool = False) -> Answer:
    """Shake hands with an endpoint and keep what it presents; never raises for what the peer does.

    Args:
        target: the endpoint.
        timeout: seconds for each connection.
        stop: ends it within a fifth of a second when set.
        sni: server name to send; empty: the host, if it is a name.
        versions: also try whether versions older than TLS 1.2 are accepted.
    """
    began = time.monotonic()
    name = sni or (target.host if target.is_name else "")
    answer = _shake(target, name, None, timeout, stop)
    if answer.state == "closed":
        # Devices of old choke on what a new client offers.
        for maximum in (SSL.TLS1_2_VERSION, SSL.TLS1_VERSION):
            again = _shake(target, name, maximum, timeout, stop)
            if again.state not in {"closed", "mute"}:
                answer = again
                break
    if answer.state in {"closed", "mute"}:
        answer = _ask_plainly(target, answer, min(timeout, _PLAIN_WAIT), stop)
    elif versions and answer.state == "presented" and answer.protocol not in _OLD:
        older = _shake(target, name, SSL.TLS1_1_VERSION, timeout, stop)
        if older.protocol in _OLD and not older.reason:
            answer = replace(answer, legacy=older.protocol)
    if stop.is_set() and answer.state in {"timeout", "silent", "mute"}:
        answer = Answer("stopped")
    return replace(answer, seconds=time.monotonic() - began)


def _ask_plainly(target: Target, answer: Answer, timeout: float, stop: threading.Event) -> Answer:
    protocol, banner = talk_plainly(target, timeout, stop)
    if protocol:
        return Answer("plain", banner, protocol, address=answer.address)
    if answer.state == "closed":
        return Answer("handshake", answer.reason or "closed", address=answer.address)
    return Answer("silent", address=answer.address)


def _shake(target: Target, name: str, maximum: int | None, timeout: float, stop: threading.Event) -> Answer:
    deadline = time.monotonic() + timeout
    try:
        sock = open_socket(target, deadline, stop)
    except NoConnection as error:
        return Answer(error.state, str(error))
    link = Link(sock, deadline, stop)
    try:
        address = sock.getpeername()[0]
    except OSError:
        address = ""
    try:
        return replace(_present(link, name, maximum), address=address)
    finally:
        link.close()


# Contexts are frozen after the first connection and shared by all threads.
_CONTEXTS: dict[int | None, SSL.Context] = {}


def _context(maximum: int | None) -> SSL.Context:
    if maximum not in _CONTEXTS:
        _CONTEXTS[maximum] = context(maximum)
    return _CONTEXTS[maximum]


def _present(link: Link, name: str, maximum: int | None) -> Answer:
    failed, state = "", ""
    try:
        link.start(_context(maximum), name)
    except Silent:
        state = "timeout" if link.received else "mute"
    except Closed as error:
        state, failed = "handshake" if link.received else "closed", str(error)
        if link.received and "KiB" in failed:
            state = "oversized"
    except SSL.Error as error:
        state, failed = _of_error(error), reason_of(error)
    assert link.tls is not None
    chain, sent = _chain(link.tls)
    protocol = link.tls.get_protocol_version_name() if link.received else ""
    cipher = link.tls.get_cipher_name() or ""
    if chain:
        # Also where the handshake failed afterwards, for want of a client certificate.
        return Answer("presented", failed if state else "", protocol, cipher, chain, sent)
    if not state:
        return Answer("anonymous", "", protocol, cipher)
    plain = recognise(link.first)
    if plain:
        return Answer("plain", plain[1], plain[0])
    if link.first[:1] in {b"\x15", b"\x16"} and link.first[1:3] == b"\x01\x01":
        return Answer("tlcp", failed)
    return Answer(state, failed)


def _of_error(error: SSL.Error) -> str:
    if alert_of(error):
        return "handshake"
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    libraries = " ".join(str(item[0]) for item in entries)
    reasons = " ".join(str(item[2]) for item in entries)
    if "excessive message size" in reasons:
        return "oversized"
    if "asn1" in libraries or "x509" in libraries or "cert" in reasons:
        return "malformed"
    return "garbage"


def _chain(tls: SSL.Connection) -> tuple[tuple[bytes, ...], int]:
    try:
        found = tls.get_peer_cert_chain() or []
        return tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, item) for item in found[:MAX_PRESENTED]), len(found)
    except crypto.Error:
        return (), 0
