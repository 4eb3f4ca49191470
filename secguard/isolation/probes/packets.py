"""Packets without scapy: a template knows the offsets of what changes, and filling it in makes a finished packet.

Templates are built by scapy when a plan is compiled (`secguard.isolation.probes.templates`) and travel in it: an
agent needs no scapy. Everything here is layer 3 and above; `secguard.isolation.wire.wire` puts the link layer on.
"""

import struct

import msgspec

from secguard.isolation.plan.tokens import SIZE

__all__ = ["MAX_TEMPLATE", "Template", "checksum", "fill", "kinds", "parts"]

MAX_TEMPLATE = 1280
"""Bytes of a template: the smallest MTU of IPv6."""


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
        token: offset of the payload, -1 for a bare TCP SYN.
        sums: checksums to compute, in order: (where to write, start, stop, pseudo-header protocol or 0, source offset).
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
        ends = [at + count for at, count in (*self.sources, *self.destinations)]
        ends += [at + 2 for at in (self.sport, self.dport, *self.idents)]
        ends += [self.isn + 4, self.token + SIZE if self.token >= 0 else 0]
        ends += [stop for _, _, stop, _, _ in self.sums] + [at + 2 for at, *_ in self.sums]
        starts = [at for at, _ in (*self.sources, *self.destinations)] + list(self.idents)
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


def kinds(profile: str, protocol: str) -> tuple[str, ...]:
    """The packets of one attempt, by kind; consecutive attempts of TCP alternate between the two."""
    if profile == "fragments":
        return ("fragment-1", "fragment-2")
    return {"tcp": ("syn-data", "syn"), "icmp": ("echo",)}.get(protocol, (protocol,))


def parts(profile: str, protocol: str, attempt: int) -> tuple[str, ...]:
    """The packets that attempt number `attempt` of a case sends."""
    every = kinds(profile, protocol)
    # A SYN with data authenticates itself where it passes; firewalls that drop data on a SYN still see a bare one.
    return (every[attempt % 2],) if protocol == "tcp" and profile != "fragments" else every


def fill(
    form: Template,
    ends: dict[int, tuple[bytes, bytes]],
    token: bytes,
    *,
    ports: tuple[int, int],
    isn: int = 0,
    ident: int = 0,
) -> bytes:
    """A finished packet.

    Args:
        form: the template.
        ends: packed (source, destination) by address length, 4 and/or 16; a missing inner family stays as built.
        token: the payload.
        ports: source port (or ICMP identifier) and destination port.
        isn: TCP sequence number.
        ident: IP identification; fragments of one datagram share it.
    """
    data = bytearray(form.data)
    for at, size in form.sources:
        if size in ends:
            data[at : at + size] = ends[size][0]
    for at, size in form.destinations:
        if size in ends:
            data[at : at + size] = ends[size][1]
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
    for where, start, stop, protocol, source in form.sums:
        part = bytes(data[start:stop])
        if protocol:
            # The address length tells the pseudo-header (RFC 9293 3.1, RFC 8200 8.1); both sum to the same form.
            size = next(length for at, length in form.sources if at == source)
            part = bytes(data[source : source + 2 * size]) + struct.pack(">HH", protocol, stop - start) + part
        value = checksum(part)
        struct.pack_into(">H", data, where, value if value or protocol != 17 else 0xFFFF)
    return bytes(data)
