"""The end of a run at one agent: stop hearing, and sign what was seen."""

import time

from secguard.isolation.agent.observations import Observations
from secguard.isolation.agent.session import Session
from secguard.isolation.sweep.seen import Swept

__all__ = ["report"]


def report(session: Session, swept: Swept | None = None) -> bytes:
    """Stop, and sign what was seen, of the sweeps too."""
    drops = session.stop()
    if session.wire.error:
        session.problems.append(f"interface: {session.wire.error}")
    seen = Observations(
        run=session.plan.run,
        plan=session.digest,
        agent=session.me,
        started=session.started,
        ended=time.time_ns(),
        egress=session.sensor.egress,
        arrivals=session.sensor.arrivals(),
        answers=session.sensor.answers(),
        hints=session.sensor.hints(),
        strange=session.sensor.strange(),
        strange_total=session.sensor.strange_total,
        beacons={
            str(family): value
            for family, value in session.sensor.beacons.items()
            if session.info.address(family) or session.info.interface
        },
        drops=drops,
        problems=session.problems,
        packets=session.sensor.packets(),
        witnessed=session.sensor.witnessed(),
        swept=swept or Swept(),
    )
    return seen.seal(session.signer)
