"""Events as JSON bytes: deterministic on the way out, strict on the way in (no duplicate keys, no NaN, UTC only)."""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any

import msgspec

from secguard.core.errors import FormatError
from secguard.events.event import Event
from secguard.events.kinds import canonical_kind

__all__ = ["MAX_EVENT", "decode_stored", "decode_untrusted", "encode", "encode_many", "event_from", "read_json"]

MAX_EVENT = 60_000
"""Bytes of an encoded event."""

_MAX_DEPTH = 32
_INFINITE = (float("inf"), float("-inf"))
_SURROGATE = re.compile("[\ud800-\udfff]")
# Sorted keys: an event has one spelling, whoever writes it, so retries and comparisons are of bytes. It costs no time.
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Event)


def encode_many(events: Sequence[Event]) -> list[bytes]:
    """The stored bytes of events; each is one line of JSON.

    Raises:
        FormatError: `events.size`: larger than `MAX_EVENT`; `events.encode`: a value is no JSON.
    """
    try:
        bodies = _encoder.encode_lines(events).split(b"\n")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise FormatError("events.encode", f"an event cannot be written as JSON: {error}") from error
    bodies.pop()
    if len(bodies) != len(events):
        raise FormatError("events.encode", "an event holds raw JSON with line breaks")
    longest = max(map(len, bodies), default=0)
    if longest > MAX_EVENT:
        raise FormatError(
            "events.size",
            f"an event of {longest} bytes; {MAX_EVENT} is the limit",
            hint="keep large data in a file and put its SHA-256 into the event",
        )
    return bodies


def encode(event: Event) -> bytes:
    """The stored bytes of one event; see `encode_many`."""
    return encode_many((event,))[0]


def decode_stored(data: bytes) -> Event:
    """Read an event that secguard wrote.

    Raises:
        FormatError: the bytes are no event.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError("events.format", f"not an event: {error}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FormatError("events.key.duplicate", "a key stands twice in one object")
    return result


def _no_constant(text: str) -> Any:
    raise FormatError("events.number.not-finite", f"{text} is no JSON number")


_strict = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _check(values: Iterable[Any], depth: int, *, escaped: bool) -> None:
    # The decoder makes these very types, no subclasses. Only an escape can bring half a pair in.
    if depth > _MAX_DEPTH:
        raise FormatError("events.depth", f"nested deeper than {_MAX_DEPTH} levels")
    for value in values:
        kind = type(value)
        if kind is str:
            if escaped and _SURROGATE.search(value):
                raise FormatError("events.text.surrogate", "a string holds half of a surrogate pair")
        elif kind is dict:
            if escaped:
                _check(value, depth + 1, escaped=True)
            _check(value.values(), depth + 1, escaped=escaped)
        elif kind is list:
            _check(value, depth + 1, escaped=escaped)
        elif kind is float:
            if value in _INFINITE:
                raise FormatError("events.number.not-finite", "a number is out of range")
        elif kind is int and not -(1 << 63) <= value < (1 << 64):
            raise FormatError("events.number.range", "an integer is out of range")


_quick = msgspec.json.Decoder()
_quick_encoder = msgspec.json.Encoder()
_BACKSLASH = ord("\\")  # a byte is looked for as a number; bytes are tried as one first


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value is neither too deep nor holds an integer out of range."""
    if depth > _MAX_DEPTH:
        return False
    for item in value.values() if type(value) is dict else value:
        kind = type(item)
        if kind is str:  # most are
            continue
        if kind is dict or kind is list:
            if not _is_plain(item, depth + 1):
                return False
        elif kind is int and not -(1 << 63) <= item < (1 << 64):
            return False
    return True


def _read_plain(data: bytes) -> Any:
    """The value of a record that has nothing in it that needs a second look; None if it may have.

    Without escapes each quote begins or ends a string: if the value, written again, has fewer, a key stood twice.
    """
    if _BACKSLASH in data:
        return None
    try:
        value = _quick.decode(data)
        if type(value) is dict and _is_plain(value, 0) and _quick_encoder.encode(value).count(b'"') == data.count(b'"'):
            return value
    except (ValueError, RecursionError):  # the strict reader says what is wrong
        pass
    return None


def read_json(data: bytes | str, limit: int = MAX_EVENT) -> Any:
    """Read JSON from outside (RFC 8259, UTF-8) strictly: no key twice, no NaN, no half of a surrogate pair, bounded.

    Raises:
        FormatError: with the reason and, where known, the place.
    """
    if len(data) > limit:
        raise FormatError("events.size", f"a record of {len(data)} bytes; {limit} is the limit")
    value = _read_plain(data) if isinstance(data, bytes) else None
    if value is not None:
        return value
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = _strict.decode(text)
        escaped = "\\u" in text or (isinstance(data, str) and _SURROGATE.search(text) is not None)
        _check((value,), 0, escaped=escaped)
    except UnicodeDecodeError as error:
        raise FormatError(
            "events.encoding",
            "not UTF-8",
            hint="convert GB18030 input first: --encoding gb18030",
            where=f"byte {error.start}",
        ) from error
    except json.JSONDecodeError as error:
        raise FormatError("events.json", f"not JSON: {error.msg}", where=f"character {error.pos}") from error
    except (RecursionError, ValueError) as error:
        raise FormatError("events.depth", "nested too deep, or a number too long") from error
    return value


def event_from(value: Any) -> Event:
    """The event that a strictly read value stands for: kind mapped to the closed list, time in UTC.

    Raises:
        FormatError: with the reason and, where known, the field.
    """
    try:
        event = msgspec.convert(value, Event)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FormatError("events.field", str(error)) from error
    if event.time.tzinfo is None:
        raise FormatError("events.time.naive", "the time has no UTC offset", hint="append Z or +08:00", where="time")
    if event.v != 1:
        raise FormatError("events.version", f"version {event.v} of the vocabulary is not known", where="v")
    kind = canonical_kind(event.kind)
    if event.time.tzinfo is UTC and kind == event.kind:
        return event
    try:
        time = event.time.astimezone(UTC)
    except OverflowError as error:
        raise FormatError("events.time.range", "the time is out of range", where="time") from error
    data = event.data if kind == event.kind else {**event.data, "source_kind": event.kind}
    return msgspec.structs.replace(event, kind=kind, time=time, data=data)


def decode_untrusted(data: bytes | str) -> Event:
    """Read one event from outside: `read_json`, then `event_from`; at most `MAX_EVENT` bytes.

    Raises:
        FormatError: with the reason and, where known, the field.
    """
    return event_from(read_json(data))
