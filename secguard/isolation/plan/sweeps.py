"""Sweeps: whole address blocks times ports from one agent, kept as ranges and never as one row a probe.

Probe number `host * ports + port` of a sweep is case `start + number` of the plan: the cases of the table come first,
so a token's 32-bit case number names either. All probes of a sweep share a source port that no case has and no sweep
probes: with host and port different inside, no two 5-tuples of a run are alike, in either direction.

A sample takes one host out of each of `sample` equal parts of the block, chosen by the run's key: evenly spread, known
to who holds the plan, and to nobody else.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "KINDS",
    "MAX_PROBES",
    "MAX_RANGES",
    "MAX_SWEEPS",
    "Piece",
    "Sender",
    "Sweep",
    "check_sweeps",
    "estimate",
    "rounds",
]

MAX_PROBES = 1 << 26
"""Probes of all sweeps of a plan: a /16 by a thousand ports."""
MAX_SWEEPS = 10_000
MAX_RANGES = 4096
"""Ranges of addresses, or of ports, of one sweep."""
_ROUND_SECONDS = 5
_PAUSE = 0.5
_ROUND = (512, 65_536)

KINDS: Mapping[str, tuple[str, ...]] = {"tcp": ("syn-data", "syn"), "udp": ("udp",), "icmp": ("echo",)}
"""Kinds of packets by protocol; consecutive attempts take turns, as in the case table."""


class Sender(Protocol):
    """What a sweep asks of an agent (`secguard.isolation.plan.plan.AgentInfo`)."""

    @property
    def name(self) -> str:
        """Its name in the policy."""

    @property
    def zone(self) -> str:
        """Where it stands."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses."""

    def address(self, family: int) -> str:
        """Its address of family 4 or 6; empty if it has none."""


class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hosts times ports, from one agent.

    Attributes:
        start: case number of its first probe.
        protocol: `tcp`, `udp` or `icmp` (which has the one port 0).
        family: 4 or 6.
        src: position of the sending agent in the plan's agents.
        zone: where the hosts are.
        cidr: the target as the policy names it.
        ranges: (first, last) addresses, ascending, without what is excluded.
        sample: hosts to take out of them; 0 takes all.
        ports: (first, last), ascending.
        sport: source port, or ICMP identifier.
        hearing: agents whose sensor covers the hosts; none: one-sided, silence proves nothing.
    """

    start: int
    protocol: Literal["tcp", "udp", "icmp"]
    family: Literal[4, 6]
    src: int
    zone: str
    cidr: str
    ranges: tuple[tuple[str, str], ...]
    ports: tuple[tuple[int, int], ...]
    sport: int
    sample: int = 0
    hearing: tuple[int, ...] = ()

    def spans(self) -> list[tuple[int, int]]:
        """The ranges as numbers: (first address, how many)."""
        pairs = [(int(ipaddress.ip_address(a)), int(ipaddress.ip_address(b))) for a, b in self.ranges]
        return [(first, last - first + 1) for first, last in pairs]

    @property
    def population(self) -> int:
        """Hosts in the ranges."""
        return sum(count for _, count in self.spans())

    @property
    def hosts(self) -> int:
        """Hosts probed."""
        return min(self.sample, self.population) if self.sample else self.population

    @property
    def width(self) -> int:
        """Ports probed of each host."""
        return sum(last - first + 1 for first, last in self.ports)

    @property
    def size(self) -> int:
        """Probes: hosts times ports."""
        return self.hosts * self.width

    def port_column(self) -> "NDArray[np.uint16]":
        """The ports, ascending."""
        import numpy as np

        return np.concatenate([np.arange(first, last + 1, dtype=np.uint16) for first, last in self.ports])

    def addresses(self, secret: bytes, run: bytes) -> "NDArray[np.uint8]":
        """The hosts probed, ascending: one packed address a row."""
        import numpy as np

        size = 4 if self.family == 4 else 16
        spans = self.spans()
        if not self.sample or self.sample >= self.population:
            rows = np.empty((self.population, size), np.uint8)
            at = 0
            for begin, count in spans:
                first, end = begin, begin + count
                while first < end:  # the low 32 bits count; where they overflow, the rest changes
                    step = min(end - first, (1 << 32) - (first & 0xFFFFFFFF))
                    low = np.arange(step, dtype=np.uint64) + np.uint64(first & 0xFFFFFFFF)
                    rows[at : at + step] = np.frombuffer(first.to_bytes(size), np.uint8)
                    rows[at : at + step, -4:] = low.astype(">u4").view(np.uint8).reshape(-1, 4)
                    at += step
                    first += step
            return rows
        picked = b"".join(value.to_bytes(size) for value in _sample(spans, self.sample, _stream(secret, run, self)))
        return np.frombuffer(picked, np.uint8).reshape(-1, size)


def _stream(secret: bytes, run: bytes, sweep: Sweep) -> bytes:
    """16 bytes of key stream a sampled host."""
    key = HKDF(hashes.SHA256(), 16, run, b"secguard isolation sample v1 " + sweep.cidr.encode()).derive(secret)
    # A counter stream under a key of its own, the same for each sweep of a target: its ports meet the same hosts.
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(16 * sweep.sample))


def _sample(spans: Sequence[tuple[int, int]], wanted: int, stream: bytes) -> Iterable[int]:
    """One address out of each of `wanted` equal parts of the spans, ascending."""
    total = sum(count for _, count in spans)
    left = list(spans)
    passed = 0
    for part in range(wanted):
        begin, end = total * part // wanted, total * (part + 1) // wanted
        at = begin + int.from_bytes(stream[16 * part : 16 * part + 16]) % (end - begin)
        while at - passed >= left[0][1]:
            passed += left.pop(0)[1]
        yield left[0][0] + at - passed


class Piece(msgspec.Struct, frozen=True):
    """Consecutive probes of a sweep that are sent in one round: `first` to `last` (exclusive) of its numbers."""

    sweep: int
    first: int
    last: int


def rounds(sweeps: Sequence[Sweep], attempts: int, rate: int) -> list[dict[int, list[Piece]]]:
    """The rounds of a run: what each agent sends in each, by agent.

    A round is what is journalled, resumed and proven healthy as a whole: about five seconds of sending.
    """
    low, high = _ROUND
    size = max(low, min(high, rate * _ROUND_SECONDS // attempts))
    queues: dict[int, list[list[Piece]]] = {}
    room: dict[int, int] = {}
    for index, sweep in enumerate(sweeps):
        queue = queues.setdefault(sweep.src, [])
        at, total = 0, sweep.size
        while at < total:
            if not room.get(sweep.src):
                queue.append([])
                room[sweep.src] = size
            step = min(room[sweep.src], total - at)
            queue[-1].append(Piece(index, at, at + step))
            room[sweep.src] -= step
            at += step
    count = max(map(len, queues.values()), default=0)
    return [{agent: queue[number] for agent, queue in queues.items() if number < len(queue)} for number in range(count)]


def estimate(sweeps: Sequence[Sweep], attempts: int, rate: int) -> float:
    """Seconds that the rounds of a plan take: the slowest agent's sending, and a pause after each round."""
    each: dict[int, int] = {}
    for sweep in sweeps:
        each[sweep.src] = each.get(sweep.src, 0) + sweep.size
    return max(each.values(), default=0) * attempts / rate + _PAUSE * len(rounds(sweeps, attempts, rate))


def _overlap(cidr: str, family: int, first: int, last: int) -> bool:
    network = ipaddress.ip_network(cidr)
    return (
        network.version == family and int(network.network_address) <= last and first <= int(network.broadcast_address)
    )


def _holds(cidr: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    block = ipaddress.ip_network(cidr)
    return block.version == network.version and network.subnet_of(block)  # type: ignore[arg-type] # of one version


def check_sweeps(
    sweeps: Sequence[Sweep],
    cases: int,
    agents: Sequence[Sender],
    templates: Iterable[str],
    bounds: tuple[Mapping[str, Sequence[str]], Sequence[str]],
) -> None:
    """Refuse sweeps that do not fit their plan (ValueError): what comes from outside is bounded before it is used.

    Args:
        sweeps: the plan's.
        cases: rows of its case table.
        agents: its agents.
        templates: names of its templates.
        bounds: blocks of each zone, and what is excluded: no probe may leave them.
    """
    known, start, total = set(templates), cases, 0
    zones, exclude = bounds
    if len(sweeps) > MAX_SWEEPS:
        raise ValueError("too many sweeps")
    for number, sweep in enumerate(sweeps):
        what = f"sweep {number}"
        if not 0 <= sweep.src < len(agents) or any(not 0 <= end < len(agents) for end in sweep.hearing):
            raise ValueError(f"{what} names no agent")
        if not agents[sweep.src].address(sweep.family):
            raise ValueError(f"{what} has no source address")
        if not 1 <= len(sweep.ranges) <= MAX_RANGES or not 1 <= len(sweep.ports) <= MAX_RANGES:
            raise ValueError(f"{what} has no ranges, or too many")
        network, after = ipaddress.ip_network(sweep.cidr), -1
        for pair in sweep.ranges:
            first, last = (ipaddress.ip_address(text) for text in pair)
            if not (first.version == last.version == network.version == sweep.family):
                raise ValueError(f"{what} mixes address families")
            if first not in network or last not in network or not after < int(first) <= int(last):
                raise ValueError(f"{what} has ranges that do not fit")
            after = int(last)
            if any(_overlap(text, sweep.family, int(first), after) for text in exclude):
                raise ValueError(f"{what} reaches what is excluded")
        if not any(_holds(text, network) for text in zones.get(sweep.zone, ())):
            raise ValueError(f"{what} is outside its zone")
        ends = (sweep.protocol != "icmp", 65535 if sweep.protocol != "icmp" else 0)
        after = -1
        for low, high in sweep.ports:
            if not (after < low <= high and ends[0] <= low and high <= ends[1]):
                raise ValueError(f"{what} has ports that do not fit")
            after = high
        if not 1 <= sweep.sport <= 65535 or not 0 <= sweep.sample <= 1 << 16:
            raise ValueError(f"{what} has no source port, or a sample out of range")
        if any(f"{kind}/{sweep.family}" not in known for kind in KINDS[sweep.protocol]):
            raise ValueError(f"{what} has no template")
        if sweep.start != start:
            raise ValueError(f"{what} is numbered wrongly")
        start += sweep.size
        total += sweep.size
        if total > MAX_PROBES:
            raise ValueError("too many probes")
