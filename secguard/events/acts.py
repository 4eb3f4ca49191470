"""Long acts: `noun.started` -> work -> `noun.finished` or `noun.failed`, then release; a killed one is closed later."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from secguard.core.clock import Clock
from secguard.core.errors import SecguardError
from secguard.events.event import Actor, Event, Result, new_event_id
from secguard.events.recorder import Recorder

__all__ = ["close_dangling", "ending_id", "long_act"]

_PROCESS = "process"


def _start_of(pid: int) -> str:
    # proc(5): field 22, the start time in ticks since boot; the name before it may hold spaces and parentheses.
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _mark() -> str:
    return f"{_boot()}/{os.getpid()}/{_start_of(os.getpid())}"


def _alive(mark: str) -> bool:
    boot, _, rest = mark.partition("/")
    pid, _, start = rest.partition("/")
    return boot == _boot() and pid.isdecimal() and bool(start) and _start_of(int(pid)) == start


@contextmanager
def long_act(
    recorder: Recorder,
    clock: Clock,
    noun: str,
    *,
    actor: Actor,
    subject: str,
    case: str = "",
    reason: str = "",
    event_id: str = "",
    **data: Any,
) -> Iterator[dict[str, Any]]:
    """Record the start of a long act (as `event_id`, if that is given), let it run, and record its end.

    Yields:
        A dict for the values of the closing event; the caller fills it before leaving the block.

    Raises:
        SecguardError: recording failed, so nothing may be released; or what the block raised.
    """
    opening = Event(
        id=event_id or new_event_id(),
        kind=f"{noun}.started",
        time=clock.now(),
        actor=actor,
        subject=subject,
        case=case,
        reason=reason,
        data={**data, _PROCESS: _mark()},
    )
    recorder.record([opening])
    closing: dict[str, Any] = {}
    try:
        yield closing
    except BaseException as error:
        reason_code = error.code if isinstance(error, SecguardError) else type(error).__name__
        recorder.record([_closing(opening, clock, "failed", {**closing, "error": reason_code})])
        raise
    recorder.record([_closing(opening, clock, "finished", closing)])


def ending_id(opening: Event) -> str:
    """The ID of what closes a long act: one for every way to end, so whoever closes it second finds it closed."""
    return f"secguard:end:{opening.id}"


def _closing(opening: Event, clock: Clock, how: str, values: dict[str, Any]) -> Event:
    noun = opening.kind.removesuffix(".started")
    outcome = Result.SUCCESS if how == "finished" else Result.FAILURE
    data = {"act": opening.id, **values}
    return msgspec.structs.replace(
        opening, id=ending_id(opening), kind=f"{noun}.{how}", time=clock.now(), outcome=outcome, data=data
    )


def close_dangling(started: Iterable[Event], recorder: Recorder, clock: Clock) -> int:
    """Close the acts whose process ended without a word: killed, or the machine went down.

    Args:
        started: `noun.started` events, open or closed; those of running processes of this machine are left alone.
        recorder: gets a `noun.failed` for each dangling act; one that was closed before keeps its end.
        clock: the time of closing.

    Returns:
        How many were closed now.

    Raises:
        SecguardError: recording failed.
    """
    dead = [event for event in started if not _alive(str(event.data.get(_PROCESS, "")))]
    endings = [_closing(event, clock, "failed", {"error": "interrupted"}) for event in dead]
    return sum(not receipt.duplicate for receipt in recorder.record(endings)) if endings else 0
