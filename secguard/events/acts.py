"""Long acts: `noun.started` -> work -> `noun.finished` or `noun.failed`, then release."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from secguard.core.clock import Clock
from secguard.core.errors import SecguardError
from secguard.events.event import Actor, Event, Result, new_event_id
from secguard.events.recorder import Recorder

__all__ = ["long_act"]


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
    **data: Any,
) -> Iterator[dict[str, Any]]:
    """Record the start of a long act, let it run, and record its end.

    Yields:
        A dict for the values of the closing event; the caller fills it before leaving the block.

    Raises:
        SecguardError: recording failed, so nothing may be released; or what the block raised.
    """
    act = new_event_id()
    opening = Event(
        id=act,
        kind=f"{noun}.started",
        time=clock.now(),
        actor=actor,
        subject=subject,
        case=case,
        reason=reason,
        data=data,
    )
    recorder.record([opening])
    closing: dict[str, Any] = {}

    def close(kind: str, outcome: Result, values: dict[str, Any]) -> None:
        event = msgspec.structs.replace(
            opening,
            id=new_event_id(),
            kind=f"{noun}.{kind}",
            time=clock.now(),
            outcome=outcome,
            data={"act": act, **values},
        )
        recorder.record([event])

    try:
        yield closing
    except BaseException as error:
        reason_code = error.code if isinstance(error, SecguardError) else type(error).__name__
        close("failed", Result.FAILURE, {**closing, "error": reason_code})
        raise
    close("finished", Result.SUCCESS, closing)
