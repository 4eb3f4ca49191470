"""The table of probes: what each sends, whether it may harm a host, and what a hit means. docs/probes.md shows it.

Pure data without scapy: policy, compiler, agents and judge all read this one table. A case names a row by its columns
`profile` and `protocol`.
"""

from collections.abc import Iterable
from functools import cache
from typing import Literal

import msgspec

__all__ = ["PROBES", "PROFILES", "Probe", "probe", "profile_hazard", "transport"]

Hazard = Literal["safe", "hostile"]
"""`safe`: every host has to cope with it. `hostile`: known to crash or to reconfigure hosts with poor stacks."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    Attributes:
        profile: the group it belongs to; a policy chooses groups.
        name: its name within the group, the case's `protocol`.
        hazard: safe or hostile.
        rounds: kinds of packets that an attempt sends; attempt n uses round n modulo their number.
        transport: `tcp`, `udp` or `sctp` where ports matter to a filter, else empty.
        port: the destination port that belongs to it; 0: a port that the policy denies.
        leak: the finding of a hit, `isolation.leak.<leak>`; empty: by what was answered (open, closed, one-way).
        families: 4, 6 or both.
        sends: what is sent, in words.
        hit: what its arrival means.
    """

    profile: str
    name: str
    hazard: Hazard = "safe"
    rounds: tuple[tuple[str, ...], ...]
    transport: str = ""
    port: int = 0
    leak: str = ""
    families: tuple[int, ...] = (4, 6)
    sends: str
    hit: str


def _one(*kinds: str) -> tuple[tuple[str, ...], ...]:
    return (kinds,)


def _l4() -> Iterable[Probe]:
    ports = "the service is reached; with RST or port unreachable the host is, though nothing listens; silent: one way"
    yield Probe(
        profile="l4", name="tcp", transport="tcp", rounds=(("syn-data",), ("syn",)),
        sends="SYN, in turn with and without the token as data; after a SYN-ACK a handshake, then the token bare, in an"
        " HTTP CONNECT and in a SIP request",
        hit=f"{ports}; data after the handshake: a relay",
    )  # fmt: skip
    yield Probe(profile="l4", name="udp", transport="udp", rounds=_one("udp"), sends="a datagram", hit=ports)
    trust = "the filter accepts by source port"
    for name, kinds in (("tcp", (("syn-data",), ("syn",))), ("udp", _one("udp"))):
        sends = f"{name.upper()} from a trusted source port: 20, 53, 123, ..., the destination's, those of services"
        yield Probe(
            profile="source-port", name=name, transport=name, rounds=kinds, leak="source-port", sends=sends, hit=trust
        )
    yield Probe(
        profile="source-port", name="tcp-ack", transport="tcp", rounds=_one("tcp-ack"), leak="source-port",
        sends="an ACK with the token from the port of a service that may be reached the other way round",
        hit="answers are let in by port and flag, without state",
    )  # fmt: skip


def _tcp_flags() -> Iterable[Probe]:
    for name, flags in (
        ("tcp-fin", "FIN"),
        ("tcp-null", "no flag"),
        ("tcp-xmas", "FIN, PSH, URG"),
        ("tcp-ack", "ACK"),
        ("tcp-data", "PSH, ACK and no SYN before"),
        ("tcp-synfin", "SYN, FIN"),
        ("tcp-rst", "RST"),
    ):
        yield Probe(
            profile="tcp-flags", name=name, transport="tcp", rounds=_one(name), leak="tcp-flags",
            sends=f"a TCP segment with {flags} and the token as data",
            hit="the filter looks at SYN only, or believes in connections that do not exist",
        )  # fmt: skip


def _icmp() -> Iterable[Probe]:
    yield Probe(
        profile="icmp", name="icmp", rounds=_one("echo"), leak="icmp",
        sends="echo request with the token as payload", hit="echo payloads carry data",
    )  # fmt: skip
    rows: tuple[tuple[str, Hazard, tuple[int, ...], str], ...] = (
        ("icmp-echo-reply", "safe", (4, 6), "an echo reply that nobody asked for"),
        ("icmp-timestamp", "safe", (4,), "timestamp request (13)"),
        ("icmp-information", "safe", (4,), "information request (15)"),
        ("icmp-mask", "safe", (4,), "address mask request (17)"),
        ("icmp-experimental", "safe", (4, 6), "experimental type (253; ICMPv6 200)"),
        ("icmp-node", "safe", (6,), "ICMPv6 node information query (139)"),
        ("icmp-solicitation", "safe", (4, 6), "router solicitation (10; ICMPv6 133)"),
        ("icmp-router", "hostile", (4, 6), "router advertisement (9; ICMPv6 134)"),
        ("icmp-redirect", "hostile", (4, 6), "redirect (5; ICMPv6 137)"),
    )
    for name, hazard, families, sends in rows:
        yield Probe(
            profile="icmp-types", name=name, hazard=hazard, families=families, rounds=_one(name), leak="icmp-type",
            sends=f"{sends} with the token", hit="the filter lets ICMP pass by more than the errors it needs",
        )  # fmt: skip
    errors: tuple[tuple[str, Hazard, str], ...] = (
        ("icmp-unreachable", "safe", "port unreachable"),
        ("icmp-exceeded", "safe", "time exceeded"),
        ("icmp-parameter", "safe", "parameter problem"),
        ("icmp-too-big", "hostile", "packet too big (fragmentation needed)"),
    )
    for name, hazard, sends in errors:
        yield Probe(
            profile="icmp-errors", name=name, hazard=hazard, rounds=_one(name), leak="icmp-error",
            sends=f"{sends} that quotes a packet which never was, with the token",
            hit="ICMP errors pass without a connection they belong to; quotes carry data",
        )  # fmt: skip


def _protocols() -> Iterable[Probe]:
    yield Probe(
        profile="sctp", name="sctp", transport="sctp", rounds=_one("sctp"), leak="sctp",
        sends="SCTP INIT with the token as an unknown parameter", hit="SCTP passes, which filters forget",
    )  # fmt: skip
    for name, number, families in (
        ("ip-igmp", "2, IGMP", (4,)),
        ("ip-rsvp", "46, RSVP", (4, 6)),
        ("ip-eigrp", "88, EIGRP", (4, 6)),
        ("ip-ospf", "89, OSPF", (4, 6)),
        ("ip-pim", "103, PIM", (4, 6)),
        ("ip-vrrp", "112, VRRP", (4, 6)),
        ("ip-dccp", "33, DCCP", (4, 6)),
        ("ip-udplite", "136, UDP-Lite", (4, 6)),
        ("ip-experimental", "253, experimental", (4, 6)),
    ):
        yield Probe(
            profile="ip-protocols", name=name, families=families, rounds=_one(name), leak="ip-protocol",
            sends=f"the token right after the IP header, protocol {number}",
            hit="the filter knows TCP, UDP and ICMP only",
        )  # fmt: skip


def _fragments() -> Iterable[Probe]:
    evasion = "fragments pass unseen: the filter does not reassemble"
    rows: tuple[tuple[str, str, Hazard, tuple[int, ...], tuple[str, ...], str], ...] = (
        ("udp", "udp", "safe", (4, 6), ("fragment-1", "fragment-2"), "a datagram in two fragments"),
        ("frag-order", "udp", "safe", (4, 6), ("fragment-2", "fragment-1"), "the last fragment first"),
        ("frag-tiny", "tcp", "safe", (4, 6), ("tiny-1", "tiny-2"), "TCP whose flags stand in the second fragment"),
        (
            "frag-overlap", "udp", "hostile", (4, 6), ("fragment-1", "overlap-2"),
            "a second fragment that overwrites the ports of the first",
        ),
        ("frag-atomic", "udp", "safe", (6,), ("atomic",), "a fragment header on a whole datagram"),
        (
            "frag-large", "udp", "safe", (4, 6), ("large-1", "large-2", "large-3"),
            "a datagram larger than the MTU, fragmented by size",
        ),
    )  # fmt: skip
    for name, carried, hazard, families, kinds, sends in rows:
        yield Probe(
            profile="fragments", name=name, transport=carried, hazard=hazard, families=families, rounds=_one(*kinds),
            leak="fragment", sends=sends, hit=evasion,
        )  # fmt: skip


def _headers() -> Iterable[Probe]:
    options = "options get a packet around the filter, or around its fast path"
    routing = "the sender chooses the way, around the boundary or back out of it"
    for name, sends in (
        ("opt-record-route", "UDP with the option record route"),
        ("opt-timestamp", "UDP with the option timestamp"),
        ("opt-router-alert", "UDP with the option router alert"),
        ("opt-security", "UDP with the option basic security"),
        ("opt-unknown", "UDP with an option that does not exist"),
    ):
        yield Probe(
            profile="ip-options", name=name, transport="udp", hazard="hostile", families=(4,), rounds=_one(name),
            leak="ip-option", sends=sends, hit=options,
        )  # fmt: skip
    for name, rounds, sends in (
        ("opt-lsrr", (("lsrr-via",), ("lsrr-done",)), "loose source route: in turn by way of the next hop, and done"),
        ("opt-ssrr", (("ssrr-via",), ("ssrr-done",)), "strict source route, likewise"),
    ):
        yield Probe(
            profile="source-route", name=name, transport="udp", hazard="hostile", families=(4,), rounds=rounds,
            leak="source-route", sends=sends, hit=routing,
        )  # fmt: skip
    rows: tuple[tuple[str, Hazard, str], ...] = (
        ("rh0", "hostile", "routing header type 0 (RFC 5095 forbids it)"),
        ("rh2", "safe", "routing header type 2 (mobility), no segment left"),
        ("rh4", "safe", "routing header type 4 (segment routing)"),
    )
    for name, hazard, sends in rows:
        turns_of: tuple[tuple[str, ...], ...] = _one("rh2") if name == "rh2" else ((f"{name}-via",), (f"{name}-done",))
        turns = "" if name == "rh2" else ": in turn by way of the next hop, and done"
        yield Probe(
            profile="source-route", name=name, transport="udp", hazard=hazard, families=(6,), rounds=turns_of,
            leak="source-route", sends=sends + turns, hit=routing,
        )  # fmt: skip
    chains: tuple[tuple[str, Hazard, str], ...] = (
        ("ext-hop-by-hop", "safe", "UDP after a hop-by-hop header"),
        ("ext-router-alert", "safe", "UDP after a hop-by-hop header with router alert"),
        ("ext-destination", "safe", "UDP after a destination options header"),
        ("ext-chain", "hostile", "UDP after a chain of six destination options headers"),
    )
    for name, hazard, sends in chains:
        yield Probe(
            profile="ipv6-ext", name=name, transport="udp", hazard=hazard, families=(6,), rounds=_one(name),
            leak="ipv6-ext", sends=sends, hit="the filter does not find the ports behind extension headers",
        )  # fmt: skip


def _tunnels() -> Iterable[Probe]:
    through = "anything may travel inside"
    for name, families, sends in (
        ("gre", (4, 6), "a packet in GRE"),
        ("ipip", (4,), "IPv4 in IPv4"),
        ("6in4", (4,), "IPv6 in IPv4"),
        ("ip6ip6", (6,), "IPv6 in IPv6"),
        ("4in6", (6,), "IPv4 in IPv6"),
        ("esp", (4, 6), "IPsec ESP, the token where the ciphertext is"),
        ("ah", (4, 6), "UDP behind an IPsec AH"),
        ("l2tpv3", (4, 6), "L2TPv3 over IP"),
    ):
        yield Probe(profile="tunnels", name=name, families=families, rounds=_one(name), leak="tunnel", sends=sends,
                    hit=through)  # fmt: skip
    for name, port, sends in (
        ("vxlan", 4789, "a frame in VXLAN"),
        ("geneve", 6081, "a frame in Geneve"),
        ("gre-udp", 4754, "a packet in GRE in UDP"),
        ("l2tp", 1701, "an L2TP data message"),
        ("esp-udp", 4500, "ESP in UDP (NAT traversal)"),
        ("gtp", 2152, "a packet in GTP-U"),
    ):
        yield Probe(profile="tunnels", name=name, transport="udp", port=port, rounds=_one(name), leak="tunnel",
                    sends=sends, hit=through)  # fmt: skip


def _disguises() -> Iterable[Probe]:
    yield Probe(
        profile="dns", name="dns", transport="udp", port=53, rounds=_one("dns"), leak="dns",
        sends="a DNS query for a name whose first label is the token in base32",
        hit="queries, or a resolver that forwards them, carry data",
    )  # fmt: skip
    for name, sends in (
        ("inside", "with a source address of the zone they go to"),
        ("zone", "with a source address of a zone that is allowed to, on the allowed port"),
    ):
        for carried, kind in (("tcp", "syn-data"), ("udp", "udp")):
            yield Probe(
                profile="spoof", name=f"{carried}-{name}", transport=carried, rounds=_one(kind), leak="spoof",
                sends=f"{carried.upper()} {sends}", hit="the filter believes source addresses, whatever the interface",
            )  # fmt: skip
    for name, value in (("dscp-ef", "46, EF"), ("dscp-af41", "34, AF41"), ("dscp-cs6", "48, CS6")):
        yield Probe(profile="dscp", name=name, transport="udp", rounds=_one(name), leak="dscp",
                    sends=f"UDP with DSCP {value}", hit="marked traffic takes a way past the filter")  # fmt: skip
    for name, sends in (("ttl-255", "UDP with TTL (hop limit) 255"), ("ttl-low", "UDP with TTL 4")):
        yield Probe(profile="ttl", name=name, transport="udp", rounds=_one(name), leak="ttl", sends=sends,
                    hit="the filter takes the TTL for a proof of nearness, or loses packets from sight")  # fmt: skip
    yield Probe(profile="large", name="large", transport="udp", rounds=_one("large"), leak="large",
                sends="a datagram of 1,280 bytes", hit="large packets take a way past the filter")  # fmt: skip


def _twins() -> Iterable[Probe]:
    for carried, kinds in (("tcp", (("syn-data",), ("syn",))), ("udp", _one("udp"))):
        yield Probe(
            profile="pinhole", name=f"{carried}-twin", transport=carried, rounds=kinds, leak="source-port",
            sends=f"as `source-port` {carried}, late: from and to the ports that the other side used before",
            hit="the filter accepts by source port",
        )  # fmt: skip


def _published() -> Iterable[Probe]:
    """To an address that the policy says may stand for a host of another zone."""
    stands = "a host is published there: translation (port forwarding), or a relay, leads into its zone"
    for name, kinds, sends in (
        ("tcp", (("syn-data",), ("syn",)), "SYN, as `l4`"),
        ("udp", _one("udp"), "a datagram"),
    ):
        yield Probe(
            profile="published", name=name, transport=name, rounds=kinds, leak="published",
            sends=f"{sends}, to a published address", hit=stands,
        )  # fmt: skip
    for name, families, sends in (
        ("gre", (4, 6), "GRE"),
        ("ipip", (4,), "IPv4 in IPv4"),
        ("6in4", (4,), "IPv6 in IPv4"),
        ("ip6ip6", (6,), "IPv6 in IPv6"),
        ("4in6", (6,), "IPv4 in IPv6"),
    ):
        yield Probe(
            profile="published", name=name, families=families, rounds=_one(name), leak="tunnel",
            sends=f"{sends} to a published address; inside, a packet for the far agent",
            hit="the device takes tunnels apart and forwards what was inside",
        )  # fmt: skip


def _reverse() -> Iterable[Probe]:
    for carried, kind in (("tcp", "syn-data"), ("udp", "udp")):
        yield Probe(
            profile="outbound", name=carried, transport=carried, rounds=_one(kind),
            sends=f"{carried.upper()} outbound, late in the scan, for `pinhole` to come back on",
            hit="as `l4`",
        )  # fmt: skip
        for name, sends in (
            ("back", "from the port that a denied outbound flow went to"),
            ("other", "from another port than the outbound flow, allowed or denied, went to"),
            ("cold", "though nothing went out from it: the control, as `l4`"),
        ):
            yield Probe(
                profile="pinhole", name=f"{carried}-{name}", transport=carried, rounds=_one(kind),
                leak="" if name == "cold" else "pinhole",
                sends=f"{carried.upper()} to the source port of an outbound flow, {sends}",
                hit="outbound traffic, even if dropped, opens the way in",
            )  # fmt: skip


PROBES: tuple[Probe, ...] = (
    *_l4(), *_tcp_flags(), *_icmp(), *_protocols(), *_fragments(), *_headers(), *_tunnels(), *_disguises(),
    *_published(), *_reverse(), *_twins(),
)  # fmt: skip
"""Every probe."""

# `outbound` serves `pinhole`: a policy does not name it.
PROFILES = tuple(dict.fromkeys(item.profile for item in PROBES if item.profile != "outbound"))
"""The profiles that a policy can choose, in the order of the table."""


@cache
def _by_name() -> dict[tuple[str, str], Probe]:
    return {(item.profile, item.name): item for item in PROBES}


def probe(profile: str, name: str) -> Probe | None:
    """The row of a case's `profile` and `protocol`; None if the table has none."""
    return _by_name().get((profile, name))


def profile_hazard(profile: str) -> Hazard:
    """`hostile` if a profile holds any hostile probe."""
    return "hostile" if any(item.profile == profile and item.hazard == "hostile" for item in PROBES) else "safe"


@cache
def transport(profile: str, name: str) -> str:
    """`tcp`, `udp`, `sctp` or nothing: whose ports tell a case's packets and their answers apart."""
    row = probe(profile, name)
    return row.transport if row is not None else ""
