"""scapy's part at plan time: what it built becomes a template, which agents fill in. Never loaded by an agent."""

import ipaddress
import struct
from functools import cache
from typing import Any

from secguard.isolation.probes.packets import Template
from secguard.isolation.probes.recipes import DESTINATION, DPORT, ID, ISN, LABEL, MARK, SOURCE, SPORT, VIA, layers

__all__ = ["template"]

_ERRORS_4 = frozenset({3, 5, 11, 12})
_SIZES = ((4, 4), (6, 16))


def _all(data: bytes | bytearray, needle: bytes) -> tuple[int, ...]:
    found, at = [], data.find(needle)
    while at >= 0:
        found.append(at)
        at = data.find(needle, at + 1)
    return tuple(found)


def _places(data: bytes | bytearray, ends: dict[int, str]) -> list[tuple[int, int]]:
    return [(at, size) for version, size in _SIZES for at in _all(data, ipaddress.ip_address(ends[version]).packed)]


def _size(layer: Any, data: bytes | bytearray, at: int) -> int:
    """Bytes of one layer's own header; most tell it themselves, and scapy would have to build the rest once more."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6

    if isinstance(layer, IP):
        return (data[at] & 15) * 4
    if isinstance(layer, TCP):
        return (data[at + 12] >> 4) * 4
    if isinstance(layer, IPv6):
        return 40
    return 8 if isinstance(layer, UDP) else len(layer) - len(layer.payload)


def _sums(packet: Any, data: bytes | bytearray) -> list[tuple[int, int, int, int, int]]:
    """The checksums of a packet's layers, innermost first: an outer one may cover an inner one."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import IPv6, _ICMPv6
    from scapy.layers.sctp import SCTP

    sums: list[tuple[int, int, int, int, int]] = []
    at, source, layer, quoted, total = 0, 0, packet, False, len(data)
    while layer:
        size = _size(layer, data, at) if layer.payload else 0
        if isinstance(layer, IP):
            source = at + 12
            sums.append((at + 10, at, at + size, 0, 0))
        elif isinstance(layer, IPv6):
            source = at + 8
        elif quoted:
            pass  # nobody checks the sums of a packet that is quoted
        elif isinstance(layer, TCP):
            sums.append((at + 16, at, total, 6, source))
        elif isinstance(layer, UDP):
            sums.append((at + 6, at, total, 17, source))
        elif isinstance(layer, SCTP):
            sums.append((at + 8, at, total, 132, source))
        elif isinstance(layer, ICMP):
            sums.append((at + 2, at, total, 0, 0))
            quoted = int(layer.type) in _ERRORS_4
        elif isinstance(layer, _ICMPv6):
            sums.append((at + 2, at, total, 58, source))
        at += size
        layer = layer.payload
    return sums[::-1]


@cache
def template(kind: str, family: int) -> Template:
    """The template of a kind of packet for IPv4 or IPv6; built by scapy once a process (KeyError: no such kind)."""
    packet = layers(kind, family)
    data = bytearray(bytes(packet))
    # A source route ends where `via` stood: the filter of the last hop sees the header with its way behind it.
    via = tuple(_places(data, VIA))
    destinations = _places(data, DESTINATION)
    outer = (16, 4) if family == 4 else (24, 16)
    if outer in via:
        destinations.insert(0, outer)
    sums = _sums(packet, data)
    for where, _, _, protocol, _ in sums:
        size = 4 if protocol == 132 else 2
        data[where : where + size] = b"\0" * size
    return Template(
        bytes(data),
        tuple(_places(data, SOURCE)),
        tuple(destinations),
        data.find(struct.pack(">H", SPORT)),
        data.find(struct.pack(">H", DPORT)),
        data.find(struct.pack(">I", ISN)),
        _all(data, struct.pack(">H", ID)),
        data.find(MARK),
        tuple(sums),
        via,
        data.find(LABEL),
    )
