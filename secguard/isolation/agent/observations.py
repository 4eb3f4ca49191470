"""Observations: what one agent saw of one run, as columns, signed by the agent as a DSSE envelope."""

import hashlib
from collections.abc import Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core.errors import FormatError, RefusedError
from secguard.isolation.plan.plan import Plan
from secguard.isolation.sweep.seen import Swept, check_swept
from secguard.keys import Signer, as_sealed, seal, unseal

__all__ = [
    "OBSERVATIONS_TYPE",
    "PHASES",
    "UNSYNCHRONISED",
    "Answers",
    "Arrivals",
    "Beacons",
    "Observations",
    "Strange",
    "open_observations",
]

OBSERVATIONS_TYPE = "application/vnd.secguard.isolation.observations+json"
UNSYNCHRONISED = "this machine's clock is not synchronised; the run goes by the clock"
"""The problem that an agent tells of whose clock nobody sets, where a run goes by the clock."""
PHASES = ("before", "during", "after")
_MAX_ROWS = 4_000_000
_MAX_HEAD = 2048


class Arrivals(msgspec.Struct, forbid_unknown_fields=True):
    """Authenticated probes of others that reached this agent: first arrival of each (case, seq), its count, its packet.

    `packet` is the position of a kept packet of the same case and shape, -1 when no more were kept.
    """

    case: list[int] = []
    seq: list[int] = []
    time: list[int] = []
    count: list[int] = []
    packet: list[int] = []


class Answers(msgspec.Struct, forbid_unknown_fields=True):
    """Answers to this agent's own cases: a word (of `headers.answer`, `reply-open`, `echo`), source and count."""

    case: list[int] = []
    word: list[str] = []
    source: list[str] = []
    count: list[int] = []


class Strange(msgspec.Struct, forbid_unknown_fields=True):
    """Payloads that look like tokens and are not of this run or not genuine."""

    status: list[str] = []
    source: list[str] = []
    destination: list[str] = []
    time: list[int] = []


class Beacons(msgspec.Struct, forbid_unknown_fields=True):
    """In-zone beacons of one family per phase: sent, heard back, and answers of the next hop to ARP or NDP."""

    sent: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])
    heard: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])
    neighbour: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])


class Observations(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One agent's record of one run.

    Attributes:
        run: the run ID.
        plan: SHA-256 of the plan's payload.
        agent: position in the plan's agents.
        started: when the sensor began, nanoseconds since 1970.
        ended: when it ended.
        egress: per case, packets of its own seen leaving on its wire.
        arrivals: what reached it.
        answers: what came back.
        hints: (case) of bare SYNs that look like a probe but carry no token.
        strange: forged and foreign payloads.
        beacons: per family ("4", "6").
        drops: frames lost by the sensor.
        problems: what went wrong, in words.
        packets: kept packets: (case, nanoseconds, hex of the first bytes from layer 3 on).
        witnessed: the sender's end, for the captures: (case, nanoseconds, whether it left, hex) of the first packet
            of each case that left, and of the first answers to it.
        swept: what it saw of the sweeps.
    """

    run: str
    plan: str
    agent: int
    started: int
    ended: int
    egress: list[int]
    arrivals: Arrivals
    answers: Answers
    hints: list[int]
    strange: Strange
    beacons: dict[str, Beacons]
    drops: int
    problems: list[str]
    packets: list[tuple[int, int, str]]
    strange_total: int = 0
    swept: Swept = msgspec.field(default_factory=Swept)
    witnessed: list[tuple[int, int, bool, str]] = []
    v: int = 1

    def seal(self, signer: Signer) -> bytes:
        """The signed observations, one line."""
        return seal(msgspec.json.encode(self), OBSERVATIONS_TYPE, signer)


def open_observations(
    data: bytes, plan: Plan, digest: str, keys: Mapping[str, PublicKeyTypes]
) -> tuple[Observations, str]:
    """Check one agent's signed observations against the plan.

    Args:
        data: the envelope.
        plan: the plan they belong to.
        digest: its SHA-256.
        keys: public key of each agent, by name.

    Returns:
        The observations and the SHA-256 of their payload.

    Raises:
        FormatError: not observations.
        RefusedError: of another plan, or not signed by the agent that they name.
    """
    payload, key = unseal(data, OBSERVATIONS_TYPE, keys.values())
    try:
        seen = msgspec.json.decode(payload, type=Observations)
        _check(seen, len(plan.cases), len(plan.agents))
        check_swept(seen.swept, plan, seen.agent)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("isolation.observations.format", f"not observations: {str(error)[:160]}") from None
    name = plan.agents[seen.agent].name
    if key is None or keys.get(name) is not key:
        raise RefusedError(
            "isolation.observations.signature",
            f"not signed by agent {name}",
            hint="they were edited, or made with another key than the plan's; get them again from the agent",
        )
    if not as_sealed(data, key):
        raise FormatError(
            "isolation.observations.form",
            f"the observations of agent {name} are not as they were written",
            hint="get them again from the agent",
        )
    if seen.plan != digest or seen.run != plan.run:
        raise RefusedError(
            "isolation.observations.plan",
            f"agent {name} observed another run",
            hint="a plan is judged with what its own agents brought back, each run for itself",
        )
    return seen, hashlib.sha256(payload).hexdigest()


def _check(seen: Observations, cases: int, agents: int) -> None:
    if seen.v != 1 or not 0 <= seen.agent < agents or len(seen.egress) != cases:
        raise ValueError("does not fit the plan")
    for table in (seen.arrivals, seen.answers, seen.strange, *seen.beacons.values()):
        columns = [getattr(table, name) for name in table.__struct_fields__]
        if len({len(column) for column in columns}) != 1 or len(columns[0]) > _MAX_ROWS:
            raise ValueError("columns of different or too great length")
    if any(len(item.sent) != len(PHASES) for item in seen.beacons.values()) or set(seen.beacons) - {"4", "6"}:
        raise ValueError("beacons do not fit the phases")
    if any(not -1 <= position < len(seen.packets) for position in seen.arrivals.packet):
        raise ValueError("names a packet that was not kept")
    kept = [(case, text) for case, _, text in seen.packets] + [(case, text) for case, _, _, text in seen.witnessed]
    if any(len(text) > 2 * _MAX_HEAD for _, text in kept):
        raise ValueError("a packet that is too long")
    if any(not 0 <= case < cases for case, _ in kept):
        raise ValueError("keeps a packet of a case that is not in the plan")
    if any(not 0 <= case < cases for column in (seen.arrivals.case, seen.answers.case, seen.hints) for case in column):
        raise ValueError("names a case that is not in the plan")
