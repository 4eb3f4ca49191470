"""Cosignatures of checkpoints (C2SP tlog-cosignature, Ed25519): a key, a time, and what was seen at that time."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.keys import Algorithm, Signer
from secguard.ledger.note import NoteKey, VerifierKey, check_name, read_note

__all__ = ["Cosignature", "WitnessKey", "add_cosignatures", "cosign", "cosignatures", "parse_verifier"]

_DASH = "\u2014 "
_SIGNATURE = 4 + 8 + 64
_LATEST = 253402300799
"""The last second of the year 9999: what a datetime can hold."""


@dataclass(frozen=True, slots=True)
class WitnessKey(VerifierKey):
    """A witness's public key and the name it cosigns under (type 0x04)."""

    kind = b"\x04"
    _code = "ledger.witness.key"
    _what = "a witness's"
    _hint = "name+id+base64, of signature type 4"


def parse_verifier(text: str) -> WitnessKey | NoteKey:
    """Read a verifier key of a witness (type 4) or of a log (type 1).

    Raises:
        FormatError: it is neither.
    """
    try:
        return WitnessKey.parse(text)
    except FormatError:
        return NoteKey.parse(text)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A cosignature that holds: who gave it, and when they say they did."""

    name: str
    time: datetime


def _message(text: bytes, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n".encode() + text


def cosign(text: bytes, name: str, signer: Signer, seconds: int) -> bytes:
    """Cosign a checkpoint's text; returns the signature line.

    Args:
        text: the checkpoint without its signatures.
        name: the witness's name.
        signer: its Ed25519 key.
        seconds: since 1970.

    Raises:
        UsageError: the key is of another kind.
    """
    public = signer.public_key()
    if signer.algorithm is not Algorithm.ED25519 or not isinstance(public, Ed25519PublicKey):
        raise UsageError("ledger.key.kind", f"a witness signs with Ed25519, this key is {signer.algorithm}")
    key = WitnessKey(check_name(name), public)
    blob = key.key_id + seconds.to_bytes(8, "big") + signer.sign(_message(text, seconds))
    return f"{_DASH}{name} {base64.b64encode(blob).decode()}\n".encode()


def cosignatures(note: bytes, keys: Sequence[WitnessKey], where: str = "checkpoint") -> list[Cosignature]:
    """The cosignatures of known witnesses that a checkpoint carries, the latest of each; other lines are ignored.

    Raises:
        FormatError: `ledger.checkpoint.format`: no note.
        RefusedError: `ledger.cosignature.invalid`: a line of a known key does not hold.
    """
    text, lines = read_note(note, where)
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[tuple[str, bytes], Cosignature] = {}
    for name, data in lines:
        key = known.get((name, data[:4]))
        if key is None:
            continue
        seconds = int.from_bytes(data[4:12], "big")
        try:
            if len(data) != _SIGNATURE or not 0 < seconds <= _LATEST:
                raise InvalidSignature
            key.public_key.verify(data[12:], _message(text, seconds))
        except InvalidSignature:
            raise RefusedError(
                "ledger.cosignature.invalid", f"the cosignature of {name} is wrong", where=where
            ) from None
        one = Cosignature(name, datetime.fromtimestamp(seconds, UTC))
        if (name, data[:4]) not in found or found[name, data[:4]].time < one.time:
            found[name, data[:4]] = one
    return sorted(found.values(), key=lambda item: item.name)


def add_cosignatures(note: bytes, lines: bytes, keys: Sequence[WitnessKey]) -> bytes:
    """Put a witness's signature lines to a checkpoint: only such as hold under `keys`, one a key, the latest.

    Args:
        note: the checkpoint with the signatures it has.
        lines: what a witness answered.
        keys: the witness's keys.

    Raises:
        FormatError: the answer is no sequence of signature lines.
        RefusedError: a line of a known key does not hold, or there is none.
    """
    text, _ = read_note(note)
    fresh = text + b"\n" + lines
    if read_note(fresh, "the witness's answer")[0] != text:
        raise FormatError("ledger.checkpoint.format", "the witness's answer is no sequence of signature lines")
    if not cosignatures(fresh, keys, "the witness's answer"):
        raise RefusedError("ledger.cosignature.none", "no cosignature of the witness's key is in its answer")
    _, offered = read_note(fresh, "the witness's answer")
    ids = {(key.name, key.key_id) for key in keys}
    newest: dict[tuple[str, bytes], bytes] = {}
    for name, data in offered:
        place = name, data[:4]
        if place in ids and (place not in newest or newest[place][4:12] < data[4:12]):
            newest[place] = data
    kept = [(name, data) for name, data in read_note(note)[1] if (name, data[:4]) not in newest]
    kept += [(name, data) for (name, _), data in newest.items()]
    rows = [f"{_DASH}{name} {base64.b64encode(data).decode()}\n" for name, data in kept]
    return text + b"\n" + "".join(rows).encode()
