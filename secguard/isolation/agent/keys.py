"""Public keys as text, the way plans and hellos carry them."""

import base64
from typing import Any

__all__ = ["parse_key", "spki"]


def spki(key: Any) -> str:
    """A public key as base64 of its SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives import serialization

    data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(data).decode()


def parse_key(text: str) -> Any:
    """The public key of `spki`'s text.

    Raises:
        FormatError: not a public key.
    """
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from secguard.core.errors import FormatError

    try:
        return load_der_public_key(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise FormatError("isolation.key.format", "not a public key") from error
