"""The runner: starts one agent a zone in given network namespaces, leads them through a run, and judges.

hello -> compile and sign the plan -> (record) -> plan -> ready -> phases before, during, after -> report -> judge.
Agents are child processes; they end with the run, with this process, or when their input closes.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from secguard.core import Clock, Progress, SystemClock, silent
from secguard.isolation.policy.policy import Policy
from secguard.isolation.runs.collect import collect
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.isolation.runs.lead import STEPS
from secguard.keys import Algorithm, Signer, generate

__all__ = ["Act", "Action", "RunResult", "no_act", "run"]

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
    progress(STEPS, STEPS, "steps")
    problems = list(dict.fromkeys([*found.problems, *result.problems]))
    return replace(result, seconds=round(time.monotonic() - began, 3), problems=problems)
