"""RFC 6962 Merkle trees (section 2.1): hashes, inclusion and consistency proofs, and how to check them.

Pure functions. Where stored hashes come from is the caller's business: a `Nodes` callback gives the root of a complete,
aligned subtree, `nodes(level, index) = MTH(D[index * 2^level : (index + 1) * 2^level])`.
"""

import hashlib
from collections.abc import Callable, Sequence

from secguard.core.errors import RefusedError, UsageError

__all__ = [
    "EMPTY_ROOT",
    "HASH_SIZE",
    "Nodes",
    "consistency_proof",
    "fold",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root_of",
    "subtree",
    "verify_consistency",
    "verify_inclusion",
]

HASH_SIZE = 32
"""Bytes of a hash (SHA-256)."""
EMPTY_ROOT = hashlib.sha256().digest()
"""The root of the tree without leaves."""
MAX_PROOF = 64
"""Hashes in the longest proof that anyone needs (sizes are below 2^63)."""

Nodes = Callable[[int, int], bytes]
"""`nodes(level, index)`: the hash of a complete subtree of 2^level leaves."""

_sha256 = hashlib.sha256


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 || entry)."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right)."""
    return _sha256(b"\x01" + left + right).digest()


def fold(row: bytes | bytearray) -> bytes:
    """One level up: hash neighbouring pairs of a row of 32-byte hashes; an odd last one is carried up as it is."""
    sha = _sha256
    end = len(row) & ~63
    up = b"".join([sha(b"\x01" + row[i : i + 64]).digest() for i in range(0, end, 64)])
    return up + bytes(row[end:])


def root_of(row: bytes | bytearray) -> bytes:
    """The Merkle tree hash over a row of 32-byte leaf (or subtree) hashes."""
    if not row:
        return EMPTY_ROOT
    while len(row) > HASH_SIZE:
        row = fold(row)
    return bytes(row)


def subtree(nodes: Nodes, start: int, stop: int) -> bytes:
    """MTH(D[start:stop]); `start` is a multiple of the largest power of two that the range needs."""
    size = stop - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return nodes(level, start >> level)
    split = start + (1 << (size - 1).bit_length() - 1)
    return node_hash(subtree(nodes, start, split), subtree(nodes, split, stop))


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, section 2.1.1: sibling hashes, leaf upwards.

    Raises:
        UsageError: `index` is not in a tree of `size` leaves.
    """
    if not 0 <= index < size:
        raise UsageError("ledger.proof.index", f"no leaf {index} in a tree of {size} leaves")
    proof: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        split = start + (1 << (stop - start - 1).bit_length() - 1)
        if index < split:
            proof.append(subtree(nodes, split, stop))
            stop = split
        else:
            proof.append(subtree(nodes, start, split))
            start = split
    proof.reverse()
    return proof


def consistency_proof(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, section 2.1.2; empty when both sizes are equal.

    Raises:
        UsageError: not 0 < old <= new.
    """
    if not 0 < old <= new:
        raise UsageError("ledger.proof.size", f"no consistency proof from size {old} to {new}")
    proof: list[bytes] = []
    start, stop, whole = 0, new, True  # whole: the old tree is exactly D[start:old] so far
    while stop != old:
        split = start + (1 << (stop - start - 1).bit_length() - 1)
        if old <= split:
            proof.append(subtree(nodes, split, stop))
            stop = split
        else:
            proof.append(subtree(nodes, start, split))
            start, whole = split, False
    if not whole:
        proof.append(subtree(nodes, start, stop))
    proof.reverse()
    return proof


def _refuse(what: str, reason: str) -> RefusedError:
    return RefusedError(f"ledger.{what}.invalid", f"the {what} proof does not hold: {reason}")


def _check_hashes(what: str, hashes: Sequence[bytes]) -> None:
    if len(hashes) > MAX_PROOF or any(len(item) != HASH_SIZE for item in hashes):
        raise _refuse(what, "it is too long, or a hash has not 32 bytes")


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (a leaf hash) is number `index` in the tree of `size` leaves and `root` (RFC 9162, 2.1.3.2).

    Raises:
        RefusedError: `ledger.inclusion.invalid`.
    """
    _check_hashes("inclusion", [leaf, root, *proof])
    if not 0 <= index < size:
        raise _refuse("inclusion", f"no leaf {index} in a tree of {size}")
    node, last, value = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise _refuse("inclusion", "it has hashes to spare")
        if node & 1 or node == last:
            value = node_hash(sibling, value)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            value = node_hash(value, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise _refuse("inclusion", "it lacks hashes")
    if value != root:
        raise _refuse("inclusion", "it leads to another root")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `new` leaves only adds to the tree of `old` leaves (RFC 9162, 2.1.4.2).

    An old size of 0 is refused: an empty tree is consistent with every tree, so the answer would mean nothing.

    Raises:
        RefusedError: `ledger.consistency.invalid`.
    """
    _check_hashes("consistency", proof)
    if old <= 0 or new < old:
        raise _refuse("consistency", f"nothing can be said from size {old} to {new}")
    if old == new:
        if proof:
            raise _refuse("consistency", "it has hashes to spare")
        if old_root != new_root:
            raise _refuse("consistency", "two roots for one size")
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise _refuse("consistency", "it lacks hashes")
    node, last = old - 1, new - 1
    while node & 1:
        node >>= 1
        last >>= 1
    before = after = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _refuse("consistency", "it has hashes to spare")
        if node & 1 or node == last:
            before = node_hash(sibling, before)
            after = node_hash(sibling, after)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            after = node_hash(after, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise _refuse("consistency", "it lacks hashes")
    if before != old_root:
        raise _refuse("consistency", "it does not lead to the old root")
    if after != new_root:
        raise _refuse("consistency", "it does not lead to the new root")
