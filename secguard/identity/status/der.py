"""The DER (X.690) of revocation lists and OCSP answers: what `cryptography` builds too slowly, or not at all."""

from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from secguard.keys import Algorithm, Signer
from secguard.trust.der import oid

__all__ = ["algorithm", "extensions", "generalized_time", "integer", "sequence", "sign", "time", "tlv"]

_ALGORITHMS = {
    Algorithm.P256: (oid("1.2.840.10045.4.3.2"), "sha256"),
    Algorithm.P384: (oid("1.2.840.10045.4.3.3"), "sha384"),
    Algorithm.ED25519: (oid("1.3.101.112"), None),
    Algorithm.RSA: (oid("1.2.840.113549.1.1.11") + b"\x05\x00", "sha256"),
}
_TRUE = b"\x01\x01\xff"
_LAST_UTC_YEAR = 2049  # RFC 5280, 5.1.2.4


def tlv(tag: int, *contents: bytes) -> bytes:
    """One element of any size: tag, length, the contents joined."""
    size = sum(map(len, contents))
    if size < 0x80:
        return b"".join((bytes((tag, size)), *contents))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return b"".join((bytes((tag, 0x80 | len(length))), length, *contents))


def sequence(*contents: bytes) -> bytes:
    """A SEQUENCE."""
    return tlv(0x30, *contents)


def integer(value: int) -> bytes:
    """An INTEGER >= 0."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def generalized_time(at: datetime) -> bytes:
    """A GeneralizedTime in whole seconds (RFC 5280, 4.1.2.5.2); `at` is aware."""
    return tlv(0x18, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii").rjust(15, b"0"))


def time(at: datetime) -> bytes:
    """A Time: UTCTime through 2049, then GeneralizedTime; `at` is aware."""
    at = at.astimezone(UTC)
    if at.year > _LAST_UTC_YEAR:
        return generalized_time(at)
    return tlv(0x17, at.strftime("%y%m%d%H%M%SZ").encode("ascii"))


def extensions(items: Iterable[tuple[x509.ExtensionType, bool]]) -> bytes:
    """Extensions, each with whether it is critical."""
    return sequence(
        *(
            sequence(oid(value.oid.dotted_string), _TRUE if critical else b"", tlv(0x04, value.public_bytes()))
            for value, critical in items
        )
    )


def algorithm(signer: Signer) -> bytes:
    """The AlgorithmIdentifier of a key's X.509 signatures."""
    return sequence(_ALGORITHMS[signer.algorithm][0])


def sign(signer: Signer, data: bytes) -> bytes:
    """`data`, the algorithm and the signature, as certificates, lists and OCSP answers hold them (RFC 5280, 4.1.1).

    RSA signs by PKCS #1 v1.5, which every verifier knows.
    """
    if signer.algorithm is Algorithm.RSA:
        key = signer.private_key()
        assert isinstance(key, rsa.RSAPrivateKey)
        signature = key.sign(data, PKCS1v15(), SHA256())
    else:
        signature = signer.sign(data, _ALGORITHMS[signer.algorithm][1])
    return b"".join((data, algorithm(signer), tlv(0x03, b"\x00", signature)))
