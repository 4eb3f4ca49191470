"""OCSP requests (RFC 6960, section 4.1), parsed strictly and within bounds; one may ask for many certificates.

`cryptography` reads requests for one certificate only; `openssl ocsp` with two `-cert` sends two in one.
"""

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
    try:
        return _parse(data)
    except FormatError as error:
        if error.code == "identity.ocsp.format":
            raise
        raise _bad("not DER") from error


def _bad(problem: str) -> FormatError:
    return FormatError("identity.ocsp.format", f"not an OCSP request: {problem}")


def _parse(data: bytes) -> OcspRequest:
    outer = list(der.children(der.single(data, _SEQUENCE)))
    if not outer or outer[0][0] != _SEQUENCE or [tag for tag, _ in outer[1:]] not in ([], [0xA0]):
        raise _bad("its parts")
    parts = dict(der.children(outer[0][1]))
    tags = [tag for tag, _ in der.children(outer[0][1])]
    if tags not in _ORDERS:
        raise _bad("its fields")
    if 0xA0 in parts and der.single(parts[0xA0], _INTEGER) != b"\x00":
        raise _bad("another version")
    wanted = [_request(tag, content) for tag, content in der.children(parts[_SEQUENCE])]
    if not 1 <= len(wanted) <= MAX_CERTIFICATES:
        raise _bad(f"it asks for {len(wanted)} certificates, at most {MAX_CERTIFICATES} are answered at once")
    return OcspRequest(tuple(wanted), _nonce(parts[0xA2]) if 0xA2 in parts else None)


# version [0], requestorName [1], requestList, requestExtensions [2]: all but the list may be absent.
_ORDERS = [
    [tag for tag, there in ((0xA0, a), (0xA1, b), (_SEQUENCE, True), (0xA2, c)) if there]
    for a in (False, True)
    for b in (False, True)
    for c in (False, True)
]


def _request(tag: int, content: bytes) -> CertId:
    parts = list(der.children(content)) if tag == _SEQUENCE else []
    match [part[0] for part in parts]:
        case [48]:
            pass
        case [48, 0xA0]:
            for _ in _extensions(parts[1][1]):  # none is known, a critical one is refused
                pass
        case _:
            raise _bad("a request in its list")
    fields = list(der.children(parts[0][1]))
    if [field[0] for field in fields] != [_SEQUENCE, _OCTETS, _OCTETS, _INTEGER]:
        raise _bad("a CertID")
    algorithm, name, key, serial = (field[1] for field in fields)
    return CertId(der.encode(_SEQUENCE, parts[0][1]), (_algorithm(algorithm), name, key), _serial(serial))


def _algorithm(content: bytes) -> bytes:
    parts = list(der.children(content))
    if not parts or parts[0][0] != _OID or parts[1:] not in ([], [(_NULL, b"")]):
        raise _bad("a hash algorithm")
    return parts[0][1]


def _serial(content: bytes) -> int:
    size = len(content)
    if not 1 <= size <= _MAX_SERIAL or (size > 1 and (content[0], content[1] >> 7) in {(0, 0), (0xFF, 1)}):
        raise _bad("a serial number")
    return int.from_bytes(content, "big", signed=True)


def _extensions(content: bytes) -> list[tuple[bytes, bytes]]:
    """Known and unknown extensions: content of the OID, value.

    Raises:
        FormatError: malformed, too many, one twice, or a critical one other than the nonce.
    """
    found = []
    for tag, extension in der.children(der.single(content, _SEQUENCE)):
        parts = list(der.children(extension)) if tag == _SEQUENCE else []
        tags = [part[0] for part in parts]
        if tags not in ([_OID, _OCTETS], [_OID, _BOOLEAN, _OCTETS]):
            raise _bad("an extension")
        critical = len(parts) == 3 and parts[1][1] != b"\x00"
        if critical and parts[0][1] != _NONCE:
            raise _bad("a critical extension that is not known here")
        found.append((parts[0][1], parts[-1][1]))
    if not 1 <= len(found) <= _MAX_EXTENSIONS or len({name for name, _ in found}) != len(found):
        raise _bad("its extensions")
    return found


def _nonce(content: bytes) -> bytes | None:
    for name, value in _extensions(content):
        if name == _NONCE:
            nonce = der.single(value, _OCTETS)
            if not 1 <= len(nonce) <= _MAX_NONCE:
                raise _bad("a nonce of 1 to 128 octets (RFC 9654)")
            return nonce
    return None
