"""Targets of a zone: blocks that are swept besides the agents' own addresses, and the ports asked of each host."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec

__all__ = ["MAX_HOSTS", "Target", "check_target", "merge_ports", "port_ranges", "within"]

MAX_HOSTS = 1 << 24
"""Hosts of one target, after sampling: a whole IPv4 /8."""
_MAX_ITEMS = 4096
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
