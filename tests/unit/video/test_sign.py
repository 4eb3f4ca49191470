"""What signing writes, and what it refuses."""

import hashlib
import importlib
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import video_kit as kit

from secguard.core import Axis, FixedClock, Outcome, RefusedError, SecguardError, UsageError
from secguard.keys import Algorithm, generate
from secguard.trust import Purpose
from secguard.video import frame_offsets, manifest_path, sign
from secguard.video.containers.mp4 import open_movie
from secguard.video.hashing import hash_range
from secguard.video.inspection import inspect


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "1"}),
        ("libx264", {"g": "7", "bf": "3"}),
        ("libx264", {"g": "250", "slices": "4"}),
        ("libx264", {"x264-params": "open-gop=1:keyint=10:bframes=2", "aud": "1"}),
        ("libx265", {}),
        ("libx265", {"x265-params": "keyint=12:open-gop=1:bframes=4:log-level=none:pools=1"}),
        ("libx265", {"x265-params": "keyint=20:slices=2:repeat-headers=1:log-level=none:pools=1"}),
    ],
)
def test_intact_in_every_shape(tmp_path: Path, pki: kit.Pki, codec: str, options: dict[str, str]) -> None:
    source = kit.make_clip(tmp_path / "clip.mp4", codec=codec, frames=40, options=options, size=(128, 96))
    done = kit.sign_clip(source, tmp_path / "signed.mp4", pki.camera)
    answer = kit.judge_clip(tmp_path / "signed.mp4", pki, manifest=done.manifest)
    assert answer.verdict.outcome is Outcome.PASS
    assert kit.codes(answer) == set()
    assert answer.frames == 40
    assert answer.proven == answer.slices
    assert answer.valid_seis == answer.seis == done.seis


def test_long_gop_is_signed_in_parts(tmp_path: Path, pki: kit.Pki) -> None:
    source = kit.make_clip(tmp_path / "clip.mp4", frames=400, gop=400, size=(64, 64), options={"slices": "4"})
    done = kit.sign_clip(source, tmp_path / "signed.mp4", pki.camera)
    assert (done.gops, done.seis) == (1, 3)
    answer = kit.judge_clip(tmp_path / "signed.mp4", pki, manifest=done.manifest)
    assert answer.verdict.outcome is Outcome.PASS
    assert answer.timeline.gop == [1, 1, 1]
    frames = frame_offsets(tmp_path / "signed.mp4")
    path = kit.flip(tmp_path / "signed.mp4", tmp_path / "flipped.mp4", int(frames.offset[249] + frames.size[249] - 2))
    answer = kit.judge_clip(path, pki)
    assert kit.places(answer, "video.gop.hash-mismatch") == ["GOP 1, frame 250"]


@pytest.mark.parametrize("front", [False, True], ids=["index behind", "index in front"])
def test_every_other_byte_and_all_offsets_stay(tmp_path: Path, pki: kit.Pki, front: bool) -> None:
    import av

    source = kit.make_clip(tmp_path / "clip.mp4", sound=True, options={"bf": "2"})
    if front:
        with (
            av.open(str(source)) as old,
            av.open(str(tmp_path / "f.mp4"), "w", options={"movflags": "faststart"}) as new,
        ):
            table = {item: new.add_stream_from_template(item) for item in old.streams}
            for packet in old.demux():
                if packet.dts is not None:
                    packet.stream = table[packet.stream]
                    new.mux(packet)
        source = tmp_path / "f.mp4"
    kit.sign_clip(source, tmp_path / "signed.mp4", pki.camera)
    before, after = open_movie(source), open_movie(tmp_path / "signed.mp4")
    kinds = [box.kind for box in before.boxes]
    assert kinds == [box.kind for box in after.boxes]
    assert (kinds.index(b"moov") < kinds.index(b"mdat")) is front
    assert [track.handler for track in after.tracks] == ["vide", "soun"]
    for old, new in zip(before.tracks, after.tracks, strict=True):
        one, two = before.samples(old), after.samples(new)
        assert (one.dts == two.dts).all()
        assert (one.shift == two.shift).all()
        assert (one.sync == two.sync).all()
        for n in range(len(one)):
            was = before.data[int(one.offset[n]) : int(one.offset[n] + one.size[n])]
            now = after.data[int(two.offset[n]) : int(two.offset[n] + two.size[n])]
            assert now == was if old.handler == "soun" else _without_seis(now) == _without_seis(was)
    # A decoder agrees: the same pictures and the same sound.
    assert _decoded(source) == _decoded(tmp_path / "signed.mp4")
    answer = kit.judge_clip(tmp_path / "signed.mp4", pki, manifest=manifest_path(tmp_path / "signed.mp4"))
    assert answer.verdict.outcome is Outcome.PASS


def _without_seis(data: bytes) -> list[bytes]:
    sample = kit.Sample(data, 0, 0, sync=False)
    return [nal for nal in sample.nals if b"secguard" not in nal]


def _decoded(path: Path) -> list[tuple[str, int, bytes]]:
    import av

    with av.open(str(path)) as container:
        return [
            (type(frame).__name__, frame.pts, np.ascontiguousarray(frame.to_ndarray()).tobytes())
            for frame in container.decode(*container.streams)
        ]


def test_changed_sound_is_said(tmp_path: Path, pki: kit.Pki) -> None:
    source = kit.make_clip(tmp_path / "clip.mp4", sound=True)
    done = kit.sign_clip(source, tmp_path / "signed.mp4", pki.camera)
    movie = open_movie(tmp_path / "signed.mp4")
    sound = movie.samples(movie.tracks[1])
    path = kit.flip(tmp_path / "signed.mp4", tmp_path / "sound.mp4", int(sound.offset[3]) + 2)
    answer = kit.judge_clip(path, pki, manifest=done.manifest)
    assert kit.codes(answer) == {"video.file.differs"}
    assert answer.verdict.axes[Axis.CONFORMANCE] is Outcome.UNKNOWN


def test_same_input_same_output(clip: Path, tmp_path: Path, pki: kit.Pki) -> None:
    first = kit.sign_clip(clip, tmp_path / "a.mp4", pki.camera)
    second = kit.sign_clip(clip, tmp_path / "b.mp4", pki.camera)
    assert first.output_sha256 == second.output_sha256
    assert first.manifest_sha256 == second.manifest_sha256


def test_times_are_those_of_the_pictures(clip: Path, tmp_path: Path, pki: kit.Pki) -> None:
    start = kit.NOW - timedelta(hours=2)
    done = kit.sign_clip(clip, tmp_path / "signed.mp4", pki.camera, start=start)
    assert done.start == start
    assert done.end == start + timedelta(seconds=4)
    seis = inspect(tmp_path / "signed.mp4")["seis"]
    assert [row["start"] for row in seis][:2] == ["2026-10-01T06:00:00Z", "2026-10-01T06:00:00.800000Z"]
    assert seis[-1]["end"] == "2026-10-01T06:00:04Z"
    assert {row["serial"] for row in seis} == {kit.CAMERA.value}


def test_nothing_is_left_when_the_record_fails(clip: Path, tmp_path: Path, pki: kit.Pki) -> None:
    target = tmp_path / "out" / "signed.mp4"
    target.parent.mkdir()
    who = pki.camera
    signing = sign(clip, target, signer=who.signer, chain=who.chain, device=who.gbid, clock=FixedClock(kit.NOW))

    def record() -> None:
        assert len(list(target.parent.iterdir())) == 1  # the temporary file, whole
        assert not target.exists()
        raise RefusedError("test.record", "no record")

    with pytest.raises(RefusedError, match="no record"), signing:
        record()
    assert list(target.parent.iterdir()) == []


def _refused(source: Path, target: Path, pki: kit.Pki, **options: object) -> SecguardError:
    who = pki.camera
    values = {"signer": who.signer, "chain": who.chain, "device": who.gbid, "clock": FixedClock(kit.NOW)} | options
    with pytest.raises(SecguardError) as caught, sign(source, target, **values):  # type: ignore[arg-type]
        pass
    assert not list(target.parent.glob(".*.tmp"))
    return caught.value


def test_refusals(clip: Path, signed: Path, tmp_path: Path, pki: kit.Pki) -> None:
    target = tmp_path / "out.mp4"
    assert _refused(signed, target, pki).code == "video.sign.signed"
    assert _refused(clip, signed, pki).code == "video.sign.exists"
    assert _refused(clip, tmp_path / "no" / "out.mp4", pki).code == "video.sign.folder"
    assert _refused(clip, target, pki, signer=pki.other.signer).code == "video.sign.certificate"
    assert _refused(clip, target, pki, chain=[]).code == "video.sign.certificate"
    assert _refused(clip, target, pki, signer=generate(Algorithm.ED25519)).code == "video.sign.algorithm"
    assert isinstance(_refused(tmp_path / "none.mp4", target, pki), UsageError)
    damaged = kit.flip(clip, tmp_path / "damaged.mp4", int(frame_offsets(clip).offset[7]) - 4, bit=0x20)
    assert _refused(damaged, target, pki).code == "video.sign.damaged"
    assert not target.exists()


def test_frame_offsets(signed: Path) -> None:
    frames = frame_offsets(signed)
    assert len(frames) == 60
    assert frames.gop.tolist() == [n // 12 + 1 for n in range(60)]
    assert frames.leads.sum() == 5
    data = signed.read_bytes()
    assert all(data[offset] & 0x1F in {1, 5} for offset in frames.offset.tolist())
    assert sorted(frames.time.round(3).tolist()) == [round(n / 15, 3) for n in range(60)]


def test_a_failed_act_stops_reading_the_input(
    clip: Path, pki: kit.Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of the input runs in a thread: it must not outlive the act, nor keep an interrupted one waiting."""
    module = importlib.import_module("secguard.video.sign")  # the package's `sign` is the function
    told = []

    def endless(_data: object, _start: int, _end: int, *, stop: threading.Event) -> bytes:
        told.append(stop.wait(20))
        return b""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "hash_range", endless)
    monkeypatch.setattr(module, "write_edits", interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        kit.sign_clip(clip, tmp_path / "out.mp4", pki.camera)
    assert set(threading.enumerate()) == before
    assert told == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_hash_ends_when_it_is_told(clip: Path) -> None:
    stop = threading.Event()
    data = open_movie(clip).data
    whole = hash_range(data, 0, len(data), stop=stop)
    assert whole == hashlib.sha256(clip.read_bytes()).digest()
    stop.set()
    assert hash_range(data, 0, len(data), stop=stop) == hashlib.sha256(b"").digest()


def test_what_nobody_would_believe_is_not_signed(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    assert _refused(clip, target, pki, device=kit.OTHER).code == "video.sign.device"
    client = kit.leaf(pki.key, pki.root, kit.CAMERA, 7, purpose=Purpose.DEVICE)
    assert _refused(clip, target, pki, signer=client.signer, chain=client.chain).code == "video.sign.purpose"
    assert list(tmp_path.iterdir()) == []
