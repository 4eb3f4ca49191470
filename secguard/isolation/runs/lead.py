"""Leading: agents that hold a plan through the phases before, during and after, in step, and their reports."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from secguard.core import Progress
from secguard.isolation.agent.observations import PHASES
from secguard.isolation.plan.plan import Plan
from secguard.isolation.runs.process import AgentProcess, failure, gather

__all__ = ["STEPS", "Collected", "lead"]

STEPS = 7
"""Steps of a run: hello, plan, three phases, reports, verdict."""
_START_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What a run brought back: the signed plan, the agents' signed observations, and problems in words."""

    plan: bytes
    reports: list[bytes]
    problems: list[str]


def lead(
    plan: Plan,
    envelope: bytes,
    agents: list[AgentProcess],
    *,
    progress: Progress,
    perform: Callable[[str, Mapping[str, int]], None],
) -> Collected:
    """Lead agents through a run.

    Args:
        plan: the checked plan; `envelope` is its signed form.
        envelope: what the agents get.
        agents: started, and said hello.
        progress: called a step.
        perform: called at `before`, `during`, `after` with the agents' process IDs by zone.

    Raises:
        SystemPartError: an agent refuses the plan; what fails later is a problem of the run.
    """
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
    progress(2, STEPS, "steps")
    estimate = len(plan.cases) * plan.attempts * 2 / plan.rate
    for number, when in enumerate(PHASES, 1):
        perform(when, pids)
        answers = ask(10 + (estimate * 2 if number == 2 else 0), op="phase", number=number)
        problems += [f"{name}: {error}" for name, answer in answers.items() if (error := failure(answer))]
        progress(2 + number, STEPS, "steps")
    time.sleep(plan.timeout)
    answers = ask(20 + len(plan.cases) / 1000, op="report")
    reports = [str(answer["envelope"]).encode() for answer in answers.values() if "envelope" in answer]
    problems += [
        f"{agent.name}: no report ({agent.error or 'refused'})"
        for agent in agents
        if "envelope" not in answers.get(agent.name, ())
    ]
    progress(STEPS - 1, STEPS, "steps")
    return Collected(envelope, reports, problems)
