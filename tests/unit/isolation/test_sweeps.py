"""Sweeps in the plan: targets as the policy names them, who hears them, samples, source ports, rounds; edited plans."""

import ipaddress
import itertools
from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, SecguardError, UsageError
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import PLAN_TYPE, AgentInfo, Plan, open_plan, seal_plan
from secguard.isolation.plan.sweeps import MAX_PROBES, Sweep, rounds
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.policy.targets import port_ranges
from secguard.isolation.sweep.sweeper import Sweeper
from secguard.isolation.wire import wire
from secguard.keys import Algorithm, generate, seal

NOW = datetime(2026, 10, 1, tzinfo=UTC)
SIGNER = generate(Algorithm.ED25519)
AGENTS = (AgentInfo("a-a", "a", ("10.1.0.2", "fd00:1::2")), AgentInfo("a-b", "b", ("10.2.0.2", "fd00:2::2")))
TEXT = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  a:
    ipBlocks: [{{cidr: 10.1.0.0/16, except: [10.1.9.0/24]}}, {{cidr: "fd00:1::/64"}}]
    agents: [{{name: a-a, covers: [10.1.1.0/24]}}]
    targets: [{targets}]
  b: {{ipBlocks: [{{cidr: 10.2.0.0/16}}, {{cidr: "fd00:2::/64"}}], agents: [a-b]}}
flows:
- {{name: rtsp, src: b, dst: a, ports: [{{protocol: TCP, port: 554}}]}}
profiles: []
limits: {{exclude: [10.1.200.0/24], attempts: {attempts}, ratePps: {rate}}}
"""


def _plan(*targets: str, attempts: int = 3, rate: int = 1000) -> Plan:
    policy = load_policy(TEXT.format(targets=", ".join(targets), attempts=attempts, rate=rate).encode())
    return compile_plan(policy, AGENTS, NOW)


def _hosts(plan: Plan, sweep: Sweep) -> list[str]:
    rows = sweep.addresses(bytes.fromhex(plan.secret), bytes.fromhex(plan.run))
    return [str(ipaddress.ip_address(row.tobytes())) for row in rows]


def test_a_target_is_every_host_but_what_is_spared() -> None:
    plan = _plan("{cidr: 10.1.0.0/16, tcp: [22, 554, 8000-8010], icmp: true}")
    assert {sweep.protocol for sweep in plan.sweeps} == {"tcp", "icmp"}
    hosts = [text for sweep in plan.sweeps if sweep.protocol == "tcp" for text in _hosts(plan, sweep)]
    assert len(hosts) == len(set(hosts)) == 65534 - 2 * 256
    left_out = ("10.1.0.0", "10.1.255.255", "10.1.9.7", "10.1.200.1")
    assert not set(left_out) & set(hosts), "network, broadcast, the zone's exception, what limits exclude"
    assert {sweep.ports for sweep in plan.sweeps if sweep.protocol == "tcp"} == {((22, 22), (8000, 8010))}, (
        "554 is allowed: anything may answer there"
    )


def test_who_hears_what() -> None:
    plan = _plan("{cidr: 10.1.0.0/22, udp: [161]}")
    heard = {hearing: _hosts(plan, sweep) for sweep in plan.sweeps for hearing in [sweep.hearing]}
    assert heard[0,] == ["10.1.0.2", *(f"10.1.1.{number}" for number in range(256))]
    assert len(heard[()]) == 1022 - 257


def test_a_sixteen_by_twenty_ports_stays_small() -> None:
    plan = _plan("{cidr: 10.1.0.0/16, tcp: [1-20]}", rate=100_000)
    assert sum(sweep.size for sweep in plan.sweeps) > 1_300_000
    assert len(msgspec.json.encode(plan.sweeps)) < 2000
    pieces = [piece for step in rounds(plan.sweeps, 3, 100_000) for mine in step.values() for piece in mine]
    assert sum(piece.last - piece.first for piece in pieces) == sum(sweep.size for sweep in plan.sweeps)


def test_a_sample_is_even_known_to_the_key_and_to_nobody_else() -> None:
    plan, other = (_plan("{cidr: 10.1.0.0/20, tcp: [80], sample: 100}") for _ in range(2))
    hosts = [text for sweep in plan.sweeps for text in _hosts(plan, sweep)]
    assert len(hosts) == 100
    assert hosts == [text for sweep in plan.sweeps for text in _hosts(plan, sweep)], "the same at every agent"
    assert hosts != [text for sweep in other.sweeps for text in _hosts(other, sweep)]
    assert len({text.rpartition(".")[0] for text in hosts}) >= 14, "each /24 of the block but the one left out"


def test_ipv6_is_sampled_and_small_blocks_are_whole() -> None:
    plan = _plan('{cidr: "fd00:1::/64", tcp: [80], sample: 50}', '{cidr: "fd00:1::ffff:fff0/124", tcp: [81]}')
    wide = [text for sweep in plan.sweeps if sweep.cidr == "fd00:1::/64" for text in _hosts(plan, sweep)]
    assert len(wide) == len(set(wide)) == 50
    small = [text for sweep in plan.sweeps if sweep.cidr != "fd00:1::/64" for text in _hosts(plan, sweep)]
    assert small == [f"fd00:1::ffff:fff{digit}" for digit in "123456789abcdef"]


def test_a_span_that_crosses_a_word_keeps_counting() -> None:
    sweep = Sweep(
        start=0, protocol="tcp", family=6, src=0, zone="a", cidr="fd00:1::/64", ports=((1, 1),), sport=1,
        ranges=(("fd00:1::ffff:fffe", "fd00:1::1:0:1"),),
    )  # fmt: skip
    rows = sweep.addresses(b"", b"")
    assert [str(ipaddress.ip_address(row.tobytes())) for row in rows] == [
        "fd00:1::ffff:fffe", "fd00:1::ffff:ffff", "fd00:1::1:0:0", "fd00:1::1:0:1",
    ]  # fmt: skip


def test_no_two_probes_share_a_tuple_in_either_direction() -> None:
    text = TEXT.format(targets="{cidr: 10.1.0.0/30, tcp: [59990-65535], udp: [60000-65535]}", attempts=2, rate=1000)
    text = text.replace("agents: [a-b]}", "agents: [a-b], targets: [{cidr: 10.2.0.2/32, tcp: [59990-65535]}]}")
    plan = compile_plan(load_policy(text.encode()), AGENTS, NOW)
    seen: set[tuple[str, frozenset[tuple[str, int]]]] = set()
    total = 0
    for sweep in plan.sweeps:
        source = AGENTS[sweep.src].address(4)
        for host in _hosts(plan, sweep):
            for port in sweep.port_column().tolist():
                seen.add((sweep.protocol, frozenset([(source, sweep.sport), (host, port)])))
                total += 1
    assert len(seen) == total > 20_000


def test_too_much_is_refused_before_it_is_made() -> None:
    with pytest.raises(UsageError) as caught:
        _plan("{cidr: 10.1.0.0/16, tcp: [1-65535]}")
    assert "sample" in caught.value.hint
    assert caught.value.code == "isolation.plan.too-large"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{cidr: 10.3.0.0/24, tcp: [1]}", "in no block"),
        ("{cidr: 10.1.0.0/24}", "name ports"),
        ("{cidr: 10.1.0.0/24, tcp: [0]}", "not a port"),
        ("{cidr: 10.1.0.0/24, tcp: [9-3]}", "not a port"),
        ("{cidr: 10.1.0.0/24, udp: [1-99999]}", "not a port"),
        ('{cidr: "fd00:1::/64", tcp: [1]}', "sample"),
        ("{cidr: what, tcp: [1]}", "what"),
    ],
)
def test_a_target_that_cannot_be_names_its_line(target: str, said: str) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        _plan(target)
    assert caught.value.code == "isolation.policy.target"
    assert caught.value.where.endswith(":7")


def test_what_a_sensor_covers_lies_in_its_zone() -> None:
    text = TEXT.format(targets="", attempts=2, rate=1000).replace("covers: [10.1.1.0/24]", "covers: [10.2.1.0/24]")
    with pytest.raises(FormatError) as caught:
        load_policy(text.encode())
    assert caught.value.code == "isolation.policy.covers"


@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 300)), min_size=1, max_size=20))
def test_ports_merge(pairs: list[tuple[int, int]]) -> None:
    items = [f"{first}-{min(65535, first + more)}" for first, more in pairs]
    wanted = {port for first, more in pairs for port in range(first, min(65535, first + more) + 1)}
    merged = port_ranges(items)
    assert {port for first, last in merged for port in range(first, last + 1)} == wanted
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(merged))


EDITS = {
    "another start": {"start": 7},
    "an agent that is not there": {"src": 9},
    "ears that are not there": {"hearing": (5,)},
    "outside its zone": {"cidr": "10.2.0.0/24", "ranges": (("10.2.0.1", "10.2.0.9"),)},
    "ranges outside the target": {"ranges": (("10.1.0.1", "10.1.99.1"),)},
    "ranges backwards": {"ranges": (("10.1.1.9", "10.1.1.1"),)},
    "what is excluded": {"cidr": "10.1.0.0/16", "ranges": (("10.1.199.1", "10.1.201.1"),)},
    "a zone's exception": {"cidr": "10.1.0.0/16", "ranges": (("10.1.9.1", "10.1.9.1"),)},
    "another family": {"family": 6},
    "no ports": {"ports": ()},
    "ports backwards": {"ports": ((9, 3),)},
    "ports too high": {"ports": ((1, 70000),)},
    "no source port": {"sport": 0},
    "too large a sample": {"sample": 1 << 20},
    "another protocol": {"protocol": "sctp"},
    "too many probes": {"cidr": "10.1.0.0/16", "ranges": (("10.1.0.1", "10.1.8.255"),), "ports": ((1, 65535),)},
    "no address": {"ranges": (("10.1.1.1", "x"),)},
}


@pytest.mark.parametrize("name", EDITS)
def test_a_sweep_that_does_not_fit_is_refused(name: str) -> None:
    plan = _plan("{cidr: 10.1.1.0/24, tcp: [22]}")
    assert open_plan(seal_plan(plan, SIGNER), [SIGNER.public_key()])[0].sweeps == plan.sweeps
    document = msgspec.to_builtins(plan)
    document["sweeps"][0].update(EDITS[name])
    if name == "too many probes":
        assert MAX_PROBES < 2303 * 65535
    with pytest.raises(SecguardError) as caught:
        open_plan(seal(msgspec.json.encode(document), PLAN_TYPE, SIGNER), [SIGNER.public_key()])
    assert caught.value.code == "isolation.plan.format"


def test_the_window_covers_the_rounds() -> None:
    plan = _plan("{cidr: 10.1.0.0/16, tcp: [22]}", attempts=3, rate=1000)
    assert (plan.not_after - plan.not_before).total_seconds() > 65_000 * 3 / 1000


@pytest.mark.parametrize(
    ("hop", "said"),
    [
        ("", "10.1.3.0/30 is not swept: it is on this agent's own link"),
        ("10.2.0.1", ""),
        ("10.2.0.9", "no single next hop"),
    ],
)
def test_what_cannot_be_swept_is_said_with_its_reason(hop: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan("{cidr: 10.1.3.0/30, tcp: [22]}")
    monkeypatch.setattr(wire, "route", lambda there, _source: wire.Route("eth0", hop or there))
    neighbours = {bytes([10, 2, 0, 1]): b"\2" * 6, **{bytes([10, 1, 3, host]): b"\3" * 6 for host in (1, 2)}}
    session = SimpleNamespace(
        plan=plan, me=1, info=plan.agents[1], problems=[], digest="",
        sensor=SimpleNamespace(hear=None, neighbours=neighbours),
        wire=SimpleNamespace(interface=wire.Interface("eth0", b"\1" * 6, ())),
    )  # fmt: skip
    Sweeper(session)  # type: ignore[arg-type] # what of a session matters before anything is sent
    assert [said in problem for problem in session.problems] == ([True] if said else [])
