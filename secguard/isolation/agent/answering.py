"""Answers to the probes that arrive: they tell the sender whether the way back is open, whatever the host's limits."""

import time

from secguard.isolation.agent.sending import frame
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.tokens import Kind

__all__ = ["answer", "wait"]


def wait(session: Session, seconds: float) -> None:
    """Let answers come in, and answer."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        answer(session)
        time.sleep(min(0.01, left))
    answer(session)


def answer(session: Session) -> None:
    """Answer UDP probes that arrived: tells the sender whether the way back is open, whatever the host's limits."""
    table = session.plan.cases
    frames = []
    while session.sensor.arrived:
        case, seq = session.sensor.arrived.popleft()
        if table.protocol[case] != "udp" or table.dst[case] != session.me or table.profile[case] == "fragments":
            continue
        if table.target[case]:
            continue  # the address is somebody else's: a mirror port only listens
        open_port = ("udp", table.family[case], table.dport[case]) in session.open_ports
        kind = Kind.REPLY_OPEN if open_port else Kind.REPLY_CLOSED
        token = session.tokens.make(kind, [case], [seq])[0]
        there = session.plan.agents[table.src[case]].address(table.family[case])
        ports = table.dport[case], table.sport[case]
        frames.append(frame(session, "udp", there, token, ports=ports, ident=case & 0xFFFF))
    session.wire.send([item for item in frames if item], session.plan.rate)
