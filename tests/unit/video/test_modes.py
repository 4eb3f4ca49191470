"""The modes of other signers: unsigned SEIs between, no hash lists, certificates once, slices left out, a stale end."""

from pathlib import Path

import pytest
import video_kit as kit

from secguard.core import Axis, Outcome
from secguard.video import frame_offsets


@pytest.fixture(scope="session")
def samples(clip: Path) -> list[kit.Sample]:
    return kit.take_apart(clip)


MODES = [
    {},
    {"every": 2},
    {"every": 3},
    {"low_bitrate": True},
    {"low_bitrate": True, "every": 2},
    {"certificate_sei": True},
    {"stale_end": True},
]


@pytest.mark.parametrize("mode", MODES, ids=[str(mode) for mode in MODES])
def test_no_false_alarm_and_a_change_is_placed(
    clip: Path, samples: list[kit.Sample], pki: kit.Pki, tmp_path: Path, mode: dict[str, object]
) -> None:
    made = kit.sign_samples(samples, pki.camera, **mode)  # type: ignore[arg-type]
    path = kit.put_together(clip, made, tmp_path / "signed.mp4")
    answer = kit.judge_clip(path, pki, require=(Axis.INTEGRITY, Axis.PROVENANCE))
    assert answer.verdict.outcome is Outcome.PASS
    assert answer.timeline.state == ["intact"] * 5
    assert answer.proven == answer.slices == 60
    frames = frame_offsets(path)
    broken = kit.flip(path, tmp_path / "flipped.mp4", int(frames.offset[28] + frames.size[28] - 2))
    answer = kit.judge_clip(broken, pki)
    wanted = "GOP 3, frames 25-36" if mode.get("low_bitrate") else "GOP 3, frame 29"
    assert kit.places(answer, "video.gop.hash-mismatch") == [wanted]
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL


def test_unsigned_sei_changed(clip: Path, samples: list[kit.Sample], pki: kit.Pki, tmp_path: Path) -> None:
    made = kit.sign_samples(samples, pki.camera, every=5)
    path = kit.put_together(clip, made, tmp_path / "signed.mp4")
    data = path.read_bytes()
    at = data.find(b"\x01\x18\x0c\x00", data.find(b"END CERTIFICATE"))  # general TLV of the first, unsigned SEI
    answer = kit.judge_clip(kit.flip(path, tmp_path / "edited.mp4", at + 6), pki)
    assert kit.places(answer, "video.sei.unlisted") == ["GOP 1"]
    assert "video.sei.foreign" in kit.codes(answer)
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL


def test_low_bitrate_gop_removed(clip: Path, samples: list[kit.Sample], pki: kit.Pki, tmp_path: Path) -> None:
    made = kit.sign_samples(samples, pki.camera, low_bitrate=True)
    path = kit.put_together(clip, made[:24] + made[36:], tmp_path / "edited.mp4")
    answer = kit.judge_clip(path, pki)
    assert answer.verdict.outcome is Outcome.FAIL
    assert {"video.sei.missing", "video.gop.missing"} <= kit.codes(answer)


def test_slices_that_a_signer_leaves_out_stay_unproven(tmp_path: Path, pki: kit.Pki) -> None:
    options = {"x265-params": "keyint=12:open-gop=1:bframes=4:log-level=none:pools=1"}
    source = kit.make_clip(tmp_path / "clip.mp4", codec="libx265", frames=40, options=options)
    made = kit.sign_samples(kit.take_apart(source), pki.camera, codec="h265", left_out=range(2, 10))
    path = kit.put_together(source, made, tmp_path / "signed.mp4")
    answer = kit.judge_clip(path, pki)
    assert "video.slice.uncovered" in kit.codes(answer)
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.UNKNOWN
    assert not [item for item in answer.verdict.findings if item.outcome is Outcome.FAIL]


def test_sent_twice_is_no_alarm(clip: Path, samples: list[kit.Sample], pki: kit.Pki, tmp_path: Path) -> None:
    made = kit.sign_samples(samples, pki.camera)
    again = [
        item.of([n for nal in item.nals for n in ([nal, nal] if nal[:2] == b"\x06\x05" else [nal])]) for item in made
    ]
    path = kit.put_together(clip, again, tmp_path / "signed.mp4")
    answer = kit.judge_clip(path, pki)
    assert answer.timeline.state == ["intact"] * 5
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS


def test_late_seis_are_no_alarm(clip: Path, samples: list[kit.Sample], pki: kit.Pki, tmp_path: Path) -> None:
    """A signer that is slow puts the SEI some frames later."""
    made = kit.sign_samples(samples, pki.camera)
    for at in (12, 24, 36):
        late = [nal for nal in made[at].nals if nal[:2] == b"\x06\x05" and kit.UUID in nal]
        made[at] = made[at].of([nal for nal in made[at].nals if nal not in late])
        made[at + 5] = made[at + 5].of([*late, *made[at + 5].nals])
    path = kit.put_together(clip, made, tmp_path / "signed.mp4")
    answer = kit.judge_clip(path, pki)
    assert answer.timeline.state == ["intact"] * 5
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS


@pytest.mark.parametrize("every", [1, 2])
def test_a_stale_end_covers_nothing_and_accuses_nobody(
    clip: Path, samples: list[kit.Sample], pki: kit.Pki, tmp_path: Path, every: int
) -> None:
    made = kit.sign_samples(samples, pki.camera, low_bitrate=True, stale_end=True, every=every)
    path = kit.put_together(clip, made, tmp_path / "signed.mp4")
    answer = kit.judge_clip(path, pki)
    assert "video.sei.stale-end" in kit.codes(answer)
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.UNKNOWN
    assert answer.timeline.state[:4] == ["intact"] * 4
    frames = frame_offsets(path)
    broken = kit.flip(path, tmp_path / "flipped.mp4", int(frames.offset[28] + frames.size[28] - 2))
    assert kit.judge_clip(broken, pki).verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
