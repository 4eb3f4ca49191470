"""Bodies: salt and event, apart from the tree. A leaf's entry is only a commitment to them.

A file holds the bodies of one full bundle: the magic, 256 lengths as big-endian uint32, 256 salts of 16 bytes, and the
events' bytes one after the other. A pruned body has the length 0xFFFFFFFF and a salt of zeros: its bytes are really
gone, while all others, and every proof, stay valid.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from secguard.core.errors import FormatError
from secguard.core.files import atomic_write
from secguard.ledger.tiles import BUNDLE

__all__ = [
    "LOST",
    "SALT_SIZE",
    "commit",
    "commit_many",
    "gone_bodies",
    "leaf_hashes",
    "pack_bodies",
    "prune_bodies",
    "unpack_bodies",
]

SALT_SIZE = 16
"""Bytes of a salt: 128 fresh random bits an event, so that a deleted body cannot be guessed back."""
_MAGIC = b"SGB1"
_PRUNED = 0xFFFFFFFF
_LENGTHS = struct.Struct(f">{BUNDLE}I")
_START = 4 + _LENGTHS.size + BUNDLE * SALT_SIZE
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
    sha, places = _sha256, range(0, len(salts), SALT_SIZE)
    left, right, left_pad, right_pad = salts.translate(_INNER), salts.translate(_OUTER), _INNER_PAD, _OUTER_PAD
    inner = [left[at : at + SALT_SIZE] + left_pad for at in places]
    outer = [right[at : at + SALT_SIZE] + right_pad for at in places]
    return [
        sha(second + sha(first + body).digest()).digest()
        for first, second, body in zip(inner, outer, bodies, strict=True)
    ]


def leaf_hashes(commitments: Sequence[bytes]) -> bytes:
    """The joined RFC 6962 leaf hashes of commitments."""
    sha = _sha256
    return b"".join([sha(b"\x00" + entry).digest() for entry in commitments])


def pack_bodies(salts: bytes, bodies: Sequence[bytes | None]) -> bytes:
    """The content of a body file; the salts of pruned bodies must be zeros."""
    lengths = [_PRUNED if body is None else len(body) for body in bodies]
    return b"".join([_MAGIC, _LENGTHS.pack(*lengths), salts, *(body for body in bodies if body)])


def unpack_bodies(data: bytes, where: str = "") -> tuple[bytes, list[bytes | None]]:
    """Read a body file into columns: joined salts (zeros where pruned) and bodies (None where pruned).

    Raises:
        FormatError: `ledger.body.format`, with the byte at which it stops making sense.
    """
    if data[:4] != _MAGIC:
        raise FormatError("ledger.body.format", "not a body file", where=f"{where} byte 0")
    if len(data) < _START:
        raise FormatError("ledger.body.format", "the file is cut off", where=f"{where} byte {len(data)}")
    lengths = _LENGTHS.unpack_from(data, 4)
    salts = data[4 + _LENGTHS.size : _START]
    pruned = [slot for slot, length in enumerate(lengths) if length == _PRUNED] if _PRUNED in lengths else []
    real = [0 if length == _PRUNED else length for length in lengths] if pruned else lengths
    if max(real) > _MAX_BODY or _START + sum(real) != len(data):
        raise FormatError("ledger.body.format", "the lengths do not add up", where=f"{where} byte 4")
    bodies: list[bytes | None] = [data[i:j] for i, j in pairwise(accumulate(real, initial=_START))]
    for slot in pruned:
        bodies[slot] = None
        at = slot * SALT_SIZE
        if any(salts[at : at + SALT_SIZE]):
            raise FormatError("ledger.body.format", "a pruned body left its salt", where=f"{where} byte {1028 + at}")
    return salts, bodies


def gone_bodies(path: Path) -> list[int]:
    """The slots of a body file whose bodies were deleted, from the head of the file and its size alone.

    Raises:
        FormatError: `ledger.body.format`: the file is not whole.
        OSError: it cannot be read, or is not there.
    """
    with path.open("rb") as file:
        head, size = file.read(4 + _LENGTHS.size), os.fstat(file.fileno()).st_size
    if len(head) < 4 + _LENGTHS.size or head[:4] != _MAGIC:
        raise FormatError("ledger.body.format", "not a body file", where=str(path))
    lengths = _LENGTHS.unpack_from(head, 4)
    gone = [slot for slot, length in enumerate(lengths) if length == _PRUNED]
    if _START + sum(lengths) - len(gone) * _PRUNED != size:
        raise FormatError("ledger.body.format", "the lengths do not add up", where=str(path))
    return gone


LOST = "restore it from a backup; `secguard ledger verify` names all that is missing"
"""What to do where a body file is gone."""


def prune_bodies(path: Path, slots: Collection[int]) -> int:
    """Delete the bodies in the given slots (0-255) of a body file; the rest is untouched.

    Returns:
        How many were still there.

    Raises:
        FormatError: the file is damaged.
        SystemPartError: it cannot be written; then nothing was deleted.
    """
    salts, bodies = unpack_bodies(path.read_bytes(), str(path))
    gone = [slot for slot, body in enumerate(bodies) if slot in slots and body is not None]
    if gone:
        kept = bytearray(salts)
        for slot in gone:
            bodies[slot] = None
            kept[slot * SALT_SIZE : (slot + 1) * SALT_SIZE] = bytes(SALT_SIZE)
        atomic_write(path, pack_bodies(bytes(kept), bodies), mode=0o640)
    return len(gone)
