"""Floor 1: private keys by reference (`file:`), passphrases, signatures, and DSSE envelopes."""

from secguard.keys.dsse import Envelope, as_sealed, pae, seal, unseal
from secguard.keys.files import check_private, load_signer, save_private_key
from secguard.keys.passphrase import find_passphrase, make_passphrase
from secguard.keys.signer import (
    Algorithm,
    KeySigner,
    Signer,
    algorithm_of,
    generate,
    key_id,
    public_pem,
    verify_signature,
)

__all__ = [
    "Algorithm",
    "Envelope",
    "KeySigner",
    "Signer",
    "algorithm_of",
    "as_sealed",
    "check_private",
    "find_passphrase",
    "generate",
    "key_id",
    "load_signer",
    "make_passphrase",
    "pae",
    "public_pem",
    "save_private_key",
    "seal",
    "unseal",
    "verify_signature",
]
