"""Tokens: found anywhere, authentic or not, never of another run."""

import os

from hypothesis import given
from hypothesis import strategies as st

from secguard.isolation.plan.tokens import MAGIC, SIZE, Kind, Status, Tokens, phase_of

RUN = Tokens(b"s" * 32, b"r" * 16)
YESTERDAY = Tokens(b"s" * 32, b"y" * 16)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.binary(max_size=40).filter(lambda b: MAGIC not in b))
def test_found_wherever_it_stands(case: int, seq: int, around: bytes) -> None:
    token = RUN.make(Kind.PROBE, [case], [seq])[0]
    assert len(token) == SIZE
    found = RUN.find(around + token + around)
    assert found[0] == type(found[0])(Status.GOOD, Kind.PROBE, case, seq, len(around))


@given(st.integers(12, SIZE - 1), st.integers(1, 255))
def test_every_changed_byte_is_a_forgery(at: int, bits: int) -> None:
    token = bytearray(RUN.make(Kind.PROBE, [7], [1])[0])
    token[at] ^= bits
    assert [item.status for item in RUN.find(bytes(token))] == [Status.FORGED]


def test_another_run_is_foreign_even_with_the_same_secret() -> None:
    old = YESTERDAY.make(Kind.PROBE, [7], [1])[0]
    assert [item.status for item in RUN.find(old)] == [Status.FOREIGN]
    # Its run tag replaced by ours: it does not open under our key.
    ours = RUN.make(Kind.PROBE, [7], [1])[0][:12] + old[12:]
    assert [item.status for item in RUN.find(ours)] == [Status.FORGED]


def test_batches_are_what_single_ones_are() -> None:
    batch = RUN.make(Kind.PROBE, list(range(100)), [3] * 100)
    assert batch == [RUN.make(Kind.PROBE, [case], [3])[0] for case in range(100)]
    assert len(set(batch)) == 100


def test_a_cut_off_token_is_no_token() -> None:
    token = RUN.make(Kind.PROBE, [7], [1])[0]
    assert all(RUN.find(token[:stop]) == [] for stop in range(SIZE))


def test_many_magics_are_bounded() -> None:
    assert len(RUN.find(MAGIC * 10_000)) <= 4


def test_random_payloads_never_open() -> None:
    head = RUN.make(Kind.PROBE, [0], [0])[0][:12]
    assert all(RUN.find(head + os.urandom(16))[0].status is Status.FORGED for _ in range(2000))


def test_phases() -> None:
    assert [phase_of(seq) for seq in (0, 2, 0x100, 0x1FF, 0x200, 0x305)] == [0, 0, 1, 1, 2, 3]
