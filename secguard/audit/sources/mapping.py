"""From another system's record to the fields of an event, by a table: dotted paths, words of kinds and outcomes."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from secguard.audit.sources.settings import Source
from secguard.audit.sources.times import parse_zone, read_time
from secguard.core.clock import rfc3339
from secguard.core.errors import FormatError
from secguard.events import canonical_kind

__all__ = ["Ignored", "Mapper", "Unmapped", "look_up"]

_TIMES = ("data.start", "data.end", "data.expires")
_NUMBERS = ("data.bytes", "data.hits", "data.seconds")
_LIMITS = {"reason": 4096}
_STEP = re.compile(r"(?<!\\)\.")


class Ignored(Exception):  # noqa: N818 - no error: the configuration says that such records are not wanted
    """The record is of a kind that is not wanted."""


class Unmapped(FormatError):  # noqa: N818 - the counterpart of Ignored
    """The record is of a kind that the table does not know."""


def _steps(path: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(step.replace("\\.", ".") for step in _STEP.split(choice.strip())) for choice in path.split("|"))


def _walk(record: Any, steps: tuple[str, ...]) -> Any:
    for step in steps:
        if isinstance(record, Mapping):
            record = record.get(step)
        elif isinstance(record, list) and step.isdecimal() and len(step) < 6 and int(step) < len(record):
            record = record[int(step)]
        else:
            return None
    return record


def _first(record: Any, choices: tuple[tuple[str, ...], ...]) -> Any:
    found = (_walk(record, steps) for steps in choices)
    return next((value for value in found if value is not None and value != ""), None)


def look_up(record: Any, path: str) -> Any:
    """The value at a dotted path (`user.name`, `items.0.id`, `a|b`); None where there is none."""
    return _first(record, _steps(path))


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise FormatError("audit.map.value", "neither text nor number where one is needed")


class Mapper:
    """One source's table.

    Args:
        name: of the source; begins the IDs of events that the record names.
        settings: with the table.
    """

    def __init__(self, name: str, settings: Source) -> None:
        self._name = name
        self._settings = settings
        self._zone = parse_zone(settings.zone)
        self._paths = {target: _steps(path) for target, path in settings.map.items()}

    def event(self, record: Mapping[str, Any], received: datetime) -> tuple[dict[str, Any], bool]:
        """The fields of an event, without an ID where the record has none; and whether its time is its own.

        Raises:
            Ignored: records of this kind are not wanted.
            Unmapped: no kind is known for it.
            FormatError: a value is of the wrong type.
        """
        settings = self._settings
        flat: dict[str, Any] = dict(self._values(record))
        for target, default in settings.defaults.items():
            flat.setdefault(target, default)
        source_kind = flat.pop("kind", None)
        kind = self._kind(source_kind)
        fields: dict[str, Any] = {"kind": kind, "actor": {"name": "unknown"}}
        data: dict[str, Any] = {}
        if isinstance(source_kind, str) and source_kind != kind:
            data["source_kind"] = source_kind[:256]
        time = flat.pop("time", None)
        fields["time"] = rfc3339(received if time is None else read_time(time, settings.time_format, self._zone))
        for target, value in flat.items():
            if target == "id":
                fields["id"] = f"{self._name}:{_plain(value)}"
            elif target == "outcome":
                fields["outcome"] = self._outcome(value, data)
            elif target in _TIMES:
                _put(data, target, rfc3339(read_time(value, settings.time_format, self._zone)))
            elif target in _NUMBERS:
                _put(data, target, _number(value))
            elif target.startswith("data."):
                _put(data, target, value)
            else:
                owner = fields["actor"] if target.startswith("actor.") else fields
                owner[target.removeprefix("actor.")] = self._bounded(target, _plain(value), data)
        if settings.keep:
            data["record"] = dict(record)
        if data:
            fields["data"] = data
        return fields, time is not None

    def _values(self, record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for target, choices in self._paths.items():
            value = _first(record, choices)
            if value is not None:
                yield target, value

    def _kind(self, word: Any) -> str:
        kinds = self._settings.kinds
        text = _plain(word) if word is not None else ""
        kind = kinds.get(text) or kinds.get("*", "")
        if kind == "-":
            raise Ignored
        if kind:
            return kind
        try:
            return canonical_kind(text)
        except FormatError:
            raise Unmapped(
                "audit.map.kind",
                f"no kind for {text[:64]!r}" if text else "the record has no kind",
                hint="add it to the source's kinds",
                where="kind",
            ) from None

    def _outcome(self, word: Any, data: dict[str, Any]) -> str:
        text = _plain(word)
        outcome = self._settings.outcomes.get(text) or self._settings.outcomes.get("*")
        if outcome is not None:
            return outcome.value
        if text.lower() in {"success", "failure", "denied", "unknown"}:
            return text.lower()
        data["source_outcome"] = text[:256]
        return "unknown"

    @staticmethod
    def _bounded(target: str, text: str, data: dict[str, Any]) -> str:
        limit = _LIMITS.get(target, 256)
        if len(text) <= limit:
            return text
        data[f"source_{target.replace('.', '_')}"] = text  # nothing is cut off without a trace
        return text[: limit - 1] + "…"


def _put(data: dict[str, Any], target: str, value: Any) -> None:
    *outer, last = target.removeprefix("data.").split(".")
    for step in outer:
        inner = data.setdefault(step, {})
        if not isinstance(inner, dict):
            raise FormatError("audit.map.value", f"{target} stands inside a value that is no object", where=target)
        data = inner
    data[last] = value


def _number(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.isdecimal() and len(text) < 19:
            return int(text)
        try:
            number = float(text)
        except ValueError:
            return value
        return number if number == number and abs(number) < 1e300 else value  # noqa: PLR0124 - NaN is not itself
    return value
