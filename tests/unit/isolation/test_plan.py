"""The plan: compiled cases, unique 5-tuples, signature, window, and edited documents."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core import FormatError, RefusedError, SecguardError, UsageError
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import PLAN_TYPE, AgentInfo, Plan, open_plan, seal_plan
from secguard.isolation.policy.policy import load_policy
from secguard.keys import Algorithm, generate, seal

NOW = datetime(2026, 10, 1, tzinfo=UTC)
SIGNER = generate(Algorithm.ED25519)
TEXT = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  a: {ipBlocks: [{cidr: 10.1.0.0/16, except: [10.1.9.0/24]}, {cidr: "fd00:1::/64"}], agents: [a-a]}
  b: {ipBlocks: [{cidr: 10.2.0.0/16}, {cidr: "fd00:2::/64"}], agents: [a-b]}
flows:
- {name: media, src: a, dst: b, ports: [{protocol: UDP, port: 30000, endPort: 30100}], expect: one-way}
- {name: es, src: a, dst: b, ports: [{protocol: TCP, port: 9200}], canary: true}
- {name: old, src: b, dst: a, ports: [{protocol: TCP, port: 22}], expires: 2026-09-30}
- {name: ping, src: b, dst: a, ports: [{protocol: ICMP}]}
"""
POLICY = load_policy(TEXT.encode())
AGENTS = (AgentInfo("a-a", "a", ("10.1.0.2", "fd00:1::2")), AgentInfo("a-b", "b", ("10.2.0.2", "fd00:2::2")))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile_plan(POLICY, AGENTS, NOW)


def _expect(plan: Plan, src: int, protocol: str, port: int) -> set[str]:
    cases = plan.cases
    return {
        cases.expect[i]
        for i in range(len(cases))
        if (cases.src[i], cases.protocol[i], cases.dport[i], cases.profile[i]) == (src, protocol, port, "l4")
    }


def test_flows_become_expectations(plan: Plan) -> None:
    assert (
        _expect(plan, 0, "udp", 30000)
        == _expect(plan, 0, "udp", 30050)
        == _expect(plan, 0, "udp", 30100)
        == {"one-way"}
    )
    assert _expect(plan, 0, "udp", 29999) == _expect(plan, 0, "udp", 30101) == {"deny"}, "neighbours of a range"
    assert _expect(plan, 0, "tcp", 9200) == {"open"}
    assert _expect(plan, 1, "tcp", 9200) == {"deny"}, "a flow has a direction"
    assert _expect(plan, 1, "tcp", 22) == {"deny"}, "past its date"
    assert plan.expired == ("old",)
    assert plan.sampled == {"media": (101, 3)}
    cases = plan.cases
    icmp = {cases.src[i]: cases.expect[i] for i in range(len(cases)) if cases.profile[i] == "icmp"}
    assert icmp == {0: "deny", 1: "open"}
    assert {cases.family[i] for i in range(len(cases))} == {4, 6}


def test_ports_of_flows_past_their_date_or_between_other_zones_are_probed() -> None:
    text = TEXT.replace("port: 22}", "port: 8443}").replace("port: 9200}", "port: 19200}")
    found = compile_plan(load_policy(text.encode()), AGENTS, NOW)
    assert _expect(found, 1, "tcp", 8443) == {"deny"}, "past its date: a rule may have been left behind"
    assert _expect(found, 1, "tcp", 19200) == {"deny"}, "the other way round: a rule may name no interface"
    assert _expect(found, 0, "tcp", 8443) == {"deny"}
    assert _expect(found, 1, "udp", 30050) == {"deny"}


def test_a_canary_is_a_case_of_every_phase(plan: Plan) -> None:
    cases = plan.cases
    canaries = {cases.profile[i] for i in range(len(cases)) if cases.canary[i]}
    late = {cases.dport[i] for i in range(len(cases)) if cases.profile[i] == "outbound" and cases.expect[i] == "open"}
    assert (canaries, late) == ({"l4"}, {9200}), "outbound is sent late in the scan: it cannot arrive before"


def test_no_two_cases_share_a_five_tuple_in_either_direction(plan: Plan) -> None:
    cases = plan.cases
    seen: set[tuple[object, ...]] = set()
    for i in range(len(cases)):
        head = cases.protocol[i], cases.family[i]
        there = (*head, cases.src[i], cases.dst[i], cases.sport[i], cases.dport[i])
        back = (*head, cases.dst[i], cases.src[i], cases.dport[i], cases.sport[i])
        assert there not in seen
        seen |= {there, back}


def test_two_runs_share_neither_key_nor_id(plan: Plan) -> None:
    other = compile_plan(POLICY, AGENTS, NOW)
    assert (other.run, other.secret) != (plan.run, plan.secret)


def test_only_the_policys_blocks_are_permitted(plan: Plan) -> None:
    assert plan.permits("10.1.0.2")
    assert plan.permits("fd00:2::2")
    assert not plan.permits("10.1.9.1"), "an exception of the block"
    assert not plan.permits("10.3.0.1")
    assert not plan.permits("8.8.8.8")


def test_a_family_that_no_agent_can_probe_is_told() -> None:
    agents = (AGENTS[0], AgentInfo("a-b", "b", ("10.2.0.2",)))
    assert compile_plan(POLICY, agents, NOW).uncovered == (("a", "b", 6), ("b", "a", 6))


def test_agents_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="outside zone"):
        compile_plan(POLICY, (AGENTS[0], AgentInfo("a-b", "b", ("10.1.0.9",))), NOW)
    with pytest.raises(UsageError, match="no agent in zone b"):
        compile_plan(POLICY, AGENTS[:1], NOW)
    spared = load_policy((TEXT + "limits: {exclude: [10.2.0.0/30]}\n").encode())
    with pytest.raises(UsageError, match="spares"):
        compile_plan(spared, AGENTS, NOW)
    with pytest.raises(UsageError, match="nothing to probe"):
        compile_plan(POLICY, (AgentInfo("a-a", "a", ()), AgentInfo("a-b", "b", ())), NOW)


def test_signed_plan_opens_inside_its_window_only(plan: Plan) -> None:
    data = seal_plan(plan, SIGNER)
    again, digest = open_plan(data, [SIGNER.public_key()], NOW)
    assert again == plan
    assert len(digest) == 64
    for at in (NOW - timedelta(minutes=1), plan.not_after + timedelta(seconds=1)):
        with pytest.raises(RefusedError) as error:
            open_plan(data, [SIGNER.public_key()], at)
        assert error.value.code == "isolation.plan.window"
    with pytest.raises(RefusedError, match="not signed"):
        open_plan(data, [generate(Algorithm.ED25519).public_key()], NOW)


@given(st.data())
@settings(max_examples=150)
def test_a_plan_edited_by_one_byte_is_refused(plan: Plan, data: st.DataObject) -> None:
    sealed = bytearray(seal_plan(plan, SIGNER))
    at = data.draw(st.integers(0, len(sealed) - 2))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((FormatError, RefusedError)):
        open_plan(bytes(sealed), [SIGNER.public_key()], NOW)


EDITS = {
    "v": 2,
    "run": "00",
    "secret": "zz",
    "attempts": 0,
    "rate": 0,
    "timeout": 1000.0,
    "agents": (),
    "zones": {"a": (), "b": ()},
    "templates": {},
    "not_before": datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_plan_that_makes_no_sense_is_refused_even_if_signed(plan: Plan, name: str) -> None:
    changed = msgspec.structs.replace(plan, **{name: EDITS[name]})
    with pytest.raises(FormatError):
        open_plan(seal_plan(changed, SIGNER), [SIGNER.public_key()], NOW)


@pytest.mark.parametrize(
    ("column", "value"), [("src", 7), ("family", 5), ("dport", 70000), ("sport", -1), ("protocol", "x")]
)
def test_a_case_that_makes_no_sense_is_refused(plan: Plan, column: str, value: object) -> None:
    cases = msgspec.json.decode(msgspec.json.encode(plan.cases), type=type(plan.cases))
    getattr(cases, column)[0] = value
    with pytest.raises(FormatError):
        open_plan(seal_plan(msgspec.structs.replace(plan, cases=cases), SIGNER), [SIGNER.public_key()], NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"sources": ()},
        {"destinations": ((0, 4),)},
        {"token": 5000},
        {"sport": 5000},
        {"idents": (-1,)},
        {"sums": ((0, 0, 5000, 0, 0),)},
        {"sums": ((0, 0, 4, 17, 3),)},
        {"data": b"E"},
        {"data": b"\x65" + b"\0" * 60},
    ],
)
def test_a_template_that_would_send_elsewhere_is_refused(plan: Plan, change: dict[str, object]) -> None:
    form = msgspec.structs.replace(plan.templates["udp/4"], **change)
    changed = msgspec.structs.replace(plan, templates={**plan.templates, "udp/4": form})
    with pytest.raises(FormatError):
        open_plan(seal_plan(changed, SIGNER), [SIGNER.public_key()], NOW)


_WORDS = st.text("avxé", max_size=8)


@given(st.recursive(st.none() | st.integers() | _WORDS, lambda x: st.dictionaries(_WORDS, x, max_size=4), max_leaves=8))
def test_any_signed_json_is_a_plan_or_refused(value: object) -> None:
    with pytest.raises(SecguardError):
        open_plan(seal(msgspec.json.encode(value), PLAN_TYPE, SIGNER), [SIGNER.public_key()], NOW)
