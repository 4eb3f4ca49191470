"""SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) in DER; that of P-256, which nearly every device has, at little cost."""

import hashlib

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secguard.trust import der

__all__ = ["is_p256", "key_identifier", "spki_of"]

_BIT_STRING = 0x03
_POINT = 65  # uncompressed: 04, x, y
# RFC 5480: what stands before the point.
_P256 = der.encode(
    der.SEQUENCE,
    der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7"))
    + der.encode(_BIT_STRING, bytes(1 + _POINT)),
)[:-_POINT]


def spki_of(key: PublicKeyTypes) -> bytes:
    """The SubjectPublicKeyInfo of a key."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def is_p256(spki: bytes) -> bool:
    """Tell whether it has the form of an uncompressed P-256 point; whether that lies on the curve is not checked."""
    return len(spki) == len(_P256) + _POINT and spki.startswith(_P256) and spki[len(_P256)] == 4


def key_identifier(spki: bytes) -> bytes:
    """RFC 5280, 4.2.1.2, method 1: SHA-1 of the key's bits."""
    if is_p256(spki):
        bits = spki[len(_P256) :]
    else:
        _, (_, content) = der.children(der.single(spki, der.SEQUENCE))
        bits = content[1:]
    return hashlib.sha1(bits, usedforsecurity=False).digest()
