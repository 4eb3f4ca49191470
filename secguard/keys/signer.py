"""Signers: ECDSA (deterministic, RFC 6979), Ed25519 (RFC 8032) and RSA-PSS (RFC 8017), behind one small interface."""

import hashlib
from enum import StrEnum
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from secguard.core.errors import UsageError

__all__ = ["Algorithm", "KeySigner", "Signer", "algorithm_of", "generate", "key_id", "verify_signature"]


class Algorithm(StrEnum):
    """Key kinds that secguard makes and accepts."""

    P256 = "ecdsa-p256"
    P384 = "ecdsa-p384"
    ED25519 = "ed25519"
    RSA = "rsa-pss"


_HASHES: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_DEFAULT_HASH = {Algorithm.P256: "sha256", Algorithm.P384: "sha384", Algorithm.RSA: "sha256"}
_ECDSA = {
    Algorithm.P256: ec.ECDSA(hashes.SHA256(), deterministic_signing=True),
    Algorithm.P384: ec.ECDSA(hashes.SHA384(), deterministic_signing=True),
}
_MIN_RSA_BITS = 2048


class Signer(Protocol):
    """What signs: a key in a file, later a key behind PKCS#11."""

    @property
    def algorithm(self) -> Algorithm:
        """The key's kind."""
        ...

    def public_key(self) -> PublicKeyTypes:
        """The public half."""
        ...

    def private_key(self) -> PrivateKeyTypes:
        """The key in the form that X.509 builders take."""
        ...

    def sign(self, data: bytes, digest: str | None = None) -> bytes:
        """Sign `data`, hashed with `digest` (default by key kind; ignored for Ed25519)."""
        ...

    def sign_digest(self, value: bytes, digest: str) -> bytes:
        """Sign a value that is already hashed with `digest`; Ed25519 signs it as a message."""
        ...


def algorithm_of(key: object) -> Algorithm:
    """The kind of a private or public key.

    Raises:
        UsageError: it is not supported, or too short.
    """
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        if isinstance(key.curve, ec.SECP256R1):
            return Algorithm.P256
        if isinstance(key.curve, ec.SECP384R1):
            return Algorithm.P384
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return Algorithm.ED25519
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return Algorithm.RSA
    raise UsageError(
        "keys.algorithm.unsupported",
        "this kind of key is not supported",
        hint="use ECDSA P-256 or P-384, Ed25519, or RSA with at least 2048 bits",
    )


def _hash(name: str) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    try:
        return _HASHES[name]()
    except KeyError:
        raise UsageError("keys.hash.unsupported", f"unsupported hash {name[:20]!r}") from None


def _pss(algorithm: hashes.HashAlgorithm) -> padding.PSS:
    return padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.DIGEST_LENGTH)


class KeySigner:
    """A `Signer` over a private key in memory. ECDSA is deterministic, so signing again gives the same bytes."""

    def __init__(self, key: PrivateKeyTypes) -> None:
        self._key = key
        self._algorithm = algorithm_of(key)

    def __repr__(self) -> str:
        return f"KeySigner({self._algorithm})"

    @property
    def algorithm(self) -> Algorithm:
        """The key's kind."""
        return self._algorithm

    def public_key(self) -> PublicKeyTypes:
        """The public half."""
        return self._key.public_key()

    def private_key(self) -> PrivateKeyTypes:
        """The key in the form that X.509 builders take."""
        return self._key

    def sign(self, data: bytes, digest: str | None = None) -> bytes:
        """Sign `data`: ECDSA gives DER (RFC 3279), RSA gives PSS with a salt as long as the hash."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        if isinstance(self._key, ec.EllipticCurvePrivateKey) and digest is None:
            return self._key.sign(data, _ECDSA[self._algorithm])
        name = digest or _DEFAULT_HASH[self._algorithm]
        return self.sign_digest(hashlib.new(name, data).digest(), name)

    def sign_digest(self, value: bytes, digest: str) -> bytes:
        """Sign an already hashed `value`; Ed25519 signs the value as a message."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(value)
        algorithm = _hash(digest)
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(value, ec.ECDSA(Prehashed(algorithm), deterministic_signing=True))
        assert isinstance(self._key, rsa.RSAPrivateKey)
        return self._key.sign(value, _pss(algorithm), Prehashed(algorithm))


def verify_signature(
    key: PublicKeyTypes, signature: bytes, data: bytes, digest: str | None = None, *, prehashed: bool = False
) -> bool:
    """Tell whether `signature` is the key's over `data` (or over an already hashed `data` if `prehashed`).

    Raises:
        UsageError: if the key's kind is not supported.
    """
    kind = algorithm_of(key)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
            return True
        name = digest or _DEFAULT_HASH[kind]
        algorithm = _hash(name)
        value = data if prehashed else hashlib.new(name, data).digest()
        if len(value) != algorithm.digest_size:
            return False
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, value, ec.ECDSA(Prehashed(algorithm)))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, value, _pss(algorithm), Prehashed(algorithm))
    except InvalidSignature:
        return False
    return True


def generate(algorithm: Algorithm = Algorithm.P256) -> KeySigner:
    """Make a fresh key of the given kind (RSA: 3072 bits)."""
    if algorithm is Algorithm.P256:
        return KeySigner(ec.generate_private_key(ec.SECP256R1()))
    if algorithm is Algorithm.P384:
        return KeySigner(ec.generate_private_key(ec.SECP384R1()))
    if algorithm is Algorithm.ED25519:
        return KeySigner(ed25519.Ed25519PrivateKey.generate())
    return KeySigner(rsa.generate_private_key(65537, 3072))


def public_pem(key: PublicKeyTypes) -> bytes:
    """A public key in PEM (SubjectPublicKeyInfo), as it lies in files."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PublicKeyTypes) -> str:
    """SHA-256 over the SubjectPublicKeyInfo, in hex: names a key in envelopes and records."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()
