"""DSSE v1.0.2 envelopes: a signature over the payload's stored bytes and its type; no canonical JSON needed."""

import base64
import binascii
from collections.abc import Iterable

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core.errors import FormatError
from secguard.core.limits import MAX_DOCUMENT
from secguard.keys.signer import Signer, key_id, verify_signature

__all__ = ["Envelope", "as_sealed", "pae", "seal", "unseal"]


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sig: str
    keyid: str = ""


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON envelope of DSSE (protocol.md and envelope.md of secure-systems-lab/dsse)."""

    payload: str
    payloadType: str  # noqa: N815 - the standard's name
    signatures: tuple[_Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: `DSSEv1 SP LEN(type) SP type SP LEN(body) SP body`."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, payload_type: str, signer: Signer) -> bytes:
    """Sign `payload` (kept as given) and return the envelope as one line of JSON."""
    signature = signer.sign(pae(payload_type, payload))
    envelope = Envelope(
        base64.b64encode(payload).decode(),
        payload_type,
        (_Signature(base64.b64encode(signature).decode(), key_id(signer.public_key())),),
    )
    return msgspec.json.encode(envelope) + b"\n"


def _strict(text: str) -> bytes:
    """Base64 of which no character can change without changing the bytes (RFC 4648, section 3.5)."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data) != text.encode():
        raise ValueError("bits are left over")
    return data


def unseal(data: bytes, payload_type: str, keys: Iterable[PublicKeyTypes]) -> tuple[bytes, PublicKeyTypes | None]:
    """Open an envelope and tell which of `keys` signed it.

    Args:
        data: the envelope.
        payload_type: the type the caller expects; another one is refused.
        keys: candidates; the key ID in the envelope is only a hint and never trusted.

    Returns:
        The payload bytes and the key that signed them; None if no candidate did (never use the payload then,
        except to look for the signer's certificate).

    Raises:
        FormatError: not an envelope, another payload type, or bad base64.
    """
    if len(data) > MAX_DOCUMENT:
        raise FormatError("keys.dsse.too-large", f"an envelope of more than {MAX_DOCUMENT} bytes")
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        payload = _strict(envelope.payload)
        signatures = [_strict(item.sig) for item in envelope.signatures[:16]]
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise FormatError("keys.dsse.format", "not a DSSE envelope") from error
    if envelope.payloadType != payload_type:
        raise FormatError(
            "keys.dsse.type", f"holds {envelope.payloadType[:80]!r}, expected {payload_type!r}", where="payloadType"
        )
    message = pae(payload_type, payload)
    for key in keys:
        if any(verify_signature(key, signature, message) for signature in signatures):
            return payload, key
    return payload, None


def as_sealed(data: bytes, key: PublicKeyTypes) -> bool:
    """Whether an envelope that `key` signed is byte for byte what `seal` made: DSSE signs neither key ID nor blanks."""
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    ids = [item.keyid for item in envelope.signatures]
    return ids == [key_id(key)] and msgspec.json.encode(envelope) == data.removesuffix(b"\n")
