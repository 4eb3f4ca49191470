"""Leading: agents that hold a plan through the phases before, during and after, in step, and their reports."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from secguard.core import Progress
from secguard.isolation.agent.control import Controller
from secguard.isolation.agent.observations import PHASES
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.timeline import sending_seconds
from secguard.isolation.runs.process import Link, Said, gather
from secguard.isolation.runs.sweeping import failed, lead_sweeps

__all__ = ["STEPS", "Collected", "lead"]

STEPS = 7
"""Steps of a run: hello, plan, three phases, reports, verdict."""
_PLAN_SECONDS = 60.0
_PHASE_SECONDS = 15.0
_REPORT_SECONDS = 30.0
_DURING = 2
_CASES_A_SECOND = 1000  # a slow machine writes and signs so many rows
_PROBES_A_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Collected:
    """What a run brought back: the signed plan, the agents' signed observations, and problems in words."""

    plan: bytes
    reports: list[bytes]
    problems: list[str]


def lead(
    plan: Plan,
    digest: str,
    envelope: bytes,
    agents: Sequence[Link],
    controller: Controller,
    *,
    progress: Progress,
    perform: Callable[[str, Mapping[str, int]], None],
) -> Collected:
    """Lead agents through a run.

    Args:
        plan: the checked plan; `digest` is the SHA-256 of its payload, `envelope` its signed form.
        digest: binds every order to the plan.
        envelope: what the agents get.
        agents: started, and said hello.
        controller: signs the orders.
        progress: called a step.
        perform: called at `before`, `during`, `after` with the agents' process IDs by zone.

    Raises:
        SecguardError: an agent refuses the plan; what fails later is a problem of the run.
    """
    pids = {agent.zone: agent.pid for agent in agents if agent.pid}
    problems: list[str] = []
    slow = len(plan.cases) / _CASES_A_SECOND + sum(sweep.size for sweep in plan.sweeps) / _PROBES_A_SECOND

    sent = 0.0

    def ask(seconds: float, op: str, *, number: int = 0, document: bytes = b"") -> dict[str, Said]:
        nonlocal sent
        for agent in agents:
            if not agent.error:
                agent.say(controller.order(agent.name, plan.run, digest, op, number=number, document=document))
        answers = gather(agents, seconds)
        if op in {"phase", "sweep"}:
            sent = time.monotonic()
        return answers

    kept: list[set[int]] = []
    for name, said in ask(_PLAN_SECONDS + slow, "plan", document=envelope).items():
        if error := said.answer.failure():
            raise error
        problems += [f"{name}: {text}" for text in said.answer.problems]
        kept.append(set(said.answer.rounds))
    progress(2, STEPS, "steps")
    for number, when in enumerate(PHASES, 1):
        perform(when, pids)
        if len(plan.cases):
            answers = ask(_PHASE_SECONDS + 2 * sending_seconds(plan, number), "phase", number=number)
            problems += failed(agents, answers)
        if number == _DURING and plan.sweeps:
            done = set.intersection(*kept) if len(kept) == len(agents) else set()
            problems += lead_sweeps(plan, agents, ask, done, progress)
        progress(2 + number, STEPS, "steps")
    time.sleep(max(0.0, sent + plan.timeout - time.monotonic()))
    answers = ask(_REPORT_SECONDS + slow, "report")
    reports = [said.document for said in answers.values() if said.document]
    problems += [
        f"{agent.name}: no report ({agent.error or 'refused'})"
        for agent in agents
        if agent.name not in answers or not answers[agent.name].document
    ]
    progress(STEPS - 1, STEPS, "steps")
    return Collected(envelope, reports, problems)
