"""Paths as C2SP tlog-tiles writes them, bundles, and body files."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core.errors import FormatError
from secguard.ledger.bodies import commit, commit_many, pack_bodies, prune_bodies, unpack_bodies
from secguard.ledger.tiles import (
    bundle_path,
    format_number,
    needed_tiles,
    pack_bundle,
    parse_number,
    parse_path,
    tile_path,
    unpack_bundle,
)


def test_paths() -> None:
    assert format_number(1234067) == "x001/x234/067"
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(1, 1234067, 17) == "tile/1/x001/x234/067.p/17"
    assert bundle_path(999, 112) == "tile/entries/999.p/112"
    assert bundle_path(1000) == "tile/entries/x001/000"


@given(st.integers(0, 10**15), st.integers(0, 63), st.integers(1, 256))
def test_paths_are_read_back(number: int, level: int, width: int) -> None:
    assert parse_number(format_number(number)) == number
    assert parse_path(tile_path(level, number, width)) == (level, number, width)
    assert parse_path(bundle_path(number, width)) == (-1, number, width)


@pytest.mark.parametrize(
    "text",
    ["", "tile", "tile/0", "tile/0/0", "tile/0/x000/000", "tile/x/000", "tile/0/000.p/256", "tile/0/000.p/0",
     "tile/0/000.p/01", "tile/0/../000", "tile/entries/٠٠٠", "other/0/000", "tile/0/000.p/"],
)  # fmt: skip
def test_strange_paths(text: str) -> None:
    assert parse_path(text) is None


def test_tiles_of_size_70000() -> None:
    found = list(needed_tiles(70000))
    assert sum(level == 0 and width == 256 for level, _, width in found) == 273
    assert [item for item in found if item[2] < 256] == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert (1, 0, 256) in found
    assert list(needed_tiles(0)) == []


def test_commitments_are_hmacs() -> None:
    bodies = [b"", b"x", b"y" * 64, b"z" * 5000]
    salts = bytes(range(64))
    made = commit_many(salts, bodies)
    for slot, body in enumerate(bodies):
        salt = salts[slot * 16 : slot * 16 + 16]
        assert made[slot] == commit(salt, body) == hmac.new(salt, body, "sha256").digest()


def test_bundles() -> None:
    entries = bytes(range(96))
    data = pack_bundle([entries[:32], entries[32:64], entries[64:]])
    assert pack_bundle([]) == b""
    assert data[:2] == b"\x00\x20"
    assert len(data) == 3 * 34
    assert unpack_bundle(data, 3) == entries
    for broken in (data[:-1], data + b"x", b"\x01" + data[1:]):
        with pytest.raises(FormatError):
            unpack_bundle(broken, 3)


SALTS = bytes(16 * 256)
BODIES = [b'{"id":"%d"}' % i for i in range(256)]


def test_body_files(tmp_path) -> None:
    data = pack_bodies(SALTS, BODIES)
    assert unpack_bodies(data) == (SALTS, BODIES)
    path = tmp_path / "000"
    path.write_bytes(data)
    assert prune_bodies(path, {3, 255}) == 2
    assert prune_bodies(path, {3}) == 0
    _, bodies = unpack_bodies(path.read_bytes())
    assert [slot for slot, body in enumerate(bodies) if body is None] == [3, 255]
    assert b'{"id":"3"}' not in path.read_bytes(), "a pruned body is really gone"
    assert bodies[4] == BODIES[4]


@given(st.binary(max_size=300), st.integers(0, 3000))
def test_damaged_body_files(noise: bytes, at: int) -> None:
    data = pack_bodies(SALTS, BODIES)
    for broken in (noise, b"SGB1" + noise, data[:at], data + noise + b"x"):
        with pytest.raises(FormatError) as caught:
            unpack_bodies(broken, "bodies/000")
        assert caught.value.code == "ledger.body.format"
        assert "bodies/000 byte" in caught.value.where
