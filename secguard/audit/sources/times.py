"""Times as other systems write them: RFC 3339, local time without an offset, Unix seconds or milliseconds, a format."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo

from secguard.core.errors import FormatError, UsageError

__all__ = ["parse_zone", "read_time"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"unix": 1_000_000, "unix-ms": 1000, "unix-us": 1}


def parse_zone(text: str) -> tzinfo:
    """The zone of times that name none: `Z`, or an offset such as `+08:00`.

    Raises:
        UsageError: it is neither.
    """
    if text in {"Z", "UTC", "+00:00"}:
        return UTC
    try:
        hours, minutes = int(text[1:3]), int(text[4:6])
        if len(text) != 6 or text[0] not in "+-" or text[3] != ":" or hours > 14 or minutes > 59:
            raise ValueError(text)
    except ValueError:
        raise UsageError("audit.source.zone", f"not a zone: {text[:20]!r}", hint="write +08:00 or Z") from None
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        digits = value.strip()
        if digits.isascii() and digits.replace(".", "", 1).isdigit() and len(digits) <= 32:
            return float(digits) if "." in digits else int(digits)
    return None


def read_time(value: object, form: str, zone: tzinfo) -> datetime:
    """A time in UTC.

    Args:
        value: text or number, as the record has it.
        form: `auto` (RFC 3339 or like it; Unix seconds, or milliseconds or microseconds by their size), `unix`,
            `unix-ms`, `unix-us`, or a format of strptime(3).
        zone: of times that name none.

    Raises:
        FormatError: `audit.map.time`.
    """
    try:
        number = _number(value)
        if form in _UNITS or (form == "auto" and number is not None):
            if number is None:
                raise ValueError("not a number")
            unit = _UNITS.get(form) or (1_000_000 if abs(number) < 1e11 else 1000 if abs(number) < 1e14 else 1)
            return _EPOCH + timedelta(microseconds=round(number * unit))
        if not isinstance(value, str):
            raise TypeError("neither text nor number")
        text = value.strip()[:64]
        if form == "auto":
            text = text.replace("/", "-") if text[4:5] == "/" else text
            time = datetime.fromisoformat(text.replace(",", "."))
        else:
            time = datetime.strptime(text, form)  # noqa: DTZ007 - the zone follows
        return (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError, TypeError) as error:
        raise FormatError("audit.map.time", f"not a time: {str(value)[:40]!r}", where="time") from error
