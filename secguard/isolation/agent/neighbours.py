"""Before the first packet: listeners for allowed flows, routes, and the link-layer addresses of the next hops."""

import socket
import struct
import time

from secguard.isolation.agent.session import Session
from secguard.isolation.probes import headers
from secguard.isolation.probes.packets import checksum
from secguard.isolation.wire import wire

__all__ = ["ask", "ready"]

_ASK_ROUNDS = 30  # of 50 ms
_IN_USE = 98  # EADDRINUSE


def ready(session: Session) -> None:
    """Start hearing, open the listeners that allowed flows expect, find the next hops."""
    cases, agents = session.plan.cases, session.plan.agents
    session.wire.start()
    for case in range(len(cases)):
        if cases.dst[case] == session.me and cases.expect[case] == "open":
            _listen(session, cases.protocol[case], cases.family[case], cases.dport[case])
    for family in (4, 6):
        source = session.info.address(family)
        if not source:
            continue
        _listen(session, "tcp", family, session.plan.relay_port)  # a proxy that is asked for it must get through
        near = {a.address(family): a.zone == session.info.zone for a in agents if a is not session.info}
        for case, target in enumerate(cases.target):
            if target and cases.src[case] == session.me and cases.family[case] == family:
                near.setdefault(target, False)
        for there, neighbour in near.items():
            if not there or not session.plan.permits(there):
                continue
            way = wire.route(there, source)
            if way is None or way.interface != session.wire.interface.name:
                session.problems.append(f"no route to {there}")
                continue
            session.hop[there] = way.hop
            session.beacon_targets[family].add(there if neighbour else way.hop)
            session.hop[way.hop] = way.hop
            session.sensor.hops.add(headers.packed(way.hop))
    for _ in range(_ASK_ROUNDS):
        wanted = {hop for hop in session.hop.values() if headers.packed(hop) not in session.sensor.neighbours}
        if not wanted:
            break
        session.wire.send([ask(session, hop) for hop in sorted(wanted)], session.plan.rate)
        time.sleep(0.05)
    for hop in sorted({hop for hop in session.hop.values() if headers.packed(hop) not in session.sensor.neighbours}):
        session.problems.append(f"next hop {hop} does not answer")
    session.sensor.beacons[4].neighbour[:] = [0, 0, 0]
    session.sensor.beacons[6].neighbour[:] = [0, 0, 0]


def _listen(session: Session, protocol: str, family: int, port: int) -> None:
    if protocol not in {"tcp", "udp"} or (protocol, family, port) in session.open_ports:
        return
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    listener = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
    if family == 6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    session.open_ports.add((protocol, family, port))
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((session.info.address(family), port))
        if protocol == "tcp":
            listener.listen(128)
        session.listeners.append(listener)
    except OSError as error:
        listener.close()
        # A service of the host that is already there answers as well as ours would.
        if error.errno != _IN_USE:
            session.open_ports.discard((protocol, family, port))
            session.problems.append(f"cannot listen on {protocol} {port}: {error.strerror}")


def ask(session: Session, hop: str) -> bytes:
    """An ARP request or a neighbour solicitation for a next hop."""
    mac = session.wire.interface.mac
    target = headers.packed(hop)
    if len(target) == 4:
        source = headers.packed(session.info.address(4))
        body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + mac + source + b"\0" * 6 + target
        return b"\xff" * 6 + mac + b"\x08\x06" + body
    # RFC 4861, 4.3: type 135, the target, our link-layer address, to the target's solicited-node group.
    source, group = headers.packed(session.info.address(6)), b"\xff\x02" + b"\0" * 9 + b"\x01\xff" + target[-3:]
    solicit = b"\x87\0\0\0" + b"\0" * 4 + target + b"\x01\x01" + mac
    total = checksum(source + group + struct.pack(">II", len(solicit), 58) + solicit)
    solicit = solicit[:2] + struct.pack(">H", total) + solicit[4:]
    body = struct.pack(">IHBB", 6 << 28, len(solicit), 58, 255) + source + group + solicit
    return b"\x33\x33" + group[-4:] + mac + b"\x86\xdd" + body
