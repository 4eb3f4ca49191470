"""What EST puts on the wire (RFC 7030, RFC 8951): requests in, certs-only messages, keys and attributes out."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from cryptography import x509

from secguard.core import FormatError
from secguard.gbid import GbId
from secguard.identity.profiles import Profile
from secguard.keys import Algorithm
from secguard.trust import der, permanent_identifier

__all__ = [
    "MAX_BODY",
    "Base64",
    "certs_only",
    "csr_attributes",
    "decode_request",
    "encode_body",
    "layout_for",
    "multipart",
]

MAX_BODY = 64 << 10
"""Bytes of a request's body; a request over RSA 4096 has 2 kB."""

_ARMOUR = re.compile(
    rb"-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----(.*?)-----END (?:NEW )?CERTIFICATE REQUEST-----", re.DOTALL
)
_SPACE = b" \t\r\n\v\f"
_SET = 0x31
_INTEGER = 0x02
_CONTENT = 0xA0  # [0], constructed
_DATA = der.oid("1.2.840.113549.1.7.1")
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_EXTENSION_REQUEST = der.oid("1.2.840.113549.1.9.14")
_SUBJECT_ALT_NAME = der.oid("2.5.29.17")
# The key that is wanted, as an attribute (RFC 7030, 4.5.2), and the signature that goes with it.
_EC = "1.2.840.10045.2.1"
_KEYS = {
    Algorithm.P256: (_EC, der.oid("1.2.840.10045.3.1.7"), "1.2.840.10045.4.3.2"),
    Algorithm.P384: (_EC, der.oid("1.3.132.0.34"), "1.2.840.10045.4.3.3"),
    Algorithm.RSA: ("1.2.840.113549.1.1.1", bytes((_INTEGER, 2, 0x0C, 0x00)), "1.2.840.113549.1.1.11"),
    Algorithm.ED25519: ("1.3.101.112", b"", "1.3.101.112"),
}


class Base64(StrEnum):
    """How base64 is laid out in answers."""

    AUTO = "auto"
    WRAPPED = "wrapped"
    UNWRAPPED = "unwrapped"


def layout_for(label: str, user_agent: str, chosen: Mapping[str, Base64]) -> bool:
    """Tell whether an answer's base64 is broken into lines.

    No layout suits all: strongSwan reads it only in one line, libest and `openssl base64 -d` only in lines of at most
    76 characters. strongSwan names no user agent, the others do.

    Args:
        label: the label of the request's path.
        user_agent: the request's User-Agent; empty if there is none.
        chosen: the site's choice by label, and under `default` for all others.
    """
    layout = chosen.get(label, chosen.get("default", Base64.AUTO))
    return bool(user_agent) if layout is Base64.AUTO else layout is Base64.WRAPPED


def encode_body(data: bytes, *, wrapped: bool) -> bytes:
    """Base64, in lines of 76 characters or in one."""
    return base64.encodebytes(data) if wrapped else base64.b64encode(data)


def decode_request(body: bytes) -> bytes:
    """The PKCS#10 request in DER of a body: base64 in any layout (RFC 8951, 3), PEM, or DER itself.

    Raises:
        FormatError: `identity.est.body`.
    """
    if len(body) > MAX_BODY:
        raise FormatError("identity.est.body", f"more than {MAX_BODY} bytes")
    if body[:1] == bytes((der.SEQUENCE,)):
        return body
    armoured = _ARMOUR.search(body)
    text = (armoured.group(1) if armoured else body).translate(None, _SPACE)
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise FormatError(
            "identity.est.body",
            "the body is no certificate request",
            hint="send PKCS#10 in base64, for example: openssl req -new -outform DER | openssl base64",
        )
    return data


def _long(tag: int, content: bytes) -> bytes:
    """An element of any length."""
    size = len(content)
    if size < 1 << 16:
        return der.encode(tag, content)
    return bytes((tag, 0x83)) + size.to_bytes(3, "big") + content


def certs_only(certificates: Iterable[bytes]) -> bytes:
    """A certs-only CMS message in DER: SignedData without content and signers (RFC 5272, 4.1)."""
    signed = b"".join(
        (
            bytes((_INTEGER, 1, 1)),
            der.encode(_SET, b""),
            der.sequence(_DATA),
            _long(_CONTENT, b"".join(sorted(certificates))),  # SET OF: X.690, 11.6
            der.encode(_SET, b""),
        )
    )
    return _long(der.SEQUENCE, _SIGNED_DATA + _long(_CONTENT, _long(der.SEQUENCE, signed)))


def csr_attributes(profile: Profile, gbid: GbId | None) -> bytes:
    """What a request should hold, as `CsrAttrs` (RFC 9908, 3.2): the kind of key, and the name of a known device.

    Args:
        profile: gives the key.
        gbid: the device that asked, if it is known who asked.
    """
    kind, parameter, signature = _KEYS[profile.key]
    items = [der.sequence(der.oid(kind), der.encode(_SET, parameter)) if parameter else der.oid(kind)]
    if signature != kind:
        items.append(der.oid(signature))
    if gbid is not None:
        names = x509.SubjectAlternativeName([permanent_identifier(gbid)]).public_bytes()
        extension = der.sequence(_SUBJECT_ALT_NAME, der.encode(der.OCTET_STRING, names))
        items.append(der.sequence(_EXTENSION_REQUEST, der.encode(_SET, der.sequence(extension))))
    return der.sequence(*items)


def multipart(parts: Sequence[tuple[str, bytes]], boundary: str) -> bytes:
    """A multipart/mixed body (RFC 7030, 4.4.2) of parts given as (content type, base64)."""
    mark = f"--{boundary}\r\n"
    head = "Content-Type: {}\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    body = b"".join(f"{mark}{head.format(kind)}".encode("ascii") + data.rstrip(b"\n") + b"\r\n" for kind, data in parts)
    return body + f"--{boundary}--\r\n".encode("ascii")
