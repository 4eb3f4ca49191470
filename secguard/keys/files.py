"""Private keys in files: encrypted PKCS#8 (RFC 5958) in PEM, mode 0600, never half-written."""

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.core.files import atomic_write
from secguard.core.limits import MAX_PEM, read_bounded
from secguard.keys.signer import KeySigner, Signer

__all__ = ["check_private", "load_signer", "save_private_key"]


def check_private(path: Path, open_bits: int = 0o077) -> None:
    """Refuse a secret file that its group or others may read or write.

    Args:
        path: the file.
        open_bits: bits of the mode that must not be set.

    Raises:
        UsageError: if there is no such file.
        RefusedError: if the mode is too open; the hint holds the chmod to run.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError("keys.file.missing", "no such key file", where=str(path)) from None
    if stat.S_IMODE(mode) & open_bits:
        raise RefusedError(
            "keys.file.open", "others may read this secret", hint=f"run: chmod 600 {path}", where=str(path)
        )


def load_signer(reference: str, passphrase: bytes | None = None) -> Signer:
    """Open a private key by reference.

    Args:
        reference: `file:PATH` or a plain path to PKCS#8 in PEM; `pkcs11:` (RFC 7512) for a key in a token.
        passphrase: decrypts the file; None for a clear one.

    Raises:
        UsageError: no such file, an unknown reference, a missing or wrong passphrase.
        RefusedError: the file is readable by others.
        FormatError: the file holds no private key.
    """
    if reference.startswith("pkcs11:"):
        from secguard.keys.pkcs11 import open_token_key  # most keys lie in files

        return open_token_key(reference)
    path = Path(reference.removeprefix("file:"))
    check_private(path)
    data = read_bounded(path, MAX_PEM)
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in data
    if encrypted and passphrase is None:
        raise UsageError(
            "keys.passphrase.missing", "the key is encrypted", hint="give --passphrase-file FILE", where=str(path)
        )
    try:
        key = serialization.load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError) as error:
        if encrypted:
            raise UsageError(
                "keys.passphrase.wrong",
                "the passphrase does not open this key",
                hint="check --passphrase-file; a trailing newline is ignored",
                where=str(path),
            ) from error
        raise FormatError("keys.file.format", "not a private key in PEM", where=str(path)) from error
    return KeySigner(key)


def save_private_key(path: Path, signer: Signer, passphrase: bytes | None, *, overwrite: bool = False) -> str:
    """Write a key as PKCS#8, encrypted if a passphrase is given, mode 0600, and return its `file:` reference.

    Raises:
        RefusedError: if the file exists and `overwrite` is not set.
    """
    if not overwrite and os.path.lexists(path):
        raise RefusedError("keys.file.exists", "a key is there already", hint="move it away first", where=str(path))
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    data = signer.private_key().private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    atomic_write(path, data, mode=0o600)
    return f"file:{path.resolve()}"
