"""Zones of dates, as options write them."""

from datetime import UTC, timedelta, timezone

from secguard.core.errors import UsageError

__all__ = ["parse_zone"]


def parse_zone(text: str) -> timezone:
    """`Z`, `UTC` or an offset such as `+08:00`.

    Raises:
        UsageError: `audit.search.zone`.
    """
    if text in {"Z", "UTC"}:
        return UTC
    try:
        sign, (hours, minutes) = text[0], map(int, text[1:].split(":"))
        if sign not in "+-" or not 0 <= hours <= 14 or not 0 <= minutes < 60:
            raise ValueError(text)
    except (ValueError, IndexError):
        raise UsageError("audit.search.zone", f"not a zone: {text[:20]!r}", hint="write +08:00 or Z") from None
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if sign == "-" else offset)
