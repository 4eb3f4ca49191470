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
from typing import TYPE_CHECKING

from secguard.core import Clock, Progress, RefusedError, UsageError, rfc3339, silent
from secguard.isolation.agent.answering import wait
from secguard.isolation.agent.credentials import Trust
from secguard.isolation.agent.desk import Self, check_self
from secguard.isolation.agent.memory import Memory
from secguard.isolation.agent.neighbours import ready
from secguard.isolation.agent.observations import PHASES, UNSYNCHRONISED
from secguard.isolation.agent.phases import phase
from secguard.isolation.agent.report import report
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.timeline import Timeline, timeline

if TYPE_CHECKING:
    from secguard.isolation.sweep.sweeper import Sweeper

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
            return _Watch(session, times, left).run()
        finally:
            session.close()


class _Watch:
    """A run by the clock; `left` says how many seconds are left until a time."""

    def __init__(self, session: Session, times: Timeline, left: Callable[[datetime], float]) -> None:
        self._session = session
        self._times = times
        self._left = left
        self._sweeper: Sweeper | None = None

    def run(self) -> bytes:
        session, times = self._session, self._times
        if _unsynchronised():
            session.problems.append(UNSYNCHRONISED)
        ready(session)
        if session.plan.sweeps:
            from secguard.isolation.sweep.sweeper import Sweeper

            self._sweeper = Sweeper(session)
        self._send(times)
        self._wait(times.end)
        return report(session, self._sweeper.report() if self._sweeper is not None else None)

    def _send(self, times: Timeline) -> None:
        """Phases and rounds, each at its time; once one would be late, none: it could arrive where nobody hears."""
        for number, begins in enumerate(times.phases, 1):
            if not self._wait(begins, f"phase {PHASES[number - 1]}"):
                return
            phase(self._session, number)
            if number == 2 and self._sweeper is not None and not self._sweep(self._sweeper, times):
                return

    def _sweep(self, sweeper: "Sweeper", times: Timeline) -> bool:
        """The rounds of the sweeps, heard as a whole: the others' clocks may be ahead of ours, or behind."""
        self._wait(times.sweeping[0])
        sweeper.hear()
        try:
            for turn, at in enumerate(times.rounds):
                if not self._wait(at, f"round {turn + 1} of the sweeps"):
                    return False
                sweeper.round(turn)
                sweeper.keep()
            self._wait(times.sweeping[1])
        finally:
            sweeper.finish()
        return True

    def _wait(self, until: datetime, what: str = "") -> bool:
        """Answer what arrives until a time; False if `what` begins too late to be sent."""
        while (seconds := self._left(until)) > 0:
            wait(self._session, min(_STEP, seconds))
            if self._sweeper is not None and self._session.wire.blocks is not None:
                self._sweeper.pump()
        if what and seconds < -_LATE:
            self._session.problems.append(f"{what} left out, and all that follows: {-seconds:.0f} s late")
            return False
        return True


def _unsynchronised() -> bool:
    """Whether the kernel was not told that the clock is right (by an NTP or PTP service)."""
    # struct timex begins: unsigned modes, long offset, freq, maxerror, esterror, int status (adjtimex(2)).
    state = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None, use_errno=True).adjtimex(state) < 0:
        return False  # not to be known here
    longs = ctypes.sizeof(ctypes.c_long)
    return bool(int.from_bytes(state.raw[5 * longs : 5 * longs + 4], sys.byteorder) & _UNSYNCHRONISED)
