"""One record from outside -> one event: decode, map, hold to the vocabulary, lower claims, take secrets out."""

import codecs
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from secguard.audit.index.index import Log, body_of
from secguard.audit.sources.mapping import Ignored, Mapper, Unmapped
from secguard.audit.sources.settings import FileSource, Source, SyslogSource
from secguard.audit.sources.syslog import parse_syslog
from secguard.audit.sources.times import parse_zone, read_time
from secguard.core.clock import rfc3339
from secguard.core.errors import FormatError
from secguard.events import (
    MAX_EVENT,
    SOURCE_KINDS,
    Actor,
    Assurance,
    Event,
    Receipt,
    Result,
    check_access,
    decode_stored,
    encode,
    event_from,
    may_hold_secrets,
    new_event_id,
    read_json,
    redact,
)
from secguard.ledger.receipts import Receipts

__all__ = [
    "MAX_RECORD",
    "RESERVED",
    "ROOM",
    "Ignored",
    "Read",
    "Reader",
    "as_claim",
    "columns",
    "finish",
    "rejection",
    "said",
    "same",
    "sha256_of",
]

MAX_RECORD = 256 << 10
"""Bytes of a record of another system; its event has to fit into `MAX_EVENT`."""
RESERVED = "secguard:"
"""IDs that secguard derives; a source that used them could keep a rejection from being recorded."""
ROOM = 40
"""Bytes for what the service adds, so that a record does not fit or not by whether the service runs."""

_PEER = "peer_uid"  # who handed the event in, as the kernel tells the service; a source cannot say that
_VIA = "via"  # which source brought it and when; the same
_PATTERN_TEXT = 8192
_NAMED = re.compile(r"[\x00-\x1f\x7f]")


class Read(NamedTuple):
    """An event that was read.

    Attributes:
        event: it.
        own: its ID is the source's own, so that another event with this ID must say the same.
        size: its bytes as stored.
        timed: its time is the source's own.
    """

    event: Event
    own: bool
    size: int
    timed: bool


def as_claim(event: Event) -> Event:
    """What a source may say: no authenticated actor, no act that only secguard records, none of our own marks.

    Raises:
        FormatError: `audit.record.own-kind`, `audit.record.reserved-id`.
    """
    if event.kind not in SOURCE_KINDS:
        raise FormatError(
            "audit.record.own-kind",
            f"{event.kind} is recorded by secguard itself, never imported",
            hint="docs/events.md says which kinds a source may report",
            where="kind",
        )
    if event.id.startswith(RESERVED):
        raise FormatError("audit.record.reserved-id", f"IDs that begin with {RESERVED} are reserved", where="id")
    data = event.data
    if _PEER in data or _VIA in data:
        data = {f"source_{name}" if name in {_PEER, _VIA} else name: value for name, value in data.items()}
    if event.actor.assurance is Assurance.CLAIMED:
        return event if data is event.data else msgspec.structs.replace(event, data=data)
    actor = msgspec.structs.replace(event.actor, assurance=Assurance.CLAIMED)
    data = {**data, "source_assurance": event.actor.assurance.value}
    return msgspec.structs.replace(event, actor=actor, data=data)


def said(event: Event) -> bytes:
    """What the source said: the event without what this side adds, which another delivery may not have met."""
    if _PEER in event.data or _VIA in event.data:
        data = {name: value for name, value in event.data.items() if name not in {_PEER, _VIA}}
        event = msgspec.structs.replace(event, data=data)
    return encode(event)


def same(log: Log, index: int, event: Event) -> bool:
    """Whether an event says what the one recorded there says: also before today's rules took more secrets out.

    What was deleted says nothing against it.
    """
    body = body_of(log, index)
    if body is None:
        return True
    stored, told = decode_stored(body), said(event)
    return said(stored) == told or said(redact(stored)) == told


def finish(event: Event) -> tuple[Event, int]:
    """The event as it is recorded: a claim, by the vocabulary, without secrets, within its size; and its bytes.

    Raises:
        FormatError: it is not to be recorded.
    """
    event = as_claim(event)
    check_access(event.kind, event.data)
    encoded = encode(event)
    if may_hold_secrets(encoded):
        clean = redact(event)
        if clean is not event:
            event, encoded = clean, encode(clean)
    if len(encoded) > MAX_EVENT - ROOM:  # it may have grown past the limit
        raise FormatError("events.size", f"an event of {len(encoded)} bytes; {MAX_EVENT - ROOM} is the limit")
    return event, len(encoded)


def columns(receipts: Sequence[Receipt]) -> tuple[Sequence[int], Sequence[bool]]:
    """Ledger indices, and which were there before; without the leaf hashes, which cost as much as recording."""
    if isinstance(receipts, Receipts):
        return receipts.indexes, receipts.duplicates
    return [item.index for item in receipts], [item.duplicate for item in receipts]


def rejection(
    error: FormatError, *, event_id: str, time: datetime, actor: Actor, subject: str, data: Mapping[str, Any]
) -> Event:
    """The event that says that a record was put aside, and why.

    Args:
        error: why.
        event_id: follows from what was rejected and where, so that a second run records it no second time.
        time: now.
        actor: who took the record in.
        subject: the file or source.
        data: `raw_sha256`, `bytes`, and the place.
    """
    return redact(
        Event(
            id=event_id,
            kind="record.rejected",
            time=time,
            actor=actor,
            subject=subject[:256],
            reason=str(error)[:500],  # it may quote the record
            outcome=Result.FAILURE,
            data={**data, "code": error.code},
        )
    )


class Reader:
    """Reads the records of one source.

    Args:
        name: the source.
        settings: its table.
    """

    def __init__(self, name: str, settings: Source) -> None:
        self._name = name
        self._settings = settings
        self._mapper = Mapper(name, settings) if settings.map else None
        self._zone = parse_zone(settings.zone)
        form = settings.format if isinstance(settings, FileSource) else ""
        self._form = "syslog" if isinstance(settings, SyslogSource) else form or "json"
        self._other = settings.other or ("reject" if self._form == "json" else "record")
        self._pattern = re.compile(settings.pattern) if settings.pattern else None
        self._received: datetime | None = None
        self._received_text = ""

    def read(
        self, raw: bytes, received: datetime, *, derived: str = "", peer: str = "", certificate: str = ""
    ) -> tuple[Read, Mapping[str, Any]]:
        """The event of a record, and the record itself as paths see it (empty for our own events).

        Args:
            raw: as it came.
            received: when.
            derived: an ID from its place, where the record has none; empty: a fresh one.
            peer: address of the sender.
            certificate: name in the sender's certificate.

        Raises:
            FormatError: it is to be put aside.
            Ignored: it is not wanted.
        """
        fields, record, timed = self._fields(raw, received)
        named = "id" in fields
        if not named:
            fields["id"] = derived or new_event_id()
        event = event_from(fields)
        if received is not self._received:  # the same for all records that came together
            self._received, self._received_text = received, rfc3339(received)
        via = {"source": self._name, "received": self._received_text}
        if peer:
            via["peer"] = peer
        if certificate:
            via["certificate"] = certificate
        event, size = finish(event)
        size += len(peer) + len(certificate) + len(self._name) + 90
        if size > MAX_EVENT - ROOM:
            raise FormatError("events.size", f"an event of {size} bytes; {MAX_EVENT - ROOM} is the limit")
        event = msgspec.structs.replace(event, data={**event.data, _VIA: via})
        return Read(event, named, size, timed), record

    def _text(self, raw: bytes) -> str:
        encoding = self._settings.encoding
        for name in ("utf-8", "gb18030") if encoding == "auto" else (encoding,):
            try:
                return raw.decode(name)
            except UnicodeDecodeError as error:
                problem = error
        raise FormatError(
            "events.encoding",
            f"not {'UTF-8 or GB18030' if encoding == 'auto' else encoding}",
            where=f"byte {problem.start}",
        )

    def _fields(self, raw: bytes, received: datetime) -> tuple[dict[str, Any], Mapping[str, Any], bool]:
        """The fields of the event, the record, and whether its time is its own."""
        raw = raw.removeprefix(codecs.BOM_UTF8)
        if self._form == "json":
            value = self._json(raw)
            if self._mapper is None:
                if not isinstance(value, dict):
                    raise FormatError("events.field", "not an object")
                return value, {}, True
            if not isinstance(value, dict):
                raise FormatError("audit.map.record", "a record is a JSON object")
            record: dict[str, Any] = value
        elif self._form == "syslog":
            record = parse_syslog(self._text(raw), received, self._zone)
            own = self._embedded(record)
            if own is not None:
                return own, record, True
        else:
            record = {"message": self._text(raw)}
        self._match(record)
        return self._mapped(record, received)

    def _json(self, raw: bytes) -> Any:
        try:
            return read_json(raw, MAX_RECORD)
        except FormatError as error:
            if error.code != "events.encoding" or self._settings.encoding == "utf-8":
                raise
        return read_json(self._text(raw), MAX_RECORD)

    def _embedded(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """A message that is a JSON object: our event, or fields for the table."""
        text = record["message"].lstrip(" \ufeff").removeprefix("@cee:").lstrip(" ")
        if not text.startswith("{"):
            return None
        try:
            value = read_json(text.encode(), MAX_RECORD)
        except FormatError:
            if self._mapper is None and self._other == "reject":
                raise
            return None
        if self._mapper is None and value.keys() >= {"kind", "time", "actor"}:
            return dict(value)
        record["json"] = value
        return None

    def _match(self, record: dict[str, Any]) -> None:
        if self._pattern is not None:
            found = self._pattern.search(record["message"][:_PATTERN_TEXT]) if "message" in record else None
            record["match"] = {k: v for k, v in found.groupdict().items() if v is not None} if found else {}

    def _mapped(self, record: dict[str, Any], received: datetime) -> tuple[dict[str, Any], Mapping[str, Any], bool]:
        if self._mapper is not None:
            try:
                fields, timed = self._mapper.event(record, received)
                if not timed and "time" in record and "time" not in self._settings.map:
                    fields["time"], timed = record["time"], record["timed"]
            except Unmapped:
                if self._other == "reject":
                    raise
            else:
                return fields, record, timed
        if self._other == "ignore":
            raise Ignored
        if self._other == "reject":
            raise FormatError("audit.map.kind", "the text is no event")
        return self._log(record, received), record, bool(record.get("timed"))

    def _log(self, record: dict[str, Any], received: datetime) -> dict[str, Any]:
        """The record as it is: `log.received`."""
        host, app = str(record.get("host", "")), str(record.get("app", ""))
        time = record.get("time")
        data = {name: value for name, value in record.items() if name not in {"time", "timed", "match"} and value}
        if "json" in data:
            data.pop("message", None)
        return {
            "kind": "log.received",
            "time": rfc3339(read_time(time, "auto", self._zone) if time else received),
            "actor": {"name": _NAMED.sub("", app or host)[:256] or "unknown"},
            "subject": _NAMED.sub("", host)[:256],
            "outcome": "unknown",
            "data": data,
        }


def sha256_of(raw: bytes) -> str:
    """SHA-256 of a record as it came, in hex."""
    return hashlib.sha256(raw).hexdigest()
