"""Columns: a batch is byte for byte what single packets and single tokens are."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.isolation.plan.tokens import SIZE, Kind, Status, Tokens
from secguard.isolation.probes.columns import checksums, fill_columns
from secguard.isolation.probes.packets import checksum, fill
from secguard.isolation.probes.templates import template

RUN = Tokens(b"s" * 32, b"r" * 16)
YESTERDAY = Tokens(b"s" * 32, b"y" * 16)
KINDS = [
    *((kind, 4) for kind in ("udp", "syn", "syn-data", "echo", "fragment-1", "fragment-2", "gre", "ipip", "6in4")),
    *((kind, 6) for kind in ("udp", "syn", "syn-data", "echo", "fragment-1", "fragment-2", "gre", "ip6ip6")),
]


def _matrix(chance: random.Random, count: int, size: int) -> np.ndarray:
    return np.frombuffer(chance.randbytes(count * size), np.uint8).reshape(count, size)


def _compare(kind: str, family: int, seed: int, count: int) -> None:
    chance = random.Random(seed)
    form = template(kind, family)
    sources, there = _matrix(chance, count, 4), _matrix(chance, count, 16)
    # Few values, so that sums of zero and of all ones come up too.
    few = chance.choice([[0], [0, 0xFFFF], list(range(0x10000))])
    sport, dport, ident = (np.array([chance.choice(few) for _ in range(count)], np.int64) for _ in range(3))
    isn = np.array([chance.choice([0, 0xFFFFFFFF, chance.getrandbits(32)]) for _ in range(count)], np.int64)
    tokens = RUN.make_columns(Kind.PROBE, np.arange(count), 7)
    ends = {4: (sources, b"\x0a\x02\0\x02"), 16: (b"\xfd" + b"\0" * 15, there)}
    rows = fill_columns(form, count, ends, tokens, sport=sport, dport=dport, isn=isn, ident=ident, link=b"L" * 14)
    for row in range(count):
        one = {4: (sources[row].tobytes(), b"\x0a\x02\0\x02"), 16: (b"\xfd" + b"\0" * 15, there[row].tobytes())}
        ports = int(sport[row]), int(dport[row])
        wanted = fill(form, one, tokens[row].tobytes(), ports=ports, isn=int(isn[row]), ident=int(ident[row]))
        assert rows[row].tobytes() == b"L" * 14 + wanted


@given(form=st.sampled_from(KINDS), seed=st.integers(0, 2**32), count=st.integers(0, 40))
def test_a_filled_column_is_what_single_packets_are(form: tuple[str, int], seed: int, count: int) -> None:
    _compare(*form, seed, count)


@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_every_kind_fills_as_columns(kind: str, family: int) -> None:
    for seed in range(3):
        _compare(kind, family, seed, 20)


@pytest.mark.parametrize("family", [4, 6])
def test_a_udp_sum_of_zero_is_sent_as_all_ones(family: int) -> None:
    """Over all 65,536 source ports one sum is zero (RFC 768): it must not read as no sum."""
    form = template("udp", family)
    ends = {4: (b"\x0a\x01\0\x02", b"\x0a\x02\0\x02"), 16: (b"\xfd" + b"\1" * 15, b"\xfd" + b"\2" * 15)}
    token = RUN.make_columns(Kind.PROBE, np.array([1]), 1)
    rows = fill_columns(form, 65_536, ends, np.repeat(token, 65_536, 0), sport=np.arange(65_536), dport=53)
    where = next(at for at, _, _, protocol, _ in form.sums if protocol == 17)
    (row,) = np.flatnonzero((rows[:, where : where + 2] == 0xFF).all(axis=1))
    assert not (rows[:, where : where + 2] == 0).all(axis=1).any()
    assert rows[row].tobytes() == fill(form, ends, token.tobytes(), ports=(int(row), 53))


def test_link_headers_and_single_values_and_wrong_columns() -> None:
    form = template("syn", 4)
    links = np.arange(28, dtype=np.uint8).reshape(2, 14)
    rows = fill_columns(form, 2, {}, None, sport=1, dport=2, isn=3, ident=4, link=links)
    for row in range(2):
        assert rows[row].tobytes() == links[row].tobytes() + fill(form, {}, b"", ports=(1, 2), isn=3, ident=4)
    with pytest.raises(ValueError, match="token"):
        fill_columns(template("udp", 4), 2, {}, None)
    with pytest.raises(ValueError, match="broadcast"):
        fill_columns(form, 2, {}, None, sport=np.arange(3))


@given(st.binary(min_size=1, max_size=70), st.binary(min_size=1, max_size=70))
def test_checksums_are_those_of_single_packets(one: bytes, two: bytes) -> None:
    size = min(len(one), len(two))
    rows = np.frombuffer(one[:size] + two[:size], np.uint8).reshape(2, size)
    assert checksums(rows).tolist() == [checksum(one[:size]), checksum(two[:size])]


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1)), max_size=50),
    st.sampled_from(Kind),
)
def test_token_columns_are_single_tokens(pairs: list[tuple[int, int]], kind: Kind) -> None:
    cases = np.array([case for case, _ in pairs], np.int64)
    seqs = np.array([seq for _, seq in pairs], np.int64)
    rows = RUN.make_columns(kind, cases, seqs)
    assert [row.tobytes() for row in rows] == RUN.make(kind, cases.tolist(), seqs.tolist())
    opened = RUN.open_columns(rows)
    assert (opened.status == Status.GOOD).all()
    assert (opened.kind == kind).all()
    assert opened.case.tolist() == cases.tolist()
    assert opened.seq.tolist() == seqs.tolist()
    assert RUN.hint_columns(cases).tolist() == [RUN.hint(case) for case in cases.tolist()]


@given(st.integers(0, 2**32), st.integers(0, 60))
def test_opened_columns_say_what_single_ones_say(seed: int, count: int) -> None:
    """Good, forged in any byte, of another run, and random."""
    chance = random.Random(seed)
    rows = np.zeros((count, SIZE), np.uint8)
    for row in range(count):
        data = bytearray(
            chance.choice([RUN, YESTERDAY]).make(chance.choice(list(Kind)), [row], [chance.randrange(9)])[0]
        )
        if chance.random() < 0.5:
            data[chance.randrange(4, SIZE)] ^= chance.randrange(1, 256)
        rows[row] = np.frombuffer(data, np.uint8)
    opened = RUN.open_columns(rows)
    for row in range(count):
        (token,) = RUN.find(rows[row].tobytes())[:1]
        assert opened.status[row] == token.status
        assert (opened.kind[row], opened.case[row], opened.seq[row]) == (token.kind, token.case, token.seq)
