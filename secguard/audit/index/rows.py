"""The index row of an event: every column can be computed again from the ledger's bytes, so any change shows."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from secguard.audit.index.places import rest_of
from secguard.audit.index.words import document, document_of, joined, person_of, without
from secguard.events import decode_stored

__all__ = ["COLUMNS", "Row", "microseconds", "row_of", "rows_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_sha256 = hashlib.sha256
_BACKSLASH = ord("\\")  # a byte is looked for as a number; bytes are tried as one first


class Row(NamedTuple):
    """What the index knows of one event; strings are empty where the event says nothing.

    Attributes:
        seq: the event's ledger index, zero-based.
        id: the event's ID.
        kind: its kind.
        time: microseconds since 1970 UTC, as claimed by the source (nanoseconds would overflow before 1677 and
            after 2262, and events hold microseconds).
        actor: name of the actor.
        role: the actor's role.
        org: the actor's organisation.
        address: the actor's address.
        subject: what the act was done to.
        case: case number.
        approver: who approved.
        outcome: how it ended.
        reasoned: 1 if a reason is given.
        digest: SHA-256 of the event's stored bytes (32 bytes).
        reason: the words of the reason.
        data: the words of what the event says beside.
        ecs: the other fields of the event's ECS document, as JSON, in an index that holds documents; else empty.
    """

    seq: int
    id: str
    kind: str
    time: int
    actor: str
    role: str
    org: str
    address: str
    subject: str
    case: str
    approver: str
    outcome: str
    reasoned: int
    digest: bytes
    reason: str
    data: str
    ecs: str = ""

    @property
    def text(self) -> str:
        """The words of everything but the reason."""
        return joined(self._before(), self.data)

    def with_text(self, text: str) -> "Row":
        """The row whose `text` this is: other columns stay, and their words are taken away.

        Where the text does not begin with their words, no event gives the row.
        """
        return self._replace(data=without(text, self._before()))

    def _before(self) -> str:
        return document(
            (self.address, self.subject, self.case, self.approver), person_of(self.actor, self.role, self.org)
        )

    @classmethod
    def blank(cls, seq: int, id: str = "", reason: str = "", data: str = "") -> "Row":  # noqa: A002 - the field's name
        """A row of which only this much is known."""
        return cls(seq, id, "", 0, "", "", "", "", "", "", "", "", 0, b"", reason, data)


COLUMNS = Row._fields[:-1]
"""Names of the columns that every index has."""


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 UTC of an aware time, exactly."""
    delta = time - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def row_of(seq: int, body: bytes, *, ecs: bool = False) -> Row:
    """The row of the event whose stored bytes are `body`.

    Args:
        seq: its ledger index.
        body: its stored bytes.
        ecs: with what its document holds beside the columns.

    Raises:
        FormatError: the bytes are no event.
    """
    event = decode_stored(body)
    actor = event.actor
    name, role, org, address = actor.name, actor.role, actor.org, actor.address
    subject, case, approver, id_ = event.subject, event.case, event.approver, event.id
    if _BACKSLASH in body and b"\\u0000" in body:  # SQLite's pattern match ends at a NUL
        kept = [value.replace("\0", "\ufffd") for value in (name, role, org, address, subject, case, approver, id_)]
        name, role, org, address, subject, case, approver, id_ = kept
    # The words of a question are left out: a search would find all earlier searches for the same words.
    data = document(event.data.values()) if event.data and event.kind != "audit.searched" else ""
    reason = document_of(event.reason) if event.reason else ""
    rest = rest_of(event) if ecs else ""
    return tuple.__new__(  # half the time of Row(...)
        Row,
        (
            seq,
            id_,
            event.kind,
            microseconds(event.time),
            name,
            role,
            org,
            address,
            subject,
            case,
            approver,
            str(event.outcome),
            1 if reason else 0,
            _sha256(body).digest(),
            reason,
            data,
            rest,
        ),
    )


def rows_of(first: int, bodies: Sequence[bytes | None], *, ecs: bool = False) -> list[Row]:
    """The rows of a batch that begins at `first`; a pruned body has none."""
    return [row_of(seq, body, ecs=ecs) for seq, body in enumerate(bodies, first) if body is not None]
