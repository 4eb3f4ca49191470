"""The runner: starts one agent a zone in given network namespaces, leads them through a run, and judges.

hello -> compile and sign the plan -> (record) -> plan -> ready -> phases before, during, after -> report -> judge.
Agents are child processes; they end with the run, with this process, or when their input closes.
"""

import contextlib
import hashlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import IO, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secguard.core import (
    Axis,
    Clock,
    Outcome,
    Progress,
    RefusedError,
    SecguardError,
    SystemClock,
    SystemPartError,
    UsageError,
    Verdict,
    silent,
)
from secguard.isolation.agent import parse_key, spki
from secguard.isolation.judge import Cell, judge
from secguard.isolation.observations import Observations, open_observations
from secguard.isolation.plan import AgentInfo, Plan, compile_plan, open_plan, seal_plan
from secguard.isolation.policy import Policy
from secguard.isolation.result import case_columns, seal_result
from secguard.keys import Algorithm, Signer, generate

__all__ = ["Act", "Action", "RunResult", "conclude", "no_act", "run"]

_START_TIMEOUT = 30.0
_MAX_LINE = 64 << 20
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
class RunResult:
    """A finished run.

    Attributes:
        verdict: what follows.
        plan: the plan (holds the run's secret).
        digest: SHA-256 of the plan's payload.
        columns: cases and results as columns (`secguard.isolation.result.case_columns`).
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


class _Process:
    """One agent process and its lines."""

    def __init__(self, name: str, zone: str, namespace: str, trust: str) -> None:
        self.name = name
        self.zone = zone
        self.error = ""
        self._buffer = b""
        command = [sys.executable, "-m", "secguard.isolation.agent", "--name", name, "--netns", namespace]
        self.process = subprocess.Popen(
            [*command, "--trust", trust, "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def say(self, **values: Any) -> None:
        """Send a command; a dead agent is noticed when it does not answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(msgspec.json.encode(values) + b"\n")
            self.process.stdin.flush()

    def take(self) -> dict[str, Any] | None:
        """The next whole line, if there is one."""
        stream = self.process.stdout
        assert stream is not None
        piece = stream.read(1 << 20)
        if piece:
            self._buffer += piece
        elif piece == b"":
            self.error = self.error or "ended"
        if b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE:
                self.error = "sent a line without end"
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            value = msgspec.json.decode(line)
        except msgspec.MsgspecError:
            self.error = "sent something that is not JSON"
            return None
        return value if isinstance(value, dict) else None

    def close(self) -> None:
        """End the process and its pipes."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process.wait()


def _gather(agents: Iterable[_Process], seconds: float) -> dict[str, dict[str, Any]]:
    """One line of each agent that still lives, within a time; who does not answer is marked."""
    waiting = {agent.name: agent for agent in agents if not agent.error}
    answers: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for agent in waiting.values():
            selector.register(agent.process.stdout, selectors.EVENT_READ, agent)  # type: ignore[arg-type]
        while waiting and time.monotonic() < end:
            for key, _ in selector.select(0.1):
                agent = key.data
                line = agent.take()
                if line is not None:
                    answers[agent.name] = line
                if line is not None or agent.error:
                    waiting.pop(agent.name, None)
                    selector.unregister(key.fileobj)
    for agent in waiting.values():
        agent.error = "did not answer in time"
    return answers


def _failed(answer: Mapping[str, Any]) -> SecguardError | None:
    error = answer.get("error")
    if not isinstance(error, dict):
        return None
    return SystemPartError(
        str(error.get("code", "isolation.agent.failed")),
        str(error.get("message", "the agent failed")),
        hint=str(error.get("hint", "")),
        where=str(error.get("where", "")),
    )


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


def run(
    policy: Policy,
    namespaces: Mapping[str, str],
    *,
    signer: Signer | None = None,
    clock: Clock | None = None,
    progress: Progress = silent,
    act: Act = no_act,
    perform: Callable[[str, Mapping[str, int]], None] = lambda _when, _pids: None,
) -> RunResult:
    """Probe between network namespaces by a policy, and judge.

    Args:
        policy: the checked policy.
        namespaces: zone (or agent) -> path of its network namespace.
        signer: signs plan and result; a key made for this run if None.
        clock: the time of plan and verdict.
        progress: called a step.
        act: records the run (`secguard.events.long_act` bound to a ledger).
        perform: called at `before`, `during`, `after` with the agents' process IDs by zone; a lab breaks things here.

    Raises:
        UsageError: namespaces or addresses that do not fit the policy.
        SystemPartError: agents cannot be started, or lack permissions.
    """
    clock = clock or SystemClock()
    signer = signer or generate(Algorithm.ED25519)
    began = time.monotonic()
    agents: list[_Process] = []
    try:
        for name, zone, path in _names(policy, namespaces):
            agents.append(_Process(name, zone, path, spki(signer.public_key())))
        hellos = _gather(agents, _START_TIMEOUT)
        progress(1, _STEPS, "steps")
        infos = []
        for agent in agents:
            hello = hellos.get(agent.name)
            if hello is None:
                raise SystemPartError(
                    "isolation.agent.start", f"agent {agent.name} did not start: {_last_words(agent)}"
                )
            if error := _failed(hello):
                raise error
            addresses = _addresses(policy, agent.name, agent.zone, [str(text) for text in hello["addresses"]])
            infos.append(AgentInfo(agent.name, agent.zone, addresses, str(hello["key"])))
        envelope = seal_plan(compile_plan(policy, infos, clock.now()), signer)
        plan, digest = open_plan(envelope, [signer.public_key()])
        with act(digest) as closing:
            result = _lead(plan, envelope, agents, signer=signer, clock=clock, progress=progress, perform=perform)
            closing.update(result.summary())
    finally:
        for agent in agents:
            agent.close()
    progress(_STEPS, _STEPS, "steps")
    return replace(result, seconds=round(time.monotonic() - began, 3))


def _last_words(agent: _Process) -> str:
    stream: IO[bytes] | None = agent.process.stderr
    if agent.process.poll() is None or stream is None:
        return agent.error
    lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else agent.error


def _lead(
    plan: Plan,
    envelope: bytes,
    agents: list[_Process],
    *,
    signer: Signer,
    clock: Clock,
    progress: Progress,
    perform: Callable[[str, Mapping[str, int]], None],
) -> RunResult:
    pids = {agent.zone: agent.process.pid for agent in agents}
    problems: list[str] = []
    for agent in agents:
        agent.say(op="plan", envelope=envelope.decode())
    for name, answer in _gather(agents, _START_TIMEOUT).items():
        if error := _failed(answer):
            raise error
        problems += [f"{name}: {text}" for text in answer.get("problems", ())]
    progress(2, _STEPS, "steps")
    estimate = len(plan.cases) * plan.attempts * 2 / plan.rate
    for number, when in enumerate(("before", "during", "after"), 1):
        perform(when, pids)
        for agent in agents:
            if not agent.error:
                agent.say(op="phase", number=number)
        _gather(agents, 10 + (estimate * 2 if number == 2 else 0))
        progress(2 + number, _STEPS, "steps")
    time.sleep(plan.timeout)
    for agent in agents:
        if not agent.error:
            agent.say(op="report")
    reports: dict[str, bytes] = {}
    for name, answer in _gather(agents, 20 + len(plan.cases) / 1000).items():
        if "envelope" in answer:
            reports[name] = str(answer["envelope"]).encode()
        else:
            problems.append(f"{name}: {answer.get('error', 'no report')}")
    problems += [f"{agent.name}: {agent.error}" for agent in agents if agent.error and agent.error != "ended"]
    progress(6, _STEPS, "steps")
    result = conclude(envelope, list(reports.values()), [signer.public_key()], clock=clock, signer=signer)
    return replace(result, problems=list(dict.fromkeys([*problems, *result.problems])))


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
