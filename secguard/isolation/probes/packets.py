"""Packets without scapy: a template knows the offsets of what changes, and filling it in makes a finished packet.

Templates are built by scapy when a plan is compiled (`secguard.isolation.probes.templates`) and travel in it: an
agent needs no scapy. Everything here is layer 3 and above; `secguard.isolation.wire.wire` puts the link layer on.
"""

import struct
from collections.abc import Iterable
from functools import cache

import msgspec

from secguard.isolation.plan.tokens import SIZE, label
from secguard.isolation.probes.profiles import probe

__all__ = ["LABEL", "MAX_TEMPLATE", "Template", "checksum", "crc32c", "fill", "kinds", "parts"]

MAX_TEMPLATE = 1280
"""Bytes of a template: the smallest MTU of IPv6."""
LABEL = 45
"""Bytes of a payload in base32, a DNS label."""
_SCTP = 132


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A packet without its values.

    Attributes:
        data: the bytes, checksums zero.
        sources: offsets and lengths of source addresses, outer and inner.
        destinations: the same for destinations.
        sport: offset of the source port (or the ICMP identifier), -1 if none.
        dport: offset of the destination port, -1 if none.
        isn: offset of the TCP sequence number, -1 if none.
        idents: offsets of the (low half of the) IP identification, outer and inner.
        token: offset of the payload, -1 if none.
        sums: checksums to compute, in order: (where to write, start, stop, pseudo-header protocol or 0, source offset);
            for protocol 132 it is the CRC32c of SCTP.
        via: offsets and lengths that take the next hop's address, for source routes; checksums with a pseudo-header
            are computed over the final destination.
        label: offset of the payload as a DNS label in base32, -1 if none.
    """

    data: bytes
    sources: tuple[tuple[int, int], ...]
    destinations: tuple[tuple[int, int], ...]
    sport: int
    dport: int
    isn: int
    idents: tuple[int, ...]
    token: int
    sums: tuple[tuple[int, int, int, int, int], ...]
    via: tuple[tuple[int, int], ...] = ()
    label: int = -1

    def check(self, family: int) -> None:
        """Refuse what `fill` could not fill, or what would leave for elsewhere (ValueError)."""
        size = len(self.data)
        source = 12 if family == 4 else 8
        length = 4 if family == 4 else 16
        if not 20 <= size <= MAX_TEMPLATE or self.data[0] >> 4 != family:
            raise ValueError("a template is no packet of its family")
        # The outer addresses must be among what is filled in: no template carries a destination of its own.
        if (source, length) not in self.sources or (source + length, length) not in self.destinations:
            raise ValueError("a template with fixed addresses")
        ends = [at + count for at, count in (*self.sources, *self.destinations, *self.via)]
        ends += [at + 2 for at in (self.sport, self.dport, *self.idents)]
        ends += [self.isn + 4, *(at + size for at, size in ((self.token, SIZE), (self.label, LABEL)) if at >= 0)]
        ends += [stop for _, _, stop, _, _ in self.sums]
        ends += [at + (4 if protocol == _SCTP else 2) for at, _, _, protocol, _ in self.sums]
        starts = [at for at, _ in (*self.sources, *self.destinations, *self.via)] + list(self.idents)
        starts += [value for entry in self.sums for value in entry]
        known = {at for at, _ in self.sources}
        if max(ends) > size or min(starts) < 0 or any(p and at not in known for *_, p, at in self.sums):
            raise ValueError("a template whose offsets do not fit")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total) ^ 0xFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 - the register of the CRC
        table.append(value)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260 appendix A), as the number that is written little-endian."""
    table, register = _crc_table(), 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ table[(register ^ byte) & 0xFF]
    return register ^ 0xFFFFFFFF


@cache
def kinds(profile: str, protocol: str) -> tuple[str, ...]:
    """Every kind of packet that the attempts of a case send; empty if the table of probes has no such row."""
    row = probe(profile, protocol)
    return tuple(dict.fromkeys(kind for part in row.rounds for kind in part)) if row is not None else ()


@cache
def parts(profile: str, protocol: str, attempt: int) -> tuple[str, ...]:
    """The packets that attempt number `attempt` of a case sends."""
    row = probe(profile, protocol)
    # A SYN with data authenticates itself where it passes; firewalls that drop data on a SYN still see a bare one.
    return row.rounds[attempt % len(row.rounds)] if row is not None else ()


def fill(
    form: Template,
    ends: dict[int, tuple[bytes, bytes]],
    token: bytes,
    *,
    ports: tuple[int, int],
    isn: int = 0,
    ident: int = 0,
    via: bytes = b"",
    outer: bytes = b"",
) -> bytes:
    """A finished packet.

    Args:
        form: the template.
        ends: packed (source, destination) by address length, 4 and/or 16; a missing inner family stays as built.
        token: the payload.
        ports: source port (or ICMP identifier) and destination port.
        isn: TCP sequence number.
        ident: IP identification; fragments of one datagram share it.
        via: packed address of the next hop, where the template asks for it; else the destination stands there.
        outer: packed destination of the outermost header, where a tunnel ends elsewhere than what it carries.
    """
    data = bytearray(form.data)
    for at, size in form.sources:
        if size in ends:
            data[at : at + size] = ends[size][0]
    for at, size in form.destinations:
        if size in ends:
            data[at : at + size] = ends[size][1]
    if outer:
        at = 16 if len(outer) == 4 else 24
        data[at : at + len(outer)] = outer
    if form.sport >= 0:
        struct.pack_into(">H", data, form.sport, ports[0])
    if form.dport >= 0:
        struct.pack_into(">H", data, form.dport, ports[1])
    if form.isn >= 0:
        struct.pack_into(">I", data, form.isn, isn)
    for at in form.idents:
        struct.pack_into(">H", data, at, ident)
    if form.token >= 0:
        data[form.token : form.token + SIZE] = token
    if form.label >= 0:
        data[form.label : form.label + LABEL] = label(token)
    if not form.via:
        _sum(data, form, form.sums)
        return bytes(data)
    _sum(data, form, [entry for entry in form.sums if entry[3]])
    for at, size in form.via:
        data[at : at + size] = via if len(via) == size else ends[size][1]
    _sum(data, form, [entry for entry in form.sums if not entry[3]])
    return bytes(data)


def _sum(data: bytearray, form: Template, sums: Iterable[tuple[int, int, int, int, int]]) -> None:
    for where, start, stop, protocol, source in sums:
        part = bytes(data[start:stop])
        if protocol == _SCTP:
            struct.pack_into("<I", data, where, crc32c(part))
            continue
        if protocol:
            # The address length tells the pseudo-header (RFC 9293 3.1, RFC 8200 8.1); both sum to the same form.
            size = next(length for at, length in form.sources if at == source)
            part = bytes(data[source : source + 2 * size]) + struct.pack(">HH", protocol, stop - start) + part
        value = checksum(part)
        struct.pack_into(">H", data, where, value if value or protocol != 17 else 0xFFFF)
