"""A reader of C2SP tlog-tiles logs, written from the standard alone: it shares no line with what it checks.

It fetches the checkpoint, all tiles and all entries, computes every hash anew, and returns the entries.
"""

import base64
import hashlib
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def _h(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _path(number: int) -> str:
    text = f"{number:03d}"
    text = text.zfill(-(-len(text) // 3) * 3)
    groups = [text[at : at + 3] for at in range(0, len(text), 3)]
    return "/".join([*("x" + group for group in groups[:-1]), groups[-1]])


def _mth(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return _h(b"\x01" + _mth(hashes[:split]) + _mth(hashes[split:]))


def read_log(fetch: Callable[[str], bytes], vkey: str) -> list[bytes]:
    """All entries of a log; raises AssertionError where anything does not fit."""
    name, number, blob = vkey.split("+", 2)
    key = base64.b64decode(blob)
    assert key[0] == 1
    assert _h(name.encode() + b"\n" + key)[:4].hex() == number

    note = fetch("checkpoint").decode()
    text, _, tail = note.rpartition("\n\n")
    origin, size_line, root_line = text.split("\n")[:3]
    assert origin == name
    size, root = int(size_line), base64.b64decode(root_line)
    lines = [line.removeprefix("\u2014 ").split(" ") for line in tail.splitlines()]
    signature = next(
        base64.b64decode(data) for who, data in lines if who == name and base64.b64decode(data)[:4].hex() == number
    )
    Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature[4:], f"{text}\n".encode())

    entries: list[bytes] = []
    level, hashes, level_size = 0, [], size
    below: list[bytes] = []
    while level_size:
        hashes = []
        for tile in range(-(-level_size // 256)):
            width = min(256, level_size - tile * 256)
            suffix = "" if width == 256 else f".p/{width}"
            data = fetch(f"tile/{level}/{_path(tile)}{suffix}")
            assert len(data) == 32 * width
            row = [data[at : at + 32] for at in range(0, len(data), 32)]
            if level == 0:
                bundle = fetch(f"tile/entries/{_path(tile)}{suffix}")
                for leaf in row:
                    length = int.from_bytes(bundle[:2], "big")
                    entry, bundle = bundle[2 : 2 + length], bundle[2 + length :]
                    assert _h(b"\x00" + entry) == leaf
                    entries.append(entry)
                assert not bundle
            else:
                for slot, value in enumerate(row):
                    first = (tile * 256 + slot) * 256
                    assert _mth(below[first : first + 256]) == value
            hashes += row
        if level == 0:
            leaves = hashes
        below, level_size, level = hashes, level_size // 256, level + 1
    assert (_mth(leaves) if size else _h(b"")) == root
    return entries
