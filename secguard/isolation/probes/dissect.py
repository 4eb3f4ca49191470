"""How an arrived packet carried its token: scapy takes apart what is not plain to see. Never loaded by an agent."""

from typing import Any

from secguard.isolation.plan.tokens import MAGIC
from secguard.isolation.probes.headers import Header, parse, text

__all__ = ["TUNNELS", "dissect"]

TUNNELS = frozenset(
    {"gre", "ipip", "6in4", "4in6", "ip6ip6", "esp", "ah", "l2tpv3", "vxlan", "geneve", "gre-udp", "l2tp", "esp-udp",
     "gtp", "udp-tunnel"}
)  # fmt: skip
"""Carriers that are tunnels."""

_IP = {4: "ipip", 41: "6in4", 47: "gre", 50: "esp", 51: "ah", 115: "l2tpv3"}
_IP6 = {4: "4in6", 41: "ip6ip6", 47: "gre", 50: "esp", 51: "ah", 115: "l2tpv3"}
_PORTS = {4789: "vxlan", 8472: "vxlan", 6081: "geneve", 4754: "gre-udp", 1701: "l2tp", 4500: "esp-udp", 2152: "gtp"}
_MAX_DEPTH = 16


def dissect(packet: bytes) -> tuple[str, str, str]:
    """Take an arrived layer-3 packet apart with scapy.

    Returns:
        How it was carried (`plain`, `fragment`, one of `TUNNELS`, `quote` in an ICMP error, `label` in a DNS name,
        `malformed`) and its outer addresses.
    """
    header = parse(packet)
    if header is not None and _bare(packet, header):
        return "plain", text(header.source), text(header.destination)
    from scapy.layers.inet import ICMP, IP, UDP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, _ICMPv6Error

    try:
        layer: Any = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
        source, destination = str(layer.src), str(layer.dst)
        found = ""
        depth = 0
        while layer and depth < _MAX_DEPTH and not found:
            if isinstance(layer, IPv6ExtHdrFragment) or (
                isinstance(layer, IP) and (layer.frag or int(layer.flags) & 1)
            ):
                found = "fragment"
            elif isinstance(layer, ICMP | _ICMPv6Error):
                error = isinstance(layer, _ICMPv6Error) or int(layer.type) in {3, 4, 5, 11, 12}
                found = "quote" if error else "plain"
            elif isinstance(layer, UDP):
                found = _datagram(layer)
            else:
                number = layer.fields.get("proto", layer.fields.get("nh"))
                if isinstance(number, int) and not isinstance(layer, UDP):
                    found = (_IP if isinstance(layer, IP) else _IP6).get(number, "")
            layer = layer.payload
            depth += 1
    except Exception:  # noqa: BLE001 - bytes from outside; whatever scapy trips over is malformed, not ours to crash on
        return "malformed", "", ""
    return found or "plain", source, destination


def _bare(packet: bytes, header: Header) -> bool:
    """Whether a whole packet of TCP or UDP holds the token and nothing before it: most do, and scapy takes its time."""
    if header.family == 4 and int.from_bytes(packet[6:8]) & 0x3FFF:
        return False
    size = 8 if header.protocol == 17 else (packet[header.start + 12 : header.start + 13] or b"\0")[0] >> 4 << 2
    return header.protocol in {6, 17} and packet[header.start + size :].startswith(MAGIC)


def _datagram(udp: Any) -> str:
    """What a UDP datagram carries the token in."""
    payload = bytes(udp.original)[8:]
    if MAGIC not in payload:
        return "label"
    if payload.startswith(MAGIC):
        return "plain"
    return next((_PORTS[port] for port in (udp.dport, udp.sport) if port in _PORTS), "plain")
