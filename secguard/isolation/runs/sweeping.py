"""Leading the sweeps: round by round, all agents in step; what is kept is never sent again."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from secguard.core import Progress
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.sweeps import rounds
from secguard.isolation.runs.process import Link, Said

__all__ = ["Ask", "failed", "lead_sweeps"]

_ROUND_SECONDS = 20.0  # on top of the sending


class Ask(Protocol):
    """Gives all living agents an order, and gathers their answers."""

    def __call__(self, seconds: float, op: str, *, number: int = 0, document: bytes = b"") -> dict[str, Said]:
        """Order `op` and wait at most `seconds`."""


def failed(agents: Sequence[Link], answers: Mapping[str, Said]) -> list[str]:
    """Mark the agents that answered with an error, and tell the errors."""
    problems = []
    for agent in agents:
        said = answers.get(agent.name)
        if said is not None and (error := said.answer.failure()):
            agent.error = error.message
            problems.append(error.message)
    return problems


def lead_sweeps(plan: Plan, agents: Sequence[Link], ask: Ask, done: Collection[int], progress: Progress) -> list[str]:
    """Lead agents through the rounds of a plan's sweeps.

    Args:
        plan: the checked plan.
        agents: those that hold it.
        ask: gives an order.
        done: rounds that every agent has kept already.
        progress: probes done, of all.

    Returns:
        What went wrong, in words.
    """
    problems: list[str] = []
    total = sum(sweep.size for sweep in plan.sweeps)
    passed = 0
    for number, pieces in enumerate(rounds(plan.sweeps, plan.attempts, plan.rate)):
        sizes = [sum(piece.last - piece.first for piece in mine) for mine in pieces.values()]
        if number not in done:
            seconds = _ROUND_SECONDS + 2 * max(sizes) * plan.attempts / plan.rate
            for op, patience in (("sweep", seconds), ("keep", _ROUND_SECONDS)):
                problems += failed(agents, ask(patience, op, number=number))
            if all(agent.error for agent in agents):
                break
        passed += sum(sizes)
        progress(passed, total, "probes")
    return problems
