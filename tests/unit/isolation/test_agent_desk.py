"""What an agent refuses: plans and orders that are forged, edited, old, foreign, replayed, or for somebody else."""

import contextlib
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core import FixedClock, RefusedError, SecguardError, SystemClock
from secguard.isolation.agent import desk as desk_module
from secguard.isolation.agent.control import (
    ORDER_TYPE,
    Answer,
    Controller,
    Message,
    answer,
    open_answer,
    open_message,
    open_order,
)
from secguard.isolation.agent.credentials import Trust, chain_text, fingerprint, stands_for
from secguard.isolation.agent.desk import Desk, Self
from secguard.isolation.agent.keys import spki
from secguard.isolation.agent.memory import Memory
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan, open_plan, seal_plan
from secguard.isolation.policy.policy import load_policy
from secguard.keys import Algorithm, generate, seal

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from agent_kit import POLICY, Pki, make_pki

OPERATOR = generate(Algorithm.ED25519)
CONTROLLER = generate(Algorithm.ED25519)
ME = generate(Algorithm.ED25519)
NOW = SystemClock().now()


@pytest.fixture(scope="module")
def plan() -> Plan:
    infos = [
        AgentInfo("a-left", "left", ("10.91.0.1",), spki(ME.public_key())),
        AgentInfo("a-right", "right", ("10.91.0.2",), spki(generate(Algorithm.ED25519).public_key())),
    ]
    made = compile_plan(load_policy(POLICY.encode()), infos, NOW)
    return msgspec.structs.replace(made, controller=spki(CONTROLLER.public_key()))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A desk that accepts a plan is as far as these tests go."""

    class Quiet:
        def __init__(self, plan: Plan, *_: object) -> None:
            self.plan = plan
            self.problems = ["no network in this test"]

        def close(self) -> None:
            self.problems.append("closed")

    monkeypatch.setattr(desk_module, "Session", Quiet)
    monkeypatch.setattr(desk_module, "ready", lambda _: None)
    monkeypatch.setattr(desk_module, "phase", lambda *_: None)
    monkeypatch.setattr(desk_module, "wait", lambda *_: None)


class Talk:
    """A desk, and what it said."""

    def __init__(self, memory: Path | None = None, *, me: Self | None = None, clock=None, trust=None) -> None:
        self.said: list[Answer] = []
        trust = trust or Trust([OPERATOR.public_key()])
        own = me or Self("a-left", ME, zone="left")
        self.desk = Desk(own, trust, clock or FixedClock(NOW), self._hear, memory)
        self.key = own.signer.public_key()

    def _hear(self, line: bytes) -> None:
        self.said.append(open_answer(open_message(line), self.key))

    def tell(self, *lines: bytes | None) -> "Talk":
        with contextlib.suppress(SecguardError):
            self.desk.serve(iter(lines))
        return self

    @property
    def codes(self) -> list[str]:
        return [said.error.code if said.error else said.op for said in self.said]


def orders(plan: Plan, *, envelope: bytes = b"", signer=CONTROLLER, agent: str = "a-left", operator=OPERATOR):
    """Orders of a run: its plan, a phase."""
    sealed = envelope or seal_plan(plan, operator)
    digest = open_plan(seal_plan(plan, OPERATOR), [OPERATOR.public_key()])[1]
    controller = Controller(signer)
    first = controller.order(agent, plan.run, digest, "plan", document=sealed)
    return first, controller.order(agent, plan.run, digest, "phase", number=1), controller, digest


def test_a_right_plan_and_its_orders_are_taken(plan: Plan, tmp_path: Path) -> None:
    first, second, _, _ = orders(plan)
    talk = Talk(tmp_path).tell(first, second)
    assert talk.codes == ["plan", "phase"]
    assert talk.said[0].problems == ("no network in this test",)
    assert [said.seq for said in talk.said] == [1, 2]
    assert talk.desk._session.problems[-1] == "closed", "its sockets, once all is said"
    assert len({said.nonce for said in talk.said}) == 2


def test_a_plan_runs_once_even_after_a_restart(plan: Plan, tmp_path: Path) -> None:
    first, second, _, _ = orders(plan)
    assert Talk(tmp_path).tell(first, second).codes == ["plan", "phase"]
    assert Talk(tmp_path).tell(first).codes == ["isolation.plan.replayed"]
    other = msgspec.structs.replace(plan, run="ab" * 16)
    assert Talk(tmp_path).tell(orders(other)[0]).codes == ["plan"]
    assert (tmp_path / "runs").stat().st_mode & 0o077 == 0
    assert (tmp_path / "runs").read_text().count("\n") == 2


def test_one_plan_at_a_time(plan: Plan, tmp_path: Path) -> None:
    first, _, controller, digest = orders(plan)
    with Memory(tmp_path), pytest.raises(RefusedError, match="another plan"), Memory(tmp_path):
        pass
    with Memory(tmp_path):
        assert Talk(tmp_path).tell(first).codes == ["isolation.agent.busy"]
    again = controller.order("a-left", plan.run, digest, "plan", document=seal_plan(plan, OPERATOR))
    assert Talk(tmp_path).tell(first, again).codes == ["plan", "isolation.agent.busy"]


def test_a_cut_off_memory_still_remembers(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text(f"{plan.run} 2026")
    assert Talk(tmp_path).tell(orders(plan)[0]).codes == ["isolation.plan.replayed"]
    other = msgspec.structs.replace(plan, run="cd" * 16)
    assert Talk(tmp_path).tell(orders(other)[0]).codes == ["plan"]
    assert Talk(tmp_path).tell(orders(other)[0]).codes == ["isolation.plan.replayed"]


@pytest.mark.parametrize(("days", "name"), [(-1, "early"), (40, "late")])
def test_outside_its_window(plan: Plan, tmp_path: Path, days: int, name: str) -> None:
    talk = Talk(tmp_path, clock=FixedClock(NOW + timedelta(days=days))).tell(orders(plan)[0])
    assert talk.codes == ["isolation.plan.window"], name
    assert talk.said[0].error is not None
    assert "\n" not in talk.said[0].error.message
    assert not (tmp_path / "runs").exists(), "nothing is remembered of what was refused"


def test_signed_by_whom_nobody_knows(plan: Plan, tmp_path: Path) -> None:
    stranger = generate(Algorithm.ED25519)
    assert Talk(tmp_path).tell(orders(plan, operator=stranger)[0]).codes == ["isolation.plan.signature"]


def test_for_another_agent_key_or_zone(plan: Plan, tmp_path: Path) -> None:
    first = orders(plan)[0]
    assert Talk(tmp_path, me=Self("a-left", ME, zone="right")).tell(first).codes == ["isolation.plan.zone"]
    other = Self("a-left", generate(Algorithm.ED25519))
    assert Talk(tmp_path, me=other).tell(first).codes == ["isolation.plan.key"]
    right = Self("a-right", generate(Algorithm.ED25519))
    assert Talk(tmp_path, me=right).tell(first).codes == ["isolation.control.agent"]
    assert Talk(tmp_path, me=right).tell(orders(plan, agent="a-right")[0]).codes == ["isolation.plan.key"]
    stranger = Self("a-third", ME)
    assert Talk(tmp_path, me=stranger).tell(orders(plan, agent="a-third")[0]).codes == ["isolation.agent.unknown"]
    agents = (msgspec.structs.replace(plan.agents[0], certificate="ab" * 32), *plan.agents[1:])
    renewed = msgspec.structs.replace(plan, agents=agents)
    assert Talk(tmp_path).tell(orders(renewed)[0]).codes == ["isolation.plan.key"]
    keyless = msgspec.structs.replace(plan, agents=(msgspec.structs.replace(plan.agents[0], key=""), plan.agents[1]))
    assert Talk(tmp_path).tell(orders(keyless)[0]).codes == ["isolation.plan.key"]


def test_orders_of_another_run_of_a_stranger_or_again(plan: Plan, tmp_path: Path) -> None:
    first, second, controller, digest = orders(plan)
    stranger = Controller(generate(Algorithm.ED25519))
    stranger.order("a-left", plan.run, digest, "stop")
    forged = stranger.order("a-left", plan.run, digest, "phase", number=1)
    assert Talk().tell(first, forged).codes == ["plan", "isolation.control.signature"]
    assert Talk().tell(orders(plan, signer=generate(Algorithm.ED25519))[0]).codes == ["isolation.control.signature"]
    assert Talk().tell(first, second, second).codes == ["plan", "phase", "isolation.control.replayed"]
    foreign = controller.order("a-left", "ab" * 16, digest, "phase", number=1)
    assert Talk().tell(first, foreign).codes == ["plan", "isolation.control.run"]
    elsewhere = controller.order("a-right", plan.run, digest, "phase", number=1)
    assert Talk().tell(first, elsewhere).codes == ["plan", "isolation.control.agent"]
    assert len(Talk().tell(second).codes) == 1, "an order without a plan"
    fourth = controller.order("a-left", plan.run, digest, "phase", number=4)
    assert Talk().tell(first, fourth).codes == ["plan", "isolation.control.phase"]
    assert Talk().tell(b"hello\n").codes == ["isolation.control.format"]
    ended = controller.order("a-left", plan.run, digest, "stop")
    assert Talk().tell(first, ended, second).codes == ["plan", "stop"]


def test_nobody_keeps_an_agent_by_saying_nothing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "_PLAN_SECONDS", -1.0)
    assert Talk().tell(None).codes == ["isolation.agent.idle"]

    class Late:
        def now(self):
            return NOW if not talk.said else plan.not_after + timedelta(seconds=1)

    talk = Talk(clock=Late())
    assert talk.tell(orders(plan)[0], None).codes == ["plan", "isolation.plan.window"]


def test_another_document_than_the_order_says(plan: Plan) -> None:
    first = orders(plan)[0]
    message = open_message(first)
    other = seal_plan(msgspec.structs.replace(plan, rate=plan.rate + 1), OPERATOR)
    swapped = msgspec.json.encode(Message(message.envelope, msgspec.Raw(other.strip())))
    assert Talk().tell(swapped).codes[0] in {"isolation.control.attached", "isolation.control.run"}
    with pytest.raises(RefusedError) as refused:
        open_order(open_message(swapped), CONTROLLER.public_key())
    assert refused.value.code == "isolation.control.attached"


def test_a_plan_by_the_clock_takes_no_orders(plan: Plan) -> None:
    alone = msgspec.structs.replace(plan, controller="")
    assert Talk().tell(orders(alone)[0]).codes == ["isolation.plan.controller"]


@given(st.data())
@settings(max_examples=60)
def test_a_message_edited_by_one_byte_is_refused(plan: Plan, data: st.DataObject) -> None:
    first = orders(plan)[0]
    line = bytearray(first)
    at = data.draw(st.integers(0, len(line) - 2))
    line[at] ^= data.draw(st.integers(1, 255))
    talk = Talk().tell(bytes(line))
    if talk.codes == ["plan"]:  # only a byte outside of what is signed: a key ID
        assert open_message(bytes(line)).document != b""
    else:
        assert len(talk.codes) == 1
        assert talk.said[0].error is not None


_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(_VALUES, st.binary(max_size=60))
def test_any_signed_json_is_an_order_or_refused(value: object, noise: bytes) -> None:
    sealed = seal(msgspec.json.encode(value), ORDER_TYPE, CONTROLLER).strip()
    for line in (noise, sealed, msgspec.json.encode({"envelope": value}), b'{"envelope":' + sealed + b"}"):
        with pytest.raises(SecguardError):
            open_order(open_message(line), CONTROLLER.public_key())


def test_answers_are_checked_by_the_agents_key() -> None:
    line = answer(ME, op="phase", agent="a-left", run="ab" * 16, seq=7)
    assert open_answer(open_message(line), ME.public_key()).seq == 7
    with pytest.raises(RefusedError, match="forged"):
        open_answer(open_message(line), OPERATOR.public_key())
    with pytest.raises(RefusedError, match="forged"):
        open_answer(open_message(line), None)
    hello = answer(ME, op="hello", agent="a-left", key=spki(OPERATOR.public_key()))
    with pytest.raises(RefusedError, match="forged"):
        open_answer(open_message(hello), None)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


def test_an_operators_certificate_vouches_for_a_plan(plan: Plan, pki: Pki) -> None:
    now = SystemClock().now()  # the chains were made for this time, and the plan long before
    plan = msgspec.structs.replace(plan, not_before=now - timedelta(minutes=1), not_after=now + timedelta(minutes=1))
    signed = seal_plan(msgspec.structs.replace(plan, chain=chain_text(pki.operator_chain)), pki.operator)
    assert pki.trust().open_plan(signed, now)[0].run == plan.run
    for trust, text in (
        (pki.trust(crls=()), "(?i)no revocation list"),
        (pki.trust(crls=(pki.stale,)), "is not believed"),
    ):
        with pytest.raises(RefusedError, match=text) as refused:
            trust.open_plan(signed, now)
        assert refused.value.code == "isolation.plan.signer"
    # An agent's certificate is no operator's: an agent of another zone cannot make plans.
    chain, signer = pki.holders["a-right"]
    theirs = seal_plan(msgspec.structs.replace(plan, chain=chain_text(chain)), signer)
    with pytest.raises(RefusedError, match="is for") as refused:
        pki.trust().open_plan(theirs, now)
    assert refused.value.code == "isolation.plan.signer"
    # Somebody else's chain does not help a stranger's signature.
    stolen = seal_plan(msgspec.structs.replace(plan, chain=chain_text(pki.operator_chain)), signer)
    with pytest.raises(RefusedError, match="not signed"):
        pki.trust().open_plan(stolen, now)
    for chain_of in (("!!",), ("AAAA",), tuple("A" for _ in range(40))):
        with pytest.raises(SecguardError):
            pki.trust().open_plan(seal_plan(msgspec.structs.replace(plan, chain=chain_of), signer), now)


def test_whom_a_peer_is_believed_to_be(pki: Pki) -> None:
    now = SystemClock().now()
    pki.trust().judge_peer(pki.holders["a-left"][0], now)
    for name, text in (("revoked", "(?i)revoked"), ("expired", "(?i)expired|valid")):
        with pytest.raises(RefusedError, match=text) as refused:
            pki.trust().judge_peer(pki.holders[name][0], now)
        assert refused.value.code == "isolation.peer.certificate"
        assert "\n" not in refused.value.message
    for crls in ((), (pki.stale,)):
        with pytest.raises(RefusedError):
            pki.trust(crls=crls).judge_peer(pki.holders["a-left"][0], now)
    with pytest.raises(RefusedError, match="is for"):
        pki.trust().judge_peer(pki.operator_chain, now)
    leaf = pki.holders["a-left"][0][0]
    assert stands_for(leaf, "a-left")
    assert stands_for(leaf, "A-LEFT.video.internal")
    assert not stands_for(leaf, "a-lef")
    assert not stands_for(leaf, "video.internal")
    assert len(fingerprint(leaf)) == 64
