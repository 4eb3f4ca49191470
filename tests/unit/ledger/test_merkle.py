"""RFC 6962 trees against published vectors and against the definition written down naively."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core.errors import RefusedError, UsageError
from secguard.ledger.bodies import leaf_hashes
from secguard.ledger.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    fold,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    subtree,
    verify_consistency,
    verify_inclusion,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "ledger"
RFC = json.loads((VECTORS / "rfc6962.json").read_text())


def naive(leaves: list[bytes]) -> bytes:
    """MTH exactly as RFC 6962 section 2.1 defines it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive(leaves[:split]) + naive(leaves[split:])).digest()


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*naive_path(index, leaves[:split]), naive(leaves[split:])]
    return [*naive_path(index - split, leaves[split:]), naive(leaves[:split])]


def naive_proof(old: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [naive(leaves)]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if old <= split:
        return [*naive_proof(old, leaves[:split], whole), naive(leaves[split:])]
    return [*naive_proof(old - split, leaves[split:], False), naive(leaves[:split])]


def nodes_of(leaves: list[bytes]):
    rows = [leaf_hashes(leaves)]
    while len(rows[-1]) > 32:
        rows.append(fold(rows[-1]))

    def nodes(level: int, index: int) -> bytes:
        assert (index + 1) << level <= len(leaves), "only complete subtrees may be asked for"
        return rows[level][index * 32 : index * 32 + 32]

    return nodes


def test_rfc6962_eight_leaves() -> None:
    leaves = [bytes.fromhex(text) for text in RFC["leaves"]]
    assert len(leaves) == 8
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT
    for size, root in enumerate(RFC["roots"], 1):
        assert root_of(leaf_hashes(leaves[:size])).hex() == root
    nodes = nodes_of(leaves)
    for level, row in enumerate(RFC["nodes"]):
        for index, value in enumerate(row):
            assert nodes(level, index).hex() == value
    assert leaf_hash(leaves[0]).hex() == RFC["nodes"][0][0]
    assert node_hash(nodes(0, 0), nodes(0, 1)).hex() == RFC["nodes"][1][0]


def _values(case: dict, *names: str) -> list[bytes]:
    return [base64.b64decode(case[name] or "") for name in names]


INCLUSION = json.loads((VECTORS / "merkle_inclusion.json").read_text())
CONSISTENCY = json.loads((VECTORS / "merkle_consistency.json").read_text())


def test_vectors_are_all_there() -> None:
    assert len(INCLUSION) == len(CONSISTENCY) == 98
    assert any(case["size1"] == 0 and case["wantErr"] for case in CONSISTENCY.values())


@pytest.mark.parametrize("name", INCLUSION)
def test_published_inclusion(name: str) -> None:
    case = INCLUSION[name]
    root, leaf = _values(case, "root", "leafHash")
    proof = [base64.b64decode(item) for item in case["proof"] or []]
    if case["wantErr"]:
        with pytest.raises(RefusedError, match="inclusion proof"):
            verify_inclusion(leaf, case["leafIdx"], case["treeSize"], proof, root)
    else:
        verify_inclusion(leaf, case["leafIdx"], case["treeSize"], proof, root)


@pytest.mark.parametrize("name", CONSISTENCY)
def test_published_consistency(name: str) -> None:
    case = CONSISTENCY[name]
    old, new = _values(case, "root1", "root2")
    proof = [base64.b64decode(item) for item in case["proof"] or []]
    if case["wantErr"]:
        with pytest.raises(RefusedError, match="consistency proof"):
            verify_consistency(case["size1"], old, case["size2"], new, proof)
    else:
        verify_consistency(case["size1"], old, case["size2"], new, proof)


def test_old_size_zero_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        verify_consistency(0, EMPTY_ROOT, 1, leaf_hash(b"x"), [])
    assert caught.value.code == "ledger.consistency.invalid"
    with pytest.raises(UsageError):
        consistency_proof(nodes_of([b"x"]), 0, 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_proofs_against_the_definition(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 130))
    leaves = [i.to_bytes(4, "big") for i in range(size)]
    nodes, root = nodes_of(leaves), naive(leaves)
    assert subtree(nodes, 0, size) == root_of(leaf_hashes(leaves)) == root
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(nodes, index, size)
    assert proof == naive_path(index, leaves)
    verify_inclusion(leaf_hash(leaves[index]), index, size, proof, root)
    old = data.draw(st.integers(1, size))
    path = consistency_proof(nodes, old, size)
    assert path == naive_proof(old, leaves)
    verify_consistency(old, naive(leaves[:old]), size, root, path)

    wrong = data.draw(st.integers(0, size - 1).filter(lambda k: k != index)) if size > 1 else None
    if wrong is not None:
        with pytest.raises(RefusedError):
            verify_inclusion(leaf_hash(leaves[index]), wrong, size, proof, root)
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        broken = [*path[:at], bytes(32), *path[at + 1 :]]
        with pytest.raises(RefusedError):
            verify_consistency(old, naive(leaves[:old]), size, root, broken)


def test_every_pair_of_sizes_up_to_33() -> None:
    leaves = [bytes([i]) for i in range(33)]
    for size in range(1, 34):
        nodes, root = nodes_of(leaves[:size]), naive(leaves[:size])
        for old in range(1, size + 1):
            verify_consistency(old, naive(leaves[:old]), size, root, consistency_proof(nodes, old, size))
        for index in range(size):
            verify_inclusion(leaf_hash(leaves[index]), index, size, inclusion_proof(nodes, index, size), root)


def test_an_index_outside_is_refused() -> None:
    with pytest.raises(UsageError):
        inclusion_proof(nodes_of([b"a"]), 1, 1)
    with pytest.raises(RefusedError):
        verify_inclusion(bytes(32), -1, 1, [], bytes(32))
    with pytest.raises(RefusedError, match="too long"):
        verify_inclusion(bytes(32), 0, 1, [bytes(32)] * 65, bytes(32))
