"""The timeline: when each phase of a plan begins where nobody can give orders, so that both ends agree by the clock.

Clocks may differ: an agent hears from well before the first phase until well after the last, so that what a slow or a
fast clock sends is heard all the same. Which phase a probe belongs to stands in its token. Clocks that are further
apart than the plan's `skew` would make silence out of traffic: where a flow is allowed, its canary tells.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.sweeps import estimate
from secguard.isolation.probes.packets import parts

__all__ = ["Timeline", "sending_seconds", "timeline"]

_READY = 2.0  # routes and next hops
_PHASE = 3.0  # beacons, late answers
_TALK = 2.0  # conversations after the second phase


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run by the clock.

    Attributes:
        ready: the agents hear from here on.
        phases: when each of the three phases begins.
        end: the agents stop to hear.
    """

    ready: datetime
    phases: tuple[datetime, datetime, datetime]
    end: datetime


def sending_seconds(plan: Plan, number: int) -> float:
    """Seconds in which the busiest agent sends phase `number`, 1 to 3, at the plan's rate."""
    cases = plan.cases
    packets: Counter[int] = Counter()
    sizes: dict[tuple[str, str], int] = {}
    for src, profile, protocol, canary in zip(cases.src, cases.profile, cases.protocol, cases.canary, strict=True):
        if number == 2 or canary:
            kind = (profile, protocol)
            if kind not in sizes:
                sizes[kind] = sum(len(parts(profile, protocol, attempt)) for attempt in range(plan.attempts))
            packets[src] += sizes[kind]
    busiest = max(packets.values(), default=0) / plan.rate
    return busiest + (estimate(plan.sweeps, plan.attempts, plan.rate) if number == 2 else 0.0)


def timeline(plan: Plan, start: datetime) -> Timeline:
    """When the phases of a plan begin that starts at `start` (aware)."""
    at, begins = start, []
    for number in (1, 2, 3):
        begins.append(at)
        seconds = _PHASE + 1.25 * sending_seconds(plan, number) + (_TALK if number == 2 else 0.0)
        at += timedelta(seconds=seconds)
    skew = timedelta(seconds=plan.skew)
    end = at + timedelta(seconds=plan.timeout) + skew
    return Timeline(start - skew - timedelta(seconds=_READY), (begins[0], begins[1], begins[2]), end)
