"""How the text of a list of devices is encoded: a byte order mark, then what it declares, then what it can be.

Cameras and platforms declare GB2312 and send UTF-8, or the other way round, so the bytes decide where they can. GB18030
holds GBK and GB2312.
"""

import codecs
from collections.abc import Iterator
from typing import NamedTuple

from secguard.core import UsageError

__all__ = ["ENCODINGS", "Encoding", "decoded", "find_encoding"]

ENCODINGS = ("utf-8", "gb18030", "utf-16")
"""What can be asked for by name; their common aliases are known too."""
_BLOCK = 1 << 20
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_ALIASES = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "utf-8-sig": "utf-8",
    "ascii": "utf-8",
    "us-ascii": "utf-8",
    "gb2312": "gb18030",
    "gb-2312": "gb18030",
    "gbk": "gb18030",
    "cp936": "gb18030",
    "gb18030": "gb18030",
    "utf-16": "utf-16-le",
    "utf-16-le": "utf-16-le",
    "utf-16-be": "utf-16-be",
}


class Encoding(NamedTuple):
    """A codec, and how many bytes of a byte order mark come first; `note` says where it is not what was declared."""

    codec: str
    skip: int = 0
    note: str = ""


def decoded(data: bytes | memoryview, encoding: Encoding, errors: str = "replace") -> Iterator[str]:
    """The text, in pieces; what cannot be decoded becomes U+FFFD, so that only its row is lost."""
    decoder = codecs.getincrementaldecoder(encoding.codec)(errors)
    view = memoryview(data)[encoding.skip :]
    for start in range(0, len(view), _BLOCK):
        yield decoder.decode(bytes(view[start : start + _BLOCK]))
    yield decoder.decode(b"", final=True)


def _fits(data: bytes | memoryview, codec: str) -> bool:
    try:
        for _ in decoded(data, Encoding(codec), "strict"):
            pass
    except UnicodeDecodeError:
        return False
    return True


def _chinese_utf8(data: bytes | memoryview) -> bool:
    """UTF-8 that reads as Chinese: bytes of GB18030 pass for UTF-8 by chance only where they are few.

    A few broken characters (names cut at so many bytes) do not make another encoding of the whole file.
    """
    wide = other = broken = 0
    for piece in decoded(data, Encoding("utf-8")):
        if piece.isascii():
            continue
        foreign = [ord(c) for c in piece if ord(c) > 127]
        common = sum(0x3000 <= c <= 0x9FFF or 0xFF00 <= c <= 0xFFEF for c in foreign)
        wide, other, broken = wide + common, other + len(foreign) - common, broken + piece.count("\ufffd")
    return wide > other + 4 * broken


def find_encoding(data: bytes | memoryview, declared: str = "", asked: str = "") -> Encoding:
    """How to decode a text.

    Args:
        data: all of it.
        declared: what its XML declaration says; empty: nothing.
        asked: what the user says; decides over all but a byte order mark.

    Raises:
        UsageError: `asked` is not known.
    """
    head = bytes(data[:4])
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return Encoding(codec, len(mark))
    if asked:
        if asked.lower() not in _ALIASES:
            raise UsageError(
                "identity.import.encoding", f"unknown encoding {asked[:20]!r}", hint=f"one of {', '.join(ENCODINGS)}"
            )
        return Encoding(_ALIASES[asked.lower()])
    stated = _ALIASES.get(declared.lower(), "")
    if stated == "gb18030":
        if _chinese_utf8(data):
            return Encoding("utf-8", 0, f"declares {declared}, but is UTF-8")
        return Encoding("gb18030")
    if _fits(data, "utf-8"):
        return Encoding("utf-8")
    if _chinese_utf8(data):
        return Encoding("utf-8", 0, "is UTF-8 with broken characters")
    if _fits(data, "gb18030") or not stated:
        return Encoding("gb18030", 0, f"declares {declared}, but is GB18030" if stated else "")
    return Encoding("utf-8")
