"""Runs by the clock: the timeline that all agents compute alike, and which plans may not run by it."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from secguard.core import FixedClock, RefusedError, UsageError
from secguard.isolation.agent import bundle as bundle_module
from secguard.isolation.agent.bundle import Bundle, open_bundle, run_bundle
from secguard.isolation.agent.credentials import Trust
from secguard.isolation.agent.desk import Self
from secguard.isolation.agent.keys import spki
from secguard.isolation.agent.memory import Memory
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan, seal_plan
from secguard.isolation.plan.timeline import sending_seconds, timeline
from secguard.isolation.policy.policy import load_policy
from secguard.keys import Algorithm, generate

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from agent_kit import POLICY

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)
START = NOW + timedelta(minutes=10)
OPERATOR, ME = generate(Algorithm.ED25519), generate(Algorithm.ED25519)
TRUST = Trust([OPERATOR.public_key()])
AGENT = Self("a-left", ME, zone="left")
SWEPT = POLICY.replace(
    "addresses: [10.91.0.2]}]}", "addresses: [10.91.0.2]}], targets: [{cidr: 10.91.0.2/32, tcp: [9]}]}"
)


def made(policy: str = POLICY, **values: object) -> Plan:
    infos = [
        AgentInfo("a-left", "left", ("10.91.0.1",), spki(ME.public_key())),
        AgentInfo("a-right", "right", ("10.91.0.2",)),
    ]
    plan = compile_plan(load_policy(policy.encode()), infos, NOW, valid=3600)
    return msgspec.structs.replace(plan, **{"start": START, **values})


def opened(plan: Plan, now: datetime = NOW, start: datetime | None = None, me: Self = AGENT) -> Bundle:
    return open_bundle(seal_plan(plan, OPERATOR), me, TRUST, FixedClock(now), start)


@pytest.mark.parametrize("policy", [POLICY, SWEPT])
def test_everybody_hears_a_skew_longer_than_anybody_sends(policy: str) -> None:
    plan = made(policy, skew=30.0)
    times = timeline(plan, START)
    skew = timedelta(seconds=30)
    assert times == timeline(plan, START)
    assert times.phases[0] == START
    assert START - times.ready >= skew
    assert list(times.phases) == sorted(times.phases)
    for number, begins in enumerate(times.phases, 1):
        ends = times.phases[number] if number < 3 else times.end - skew
        assert ends - begins >= timedelta(seconds=sending_seconds(plan, number))
    if plan.sweeps:
        opens, closes = times.sweeping
        assert opens - times.phases[1] >= skew
        assert times.rounds[0] - opens >= skew
        assert closes - times.rounds[-1] >= skew
        assert times.phases[2] - closes >= skew
    else:
        assert times.rounds == ()


def test_when_a_plan_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(made()).times == timeline(made(), START)
    other = START + timedelta(minutes=1)
    assert opened(made(start=None), start=other).times.phases[0] == other
    for plan, now, start, code in (
        (made(start=None), NOW, None, "isolation.bundle.start"),
        (made(), NOW, other, "isolation.bundle.start"),
        (made(), START + timedelta(seconds=1), None, "isolation.bundle.late"),
        (made(start=None), NOW, NOW + timedelta(days=1), "isolation.plan.window"),
        (made(start=None), NOW, NOW - timedelta(days=1), "isolation.plan.window"),
        (made(), NOW + timedelta(days=1), None, "isolation.plan.window"),
        (made(), NOW - timedelta(days=1), None, "isolation.plan.window"),
    ):
        with pytest.raises((RefusedError, UsageError)) as refused:
            opened(plan, now, start)
        assert refused.value.code == code
        assert "\n" not in refused.value.message
    for me in (Self("a-right", ME), Self("a-left", OPERATOR), Self("a-left", ME, zone="right")):
        with pytest.raises(RefusedError):
            opened(made(), me=me)


def test_interrupted_before_the_start_a_plan_is_not_used_up(tmp_path: Path) -> None:
    checked = opened(made())

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bundle(checked, AGENT, tmp_path, FixedClock(NOW), sleep=interrupt)
    with Memory(tmp_path) as runs:
        assert runs.check(checked.plan) == b""
        runs.begin(checked.plan)
    with pytest.raises(RefusedError, match="a plan runs once"):
        run_bundle(checked, AGENT, tmp_path, FixedClock(NOW), sleep=interrupt)
    with Memory(tmp_path), pytest.raises(RefusedError, match="another plan"):
        run_bundle(checked, AGENT, tmp_path, FixedClock(NOW), sleep=interrupt)


def test_what_would_be_late_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    said: list[str] = []

    class Session:
        def __init__(self, plan: Plan, *_: object) -> None:
            self.plan, self.problems = plan, said

        def close(self) -> None:
            said.append("closed")

    class Clock:
        at = NOW

        def now(self) -> datetime:
            return self.at

    clock = Clock()

    def sleep(*_: object) -> None:
        clock.at += timedelta(seconds=1)

    def phase(_: object, number: int) -> None:
        sent.append(number)
        clock.at += timedelta(seconds=1 if number == 1 else 60)  # the machine stalls

    monkeypatch.setattr(bundle_module, "Session", Session)
    monkeypatch.setattr(bundle_module, "ready", lambda _: None)
    monkeypatch.setattr(bundle_module, "wait", sleep)
    monkeypatch.setattr(bundle_module, "phase", phase)
    monkeypatch.setattr(bundle_module, "report", lambda *_: b"signed")
    assert run_bundle(opened(made()), AGENT, tmp_path, clock, sleep=sleep) == b"signed"
    assert sent == [1, 2]
    assert any("phase after left out" in text for text in said)
    assert said[-1] == "closed"
