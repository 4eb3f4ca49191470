"""The DER (X.690) of revocation lists and OCSP answers: what `cryptography` builds too slowly, or not at all."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache, partial

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from secguard.keys import Algorithm, Signer
from secguard.trust.der import oid

__all__ = [
    "algorithm",
    "extensions",
    "generalized_time",
    "header",
    "integer",
    "sequence",
    "signed",
    "signing",
    "time",
    "tlv",
]

_TRUE = b"\x01\x01\xff"
_LAST_UTC_YEAR = 2049  # RFC 5280, 5.1.2.4


def header(tag: int, size: int) -> bytes:
    """Tag and length of an element with `size` bytes of content."""
    if size < 0x80:
        return bytes((tag, size))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length


def tlv(tag: int, *contents: bytes) -> bytes:
    """One element of any size: tag, length, the contents joined; they are copied once."""
    return b"".join((header(tag, sum(map(len, contents))), *contents))


def sequence(*contents: bytes) -> bytes:
    """A SEQUENCE."""
    return tlv(0x30, *contents)


def integer(value: int) -> bytes:
    """An INTEGER >= 0."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


@lru_cache(maxsize=256)
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


_ALGORITHMS = {
    Algorithm.P256: sequence(oid("1.2.840.10045.4.3.2")),
    Algorithm.P384: sequence(oid("1.2.840.10045.4.3.3")),
    Algorithm.ED25519: sequence(oid("1.3.101.112")),
    Algorithm.RSA: sequence(oid("1.2.840.113549.1.1.11"), b"\x05\x00"),
}
_ECDSA = {
    (algorithm, repeatable): ec.ECDSA(digest, deterministic_signing=repeatable)
    for algorithm, digest in ((Algorithm.P256, SHA256()), (Algorithm.P384, SHA384()))
    for repeatable in (True, False)
}


def algorithm(signer: Signer) -> bytes:
    """The AlgorithmIdentifier of a key's X.509 signatures."""
    return _ALGORITHMS[signer.algorithm]


def signing(signer: Signer, *, repeatable: bool = True) -> Callable[[bytes], bytes]:
    """What makes a key's X.509 signatures.

    RSA signs by PKCS #1 v1.5, which every verifier knows. ECDSA gives the same bytes again if it is to be `repeatable`
    (RFC 6979), which costs time.
    """
    key = signer.private_key()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return partial(key.sign, signature_algorithm=_ECDSA[signer.algorithm, repeatable])
    if isinstance(key, rsa.RSAPrivateKey):
        return partial(key.sign, padding=PKCS1v15(), algorithm=SHA256())
    return signer.sign


def signed(signer: Signer, data: bytes) -> bytes:
    """A SEQUENCE of `data`, the algorithm and the signature (RFC 5280, 4.1.1)."""
    return sequence(data, algorithm(signer), tlv(0x03, b"\x00", signing(signer)(data)))
