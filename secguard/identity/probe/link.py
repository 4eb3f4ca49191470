"""One connection to a stranger: every wait ends at a deadline, every byte is counted, TLS runs in memory.

OpenSSL never sees the socket. It gets the bytes that came, at most `MAX_BYTES` of them, so an endless or dripping peer
ends like any other: at the limit, or at the deadline.
"""

import errno
import select
import socket
import threading
import time
from dataclasses import dataclass, field

from OpenSSL import SSL

from secguard.identity.probe.targets import Target, safe

__all__ = ["MAX_BYTES", "Closed", "Link", "NoConnection", "Silent", "context", "open_socket"]

MAX_BYTES = 256 << 10
"""Bytes that are taken from one peer in one connection; OpenSSL stops a chain of certificates at 100 KiB."""

_SLICE = 0.2  # seconds between looks at the stop signal
_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL, errno.EINVAL}
_OP_LEGACY_SERVER_CONNECT = 0x4  # openssl/ssl.h: servers without RFC 5746 are there to be found
_OP_NO_RENEGOTIATION = 0x40000000


class NoConnection(Exception):  # noqa: N818 - the answer to a question, not a fault
    """There is no connection; `state` is one of `refused`, `unreachable`, `timeout`, `unresolved`."""

    def __init__(self, state: str, reason: str = "") -> None:
        super().__init__(reason)
        self.state = state


class Silent(Exception):  # noqa: N818 - the same
    """The deadline passed, or the run was stopped."""


class Closed(Exception):  # noqa: N818 - the same
    """The peer closed or reset the connection, or sent more than `MAX_BYTES`."""


def context(maximum: int | None = None) -> SSL.Context:
    """A client that takes whatever a device offers, TLS 1.0 to 1.3, verifies nothing, and never renegotiates.

    Args:
        maximum: highest protocol version (`SSL.TLS1_2_VERSION`); None: all.
    """
    made = SSL.Context(SSL.TLS_CLIENT_METHOD)
    made.set_min_proto_version(SSL.TLS1_VERSION)
    if maximum is not None:
        made.set_max_proto_version(maximum)
    # Anonymous and null ciphers last: only a peer that has nothing better takes them.
    made.set_cipher_list(b"HIGH:MEDIUM:LOW:ALL:+aNULL:eNULL:@SECLEVEL=0")
    made.set_options(_OP_LEGACY_SERVER_CONNECT | _OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    made.set_verify(SSL.VERIFY_NONE)
    made.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return made


def _classify(error: OSError) -> NoConnection:
    number = error.errno or 0
    if number == errno.ECONNREFUSED:
        return NoConnection("refused")
    if number in {errno.ETIMEDOUT, errno.ECONNRESET}:
        return NoConnection("timeout" if number == errno.ETIMEDOUT else "refused")
    if number in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS}:
        return NoConnection("unreachable", "this machine has no free sockets (--jobs)")
    return NoConnection("unreachable", errno.errorcode.get(number, "") if number in _UNREACHABLE else str(number))


def open_socket(target: Target, deadline: float, stop: threading.Event) -> socket.socket:
    """Connect to the first address that answers.

    Args:
        target: the endpoint.
        deadline: `time.monotonic()` at which to give up.
        stop: give up when set.

    Raises:
        NoConnection: none does.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError, OSError) as error:
        raise NoConnection("unresolved", safe(str(getattr(error, "strerror", "") or error))) from None
    places = list(dict.fromkeys((item[0], item[4]) for item in found))[:8]
    failed = NoConnection("timeout")
    for count, (family, place) in enumerate(places):
        now = time.monotonic()
        try:
            return _connect(family, place, now + max(deadline - now, 0) / (len(places) - count), stop)
        except NoConnection as error:
            failed = error
        except OSError as error:
            failed = _classify(error)
    raise failed


def _connect(family: int, place: object, deadline: float, stop: threading.Event) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        number = sock.connect_ex(place)  # type: ignore[arg-type]  # as getaddrinfo gave it
        if number == errno.EINPROGRESS:
            if not _wait(sock, select.POLLOUT, deadline, stop):
                raise NoConnection("timeout")
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise _classify(OSError(number, ""))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _wait(sock: socket.socket, event: int, deadline: float, stop: threading.Event) -> bool:
    """Wait until the socket is ready; False at the deadline or when stopped. poll knows no limit of 1,024 sockets."""
    poll = select.poll()
    poll.register(sock, event)
    while not stop.is_set():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if poll.poll(min(left, _SLICE) * 1000):
            return True
    return False


@dataclass(slots=True)
class Link:
    """A connected socket, and TLS over it once `start` was called.

    Attributes:
        sock: connected, non-blocking.
        deadline: `time.monotonic()` at which every wait ends.
        stop: ends every wait when set.
        first: the first bytes that came, at most 1,024.
        received: bytes that came.
        tls: the TLS connection; None before `start`.
    """

    sock: socket.socket
    deadline: float
    stop: threading.Event
    first: bytes = b""
    received: int = 0
    tls: SSL.Connection | None = field(default=None)

    def close(self) -> None:
        """Close the socket, without a farewell."""
        self.sock.close()

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are.

        Raises:
            Silent: not in time.
            Closed: the peer has gone.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                if not _wait(self.sock, select.POLLOUT, self.deadline, self.stop):
                    raise Silent from None
            except OSError as error:
                raise Closed(errno.errorcode.get(error.errno or 0, "")) from None

    def receive_raw(self) -> bytes:
        """The next bytes.

        Raises:
            Silent: none in time.
            Closed: the peer has gone, or has sent too much.
        """
        if self.received >= MAX_BYTES:
            raise Closed("more than 256 KiB")
        while True:
            try:
                data = self.sock.recv(16384)
                break
            except BlockingIOError:
                if not _wait(self.sock, select.POLLIN, self.deadline, self.stop):
                    raise Silent from None
            except OSError as error:
                raise Closed(errno.errorcode.get(error.errno or 0, "")) from None
        if not data:
            raise Closed("closed")
        self.received += len(data)
        if len(self.first) < 1024:
            self.first += data[: 1024 - len(self.first)]
        if time.monotonic() > self.deadline:
            raise Silent
        return data

    def start(self, made: SSL.Context, name: str = "") -> None:
        """Shake hands; `name` is sent as server name (RFC 6066).

        Raises:
            Silent: not done in time.
            Closed: the peer has gone.
            SSL.Error: refused by an alert, or what came is no TLS.
        """
        self.tls = SSL.Connection(made, None)
        self.tls.set_connect_state()
        if name:
            self.tls.set_tlsext_host_name(name.encode("ascii"))
        while True:
            try:
                self.tls.do_handshake()
                break
            except SSL.WantReadError:
                self._flush()
                self.tls.bio_write(self.receive_raw())
            except SSL.Error:
                self._flush_quietly()
                raise
        self._flush()

    def send(self, data: bytes) -> None:
        """Send through TLS; raises as `start`."""
        assert self.tls is not None
        if data:
            self.tls.send(data)
        self._flush()

    def receive(self) -> bytes:
        """The next application data; raises as `start`, and `Closed` at a close_notify."""
        assert self.tls is not None
        while True:
            try:
                return self.tls.recv(16384)
            except SSL.WantReadError:
                self._flush()
                self.tls.bio_write(self.receive_raw())
            except SSL.ZeroReturnError:
                raise Closed("close_notify") from None

    def _flush(self) -> None:
        assert self.tls is not None
        while True:
            try:
                data = self.tls.bio_read(16384)
            except SSL.WantReadError:
                return
            self.send_raw(data)

    def _flush_quietly(self) -> None:
        try:
            self._flush()
        except (Silent, Closed, SSL.Error):
            return
