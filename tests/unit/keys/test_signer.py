"""Signatures of all kinds, against published vectors and each other."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secguard.core import UsageError
from secguard.keys import Algorithm, KeySigner, generate, key_id, verify_signature

SIGNERS = {kind: generate(kind) for kind in Algorithm}


@pytest.mark.parametrize("kind", Algorithm)
def test_sign_and_verify(kind):
    signer = SIGNERS[kind]
    signature = signer.sign(b"message")
    key = signer.public_key()
    assert verify_signature(key, signature, b"message")
    assert not verify_signature(key, signature, b"messagf")
    for position in range(len(signature)):
        bad = bytearray(signature)
        bad[position] ^= 1
        assert not verify_signature(key, bytes(bad), b"message")


@pytest.mark.parametrize("kind", [Algorithm.P256, Algorithm.P384, Algorithm.RSA])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_signing_a_digest_is_signing_its_message(kind, digest):
    signer = SIGNERS[kind]
    value = hashlib.new(digest, b"message").digest()
    signature = signer.sign_digest(value, digest)
    assert verify_signature(signer.public_key(), signature, b"message", digest)
    assert verify_signature(signer.public_key(), signature, value, digest, prehashed=True)
    assert not verify_signature(signer.public_key(), signature, value[:-1], digest, prehashed=True)


def test_rfc6979_p256_sha256_vector():
    """RFC 6979, A.2.5: key, message "sample", SHA-256."""
    key = ec.derive_private_key(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1())
    r, s = decode_dss_signature(KeySigner(key).sign(b"sample"))
    assert r == 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
    assert s == 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8


def test_rfc8032_ed25519_vector():
    """RFC 8032, 7.1, test 2."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    assert KeySigner(key).sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_weak_or_unknown_keys_are_refused():
    for key in (ec.generate_private_key(ec.SECP224R1()), rsa.generate_private_key(65537, 1024)):
        with pytest.raises(UsageError, match="not supported"):
            KeySigner(key)
    with pytest.raises(UsageError, match="hash"):
        SIGNERS[Algorithm.P256].sign(b"", "md5")


def test_key_id_and_repr_tell_no_secret():
    signer = SIGNERS[Algorithm.ED25519]
    assert len(key_id(signer.public_key())) == 64
    assert repr(signer) == "KeySigner(ed25519)"
