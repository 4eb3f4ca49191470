"""Secrets are taken out of an event before it is written down: passwords, tokens, keys, credentials in URLs and SIP."""

import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import msgspec

from secguard.events.event import Event

__all__ = ["may_hold_secrets", "redact"]

_MASK = "[redacted]"
_KEY = re.compile(
    r"(?:^|[_\-.])(?:pass(?:word|wd|phrase)?|pwd|secret|token|authorization|cookie|credential|(?:api|private|secret)[_-]?key"
    r"|secret[_-]?access[_-]?key|sk|j?session[_-]?id|snmp[_-]?community|community[_-]?string)s?$|(?:密码|口令|私钥|令牌|验证码)$",
    re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # accessToken -> access_Token
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.\-]{0,20}://)[^/@\s]{1,256}@", re.IGNORECASE)
# `sip:user:password@host` of RFC 3261, section 19.1.1; the user stays.
_SIP = re.compile(r"\b(?P<user>sips?:[^\s:@<>\"]{1,256}):(?!\[redacted\])[^\s:@<>\"]{1,256}@", re.IGNORECASE)
_PARAMETERS = (
    r"(?:password|passwd|pwd|token|access_token|refresh_token|secret|sign|signature|key|apikey|api_key|auth"
    r"|sig|x-amz-signature|x-amz-security-token)"
)
_PARAMETER = re.compile(rf"(?P<name>[?&;]{_PARAMETERS}=)[^&#;\s\"'<>]{{1,4096}}", re.IGNORECASE)
# The same with letters written as %XX, and in a URL that is itself a parameter.
_QUOTED = re.compile(r"(?P<name>[?&;][\w.\-]{0,64}%[\w.%\-]{1,128}=)[^&#;\s\"'<>]{1,4096}")
_NESTED = re.compile(
    rf"(?P<name>%(?:3f|26|3b){_PARAMETERS}%3d)(?!\[redacted\])(?:(?!%26|%23)[^&#;\s\"'<>]){{1,4096}}", re.IGNORECASE
)
_NESTED_USERINFO = re.compile(r"(?P<scheme>%3a%2f%2f)(?:(?!%2f|%40)[^/@&\s]){1,256}%40", re.IGNORECASE)
_BEARER = re.compile(r"\b(?P<kind>bearer|basic)\s+[a-z0-9+/=_\-.~]{8,4096}", re.IGNORECASE)
# What answers an HTTP or SIP digest challenge (RFC 8760) can be tried against a list of passwords.
_DIGEST = re.compile(r"\b(?P<name>response|cnonce)\s*=\s*\"?[0-9a-f]{8,128}\"?", re.IGNORECASE)
# `password=x`, `密码：x`, `"password": "x"` inside a text.
_ASSIGNED = re.compile(
    r"(?P<name>(?:pass(?:word|wd|phrase)|pwd|secret|token|(?<![a-z0-9])(?:api[_-]?key|community[ _-]string"
    r"|(?:private|secret(?:[_-]?access)?)[_-]?key|access[_-]?key[_-]?secret|j?session[_-]?id)|密码|口令|私钥|令牌|验证码)"
    r"(?:\\?[\"'])?\s{0,8}[=:：＝]\s{0,8})"
    r"(?!\[redacted\])(?:\\?\"[^\"\\]{1,4096}\\?\"|'[^']{1,4096}'|[^\s,;&\"'<>}\]，；。]{1,4096})",
    re.IGNORECASE,
)
# `<Password>x</Password>` of devices' own XML.
_ELEMENT = re.compile(
    r"(?P<name><(?:\w{1,64}:)?(?:pass(?:word|wd|phrase)|pwd|secret|token)>)(?!\[redacted\])[^<]{1,4096}", re.IGNORECASE
)
_OPTION = re.compile(
    r"(?P<name>--(?:pass(?:word|wd|phrase)|token|secret)\s{1,8})(?!\[redacted\])[^\s<]{1,4096}", re.IGNORECASE
)
# What programs take on their command line, and a switch's line of configuration.
_COMMAND = re.compile(
    r"(?P<name>\b(?:(?:mysql|mariadb)[a-z]{0,16}\b[^\r\n]{0,256}? -p|sshpass\s{1,8}-p\s{0,8}"
    r"|snmp[a-z]{1,16}\b[^\r\n]{0,256}? -c\s{0,8}|snmp-(?:server|agent) [^\r\n]{0,64}?community\s{1,8}"
    r"(?:(?:read|write)\s{1,8})?(?:(?:cipher|simple)\s{1,8})?"
    r"|curl\b[^\r\n]{0,256}? (?:-u|--user)[\s=]{0,8}[\"']?[^\s:]{1,128}:))(?!\[redacted\])"
    r"(?:'[^'\r\n]{1,256}'|\"[^\"\r\n]{1,256}\"|[^\s\"'<]{1,4096})"
)
# Lines of HTTP and SIP; who signs in by Digest stays (the rule above takes the answer out).
_HEADER = re.compile(
    r"(?P<name>\b(?:(?:set-)?cookie|(?:proxy-)?authorization(?!\s{0,8}:\s{0,8}(?:digest|bearer|basic)\b))\s{0,8}:\s{0,8})"
    r"(?!\[redacted\])[^\r\n\"\\]{1,4096}",
    re.IGNORECASE,
)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_\-]{8,4096}\.eyJ[A-Za-z0-9_\-]{2,8192}\.[A-Za-z0-9_\-]{0,4096}")
_PEM = re.compile(
    r"-----BEGIN (?P<what>[A-Z ]{0,40}PRIVATE KEY)-----.{0,16384}?(?:-----END (?P=what)-----|\Z)", re.DOTALL
)

_WIDE = {0xFEE0 + code: code for code in (0x2D, 0x5F, *range(0x30, 0x3A), *range(0x41, 0x5B), *range(0x61, 0x7B))}
_WIDE_LETTER = re.compile("[\uff21-\uff3a\uff41-\uff5a]")

_SESSIONS = ("sessionid", "session_id", "session-id")  # "session" alone is a field of most events
_NAMES = ("pass", "pwd", "secret", "token", "key", "community", *_SESSIONS, "密码", "口令", "私钥", "令牌", "验证码")
_COMMANDS = ("mysql", "mariadb", "sshpass", "snmp", "curl")
# One of these stands in every text, or beside every key, that is changed here; in lower case, as JSON in UTF-8.
_SIGNS = tuple(
    word.encode().decode("latin-1")  # to look into text is three times as quick as into bytes
    for word in (
        *("://", "=", "sip", "bearer", "basic", "eyj", "private", "pass", "pwd", "secret", "token"),
        *("authorization", "cookie", "credential", "api", *_SESSIONS, '"sk"', '_sk"', "密码", "口令", "私钥", "令牌"),
        *("验证码", "community", " -", "%"),
    )
)
_WIDE_SIGN = re.compile("\xef(?:\xbc[\xab\xb0\xb3\xb4]|\xbd)")  # wide K, P, S, T or a small letter


def may_hold_secrets(encoded: bytes) -> bool:
    """Whether `redact` could find anything in an event with these stored bytes; quicker than to look."""
    text = encoded.lower().decode("latin-1")
    return any(map(text.__contains__, _SIGNS)) or ("\xef" in text and _WIDE_SIGN.search(text) is not None)


@lru_cache(maxsize=4096)
def _is_secret(key: str) -> bool:
    key = key.translate(_WIDE)
    return (_KEY.search(key) or _KEY.search(_HUMP.sub("_", key))) is not None


def _quoted(found: re.Match[str]) -> str:
    name = f"{unquote(found['name'])}x"
    return f"{found['name']}{_MASK}" if _PARAMETER.fullmatch(name) or _ASSIGNED.search(name) else found[0]


def _text(value: str) -> str:
    value = _narrow(value)
    if not value.isascii() and _WIDE_LETTER.search(value):
        narrow = value.translate(_WIDE)
        clean = _narrow(narrow)
        return value if clean == narrow else clean
    return value


def _narrow(value: str) -> str:
    lowered = value.lower()
    if "://" in value:
        value = _USERINFO.sub(rf"\g<scheme>{_MASK}@", value)
    if "sip" in lowered and "@" in value:
        value = _SIP.sub(rf"\g<user>:{_MASK}@", value)
    if "=" in value:
        value = _PARAMETER.sub(rf"\g<name>{_MASK}", value)
        if "%" in value:
            value = _QUOTED.sub(_quoted, value)
        if "response" in lowered or "cnonce" in lowered:
            value = _DIGEST.sub(rf"\g<name>={_MASK}", value)
    if "%3d" in lowered or "%40" in lowered:
        value = _NESTED.sub(rf"\g<name>{_MASK}", value)
        value = _NESTED_USERINFO.sub(rf"\g<scheme>{_MASK}%40", value)
    if "bearer" in lowered or "basic" in lowered:
        value = _BEARER.sub(rf"\g<kind> {_MASK}", value)
    if any(map(lowered.__contains__, _NAMES)):
        value = _ASSIGNED.sub(rf"\g<name>{_MASK}", value)
        value = _ELEMENT.sub(rf"\g<name>{_MASK}", value)
        value = _OPTION.sub(rf"\g<name>{_MASK}", value)
    if any(map(value.__contains__, _COMMANDS)):
        value = _COMMAND.sub(rf"\g<name>{_MASK}", value)
    if "cookie" in lowered or "authorization" in lowered:
        value = _HEADER.sub(rf"\g<name>{_MASK}", value)
    if "eyj" in lowered:
        value = _JWT.sub(_MASK, value)
    if "PRIVATE KEY" in value:
        value = _PEM.sub(_MASK, value)
    return value


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        clean: dict[str, Any] = {}
        for key, item in value.items():
            name = _text(key)
            while name in clean:  # two names that differed only in their secrets
                name += "'"
            clean[name] = _MASK if _is_secret(key[-128:]) else _value(item)
        return clean
    if isinstance(value, list):
        return [_value(item) for item in value]
    return value


def redact(event: Event) -> Event:
    """The event without secrets; the same object when there is nothing to take out."""
    actor = event.actor
    data = _value(event.data)
    # A mask may be longer than what it hides; the limits of the fields hold.
    texts = {name: _text(getattr(event, name))[:256] for name in ("subject", "case", "approver")}
    texts["reason"] = _text(event.reason)[:4096]
    people = {name: _text(getattr(actor, name))[:256] for name in ("name", "role", "org", "address")}
    if any(getattr(actor, name) != value for name, value in people.items()):
        actor = msgspec.structs.replace(actor, **people)
    elif data == event.data and all(getattr(event, name) == value for name, value in texts.items()):
        return event
    return msgspec.structs.replace(event, actor=actor, data=data, **texts)
