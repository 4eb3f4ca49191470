"""The table of probes: docs, templates, cases; and every leak by the probe that shows it."""

import ipaddress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from secguard.core import FormatError, Outcome, describe
from secguard.isolation.agent.sensor import Sensor
from secguard.isolation.judge.judge import Judgement, judge
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan, open_plan, seal_plan
from secguard.isolation.plan.tokens import Kind, Status, Tokens, label, marked
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.probes.dissect import TUNNELS, dissect
from secguard.isolation.probes.headers import packed
from secguard.isolation.probes.packets import crc32c, fill, kinds, parts
from secguard.isolation.probes.profiles import PROBES, PROFILES, Probe, probe, profile_hazard
from secguard.isolation.probes.templates import template
from secguard.keys import Algorithm, generate
from tests.support.isolation_kit import unmoved

NOW = datetime(2026, 10, 1, tzinfo=UTC)
DOCS = Path(__file__).parents[3] / "docs" / "probes.md"
TOKENS = Tokens(b"s" * 32, b"r" * 16)
TOKEN = TOKENS.make(Kind.PROBE, [7], [0x200])[0]
ENDS = {4: (packed("10.1.0.2"), packed("10.2.0.2")), 16: (packed("fd00:1::2"), packed("fd00:2::2"))}
HOP = {4: packed("10.1.0.1"), 6: packed("fd00:1::1")}
EVERY = sorted({(kind, family) for row in PROBES for family in row.families for kind in kinds(row.profile, row.name)})


def _fill(kind: str, family: int) -> bytes:
    port = next((row.port for row in PROBES if row.name == kind and row.port), 554)
    return fill(template(kind, family), ENDS, TOKEN, ports=(1234, port), isn=77, ident=99, via=HOP[family])


def test_the_page_shows_the_table() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and line.count("|") == 8
    ][1:]
    assert rows == [
        [row.profile, row.name, ", ".join(map(str, row.families)), row.hazard, row.sends, row.hit, row.leak]
        for row in PROBES
    ]


def test_the_table_is_sound() -> None:
    assert len({(row.profile, row.name) for row in PROBES}) == len(PROBES)
    assert set(PROFILES) == {row.profile for row in PROBES} - {"outbound"}
    for row in PROBES:
        assert row.hazard in {"safe", "hostile"}
        assert row.transport in {"", "tcp", "udp", "sctp"}
        assert row.rounds
        assert all(row.rounds)
        assert set(row.families) <= {4, 6}
    hostile = {row.name for row in PROBES if row.hazard == "hostile"}
    assert {"frag-overlap", "rh0", "opt-lsrr", "icmp-redirect", "icmp-router"} <= hostile
    assert profile_hazard("fragments") == "hostile"
    assert profile_hazard("dscp") == "safe"
    assert kinds("l4", "nonsense") == () == parts("nonsense", "tcp", 0)


@pytest.mark.parametrize(("kind", "family"), EVERY)
def test_every_template_fills_to_a_packet_with_right_sums(kind: str, family: int) -> None:
    form = template(kind, family)
    form.check(family)
    packet = _fill(kind, family)
    parsed = IP(packet) if family == 4 else IPv6(packet)
    via = kind.endswith("-via")
    assert parsed.src == ("10.1.0.2" if family == 4 else "fd00:1::2")
    if via:
        assert parsed.dst == ("10.1.0.1" if family == 4 else "fd00:1::1"), "the next hop"
        assert ENDS[4 if family == 4 else 16][1] in packet, "and the way on"
    else:
        assert parsed.dst == ("10.2.0.2" if family == 4 else "fd00:2::2")
    for unfilled in (b"\xee" * 8, packed("198.18.0.1"), packed("198.19.255.254"), packed("2001:2::a1")):
        assert unfilled not in packet
    found = TOKENS.find(packet)
    if kind in {"syn", "tiny-1"}:
        assert not found
        assert not marked(packet)
    else:
        assert [(item.status, item.case) for item in found] == [(Status.GOOD, 7)]
        assert marked(packet)
    if family == 4:
        assert IP(bytes(packet)).chksum == IP(bytes(_without(IP(packet), outer=True))).chksum
    # Fragments and quotes hold sums of zero; scapy sums over the last entry of a source route, done or not.
    special = {"fragment", "large", "tiny", "overlap", "ah", "lsrr", "ssrr", "icmp", "l2tp"}
    if kind.partition("-")[0] not in special and not via:
        assert bytes(_without(IP(packet) if family == 4 else IPv6(packet))) == packet


def _without(layer: object, *, outer: bool = False) -> object:
    """A packet of scapy without its checksums: it computes its own."""
    first = layer
    while layer:
        for name in ("chksum", "cksum"):
            if name in layer.fields:  # type: ignore[attr-defined]
                delattr(layer, name)
        layer = None if outer else layer.payload  # type: ignore[attr-defined]
    return first


def test_sctp_bears_the_checksum_of_its_rfc() -> None:
    assert crc32c(b"\0" * 32) == 0x8A9136AA, "RFC 3720 appendix B.4"
    assert crc32c(bytes(range(32))) == 0x46DD794E


CARRIED = {
    **dict.fromkeys(("fragment-1", "fragment-2", "tiny-2", "atomic", "large-1", "large-2", "large-3"), "fragment"),
    **dict.fromkeys(("icmp-unreachable", "icmp-exceeded", "icmp-parameter", "icmp-too-big"), "quote"),
    "dns": "label",
}


@pytest.mark.parametrize(("kind", "family"), EVERY)
def test_what_arrives_is_taken_apart(kind: str, family: int) -> None:
    carrier, source, _ = dissect(_fill(kind, family))
    assert source == ("10.1.0.2" if family == 4 else "fd00:1::2")
    if kind in TUNNELS:
        assert carrier == kind
    elif kind in CARRIED:
        assert carrier == CARRIED[kind]
    elif (kind, family) not in {("overlap-2", 6), ("tiny-1", 4), ("tiny-1", 6), ("icmp-redirect", 4)}:
        assert carrier == "plain"


def test_a_label_is_found_in_any_case_and_a_broken_one_is_not() -> None:
    text = label(TOKEN)
    assert len(text) == 45
    for version in (text, text.upper(), bytes(c ^ 0x20 if i % 3 and c > 64 else c for i, c in enumerate(text))):
        assert TOKENS.find(b"\x2d" + version + b"\x07invalid")[0].case == 7
    assert TOKENS.find(text[:44]) == []
    changed = text[:40] + (b"a" if text[40:41] != b"a" else b"b") + text[41:]
    assert [item.status for item in TOKENS.find(changed)] == [Status.FORGED]


TEXT = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  a: {ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: "fd00:1::/64"}], agents: [a-a]}
  b:
    ipBlocks: [{cidr: 10.2.0.0/16, except: [10.2.255.252/32]}, {cidr: "fd00:2::/64"}]
    agents: [{name: a-b, sensor: mirror, covers: [10.2.5.0/24]}]
    targets: [{cidr: 10.2.5.0/25, tcp: [554]}]
  c: {ipBlocks: [{cidr: 10.3.0.0/16}], agents: [a-c]}
flows:
- {name: es, src: a, dst: b, ports: [{protocol: TCP, port: 9200}], canary: true}
- {name: dns, src: a, dst: c, ports: [{protocol: UDP, port: 53}], expect: one-way}
- {name: logs, src: a, dst: b, ports: [{protocol: UDP, port: 514}], expect: one-way}
probes: {tcp: [22, 9200], udp: [53, 514], sourcePorts: [20]}
"""
AGENTS = (
    AgentInfo("a-a", "a", ("10.1.0.2", "fd00:1::2")),
    AgentInfo("a-b", "b", ("10.2.0.2", "fd00:2::2")),
    AgentInfo("a-c", "c", ("10.3.0.2",)),
)


def _plan(text: str = TEXT) -> Plan:
    return compile_plan(load_policy(text.encode()), AGENTS, NOW)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return _plan()


def _rows(plan: Plan, **wanted: object) -> list[int]:
    return [
        case
        for case in range(len(plan.cases))
        if all(getattr(plan.cases, name)[case] == value for name, value in wanted.items())
    ]


def test_every_probe_becomes_a_case_in_each_family(plan: Plan) -> None:
    for src, dst, families in ((0, 1, (4, 6)), (1, 0, (4, 6)), (2, 1, (4,))):
        for family in families:
            cases = _rows(plan, src=src, dst=dst, family=family, target="")
            have = {(plan.cases.profile[case], plan.cases.protocol[case]) for case in cases}
            missing = {(row.profile, row.name) for row in PROBES if family in row.families} - have
            assert {row for row in missing if row[0] == "published"}, "no zone of this policy publishes an address"
            missing = {row for row in missing if row[0] != "published" and not row[1].endswith("-twin")}
            if (src, dst) != (1, 0):
                assert ("source-port", "tcp-ack") in missing, "nobody may come from there, so nothing is answered"
                missing.discard(("source-port", "tcp-ack"))
            if (src, dst) == (0, 1):
                # Nobody but `a` may enter `b`: there is no third zone to be mistaken for.
                assert missing == {("spoof", "tcp-zone"), ("spoof", "udp-zone")}
            else:
                assert missing <= {("spoof", "tcp-zone"), ("spoof", "udp-zone")}
    for protocol in ("tcp-zone", "udp-zone"):
        assert _rows(plan, src=2, dst=1, protocol=protocol), "c may pose as a, which may enter b"
    assert not _rows(plan, src=0, dst=2, profile="dns"), "a flow allows port 53: the plain probe tests it"


def test_claimed_sources_lie_in_the_policys_blocks_and_belong_to_nobody(plan: Plan) -> None:
    spoofed = _rows(plan, profile="spoof")
    assert spoofed
    for case in spoofed:
        source, _ = plan.ends(case)
        assert source == plan.cases.source[case]
        assert plan.permits(source)
        assert not any(source in agent.addresses for agent in plan.agents)
    inside = {plan.cases.source[case] for case in spoofed if plan.cases.dst[case] == 1 and plan.cases.family[case] == 4}
    assert "10.2.255.252" not in inside, "an exception of the block is spared"


def test_what_comes_back_on_an_outbound_flow(plan: Plan) -> None:
    cases = plan.cases
    for out in _rows(plan, profile="outbound"):
        back = [
            case
            for case in _rows(plan, profile="pinhole", src=cases.dst[out], dst=cases.src[out], dport=cases.sport[out])
            if cases.family[case] == cases.family[out] and cases.protocol[case].startswith(cases.protocol[out])
        ]
        found = {cases.protocol[case].partition("-")[2]: cases.sport[case] for case in back}
        wanted = {"other": cases.dport[out] + 1}
        if cases.expect[out] == "deny":
            wanted["back"] = cases.dport[out]
        assert found == wanted
        assert {cases.expect[case] for case in back} == {"deny"}


def test_hostile_probes_go_where_the_policy_says() -> None:
    def harmful(plan: Plan) -> set[str]:
        rows = ((case, probe(plan.cases.profile[case], plan.cases.protocol[case])) for case in range(len(plan.cases)))
        return {plan.cases.target[case] for case, row in rows if row is not None and row.hazard == "hostile"}

    assert harmful(_plan(TEXT + "hostile: never\n")) == set()
    own = _plan(TEXT + "hostile: own\n")
    assert harmful(own) == {""}
    assert {own.cases.target[case] for case in _rows(own, dst=1)} == {"", "10.2.5.1"}
    allowed = _plan(TEXT + "hostile: allowed\n")
    assert harmful(allowed) == {"", "10.2.5.1"}
    assert allowed.hostile
    signer = generate(Algorithm.ED25519)
    with pytest.raises(FormatError, match="goes where it must not"):
        open_plan(seal_plan(msgspec.structs.replace(allowed, hostile=False), signer), [signer.public_key()], NOW)
    with pytest.raises(FormatError, match="hostile"):
        load_policy((TEXT + "hostile: yes\n").encode())


@pytest.mark.parametrize(("column", "value"), [("source", "8.8.8.8"), ("target", "10.9.0.1"), ("target", "fd00:2::9")])
def test_a_case_that_leaves_the_policys_blocks_is_refused(plan: Plan, column: str, value: str) -> None:
    cases = msgspec.json.decode(msgspec.json.encode(plan.cases), type=type(plan.cases))
    getattr(cases, column)[_rows(plan, family=4)[0]] = value
    signer = generate(Algorithm.ED25519)
    sealed = seal_plan(msgspec.structs.replace(plan, cases=cases), signer)
    with pytest.raises(FormatError):
        open_plan(sealed, [signer.public_key()], NOW)


def _frame(plan: Plan, case: int, source: str = "", destination: str = "") -> bytes:
    cases = plan.cases
    usual = plan.ends(case)
    ends = packed(source or usual[0]), packed(destination or usual[1])
    kind = parts(cases.profile[case], cases.protocol[case], 0)[0]
    token = plan.tokens().make(Kind.PROBE, [case], [0x200])[0]
    ports = cases.sport[case], cases.dport[case]
    form = plan.templates[f"{kind}/{cases.family[case]}"]
    packet = fill(form, {len(ends[0]): ends}, token, ports=ports, via=ends[1])
    return b"\0" * 12 + (b"\x08\0" if len(ends[0]) == 4 else b"\x86\xdd") + packet


def test_a_mirror_port_counts_what_it_covers_and_not_what_it_shows_twice(plan: Plan) -> None:
    inside = int(NOW.timestamp() * 1e9)
    to_target = _rows(plan, dst=1, src=0, target="10.2.5.1", profile="l4")[0]
    own = _rows(plan, src=1, dst=0, profile="l4", family=4)[0]
    sensor = Sensor(plan, 1)
    sensor.hear(_frame(plan, to_target), False, inside)
    assert sensor.arrivals().case == [to_target]
    sensor.hear(_frame(plan, own), False, inside)
    assert sensor.answers().case == [], "its own probe, seen a second time"
    passing = _rows(plan, src=0, dst=2, profile="l4", family=4)[0]
    sensor.hear(_frame(plan, passing), False, inside)
    assert sensor.arrivals().case == [to_target], "on its way to where this port is no witness"
    sensor.hear(_frame(plan, passing, destination="10.2.5.9"), False, inside)
    assert passing in sensor.arrivals().case, "turned aside into what it covers"
    host = Sensor(msgspec.structs.replace(plan, agents=AGENTS), 1)
    host.hear(_frame(plan, own), False, inside)
    assert host.answers().word == ["reflected"]


class Run:
    """A healthy run in which nothing that is denied passes, until a test lets something arrive."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        cases = plan.cases
        self.seen = [unmoved(plan, agent) for agent in range(3)]
        for case, flow in enumerate(cases.flow):
            if flow:
                for phase in (1, 2, 3) if cases.canary[case] else (2,):
                    self.arrive(case, seq=phase << 8)
                if cases.expect[case] == "open":
                    self.answer(case, "syn-ack")

    def arrive(
        self, case: int, *, seq: int = 0x200, source: str = "", packet: bytes = b"", at: int | None = None
    ) -> None:
        item = self.seen[self.plan.cases.dst[case] if at is None else at]
        item.packets.append((case, 0, (packet or _frame(self.plan, case, source)[14:]).hex()))
        table = item.arrivals
        for column, value in ((table.case, case), (table.seq, seq), (table.time, 0), (table.count, 1)):
            column.append(value)
        table.packet.append(len(item.packets) - 1)

    def answer(self, case: int, word: str) -> None:
        table = self.seen[self.plan.cases.src[case]].answers
        for column, value in ((table.case, case), (table.word, word), (table.source, "10.9.9.9"), (table.count, 1)):
            column.append(value)  # type: ignore[arg-type]

    def judge(self) -> tuple[Judgement, set[str]]:
        judgement = judge(self.plan, "d", self.seen, NOW)
        for finding in judgement.verdict.findings:
            for lang in ("en", "zh"):
                assert "<" not in describe(finding, lang), "every value that a text names is there"
        return judgement, {item.code for item in judgement.verdict.findings if not item.code.startswith(_REMARKS)}


_REMARKS = ("isolation.sweep.", "isolation.coverage.sampled", "isolation.coverage.swept", "isolation.policy.")
SHOWN = {
    "source-port": "isolation.leak.source-port",
    "tcp-flags": "isolation.leak.tcp-flags",
    "icmp": "isolation.leak.icmp",
    "icmp-types": "isolation.leak.icmp-type",
    "icmp-errors": "isolation.leak.icmp-error",
    "sctp": "isolation.leak.sctp",
    "ip-protocols": "isolation.leak.ip-protocol",
    "fragments": "isolation.leak.fragment",
    "ip-options": "isolation.leak.ip-option",
    "source-route": "isolation.leak.source-route",
    "ipv6-ext": "isolation.leak.ipv6-ext",
    "tunnels": "isolation.leak.tunnel",
    "dns": "isolation.leak.dns",
    "spoof": "isolation.leak.spoof",
    "dscp": "isolation.leak.dscp",
    "ttl": "isolation.leak.ttl",
    "large": "isolation.leak.large",
    "pinhole": "isolation.leak.pinhole",
}


@pytest.fixture(scope="module")
def tight() -> Plan:
    """Without sweeps and mirror ports: cases only."""
    text = TEXT.replace("    targets: [{cidr: 10.2.5.0/25, tcp: [554]}]\n", "").replace(
        "{name: a-b, sensor: mirror, covers: [10.2.5.0/24]}", "a-b"
    )
    return _plan(text)


def test_a_healthy_run_passes(tight: Plan) -> None:
    judgement, codes = Run(tight).judge()
    assert codes == set()
    assert judgement.verdict.outcome is Outcome.PASS


@pytest.mark.parametrize(
    "row",
    [row for row in PROBES if row.leak and row.profile != "published"],
    ids=lambda row: f"{row.profile}-{row.name}",
)
def test_each_probe_that_arrives_is_named_by_its_kind(tight: Plan, row: Probe) -> None:
    src, dst = (2, 1) if row.name.endswith("-zone") else (1, 0)
    shown = SHOWN["source-port" if row.name.endswith("-twin") else row.profile]
    family = 4 if 4 in row.families else 6
    cases = _rows(tight, profile=row.profile, protocol=row.name, src=src, dst=dst, family=family)
    run = Run(tight)
    run.arrive(cases[0])
    judgement, codes = run.judge()
    assert codes == {shown}
    assert judgement.verdict.outcome is Outcome.FAIL
    (finding,) = [item for item in judgement.verdict.findings if item.code == shown]
    assert row.name.upper() in finding.data["probes"]
    if row.profile == "tunnels":
        assert finding.data["detail"] == row.name


def test_trusted_source_ports_are_those_of_both_ends_and_of_what_answers(plan: Plan) -> None:
    def pairs(src: int, dst: int, protocol: str) -> set[tuple[int, int]]:
        rows = _rows(plan, src=src, dst=dst, protocol=protocol, family=4, target="")
        named = [row for row in rows if plan.cases.profile[row] == "source-port" or protocol.endswith("-twin")]
        return {(plan.cases.sport[row], plan.cases.dport[row]) for row in named}

    assert {(53, 53), (20, 53)} <= pairs(0, 1, "udp"), "SIP, NTP and DNS use one port at both ends"
    assert (53, 53) in pairs(1, 0, "udp-twin"), "the other way round it waits until the first is through"
    assert (53, 53) not in pairs(1, 0, "udp")
    answers = {sport for sport, dport in pairs(1, 0, "tcp-ack") if dport >= 20_000}
    assert answers == {9200}, "b may be asked on 9200, so a router without state lets 9200 in"
    assert {9200, 20} <= {sport for sport, dport in pairs(1, 0, "tcp") if dport >= 20_000}
    assert 514 in {sport for sport, dport in pairs(1, 0, "udp") if dport >= 20_000}
    assert pairs(0, 1, "tcp-ack") == set()


def test_what_comes_back_between_the_same_ports_is_an_answer(tight: Plan) -> None:
    run = Run(tight)
    (first,) = _rows(tight, profile="source-port", protocol="udp", src=0, dst=1, family=4, sport=53, dport=53)
    (twin,) = _rows(tight, profile="pinhole", protocol="udp-twin", src=1, dst=0, family=4, sport=53, dport=53)
    run.arrive(first)
    run.arrive(twin)
    assert run.judge()[1] == {"isolation.leak.source-port", "isolation.leak.pinhole"}
    run = Run(tight)
    for profile in ("tcp-flags", "source-port"):
        run.arrive(_rows(tight, profile=profile, protocol="tcp-ack", src=1, dst=0, family=4)[0])
    assert run.judge()[1] == {"isolation.leak.tcp-flags"}, "any ACK passes, whatever its ports"


def test_a_source_route_that_got_through_is_named(tight: Plan) -> None:
    for protocol in ("opt-lsrr", "rh0", "rh4"):
        (case,) = _rows(tight, profile="source-route", protocol=protocol, src=1, dst=0)
        kind = parts("source-route", protocol, 1)[0]
        family = tight.cases.family[case]
        ends = tuple(map(packed, tight.ends(case)))
        token = tight.tokens().make(Kind.PROBE, [case], [0x201])[0]
        run = Run(tight)
        run.arrive(case, packet=fill(tight.templates[f"{kind}/{family}"], {len(ends[0]): ends}, token, ports=(1, 2)))
        assert run.judge()[1] == {"isolation.leak.source-route"}


def test_what_a_plain_probe_shows_is_not_blamed_on_a_special_one(tight: Plan) -> None:
    for profile, protocol, plain in (
        ("dscp", "dscp-ef", _rows(tight, profile="l4", protocol="udp", src=1, dst=0, family=4, dport=53)[0]),
        ("pinhole", "udp-other", _rows(tight, profile="pinhole", protocol="udp-cold", src=1, dst=0, family=4)[0]),
    ):
        special = _rows(tight, profile=profile, protocol=protocol, src=1, dst=0, family=4)[0]
        run = Run(tight)
        run.arrive(special)
        run.arrive(plain)
        assert run.judge()[1] == {"isolation.leak.one-way"}


def test_everything_that_passes_is_one_finding(tight: Plan) -> None:
    run = Run(tight)
    for case in _rows(tight, src=2, dst=1):
        run.arrive(case)
    judgement, codes = run.judge()
    assert codes == {"isolation.leak.unfiltered"}
    (finding,) = [item for item in judgement.verdict.findings if item.outcome is Outcome.FAIL]
    assert (finding.where, finding.data["families"]) == ("c -> b", "IPv4")


def test_a_token_in_a_quote_and_one_in_an_unexpected_tunnel_are_named(tight: Plan) -> None:
    (case,) = _rows(tight, profile="l4", protocol="udp", src=1, dst=0, family=4, dport=514)
    probe_packet = IP(_frame(tight, case)[14:])
    from scapy.layers.inet import GRE, ICMP

    for outer, code in (
        (IP(src="10.1.0.1", dst="10.1.0.2") / ICMP(type=3, code=13) / probe_packet, "isolation.leak.quote"),
        (IP(src="10.9.0.1", dst="10.1.0.2") / GRE() / probe_packet, "isolation.leak.tunnel"),
    ):
        run = Run(tight)
        run.arrive(case, packet=bytes(outer))
        assert run.judge()[1] == {code}


def test_a_relay_is_named_by_what_it_obeyed(tight: Plan) -> None:
    (case,) = _rows(tight, profile="l4", protocol="tcp", src=1, dst=0, family=4, dport=22)
    for seq, words in ((0, "bare data"), (1, "HTTP CONNECT"), (9, "HTTP CONNECT"), (2, "SIP request")):
        run = Run(tight)
        run.answer(case, "syn-ack")
        run.arrive(case, seq=seq, source="10.1.0.1")
        judgement, codes = run.judge()
        assert codes == {"isolation.leak.relay"}
        (finding,) = [item for item in judgement.verdict.findings if item.code == "isolation.leak.relay"]
        assert finding.data["detail"].startswith(words)


def test_a_target_that_no_sensor_covers_is_one_sided_and_never_a_pass(plan: Plan) -> None:
    deaf = msgspec.structs.replace(
        plan, sweeps=(), agents=tuple(msgspec.structs.replace(a, covers=(), mirror=False) for a in plan.agents)
    )
    judgement, codes = Run(deaf).judge()
    assert codes == {"isolation.coverage.one-sided"}
    assert judgement.verdict.outcome is Outcome.UNKNOWN
    for word, result in (("rst", "unheard"), ("syn-ack", "accepted")):
        run = Run(deaf)
        (case,) = _rows(deaf, target="10.2.5.1", src=0, profile="l4", protocol="tcp", dport=22)
        run.answer(case, word)
        judgement, _ = run.judge()
        assert (judgement.results.result[case], judgement.results.outcome[case]) == (result, "unknown")
    heard = Run(msgspec.structs.replace(plan, sweeps=())).judge()[0]
    assert heard.verdict.outcome is Outcome.PASS, "a mirror port that covers the target hears that nothing came"


def test_hostile_probes_are_told_in_the_report(tight: Plan) -> None:
    judgement, _ = Run(msgspec.structs.replace(tight, hostile=True)).judge()
    assert "isolation.policy.hostile" in {item.code for item in judgement.verdict.findings}
    assert judgement.verdict.outcome is Outcome.PASS


def test_clocks_that_differ_change_no_result(tight: Plan) -> None:
    """Led by orders, no result compares times of two agents: skewed by hours, the same observations say the same."""
    results = []
    for skew in (0, 3_600_000_000_000, -7_200_000_000_000):
        run = Run(msgspec.structs.replace(tight, controller="led"))
        (case,) = _rows(tight, profile="dns", src=1, dst=0, family=4)
        run.arrive(case)
        run.seen[0].arrivals.time = [at + skew for at in run.seen[0].arrivals.time]
        run.seen[0].started += skew
        run.seen[0].ended += skew
        results.append(run.judge()[0].results.result)
    assert results[0] == results[1] == results[2]


def test_tokens_outside_the_window_of_a_wrong_clock_never_count(tight: Plan) -> None:
    (case,) = _rows(tight, profile="l4", protocol="udp", src=1, dst=0, family=4, dport=514)
    for at, arrived in ((tight.not_before, 1), (tight.not_after, 1)):
        sensor = Sensor(tight, 0)
        sensor.hear(_frame(tight, case), False, int(at.timestamp() * 1e9))
        assert len(sensor.arrivals().case) == arrived
    late = Sensor(tight, 0)
    late.hear(_frame(tight, case), False, int(tight.not_after.timestamp() * 1e9) + 2_000_000_000)
    assert late.arrivals().case == []
    assert late.strange().status == ["foreign"], "told, and the run is not a pass"


def test_what_a_template_holds_until_it_is_filled_belongs_to_nobody() -> None:
    """Addresses reserved for benchmarks (RFC 2544, RFC 5180)."""
    reserved = [ipaddress.ip_network(text) for text in ("198.18.0.0/15", "2001:2::/48")]
    from secguard.isolation.probes.recipes import DESTINATION, SOURCE, VIA

    for ends in (SOURCE, DESTINATION, VIA):
        for version, text in ends.items():
            assert any(ipaddress.ip_address(text) in network for network in reserved if network.version == version)
