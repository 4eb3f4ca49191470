"""OCSP requests (RFC 6960, section 4.1), parsed strictly and within bounds; one may ask for many certificates.

`cryptography` reads requests for one certificate only; `openssl ocsp` with two `-cert` sends two in one.
"""

from functools import lru_cache
from typing import NamedTuple

from secguard.core import FormatError
from secguard.trust import der

__all__ = ["MAX_CERTIFICATES", "MAX_REQUEST", "CertId", "OcspRequest", "parse_request"]

MAX_REQUEST = 16 << 10
"""Bytes of a request."""
MAX_CERTIFICATES = 128
"""Certificates a request may ask for."""

_MAX_NONCE = 128  # RFC 9654, 2.1
_MAX_EXTENSIONS = 16
_MAX_SERIAL = 21  # 20 octets (RFC 5280, 4.1.2.2), and what others put before them
_INTEGER, _OID, _NULL, _OCTETS, _SEQUENCE, _BOOLEAN = 0x02, 0x06, 0x05, 0x04, 0x30, 0x01
_NONCE = der.single(der.oid("1.3.6.1.5.5.7.48.1.2"), _OID)


_Element = tuple[int, int, int]  # tag, start and end of the content


class CertId(NamedTuple):
    """One certificate that is asked for.

    Attributes:
        raw: the CertID as it stands in the request; the answer repeats it.
        issuer: hash algorithm (content of its OID), hash of the issuer's name, hash of its key.
        serial: serial number.
    """

    raw: bytes
    issuer: tuple[bytes, bytes, bytes]
    serial: int


class OcspRequest(NamedTuple):
    """A request: at least one certificate, and the nonce, if there is one."""

    certificates: tuple[CertId, ...]
    nonce: bytes | None


def parse_request(data: bytes) -> OcspRequest:
    """Parse a request in DER. A signature on it and the requestor's name are not looked at: anyone may ask.

    Raises:
        FormatError: `identity.ocsp.format`: not a request, too large, a nonce of a wrong length, or a critical
            extension that is not known.
    """
    if len(data) > MAX_REQUEST:
        raise _bad("larger than a request may be")
    outer = _inside(data, *_only(data, 0, len(data), _SEQUENCE))
    if not outer or outer[0][0] != _SEQUENCE or [one[0] for one in outer[1:]] not in ([], [0xA0]):
        raise _bad("its parts")
    fields = _inside(data, *outer[0][1:])
    if tuple([one[0] for one in fields]) not in _ORDERS:
        raise _bad("its fields")
    parts = {tag: (start, end) for tag, start, end in fields}
    if 0xA0 in parts and data[slice(*_only(data, *parts[0xA0], _INTEGER))] != b"\x00":
        raise _bad("another version")
    listed = _inside(data, *parts[_SEQUENCE])
    if not 1 <= len(listed) <= MAX_CERTIFICATES:
        raise _bad(f"it asks for {len(listed)} certificates, at most {MAX_CERTIFICATES} are answered at once")
    wanted = tuple([_request(data, one) for one in listed])
    return OcspRequest(wanted, _nonce(data, *parts[0xA2]) if 0xA2 in parts else None)


def _bad(problem: str) -> FormatError:
    return FormatError("identity.ocsp.format", f"not an OCSP request: {problem}")


def _inside(data: bytes, at: int, end: int) -> list[_Element]:
    """The elements between two offsets. Strict: single-byte tags, definite lengths, none longer than needed."""
    found = []
    while at < end:
        if end - at < 2 or data[at] & 0x1F == 0x1F:
            raise _bad("not DER")
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80:
            count = size - 0x80
            size = int.from_bytes(data[at : at + count], "big") if 1 <= count <= 2 else 0
            if size < 0x80 or size < 1 << 8 * (count - 1):
                raise _bad("not DER")
            at += count
        if size > end - at:
            raise _bad("not DER")
        found.append((tag, at, at + size))
        at += size
    return found


def _only(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """The place of the content of the one element between two offsets."""
    found = _inside(data, at, end)
    if len(found) != 1 or found[0][0] != tag:
        raise _bad("not the expected DER")
    return found[0][1:]


# version [0], requestorName [1], requestList, requestExtensions [2]: all but the list may be absent.
_ORDERS = {
    tuple(tag for tag, there in ((0xA0, a), (0xA1, b), (_SEQUENCE, True), (0xA2, c)) if there)
    for a in (False, True)
    for b in (False, True)
    for c in (False, True)
}


def _request(data: bytes, element: _Element) -> CertId:
    tag, start, end = element
    parts = _inside(data, start, end) if tag == _SEQUENCE else []
    if not parts or parts[0][0] != _SEQUENCE or [part[0] for part in parts[1:]] not in ([], [0xA0]):
        raise _bad("a request in its list")
    if parts[1:]:
        _extensions(data, *parts[1][1:])  # none is known, a critical one is refused
    fields = _inside(data, *parts[0][1:])
    if [field[0] for field in fields] != [_SEQUENCE, _OCTETS, _OCTETS, _INTEGER]:
        raise _bad("a CertID")
    algorithm, name, key, serial = [data[field[1] : field[2]] for field in fields]
    return CertId(data[start : parts[0][2]], (_algorithm(algorithm), name, key), _serial(serial))


@lru_cache(maxsize=64)
def _algorithm(content: bytes) -> bytes:
    parts = _inside(content, 0, len(content))
    if not parts or parts[0][0] != _OID or [(tag, end - at) for tag, at, end in parts[1:]] not in ([], [(_NULL, 0)]):
        raise _bad("a hash algorithm")
    return content[parts[0][1] : parts[0][2]]


def _serial(content: bytes) -> int:
    size = len(content)
    if not 1 <= size <= _MAX_SERIAL or (size > 1 and (content[0], content[1] >> 7) in {(0, 0), (0xFF, 1)}):
        raise _bad("a serial number")
    return int.from_bytes(content, "big", signed=True)


def _extensions(data: bytes, at: int, end: int) -> dict[bytes, bytes]:
    """Extensions, known and unknown: content of the OID, value.

    Raises:
        FormatError: malformed, too many, one twice, or a critical one other than the nonce.
    """
    found: dict[bytes, bytes] = {}
    listed = _inside(data, *_only(data, at, end, _SEQUENCE))
    for tag, start, stop in listed:
        parts = _inside(data, start, stop) if tag == _SEQUENCE else []
        if [part[0] for part in parts] not in ([_OID, _OCTETS], [_OID, _BOOLEAN, _OCTETS]):
            raise _bad("an extension")
        name, value = data[parts[0][1] : parts[0][2]], data[parts[-1][1] : parts[-1][2]]
        if len(parts) == 3 and data[parts[1][1] : parts[1][2]] != b"\x00" and name != _NONCE:
            raise _bad("a critical extension that is not known here")
        found[name] = value
    if not 1 <= len(listed) <= _MAX_EXTENSIONS or len(found) != len(listed):
        raise _bad("its extensions")
    return found


def _nonce(data: bytes, at: int, end: int) -> bytes | None:
    value = _extensions(data, at, end).get(_NONCE)
    if value is None:
        return None
    nonce = value[slice(*_only(value, 0, len(value), _OCTETS))]
    if not 1 <= len(nonce) <= _MAX_NONCE:
        raise _bad("a nonce of 1 to 128 octets (RFC 9654)")
    return nonce
