"""Conversations: whoever accepted a probe is told the token, since a relay may pass on what a filter stopped."""

import contextlib
import selectors
import socket
import time

from secguard.isolation.agent.answering import answer
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.tokens import Kind

__all__ = ["converse"]

_CONNECT_WAIT = 0.6
# What is said after a completed handshake: bare, as a proxy's CONNECT, as a SIP request. Each carries a token.
_OPENINGS = (
    b"",
    b"CONNECT secguard.invalid:443 HTTP/1.1\r\nHost: secguard.invalid:443\r\n\r\n",
    b"OPTIONS sip:secguard@invalid SIP/2.0\r\nVia: SIP/2.0/TCP invalid\r\nContent-Length: 28\r\n\r\n",
)


def converse(session: Session) -> None:
    """Complete a handshake wherever a SYN-ACK came, and say the token: a relay may pass it on."""
    table = session.plan.cases
    opening: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as selector:
        while session.sensor.accepted:
            case = session.sensor.accepted.popleft()
            family = table.family[case]
            there = session.plan.agents[table.dst[case]].address(family)
            if case in session.tried or table.protocol[case] != "tcp" or not session.plan.permits(there):
                continue
            session.tried.add(case)
            for number, text in enumerate(_OPENINGS):
                token = session.tokens.make(Kind.PROBE, [case], [number])[0]
                channel = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM)
                channel.setblocking(False)
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    wanted = table.sport[case] if table.profile[case] == "source-port" else 0
                    channel.bind((session.info.address(family), wanted))
                channel.connect_ex((there, table.dport[case]))
                opening[channel] = text + token
                selector.register(channel, selectors.EVENT_WRITE)
        end = time.monotonic() + _CONNECT_WAIT
        while opening and time.monotonic() < end:
            for key, _ in selector.select(0.05):
                channel = key.fileobj  # type: ignore[assignment]
                with contextlib.suppress(OSError):
                    channel.send(opening[channel])
                selector.unregister(channel)
                del opening[channel]
                session.connections.append(channel)
            answer(session)
        session.connections += list(opening)
