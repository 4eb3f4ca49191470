"""What is done to a recording is named: with and without its manifest, H.264 and H.265."""

from collections.abc import Callable
from pathlib import Path

import pytest
import video_kit as kit

from secguard.core import Axis, Outcome
from secguard.video import frame_offsets, manifest_path

Samples = list[kit.Sample]
Edit = Callable[[Samples], Samples]


def _is_sei(nal: bytes) -> bool:
    return nal[:2] == b"\x06\x05" or nal[:3] == b"\x4e\x01\x05"


def _strip(sample: kit.Sample) -> kit.Sample:
    return sample.of([nal for nal in sample.nals if not (_is_sei(nal) and b"secguard" in nal)])


@pytest.fixture(scope="session", params=["h264", "h265"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Path:
    """60 frames in 5 GOPs of 12."""
    folder = tmp_path_factory.mktemp(request.param)
    codec = "libx264" if request.param == "h264" else "libx265"
    source = kit.make_clip(folder / "clip.mp4", codec=codec, frames=60, gop=12)
    kit.sign_clip(source, folder / "signed.mp4", pki.camera)
    return folder / "signed.mp4"


def _edited(recording: Path, edit: Edit, target: Path) -> Path:
    samples = kit.take_apart(recording)
    assert [number for number, item in enumerate(samples) if item.sync] == [0, 12, 24, 36, 48]
    return kit.put_together(recording, edit(samples), target)


def test_intact(recording: Path, pki: kit.Pki) -> None:
    answer = kit.judge_clip(recording, pki, manifest=manifest_path(recording), device=kit.CAMERA)
    assert answer.verdict.outcome is Outcome.PASS
    assert set(answer.verdict.axes.values()) == {Outcome.PASS}
    assert answer.verdict.findings == () or kit.codes(answer) == set()
    assert answer.timeline.state == ["intact"] * 5
    assert answer.device == kit.CAMERA


def test_a_remux_is_no_alarm(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    path = _edited(recording, lambda s: s, tmp_path / "remuxed.mp4")
    answer = kit.judge_clip(path, pki, manifest=manifest_path(recording))
    assert answer.verdict.outcome is Outcome.PASS
    assert kit.codes(answer) == {"video.file.differs"}
    assert answer.verdict.axes[Axis.CONFORMANCE] is Outcome.UNKNOWN


def test_flipped_byte_names_gop_and_frame(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    frames = frame_offsets(recording)
    number = 30  # in GOP 3
    at = int(frames.offset[number - 1] + frames.size[number - 1] - 2)
    path = kit.flip(recording, tmp_path / "flipped.mp4", at)
    for manifest in (None, manifest_path(recording)):
        answer = kit.judge_clip(path, pki, manifest=manifest)
        assert answer.verdict.outcome is Outcome.FAIL
        assert kit.places(answer, "video.gop.hash-mismatch") == ["GOP 3, frame 30"]
        assert answer.timeline.state == ["intact", "intact", "changed", "intact", "intact"]
        assert answer.nal_status.count("N") == 1
        wrong = kit.codes(answer) - {"video.completeness.unproven", "video.presentation.unproven"}
        assert wrong == {"video.gop.hash-mismatch", "video.coverage.partial"}


def test_flipped_first_slice_blames_no_other_frame(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    frames = frame_offsets(recording)
    path = kit.flip(recording, tmp_path / "flipped.mp4", int(frames.offset[24] + frames.size[24] // 2))
    answer = kit.judge_clip(path, pki)
    assert kit.places(answer, "video.gop.hash-mismatch") == ["GOP 3, frame 25"]
    assert answer.nal_status.count("N") == 1


SEVERAL: list[tuple[str, Edit, str, str, str]] = [
    ("frame removed", lambda s: s[:16] + s[17:], "video.frame.missing", "GOP 2, after frame 16", ""),
    ("frames removed", lambda s: s[:16] + s[19:], "video.frame.missing", "GOP 2, after frame 16", ""),
    (
        "first frame removed",
        lambda s: s[:24] + s[25:],
        "video.sei.missing",
        "GOP 2, frames 13-24",
        "video.frame.missing",
    ),
    ("frame repeated", lambda s: s[:17] + s[16:], "video.frame.repeated", "GOP 2, frame 18", ""),
    ("frames swapped", lambda s: [*s[:16], s[17], s[16], *s[18:]], "video.frame.moved", "GOP 2, frame 17", ""),
    ("frame from elsewhere", lambda s: [*s[:16], s[30], *s[16:]], "video.frame.foreign", "GOP 2, frame 17", ""),
    ("GOP removed", lambda s: s[:24] + s[36:], "video.gop.missing", "GOP 3", "video.sei.missing"),
    ("two GOPs removed", lambda s: s[:12] + s[36:], "video.gop.missing", "GOP 2", "video.sei.missing"),
    ("GOP repeated", lambda s: s[:36] + s[24:], "video.gop.repeated", "GOP 3, frames 37-48", ""),
    ("GOPs swapped", lambda s: s[:24] + s[36:48] + s[24:36] + s[48:], "video.gop.moved", "GOP 4, frame 25", ""),
    (
        "SEI of a GOP removed",
        lambda s: [*s[:24], _strip(s[24]), *s[25:]],
        "video.sei.missing",
        "GOP 2, frames 13-24",
        "",
    ),
    ("begins inside a GOP", lambda s: s[17:], "video.head.cut", "GOP 1", ""),
]


@pytest.mark.parametrize("row", SEVERAL, ids=[row[0] for row in SEVERAL])
@pytest.mark.parametrize("sealed", [False, True], ids=["bare", "manifest"])
def test_edits(
    recording: Path, pki: kit.Pki, tmp_path: Path, row: tuple[str, Edit, str, str, str], sealed: bool
) -> None:
    _, edit, code, where, also = row
    path = _edited(recording, edit, tmp_path / "edited.mp4")
    answer = kit.judge_clip(path, pki, manifest=manifest_path(recording) if sealed else None)
    assert answer.verdict.outcome is Outcome.FAIL
    assert where in kit.places(answer, code)
    if also:
        assert also in kit.codes(answer)
    # Nothing else is invented: all findings that fail tell of this one edit.
    told = {code, also, "video.presentation.changed", "video.head.truncated"}
    assert {f.code for f in answer.verdict.findings if f.outcome is Outcome.FAIL} <= told


OPEN: list[tuple[str, Edit, str, str, str]] = [
    ("begins with a later GOP", lambda s: s[12:], "video.head.trimmed", "video.head.truncated", "GOP 1"),
    ("begins two GOPs later", lambda s: s[24:], "video.head.trimmed", "video.head.truncated", "GOP 2"),
    ("ends early at a GOP", lambda s: s[:36], "video.tail.unsigned", "video.tail.truncated", "GOP 4"),
    ("ends inside a GOP", lambda s: s[:41], "video.tail.unsigned", "video.tail.truncated", "GOP 4"),
    ("last frame cut", lambda s: s[:-1], "video.tail.unsigned", "video.tail.truncated", "GOP 5"),
    (
        "unsigned tail",
        lambda s: s + [_strip(x) for x in s[3:8]],
        "video.tail.unsigned",
        "video.gop.unsealed",
        "frames 61-65",
    ),
    ("all SEIs stripped", lambda s: [_strip(x) for x in s], "video.sei.none", "video.sei.removed", ""),
]


@pytest.mark.parametrize("row", OPEN, ids=[row[0] for row in OPEN])
def test_unknown_alone_fails_with_manifest(
    recording: Path, pki: kit.Pki, tmp_path: Path, row: tuple[str, Edit, str, str, str]
) -> None:
    _, edit, bare, sealed, where = row
    path = _edited(recording, edit, tmp_path / "edited.mp4")
    alone = kit.judge_clip(path, pki)
    assert alone.verdict.outcome is Outcome.UNKNOWN
    assert "missing" not in alone.timeline.state
    assert bare in kit.codes(alone)
    answer = kit.judge_clip(path, pki, manifest=manifest_path(recording))
    assert answer.verdict.outcome is Outcome.FAIL
    assert kit.places(answer, sealed) == [where]


def test_stripped_of_a_device_that_must_sign(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    path = _edited(recording, lambda s: [_strip(x) for x in s], tmp_path / "stripped.mp4")
    answer = kit.judge_clip(path, pki, must_sign=True)
    assert answer.verdict.outcome is Outcome.FAIL
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL


def test_pictures_of_a_stripped_recording_are_proven_by_its_manifest(
    recording: Path, pki: kit.Pki, tmp_path: Path
) -> None:
    path = _edited(recording, lambda s: [_strip(x) for x in s], tmp_path / "stripped.mp4")
    answer = kit.judge_clip(path, pki, manifest=manifest_path(recording))
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.FAIL
    assert answer.timeline.state == ["sealed"] * 5
    frames = frame_offsets(path)
    broken = kit.flip(path, tmp_path / "both.mp4", int(frames.offset[30] + frames.size[30] - 2))
    answer = kit.judge_clip(broken, pki, manifest=manifest_path(recording))
    assert kit.places(answer, "video.gop.manifest-mismatch") == ["GOP 3, frames 25-36"]


def test_signing_data_changed(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    data = recording.read_bytes()
    uuid = bytes.fromhex("005bc93f2d715e95ada4796f90877a6f")
    at = data.find(uuid, data.find(uuid) + 1)  # the SEI of GOP 2
    changed = kit.flip(recording, tmp_path / "changed.mp4", at + 600)  # in its certificates or lists
    answer = kit.judge_clip(changed, pki)
    assert kit.codes(answer) & {"video.sei.signature", "video.sei.malformed"}
    assert any("GOP 2" in item.where for item in answer.verdict.findings)
    garbled = kit.flip(recording, tmp_path / "garbled.mp4", at - 1)  # the payload size
    answer = kit.judge_clip(garbled, pki)
    assert "video.sei.malformed" in kit.codes(answer)
    assert kit.places(answer, "video.sei.missing") == ["GOP 2, frames 13-24"]


def test_bad_signature(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    data = recording.read_bytes()
    at = data.find(b"-----END CERTIFICATE-----")
    at = data.find(b"\x02\x19\x0c\x00", at)  # general TLV: version 2, release 25.12.0
    answer = kit.judge_clip(kit.flip(recording, tmp_path / "time.mp4", at + 8), pki)
    assert kit.places(answer, "video.sei.signature") == ["GOP 1"]
    assert kit.places(answer, "video.gop.unproven") == ["GOP 1, frames 1-12"]
    assert answer.valid_seis == 4


def test_foreign_gop_between(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    codec = "libx265" if b"hev1" in recording.read_bytes() else "libx264"
    other = kit.make_clip(tmp_path / "other.mp4", codec=codec, frames=12, seed=9, noise=40)
    extra = kit.take_apart(other)
    path = _edited(recording, lambda s: s[:24] + extra + s[24:], tmp_path / "edited.mp4")
    answer = kit.judge_clip(path, pki)
    assert kit.places(answer, "video.gop.foreign") == ["GOP 3, frames 25-36"]
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL


def test_two_recordings_of_one_camera_spliced(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    codec = "libx265" if b"hev1" in recording.read_bytes() else "libx264"
    source = kit.make_clip(tmp_path / "other.mp4", codec=codec, frames=60, gop=12, seed=9, noise=40)
    kit.sign_clip(source, tmp_path / "other-signed.mp4", pki.camera)
    other = kit.take_apart(tmp_path / "other-signed.mp4")
    path = _edited(recording, lambda s: s[:24] + other[24:], tmp_path / "edited.mp4")
    answer = kit.judge_clip(path, pki)
    assert "video.gop.link" in kit.codes(answer) or "video.sei.missing" in kit.codes(answer)
    assert answer.verdict.outcome is Outcome.FAIL


def test_signed_again_with_another_cameras_key(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    path = _edited(recording, lambda s: [_strip(x) for x in s], tmp_path / "stripped.mp4")
    kit.sign_clip(path, tmp_path / "again.mp4", pki.other)
    manifest = manifest_path(tmp_path / "again.mp4")
    answer = kit.judge_clip(tmp_path / "again.mp4", pki, manifest=manifest, device=kit.CAMERA)
    assert "video.device.mismatch" in kit.codes(answer)
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL
    # The first manifest does not fit the new signatures' camera either.
    answer = kit.judge_clip(tmp_path / "again.mp4", pki, manifest=manifest_path(recording))
    assert "video.device.mismatch" in kit.codes(answer)


def test_foreign_sei_put_in(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    codec = "libx265" if b"hev1" in recording.read_bytes() else "libx264"
    source = kit.make_clip(tmp_path / "other.mp4", codec=codec, frames=24, seed=9)
    kit.sign_clip(source, tmp_path / "other-signed.mp4", pki.other)
    seis = [nal for item in kit.take_apart(tmp_path / "other-signed.mp4") for nal in item.nals if _is_sei(nal)]
    foreign = next(nal for nal in seis if b"secguard" in nal)
    path = _edited(recording, lambda s: [*s[:30], s[30].of([foreign, *s[30].nals]), *s[31:]], tmp_path / "edited.mp4")
    answer = kit.judge_clip(path, pki)
    assert "video.sei.foreign-key" in kit.codes(answer)
    assert answer.timeline.state == ["intact"] * 5
    assert answer.verdict.outcome is Outcome.FAIL


def test_sample_damaged(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    frames = frame_offsets(recording)
    path = kit.flip(recording, tmp_path / "damaged.mp4", int(frames.offset[40]) - 4, bit=0x40)  # a length's first byte
    answer = kit.judge_clip(path, pki)
    assert "video.sample.damaged" in kit.codes(answer)
    assert any("GOP 4" in item.where for item in answer.verdict.findings)


@pytest.mark.parametrize("gop", [1, 2, 3, 4])
def test_a_changed_first_picture_of_a_still_scene_is_named_alone(tmp_path: Path, pki: kit.Pki, gop: int) -> None:
    """The shipped H.264 clip has pictures that are the same to the byte in several GOPs."""
    source = Path(__file__).parents[2] / "vectors" / "onvif" / "test_h264.mp4"
    kit.sign_clip(source, tmp_path / "signed.mp4", pki.camera)
    frames = frame_offsets(tmp_path / "signed.mp4")
    first = int((frames.gop == gop).argmax())
    changed = kit.flip(tmp_path / "signed.mp4", tmp_path / "changed.mp4", int(frames.offset[first]) + 1000)
    for manifest in (None, manifest_path(tmp_path / "signed.mp4")):
        answer = kit.judge_clip(changed, pki, manifest=manifest)
        assert kit.places(answer, "video.gop.hash-mismatch") == [f"GOP {gop}, frame {first + 1}"]
        assert not {code for code in kit.codes(answer) if code.startswith("video.frame.")}


def test_sei_of_another_recording_of_the_same_camera_put_in(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    codec = "libx265" if b"hev1" in recording.read_bytes() else "libx264"
    source = kit.make_clip(tmp_path / "other.mp4", codec=codec, frames=24, seed=9)
    kit.sign_clip(source, tmp_path / "other-signed.mp4", pki.camera)
    seis = [nal for item in kit.take_apart(tmp_path / "other-signed.mp4") for nal in item.nals if _is_sei(nal)]
    strange = [nal for nal in seis if b"secguard" in nal]
    for nal in (strange[0], strange[-1]):
        path = _edited(recording, lambda s, n=nal: [*s[:30], s[30].of([n, *s[30].nals]), *s[31:]], tmp_path / "new.mp4")
        answer = kit.judge_clip(path, pki, manifest=manifest_path(recording))
        assert "video.sei.added" in kit.codes(answer)
        assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
        assert kit.judge_clip(path, pki).verdict.outcome is not Outcome.PASS


def test_own_sei_sent_twice_is_no_addition(recording: Path, pki: kit.Pki, tmp_path: Path) -> None:
    own = next(nal for item in kit.take_apart(recording) for nal in item.nals if _is_sei(nal) and b"secguard" in nal)
    path = _edited(recording, lambda s: [*s[:30], s[30].of([own, *s[30].nals]), *s[31:]], tmp_path / "twice.mp4")
    answer = kit.judge_clip(path, pki, manifest=manifest_path(recording))
    assert "video.sei.added" not in kit.codes(answer)
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS
