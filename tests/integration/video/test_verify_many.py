"""Many recordings at once, a file that shrinks while it is read, the ledger's time, the register's duty to sign."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import seal_kit
import video_kit as kit
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import FormatError
from secguard.trust import TrustPolicy
from secguard.video import frame_offsets, manifest_path
from secguard.video.stills import look
from secguard.video.workers import Job, judge_files

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def words(pki: kit.Pki, tmp_path: Path) -> list[object]:
    (tmp_path / "root.pem").write_bytes(pki.root.public_bytes(Encoding.PEM))
    (tmp_path / "ca.crl").write_bytes(pki.crl.public_bytes(Encoding.DER))
    return ["--root", tmp_path / "root.pem", "--crl", tmp_path / "ca.crl", "--at", "2026-10-01T08:00:00Z"]


@pytest.fixture
def folder(signed: Path, tmp_path: Path) -> Path:
    """Two whole recordings, a changed one, and one that is no video."""
    home = tmp_path / "recordings"
    (home / "inner").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4", "inner/c.mp4"):
        shutil.copy(signed, home / name)
        shutil.copy(manifest_path(signed), manifest_path(home / name))
    frames = frame_offsets(signed)
    kit.flip(home / "b.mp4", home / "b.mp4", int(frames.offset[29] + frames.size[29] - 2))
    (home / "d.mp4").write_text("no video at all " * 20)
    return home


def test_a_folder_streams_one_verdict_a_file(secguard: Run, folder: Path, words: list[object]) -> None:
    done = secguard("video", "verify", folder, *words, "--jobs", "2", "--jsonl")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert {Path(line["file"]).name: line["exit"] for line in lines} == {"a.mp4": 0, "b.mp4": 1, "c.mp4": 0, "d.mp4": 2}
    assert next(line for line in lines if line["exit"] == 2)["error"]["code"] == "video.container.format"


def test_one_outcome_over_all_of_them(secguard: Run, folder: Path, words: list[object], tmp_path: Path) -> None:
    report = tmp_path / "all.html"
    done = secguard("video", "verify", folder, *words, "--json", "--report", report)
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["data"]["counts"] == {"fail": 1, "unknown": 1, "pass": 2, "unreadable": 1}
    assert {item["code"] for item in answer["findings"]} >= {"video.gop.hash-mismatch", "video.file.unjudged"}
    text = report.read_text(encoding="utf-8")
    assert "b.mp4" in text
    assert "data:image/jpeg" in text
    (folder / "b.mp4").unlink()
    assert secguard("video", "verify", folder, *words).returncode == 3, "one cannot be read: nothing is passed over"
    (folder / "d.mp4").unlink()
    assert secguard("video", "verify", folder, *words).returncode == 0
    assert secguard("video", "verify", manifest_path(folder / "a.mp4"), *words).returncode == 0
    (folder / "empty").mkdir()
    assert secguard("video", "verify", folder / "empty", *words).returncode == 2


def test_a_folder_with_a_chain(secguard: Run, signed: Path, pki: kit.Pki, words: list[object], tmp_path: Path) -> None:
    home = tmp_path / "chain"
    home.mkdir()
    for number in (1, 2, 3):
        kit.sign_clip(
            kit.make_clip(tmp_path / f"in{number}.mp4", frames=24, seed=number), home / f"s{number}.mp4", pki.camera
        )
    seal_kit.seal_folder(home, pki.camera, close=True)
    done = secguard("video", "verify", home, *words, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert [item["state"] for item in answer["data"]["recordings"][0]["segments"]] == ["intact"] * 3
    (home / "s2.mp4").unlink()
    for path in (home, home / "recording.chain.jsonl"):
        done = secguard("video", "verify", path, *words, "--json")
        assert done.returncode == 1
        assert "video.recording.missing" in {item["code"] for item in json.loads(done.stdout)["findings"]}


def test_a_file_that_shrinks_while_it_is_read_is_one_error(pki: kit.Pki, signed: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.mp4"
    samples = kit.take_apart(signed)
    filler = kit.Sample(
        (60_000_000).to_bytes(4, "big") + b"\x41" + b"\x55" * 59_999_999, samples[0].delta, 0, sync=False
    )
    kit.put_together(signed, [*samples, *[filler] * 4], big)
    stop = threading.Event()

    def shrink() -> None:
        while not stop.wait(0.02):
            with big.open("r+b") as file:
                file.truncate(100_000)

    codes: set[str] = set()
    for delay in (0.02, 0.05, 0.1, 0.2):
        kit.put_together(signed, [*samples, *[filler] * 4], big)
        stop.clear()
        thread = threading.Thread(target=lambda wait=delay: (time.sleep(wait), shrink()))
        answers = judge_files([Job(big, kit.NOW), Job(signed, kit.NOW)], pki.trust)
        thread.start()
        found = list(answers)
        stop.set()
        thread.join()
        assert found[-1].verdict is not None, "the next file is judged all the same"
        codes |= {answer.error.code for answer in found if answer.error is not None}
        if "video.file.changed" in codes:
            break
    assert codes <= {"video.file.changed", "video.mp4.no-index", "video.mp4.truncated"}
    assert "video.file.changed" in codes


def test_answers_come_as_they_end(pki: kit.Pki, signed: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    jobs = [Job(signed, kit.NOW, hashed=True), Job(tmp_path / "none.mp4", kit.NOW), Job(signed, kit.NOW)]
    answers = list(
        judge_files(jobs, pki.trust, processes=2, progress=lambda done, total, _: seen.append((done, total)))
    )
    assert sorted(answer.number for answer in answers) == [0, 1, 2]
    by_number = {answer.number: answer for answer in answers}
    assert by_number[0].sha256
    assert by_number[1].error is not None
    assert by_number[2].verdict is not None
    assert by_number[2].verdict.chain[0].serial_number == 100
    assert seen[-1][0] == seen[-1][1]


def test_a_fault_in_one_file_leaves_the_others(
    pki: kit.Pki, signed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(signed, tmp_path / "bad.mp4")

    def broken(path: Path, *_: object, **__: object) -> None:
        if path.name == "bad.mp4":
            raise ZeroDivisionError
        raise FormatError("video.test", "as expected")

    monkeypatch.setattr("secguard.video.workers.verify", broken)
    jobs = [Job(tmp_path / "bad.mp4", kit.NOW), Job(signed, kit.NOW)]
    codes = [answer.error.code for answer in judge_files(jobs, pki.trust) if answer.error is not None]
    assert codes == ["video.worker.failed", "video.test"]


def test_stills_of_frames(signed: Path, hevc: Path, tmp_path: Path) -> None:
    for path in (signed, hevc, seal_kit.remux(signed, tmp_path / "still.ts")):
        found = look(path, [1, 30, 9999], [2])
        assert found.available
        assert set(found.stills) == {1, 30}
        assert all(still.jpeg.startswith(b"\xff\xd8") and not still.damaged for still in found.stills.values())
        assert found.times[2] >= 0
    samples = kit.take_apart(signed)
    samples[29] = samples[29].of([nal[:2] + bytes(8) for nal in samples[29].nals])
    broken = look(kit.put_together(signed, samples, tmp_path / "broken.mp4"), [30])
    assert not broken.stills[30].jpeg or broken.stills[30].damaged
    assert look(tmp_path / "none.mp4", [1]).stills == {}


def test_the_registers_duty_to_sign_and_the_ledgers_time(secguard: Run, clip: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert secguard("init", site).returncode == 0
    assert secguard("identity", "ca", "init", "--yes", cwd=site).returncode == 0
    assert secguard("identity", "issue", kit.CAMERA.value, "--profile", "camera", "-o", "o", cwd=site).returncode == 0
    done = secguard("video", "sign", clip, "signed.mp4", "--device", kit.CAMERA.value, cwd=site)
    assert done.returncode == 0, done.stderr
    bare = secguard("video", "verify", clip, "--device", kit.CAMERA.value, "--json", cwd=site)
    assert bare.returncode == 3
    from secguard.workspace import Workspace

    with Workspace.find(site) as ws:
        record = ws.registry.device(kit.CAMERA.value)
        assert record is not None
        with ws.registry.transaction():
            ws.registry.save([replace_record(record)])
    bare = secguard("video", "verify", clip, "--device", kit.CAMERA.value, "--json", cwd=site)
    assert bare.returncode == 1
    assert [item["outcome"] for item in json.loads(bare.stdout)["findings"] if item["code"] == "video.sei.none"] == [
        "fail"
    ]
    flagged = secguard("video", "verify", clip, "--must-sign", "--json", cwd=tmp_path)
    assert flagged.returncode == 2, "no root here"


def replace_record(record: object) -> object:
    import msgspec

    return msgspec.structs.replace(record, must_sign=True)  # type: ignore[type-var]  # a Struct, as the register gives


def test_a_claimed_time_rescues_nothing(signed: Path, pki: kit.Pki) -> None:
    from datetime import timedelta

    late = kit.NOW + timedelta(days=400)
    answer = kit.judge_clip(signed, pki, manifest=manifest_path(signed), at=late)
    assert {"trust.certificate.expired", "video.time.claimed"} <= kit.codes(answer)
    assert answer.verdict.axes["provenance"] == "fail"
    from secguard.core import Axis, TimeSource
    from secguard.video import Expectation, verify

    trust = TrustPolicy([pki.root], [pki.crl])
    then = verify(signed, trust, kit.NOW, Expectation(), source=TimeSource.LEDGER)
    assert then.verdict.axes[Axis.PROVENANCE] == "pass"


def test_the_ledger_tells_when_an_expired_certificate_signed(
    signed: Path, pki: kit.Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    from secguard.cli import video_verify

    job = Job(signed, kit.NOW + timedelta(days=400), hashed=True)
    (answer,) = judge_files([job], pki.trust)
    verifier = video_verify._Verifier(None, object(), pki.trust, judged_now=True)  # type: ignore[arg-type]  # unused here
    monkeypatch.setattr(video_verify._Verifier, "recorded", lambda _, sha256: kit.NOW if sha256 else None)
    settled = verifier.settle(answer)
    assert settled.verdict is not None
    assert settled.verdict.verdict.axes["provenance"] == "pass"
    assert "video.time.ledger" in {item.code for item in settled.verdict.verdict.findings}
    asked = video_verify._Verifier(None, object(), pki.trust, judged_now=False)  # type: ignore[arg-type]  # unused here
    assert asked.settle(replace(answer)).verdict is answer.verdict, "--at is the user's word"
