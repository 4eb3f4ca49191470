"""Whoever changes something acts in somebody's name, and records it before anything is released."""

from collections.abc import Sequence
from typing import Any

from secguard.core import Clock
from secguard.events import Actor, Event, Receipt, Recorder, Result, new_event_id

__all__ = ["Acting"]


class Acting:
    """An acting person and the ledger.

    Args:
        clock: gives the times of events.
        recorder: the ledger.
        actor: who acts.
    """

    def __init__(self, clock: Clock, recorder: Recorder, actor: Actor) -> None:
        self.clock = clock
        self._recorder = recorder
        self._actor = actor
        self.receipts: list[Receipt] = []

    def event(
        self,
        kind: str,
        subject: str,
        event_id: str | None = None,
        *,
        case: str = "",
        reason: str = "",
        denied: bool = False,
        **data: Any,
    ) -> Event:
        """An event of the acting person, now; further names are its data."""
        return Event(
            id=event_id or new_event_id(),
            kind=kind,
            time=self.clock.now(),
            actor=self._actor,
            subject=subject,
            case=case,
            reason=reason,
            outcome=Result.DENIED if denied else Result.SUCCESS,
            data=data,
        )

    def record(self, events: Sequence[Event]) -> None:
        """Record events and keep their receipts; if this raises, nothing may be released."""
        self.receipts += self._recorder.record(events)
