"""The agent between air-gapped zones: the plan comes as a file, the phases begin by the clock, a file goes back.

Nobody gives orders. All agents of a plan compute the same timeline from it, and hear from before the first phase until
after the last; `isolation judge` joins what they bring back.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from secguard.core import Clock, Progress, RefusedError, UsageError, rfc3339, silent
from secguard.isolation.agent.answering import wait
from secguard.isolation.agent.credentials import Trust
from secguard.isolation.agent.desk import Self, check_self
from secguard.isolation.agent.memory import Memory
from secguard.isolation.agent.neighbours import ready
from secguard.isolation.agent.observations import PHASES
from secguard.isolation.agent.phases import phase
from secguard.isolation.agent.report import report
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.timeline import Timeline, timeline

__all__ = ["Bundle", "open_bundle", "run_bundle"]

_STEP = 0.2  # seconds between two looks at the clock while nothing happens
_LATE = 2.0  # seconds by which a phase may begin late; later, the others may hear no more
_UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A plan that may run here: checked, with its timeline."""

    plan: Plan
    digest: str
    times: Timeline


def open_bundle(envelope: bytes, me: Self, trust: Trust, clock: Clock, start: datetime | None = None) -> Bundle:
    """Check a plan that was carried here as a file.

    Args:
        envelope: the signed plan.
        me: who this agent is.
        trust: whose plans count.
        clock: the time.
        start: when the phases begin; by default as the plan says.

    Raises:
        FormatError: not a plan.
        RefusedError: not from whom we believe, for another agent or key, outside its window, or too late.
        UsageError: nobody says when to start.
    """
    now = clock.now()
    plan, digest = trust.open_plan(envelope, now)
    check_self(plan, me)
    if plan.sweeps:
        raise UsageError(
            "isolation.bundle.sweeps",
            "the plan sweeps targets, which takes a controller",
            hint="take zones.*.targets out of the policy for agents that run by the clock",
        )
    begins = start or plan.start
    if begins is None:
        raise UsageError(
            "isolation.bundle.start",
            "the plan does not say when it starts",
            hint="give --start TIME, the same at every agent, or make the plan with --start",
        )
    if start is not None and plan.start is not None and start != plan.start:
        raise UsageError(
            "isolation.bundle.start", f"the plan starts at {rfc3339(plan.start)}", hint="leave --start away"
        )
    times = timeline(plan, begins)
    if begins < plan.not_before or times.end > plan.not_after:
        raise RefusedError(
            "isolation.plan.window",
            f"a run from {rfc3339(begins)} does not fit the plan's window, "
            f"{rfc3339(plan.not_before)} to {rfc3339(plan.not_after)}",
            hint="make a new plan: isolation plan --start TIME",
        )
    if now > begins:
        raise RefusedError(
            "isolation.bundle.late",
            f"the run began at {rfc3339(begins)}; it is {rfc3339(now)}",
            hint="make a new plan, and check this machine's clock",
        )
    return Bundle(plan, digest, times)


def run_bundle(
    bundle: Bundle,
    me: Self,
    memory: Path,
    clock: Clock,
    *,
    progress: Progress = silent,
    sleep: Callable[[float], None] = time.sleep,
) -> bytes:
    """Wait for the start, run the phases by the clock, and give back the signed observations.

    Args:
        bundle: the checked plan.
        me: who this agent is.
        memory: folder of the runs that were begun; this one is remembered before its first packet.
        clock: the time.
        progress: seconds of the whole, the waiting included.
        sleep: waits; an interrupt while waiting leaves the plan unused.

    Raises:
        RefusedError: the run was begun before, or another is under way.
        SystemPartError: raw sockets are not allowed here.
    """
    plan, times = bundle.plan, bundle.times
    opened = clock.now()
    whole = int((times.end - opened).total_seconds())

    def left(until: datetime) -> float:
        now = clock.now()
        progress(min(whole, int((now - opened).total_seconds())), whole, "s")
        return (until - now).total_seconds()

    with Memory(memory) as runs:
        runs.check(plan)
        while (seconds := left(times.ready)) > 0:
            sleep(min(_STEP, seconds))
        runs.begin(plan)
        session = Session(plan, bundle.digest, me.name, me.signer)
        try:
            if _unsynchronised():
                session.problems.append("this machine's clock is not synchronised; the run goes by the clock")
            ready(session)
            for number, begins in enumerate(times.phases, 1):
                while (seconds := left(begins)) > 0:
                    wait(session, min(_STEP, seconds))
                if seconds < -_LATE:
                    # What it sent now could arrive where nobody hears: not sent, it is inconclusive.
                    session.problems.append(f"phase {PHASES[number - 1]} left out: {-seconds:.0f} s late")
                    break
                phase(session, number)
            while (seconds := left(times.end)) > 0:
                wait(session, min(_STEP, seconds))
        except BaseException:
            session.wire.stop()
            raise
        return report(session)


def _unsynchronised() -> bool:
    """Whether the kernel was not told that the clock is right (by an NTP or PTP service)."""
    # struct timex begins: unsigned modes, long offset, freq, maxerror, esterror, int status (adjtimex(2)).
    state = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None, use_errno=True).adjtimex(state) < 0:
        return False  # not to be known here
    longs = ctypes.sizeof(ctypes.c_long)
    return bool(int.from_bytes(state.raw[5 * longs : 5 * longs + 4], sys.byteorder) & _UNSYNCHRONISED)
