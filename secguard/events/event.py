"""The event: one act by one actor on one subject at one time."""

import secrets
import time
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

__all__ = ["Actor", "Assurance", "Event", "Result", "new_event_id"]

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Name = Annotated[str, msgspec.Meta(max_length=256)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]


class Assurance(StrEnum):
    """How sure it is that the actor is who the event says."""

    CERTIFICATE = "certificate"
    OS_USER = "os-user"
    CLAIMED = "claimed"


class Result(StrEnum):
    """How the act ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"
    UNKNOWN = "unknown"


class Actor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who acted.

    Attributes:
        name: account or person as the source writes it.
        assurance: what vouches for the name.
        role: role at the source.
        org: organisation.
        address: IP address the act came from.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    assurance: Assurance = Assurance.CLAIMED
    role: _Name = ""
    org: _Name = ""
    address: _Name = ""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One act, as the ledger keeps it.

    Attributes:
        v: version of the vocabulary.
        id: unique name; retries with the same ID are recorded once.
        kind: `noun.verb` from the closed list of `secguard.events.kinds`.
        time: when it happened, aware UTC, as claimed by the source.
        actor: who did it.
        subject: what it was done to: a GB/T 28181 ID, a file's digest, a plan.
        case: case number that justifies it.
        approver: who approved it.
        reason: purpose in words.
        outcome: how it ended.
        data: further values, JSON; small (anything large is a blob named by its digest).
    """

    id: _Id
    kind: _Id
    time: datetime
    actor: Actor
    subject: _Name = ""
    case: _Name = ""
    approver: _Name = ""
    reason: _Text = ""
    outcome: Result = Result.SUCCESS
    data: dict[str, Any] = {}
    v: int = 1


def new_event_id() -> str:
    """A fresh UUIDv7 (RFC 9562, section 5.7): sorts by creation time."""
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
