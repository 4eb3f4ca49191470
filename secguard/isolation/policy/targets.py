"""Targets of a zone: blocks that are swept besides the agents' own addresses, and the ports asked of each host."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec

__all__ = [
    "MAX_HOSTS",
    "Published",
    "Target",
    "check_published",
    "check_target",
    "merge_ports",
    "port_ranges",
    "within",
]

MAX_HOSTS = 1 << 24
"""Hosts of one target, after sampling: a whole IPv4 /8."""
_MAX_ITEMS = 4096
_MAX_PUBLISHED = 1024
_RANGE = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Item = int | Annotated[str, msgspec.Meta(max_length=11)]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A block of a zone that every other zone's agents sweep.

    Attributes:
        cidr: the block; it lies inside the zone's.
        tcp: ports, as numbers or ranges ("8000-8100").
        udp: the same.
        icmp: also send echo requests.
        sample: hosts to probe, chosen evenly over the block by the run's key; 0 probes each.
    """

    cidr: str
    tcp: Annotated[tuple[Item, ...], msgspec.Meta(max_length=_MAX_ITEMS)] = ()
    udp: Annotated[tuple[Item, ...], msgspec.Meta(max_length=_MAX_ITEMS)] = ()
    icmp: bool = False
    sample: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An address in a zone behind which another zone's host may stand: a firewall's own, or one that it translates.

    Attributes:
        address: inside the zone, and no agent's.
        tcp: ports probed besides the policy's, as numbers or ranges ("8000-8100").
        udp: the same.
        serves: ports on which the device itself answers: there an answer alone says nothing.
    """

    address: str
    tcp: Annotated[tuple[Item, ...], msgspec.Meta(max_length=_MAX_ITEMS)] = ()
    udp: Annotated[tuple[Item, ...], msgspec.Meta(max_length=_MAX_ITEMS)] = ()
    serves: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...], msgspec.Meta(max_length=256)] = ()


def merge_ports(pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges of ports (first, last), sorted, without overlap or gap."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(pairs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def port_ranges(items: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    """What `tcp` or `udp` names, as merged ranges.

    Raises:
        ValueError: not a port, or a range that runs backwards.
    """
    pairs = []
    for item in items:
        found = _RANGE.fullmatch(str(item))
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"not a port or a range of ports: {str(item)[:20]!r}")
        pairs.append((first, last))
    return merge_ports(pairs)


def within(network: Network, blocks: Iterable[str]) -> bool:
    """Whether a network lies inside one of the blocks."""
    same = [block for block in map(ipaddress.ip_network, blocks) if block.version == network.version]
    return any(network.subnet_of(block) for block in same)  # type: ignore[arg-type] # of one version, by the line above


def check_published(item: Published, taken: Iterable[str]) -> str:
    """What is wrong with a published address, in words, apart from its zone; `taken` are the agents' addresses."""
    try:
        address = ipaddress.ip_address(item.address)
        named = sum(last - first + 1 for ports in (item.tcp, item.udp) for first, last in port_ranges(ports))
    except ValueError as error:
        return str(error)[:160]
    if named > _MAX_PUBLISHED:
        return f"{item.address}: at most {_MAX_PUBLISHED} ports"
    return f"{item.address} is an agent's" if address in map(_address, taken) else ""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None  # said elsewhere


def check_target(target: Target, blocks: Iterable[str]) -> str:
    """What is wrong with a target of a zone that has these blocks, in words; empty if nothing is."""
    try:
        network = ipaddress.ip_network(target.cidr)
        port_ranges(target.tcp)
        port_ranges(target.udp)
    except ValueError as error:
        return str(error)[:160]
    if not within(network, blocks):
        return f"{target.cidr} is in no block of the zone"
    if not (target.tcp or target.udp or target.icmp):
        return f"{target.cidr}: name ports under tcp or udp, or icmp: true"
    if not target.sample and network.num_addresses > MAX_HOSTS:
        return f"{target.cidr} is too wide to probe each host: add sample: 4096"
    return ""
