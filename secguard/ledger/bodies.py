"""Bodies: salt and event, apart from the tree. A leaf's entry is only a commitment to them.

A file holds the bodies of one full bundle: the magic, then for each a big-endian uint32 length of the event, the salt
(16 bytes) and the event's bytes. A pruned body is the length 0xFFFFFFFF alone, so that its bytes are really gone
while all others, and every proof, stay valid.
"""

import hashlib
import hmac
import struct
from collections.abc import Collection, Sequence
from pathlib import Path

from secguard.core.errors import FormatError
from secguard.core.files import atomic_write
from secguard.ledger.tiles import BUNDLE

__all__ = ["SALT_SIZE", "commit", "commit_many", "leaf_hashes", "pack_bodies", "prune_bodies", "unpack_bodies"]

SALT_SIZE = 16
"""Bytes of a salt: 128 fresh random bits an event, so that a deleted body cannot be guessed back."""
_MAGIC = b"SGB1"
_PRUNED = b"\xff\xff\xff\xff"
_MAX_BODY = 1 << 16
_INNER = bytes(x ^ 0x36 for x in range(256))
_OUTER = bytes(x ^ 0x5C for x in range(256))
_INNER_PAD = b"\x36" * (64 - SALT_SIZE)
_OUTER_PAD = b"\x5c" * (64 - SALT_SIZE)
_sha256 = hashlib.sha256


def commit(salt: bytes, body: bytes) -> bytes:
    """A leaf's entry: HMAC-SHA256 with the salt as key over the event's bytes (RFC 2104)."""
    return hmac.digest(salt, body, "sha256")


def commit_many(salts: bytes, bodies: Sequence[bytes]) -> list[bytes]:
    """`commit` over columns: joined 16-byte salts and as many bodies; two SHA-256 calls each, no HMAC object."""
    sha, inner_pad, outer_pad = _sha256, _INNER_PAD, _OUTER_PAD
    inner, outer = salts.translate(_INNER), salts.translate(_OUTER)
    return [
        sha(outer[at : at + 16] + outer_pad + sha(inner[at : at + 16] + inner_pad + body).digest()).digest()
        for at, body in zip(range(0, len(salts), 16), bodies, strict=True)
    ]


def leaf_hashes(commitments: Sequence[bytes]) -> bytes:
    """The joined RFC 6962 leaf hashes of commitments."""
    sha = _sha256
    return b"".join([sha(b"\x00" + entry).digest() for entry in commitments])


def pack_bodies(salts: bytes, bodies: Sequence[bytes]) -> bytes:
    """The content of a body file."""
    pack = struct.Struct(">I").pack
    parts = [_MAGIC]
    for at, body in zip(range(0, len(salts), SALT_SIZE), bodies, strict=True):
        parts += (pack(len(body)), salts[at : at + SALT_SIZE], body)
    return b"".join(parts)


def unpack_bodies(data: bytes, where: str = "") -> tuple[bytes, list[bytes | None]]:
    """Read a body file into columns: joined salts (zeros where pruned) and bodies (None where pruned).

    Raises:
        FormatError: `ledger.body.format`, with the byte at which it stops making sense.
    """
    salts = bytearray()
    bodies: list[bytes | None] = []
    at, end = len(_MAGIC), len(data)
    if data[:at] != _MAGIC:
        raise FormatError("ledger.body.format", "not a body file", where=f"{where} byte 0")
    for _ in range(BUNDLE):
        mark = data[at : at + 4]
        if mark == _PRUNED:
            salts += bytes(SALT_SIZE)
            bodies.append(None)
            at += 4
            continue
        length = int.from_bytes(mark, "big")
        stop = at + 4 + SALT_SIZE + length
        if len(mark) < 4 or length > _MAX_BODY or stop > end:
            raise FormatError("ledger.body.format", "a body's length is wrong", where=f"{where} byte {at}")
        salts += data[at + 4 : at + 20]
        bodies.append(data[at + 20 : stop])
        at = stop
    if at != end:
        raise FormatError("ledger.body.format", "bytes after the last body", where=f"{where} byte {at}")
    return bytes(salts), bodies


def prune_bodies(path: Path, slots: Collection[int]) -> int:
    """Delete the bodies in the given slots (0-255) of a body file; the rest is untouched.

    Returns:
        How many were still there.

    Raises:
        FormatError: the file is damaged.
        SystemPartError: it cannot be written; then nothing was deleted.
    """
    salts, bodies = unpack_bodies(path.read_bytes(), str(path))
    parts = [_MAGIC]
    gone = 0
    for slot, body in enumerate(bodies):
        if body is None or slot in slots:
            gone += body is not None
            parts.append(_PRUNED)
        else:
            parts += (len(body).to_bytes(4, "big"), salts[slot * SALT_SIZE : (slot + 1) * SALT_SIZE], body)
    atomic_write(path, b"".join(parts), mode=0o640)
    return gone
