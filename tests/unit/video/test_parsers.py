"""Bytes from outside: MP4 boxes, NAL units, SEIs; one clear error with its place, never a traceback."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import video_kit as kit
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, SecguardError, UsageError
from secguard.trust import TrustPolicy, read_certificates
from secguard.video import verify
from secguard.video.containers.mp4 import open_movie
from secguard.video.inspection import inspect
from secguard.video.match import common
from secguard.video.nal import add_prevention, open_stream, strip_prevention
from secguard.video.sei import UUID, parse
from secguard.video.signing.compose import Composer, general, hash_list, provenance


def _code(act: Callable[[], object]) -> str:
    """Code of the error that `act` raises; empty without one."""
    try:
        act()
    except SecguardError as error:
        return error.code
    return ""


BYTES = st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 255]), max_size=60).map(bytes)


@given(BYTES)
def test_emulation_prevention(data: bytes) -> None:
    escaped = add_prevention(data)
    assert strip_prevention(escaped) == data
    assert not any(escaped[at : at + 2] == b"\0\0" and escaped[at + 2] < 3 for at in range(len(escaped) - 2))


@given(
    codec=st.sampled_from(["h264", "h265"]),
    chain=BYTES,
    serial=st.text(max_size=20),
    hashes=st.integers(0, 5),
    signature=st.binary(min_size=1, max_size=72),
    counter=st.integers(0, 2**32 - 1),
    ticks=st.integers(0, 2**63),
)
def test_sei_round_trip(
    *, codec: str, chain: bytes, serial: str, hashes: int, signature: bytes, counter: int, ticks: int
) -> None:
    composer = Composer(codec, 72)
    tlvs = provenance(hash_name="sha256", algorithm=bytes(3), vendor=("", serial, "x"), chain=chain)
    tlvs += general(
        partial=False,
        start=ticks,
        end=ticks + 1,
        counter=counter,
        gop_hash=bytes(32),
        link_hash=b"\0" * 30 + b"\0\3",
        count=hashes,
    )
    signed = composer.document(tlvs + (hash_list(bytes(32 * hashes)) if hashes else b""))
    unit = composer.signed(signed, signature)
    assert not any(unit[at : at + 2] == b"\0\0" and unit[at + 2] < 3 for at in range(len(unit) - 2))
    found = parse(unit, codec)
    assert found is not None
    assert (found.counter, found.count, found.start, found.end) == (counter, hashes, ticks, ticks + 1)
    assert (found.chain, found.signature, found.hashes) == (chain, signature, bytes(32 * hashes))
    import hashlib

    assert found.digest == hashlib.sha256(signed).digest()
    # A container that took the prevention bytes out is no obstacle: the rule restores what was signed.
    plain = parse(strip_prevention(unit), codec)
    assert plain is not None
    assert plain.digest == found.digest


@given(st.binary(max_size=300), st.sampled_from(["h264", "h265"]))
def test_any_sei_bytes(body: bytes, codec: str) -> None:
    head = b"\x06\x05" if codec == "h264" else b"\x4e\x01\x05"
    for data in (body, head + body, head + bytes((min(len(body) + 16, 254),)) + UUID + body + b"\x80"):
        assert _code(lambda data=data: parse(data, codec)) in {"", "video.sei.format"}


@given(st.lists(st.lists(st.integers(0, 12), max_size=3), max_size=14))
def test_longest_common_choice(options: list[list[int]]) -> None:
    pairs = common(options)
    assert all(place in options[position] for position, place in pairs)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(pairs))
    best = [0] * 14  # longest chain that ends below each place, the plain way
    for places in options:
        new = list(best)
        for place in places:
            new[place + 1] = max(new[place + 1], max(best[: place + 1]) + 1)
        best = [max(new[: n + 1]) for n in range(14)]
    assert len(pairs) == max(best)


def test_truncated_anywhere(signed: Path, tmp_path: Path, pki: kit.Pki) -> None:
    data = signed.read_bytes()
    for length in [0, 1, 15, 16, 31, 40, 100, *range(200, len(data), 997), len(data) - 1]:
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[:length])
        with pytest.raises(FormatError) as caught:
            kit.judge_clip(path, pki)
        assert caught.value.code in {"video.container.format", "video.mp4.truncated", "video.mp4.no-index"}
        assert str(path) in caught.value.where


def test_not_a_video(tmp_path: Path, pki: kit.Pki) -> None:
    with pytest.raises(UsageError):
        open_movie(tmp_path / "none.mp4")
    with pytest.raises(SecguardError):
        open_movie(tmp_path)
    with pytest.raises(UsageError):
        open_movie(tmp_path / "x" / "y")
    text = tmp_path / "text.mp4"
    text.write_text("this is no video at all, only text" * 10)
    with pytest.raises(FormatError, match="not a video file"):
        kit.judge_clip(text, pki)


def test_other_codecs(tmp_path: Path, pki: kit.Pki) -> None:
    other = kit.make_clip(tmp_path / "mpeg4.mp4", codec="mpeg4", options={"bf": "0"})
    with pytest.raises(FormatError) as caught:
        kit.judge_clip(other, pki)
    assert caught.value.code == "video.track.none"


def _lie(signed: Path, kind: bytes, offset: int, value: int, target: Path) -> Path:
    data = bytearray(signed.read_bytes())
    box = open_movie(signed).video.tables[kind]
    data[box.body + offset : box.body + offset + 4] = value.to_bytes(4, "big")
    target.write_bytes(data)
    return target


LIES = [(b"stsz", 4), (b"stsz", 8), (b"stco", 4), (b"stco", 8), (b"stsc", 4), (b"stsc", 8), (b"stsc", 12)]
LIES += [(b"stts", 4), (b"stts", 8), (b"stss", 4), (b"stss", 8), (b"ctts", 4), (b"ctts", 8)]


@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("lie", LIES, ids=[f"{kind.decode()}+{offset}" for kind, offset in LIES])
def test_lying_tables(signed: Path, tmp_path: Path, pki: kit.Pki, lie: tuple[bytes, int], value: int) -> None:
    path = _lie(signed, *lie, value, tmp_path / "lie.mp4")
    outcomes = []
    code = _code(lambda: outcomes.append(kit.judge_clip(path, pki).verdict.outcome))
    assert code in {"video.mp4.format", "video.mp4.truncated"} or (outcomes and outcomes != ["pass"])


def test_a_million_empty_lengths(signed: Path, tmp_path: Path, pki: kit.Pki) -> None:
    """A sample full of zeros is a row of empty units: slow is allowed, endless is not."""
    samples = kit.take_apart(signed)
    samples[3] = kit.Sample(bytes(1 << 20), samples[3].delta, samples[3].shift, sync=False)
    path = kit.put_together(signed, samples, tmp_path / "zeros.mp4")
    outcomes = []
    code = _code(lambda: outcomes.append(kit.judge_clip(path, pki).verdict.outcome))
    assert code == "video.nal.too-many" or outcomes == ["fail"]


def test_mutated_files(signed: Path, hevc: Path, vectors: Path, tmp_path: Path, pki: kit.Pki) -> None:
    """Index bytes mostly, where the parsers live; SEI bytes too."""
    random_ = random.Random(7)
    path = tmp_path / "mutated.mp4"
    for source in (signed, hevc):
        data = source.read_bytes()
        moov = open_movie(source).moov
        for _ in range(60):
            changed = bytearray(data)
            for _ in range(random_.randint(1, 4)):
                at = random_.randrange(moov.start, moov.end) if random_.random() < 0.8 else random_.randrange(len(data))
                changed[at] = random_.choice([0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)])
            path.write_bytes(changed)
            for act in (lambda: kit.judge_clip(path, pki), lambda: inspect(path)):
                assert _code(act).startswith(("video.", "core.")) or _code(act) == ""


def test_nal_columns(vectors: Path) -> None:
    stream = open_stream(vectors / "test_signed_h264.mp4")
    nals, data = stream.nals, stream.source.data
    assert (np.diff(nals.sample) >= 0).all()
    for at in range(len(nals)):
        start, end = int(nals.offset[at]), int(nals.end[at])
        assert data[start] & 0x1F == nals.kind[at]
        assert data[end - 1] != 0
    assert not nals.damaged.any()
    assert verify(stream.source.path, TrustPolicy(read_certificates(vectors / "ca.pem")), kit.NOW).nals == len(nals)


@pytest.mark.parametrize("batch", [1, 700, 5000])
def test_batches_do_not_show(signed: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    whole = open_stream(signed).nals
    monkeypatch.setattr("secguard.video.nal._BATCH", batch)
    parts = open_stream(signed).nals
    for name in ("offset", "end", "sample", "kind", "vcl", "leads", "sets", "sei", "damaged"):
        assert (getattr(whole, name) == getattr(parts, name)).all()
