"""Fragmented MP4: the same samples, the same verdict, and nothing worse than an error from a hostile index."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import video_kit as kit
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core import Outcome, SecguardError
from secguard.video.containers.mp4 import Movie, open_movie
from secguard.video.nal import open_stream

WAYS = [
    "frag_keyframe+empty_moov",
    "frag_keyframe",  # the first GOP lies in the movie box's own tables
    "frag_every_frame+empty_moov+default_base_moof",
    "frag_keyframe+empty_moov+separate_moof",
    "dash+frag_keyframe",
    "frag_keyframe+empty_moov+omit_tfhd_offset+negative_cts_offsets",
]


def fragment(source: Path, target: Path, flags: str) -> Path:
    import av

    av.logging.set_level(av.logging.ERROR)
    with av.open(str(source)) as old, av.open(str(target), "w", format="mp4", options={"movflags": flags}) as new:
        streams: dict[int, Any] = {item.index: new.add_stream_from_template(item) for item in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


def demuxed(path: Path) -> list[tuple[int, int]]:
    import av

    with av.open(str(path)) as container:
        return [(item.dts, item.pts) for item in container.demux(video=0) if item.dts is not None]


def pictures(path: Path) -> list[bytes]:
    stream = open_stream(path)
    nals = stream.nals
    spans = zip(nals.offset[nals.vcl].tolist(), nals.end[nals.vcl].tolist(), strict=True)
    return [bytes(stream.source.data[start:end]) for start, end in spans]


@pytest.mark.parametrize("flags", WAYS)
@pytest.mark.parametrize("sound", [False, True])
def test_the_same_samples(tmp_path: Path, flags: str, sound: bool) -> None:
    source = kit.make_clip(tmp_path / "clip.mp4", frames=40, options={"bf": "2"}, sound=sound)
    path = fragment(source, tmp_path / "fragmented.mp4", flags)
    movie = open_movie(path)
    assert movie.fragmented
    assert pictures(path) == pictures(source)
    ours, before = movie.samples(movie.video), open_stream(source).samples
    assert (ours.sync == before.sync).all()
    # FFmpeg's muxer rounds some times itself, so its demuxer is the judge of what the fragments say.
    theirs = demuxed(path)
    assert np.diff(ours.dts).tolist() == np.diff([dts for dts, _ in theirs]).tolist()
    assert np.diff(ours.dts + ours.shift).tolist() == np.diff([pts for _, pts in theirs]).tolist()


@pytest.mark.parametrize("flags", WAYS)
def test_the_same_verdict(tmp_path: Path, flags: str, signed: Path, pki: kit.Pki) -> None:
    path = fragment(signed, tmp_path / "fragmented.mp4", flags)
    answer = kit.judge_clip(path, pki)
    assert answer.verdict.axes["integrity"] == "pass"
    assert answer.verdict.axes["provenance"] == "pass"
    data = bytearray(path.read_bytes())
    nals = open_stream(path).nals
    victim = int(np.flatnonzero(nals.vcl)[20])
    data[(int(nals.offset[victim]) + int(nals.end[victim])) // 2] ^= 1
    path.write_bytes(data)
    assert "video.gop.hash-mismatch" in kit.codes(kit.judge_clip(path, pki))


def decoded(path: Path) -> list[tuple[str, int, bytes]]:
    import av

    with av.open(str(path)) as container:
        return [
            (type(frame).__name__, frame.pts, np.ascontiguousarray(frame.to_ndarray()).tobytes())
            for frame in container.decode(*container.streams)
        ]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("flags", [*WAYS, "dash+global_sidx+frag_keyframe"])
def test_it_is_signed_in_place(tmp_path: Path, pki: kit.Pki, flags: str, codec: str) -> None:
    source = kit.make_clip(tmp_path / "clip.mp4", codec=codec, frames=40, sound=True)
    path = fragment(source, tmp_path / "fragmented.mp4", flags)
    done = kit.sign_clip(path, tmp_path / "out.mp4", pki.camera)
    answer = kit.judge_clip(tmp_path / "out.mp4", pki, manifest=done.manifest)
    assert answer.verdict.outcome is Outcome.PASS
    assert kit.codes(answer) == set()
    assert decoded(tmp_path / "out.mp4") == decoded(path)
    before, after = open_movie(path), open_movie(tmp_path / "out.mp4")
    assert [box.kind for box in before.boxes] == [box.kind for box in after.boxes]
    for old, new in zip(before.tracks[1:], after.tracks[1:], strict=True):
        spans = [zip(m.samples(t).offset, m.samples(t).size, strict=True) for m, t in ((before, old), (after, new))]
        for (at, size), (there, same) in zip(*spans, strict=True):
            assert before.data[at : at + size] == after.data[there : there + same]
    assert _indexed(before) == _indexed(after)


def _indexed(movie: Movie) -> list[list[bytes]]:
    """What kind of box the segment index and the random access table point to, one item a reference."""
    kinds = {box.start: box.kind for box in movie.boxes} | {len(movie.data): b"end"}
    found = []
    for box in movie.boxes:
        body = movie.data[box.body : box.end]
        if box.kind == b"sidx":
            wide = 8 if body[0] else 4
            here = box.end + int.from_bytes(body[12 + wide : 12 + 2 * wide], "big")
            places = [here]
            for at in range(16 + 2 * wide, len(body), 12):
                places.append(places[-1] + (int.from_bytes(body[at : at + 4], "big") & 0x7FFFFFFF))
            found.append([kinds[place] for place in places])
        if box.kind == b"mfra":
            assert body[4:8] == b"tfra"
            rows = int.from_bytes(body[20:24], "big")
            wide = 8 if body[8] else 4
            step = 2 * wide + 3
            assert body[16:20] == bytes(4)
            found.append(
                [
                    kinds[int.from_bytes(body[24 + row * step + wide : 24 + row * step + 2 * wide], "big")]
                    for row in range(rows)
                ]
            )
    return found


def test_a_run_of_equal_sizes_gets_sizes(tmp_path: Path, pki: kit.Pki) -> None:
    """Samples of one size: `trun` names none, `tfhd` one for all; afterwards each has its own."""
    source = kit.make_clip(tmp_path / "clip.mp4", frames=8, options={"bf": "0"})
    samples = kit.take_apart(source)
    equal = max(len(item.data) for item in samples) + 9
    padded = []
    for item in samples:
        filler = b"\x0c" + b"\xff" * (equal - len(item.data) - 6) + b"\x80"
        padded.append(item.of([*item.nals, filler]))
    same = kit.put_together(source, padded, tmp_path / "same.mp4")
    path = fragment(same, tmp_path / "fragmented.mp4", "frag_keyframe+empty_moov+default_base_moof")
    movie = open_movie(path)
    moof = next(box for box in movie.boxes if box.kind == b"moof")
    place = movie.data.find(b"trun", moof.start)
    assert not int.from_bytes(movie.data[place + 4 : place + 8], "big") & 0x200
    done = kit.sign_clip(path, tmp_path / "out.mp4", pki.camera)
    answer = kit.judge_clip(tmp_path / "out.mp4", pki, manifest=done.manifest)
    assert answer.verdict.outcome is Outcome.PASS
    assert decoded(tmp_path / "out.mp4") == decoded(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("small")
    source = kit.make_clip(folder / "clip.mp4", frames=24, sound=True)
    return fragment(source, folder / "fragmented.mp4", WAYS[0]).read_bytes()


@settings(max_examples=150)
@given(st.data())
def test_a_changed_index_never_crashes(tmp_path_factory: pytest.TempPathFactory, small: bytes, data: Any) -> None:
    boxes = [at for name in (b"tfhd", b"trun", b"tfdt", b"traf", b"trex", b"moof") for at in _all(small, name)]
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from(boxes)) + data.draw(st.integers(-4, 40))
        changed[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    path = tmp_path_factory.getbasetemp() / "changed.mp4"
    path.write_bytes(changed)
    try:
        stream = open_stream(path)
    except SecguardError:
        return
    assert (stream.nals.end <= len(changed)).all()
    assert (stream.nals.offset >= 0).all()


def _all(data: bytes, name: bytes) -> list[int]:
    found, at = [], data.find(name)
    while at >= 0:
        found.append(at)
        at = data.find(name, at + 1)
    return found
