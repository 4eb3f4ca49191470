"""The few pieces of DER (X.690) that certificates need beyond what `cryptography` encodes; decoding is strict.

Only definite, minimal lengths and single-byte tags are read, to a small depth: what is not DER is refused.
"""

from collections.abc import Iterator

from secguard.core.errors import FormatError

__all__ = [
    "OCTET_STRING",
    "OID",
    "PRINTABLE_STRING",
    "SEQUENCE",
    "UTF8_STRING",
    "children",
    "encode",
    "oid",
    "sequence",
    "single",
]

OCTET_STRING = 0x04
OID = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
SEQUENCE = 0x30

_MAX = 1 << 16


def encode(tag: int, content: bytes) -> bytes:
    """One element: tag, length, content (at most 65535 bytes)."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    if size >= _MAX:
        raise ValueError("an element of more than 65535 bytes")
    length = size.to_bytes(2 if size > 0xFF else 1, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*elements: bytes) -> bytes:
    """A SEQUENCE of encoded elements."""
    return encode(SEQUENCE, b"".join(elements))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER (X.690, 8.19); arcs may be of any size."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return encode(OID, bytes(content))


def children(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements that stand one after the other in `data`, as (tag, content).

    Raises:
        FormatError: `trust.der.format`, with the offset.
    """
    position = 0
    while position < len(data):
        start = position
        if len(data) - position < 2 or data[position] & 0x1F == 0x1F:
            raise _error(start)
        tag, size = data[position], data[position + 1]
        position += 2
        if size & 0x80:
            count = size & 0x7F
            if not 1 <= count <= 3 or len(data) - position < count:
                raise _error(start)
            size = int.from_bytes(data[position : position + count], "big")
            position += count
            if size < 0x80 or size < 1 << 8 * (count - 1):
                raise _error(start)  # a longer length than needed is BER, not DER
        if len(data) - position < size:
            raise _error(start)
        yield tag, data[position : position + size]
        position += size


def single(data: bytes, tag: int) -> bytes:
    """The content of the one element that `data` holds.

    Raises:
        FormatError: `trust.der.format`: another tag, trailing bytes, or no DER.
    """
    found = list(children(data))
    if len(found) != 1 or found[0][0] != tag:
        raise _error(0)
    return found[0][1]


def _error(offset: int) -> FormatError:
    return FormatError("trust.der.format", "not the expected DER", where=f"offset {offset}")
