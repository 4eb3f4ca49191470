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
_BOOLEAN, _INTEGER, _OCTETS, _OID, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x30
_NULL = b"\x05\x00"
_NONCE = der.single(der.oid("1.3.6.1.5.5.7.48.1.2"), _OID)


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
    at, end = _step(data, 0, len(data), _SEQUENCE, last=True)
    start, stop = _step(data, at, end, _SEQUENCE)
    if stop != end:
        _step(data, stop, end, 0xA0, last=True)  # a signature
    tag, at, end = _element(data, start, stop)
    if tag == 0xA0:
        place = _step(data, at, end, _INTEGER, last=True)
        if data[slice(*place)] != b"\x00":
            raise _bad("another version")
        tag, at, end = _element(data, end, stop)
    if tag == 0xA1:
        tag, at, end = _element(data, end, stop)
    if tag != _SEQUENCE:
        raise _bad("its fields")
    wanted: list[CertId] = []
    while at < end:
        if len(wanted) == MAX_CERTIFICATES:
            raise _bad(f"at most {MAX_CERTIFICATES} certificates are answered at once")
        one, at = _request(data, at, end)
        wanted.append(one)
    if not wanted:
        raise _bad("it asks for no certificate")
    nonce = _nonce(data, *_step(data, end, stop, 0xA2, last=True)) if end != stop else None
    return OcspRequest(tuple(wanted), nonce)


def _bad(problem: str) -> FormatError:
    return FormatError("identity.ocsp.format", f"not an OCSP request: {problem}")


def _element(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the element at an offset.

    Strict: single-byte tags, definite lengths, none longer than needed.
    """
    if end - at < 2 or data[at] & 0x1F == 0x1F:
        raise _bad("not DER")
    tag, size, at = data[at], data[at + 1], at + 2
    if size >= 0x80:
        count = size - 0x80
        size = int.from_bytes(data[at : at + count], "big") if 1 <= count <= 2 else 0
        if size < 0x80 or size < 1 << 8 * (count - 1):
            raise _bad("not DER")
        at += count
    if size > end - at:
        raise _bad("not DER")
    return tag, at, at + size


def _step(data: bytes, at: int, end: int, tag: int, *, last: bool = False) -> tuple[int, int]:
    """Start and end of the content of the element at an offset, which has a tag, and may have to be the last."""
    found, start, stop = _element(data, at, end)
    if found != tag or (last and stop != end):
        raise _bad("not the expected DER")
    return start, stop


def _request(data: bytes, at: int, end: int) -> tuple[CertId, int]:
    """A Request at an offset, and where it ends."""
    start, end = _step(data, at, end, _SEQUENCE)
    at, stop = _step(data, start, end, _SEQUENCE)
    if stop != end:
        _extensions(data, *_step(data, stop, end, 0xA0, last=True))  # none is known, a critical one is refused
    algorithm = _step(data, at, stop, _SEQUENCE)
    name = _step(data, algorithm[1], stop, _OCTETS)
    key = _step(data, name[1], stop, _OCTETS)
    serial = _step(data, key[1], stop, _INTEGER, last=True)
    issuer = _algorithm(data[slice(*algorithm)]), data[slice(*name)], data[slice(*key)]
    return CertId(data[start:stop], issuer, _serial(data[slice(*serial)])), end


@lru_cache(maxsize=64)
def _algorithm(content: bytes) -> bytes:
    start, end = _step(content, 0, len(content), _OID)
    if content[end:] not in {b"", _NULL}:
        raise _bad("a hash algorithm")
    return content[start:end]


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
    at, end = _step(data, at, end, _SEQUENCE, last=True)
    while at < end:
        start, at = _step(data, at, end, _SEQUENCE)
        oid = _step(data, start, at, _OID)
        name, critical = data[slice(*oid)], False
        tag, start, stop = _element(data, oid[1], at)
        if tag == _BOOLEAN:
            critical = data[start:stop] != b"\x00"
            tag, start, stop = _element(data, stop, at)
        if tag != _OCTETS or stop != at or name in found or len(found) == _MAX_EXTENSIONS:
            raise _bad("its extensions")
        if critical and name != _NONCE:
            raise _bad("a critical extension that is not known here")
        found[name] = data[start:stop]
    if not found:
        raise _bad("its extensions")
    return found


def _nonce(data: bytes, at: int, end: int) -> bytes | None:
    value = _extensions(data, at, end).get(_NONCE)
    if value is None:
        return None
    nonce = value[slice(*_step(value, 0, len(value), _OCTETS, last=True))]
    if not 1 <= len(nonce) <= _MAX_NONCE:
        raise _bad("a nonce of 1 to 128 octets (RFC 9654)")
    return nonce
