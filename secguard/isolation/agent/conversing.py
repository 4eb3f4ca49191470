"""Conversations: whoever accepted a probe is told the token, since a relay may pass on what a filter stopped."""

import contextlib
import selectors
import socket
import time

from secguard.isolation.agent.answering import answer
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.tokens import Kind
from secguard.isolation.probes.openings import AFTER_REPLY, OPENINGS, opening

__all__ = ["converse"]

_CONNECT_WAIT = 1.6  # a lost SYN is repeated after a second
_REPLY_WAIT = 0.3


def converse(session: Session) -> None:
    """Complete a handshake wherever a SYN-ACK came, and say the token: a relay may pass it on."""
    talking: dict[socket.socket, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        while session.sensor.accepted:
            case = session.sensor.accepted.popleft()
            if case in session.tried or session.plan.cases.protocol[case] != "tcp":
                continue
            session.tried.add(case)
            for number in range(len(OPENINGS)):
                begun = _connect(session, case)
                if begun is not None:
                    talking[begun] = case, number
                    selector.register(begun, selectors.EVENT_WRITE)
        waiting = set(talking)
        now = time.monotonic()
        connected, replied = now + _CONNECT_WAIT, now
        while selector.get_map() and (now := time.monotonic()) < (connected if waiting else replied):
            for key, _ in selector.select(0.05):
                channel: socket.socket = key.fileobj  # type: ignore[assignment] # we registered sockets only
                case, number = talking[channel]
                if channel in waiting:
                    waiting.discard(channel)
                    there = session.plan.wanted(case)
                    token = session.tokens.make(Kind.PROBE, [case], [number])[0]
                    _send(channel, opening(number, there, session.plan.relay_port, token))
                    selector.modify(channel, selectors.EVENT_READ)
                    replied = now + _REPLY_WAIT
                    continue
                # A proxy that says yes takes what follows as the data to pass on; so may any relay with a greeting.
                with contextlib.suppress(OSError):
                    if channel.recv(1024):
                        _send(channel, session.tokens.make(Kind.PROBE, [case], [AFTER_REPLY + number])[0])
                selector.unregister(channel)
            answer(session)
    session.connections += list(talking)


def _connect(session: Session, case: int) -> socket.socket | None:
    """Begin a connection to where a case went; None where nothing may be sent."""
    table = session.plan.cases
    family = table.family[case]
    _, there = session.plan.ends(case)
    if not session.plan.permits(there):
        return None
    channel = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    channel.setblocking(False)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.suppress(OSError):
        wanted = table.sport[case] if table.profile[case] == "source-port" else 0
        channel.bind((session.info.address(family), wanted))
    channel.connect_ex((there, table.dport[case]))
    return channel


def _send(channel: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        channel.send(data)
