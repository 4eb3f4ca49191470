"""The body of an add-checkpoint request (C2SP tlog-witness): an old size, a consistency proof, a checkpoint."""

import base64
import binascii
from collections.abc import Sequence
from typing import NamedTuple

from secguard.core.errors import FormatError
from secguard.ledger.note import MAX_NOTE

__all__ = ["MAX_REQUEST", "Submission", "format_request", "parse_request", "parse_size"]

_MAX_PROOF = 63
MAX_REQUEST = MAX_NOTE + _MAX_PROOF * 46 + 64
"""Bytes of a request."""


class Submission(NamedTuple):
    """A checkpoint, and the proof that it continues the tree of `old` leaves."""

    old: int
    proof: list[bytes]
    note: bytes


def format_request(old: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """The body of a request."""
    lines = [f"old {old}", *(base64.b64encode(item).decode() for item in proof), "", ""]
    return "\n".join(lines).encode() + note


def parse_size(text: bytes) -> int:
    """A tree size as a decimal without leading zeroes.

    Raises:
        ValueError: it is none.
    """
    if not text.isdigit() or len(text) > 19 or str(int(text)).encode() != text:
        raise ValueError("not a size")
    return int(text)


def _bad(reason: str) -> FormatError:
    return FormatError("ledger.witness.request", f"not an add-checkpoint request: {reason}")


def parse_request(data: bytes) -> Submission:
    """Read the body of a request; the checkpoint itself is not looked at.

    Raises:
        FormatError: `ledger.witness.request`.
    """
    if len(data) > MAX_REQUEST:
        raise _bad(f"longer than {MAX_REQUEST} bytes")
    head, found, note = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    if not found or not first.startswith(b"old "):
        raise _bad("it does not begin with the old size and end its proof with an empty line")
    if len(lines) > _MAX_PROOF:
        raise _bad(f"more than {_MAX_PROOF} hashes")
    try:
        old = parse_size(first.removeprefix(b"old "))
    except ValueError:
        raise _bad("the old size is no number") from None
    proof = []
    for line in lines:
        try:
            value = base64.b64decode(line, validate=True)
        except (binascii.Error, ValueError):
            value = b""
        if len(value) != 32 or base64.b64encode(value) != line:
            raise _bad("a hash of the proof is not base64 of 32 bytes")
        proof.append(value)
    return Submission(old, proof, note)
