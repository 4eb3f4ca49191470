"""scapy's part: it builds the template of each kind of probe, and takes the hits apart. Never loaded by an agent."""

import ipaddress
import struct
from functools import cache
from typing import Any

from secguard.isolation.plan.tokens import MAGIC, SIZE
from secguard.isolation.probes.packets import Template

__all__ = ["dissect", "template"]

# Values that stand for what changes: found again in the built packet, they tell its offsets.
_SPORT, _DPORT, _ISN, _ID = 0xA1B2, 0xC3D4, 0xA5B6C7D8, 0xE5F6
_SOURCE = {4: "198.18.0.1", 6: "2001:2::a1"}
_DESTINATION = {4: "198.19.255.254", 6: "2001:2:0:ffff::b2"}
_MARK = MAGIC + b"\xee" * (SIZE - len(MAGIC))
_FRAGMENT = 40  # bytes of the first fragment's payload; a multiple of 8 that holds header and token


def _all(data: bytes | bytearray, needle: bytes) -> tuple[int, ...]:
    found, at = [], data.find(needle)
    while at >= 0:
        found.append(at)
        at = data.find(needle, at + 1)
    return tuple(found)


def _layers(kind: str, family: int) -> Any:
    from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
    from scapy.packet import Raw

    def network(version: int = family, **values: Any) -> Any:
        ends = {"src": _SOURCE[version], "dst": _DESTINATION[version]}
        return IP(**ends, ttl=64, id=_ID, **values) if version == 4 else IPv6(**ends, hlim=64, **values)

    udp = UDP(sport=_SPORT, dport=_DPORT) / Raw(_MARK)
    if kind in {"fragment-1", "fragment-2"}:
        first = kind == "fragment-1"
        # The length says both fragments; the first holds header and token, the second a token of its own.
        head = bytes(UDP(sport=_SPORT, dport=_DPORT, len=2 * _FRAGMENT, chksum=0) / Raw(_MARK))
        body = Raw((head if first else _MARK).ljust(_FRAGMENT, b"\0"))
        offset = 0 if first else _FRAGMENT // 8
        if family == 4:
            return network(proto=17, flags="MF" if first else 0, frag=offset) / body
        return network() / IPv6ExtHdrFragment(nh=17, offset=offset, m=int(first), id=_ID) / body
    if kind in {"syn", "syn-data"}:
        tcp = TCP(sport=_SPORT, dport=_DPORT, seq=_ISN, flags="S", window=64240, options=[("MSS", 1400)])
        return network() / tcp / Raw(_MARK) if kind == "syn-data" else network() / tcp
    if kind == "echo":
        echo = (
            ICMP(type=8, id=_SPORT, seq=1) / Raw(_MARK)
            if family == 4
            else ICMPv6EchoRequest(id=_SPORT, seq=1, data=_MARK)
        )
        return network() / echo
    return {
        "udp": lambda: network() / udp,
        "gre": lambda: network() / GRE() / network() / udp,
        "ipip": lambda: network(proto=4) / network() / udp,
        "6in4": lambda: network(proto=41) / network(6) / udp,
        "ip6ip6": lambda: network(nh=41) / network() / udp,
    }[kind]()


@cache
def template(kind: str, family: int) -> Template:
    """The template of a kind of packet for IPv4 or IPv6; built by scapy once a process."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

    packet = _layers(kind, family)
    data = bytearray(bytes(packet))
    sources: list[tuple[int, int]] = []
    destinations: list[tuple[int, int]] = []
    for version, size in ((4, 4), (6, 16)):
        sources += [(at, size) for at in _all(data, ipaddress.ip_address(_SOURCE[version]).packed)]
        destinations += [(at, size) for at in _all(data, ipaddress.ip_address(_DESTINATION[version]).packed)]
    sums: list[tuple[int, int, int, int, int]] = []
    at, source, layer = 0, 0, packet
    while layer:
        size = len(layer) - len(layer.payload)
        if isinstance(layer, IP):
            source = at + 12
            sums.append((at + 10, at, at + size, 0, 0))
        elif isinstance(layer, IPv6):
            source = at + 8
        elif isinstance(layer, TCP):
            sums.append((at + 16, at, len(data), 6, source))
        elif isinstance(layer, UDP):
            sums.append((at + 6, at, len(data), 17, source))
        elif isinstance(layer, ICMP):
            sums.append((at + 2, at, len(data), 0, 0))
        elif isinstance(layer, ICMPv6EchoRequest):
            sums.append((at + 2, at, len(data), 58, source))
        at += size
        layer = layer.payload
    for where, *_ in sums:
        data[where : where + 2] = b"\0\0"
    # Inner sums first: an outer header's sum never covers an inner packet, but ICMP covers its payload.
    return Template(
        bytes(data),
        tuple(sources),
        tuple(destinations),
        data.find(struct.pack(">H", _SPORT)),
        data.find(struct.pack(">H", _DPORT)),
        data.find(struct.pack(">I", _ISN)),
        _all(data, struct.pack(">H", _ID)),
        data.find(_MARK),
        tuple(reversed(sums)),
    )


_NAMES = {"GRE": "gre", "VXLAN": "vxlan", "ESP": "esp", "IPv6ExtHdrFragment": "fragment"}


def dissect(packet: bytes) -> tuple[str, str, str]:
    """Take an arrived layer-3 packet apart with scapy.

    Returns:
        How it was carried (`plain`, `fragment`, `gre`, `ipip`, `6in4`, ..., `malformed`) and its outer addresses.
    """
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    try:
        version = packet[0] >> 4
        layer = IP(packet) if version == 4 else IPv6(packet)
        source, destination = str(layer.src), str(layer.dst)
        names: list[str] = []
        fragmented = False
        depth = 0
        while layer and depth < 16:
            names.append(type(layer).__name__)
            if isinstance(layer, IP) and (layer.frag or int(layer.flags) & 1):
                fragmented = True
            layer = layer.payload
            depth += 1
    except Exception:  # noqa: BLE001 - bytes from outside; whatever scapy trips over is malformed, not ours to crash on
        return "malformed", "", ""
    if fragmented or "IPv6ExtHdrFragment" in names:
        return "fragment", source, destination
    for name in names[1:]:
        if name in {"GRE", "VXLAN", "ESP"}:
            return _NAMES[name], source, destination
        if name in {"IP", "IPv6"}:
            return _inner(names[0], name), source, destination
        if name.startswith(("IPerror", "IPerror6")):
            return "quote", source, destination
    return "plain", source, destination


def _inner(outer: str, inner: str) -> str:
    return {("IP", "IP"): "ipip", ("IP", "IPv6"): "6in4", ("IPv6", "IPv6"): "ip6ip6"}.get((outer, inner), "4in6")
