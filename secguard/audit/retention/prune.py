"""Deletion by policy: first recorded, then done; broken off, the next run finishes it.

1. Everything is read once: what has expired, what is on hold, what an earlier run recorded and did not finish.
2. `audit.pruned` events name the entries (ranges), the policy by its digest, and the holds in force.
3. Where the journal still has a copy of one, its newest segment is turned into files and let go.
4. The bodies are deleted, then the rows of the index.

The commitments stay: the tree, all proofs and all receipts stay valid, and `ledger verify` cites the record.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from secguard.audit.index.index import Index, Log, body_of
from secguard.audit.retention.holds import Holding, read_holds
from secguard.audit.retention.policy import RetentionPolicy
from secguard.core import Clock, Finding, Progress, Throttle, finding, silent
from secguard.core.errors import RefusedError
from secguard.core.files import atomic_write
from secguard.events import Actor, Assurance, Event, new_event_id
from secguard.ledger import Ledger, ranges_of

__all__ = ["Plan", "Pruned", "plan_prune", "prune"]

_RANGES = 1000
"""Ranges that one record names: it must stay below the size of an event."""
_SILENCE = timedelta(days=92)
"""The clock is doubted when nothing was recorded on this machine for so long."""


class _Who(msgspec.Struct):
    assurance: Assurance = Assurance.CLAIMED


class _Data(msgspec.Struct):
    indexes: list[tuple[int, int]] = []


class _Head(msgspec.Struct):
    kind: str
    time: datetime
    actor: _Who


class _Via(msgspec.Struct):
    received: datetime


class _Brought(msgspec.Struct):
    via: _Via


class _Collected(msgspec.Struct):
    data: _Brought


class _Record(msgspec.Struct):
    data: _Data


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    Attributes:
        size: entries that were looked at.
        expired: entries to delete now, sorted; those of `unfinished` are not among them.
        unfinished: entries whose deletion is recorded, and that are still there.
        held: by hold, how many expired entries it keeps.
        stale: entries whose rows the index may still have: those to be deleted, and those of unfinished runs.
        gone: entries without a body before this run.
        kinds: of what is to be deleted, how many.
        oldest: time of the oldest event to delete; None if there is none.
        newest: and of the newest.
        holds: names of the holds in force.
    """

    size: int
    expired: Sequence[int]
    unfinished: Sequence[int]
    stale: Sequence[int]
    held: dict[str, int]
    gone: int
    kinds: dict[str, int]
    oldest: datetime | None
    newest: datetime | None
    holds: Sequence[str]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a run has done.

    Attributes:
        plan: what it meant to do.
        deleted: bodies deleted.
        rows: rows of the index deleted.
        filled: entries that filled up the last bundle.
        records: ledger indices of the `audit.pruned` events of this run.
        findings: `audit.prune.index`: the index could not be told.
    """

    plan: Plan
    deleted: int
    rows: int
    filled: int
    records: Sequence[int]
    findings: Sequence[Finding] = field(default_factory=tuple)


def plan_prune(
    log: Log, policy: RetentionPolicy, now: datetime, progress: Progress = silent, *, settled: int = 0
) -> Plan:
    """Find what has expired and is not on hold; changes nothing.

    Args:
        log: the ledger.
        policy: how long events are kept.
        now: the time to judge for.
        progress: told the entries read.
        settled: the index has no rows any more of what records before this entry name.

    Raises:
        RefusedError: `audit.prune.clock`: the clock disagrees with the ledger.
        FormatError: bodies are damaged.
    """
    size = log.size
    report = Throttle(progress)
    holding = Holding(read_holds(log))
    decode = msgspec.json.Decoder(_Head).decode
    cutoffs: dict[str, datetime | None] = {}
    present = bytearray(size)
    candidates: list[int] = []
    recorded: list[tuple[int, int]] = []
    unsettled: list[tuple[int, int]] = []
    times: dict[int, datetime] = {}
    held: Counter[str] = Counter()
    kinds: dict[int, str] = {}
    own: datetime | None = None  # time of the last event that was recorded on this machine: others came after it
    for first, bodies in log.scan(0, size):
        for index, body in enumerate(bodies, first):
            if body is None:
                continue
            present[index] = 1
            head = decode(body)
            if head.kind == "audit.pruned":
                ranges = [(max(low, 0), min(high, index - 1)) for low, high in _ranges(body)]
                recorded += ranges
                unsettled += ranges if index >= settled else ()
            if head.actor.assurance is not Assurance.CLAIMED:
                own = head.time
            if head.kind not in cutoffs:
                cutoffs[head.kind] = policy.cutoff(head.kind, now)
            cutoff = cutoffs[head.kind]
            if cutoff is None or head.time >= cutoff:
                continue
            if not policy.stated and _arrived(body, own, head.time) >= cutoff:
                continue
            holder = holding.holder(index, body)
            if holder is not None:
                held[holder] += 1
                continue
            candidates.append(index)
            times[index], kinds[index] = head.time, head.kind
        report(first + len(bodies), size, "events")
    _check_clock(now, own)
    done = bytearray(size)
    for low, high in recorded:
        done[low : high + 1] = b"\1" * (high + 1 - low)
    expired = [index for index in candidates if not done[index]]
    unfinished = [index for index in candidates if done[index]]
    going = [*unfinished, *expired]
    gone = {index for low, high in unsettled for index in range(low, high + 1) if not present[index]}
    return Plan(
        size,
        expired,
        unfinished,
        sorted(gone.union(going)),
        dict(held),
        size - present.count(1),
        dict(Counter(kinds[index] for index in going).most_common()),
        min((times[index] for index in going), default=None),
        max((times[index] for index in going), default=None),
        holding.ids,
    )


def _arrived(body: bytes, own: datetime | None, stated: datetime) -> datetime:
    """When an event was recorded, at the earliest: a source may state any time, but arrives after what is before it."""
    times = [stated] if own is None else [stated, own]
    if b'"via"' in body:
        with suppress(msgspec.MsgspecError):  # of another making
            times.append(msgspec.json.decode(body, type=_Collected).data.via.received)
    return max(times)


def _ranges(body: bytes) -> list[tuple[int, int]]:
    try:
        return msgspec.json.decode(body, type=_Record).data.indexes
    except msgspec.ValidationError:  # not made here; it explains nothing
        return []


def _check_clock(now: datetime, last: datetime | None) -> None:
    """A clock that is years ahead would delete everything.

    It is held against the last record, not the latest: that may stem from a day when the clock was wrong.
    """
    if last is not None and not last - timedelta(days=1) <= now <= last + _SILENCE:
        raise RefusedError(
            "audit.prune.clock",
            f"the clock says {now:%Y-%m-%d}, but what was last recorded here is of {last:%Y-%m-%d}",
            hint="if the clock is right, record anything (secguard audit search) and run again",
        )


def prune(
    log: Ledger,
    index: Index,
    policy: RetentionPolicy,
    clock: Clock,
    actor: Actor,
    *,
    state: Path,
    reason: str = "",
    case: str = "",
    approver: str = "",
    progress: Progress = silent,
) -> Pruned:
    """Delete the bodies of all events that have expired and are not on hold, and their rows in the index.

    Args:
        log: the ledger.
        index: the search index.
        policy: how long events are kept.
        clock: now.
        actor: who has them deleted.
        state: a file that remembers what the index was told; without it, it is told everything again.
        reason: why.
        case: case number of the act.
        approver: who approved it.
        progress: of reading and of deleting.

    Raises:
        RefusedError: the clock is doubted; the deletion could not be recorded: nothing was deleted.
        FormatError: bodies are damaged.
        SystemPartError: the disk failed; the next run goes on.
    """
    plan = plan_prune(log, policy, clock.now(), progress, settled=_read_state(state))
    going = sorted([*plan.unfinished, *plan.expired])
    if not plan.stale:
        return Pruned(plan, 0, 0, 0, ())
    ranges = ranges_of(plan.expired)
    events = [
        Event(
            id=new_event_id(),
            kind="audit.pruned",
            time=clock.now(),
            actor=actor,
            case=case,
            approver=approver,
            reason=reason,
            data={
                "indexes": ranges[at : at + _RANGES],
                "count": sum(high - low + 1 for low, high in ranges[at : at + _RANGES]),
                "policy": f"sha256:{policy.digest}",
                "holds": list(plan.holds)[:_RANGES],
            },
        )
        for at in range(0, len(ranges), _RANGES)
    ]
    records = [receipt.index for receipt in log.record(events)] if events else []
    filled = 0
    if going and log.in_journal(going):
        filled = log.fill(lambda count: _fillers(count, clock, actor))
    late = _held_since(log, plan, going)
    going = [place for place in going if place not in late]
    deleted = log.delete_bodies(going, progress) if going else 0
    findings: list[Finding] = []
    rows = 0
    size = log.size
    try:
        rows = index.forget([place for place in plan.stale if place not in late])
        state.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(state, msgspec.json.encode({"settled": size}) + b"\n")
    except RefusedError as error:
        findings.append(finding("audit.prune.index", reason=error.message))
    if late:
        plan = replace(plan, held={**plan.held, **Counter(late.values())})
    return Pruned(plan, deleted, rows, filled, records, tuple(findings))


def _held_since(log: Ledger, plan: Plan, going: Sequence[int]) -> dict[int, str]:
    """Entries that were put on hold since the plan was made, and by which hold: they stay, though recorded."""
    holding = Holding(read_holds(log, plan.size))
    if not holding:
        return {}
    found = ((place, body_of(log, place)) for place in going)
    held = ((place, holding.holder(place, body)) for place, body in found if body is not None)
    return {place: name for place, name in held if name is not None}


def _read_state(path: Path) -> int:
    try:
        return max(0, msgspec.json.decode(path.read_bytes(), type=dict[str, int]).get("settled", 0))
    except (OSError, msgspec.MsgspecError):
        return 0  # everything is told again


def _fillers(count: int, clock: Clock, actor: Actor) -> list[Event]:
    now = clock.now()
    return [Event(id=new_event_id(), kind="ledger.filled", time=now, actor=actor) for _ in range(count)]
