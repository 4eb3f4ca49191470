"""The agent: a process inside one zone that sends its cases of a plan and hears what arrives.

Control is lines of JSON over its standard input and output. The first line it prints says hello (its addresses and its
public key); then it takes `plan` (the signed envelope), `phase` 1, 2, 3 and `report`. End of input ends it, and so does
the death of its parent: an agent never outlives the scan.
"""

import argparse
import base64
import contextlib
import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["main", "parse_key", "spki"]

_BEACONS = 3
_ANSWER_WAIT = 0.25
_LATE_WAIT = 1.0
_ASK_ROUNDS = 30  # of 50 ms
_CONNECT_WAIT = 0.6
_PR_SET_PDEATHSIG = 1
# What is said after a completed handshake: bare, as a proxy's CONNECT, as a SIP request. Each carries a token.
_OPENINGS = (
    b"",
    b"CONNECT secguard.invalid:443 HTTP/1.1\r\nHost: secguard.invalid:443\r\n\r\n",
    b"OPTIONS sip:secguard@invalid SIP/2.0\r\nVia: SIP/2.0/TCP invalid\r\nContent-Length: 28\r\n\r\n",
)


def spki(key: Any) -> str:
    """A public key as base64 of its SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives import serialization

    data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(data).decode()


def parse_key(text: str) -> Any:
    """The public key of `spki`'s text.

    Raises:
        FormatError: not a public key.
    """
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from secguard.core.errors import FormatError

    try:
        return load_der_public_key(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise FormatError("isolation.key.format", "not a public key") from error


class _Agent:
    """One run's work; made when the plan has been checked."""

    def __init__(self, envelope: bytes, name: str, trusted: Any, signer: Any) -> None:
        from secguard.core.clock import SystemClock
        from secguard.core.errors import RefusedError
        from secguard.isolation.agent.sensor import Sensor
        from secguard.isolation.plan.plan import open_plan
        from secguard.isolation.wire import wire

        self.plan, self.digest = open_plan(envelope, [trusted], SystemClock().now())
        self.me = self.plan.agent(name)
        self.signer = signer
        self.info = self.plan.agents[self.me]
        mine = [item for item in wire.interfaces() if set(item.addresses) & set(self.info.addresses)]
        missing = set(self.info.addresses) - {text for item in mine for text in item.addresses}
        if missing or len(mine) != 1:
            raise RefusedError(
                "isolation.agent.address",
                f"agent {name} needs its addresses on one interface: {', '.join(self.info.addresses)[:120]}",
            )
        self.tokens = self.plan.tokens()
        self.sensor = Sensor(self.plan, self.me)
        self.wire = wire.Wire(mine[0], self.sensor.hear)
        self.problems: list[str] = []
        self.started = time.time_ns()
        self.listeners: list[socket.socket] = []
        self.open_ports: set[tuple[str, int, int]] = set()
        self.hop: dict[str, str] = {}
        self.beacon_targets: dict[int, set[str]] = {4: set(), 6: set()}
        self.tried: set[int] = set()
        self.permitted: set[str] = set()
        self.connections: list[socket.socket] = []

    def ready(self) -> None:
        """Start hearing, open the listeners that allowed flows expect, find the next hops."""
        from secguard.isolation.probes import headers
        from secguard.isolation.wire import wire

        cases, agents = self.plan.cases, self.plan.agents
        self.wire.start()
        for case in range(len(cases)):
            if cases.dst[case] == self.me and cases.expect[case] == "open":
                self._listen(cases.protocol[case], cases.family[case], cases.dport[case])
        for family in (4, 6):
            source = self.info.address(family)
            if not source:
                continue
            others = [a for a in agents if a is not self.info and a.address(family)]
            for other in others:
                if not self.plan.permits(other.address(family)):
                    continue
                way = wire.route(other.address(family), source)
                if way is None or way.interface != self.wire.interface.name:
                    self.problems.append(f"no route to {other.address(family)}")
                    continue
                self.hop[other.address(family)] = way.hop
                self.beacon_targets[family].add(other.address(family) if other.zone == self.info.zone else way.hop)
                self.hop[way.hop] = way.hop
                self.sensor.hops.add(headers.packed(way.hop))
        for _ in range(_ASK_ROUNDS):
            wanted = {hop for hop in self.hop.values() if headers.packed(hop) not in self.sensor.neighbours}
            if not wanted:
                break
            self.wire.send([self._ask(hop) for hop in sorted(wanted)], self.plan.rate)
            time.sleep(0.05)
        for hop in sorted({hop for hop in self.hop.values() if headers.packed(hop) not in self.sensor.neighbours}):
            self.problems.append(f"next hop {hop} does not answer")
        self.sensor.beacons[4].neighbour[:] = [0, 0, 0]
        self.sensor.beacons[6].neighbour[:] = [0, 0, 0]

    def _listen(self, protocol: str, family: int, port: int) -> None:
        if protocol not in {"tcp", "udp"} or (protocol, family, port) in self.open_ports:
            return
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        listener = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        if family == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.open_ports.add((protocol, family, port))
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.info.address(family), port))
            if protocol == "tcp":
                listener.listen(128)
            self.listeners.append(listener)
        except OSError as error:
            listener.close()
            # A service of the host that is already there answers as well as ours would.
            if error.errno != 98:
                self.open_ports.discard((protocol, family, port))
                self.problems.append(f"cannot listen on {protocol} {port}: {error.strerror}")

    def _ask(self, hop: str) -> bytes:
        """An ARP request or a neighbour solicitation for a next hop."""
        from secguard.isolation.probes import headers
        from secguard.isolation.probes.packets import checksum

        mac = self.wire.interface.mac
        target = headers.packed(hop)
        if len(target) == 4:
            source = headers.packed(self.info.address(4))
            body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + mac + source + b"\0" * 6 + target
            return b"\xff" * 6 + mac + b"\x08\x06" + body
        # RFC 4861, 4.3: type 135, the target, our link-layer address, to the target's solicited-node group.
        source, group = headers.packed(self.info.address(6)), b"\xff\x02" + b"\0" * 9 + b"\x01\xff" + target[-3:]
        solicit = b"\x87\0\0\0" + b"\0" * 4 + target + b"\x01\x01" + mac
        total = checksum(source + group + struct.pack(">II", len(solicit), 58) + solicit)
        solicit = solicit[:2] + struct.pack(">H", total) + solicit[4:]
        body = struct.pack(">IHBB", 6 << 28, len(solicit), 58, 255) + source + group + solicit
        return b"\x33\x33" + group[-4:] + mac + b"\x86\xdd" + body

    def _frame(
        self, kind: str, destination: str, token: bytes, *, ports: tuple[int, int], isn: int = 0, ident: int = 0
    ) -> bytes:
        """A finished frame; empty if the next hop is unknown. The last guard: never outside the policy's blocks."""
        from secguard.isolation.probes import headers, packets

        if destination not in self.permitted:
            near = self.beacon_targets[6 if ":" in destination else 4]
            if not (self.plan.permits(destination) or destination in near):
                raise PermissionError(f"{destination} is outside the policy's blocks")
            self.permitted.add(destination)
        hop = headers.packed(self.hop.get(destination, destination))
        mac = self.sensor.neighbours.get(hop)
        if mac is None:
            return b""
        there = headers.packed(destination)
        family = 4 if len(there) == 4 else 6
        ends = {len(there): (headers.packed(self.info.address(family)), there)}
        other = next((a for a in self.plan.agents if destination in a.addresses), None)
        rest = 6 if family == 4 else 4
        if other is not None and other.address(rest) and self.info.address(rest):
            inner = headers.packed(other.address(rest))
            ends[len(inner)] = (headers.packed(self.info.address(rest)), inner)
        body = packets.fill(self.plan.templates[f"{kind}/{family}"], ends, token, ports=ports, isn=isn, ident=ident)
        return mac + self.wire.interface.mac + (b"\x08\x00" if family == 4 else b"\x86\xdd") + body

    def _probes(self, phase: int, cases: list[int]) -> Iterator[bytes]:
        """The frames of a phase: attempt by attempt over all cases, so that attempts of one case lie apart in time."""
        from secguard.isolation.plan.tokens import Kind
        from secguard.isolation.probes import packets

        table, agents = self.plan.cases, self.plan.agents
        for attempt in range(self.plan.attempts):
            jobs: list[tuple[int, str, int]] = []
            for case in cases:
                names = packets.parts(table.profile[case], table.protocol[case], attempt)
                jobs += [(case, name, phase << 8 | attempt * len(names) + i) for i, name in enumerate(names)]
            tokens = self.tokens.make(Kind.PROBE, [job[0] for job in jobs], [job[2] for job in jobs])
            for (case, name, _), token in zip(jobs, tokens, strict=True):
                there = agents[table.dst[case]].address(table.family[case])
                ident = (case * 16 + attempt * 4 + phase) & 0xFFFF
                ports = table.sport[case], table.dport[case]
                frame = self._frame(name, there, token, ports=ports, isn=self.tokens.hint(case), ident=ident)
                if frame:
                    yield frame

    def _beacon(self, phase: int) -> None:
        """Ask the next hop for its address, and have it (or a neighbour agent) send a token back over the wire."""
        from secguard.isolation.agent.sensor import BEACON_SPORT
        from secguard.isolation.plan.tokens import Kind

        frames = []
        for family, targets in self.beacon_targets.items():
            for target in sorted(targets):
                token = self.tokens.make(Kind.BEACON, [self.me], [phase << 8])[0]
                frame = self._frame("echo", target, token, ports=(BEACON_SPORT, 0), ident=phase)
                self.sensor.beacons[family].sent[phase - 1] += 1
                frames += [self._ask(self.hop.get(target, target)), frame]
        self.wire.send([frame for frame in frames if frame], self.plan.rate)

    def _answer(self) -> None:
        """Answer UDP probes that arrived: tells the sender whether the way back is open, whatever the host's limits."""
        from secguard.isolation.plan.tokens import Kind

        table = self.plan.cases
        frames = []
        while self.sensor.arrived:
            case, seq = self.sensor.arrived.popleft()
            if table.protocol[case] != "udp" or table.dst[case] != self.me or table.profile[case] == "fragments":
                continue
            open_port = ("udp", table.family[case], table.dport[case]) in self.open_ports
            kind = Kind.REPLY_OPEN if open_port else Kind.REPLY_CLOSED
            token = self.tokens.make(kind, [case], [seq])[0]
            there = self.plan.agents[table.src[case]].address(table.family[case])
            ports = table.dport[case], table.sport[case]
            frames.append(self._frame("udp", there, token, ports=ports, ident=case & 0xFFFF))
        self.wire.send([frame for frame in frames if frame], self.plan.rate)

    def phase(self, number: int) -> None:
        """Send one phase: 1 and 3 are beacons and canaries, 2 is every case."""
        table = self.plan.cases
        self.sensor.phase = number
        mine = [case for case in range(len(table)) if table.src[case] == self.me]
        chosen = mine if number == 2 else [case for case in mine if table.canary[case]]
        frames = list(self._probes(number, chosen))
        step = max(1, -(-len(frames) // _BEACONS))
        for start in range(_BEACONS):
            self._beacon(number)
            refused = self.wire.send(frames[start * step : (start + 1) * step], self.plan.rate, self._answer)
            if refused:
                self.problems.append(f"{refused} packets not sent: {self.wire.error}")
            self.wait(0.03)
        self._beacon(number)
        self.wait(_ANSWER_WAIT)
        # A busy machine hears late; a broken wire does not hear at all.
        end = time.monotonic() + _LATE_WAIT
        while not self._heard(number) and time.monotonic() < end:
            self.wait(0.05)
        if number == 2:
            self._converse()

    def _heard(self, phase: int) -> bool:
        """Whether each family that was asked has answered in this phase."""
        asked = [item for item in self.sensor.beacons.values() if item.sent[phase - 1]]
        return all(item.heard[phase - 1] and item.neighbour[phase - 1] for item in asked)

    def wait(self, seconds: float) -> None:
        """Let answers come in, and answer."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._answer()
            time.sleep(min(0.01, left))
        self._answer()

    def _converse(self) -> None:
        """Complete a handshake wherever a SYN-ACK came, and say the token: a relay may pass it on."""
        from secguard.isolation.plan.tokens import Kind

        table = self.plan.cases
        opening: dict[socket.socket, bytes] = {}
        with selectors.DefaultSelector() as selector:
            while self.sensor.accepted:
                case = self.sensor.accepted.popleft()
                family = table.family[case]
                there = self.plan.agents[table.dst[case]].address(family)
                if case in self.tried or table.protocol[case] != "tcp" or not self.plan.permits(there):
                    continue
                self.tried.add(case)
                for number, text in enumerate(_OPENINGS):
                    token = self.tokens.make(Kind.PROBE, [case], [number])[0]
                    channel = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM)
                    channel.setblocking(False)
                    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    with contextlib.suppress(OSError):
                        wanted = table.sport[case] if table.profile[case] == "source-port" else 0
                        channel.bind((self.info.address(family), wanted))
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
                    self.connections.append(channel)
                self._answer()
            self.connections += list(opening)

    def report(self) -> bytes:
        """Stop, and sign what was seen."""
        from secguard.isolation.agent.observations import Observations

        for item in (*self.connections, *self.listeners):
            item.close()
        drops = self.wire.stop()
        if self.wire.error:
            self.problems.append(f"interface: {self.wire.error}")
        seen = Observations(
            run=self.plan.run,
            plan=self.digest,
            agent=self.me,
            started=self.started,
            ended=time.time_ns(),
            egress=self.sensor.egress,
            arrivals=self.sensor.arrivals(),
            answers=self.sensor.answers(),
            hints=self.sensor.hints(),
            strange=self.sensor.strange(),
            strange_total=self.sensor.strange_total,
            beacons={str(family): value for family, value in self.sensor.beacons.items() if self.info.address(family)},
            drops=drops,
            problems=self.problems,
            packets=self.sensor.packets(),
        )
        return seen.seal(self.signer)


def _say(**values: Any) -> None:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(values) + b"\n")
    sys.stdout.buffer.flush()


def _lines(agent: list[_Agent]) -> Iterator[dict[str, Any]]:
    """Commands from standard input; while none comes, the agent keeps answering."""
    import msgspec

    buffer = b""
    while True:
        while b"\n" not in buffer:
            with selectors.DefaultSelector() as selector:
                selector.register(0, selectors.EVENT_READ)
                ready = selector.select(0.02 if agent else None)
            if ready:
                piece = os.read(0, 1 << 20)
                if not piece:
                    return
                buffer += piece
            elif agent:
                agent[0].wait(0)
        line, _, buffer = buffer.partition(b"\n")
        command = msgspec.json.decode(line)
        if isinstance(command, dict):
            yield command


def _serve(name: str, trusted: str, signer: Any) -> None:
    running: list[_Agent] = []
    for command in _lines(running):
        word = command.get("op")
        if word == "plan":
            running.append(_Agent(str(command["envelope"]).encode(), name, parse_key(trusted), signer))
            running[0].ready()
            _say(ok="ready", problems=running[0].problems)
        elif word == "phase" and running:
            running[0].phase(int(command["number"]))
            _say(ok="phase")
        elif word == "report" and running:
            _say(ok="report", envelope=running[0].report().decode())
            return


def main() -> int:
    """Entry point of the agent process; returns its exit code."""
    parser = argparse.ArgumentParser(description="secguard isolation agent")
    parser.add_argument("--name", required=True)
    parser.add_argument("--netns", default="")
    parser.add_argument("--trust", required=True, help="public key of the plan's signer, base64")
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller decides, and closes our input
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options.parent:
        return 2
    from secguard.core.errors import SecguardError
    from secguard.isolation.wire import wire
    from secguard.keys import Algorithm, generate

    try:
        if options.netns:
            wire.enter_namespace(options.netns)
        signer = generate(Algorithm.ED25519)
        addresses = [text for item in wire.interfaces() for text in item.addresses]
        _say(hello=options.name, addresses=addresses, key=spki(signer.public_key()))
        _serve(options.name, options.trust, signer)
    except SecguardError as error:
        _say(error={"code": error.code, "message": error.message, "hint": error.hint, "where": error.where})
        return 2
    except (OSError, ValueError, KeyError) as error:
        _say(error={"code": "isolation.agent.failed", "message": f"{type(error).__name__}: {error}"[:300], "hint": ""})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
