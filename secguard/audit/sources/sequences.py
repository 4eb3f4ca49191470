"""The numbers that senders count up (RFC 5424, section 7.3.1): what is missing, and which message came twice.

What was seen last is on the disk together with the ledger's size up to which it is true. After a crash the events that
the ledger holds past that size are read again, so a number is never taken for lost that is recorded.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from secguard.audit.index.index import Log
from secguard.audit.sources.mapping import look_up
from secguard.audit.sources.reading import sha256_of
from secguard.core.errors import SecguardError
from secguard.core.files import atomic_write
from secguard.core.limits import read_bounded
from secguard.events import Event, decode_stored

__all__ = ["Sequences"]

_STREAMS = 4096
_PATIENCE = 5.0
"""Seconds for which a missing number may still come, as after a sender has connected anew."""
_GAPS = 1000
_FILLED = 100_000
"""Missing numbers of a gap that may still be filled in one by one."""


class _Saved(msgspec.Struct, kw_only=True):
    version: int = 1
    size: int = 0
    last: dict[str, int] = {}
    missing: list[tuple[str, int, int]] = []


class _Gap:
    __slots__ = ("due", "first", "found", "last", "stream")

    def __init__(self, stream: str, first: int, last: int, due: float) -> None:
        self.stream, self.first, self.last, self.due = stream, first, last, due
        self.found: set[int] = set()


class Sequences:
    """Follows the numbers of one source.

    Args:
        name: the source.
        path: where a message has its number.
        state: the file that keeps what was seen.
        lost: told of what is missing: how many, and from where.
    """

    def __init__(self, name: str, path: str, state: Path, lost: Callable[..., None]) -> None:
        self._name = name
        self._path = path
        self._state = state
        self._lost = lost
        self._last: OrderedDict[str, int] = OrderedDict()
        self._gaps: list[_Gap] = []
        self._recorded: OrderedDict[str, int] = OrderedDict()
        self._size = 0
        self._dirty = False

    def load(self, log: Log) -> None:
        """Go on where the last run ended, however it ended.

        Raises:
            FormatError: the ledger's newest events cannot be read.
        """
        try:
            saved = msgspec.json.decode(read_bounded(self._state), type=_Saved)
        except (SecguardError, msgspec.MsgspecError):  # the first start: what comes first begins
            self._size, self._dirty = log.size, True
            self.look(float("-inf"))  # a crash before the next look must find where to read on
            return
        self._recorded.update(saved.last)
        for _, bodies in log.scan(min(saved.size, log.size), log.size):
            for body in bodies:
                if body is not None and b'"number"' in body:
                    self._recall(decode_stored(body))
        self._last.update(self._recorded)
        self._size = log.size
        for stream, first, last in saved.missing:
            self._gaps.append(_Gap(stream, first, last, 0.0))

    def _recall(self, event: Event) -> None:
        via = event.data.get("via")
        if isinstance(via, dict) and via.get("source") == self._name and type(via.get("number")) is int:
            stream = str(via.get("stream", ""))
            self._recorded[stream] = _later(self._recorded.get(stream), via["number"])

    def place(self, record: Mapping[str, Any], peer: str, now: float) -> tuple[str, int] | None:
        """Stream and number of a message; None if it has none. What is missing before it is noted."""
        text = str(look_up(record, self._path))
        if not (text.isascii() and text.isdecimal() and len(text) < 16):
            return None
        number = int(text)
        stream = f"{peer} {record.get('host', '')} {record.get('app', '')}"[:256]
        last = self._last.pop(stream, None)
        if last is not None and number > last + 1:
            self._gaps.append(_Gap(stream, last + 1, number - 1, now + _PATIENCE))
        elif last is not None and number <= last and len(self._gaps) <= _GAPS:
            for gap in self._gaps:
                if gap.stream == stream and gap.first <= number <= gap.last and len(gap.found) < _FILLED:
                    gap.found.add(number)
        self._last[stream] = _later(last, number)
        if len(self._last) > _STREAMS:
            self._last.popitem(last=False)
        return stream, number

    def derived(self, stream: str, number: int, raw: bytes) -> str:
        """The ID of a message: the same when it is sent again."""
        return f"{self._name}:{sha256_of(f'{stream} {number} '.encode() + raw)[:48]}"

    def settled(self, numbers: Mapping[str, int], end: int) -> None:
        """Messages up to these numbers are recorded, and all of the ledger before `end` is counted in."""
        for stream, number in numbers.items():
            self._recorded.pop(stream, None)
            self._recorded[stream] = number
            if len(self._recorded) > _STREAMS:
                self._recorded.popitem(last=False)
        self._size = max(self._size, end)
        self._dirty = True

    def look(self, now: float) -> None:
        """Tell of what is missing for too long, and write down what was seen."""
        for gap in [gap for gap in self._gaps if gap.due <= now]:
            self._gaps.remove(gap)
            count = gap.last - gap.first + 1 - len(gap.found)
            if count:
                self._lost(count, "numbers are missing", sender=gap.stream, first=gap.first, last=gap.last)
            self._dirty = True
        if self._dirty:
            missing = [(gap.stream, gap.first, gap.last) for gap in self._gaps]
            saved = _Saved(size=self._size, last=dict(self._recorded), missing=missing)
            with contextlib.suppress(SecguardError):  # an older state only means to read more of the ledger again
                self._state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                atomic_write(self._state, msgspec.json.encode(saved), mode=0o600, durable=False)
                self._dirty = False


def _later(last: int | None, number: int) -> int:
    """The number seen last: the higher one, unless the sender has begun anew."""
    return number if last is None or number <= 1 < last else max(last, number)
