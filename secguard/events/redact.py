"""Secrets are taken out of an event before it is written down: passwords, tokens, credentials in URLs."""

import re
from functools import lru_cache
from typing import Any

import msgspec

from secguard.events.event import Event

__all__ = ["redact"]

_MASK = "[redacted]"
_KEY = re.compile(
    r"(?:^|[_\-.])(?:pass(?:word|wd|phrase)?|pwd|secret|token|authorization|cookie|credential|api[_-]?key|private[_-]?key|密码|口令)s?$",
    re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # accessToken -> access_Token
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.\-]{0,20}://)[^/@\s]{1,256}@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"(?P<name>[?&;](?:password|passwd|pwd|token|access_token|secret|sign|signature|key|apikey|api_key|auth)=)[^&#;\s]{1,4096}",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(?P<kind>bearer|basic)\s+[a-z0-9+/=_\-.~]{8,4096}", re.IGNORECASE)


@lru_cache(maxsize=4096)
def _is_secret(key: str) -> bool:
    return _KEY.search(_HUMP.sub("_", key)) is not None


def _text(value: str) -> str:
    if "://" in value:
        value = _USERINFO.sub(rf"\g<scheme>{_MASK}@", value)
    if "=" in value:
        value = _PARAMETER.sub(rf"\g<name>{_MASK}", value)
    lowered = value.lower()
    if "bearer" in lowered or "basic" in lowered:
        value = _BEARER.sub(rf"\g<kind> {_MASK}", value)
    return value


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {key: _MASK if _is_secret(key[-128:]) else _value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_value(item) for item in value]
    return value


def redact(event: Event) -> Event:
    """The event without secrets; the same object when there is nothing to take out."""
    data = _value(event.data)
    texts = {name: _text(getattr(event, name)) for name in ("subject", "case", "approver", "reason")}
    if data == event.data and all(getattr(event, name) == value for name, value in texts.items()):
        return event
    return msgspec.structs.replace(event, data=data, **texts)
