"""The runner: starts one agent a zone in given network namespaces, leads them through a run, and judges.

hello -> compile and sign the plan -> (record) -> plan -> ready -> phases before, during, after -> report -> judge.
Agents are child processes; they end with the run, with this process, or when their input closes.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secguard.core import (
    Axis,
    Clock,
    Outcome,
    Progress,
    RefusedError,
    SystemClock,
    SystemPartError,
    UsageError,
    Verdict,
    silent,
)
from secguard.isolation.agent.keys import parse_key, spki
from secguard.isolation.agent.observations import PHASES, Observations, open_observations
from secguard.isolation.judge.judge import Cell, judge
from secguard.isolation.judge.result import case_columns, seal_result
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan, open_plan, seal_plan
from secguard.isolation.policy.policy import Policy
from secguard.isolation.runs.process import AgentProcess, failure, gather
from secguard.keys import Algorithm, Signer, generate

__all__ = ["Act", "Action", "Collected", "RunResult", "collect", "conclude", "no_act", "run"]

_START_TIMEOUT = 30.0
_STEPS = 7

Act = Callable[[str], AbstractContextManager[dict[str, Any]]]
"""Records a run around its packets: called with the plan's digest, filled with the values of the closing event."""


@contextlib.contextmanager
def no_act(digest: str) -> Any:
    """Records nothing."""
    del digest
    yield {}


@dataclass(frozen=True, slots=True)
class Action:
    """A command run inside a zone's namespace at a phase: to break something on purpose and see what the scan says.

    Attributes:
        when: `start` (before the agents), `before`, `during` or `after`.
        zone: whose namespace; a lab also knows `fw`.
        argv: the command; it finds the zone's agent in `SECGUARD_AGENT_PID`.
    """

    when: str
    zone: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a run brought back: the signed plan, the agents' signed observations, and problems in words."""

    plan: bytes
    reports: list[bytes]
    problems: list[str]


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run.

    Attributes:
        verdict: what follows.
        plan: the plan (holds the run's secret).
        digest: SHA-256 of the plan's payload.
        columns: cases and results as columns (`secguard.isolation.judge.result.case_columns`).
        matrix: ordered pairs of zones.
        observations: by agent.
        envelopes: signed documents by file name: `plan.json`, `observations-AGENT.json`, `result.json`, and
            `signer.pem`, the public key of the plan's signer.
        seconds: wall time of the run.
    """

    verdict: Verdict
    plan: Plan
    digest: str
    columns: dict[str, list[Any]]
    matrix: list[Cell]
    observations: list[Observations]
    envelopes: dict[str, bytes]
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """What the closing event of the run says."""
        codes = sorted({item.code for item in self.verdict.findings if item.outcome is not Outcome.PASS})
        result = self.envelopes.get("result.json", b"")
        return {
            "outcome": self.verdict.outcome.value,
            "cases": len(self.plan.cases),
            "findings": codes[:50],
            "result_sha256": hashlib.sha256(result).hexdigest(),
        }


def _names(policy: Policy, namespaces: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(agent, zone, namespace) for what the caller named: zones, or agents where a zone has several."""
    found = []
    left = dict(namespaces)
    for zone in policy.zones:
        for spec in zone.agents:
            path = left.pop(spec.name, None) or (left.pop(zone.name, None) if len(zone.agents) == 1 else None)
            if path is None:
                raise UsageError(
                    "isolation.namespace.none",
                    f"no network namespace for agent {spec.name} of zone {zone.name}",
                    hint=f"add --in-namespaces {zone.name if len(zone.agents) == 1 else spec.name}=PATH",
                )
            found.append((spec.name, zone.name, path))
    if left:
        raise UsageError("isolation.namespace.unknown", f"the policy has no zone or agent {', '.join(left)[:100]}")
    return found


def _addresses(policy: Policy, name: str, zone: str, found: Sequence[str]) -> tuple[str, ...]:
    """The addresses an agent probes with: as the policy says, else the first of each family inside its zone."""
    import ipaddress

    spec = next(item for item in policy.zone(zone).agents if item.name == name)
    if spec.addresses:
        return spec.addresses
    inside = [text for text in found if policy.zone(zone).covers(ipaddress.ip_address(text))]
    chosen = [next((text for text in inside if (":" in text) == six), "") for six in (False, True)]
    if not any(chosen):
        raise UsageError(
            "isolation.agent.no-address",
            f"agent {name} has no address in zone {zone}",
            hint=f"it has: {', '.join(found)[:120] or 'none'}",
        )
    return tuple(text for text in chosen if text)


def collect(
    policy: Policy,
    namespaces: Mapping[str, str],
    *,
    signer: Signer,
    clock: Clock,
    progress: Progress = silent,
    start: Callable[[str], None] = lambda _digest: None,
    perform: Callable[[str, Mapping[str, int]], None] = lambda _when, _pids: None,
) -> Collected:
    """Probe between network namespaces by a policy, and bring back what the agents signed.

    Args:
        policy: the checked policy.
        namespaces: zone (or agent) -> path of its network namespace.
        signer: signs the plan.
        clock: the time of the plan.
        progress: called a step.
        start: called with the plan's digest before anything is sent; if it raises, nothing is.
        perform: called at `before`, `during`, `after` with the agents' process IDs by zone; a lab breaks things here.

    Raises:
        UsageError: namespaces or addresses that do not fit the policy.
        SystemPartError: agents cannot be started, or lack permissions.
    """
    agents: list[AgentProcess] = []
    try:
        for name, zone, path in _names(policy, namespaces):
            agents.append(AgentProcess(name, zone, path, spki(signer.public_key())))
        import scapy.layers.inet6  # noqa: F401 - while the agents start

        hellos = gather(agents, _START_TIMEOUT)
        progress(1, _STEPS, "steps")
        infos = []
        for agent in agents:
            hello = hellos.get(agent.name)
            if hello is None:
                raise SystemPartError(
                    "isolation.agent.start", f"agent {agent.name} did not start: {agent.last_words()}"
                )
            if error := failure(hello):
                raise error
            addresses = _addresses(policy, agent.name, agent.zone, [str(text) for text in hello["addresses"]])
            infos.append(AgentInfo(agent.name, agent.zone, addresses, str(hello["key"])))
        envelope = seal_plan(compile_plan(policy, infos, clock.now()), signer)
        plan, digest = open_plan(envelope, [signer.public_key()])
        start(digest)
        return _lead(plan, envelope, agents, progress=progress, perform=perform)
    finally:
        for agent in agents:
            agent.close()


def _lead(
    plan: Plan,
    envelope: bytes,
    agents: list[AgentProcess],
    *,
    progress: Progress,
    perform: Callable[[str, Mapping[str, int]], None],
) -> Collected:
    pids = {agent.zone: agent.process.pid for agent in agents}
    problems: list[str] = []

    def ask(seconds: float, **command: Any) -> dict[str, dict[str, Any]]:
        for agent in agents:
            if not agent.error:
                agent.say(**command)
        return gather(agents, seconds)

    for name, answer in ask(_START_TIMEOUT, op="plan", envelope=envelope.decode()).items():
        if error := failure(answer):
            raise error
        problems += [f"{name}: {text}" for text in answer.get("problems", ())]
    progress(2, _STEPS, "steps")
    estimate = len(plan.cases) * plan.attempts * 2 / plan.rate
    for number, when in enumerate(PHASES, 1):
        perform(when, pids)
        answers = ask(10 + (estimate * 2 if number == 2 else 0), op="phase", number=number)
        problems += [f"{name}: {error}" for name, answer in answers.items() if (error := failure(answer))]
        progress(2 + number, _STEPS, "steps")
    time.sleep(plan.timeout)
    answers = ask(20 + len(plan.cases) / 1000, op="report")
    reports = [str(answer["envelope"]).encode() for answer in answers.values() if "envelope" in answer]
    problems += [
        f"{agent.name}: no report ({agent.error or 'refused'})"
        for agent in agents
        if "envelope" not in answers.get(agent.name, ())
    ]
    progress(_STEPS - 1, _STEPS, "steps")
    return Collected(envelope, reports, problems)


def run(
    policy: Policy,
    namespaces: Mapping[str, str],
    *,
    signer: Signer | None = None,
    clock: Clock | None = None,
    progress: Progress = silent,
    act: Act = no_act,
) -> RunResult:
    """Probe between network namespaces by a policy, and judge.

    Args:
        policy: the checked policy.
        namespaces: zone (or agent) -> path of its network namespace.
        signer: signs plan and result; a key made for this run if None.
        clock: the time of plan and verdict.
        progress: called a step.
        act: records the run (`secguard.events.long_act` bound to a ledger).

    Raises:
        UsageError: namespaces or addresses that do not fit the policy.
        SystemPartError: agents cannot be started, or lack permissions.
    """
    clock = clock or SystemClock()
    signer = signer or generate(Algorithm.ED25519)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        closing: dict[str, Any] = {}

        def start(digest: str) -> None:
            nonlocal closing
            closing = stack.enter_context(act(digest))

        found = collect(policy, namespaces, signer=signer, clock=clock, progress=progress, start=start)
        result = conclude(found.plan, found.reports, [signer.public_key()], clock=clock, signer=signer)
        closing.update(result.summary())
    progress(_STEPS, _STEPS, "steps")
    problems = list(dict.fromkeys([*found.problems, *result.problems]))
    return replace(result, seconds=round(time.monotonic() - began, 3), problems=problems)


def conclude(
    envelope: bytes,
    reports: Sequence[bytes],
    keys: Iterable[PublicKeyTypes],
    *,
    clock: Clock | None = None,
    signer: Signer | None = None,
    require: Sequence[Axis] = (),
) -> RunResult:
    """Judge a signed plan and the agents' signed observations, wherever they were made.

    Args:
        envelope: the plan.
        reports: one envelope an agent; a missing one makes its cases inconclusive.
        keys: whose signature on the plan counts; the agents' keys stand in the plan.
        clock: the time of the verdict.
        signer: signs the result; without it there is no `result.json`.
        require: narrows the axes that decide.

    Raises:
        FormatError: not a plan, not observations.
        RefusedError: a wrong signature, observations of another run, or two of one agent.
    """
    keys = list(keys)
    plan, digest = open_plan(envelope, keys)
    agent_keys = {item.name: parse_key(item.key) for item in plan.agents if item.key}
    envelopes = {"plan.json": envelope}
    seen: list[Observations] = []
    digests: dict[str, str] = {}
    for data in reports:
        item, item_digest = open_observations(data, plan, digest, agent_keys)
        name = plan.agents[item.agent].name
        if name in digests:
            raise RefusedError("isolation.observations.twice", f"two observations of agent {name}")
        seen.append(item)
        digests[name] = item_digest
        envelopes[f"observations-{name}.json"] = data
    judgement = judge(plan, digest, seen, (clock or SystemClock()).now(), require=require)
    if len(keys) == 1:
        envelopes["signer.pem"] = keys[0].public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if signer is not None:
        envelopes["result.json"] = seal_result(plan, digest, digests, judgement, signer)
    return RunResult(
        verdict=judgement.verdict,
        plan=plan,
        digest=digest,
        columns=case_columns(plan, judgement),
        matrix=judgement.matrix,
        observations=seen,
        envelopes=envelopes,
        problems=[f"{plan.agents[item.agent].name}: {text}" for item in seen for text in item.problems],
    )
