"""Who records acts, and what one gets for it."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from secguard.events.event import Event

__all__ = ["Receipt", "Recorder"]


class Receipt(msgspec.Struct, frozen=True):
    """The promise that an event is on the disk: its place in the log and its leaf hash.

    Attributes:
        event_id: the event's ID.
        index: zero-based index of its leaf.
        leaf_hash: RFC 6962 leaf hash (32 bytes) of its commitment.
        origin: the log's name.
        duplicate: True if an event with this ID had been recorded before.
    """

    event_id: str
    index: int
    leaf_hash: bytes
    origin: str
    duplicate: bool = False


class Recorder(Protocol):
    """Records acts before their results are released."""

    def record(self, events: Sequence[Event]) -> Sequence[Receipt]:
        """Write events durably; return after fdatasync, one receipt an event, in order.

        Raises:
            SecguardError: nothing may be released; the act is refused.
        """
        ...
