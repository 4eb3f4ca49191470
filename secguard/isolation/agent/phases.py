"""The phases of a run: 1 and 3 are beacons and canaries, 2 is every case; arrivals are answered all the while.

What comes back on an outbound flow (`pinhole`) waits for phase 3; the flow itself (`outbound`) is the last of phase 2.
"""

import time

from secguard.isolation.agent.answering import answer, wait
from secguard.isolation.agent.conversing import converse
from secguard.isolation.agent.neighbours import ask
from secguard.isolation.agent.sending import frame, probes
from secguard.isolation.agent.sensor import BEACON_SPORT
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.tokens import Kind

__all__ = ["beacon", "phase"]

_BEACONS = 3
_ANSWER_WAIT = 0.25
_LATE_WAIT = 1.0


def phase(session: Session, number: int) -> None:
    """Send one phase: 1 and 3 are beacons and canaries, 2 is every case."""
    table = session.plan.cases
    session.sensor.phase = number
    mine = [case for case in range(len(table)) if table.src[case] == session.me]
    late = [case for case in mine if table.profile[case] == "outbound"]
    back = [case for case in mine if table.profile[case] == "pinhole"]
    usual = [case for case in mine if table.profile[case] not in {"outbound", "pinhole"}]
    canaries = [case for case in mine if table.canary[case] and table.profile[case] != "outbound"]
    turns = {1: [canaries], 2: [usual, late], 3: [back, canaries]}[number]
    frames = [made for chosen in turns for made in probes(session, number, chosen)]
    step = max(1, -(-len(frames) // _BEACONS))
    for start in range(_BEACONS):
        beacon(session, number)
        refused = session.wire.send(
            frames[start * step : (start + 1) * step], session.plan.rate, lambda: answer(session)
        )
        if refused:
            session.problems.append(f"{refused} packets not sent: {session.wire.error}")
        wait(session, 0.03)
    beacon(session, number)
    wait(session, _ANSWER_WAIT)
    # A busy machine hears late; a broken wire does not hear at all.
    end = time.monotonic() + _LATE_WAIT
    while not _heard(session, number) and time.monotonic() < end:
        wait(session, 0.05)
    if number == 2:
        converse(session)


def _heard(session: Session, phase: int) -> bool:
    """Whether each family that was asked has answered in this phase."""
    asked = [item for item in session.sensor.beacons.values() if item.sent[phase - 1]]
    return all(item.heard[phase - 1] and item.neighbour[phase - 1] for item in asked)


def beacon(session: Session, phase: int, beat: int = 0) -> None:
    """Ask the next hop for its address, and have it (or a neighbour agent) send a token back over the wire.

    `beat` (a byte) tells those who listen which one it is.
    """
    frames = []
    for family, targets in session.beacon_targets.items():
        for target in sorted(targets):
            token = session.tokens.make(Kind.BEACON, [session.me], [phase << 8 | beat])[0]
            echo = frame(session, "echo", target, token, ports=(BEACON_SPORT, 0), ident=phase)
            session.sensor.beacons[family].sent[phase - 1] += 1
            frames += [ask(session, session.hop.get(target, target)), echo]
    session.wire.send([item for item in frames if item], session.plan.rate)
