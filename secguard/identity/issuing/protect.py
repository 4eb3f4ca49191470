"""Encrypted PKCS#8 (RFC 5958; PBES2 of RFC 8018) for many keys under one passphrase: one derivation for all of them.

What makes a passphrase slow to guess is the number of PBKDF2 rounds. All keys of a job stand under the same passphrase,
so whoever guesses it has them all: a salt of its own for each would cost the job a derivation a key, and an attacker
nothing. So the salt is the job's, the key is derived once, with full rounds, and every file has an IV of its own.
A passphrase of 256 random bits needs no rounds at all; it gets few, since some devices' firmware insists on them.
"""

import hashlib
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from secguard.core import FormatError
from secguard.trust import der

__all__ = ["FEW_ROUNDS", "FULL_ROUNDS", "KeyCipher"]

FEW_ROUNDS = 2048
"""For a passphrase of random bits."""
FULL_ROUNDS = 600_000
"""For a passphrase that a person chose."""
_SALT = 16
_INTEGER = 0x02
_PBES2 = der.oid("1.2.840.113549.1.5.13")
_PBKDF2 = der.oid("1.2.840.113549.1.5.12")
_HMAC_SHA256 = der.sequence(der.oid("1.2.840.113549.2.9"), b"\x05\x00")
_AES256_CBC = der.oid("2.16.840.1.101.3.4.1.42")


@dataclass(frozen=True, slots=True, repr=False)
class KeyCipher:
    """AES-256-CBC under a key derived from a passphrase by PBKDF2-HMAC-SHA256.

    Attributes:
        key: the derived key, 32 bytes.
        salt: the job's.
        rounds: of PBKDF2.
    """

    key: bytes
    salt: bytes
    rounds: int

    @classmethod
    def derive(cls, passphrase: bytes, rounds: int, salt: bytes = b"") -> "KeyCipher":
        """Derive the key; a fresh salt if none is given."""
        salt = salt or secrets.token_bytes(_SALT)
        return cls(hashlib.pbkdf2_hmac("sha256", passphrase, salt, rounds, 32), salt, rounds)

    def __repr__(self) -> str:
        return f"KeyCipher(rounds={self.rounds})"

    def check(self) -> str:
        """Tells this key from another without showing it."""
        return hashlib.sha256(b"secguard provision\0" + self.key).hexdigest()[:16]

    def seal(self, key: PrivateKeyTypes) -> bytes:
        """EncryptedPrivateKeyInfo in DER."""
        clear = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        iv = secrets.token_bytes(16)
        padder, encryptor = PKCS7(128).padder(), Cipher(algorithms.AES256(self.key), modes.CBC(iv)).encryptor()
        sealed = encryptor.update(padder.update(clear) + padder.finalize()) + encryptor.finalize()
        rounds = der.encode(_INTEGER, self.rounds.to_bytes(self.rounds.bit_length() // 8 + 1, "big"))
        derivation = der.sequence(_PBKDF2, der.sequence(der.encode(der.OCTET_STRING, self.salt), rounds, _HMAC_SHA256))
        scheme = der.sequence(_AES256_CBC, der.encode(der.OCTET_STRING, iv))
        algorithm = der.sequence(_PBES2, der.sequence(derivation, scheme))
        return der.sequence(algorithm, der.encode(der.OCTET_STRING, sealed))

    def open(self, data: bytes) -> PrivateKeyTypes:
        """Open what `seal` of the same cipher gave.

        Raises:
            FormatError: it is damaged, or another cipher's.
        """
        try:
            (_, algorithm), (_, sealed) = der.children(der.single(data, der.SEQUENCE))
            _, (_, parameters) = der.children(algorithm)
            _, (_, scheme) = der.children(parameters)
            _, (_, iv) = der.children(scheme)
            decryptor, unpadder = Cipher(algorithms.AES256(self.key), modes.CBC(iv)).decryptor(), PKCS7(128).unpadder()
            clear = unpadder.update(decryptor.update(sealed) + decryptor.finalize()) + unpadder.finalize()
            return load_der_private_key(clear, None)
        except (FormatError, ValueError, TypeError) as error:
            raise FormatError("identity.provision.key", "not a key of this job") from error
