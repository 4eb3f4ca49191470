"""The timeline: when each phase of a plan begins where nobody can give orders, so that both ends agree by the clock.

Clocks may differ: an agent hears from well before the first phase until well after the last, so that what a slow or a
fast clock sends is heard all the same. Which phase a probe belongs to stands in its token. Clocks that are further
apart than the plan's `skew` would make silence out of traffic: where a flow is allowed, its canary tells.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.sweeps import estimate, rounds
from secguard.isolation.probes.packets import parts

__all__ = ["Timeline", "sending_seconds", "timeline"]

_READY = 2.0  # routes and next hops
_PHASE = 3.0  # beacons, late answers
_TALK = 2.0  # conversations after the second phase
_ROUND = 3.0  # health before and after a round, late answers
_SLACK = 1.25  # a busy machine sends slower than the plan's rate


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run by the clock.

    Attributes:
        ready: the agents hear from here on.
        phases: when each of the three phases begins.
        rounds: when each round of sweeps begins, after the second phase.
        sweeping: from when to when sweeps are listened for, at the pace of sweeps; cases are, before and after.
        end: the agents stop to hear.
    """

    ready: datetime
    phases: tuple[datetime, datetime, datetime]
    rounds: tuple[datetime, ...]
    sweeping: tuple[datetime, datetime]
    end: datetime


def sending_seconds(plan: Plan, number: int) -> float:
    """Seconds in which the busiest agent sends phase `number`, 1 to 3, at the plan's rate; sweeps are part of 2."""
    return _case_seconds(plan, number) + (estimate(plan.sweeps, plan.attempts, plan.rate) if number == 2 else 0.0)


def _case_seconds(plan: Plan, number: int) -> float:
    cases = plan.cases
    packets: Counter[int] = Counter()
    sizes: dict[tuple[str, str], int] = {}
    for src, profile, protocol, canary in zip(cases.src, cases.profile, cases.protocol, cases.canary, strict=True):
        if number == 2 or canary:
            kind = (profile, protocol)
            if kind not in sizes:
                sizes[kind] = sum(len(parts(profile, protocol, attempt)) for attempt in range(plan.attempts))
            packets[src] += sizes[kind]
    return max(packets.values(), default=0) / plan.rate


def timeline(plan: Plan, start: datetime) -> Timeline:
    """When the phases of a plan begin that starts at `start` (aware)."""
    skew = timedelta(seconds=plan.skew)
    at, begins, turns = start, [], []
    sweeping = (start, start)
    for number in (1, 2, 3):
        begins.append(at)
        seconds = _PHASE + _SLACK * _case_seconds(plan, number) + (_TALK if number == 2 else 0.0)
        at += timedelta(seconds=seconds)
        if number != 2 or not plan.sweeps:
            continue
        # The change of ears stands a skew apart from what anybody sends, on both sides.
        opens, at = at + skew, at + 2 * skew
        for pieces in rounds(plan.sweeps, plan.attempts, plan.rate):
            turns.append(at)
            busiest = max(sum(piece.last - piece.first for piece in own) for own in pieces.values())
            at += timedelta(seconds=_ROUND + _SLACK * busiest * plan.attempts / plan.rate)
        sweeping = (opens, at + skew)
        at += 2 * skew
    end = at + timedelta(seconds=plan.timeout) + skew
    return Timeline(
        start - skew - timedelta(seconds=_READY), (begins[0], begins[1], begins[2]), tuple(turns), sweeping, end
    )
