"""The relays that stand on the leaky lab's firewall: each passes on only what speaks its language.

`sip`: TCP 15060, forwards a request that begins like SIP as a datagram. `connect`: TCP 13128, an HTTP proxy that obeys
CONNECT. `dns`: UDP 5353, forwards what parses as a query. All of them forward into `int` and end with the lab.
"""

import contextlib
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable

from secguard.isolation.wire.namespaces import die_with_parent

__all__ = ["RELAYS", "main"]

INSIDE = "10.1.0.2"
_MAX = 4096
_WAIT = 5.0


def _sip(channel: socket.socket) -> None:
    data = channel.recv(_MAX)
    method, _, rest = data.partition(b" ")
    if method.isupper() and rest.startswith(b"sip:"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(data, (INSIDE, 5060))


def _connect(channel: socket.socket) -> None:
    head = channel.recv(_MAX)
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or words[0] != b"CONNECT":
        channel.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        return
    host, _, port = words[1].rpartition(b":")
    with socket.create_connection((host.decode(), int(port)), _WAIT) as far:
        channel.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with selectors.DefaultSelector() as ready:
            ready.register(channel, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, channel)
            while events := ready.select(_WAIT):
                for key, _ in events:
                    data = key.fileobj.recv(_MAX)  # type: ignore[union-attr] # we registered sockets only
                    if not data:
                        return
                    key.data.sendall(data)


def _streams(port: int, serve: Callable[[socket.socket], None]) -> Callable[[], None]:
    listener = socket.create_server(("0.0.0.0", port))  # noqa: S104 - in the lab's own namespace

    def handle(channel: socket.socket) -> None:
        with channel, contextlib.suppress(OSError, ValueError):
            channel.settimeout(_WAIT)
            serve(channel)

    def run() -> None:
        while True:
            threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()

    return run


def _dns() -> Callable[[], None]:
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.bind(("0.0.0.0", 5353))  # noqa: S104 - in the lab's own namespace

    def run() -> None:
        while True:
            data, _ = channel.recvfrom(_MAX)
            if _is_query(data):
                channel.sendto(data, (INSIDE, 53))

    return run


def _is_query(data: bytes) -> bool:
    """Whether a datagram is a DNS query of one question (RFC 1035 section 4.1)."""
    if len(data) < 17 or data[2] & 0xF8 or data[4:6] != b"\0\1":
        return False
    at = 12
    while at < len(data) and 0 < data[at] < 64:
        at += data[at] + 1
    return at > 12 and data[at : at + 1] == b"\0" and len(data) >= at + 5


RELAYS: dict[str, Callable[[], Callable[[], None]]] = {
    "sip": lambda: _streams(15060, _sip),
    "connect": lambda: _streams(13128, _connect),
    "dns": _dns,
}
"""What each relay opens; the answer serves it for ever."""


def main() -> int:
    """Open every relay, say so in a line, and serve until the lab ends."""
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        return 2
    serving = [start() for start in RELAYS.values()]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for serve in serving[1:]:
        threading.Thread(target=serve, daemon=True).start()
    serving[0]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
