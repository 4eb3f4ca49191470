"""What is left of a recording that is cut off is judged, and the cut has its place."""

from pathlib import Path

import pytest
import seal_kit
import video_kit as kit

from secguard.core import Axis, FormatError, Outcome
from secguard.video import manifest_path


@pytest.mark.parametrize("way", ["mkv", "fragmented.mp4", "ts", "ps"])
@pytest.mark.parametrize("share", [3, 6, 9])
def test_cut_anywhere(signed: Path, pki: kit.Pki, tmp_path: Path, way: str, share: int) -> None:
    whole = seal_kit.remux(signed, tmp_path / f"whole.{way}")
    data = whole.read_bytes()
    path = tmp_path / f"cut.{way}"
    path.write_bytes(data[: len(data) * share // 10])
    alone = kit.judge_clip(path, pki)
    assert 0 < alone.frames < 60
    assert alone.verdict.outcome is not Outcome.PASS
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.FAIL
    assert "video.tail.truncated" in kit.codes(answer)
    if way == "mkv":
        assert kit.places(alone, "video.file.cut")


def test_a_recording_that_is_cut_off_is_not_signed(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    whole = seal_kit.remux(clip, tmp_path / "whole.fragmented.mp4")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:20_000])
    from secguard.core import RefusedError

    with pytest.raises((RefusedError, FormatError)) as caught:
        kit.sign_clip(tmp_path / "cut.mp4", tmp_path / "out.mp4", pki.camera)
    assert caught.value.code in {"video.sign.damaged", "video.mp4.truncated"}
    assert not (tmp_path / "out.mp4").exists()


def test_an_index_that_is_gone_is_an_error_with_a_hint(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(signed.read_bytes()[:9000])
    with pytest.raises(FormatError) as caught:
        kit.judge_clip(tmp_path / "cut.mp4", pki)
    assert caught.value.code == "video.mp4.no-index"
    assert "copy it again" in caught.value.hint
