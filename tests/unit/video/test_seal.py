"""Sealing files as they are: any container and codec, old ones at import; what it says, and what it refuses."""

import os
from pathlib import Path
from typing import Any

import pytest
import video_kit as kit
from seal_kit import Acts, operator, remux, seal_one, sealer_of

from secguard.core import Axis, FixedClock, Outcome, RefusedError, SecguardError, UsageError
from secguard.video import OpenedManifest, manifest_path
from secguard.video.recording_seal import seal_files

CONTAINERS = ["mp4", "mkv", "ts", "ps", "h264", "fragmented.mp4"]


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("source", ["plain", "signed"])
def test_every_container_has_its_gops(signed: Path, pki: kit.Pki, tmp_path: Path, kind: str, source: str) -> None:
    path = remux(signed if source == "signed" else signed.with_name("clip.mp4"), tmp_path / f"clip.{kind}")
    acts = Acts()
    sealed = seal_one(path, pki.camera, acts)
    assert not sealed.note
    content = OpenedManifest.read(Path(sealed.manifest).read_bytes()).manifest
    assert content.frames == sum(content.gops.frames) == 60
    assert len(content.gops.times) == len(content.gops.sets) == 5
    if source == "signed" and kind in {"mp4", "mkv"}:
        assert (content.seis, content.first_counter, content.last_counter) == (5, 1, 5)
    assert acts.kinds == ["segment"]
    assert acts.all[0]["manifest_sha256"]
    answer = kit.judge_clip(path, pki, manifest=Path(sealed.manifest))
    assert kit.codes(answer) - {"video.coverage.partial"} == set() or source == "signed"
    if source == "plain":
        assert answer.verdict.outcome is Outcome.PASS
        assert answer.timeline.state == ["sealed"] * 5


@pytest.mark.parametrize("kind", ["mp4", "ts", "ps", "h264"])
def test_changed_after_sealing(clip: Path, pki: kit.Pki, tmp_path: Path, kind: str) -> None:
    path = remux(clip, tmp_path / f"clip.{kind}")
    sealed = seal_one(path, pki.camera)
    changed = kit.flip(path, path, path.stat().st_size // 2)
    answer = kit.judge_clip(changed, pki, manifest=Path(sealed.manifest))
    assert answer.verdict.outcome is Outcome.FAIL


def test_a_file_of_any_kind_is_sealed_as_a_whole(pki: kit.Pki, tmp_path: Path) -> None:
    for name, data in (("old.dav", b"DHAV" + os.urandom(5000)), ("tiny.bin", b"x"), ("empty.avi", b"")):
        path = tmp_path / name
        path.write_bytes(data)
        sealed = seal_one(path, pki.camera)
        assert sealed.container == "other"
        assert sealed.note
        manifest = Path(sealed.manifest)
        answer = kit.judge_clip(path, pki, manifest=manifest)
        assert answer.verdict.outcome is Outcome.PASS
        assert answer.codec == "other"
        path.write_bytes(data + b"y")
        answer = kit.judge_clip(path, pki, manifest=manifest)
        assert "video.file.changed" in kit.codes(answer)
        assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
        assert answer.verdict.axes[Axis.COMPLETENESS] is answer.verdict.axes[Axis.PRESENTATION] is Outcome.UNKNOWN


def test_another_codec_is_sealed_as_a_whole(pki: kit.Pki, tmp_path: Path) -> None:
    path = kit.make_clip(tmp_path / "old.mp4", codec="mpeg4", frames=10)
    sealed = seal_one(path, pki.camera)
    assert sealed.container == "other"
    assert "no H.264 or H.265 track" in sealed.note
    assert kit.judge_clip(path, pki, manifest=Path(sealed.manifest)).verdict.outcome is Outcome.PASS


def test_sealed_at_import_says_who_when_and_what_is_not_known(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    path = remux(clip, tmp_path / "old.mp4")
    person = operator(pki)
    sealed = seal_one(path, person, sealed="import", device=kit.CAMERA)
    answer = kit.judge_clip(path, pki, manifest=Path(sealed.manifest), device=kit.CAMERA)
    told = [item for item in answer.verdict.findings if item.code == "video.manifest.imported"]
    assert told[0].data["by"] == "auditor"
    assert told[0].data["time"].startswith("2026-10-01T08:00:00")
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.UNKNOWN
    rest = (Axis.INTEGRITY, Axis.COMPLETENESS, Axis.PRESENTATION)
    assert {answer.verdict.axes[axis] for axis in rest} == {Outcome.PASS}
    assert answer.verdict.outcome is Outcome.UNKNOWN
    must = kit.judge_clip(path, pki, manifest=Path(sealed.manifest), must_sign=True)
    assert "video.sei.none" in kit.codes(must)
    assert must.verdict.outcome is Outcome.FAIL
    other = kit.judge_clip(path, pki, manifest=Path(sealed.manifest), device=kit.OTHER)
    assert "video.device.mismatch" in kit.codes(other)


def test_a_signed_recording_sealed_at_import_keeps_its_camera(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    path = tmp_path / "copy.mp4"
    path.write_bytes(signed.read_bytes())
    sealed = seal_one(path, operator(pki), sealed="import", device=kit.CAMERA)
    answer = kit.judge_clip(path, pki, manifest=Path(sealed.manifest), device=kit.CAMERA)
    assert kit.codes(answer) == {"video.manifest.imported"}
    assert answer.device == kit.CAMERA
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS


def test_a_manifest_cannot_call_itself_otherwise(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    """An operator's key makes no camera's manifest, a camera's none at import."""
    import msgspec

    path = remux(clip, tmp_path / "old.mp4")
    for who, kind, lie in ((operator(pki), "import", "recording"), (pki.camera, "recording", "import")):
        sealed = seal_one(path, who, sealed=kind, device=kit.CAMERA)
        content = OpenedManifest.read(Path(sealed.manifest).read_bytes()).manifest
        lied = msgspec.structs.replace(content, sealed=lie).seal(who.signer)
        answer = kit.judge_clip(path, pki, manifest=lied)
        assert "video.manifest.unbelieved" in kit.codes(answer)
        assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL
        manifest_path(path).unlink()


def test_keys_that_nobody_would_believe(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    path = remux(clip, tmp_path / "old.mp4")
    person = operator(pki)
    cases: list[tuple[Any, str, Any, type[SecguardError], str]] = [
        (person, "recording", kit.CAMERA, RefusedError, "video.seal.purpose"),
        (pki.camera, "import", kit.CAMERA, RefusedError, "video.seal.purpose"),
        (pki.other, "recording", kit.CAMERA, RefusedError, "video.seal.device"),
        (
            kit.Identity(pki.other.signer, pki.camera.chain, kit.CAMERA),
            "recording",
            kit.CAMERA,
            UsageError,
            "video.seal.certificate",
        ),
    ]
    for who, kind, device, error, code in cases:
        with pytest.raises(error) as caught:
            seal_one(path, who, sealed=kind, device=device)
        assert caught.value.code == code
    assert not manifest_path(path).exists()


def test_sealing_again_does_nothing(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    path = remux(clip, tmp_path / "old.mp4")
    sealed = seal_one(path, pki.camera)
    before = Path(sealed.manifest).read_bytes()
    acts = Acts()
    again = seal_files([path], device=kit.CAMERA, sealer=sealer_of(pki.camera), clock=FixedClock(kit.NOW), record=acts)
    assert (again.before, again.files, acts.all) == (1, [], [])
    assert Path(sealed.manifest).read_bytes() == before
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(RefusedError, match="not the file that its manifest sealed"):
        seal_one(path, pki.camera)
    Path(sealed.manifest).write_bytes(before.replace(b"payload", b"daolyap"))
    with pytest.raises(SecguardError):
        seal_one(path, pki.camera)


def test_a_refused_record_releases_nothing(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    path = remux(clip, tmp_path / "old.mp4")

    def refuse(_: object) -> None:
        raise RefusedError("ledger.full", "no")

    with pytest.raises(RefusedError, match="no"):
        seal_one(path, pki.camera, refuse)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["old.mp4"]


def test_no_file_a_folder_a_pipe(pki: kit.Pki, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "none.mp4", tmp_path, tmp_path / "pipe.mp4"):
        with pytest.raises(UsageError):
            seal_one(path, pki.camera)


def test_a_file_that_grows_is_not_sealed(
    clip: Path, pki: kit.Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import secguard.video.seal as module

    path = remux(clip, tmp_path / "old.mp4")
    real = module.gops_of

    def grow(*values: Any) -> Any:
        with path.open("ab") as file:
            file.write(b"more")
        return real(*values)

    monkeypatch.setattr(module, "gops_of", grow)
    with pytest.raises(RefusedError) as caught:
        seal_one(path, pki.camera)
    assert caught.value.code == "video.seal.growing"
    assert not manifest_path(path).exists()


def test_times_say_who_claims_them(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    path = remux(clip, tmp_path / "old.mp4")
    os.utime(path, (1_790_000_000, 1_790_000_000))
    sealed = seal_one(path, pki.camera)
    content = OpenedManifest.read(Path(sealed.manifest).read_bytes()).manifest
    assert content.time_source == "file"
    assert content.end == "2026-09-21T14:13:20Z"
    Path(sealed.manifest).unlink()
    sealed = seal_one(path, pki.camera, start=datetime(2026, 9, 1, tzinfo=UTC))
    content = OpenedManifest.read(Path(sealed.manifest).read_bytes()).manifest
    assert (content.time_source, content.start, content.end) == (
        "claimed",
        "2026-09-01T00:00:00Z",
        "2026-09-01T00:00:04Z",
    )
