"""The sensor: what each heard frame means for the run. No I/O; fed by `wire`, read by `agent`."""

from collections import deque
from functools import cache

from secguard.isolation.agent.observations import Answers, Arrivals, Beacons, Strange
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.tokens import Kind, Status, Token, marked, phase_of
from secguard.isolation.probes import headers
from secguard.isolation.probes.headers import Header
from secguard.isolation.probes.profiles import transport

__all__ = ["BEACON_SPORT", "Sensor"]

BEACON_SPORT = 0x5347
_MAX_STRANGE = 1000
_MAX_PACKETS = 100_000
_MAX_WITNESSED = 20_000
_PACKET_HEAD = 512
_TAGS = frozenset({b"\x81\x00", b"\x88\xa8", b"\x91\x00"})
_MAX_TAGGED = 14 + 4 * 4
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}


class Sensor:
    """Sorts frames into egress, arrivals, answers, beacons and strangers for one agent of a plan."""

    def __init__(self, plan: Plan, me: int) -> None:
        self._plan = plan
        self._me = me
        self._tokens = plan.tokens()
        self._window = tuple(int(at.timestamp() * 1e9) for at in (plan.not_before, plan.not_after))
        cases = plan.cases
        self.egress = [0] * len(cases)
        self.beacons = {4: Beacons(), 6: Beacons()}
        self.beats: set[tuple[int, int]] = set()
        self.phase = 1
        self.neighbours: dict[bytes, bytes] = {}
        self.hops: set[bytes] = set()
        self.accepted: deque[int] = deque()
        self.arrived: deque[tuple[int, int]] = deque()
        self.strange_total = 0
        self._strange = Strange()
        self._arrivals: dict[tuple[int, int], list[int]] = {}
        self._answers: dict[tuple[int, str, bytes], int] = {}
        self._hints: set[int] = set()
        self._packets: list[tuple[int, int, str]] = []
        self._shapes: dict[tuple[int, int, int, bytes, bytes], int] = {}
        self._witnessed: dict[tuple[int, bool, int], tuple[int, int, bool, str]] = {}
        self._heard = (b"", 0)
        self._accepting: set[tuple[bytes, int]] = set()
        self._mine: dict[tuple[int, bytes, bytes, int, int], int] = {}
        self._theirs: dict[tuple[int, bytes, bytes, int, int], int] = {}
        self._info = plan.agents[me]
        packed = cache(headers.packed)
        for case, protocol in enumerate(cases.protocol):
            number = _NUMBERS.get(transport(cases.profile[case], protocol))
            if number is None or me not in {cases.src[case], cases.dst[case]}:
                continue
            source, destination = plan.ends(case)
            key = (number, packed(source), packed(destination), cases.sport[case], cases.dport[case])
            (self._mine if cases.src[case] == me else self._theirs).setdefault(key, case)

    def hear(self, frame: bytes, outgoing: bool, at: int) -> None:
        """Take one Ethernet frame at `at` nanoseconds."""
        kind = frame[12:14]
        start = 14
        # A mirror port shows trunks: IEEE 802.1Q and 802.1ad tags, stacked; as deep as the ring looks for sweeps.
        while kind in _TAGS and start < _MAX_TAGGED:
            kind, start = frame[start + 2 : start + 4], start + 4
        if kind == b"\x08\x06":
            if not outgoing:
                self._arp(frame[start:])
            return
        if kind not in {b"\x08\x00", b"\x86\xdd"}:
            return
        packet = frame[start:]
        self._heard = (packet, at)
        if marked(packet):
            self._marked(packet, outgoing, at)
        elif outgoing:
            self._bare(packet, self._mine)
        else:
            self._unmarked(packet)

    def _arp(self, packet: bytes) -> None:
        # RFC 826: a reply (2) says who has the sender's address.
        if len(packet) >= 28 and packet[6:8] == b"\0\2":
            self._neighbour(packet[14:18], packet[8:14], 4)

    def _neighbour(self, address: bytes, mac: bytes, family: int) -> None:
        self.neighbours[address] = mac
        if address in self.hops:
            self.beacons[family].neighbour[self.phase - 1] += 1

    def _marked(self, packet: bytes, outgoing: bool, at: int) -> None:
        header = headers.parse(packet)
        if header is None:
            return
        for token in self._tokens.find(packet):
            if token.status is Status.GOOD and self._window[0] <= at <= self._window[1]:
                self._good(token, packet, header, outgoing, at)
            elif not outgoing and not self._echoed(header) and not self._late(token, packet, header):
                self._stranger("forged" if token.status is Status.FORGED else "foreign", header, at)

    def _echoed(self, header: Header) -> bool:
        """Whether it comes in a connection of ours: a service that quotes what it did not understand garbles it."""
        return header.protocol == _NUMBERS["tcp"] and (header.source, header.sport) in self._accepting

    def _late(self, token: Token, packet: bytes, header: Header) -> bool:
        """Whether a device returns, in an ICMP error, what this address sent in an earlier run: no replay by anybody.

        Fragments that nobody completes come back a minute later (RFC 8200, 4.5).
        """
        said = headers.answer(packet, header) if token.status is Status.FOREIGN and header.protocol in {1, 58} else None
        return said is not None and headers.text(said[1].source) in self._info.addresses

    def _good(self, token: Token, packet: bytes, header: Header, outgoing: bool, at: int) -> None:
        cases = self._plan.cases
        if token.kind == Kind.BEACON:
            if not outgoing and self._beaconed(token.case, headers.echo_reply(packet, header)):
                phase = phase_of(token.seq)
                if phase:
                    self.beacons[header.family].heard[phase - 1] += 1
                    self.beats.add((header.family, token.seq & 0xFF))
            return
        if token.case >= len(cases):
            return
        mine = cases.src[token.case] == self._me
        if outgoing:
            if mine and token.kind == Kind.PROBE:
                self.egress[token.case] += 1
                self._witness(token.case, left=True)
            return
        if token.kind != Kind.PROBE:
            if mine:
                self._answer(token.case, "reply-open" if token.kind == Kind.REPLY_OPEN else "reply-closed", header)
            return
        if self._info.mirror and self._passing(token.case, header, mine=mine):
            return
        if mine and cases.profile[token.case] == "published" and self._own(token.case, header):
            return  # published to its own zone: it comes home, and nobody answered
        if mine:
            said = headers.answer(packet, header)
            word = said[0] if said else "echo" if headers.echo_reply(packet, header) else "reflected"
            self._answer(token.case, word, header)
            return
        entry = self._arrivals.get((token.case, token.seq))
        if entry is None:
            self._arrivals[token.case, token.seq] = [at, 1, self._keep(token.case, packet, header, at)]
            self.arrived.append((token.case, token.seq))
        elif header.protocol != _NUMBERS["tcp"] or phase_of(token.seq):
            entry[1] += 1  # a connection (phase 0) repeats by itself what was not acknowledged: no replay

    def _beaconed(self, sender: int, reply: bool) -> bool:
        """Whether a beacon proves that this sensor hears: its own come back, or, where it has no address, another's.

        Of another agent of its zone the requests count: as many as were sent, wherever the replies go.
        """
        if not self._info.interface:
            return sender == self._me and reply
        agents = self._plan.agents
        return sender < len(agents) and agents[sender].zone == self._info.zone and not reply

    def _passing(self, case: int, header: Header, *, mine: bool) -> bool:
        """Whether a mirror port shows what is no arrival: a probe of our own, or one for what it does not cover."""
        if mine:
            return self._own(case, header)
        return not self._info.hears(headers.text(header.destination))

    def _own(self, case: int, header: Header) -> bool:
        """Whether a packet still says that it comes from this agent."""
        return header.source == headers.packed(self._plan.ends(case)[0])

    def _keep(self, case: int, packet: bytes, header: Header, at: int) -> int:
        """Keep the first packet of a case and shape (addresses, protocol, where the upper layer starts) as evidence."""
        shape = (case, header.protocol, header.start, header.source, header.destination)
        if shape not in self._shapes:
            if len(self._packets) >= _MAX_PACKETS:
                return -1
            self._shapes[shape] = len(self._packets)
            self._packets.append((case, at, packet[:_PACKET_HEAD].hex()))
        return self._shapes[shape]

    def _witness(self, case: int, *, left: bool) -> None:
        """Keep the first packet of a case and length that left, or that answered: the sender's end of the captures."""
        packet, at = self._heard
        if len(self._witnessed) < _MAX_WITNESSED:
            self._witnessed.setdefault((case, left, len(packet)), (case, at, left, packet[:_PACKET_HEAD].hex()))

    def _unmarked(self, packet: bytes) -> None:
        header = headers.parse(packet)
        if header is None:
            return
        if header.protocol == 58 and len(packet) >= header.start + 32 and packet[header.start] == 136:
            at = header.start
            # RFC 4861, 4.4: the target, then a target link-layer address option (type 2, 8 bytes).
            if packet[at + 24 : at + 26] == b"\x02\x01":
                self._neighbour(packet[at + 8 : at + 24], packet[at + 26 : at + 32], 6)
            return
        said = headers.answer(packet, header)
        if said is not None:
            word, probe = said
            case = self._mine.get((probe.protocol, probe.source, probe.destination, probe.sport, probe.dport))
            if case is not None:
                if word == "syn-ack":
                    self._accepting.add((header.source, header.sport))
                self._answer(case, word, header)
        elif header.protocol == _NUMBERS["udp"]:
            # A service between the ends that speaks for the far one: it says no token, but it answers the probe.
            key = (header.protocol, header.destination, header.source, header.dport, header.sport)
            if (case := self._mine.get(key)) is not None:
                self._answer(case, "answered", header)
        else:
            self._bare(packet, self._theirs)

    def _bare(self, packet: bytes, table: dict[tuple[int, bytes, bytes, int, int], int]) -> None:
        """A SYN without payload: known by its 5-tuple and its sequence number; ours left, or one of theirs hints."""
        header = headers.parse(packet)
        if header is None or header.protocol != 6 or len(packet) < header.start + 20:
            return
        case = table.get((6, header.source, header.destination, header.sport, header.dport))
        isn = int.from_bytes(packet[header.start + 4 : header.start + 8])
        if case is None and table is self._theirs:
            case = self._changed(header, isn)
        if case is None or packet[header.start + 13] & 0x17 != 2 or isn != self._tokens.hint(case):
            return
        if table is self._mine:
            self.egress[case] += 1
            self._witness(case, left=True)
        else:
            self._hints.add(case)

    def _changed(self, header: Header, isn: int) -> int | None:
        """The case of a bare SYN for this agent that bears other addresses than it left with, by its number."""
        cases, case = self._plan.cases, self._tokens.hinted(isn)
        if (
            case >= len(cases)
            or cases.dst[case] != self._me
            or transport(cases.profile[case], cases.protocol[case]) != "tcp"
        ):
            return None
        return case if header.sport == cases.sport[case] or header.dport == cases.dport[case] else None

    def _answer(self, case: int, word: str, header: Header) -> None:
        key = (case, word, header.source)
        if key not in self._answers and len(self._answers) > 4 * len(self.egress) + 1000:
            return
        self._witness(case, left=False)
        if word == "syn-ack" and key not in self._answers:
            self.accepted.append(case)
        self._answers[key] = self._answers.get(key, 0) + 1

    def _stranger(self, status: str, header: Header, at: int) -> None:
        self.strange_total += 1
        if len(self._strange.status) < _MAX_STRANGE:
            self._strange.status.append(status)
            self._strange.source.append(headers.text(header.source))
            self._strange.destination.append(headers.text(header.destination))
            self._strange.time.append(at)

    def arrivals(self) -> Arrivals:
        """Arrivals so far."""
        table = Arrivals()
        for (case, seq), (at, count, packet) in sorted(self._arrivals.items()):
            table.case.append(case)
            table.seq.append(seq)
            table.time.append(at)
            table.count.append(count)
            table.packet.append(packet)
        return table

    def answers(self) -> Answers:
        """Answers so far."""
        table = Answers()
        for (case, word, source), count in sorted(self._answers.items()):
            table.case.append(case)
            table.word.append(word)
            table.source.append(headers.text(source))
            table.count.append(count)
        return table

    def strange(self) -> Strange:
        """The first strangers."""
        return self._strange

    def hints(self) -> list[int]:
        """Cases whose bare SYN seems to have arrived."""
        return sorted(self._hints)

    def packets(self) -> list[tuple[int, int, str]]:
        """Packets kept as evidence: (case, nanoseconds, hex of the first bytes from layer 3 on)."""
        return self._packets

    def witnessed(self) -> list[tuple[int, int, bool, str]]:
        """The sender's end: (case, nanoseconds, whether it left, hex) of what left first and what answered first."""
        return list(self._witnessed.values())
