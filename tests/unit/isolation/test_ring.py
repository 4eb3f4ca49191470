"""Blocks as columns: whatever is found in them is what looking at frame after frame finds."""

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secguard.isolation.plan.tokens import MAGIC, SIZE
from secguard.isolation.wire.ring import Block, _walk

_PIECE = st.sampled_from([MAGIC, MAGIC[:3], MAGIC[:1], b"\0" * SIZE, b"\x81\0\0\1", b"\x88\xa8\0\2", b"\x08\0", b"x"])
_FRAME = st.lists(_PIECE, min_size=1, max_size=20).map(b"".join)


def _block(frames: list[bytes], gap: bytes) -> Block:
    """Frames in memory as a ring holds them: with something of no meaning between them."""
    memory = gap + b"".join(frame + gap for frame in frames) + bytes(2)
    sizes = np.array([len(frame) for frame in frames], np.int64)
    starts = len(gap) + np.cumsum(sizes + len(gap)) - sizes - len(gap)
    none = np.zeros(len(frames), np.int64)
    return Block(
        np.frombuffer(memory, np.uint8),
        starts,
        sizes,
        sizes,
        none,
        none.astype(np.bool_),
        none.astype(np.int32),
        none.astype(np.uint16),
    )


def _places(frame: bytes, limit: int) -> list[int]:
    found, at = [], frame.find(MAGIC)
    while at >= 0 and len(found) < limit:
        if at + SIZE <= len(frame):
            found.append(at)
        at = frame.find(MAGIC, at + 1)
    return found


@given(
    st.lists(_FRAME, max_size=8),
    st.sampled_from([b"", b"\0", MAGIC, MAGIC[:2], MAGIC + b"\0" * SIZE]),
    st.integers(1, 4),
)
def test_marks_are_those_of_each_frame(frames: list[bytes], gap: bytes, limit: int) -> None:
    block = _block(frames, gap)
    marks = block.find(MAGIC, SIZE, limit)
    wanted = [(row, at) for row, frame in enumerate(frames) for at in _places(frame, limit)]
    assert list(zip(marks.row.tolist(), (marks.offset - block.offset[marks.row]).tolist(), strict=True)) == wanted
    for row, payload in zip(marks.row.tolist(), block.take(marks.offset, SIZE), strict=True):
        assert payload.tobytes() in frames[row]


@given(st.lists(_FRAME, max_size=8), st.sampled_from([b"", MAGIC]))
def test_network_layers_are_found_past_tags_and_never_past_the_end(frames: list[bytes], gap: bytes) -> None:
    block = _block(frames, gap)
    kinds, starts = block.network()
    for frame, kind, start in zip(frames, kinds.tolist(), (starts - block.offset).tolist(), strict=True):
        at = 12
        while at < 12 + 16 and frame[at : at + 2] in {b"\x81\0", b"\x88\xa8", b"\x91\0"}:
            at += 4
        wanted = struct.unpack_from(">H", frame, at)[0] if len(frame) >= at + 2 else 0
        assert kind == wanted
        if kind:
            assert start == at + 2


@given(st.lists(_FRAME, min_size=1, max_size=8), st.integers(1, 64))
def test_bytes_beyond_the_memory_read_as_zero(frames: list[bytes], size: int) -> None:
    block = _block(frames, b"")
    memory = block.memory.tobytes() + bytes(size)
    rows = block.take(block.offset, size)
    assert [row.tobytes() for row in rows] == [memory[at : at + size] for at in block.offset.tolist()]


@given(st.lists(st.sampled_from([80, 80, 80, 88, 200]), max_size=30), st.sampled_from([0, 4096]))
def test_frames_of_any_length_are_walked(steps: list[int], base: int) -> None:
    words = np.zeros((base + 16384) // 4, np.uint32)
    words[base // 4 + 3 : base // 4 + 5] = len(steps), 48
    at, wanted = base + 48, []
    for step in steps:
        wanted.append(at)
        words[at // 4] = step
        at += step
    if steps:
        words[wanted[-1] // 4] = 0  # the last one's distance means nothing
    assert _walk(words, base).tolist() == wanted


def test_a_block_full_of_first_bytes_costs_little_and_finds_nothing() -> None:
    block = _block([MAGIC[:1] * 9000] * 100, b"")
    assert len(block.find(MAGIC, SIZE).row) == 0
    assert len(_block([MAGIC * 2000] * 100, b"").find(MAGIC, SIZE).row) == 400
