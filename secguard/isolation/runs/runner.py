"""The runner: starts or calls one agent a zone, leads them through a run, and judges.

hello -> compile and sign the plan -> (record) -> plan -> ready -> phases before, during, after -> report -> judge.
Agents end with the run, with this process, or when the connection to it closes.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import Clock, Progress, SystemClock, UsageError, silent
from secguard.isolation.policy.policy import Policy
from secguard.isolation.runs.collect import collect, resume
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.isolation.runs.lead import STEPS, Collected
from secguard.isolation.runs.remote import Caller
from secguard.isolation.runs.state import RunState
from secguard.keys import Algorithm, Signer, generate

__all__ = ["Act", "Action", "RunResult", "no_act", "resume_run", "run"]

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
    places: Mapping[str, str],
    *,
    signer: Signer | None = None,
    chain: Sequence[x509.Certificate] = (),
    caller: Caller | None = None,
    clock: Clock | None = None,
    progress: Progress = silent,
    act: Act = no_act,
    state: RunState | None = None,
) -> RunResult:
    """Probe between agents by a policy, and judge.

    Args:
        policy: the checked policy.
        places: zone (or agent) -> path of its network namespace, or `https://host:port` of its agent.
        signer: signs plan and result; a key made for this run if None.
        chain: certificates of the signer, leaf first; agents on other machines judge them.
        caller: how this controller shows itself to agents on other machines.
        clock: the time of plan and verdict.
        progress: called a step.
        act: records the run (`secguard.events.long_act` bound to a ledger).
        state: where a run that sweeps writes down what it takes to go on after a kill (`resume_run`).

    Raises:
        UsageError: places or addresses that do not fit the policy.
        SecguardError: agents cannot be started or reached, lack permissions, or are not who they should be.
    """
    clock = clock or SystemClock()
    signer = signer or (state.key("signer") if state else generate(Algorithm.ED25519))

    def bring(start: Callable[[str], None]) -> Collected:
        return collect(
            policy,
            places,
            signer=signer,
            chain=chain,
            caller=caller,
            clock=clock,
            progress=progress,
            start=start,
            state=state,
        )

    return _conclude(bring, signer.public_key(), signer, clock, progress=progress, act=act)


def resume_run(
    state: RunState,
    *,
    signer: Signer | None = None,
    caller: Caller | None = None,
    clock: Clock | None = None,
    progress: Progress = silent,
    act: Act = no_act,
) -> RunResult:
    """Go on with an interrupted run, and judge it; `state` ends with it.

    Args:
        state: what the run wrote down.
        signer: signs the result; needed where the run was begun with a key of its own.
        caller: how this controller shows itself to agents on other machines.
        clock: the time.
        progress: called a step.
        act: records the run.

    Raises:
        UsageError: the key is missing.
        RefusedError: the plan's window has passed, or an agent is another one.
        SecguardError: agents cannot be started or reached.
    """
    clock = clock or SystemClock()
    if signer is None and not state.has("signer"):
        raise UsageError("isolation.resume.key", "the run was begun with a key", hint="give --key again")

    def bring(start: Callable[[str], None]) -> Collected:
        return resume(state, clock=clock, caller=caller, progress=progress, start=start)

    return _conclude(bring, state.signer, signer or state.key("signer"), clock, progress=progress, act=act)


def _conclude(
    bring: Callable[[Callable[[str], None]], Collected],
    trusted: PublicKeyTypes,
    signer: Signer,
    clock: Clock,
    *,
    progress: Progress,
    act: Act,
) -> RunResult:
    """Have observations brought inside a recorded act, and judge them."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        closing: dict[str, Any] = {}

        def start(digest: str) -> None:
            nonlocal closing
            closing = stack.enter_context(act(digest))

        found = bring(start)
        result = conclude(found.plan, found.reports, [trusted], clock=clock, signer=signer)
        closing.update(result.summary())
    progress(STEPS, STEPS, "steps")
    problems = list(dict.fromkeys([*found.problems, *result.problems]))
    return replace(result, seconds=round(time.monotonic() - began, 3), problems=problems)
