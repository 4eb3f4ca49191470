"""Sealing the folder of a recording: order, going on, crashes, locks, refusals."""

import os
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import video_kit as kit
from hypothesis import given
from hypothesis import strategies as st
from seal_kit import Acts, operator, seal_folder

from secguard.core import FixedClock, Outcome, RefusedError, SecguardError, UsageError
from secguard.video import OpenedManifest, manifest_path
from secguard.video.recording import judge_recording
from secguard.video.recording_chain import read_lines
from secguard.video.recording_files import CHAIN_NAME, list_segments, natural_key, safe_name


@pytest.fixture
def folder(clip: Path, tmp_path: Path) -> Path:
    """Three files of the same kind; sealing does not care that their pictures are the same."""
    home = tmp_path / "recording"
    home.mkdir()
    for number in (9, 10, 11):
        data = clip.read_bytes()
        (home / f"seg{number}.mp4").write_bytes(data + b"\0\0\0\x10free" + bytes([number] * 8))
    return home


def outcome(folder: Path, pki: kit.Pki) -> Outcome:
    return judge_recording(folder, pki.trust, kit.NOW).verdict.outcome


def sealed_names(folder: Path) -> list[str]:
    records = [line.record for line in read_lines(folder / CHAIN_NAME)]
    return [record.segment.name for record in records if record is not None and record.segment is not None]


def test_in_their_order_and_going_on(folder: Path, pki: kit.Pki, clip: Path) -> None:
    acts = Acts()
    done = seal_folder(folder, pki.camera, acts)
    assert [item.name for item in done.files] == ["seg9.mp4", "seg10.mp4", "seg11.mp4"]
    assert acts.kinds == ["open", "segment", "segment", "segment"]
    assert [act["file_sha256"] != "" for act in acts.all[1:]] == [True] * 3
    manifests = [OpenedManifest.read(manifest_path(folder / item.name).read_bytes()) for item in done.files]
    assert [item.manifest.sequence for item in manifests] == [1, 2, 3]
    assert [item.manifest.previous for item in manifests] == ["", *(item.sha256.hex() for item in manifests[:2])]
    assert {item.manifest.recording for item in manifests} == {done.recording}
    before = (folder / CHAIN_NAME).read_bytes()
    again = seal_folder(folder, pki.camera, acts)
    assert (again.files, again.before, len(acts.all)) == ([], 3, 4)
    assert (folder / CHAIN_NAME).read_bytes() == before
    shutil.copy(clip, folder / "seg12.mp4")
    more = seal_folder(folder, pki.camera, close=True)
    assert [(item.name, item.number) for item in more.files] == [("seg12.mp4", 4)]
    assert more.recording == done.recording
    assert (folder / CHAIN_NAME).read_bytes().startswith(before)
    assert outcome(folder, pki) is Outcome.PASS
    assert seal_folder(folder, pki.camera, close=True).closed, "closing again is no error"
    shutil.copy(clip, folder / "seg13.mp4")
    with pytest.raises(RefusedError) as caught:
        seal_folder(folder, pki.camera)
    assert caught.value.code == "video.seal.closed"


def test_by_time(folder: Path, pki: kit.Pki) -> None:
    for number, name in enumerate(("seg10.mp4", "seg11.mp4", "seg9.mp4")):
        os.utime(folder / name, (kit.NOW.timestamp() - 100 + number,) * 2)
    done = seal_folder(folder, pki.camera, order="time")
    assert [item.name for item in done.files] == ["seg10.mp4", "seg11.mp4", "seg9.mp4"]


def test_fresh_files_are_left_for_later(folder: Path, pki: kit.Pki) -> None:
    now = kit.NOW.timestamp()
    for name, age in (("seg9.mp4", 100), ("seg10.mp4", 100), ("seg11.mp4", 1)):
        os.utime(folder / name, (now - age,) * 2)
    done = seal_folder(folder, pki.camera, min_age=10, close=True, start=kit.NOW - timedelta(hours=1))
    assert (len(done.files), done.fresh, done.closed) == (2, 1, False)
    done = seal_folder(folder, pki.camera, min_age=10, heartbeat=True)
    assert done.until is not None
    assert done.until < kit.NOW - timedelta(minutes=59), "what is still written is not declared to be nothing"
    later = FixedClock(kit.NOW + timedelta(seconds=60))
    done = seal_folder(folder, pki.camera, min_age=10, heartbeat=True, clock=later)
    assert (len(done.files), done.fresh, done.until) == (1, 0, kit.NOW + timedelta(seconds=50))


class Crash(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


@pytest.mark.parametrize("at", range(1, 6))
def test_a_crash_at_any_act_is_gone_on_from(folder: Path, pki: kit.Pki, at: int) -> None:
    def record(data: Mapping[str, Any]) -> None:
        acts(data)
        if len(acts.all) == at:
            raise Crash

    acts = Acts()
    with pytest.raises(Crash):
        seal_folder(folder, pki.camera, record, close=True)
    assert len(acts.all) == at
    assert not (folder / CHAIN_NAME).exists() or len(sealed_names(folder)) == max(at - 2, 0)
    seal_folder(folder, pki.camera, close=True)
    assert sealed_names(folder) == ["seg9.mp4", "seg10.mp4", "seg11.mp4"]
    assert outcome(folder, pki) is Outcome.PASS


def test_a_crash_between_manifest_and_line_keeps_the_manifest(
    folder: Path, pki: kit.Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    import secguard.video.recording_seal as module

    real = module.write_manifest

    def write(target: Path, envelope: bytes) -> None:
        real(target, envelope)
        if target.name.startswith("seg10"):
            raise Crash

    monkeypatch.setattr(module, "write_manifest", write)
    with pytest.raises(Crash):
        seal_folder(folder, pki.camera)
    monkeypatch.undo()
    kept = manifest_path(folder / "seg10.mp4").read_bytes()
    done = seal_folder(folder, pki.camera, close=True)
    # It is this very place's manifest, so it is taken as it is.
    assert [item.adopted for item in done.files] == [True, False]
    assert manifest_path(folder / "seg10.mp4").read_bytes() == kept
    assert outcome(folder, pki) is Outcome.PASS


@pytest.mark.parametrize("lost", [1, 2, 50, -1])
def test_a_torn_last_line(folder: Path, pki: kit.Pki, lost: int) -> None:
    seal_folder(folder, pki.camera)
    path = folder / CHAIN_NAME
    data = path.read_bytes()
    last = len(data.splitlines(keepends=True)[-1])
    path.write_bytes(data[: -(last - 1 if lost == -1 else lost)])
    done = seal_folder(folder, pki.camera, close=True)
    assert len(done.notices) == 1
    assert ("completed" in done.notices[0]) == (lost == 1)
    assert sealed_names(folder) == ["seg9.mp4", "seg10.mp4", "seg11.mp4"]
    assert outcome(folder, pki) is Outcome.PASS


def test_a_broken_chain_is_not_continued(folder: Path, pki: kit.Pki) -> None:
    seal_folder(folder, pki.camera)
    path = folder / CHAIN_NAME
    data = path.read_bytes().splitlines(keepends=True)
    for broken in (data[:1] + data[2:], [data[0], b"{}\n", *data[2:]], data[1:], [*data, data[-1]], [*data, b"\n"]):
        path.write_bytes(b"".join(broken))
        with pytest.raises(RefusedError) as caught:
            seal_folder(folder, pki.camera)
        assert caught.value.code == "video.seal.chain"
        assert path.read_bytes() == b"".join(broken), "nothing is repaired that was not torn"


def test_one_sealer_at_a_time(folder: Path, pki: kit.Pki) -> None:
    def record(_: object) -> None:
        with pytest.raises(RefusedError) as caught:
            seal_folder(folder, pki.camera)
        assert caught.value.code == "video.seal.busy"

    seal_folder(folder, pki.camera, record)
    assert len(sealed_names(folder)) == 3


def test_whose_recording(folder: Path, pki: kit.Pki) -> None:
    seal_folder(folder, pki.camera, recording="gate-1")
    assert seal_folder(folder, pki.camera).recording == "gate-1"
    with pytest.raises(RefusedError) as caught:
        seal_folder(folder, pki.camera, recording="gate-2")
    assert caught.value.code == "video.seal.recording"
    with pytest.raises(RefusedError) as caught:
        seal_folder(folder, pki.other)
    assert caught.value.code == "video.seal.device"
    (folder / CHAIN_NAME).unlink()
    done = seal_folder(folder, pki.camera, recording="gate-2")
    assert [item.error for item in done.refused] == ["its manifest belongs to recording gate-1"] * 3
    with pytest.raises(UsageError):
        seal_folder(folder, pki.camera, recording="../up")


def test_a_changed_file_is_refused_and_the_rest_sealed(folder: Path, pki: kit.Pki, clip: Path) -> None:
    seal_folder(folder, pki.camera)
    with (folder / "seg10.mp4").open("ab") as file:
        file.write(b"more")
    shutil.copy(clip, folder / "seg12.mp4")
    done = seal_folder(folder, pki.camera, close=True)
    assert [item.error for item in done.files] == ["it was changed after it was sealed", ""]
    assert not done.closed
    assert done.notices == ["no heartbeat, no close: not every file could be sealed"]


def test_a_manifest_of_the_camera_is_kept(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    home = tmp_path / "recording"
    home.mkdir()
    for path in (signed, manifest_path(signed)):
        shutil.copy(path, home)
    kept = manifest_path(home / signed.name).read_bytes()
    done = seal_folder(home, operator(pki), sealed="import", device=kit.CAMERA, close=True)
    assert done.files[0].adopted
    assert manifest_path(home / signed.name).read_bytes() == kept


def test_nothing_to_seal_leaves_nothing(pki: kit.Pki, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no recording")
    done = seal_folder(tmp_path, pki.camera)
    assert done.files == []
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]
    assert seal_folder(tmp_path, pki.camera, heartbeat=True).until == kit.NOW


def test_what_is_a_segment(tmp_path: Path, clip: Path) -> None:
    for name in (
        "b10.ts",
        "b9.ts",
        ".hidden.mp4",
        "x.mp4.manifest.json",
        "notes.txt",
        "a/2.mkv",
        "a/10.mkv",
        "z/1.mp4",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"some bytes, enough")
    shutil.copy(clip, tmp_path / "named-by-nobody")
    (tmp_path / "z" / CHAIN_NAME).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list_segments(tmp_path) == ["a/2.mkv", "a/10.mkv", "b9.ts", "b10.ts", "named-by-nobody"]


@given(st.lists(st.text(max_size=30), max_size=10))
def test_any_names_can_be_sorted(values: list[str]) -> None:
    sorted(values, key=natural_key)
    for value in values:
        if safe_name(value):
            assert not Path(value).is_absolute()
            assert ".." not in Path(value).parts


def test_full_disk(folder: Path, pki: kit.Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing a line fails half way: the chain is as before, and the next run goes on."""
    import errno

    import secguard.video.recording_writer as module

    seal_folder(folder, pki.camera, names=["seg9.mp4"])
    before = (folder / CHAIN_NAME).read_bytes()
    real, calls = os.write, []

    def write(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(descriptor, data[:100])
        raise OSError(errno.ENOSPC, "full")

    class Os:
        """The module's `os`, with a full disk."""

        def __getattr__(self, name: str) -> Any:
            return write if name == "write" else getattr(os, name)

    monkeypatch.setattr(module, "os", Os())
    with pytest.raises(SecguardError, match="cannot write"):
        seal_folder(folder, pki.camera)
    monkeypatch.undo()
    assert (folder / CHAIN_NAME).read_bytes() == before
    seal_folder(folder, pki.camera)
    assert len(sealed_names(folder)) == 3
