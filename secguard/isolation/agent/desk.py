"""The desk: takes orders, checks each, has it carried out, and answers. It knows nothing of what carries them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from secguard.core.clock import Clock
from secguard.core.errors import FormatError, RefusedError, SecguardError
from secguard.isolation.agent.answering import wait
from secguard.isolation.agent.control import Message, Order, Problem, answer, open_message, open_order
from secguard.isolation.agent.credentials import Trust
from secguard.isolation.agent.keys import parse_key, spki
from secguard.isolation.agent.memory import Memory
from secguard.isolation.agent.neighbours import ready
from secguard.isolation.agent.phases import phase
from secguard.isolation.agent.report import report
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.plan import Plan
from secguard.isolation.wire import wire
from secguard.keys import Signer

if TYPE_CHECKING:
    from secguard.isolation.sweep.sweeper import Sweeper

__all__ = ["Desk", "Self", "check_self"]

_DURING = 2  # the phase after which rounds of sweeps come

_PLAN_SECONDS = 60.0


class Self:
    """Who an agent is.

    Attributes:
        name: as in the policy.
        signer: its key; signs answers and observations.
        certificate: SHA-256 of its certificate; empty without one.
        zone: where it stands; empty believes the plan.
    """

    def __init__(self, name: str, signer: Signer, *, certificate: str = "", zone: str = "") -> None:
        self.name = name
        self.signer = signer
        self.certificate = certificate
        self.zone = zone


def check_self(plan: Plan, me: Self) -> None:
    """Refuse a plan that is for another agent, another key, or puts this one into another zone.

    Raises:
        UsageError: the plan has no such agent.
        RefusedError: it names another key, certificate or zone.
    """
    info = plan.agents[plan.agent(me.name)]
    if me.zone and info.zone != me.zone:
        raise RefusedError("isolation.plan.zone", f"the plan puts {me.name} into {info.zone}; it stands in {me.zone}")
    if not info.key:
        raise RefusedError(
            "isolation.plan.key", f"the plan names no key for {me.name}", hint="isolation plan --agent-cert NAME=PEM"
        )
    if info.key != spki(me.signer.public_key()) or (info.certificate and info.certificate != me.certificate):
        raise RefusedError(
            "isolation.plan.key",
            f"the plan names another key for {me.name}",
            hint="make the plan with the certificate that this agent has now",
        )


class Desk:
    """One agent, one run.

    Args:
        me: who the agent is.
        trust: whose plans count.
        clock: the time.
        say: sends an answer, one line.
        memory: where the runs are remembered; None for an agent that is made for one run.
        state: where the rounds of sweeps are kept, so that another life of the agent may go on.
    """

    def __init__(
        self,
        me: Self,
        trust: Trust,
        clock: Clock,
        say: Callable[[bytes], None],
        memory: Path | None = None,
        *,
        state: Path | None = None,
    ) -> None:
        self._me = me
        self._trust = trust
        self._clock = clock
        self._say = say
        self._memory = memory
        self._state = state
        self._sweeper: Sweeper | None = None
        self._session: Session | None = None
        self._plan: Plan | None = None
        self._digest = ""
        self._seq = 0
        self._held = contextlib.ExitStack()
        self._opened = time.monotonic()

    def hello(self) -> None:
        """Say who is here."""
        addresses = tuple(text for item in wire.interfaces() for text in item.addresses)
        key = spki(self._me.signer.public_key())
        certificate = self._me.certificate
        self._say(
            answer(
                self._me.signer,
                op="hello",
                agent=self._me.name,
                addresses=addresses,
                key=key,
                certificate=certificate,
            )
        )

    def serve(self, lines: Iterator[bytes | None]) -> None:
        """Take orders until the run is over or the lines end; None means that none came for a moment.

        Raises:
            SecguardError: an order that is refused; it is told to the controller, and the run is over.
        """
        with self._held:
            try:
                for line in lines:
                    if line is None:
                        self._look_at_the_clock()
                        if self._session is not None:
                            wait(self._session, 0)
                        if self._sweeper is not None:
                            self._sweeper.pump()
                    elif not self._take(open_message(line)):
                        return
            except SecguardError as error:
                self._tell(error)
                raise
            except Exception as error:
                # Whatever went wrong, the controller must hear of it: silence would cost it a minute.
                refused = SecguardError("isolation.agent.failed", f"{type(error).__name__}: {error}"[:300])
                self._tell(refused)
                raise refused from error

    def _look_at_the_clock(self) -> None:
        """End a run that nobody leads any more: an agent is never kept by somebody who says nothing."""
        if self._plan is None:
            if time.monotonic() - self._opened > _PLAN_SECONDS:
                raise RefusedError("isolation.agent.idle", f"no plan came in {_PLAN_SECONDS:.0f} s")
        elif self._clock.now() > self._plan.not_after:
            raise RefusedError("isolation.plan.window", "the plan's window has passed")

    def _tell(self, error: SecguardError) -> None:
        problem = Problem(error.code, error.message, error.hint, error.where)
        run = self._plan.run if self._plan else ""
        with contextlib.suppress(OSError):
            self._say(answer(self._me.signer, op="stop", agent=self._me.name, run=run, seq=self._seq, error=problem))

    def _take(self, message: Message) -> bool:
        """Carry out one order; False when the run is over."""
        if self._plan is None:
            order = self._accept(message)
        else:
            order = self._check(open_order(message, parse_key(self._plan.controller)), self._plan, self._digest)
        document, problems = b"", []
        rounds: tuple[int, ...] = ()
        session = self._session
        if order.op == "plan":
            assert self._plan is not None
            self._session = session = Session(self._plan, self._digest, self._me.name, self._me.signer)
            self._held.callback(session.close)
            ready(session)
            rounds = self._get_ready_to_sweep(session)
            problems = session.problems
        elif order.op == "phase" and session is not None:
            if self._sweeper is not None:
                self._sweeper.finish()
            phase(session, order.number)
            if self._sweeper is not None and order.number == _DURING:
                self._sweeper.hear()
        elif order.op in {"sweep", "keep"}:
            self._sweep(order)
        elif order.op == "report" and session is not None:
            document = report(session, self._sweeper.report() if self._sweeper is not None else None)
        self._say(
            answer(
                self._me.signer,
                document,
                op=order.op,
                agent=self._me.name,
                run=order.run,
                seq=order.seq,
                problems=problems,
                rounds=rounds,
            )
        )
        return order.op not in {"report", "stop"}

    def _get_ready_to_sweep(self, session: Session) -> tuple[int, ...]:
        """Prepare the sweeps if the plan has any; the rounds that an earlier life has kept."""
        if not session.plan.sweeps:
            return ()
        from secguard.isolation.sweep.sweeper import Sweeper

        self._sweeper = Sweeper(session, self._state)
        if not len(session.plan.cases):
            self._sweeper.hear()  # no phase comes first: the others may send as soon as all have answered
        return tuple(sorted(self._sweeper.done))

    def _sweep(self, order: Order) -> None:
        sweeper = self._sweeper
        if sweeper is None or not 0 <= order.number < len(sweeper.rounds):
            raise FormatError("isolation.control.round", "the plan has no such round of sweeps")
        if order.op == "sweep":
            sweeper.round(order.number)
        else:
            sweeper.keep()

    def _accept(self, message: Message) -> Order:
        """The first order of a run: it brings the plan, which says whose orders count."""
        plan, digest = self._trust.open_plan(message.document, self._clock.now())
        if not plan.controller:
            raise RefusedError(
                "isolation.plan.controller",
                "the plan has no controller",
                hint="it runs by the clock: isolation agent --bundle",
            )
        order = self._check(open_order(message, parse_key(plan.controller)), plan, digest)
        if order.op != "plan":
            raise FormatError("isolation.control.order", "the first order of a run brings the plan")
        check_self(plan, self._me)
        if self._memory is not None:
            runs = self._held.enter_context(Memory(self._memory))
            if not self._resumes(plan, digest):
                runs.begin(plan)
        self._plan, self._digest = plan, digest
        return order

    def _resumes(self, plan: Plan, digest: str) -> bool:
        """Whether an earlier life of this agent has kept rounds of the plan's sweeps: then its run goes on."""
        if not plan.sweeps or self._state is None:
            return False
        from secguard.isolation.sweep.journal import journal_path

        return journal_path(self._state, digest, self._me.name).exists()

    def _check(self, order: Order, plan: Plan, digest: str) -> Order:
        if order.agent != self._me.name:
            raise RefusedError("isolation.control.agent", f"an order for agent {order.agent[:60]}")
        if order.run != plan.run or order.plan != digest:
            raise RefusedError("isolation.control.run", "an order of another run")
        if order.seq <= self._seq:
            raise RefusedError("isolation.control.replayed", "an order that came before")
        if order.op == "phase" and not 1 <= order.number <= 3:
            raise FormatError("isolation.control.phase", "a run has the phases 1, 2 and 3")
        if order.op == "plan" and self._plan is not None:
            raise RefusedError("isolation.agent.busy", "the agent has a plan already")
        self._seq = order.seq
        return order
