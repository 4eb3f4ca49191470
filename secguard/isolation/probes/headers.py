"""Just enough of the headers to match an answer to its case, without scapy, at the sensor's pace."""

import ipaddress
import struct
from dataclasses import dataclass

__all__ = ["Header", "answer", "echo_reply", "error_word", "packed", "parse", "text"]

_V4_PROHIBITED = frozenset({9, 10, 13})
_V6_PROHIBITED = frozenset({1, 5, 6})
_EXTENSIONS = frozenset({0, 43, 60})


@dataclass(frozen=True, slots=True)
class Header:
    """A layer-3 header: family, upper protocol, packed addresses, where the upper layer starts, its ports if any."""

    family: int
    protocol: int
    source: bytes
    destination: bytes
    start: int
    sport: int = 0
    dport: int = 0


def packed(address: str) -> bytes:
    """An address as bytes."""
    return ipaddress.ip_address(address).packed


def text(address: bytes) -> str:
    """An address as text."""
    return str(ipaddress.ip_address(address))


def parse(packet: bytes) -> Header | None:
    """Read the outer header of a layer-3 packet; None for anything else, or if it is cut off."""
    if len(packet) < 20:
        return None
    version = packet[0] >> 4
    if version == 4:
        start = (packet[0] & 15) * 4
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
        if start < 20 or int.from_bytes(packet[6:8]) & 0x1FFF:
            return Header(4, 255, source, destination, start)
    elif version == 6 and len(packet) >= 40:
        protocol, start, source, destination = packet[6], 40, packet[8:24], packet[24:40]
        for _ in range(8):
            if protocol not in _EXTENSIONS or len(packet) < start + 8:
                break
            protocol, start = packet[start], start + 8 + packet[start + 1] * 8
    else:
        return None
    if protocol in {6, 17} and len(packet) >= start + 4:
        sport, dport = struct.unpack_from(">HH", packet, start)
        return Header(version, protocol, source, destination, start, sport, dport)
    return Header(version, protocol, source, destination, start)


def echo_reply(packet: bytes, header: Header) -> bool:
    """Whether the packet is an ICMP or ICMPv6 echo reply."""
    kind = packet[header.start] if len(packet) > header.start else -1
    return (header.protocol, kind) in {(1, 0), (58, 129)}


def error_word(family: int, kind: int, code: int) -> str:
    """What an ICMP (RFC 792) or ICMPv6 (RFC 4443) error says, in a word of `answer`; empty if it is no error."""
    if family == 4 and kind in {3, 11, 12}:
        if kind == 3 and code in _V4_PROHIBITED:
            return "prohibited"
        return "port-unreachable" if (kind, code) == (3, 3) else "unreachable"
    if family == 6 and kind in {1, 2, 3, 4}:
        if kind == 1 and code in _V6_PROHIBITED:
            return "prohibited"
        return "port-unreachable" if (kind, code) == (1, 4) else "unreachable"
    return ""


def answer(packet: bytes, header: Header) -> tuple[str, Header] | None:
    """What an answer says and the header of the probe that it answers, as the probe was sent; None if it is none.

    The words: `syn-ack`, `rst`, `port-unreachable`, `prohibited`, `unreachable`.
    """
    start = header.start
    if header.protocol == 6 and len(packet) >= start + 14:
        flags = packet[start + 13]
        word = "rst" if flags & 4 else "syn-ack" if flags & 0x12 == 0x12 else ""
        if not word:
            return None
        back = Header(header.family, 6, header.destination, header.source, 0, header.dport, header.sport)
        return word, back
    if len(packet) < start + 8 + 20:
        return None
    word = error_word(header.family, packet[start], packet[start + 1]) if header.protocol in {1, 58} else ""
    if not word:
        return None
    quoted = parse(packet[start + 8 :])
    return (word, quoted) if quoted is not None else None
