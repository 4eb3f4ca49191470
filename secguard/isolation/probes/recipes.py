"""How scapy builds each kind of packet of the table of probes; `templates` finds the offsets in what it built.

What changes from case to case stands in for itself as a value that is found again: addresses, ports, the token.
"""

import base64
import struct
from typing import Any

from secguard.isolation.plan.tokens import MAGIC, SIZE

__all__ = ["DESTINATION", "DPORT", "ID", "ISN", "LABEL", "MARK", "SOURCE", "SPORT", "VIA", "layers"]

SPORT, DPORT, ISN, ID = 0xA1B2, 0xC3D4, 0xA5B6C7D8, 0xE5F6
SOURCE = {4: "198.18.0.1", 6: "2001:2::a1"}
DESTINATION = {4: "198.19.255.254", 6: "2001:2:0:ffff::b2"}
VIA = {4: "198.19.255.237", 6: "2001:2:0:fffe::c3"}
MARK = MAGIC + b"\xee" * (SIZE - len(MAGIC))
LABEL = base64.b32encode(MARK).rstrip(b"=").lower()
_FRAGMENT = 40  # bytes of the first fragment's payload; a multiple of 8 that holds header and token
_LARGE = 1232  # bytes of a large fragment's payload: what IPv6's smallest MTU leaves
_INNER = (40000, 5060)  # ports inside a tunnel that has ports of its own
_FLAGS = {"fin": "F", "null": 0, "xmas": "FPU", "ack": "A", "data": "PA", "synfin": "SF", "rst": "R"}
_PROTOCOLS = {
    "igmp": 2,
    "rsvp": 46,
    "eigrp": 88,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "dccp": 33,
    "udplite": 136,
    "experimental": 253,
}
_DSCP = {"ef": 46, "af41": 34, "cs6": 48}


def _network(family: int, **values: Any) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    ends = {"src": SOURCE[family], "dst": DESTINATION[family]}
    if family == 4:
        return IP(**{"ttl": 64, "id": ID, **ends, **values})
    return IPv6(**{"hlim": 64, **ends, **values})


def _udp(**values: Any) -> Any:
    from scapy.layers.inet import UDP
    from scapy.packet import Raw

    return UDP(**{"sport": SPORT, "dport": DPORT, **values}) / Raw(MARK)


def _carry(family: int, protocol: int, payload: Any) -> Any:
    """A network header that names its payload's protocol by number."""
    return _network(family, **{"proto" if family == 4 else "nh": protocol}) / payload


def _raw(data: bytes) -> Any:
    from scapy.packet import Raw

    return Raw(data)


def _fragment(kind: str, family: int) -> Any:
    from scapy.layers.inet import TCP, UDP
    from scapy.layers.inet6 import IPv6ExtHdrFragment

    if kind == "atomic":
        return _network(6) / IPv6ExtHdrFragment(nh=17, id=ID) / _udp()
    name, _, number = kind.partition("-")
    more, protocol = True, 17
    if name == "tiny":
        segment = bytes(TCP(sport=SPORT, dport=DPORT, seq=ISN, flags="S", window=64240, chksum=0))
        body, offset, more, protocol = (segment[:8], 0, True, 6) if number == "1" else (segment[8:] + MARK, 1, False, 6)
    elif name == "large":
        head = bytes(UDP(sport=SPORT, dport=DPORT, len=2 * _LARGE + 400, chksum=0))
        part = int(number)
        body = ((head if part == 1 else b"") + MARK).ljust(_LARGE if part < 3 else 400, b"\0")
        offset, more = (part - 1) * _LARGE // 8, part < 3
    else:
        # The length says both fragments; the first holds header and token, the second a token of its own.
        head = bytes(UDP(sport=SPORT, dport=DPORT, len=2 * _FRAGMENT, chksum=0))
        body, offset, more = {
            "fragment-1": (head + MARK, 0, True),
            "fragment-2": (MARK, _FRAGMENT // 8, False),
            "overlap-2": (bytes(UDP(sport=_INNER[0], dport=_INNER[1], len=2 * _FRAGMENT, chksum=0)) + MARK, 0, False),
        }[kind]
        body = body.ljust(_FRAGMENT, b"\0")
    if family == 4:
        return _network(4, proto=protocol, flags="MF" if more else 0, frag=offset) / _raw(body)
    return _network(6) / IPv6ExtHdrFragment(nh=protocol, offset=offset, m=int(more), id=ID) / _raw(body)


def _icmp(kind: str, family: int) -> Any:
    from scapy.layers.inet import ICMP, UDP
    from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6Unknown

    def quote() -> Any:
        """What is quoted claims to have come from the destination."""
        back = _network(family, src=DESTINATION[family], dst=SOURCE[family])
        return back / UDP(sport=DPORT, dport=SPORT) / _raw(MARK)

    if family == 4:
        return (
            _network(4)
            / {
                "echo": lambda: ICMP(type=8, id=SPORT, seq=1) / _raw(MARK),
                "icmp-echo-reply": lambda: ICMP(type=0, id=SPORT, seq=1) / _raw(MARK),
                "icmp-timestamp": lambda: ICMP(type=13, id=SPORT, seq=1, ts_ori=0) / _raw(MARK),
                "icmp-information": lambda: ICMP(type=15, id=SPORT, seq=1) / _raw(MARK),
                "icmp-mask": lambda: ICMP(type=17, id=SPORT, seq=1) / _raw(MARK),
                "icmp-experimental": lambda: ICMP(type=253) / _raw(MARK),
                "icmp-solicitation": lambda: ICMP(type=10) / _raw(MARK),
                # One address of no use (TEST-NET-1) for no time at all: who believes it believes nothing.
                "icmp-router": lambda: (
                    ICMP(type=9, id=0x0102, seq=0) / _raw(bytes([192, 0, 2, 1]) + b"\x80\0\0\0" + MARK)
                ),
                "icmp-redirect": lambda: ICMP(type=5, code=1, gw="192.0.2.1") / quote(),
                "icmp-unreachable": lambda: ICMP(type=3, code=3) / quote(),
                "icmp-exceeded": lambda: ICMP(type=11) / quote(),
                "icmp-parameter": lambda: ICMP(type=12) / quote(),
                "icmp-too-big": lambda: ICMP(type=3, code=4, nexthopmtu=1280) / quote(),
            }[kind]()
        )
    if kind in {"echo", "icmp-echo-reply"}:
        shape = ICMPv6EchoRequest if kind == "echo" else ICMPv6EchoReply
        return _network(6) / shape(id=SPORT, seq=1, data=MARK)
    nowhere = b"\0" * 15 + b"\1"
    number, code, body = {
        "icmp-experimental": (200, 0, b"\0" * 4 + MARK),
        "icmp-node": (139, 0, struct.pack(">HHQ", 3, 0, 1) + MARK),
        "icmp-solicitation": (133, 0, b"\0" * 4 + MARK),
        "icmp-router": (134, 0, b"\0" * 12 + MARK),
        "icmp-redirect": (137, 0, b"\0" * 4 + nowhere + nowhere + MARK),
        "icmp-unreachable": (1, 4, b"\0" * 4),
        "icmp-exceeded": (3, 0, b"\0" * 4),
        "icmp-parameter": (4, 0, b"\0" * 4),
        "icmp-too-big": (2, 0, struct.pack(">I", 1280)),
    }[kind]
    if MARK not in body:
        body += bytes(quote())
    return _network(6) / ICMPv6Unknown(type=number, code=code, msgbody=body)


def _options(kind: str) -> Any:
    from scapy.layers import inet

    via, last = VIA[4], DESTINATION[4]
    name, _, turn = kind.partition("-")
    if name in {"lsrr", "ssrr"}:
        shape = inet.IPOption_LSRR if name == "lsrr" else inet.IPOption_SSRR
        if turn == "via":  # RFC 791 3.1: the destination is the next hop, the route holds what comes after
            return _network(4, dst=via, options=[shape(routers=[last], pointer=4)]) / _udp()
        return _network(4, options=[shape(routers=[via], pointer=8)]) / _udp()
    option = {
        "record-route": lambda: inet.IPOption_RR(routers=["0.0.0.0"] * 4, pointer=4),  # noqa: S104 - no listener
        "timestamp": lambda: inet.IPOption_Timestamp(flg=0, pointer=5, timestamp=[0], length=8),
        "router-alert": inet.IPOption_Router_Alert,
        "security": inet.IPOption_Security,
        "unknown": lambda: inet.IPOption(copy_flag=0, optclass=2, option=30, value=b"\0\0"),
    }[turn]()
    return _network(4, options=[option]) / _udp()


def _extension(kind: str) -> Any:
    from scapy.layers import inet6

    name, _, turn = kind.partition("-")
    if name in {"rh0", "rh2", "rh4"}:
        # Reserved (type 4: last entry, flags, tag), then the addresses that remain, last first.
        ends = [DESTINATION[6] if turn == "via" else VIA[6]]
        header = inet6.IPv6ExtHdrRouting(
            type=int(name[2:]), segleft=int(turn == "via"), addresses=ends, reserved=0, len=2 * len(ends), nh=17
        )
        return _network(6, dst=VIA[6] if turn == "via" else DESTINATION[6]) / header / _udp()
    pad = inet6.PadN(optdata=b"\0" * 4)
    made = _network(6)
    headers = {
        "hop-by-hop": lambda: [inet6.IPv6ExtHdrHopByHop(options=[pad])],
        "router-alert": lambda: [inet6.IPv6ExtHdrHopByHop(options=[inet6.RouterAlert()])],
        "destination": lambda: [inet6.IPv6ExtHdrDestOpt(options=[pad])],
        "chain": lambda: [inet6.IPv6ExtHdrDestOpt(options=[pad]) for _ in range(6)],
    }[turn]()
    for header in headers:
        made = made / header
    return made / _udp()


def _tunnel(kind: str, family: int) -> Any:
    from scapy.contrib.geneve import GENEVE
    from scapy.contrib.gtp import GTP_U_Header
    from scapy.layers.inet import GRE, UDP
    from scapy.layers.l2 import Ether
    from scapy.layers.l2tp import L2TP
    from scapy.layers.vxlan import VXLAN

    def outer() -> Any:
        return _network(family) / UDP(sport=SPORT, dport=DPORT)

    def inner() -> Any:
        return _network(family) / _udp(sport=_INNER[0], dport=_INNER[1])

    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    # SPI and sequence number, the token where the ciphertext is, padding, an integrity value of zeros.
    esp = struct.pack(">II", 0x53470001, 1) + MARK + b"\1\2\2\4" + b"\0" * 12
    ah = struct.pack(">BBHII", 17, 4, 0, 0x53470002, 1) + b"\0" * 12
    return {
        "gre": lambda: _network(family) / GRE() / _network(family) / _udp(),
        "ipip": lambda: _carry(4, 4, _network(4) / _udp()),
        "6in4": lambda: _carry(4, 41, _network(6) / _udp()),
        "ip6ip6": lambda: _carry(6, 41, _network(6) / _udp()),
        "4in6": lambda: _carry(6, 4, _network(4) / _udp()),
        "esp": lambda: _carry(family, 50, _raw(esp)),
        "ah": lambda: _carry(family, 51, _raw(ah + bytes(_udp(chksum=0)))),
        "l2tpv3": lambda: _carry(family, 115, _raw(struct.pack(">I", 0x5347) + MARK)),
        "vxlan": lambda: outer() / VXLAN(vni=1, flags="Instance") / frame / inner(),
        "geneve": lambda: outer() / GENEVE(vni=1) / frame / inner(),
        "gre-udp": lambda: outer() / GRE() / inner(),
        "l2tp": lambda: outer() / L2TP(hdr=2, tunnel_id=1, session_id=1) / _raw(b"\xff\x03\0\x21" + bytes(inner())),
        "esp-udp": lambda: outer() / _raw(esp),
        "gtp": lambda: outer() / GTP_U_Header(teid=1) / inner(),
    }[kind]()


def _dns(family: int) -> Any:
    from scapy.layers.dns import DNS, DNSQR
    from scapy.layers.inet import UDP

    query = DNS(id=0x5347, rd=1, qd=DNSQR(qname=LABEL + b".secguard.invalid", qtype="A"))
    return _network(family) / UDP(sport=SPORT, dport=DPORT) / query


def _sctp(family: int) -> Any:
    from scapy.layers.sctp import SCTP, SCTPChunkInit

    # An unknown parameter whose type (high bit set) asks to be skipped without a report, RFC 9260 section 3.2.1.
    parameter = struct.pack(">HH", 0x8057, 4 + SIZE) + MARK
    chunk = SCTPChunkInit(len=20 + len(parameter), init_tag=1, a_rwnd=65535, n_out_streams=1, n_in_streams=1)
    return _network(family) / SCTP(sport=SPORT, dport=DPORT, tag=0) / chunk / _raw(parameter)


def layers(kind: str, family: int) -> Any:
    """The packet of a kind, as scapy's layers (KeyError for a kind that does not exist)."""
    from scapy.layers.inet import TCP

    group, _, name = kind.partition("-")
    if kind in {"syn", "syn-data"} or group == "tcp":
        flags = "S" if group == "syn" else _FLAGS[name]
        options = [("MSS", 1400)] if group == "syn" else []
        tcp = _network(family) / TCP(sport=SPORT, dport=DPORT, seq=ISN, flags=flags, window=64240, options=options)
        return tcp if kind == "syn" else tcp / _raw(MARK)
    if kind == "echo" or group == "icmp":
        return _icmp(kind, family)
    if group in {"fragment", "tiny", "overlap", "atomic"} or (group == "large" and name):
        return _fragment(kind, family)
    if group == "ip":
        return _carry(family, _PROTOCOLS[name], _raw(MARK))
    if group in {"opt", "lsrr", "ssrr"}:
        return _options(kind)
    if group in {"ext", "rh0", "rh2", "rh4"}:
        return _extension(kind)
    if group == "dscp":
        return _network(family, **{"tos" if family == 4 else "tc": _DSCP[name] << 2}) / _udp()
    if group == "ttl":
        return _network(family, **{"ttl" if family == 4 else "hlim": 255 if name == "255" else 4}) / _udp()
    if kind == "large":
        room = 1280 - (20 if family == 4 else 40) - 8 - SIZE
        return _network(family) / _udp() / _raw(b"\0" * room)
    special = {"udp": lambda: _network(family) / _udp(), "dns": lambda: _dns(family), "sctp": lambda: _sctp(family)}
    return special[kind]() if kind in special else _tunnel(kind, family)
