"""Packets: what is filled in is what scapy would have built; hostile frames never crash the sensor or the dissector."""

import ipaddress
import os
import random
import time
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6TimeExceeded, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether

from secguard.isolation.agent.sensor import Sensor
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo
from secguard.isolation.plan.tokens import MAGIC, SIZE, Kind, Tokens
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.probes import headers
from secguard.isolation.probes.dissect import dissect
from secguard.isolation.probes.packets import fill, kinds, parts
from secguard.isolation.probes.profiles import PROBES
from secguard.isolation.probes.templates import template

V4 = tuple(ipaddress.ip_address(text).packed for text in ("10.1.0.2", "10.2.0.2"))
V6 = tuple(ipaddress.ip_address(text).packed for text in ("fd00:1::2", "fd00:2::2"))
TOKEN = MAGIC + bytes(range(SIZE - len(MAGIC)))
KINDS = [
    *((kind, 4) for kind in ("udp", "syn", "syn-data", "echo", "fragment-1", "fragment-2", "gre", "ipip", "6in4")),
    *((kind, 6) for kind in ("udp", "syn", "syn-data", "echo", "fragment-1", "fragment-2", "gre", "ip6ip6")),
]


@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_filled_packets_are_what_scapy_builds(kind: str, family: int) -> None:
    ends = {4: (V4[0], V4[1]), 16: (V6[0], V6[1])}
    form = template(kind, family)
    form.check(family)
    packet = fill(form, ends, TOKEN, ports=(1234, 554), isn=77, ident=99)
    parsed = IP(packet) if family == 4 else IPv6(packet)
    assert (parsed.src, parsed.dst) == (("10.1.0.2", "10.2.0.2") if family == 4 else ("fd00:1::2", "fd00:2::2"))
    assert (TOKEN in packet) == (kind != "syn")
    # Without the checksums, scapy computes its own: the bytes must come out the same.
    layer = parsed
    while layer:
        for name in ("chksum", "cksum"):
            if name in layer.fields and kind not in {"fragment-1", "fragment-2"}:
                delattr(layer, name)
        layer = layer.payload
    if kind not in {"fragment-1", "fragment-2"}:
        assert bytes(parsed) == packet
    carrier, source, destination = dissect(packet)
    expected = {"fragment-1": "fragment", "fragment-2": "fragment", "gre": "gre"}
    assert carrier == expected.get(kind, kind if kind in {"ipip", "6in4", "ip6ip6"} else "plain")
    assert (source, destination) == (parsed.src, parsed.dst)


def test_attempts_of_tcp_alternate_with_and_without_data() -> None:
    assert [parts("l4", "tcp", attempt) for attempt in range(3)] == [("syn-data",), ("syn",), ("syn-data",)]
    assert parts("fragments", "udp", 1) == kinds("fragments", "udp") == ("fragment-1", "fragment-2")


def _answer(packet: bytes) -> tuple[str, headers.Header] | None:
    header = headers.parse(packet)
    assert header is not None
    return headers.answer(packet, header)


def test_answers_lead_back_to_the_probe() -> None:
    probe = IP(src="10.1.0.2", dst="10.2.0.2") / UDP(sport=1234, dport=554) / b"x"
    for kind, code, word in (
        (3, 3, "port-unreachable"),
        (3, 13, "prohibited"),
        (3, 1, "unreachable"),
        (11, 0, "unreachable"),
    ):
        said = _answer(bytes(IP(src="10.2.0.1", dst="10.1.0.2") / ICMP(type=kind, code=code) / probe))
        assert said is not None
        assert said[0] == word
        assert (said[1].source, said[1].destination) == (V4[0], V4[1])
        assert (said[1].sport, said[1].dport) == (1234, 554)
    for flags, word in (("SA", "syn-ack"), ("RA", "rst"), ("R", "rst")):
        said = _answer(bytes(IP(src="10.2.0.2", dst="10.1.0.2") / TCP(sport=554, dport=1234, flags=flags)))
        assert said is not None
        assert (said[0], said[1].sport, said[1].dport) == (word, 1234, 554)
    assert _answer(bytes(IP(src="10.2.0.2", dst="10.1.0.2") / TCP(flags="A"))) is None


def _sensor() -> Sensor:
    policy = load_policy(
        b"apiVersion: secguard/v1alpha1\nkind: IsolationPolicy\nzones:\n"
        b"  a: {ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: 'fd00:1::/64'}], agents: [x]}\n"
        b"  b: {ipBlocks: [{cidr: 10.2.0.0/16}, {cidr: 'fd00:2::/64'}], agents: [y]}\n"
        b"probes: {tcp: [22], udp: [53]}\n"
    )
    agents = (AgentInfo("x", "a", ("10.1.0.2", "fd00:1::2")), AgentInfo("y", "b", ("10.2.0.2", "fd00:2::2")))
    return Sensor(compile_plan(policy, agents, datetime.now(UTC)), 0)


SENSOR = _sensor()
NOW = time.time_ns()


def _frames() -> list[bytes]:
    """Frames of every kind in the table of probes."""
    tokens = SENSOR._tokens
    frames = [bytes(Ether() / ARP(op=2))]
    rows = ((row, family) for row in PROBES for family in row.families)
    for kind, family in sorted({(kind, family) for row, family in rows for kind in kinds(row.profile, row.name)}):
        ends = {4: (V4[1], V4[0]), 16: (V6[1], V6[0])}
        token = tokens.make(Kind.PROBE, [0], [0x200])[0]
        packet = fill(template(kind, family), ends, token, ports=(1, 2))
        frames.append(b"\0" * 12 + (b"\x08\0" if family == 4 else b"\x86\xdd") + packet)
    return frames


FRAMES = _frames()


@given(
    st.sampled_from(FRAMES),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, 200),
)
def test_mutated_frames_never_crash(frame: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(frame)
    for at, value in changes:
        data[at % len(data)] = value
    mutated = bytes(data[: len(data) - cut] if cut < len(data) else data)
    for outgoing in (False, True):
        SENSOR.hear(mutated, outgoing, NOW)
    dissect(mutated[14:])


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x45")
@example(b"\x60" + b"\0" * 5 + b"\x2c")
def test_any_bytes_never_crash(data: bytes) -> None:
    for kind in (b"\x08\0", b"\x86\xdd", b"\x81\0", b"\x08\x06"):
        SENSOR.hear(b"\0" * 12 + kind + data, False, NOW)
    header = headers.parse(data)
    if header is not None:
        headers.answer(data, header)
        headers.echo_reply(data, header)
    carrier, _, _ = dissect(data)
    assert carrier


def test_twenty_thousand_mutated_frames() -> None:
    chance = random.Random(5060)
    for _ in range(20_000):
        data = bytearray(chance.choice(FRAMES))
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(14, len(data))] = chance.randrange(256)
        SENSOR.hear(bytes(data[: chance.randrange(1, len(data) + 1)]), chance.random() < 0.3, NOW)


def test_a_flood_of_forgeries_is_counted_in_bounded_memory() -> None:
    sensor = _sensor()
    packet = fill(template("udp", 4), {4: (V4[1], V4[0])}, TOKEN, ports=(1, 2))
    frame = b"\0" * 12 + b"\x08\0" + packet
    head = sensor._tokens.make(Kind.PROBE, [0], [0])[0][:12]
    for _ in range(3000):
        sensor.hear(frame.replace(TOKEN, head + os.urandom(16)), False, NOW)
    assert sensor.strange_total == 3000
    assert len(sensor.strange().status) == 1000
    assert set(sensor.strange().status) == {"forged"}
    assert sensor.arrivals().case == []


def test_a_retransmitted_segment_is_no_replay_and_a_repeated_probe_is() -> None:
    for phase, count in ((0, 1), (2, 3)):
        sensor = _sensor()
        case = next(n for n, src in enumerate(sensor._plan.cases.src) if src == 1)
        token = sensor._tokens.make(Kind.PROBE, [case], [phase << 8])[0]
        segment = IP(src="10.2.0.2", dst="10.1.0.2") / TCP(sport=9, dport=22, flags="PA" if phase == 0 else "S") / token
        for _ in range(3):
            sensor.hear(bytes(Ether() / segment), False, time.time_ns())
        assert sensor.arrivals().count == [count]


def test_a_returned_packet_of_an_earlier_run_is_no_replay() -> None:
    """Whoever holds a first fragment gives up after a minute, and quotes it: into the next run."""
    token = Tokens(b"x" * 32, b"earlier" + b"y" * 9).make(Kind.PROBE, [1], [2 << 8])[0]
    ours = IPv6(src="fd00:1::2", dst="fd00:2::2") / IPv6ExtHdrFragment(m=1, nh=17) / UDP(sport=9, dport=53) / token
    v4 = IP(src="10.1.0.2", dst="10.2.0.2", flags="MF") / UDP(sport=9, dport=53) / token
    v6_error = IPv6(src="fd00:1::1", dst="fd00:1::2") / ICMPv6TimeExceeded(code=1)
    v4_error = IP(src="10.1.0.1", dst="10.1.0.2") / ICMP(type=11, code=1)
    sensor = _sensor()
    for packet in (v6_error / ours, v4_error / v4):
        sensor.hear(bytes(Ether() / packet), False, time.time_ns())
    assert sensor.strange_total == 0
    theirs = IPv6(src="fd00:2::2", dst="fd00:1::2") / UDP(sport=9, dport=53) / token
    for packet in (
        ours,
        theirs,
        v6_error / theirs,
        IPv6(src="fd00:1::1", dst="fd00:1::2") / ICMPv6EchoRequest(data=token),
    ):
        sensor.hear(bytes(Ether() / packet), False, time.time_ns())
    assert sensor.strange().status == ["foreign"] * 4, "replayed, or quoted to somebody else"


def test_a_service_that_garbles_what_it_quotes_is_no_stranger() -> None:
    sensor = _sensor()
    cases = sensor._plan.cases
    case = next(n for n in range(len(cases)) if (cases.src[n], cases.protocol[n], cases.family[n]) == (0, "tcp", 4))
    ends = {"src": "10.2.0.2", "dst": "10.1.0.2"}
    garbled = IP(**ends) / TCP(sport=22, dport=40000, flags="PA") / (b"Bad request " + MAGIC + b"\\x8f" * 12)
    sensor.hear(bytes(Ether() / garbled), False, time.time_ns())
    assert sensor.strange().status == ["foreign"], "nobody accepted a connection yet"
    accepts = IP(**ends) / TCP(sport=22, dport=cases.sport[case], flags="SA")
    sensor.hear(bytes(Ether() / accepts), False, time.time_ns())
    sensor.hear(bytes(Ether() / garbled), False, time.time_ns())
    assert sensor.strange_total == 1
    datagram = IP(**ends) / UDP(sport=22, dport=40000) / (MAGIC + b"\\x8f" * 12)
    sensor.hear(bytes(Ether() / datagram), False, time.time_ns())
    assert sensor.strange_total == 2
