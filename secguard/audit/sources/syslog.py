"""Syslog messages: RFC 5424, and RFC 3164 as it is really written. Any text is a message; nothing here fails.

RFC 3164, section 4.3: what has no PRI is user.notice, and what has no header is all message.
"""

import re
from datetime import UTC, datetime, tzinfo
from typing import Any

from secguard.audit.sources.times import read_time
from secguard.core.clock import rfc3339
from secguard.core.errors import FormatError

__all__ = ["FACILITIES", "SEVERITIES", "parse_syslog"]

FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "audit", "alert", "clock", *(f"local{n}" for n in range(8))),
)
SEVERITIES = ("emergency", "alert", "critical", "error", "warning", "notice", "informational", "debug")

_MAX_ELEMENTS = 64
_PRI = re.compile(r"<(\d{1,3})>")
_NEW = re.compile(r"1 (\S{1,64}) (\S{1,255}) (\S{1,255}) (\S{1,255}) (\S{1,255}) ")
_ELEMENT = re.compile(r'\[([^ =\]"\x00-\x1f]{1,255})')
_PARAMETER = re.compile(r' +([^ =\]"\x00-\x1f]{1,255})="((?:[^"\\\]]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\\]])')
_ISO = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?) ")
_BSD = re.compile(r"(?:[*.])?([A-Z][a-z]{2}) {1,2}(\d{1,2}) (?:(\d{4}) )?(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))? ")
_HOST = re.compile(r"([^\s:\[\]]{1,255}|\[?[0-9a-fA-F:.]{2,45}\]?) ")
_TAG = re.compile(r"([^\s\[\]:]{1,128})(?:\[([^\]\s]{1,128})\])?: ?")
_MONTHS = {
    month: number
    for number, month in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}


def parse_syslog(text: str, received: datetime, zone: tzinfo) -> dict[str, Any]:
    """A message as a record: `facility severity host app proc msgid sd message time timed`.

    Args:
        text: without its framing.
        received: when; completes times without a year.
        zone: of times without one.

    Returns:
        `time` is RFC 3339 in UTC, and `timed` whether the message has one; `sd` is {element: {parameter: value}}.
    """
    record: dict[str, Any] = {"facility": "user", "severity": "notice", "host": "", "app": "", "proc": ""}
    text = text.rstrip("\r\n\0")
    pri = _PRI.match(text)
    if pri and int(pri[1]) < 192:
        record["facility"], record["severity"] = FACILITIES[int(pri[1]) >> 3], SEVERITIES[int(pri[1]) & 7]
        text = text[pri.end() :]
    new = _NEW.match(text)
    time = None
    if new is None or not _new(record, text[new.end() :], new):
        time, rest = _old_time(text, received, zone)
        _old(record, rest, headed=time is not None)
    else:
        time = _when(new[1], zone)
    record["timed"] = time is not None
    record["time"] = rfc3339(time or received)
    return record


def _when(text: str, zone: tzinfo) -> datetime | None:
    try:
        return None if text == "-" else read_time(text, "auto", zone)
    except FormatError:
        return None


def _new(record: dict[str, Any], rest: str, header: "re.Match[str]") -> bool:
    """RFC 5424, section 6; False if it is no such message after all."""
    elements: dict[str, dict[str, Any]] = {}
    at = 0
    if rest.startswith("-"):
        at = 1
    elif rest.startswith("["):
        while (element := _ELEMENT.match(rest, at)) is not None and len(elements) < _MAX_ELEMENTS:
            at = element.end()
            values: dict[str, Any] = elements.setdefault(element[1], {})
            while (parameter := _PARAMETER.match(rest, at)) is not None:
                at = parameter.end()
                value = _ESCAPED.sub(r"\1", parameter[2])
                # A name may stand twice (section 6.3.3, `ip`): then it is a list.
                old = values.get(parameter[1])
                values[parameter[1]] = value if old is None else [*(old if isinstance(old, list) else [old]), value]
            if rest[at : at + 1] != "]":
                return False
            at += 1
    else:
        return False
    if rest[at : at + 1] not in {"", " "}:
        return False
    for name, value in zip(("host", "app", "proc", "msgid"), header.groups()[1:], strict=True):
        record[name] = "" if value == "-" else value
    record["sd"] = elements
    record["message"] = rest[at + 1 :].removeprefix("\ufeff")
    return True


def _old_time(text: str, received: datetime, zone: tzinfo) -> tuple[datetime | None, str]:
    iso = _ISO.match(text)
    if iso:
        time = _when(iso[1], zone)
        return time, text[iso.end() :] if time else text
    bsd = _BSD.match(text)
    if bsd is None or bsd[1] not in _MONTHS:
        return None, text
    month, day, year, hour, minute, second, fraction = bsd.groups()
    here = received.astimezone(zone)
    # Without a year: the one in which it is nearest to now.
    years = [int(year)] if year else [here.year - 1, here.year, here.year + 1]
    found: list[datetime] = []
    for one in years:
        try:
            micros = int((fraction or "0").ljust(6, "0"))
            found.append(
                datetime(one, _MONTHS[month], int(day), int(hour), int(minute), int(second), micros, tzinfo=zone)
            )
        except ValueError:
            continue
    if not found:
        return None, text
    return min(found, key=lambda one: abs(one - received)).astimezone(UTC), text[bsd.end() :]


def _old(record: dict[str, Any], rest: str, *, headed: bool) -> None:
    """RFC 3164, sections 4.1.2 and 4.1.3: host and tag follow a time; devices leave out either."""
    if headed:
        host = _HOST.match(rest)
        tag = _TAG.match(rest)
        if host and not (tag and tag.end() <= host.end()):
            record["host"] = host[1]
            rest = rest[host.end() :]
    tag = _TAG.match(rest)
    if tag:
        record["app"], record["proc"] = tag[1], tag[2] or ""
        rest = rest[tag.end() :]
    record["message"] = rest
