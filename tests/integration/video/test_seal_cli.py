"""`video seal` in processes: a workspace's keys, exit codes, a kill at any moment, two sealers at once."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import video_kit as kit

from secguard.core import Outcome
from secguard.video.recording import judge_recording
from secguard.video.recording_chain import read_lines
from secguard.video.recording_files import CHAIN_NAME

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def site(secguard: Run, tmp_path: Path) -> Path:
    site = tmp_path / "site"
    assert secguard("init", site).returncode == 0
    assert secguard("identity", "ca", "init", "--yes", cwd=site).returncode == 0
    issued = secguard("identity", "issue", kit.CAMERA.value, "--profile", "camera", "-o", "out", cwd=site)
    assert issued.returncode == 0, issued.stderr
    return site


def recording(clip: Path, folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"part{number + 1}.mp4").write_bytes(clip.read_bytes() + b"\0\0\0\x0cfree%04d" % number)
    return folder


def test_files_and_folders(secguard: Run, site: Path, clip: Path) -> None:
    folder = recording(clip, site / "video", 3)
    device = ("--device", kit.CAMERA.value)
    one = secguard("video", "seal", folder / "part1.mp4", *device, "--case", "A-1", "--json", cwd=site)
    assert one.returncode == 0, one.stderr + one.stdout
    answer = json.loads(one.stdout)
    assert answer["receipt"]["index"] >= 0
    assert answer["data"]["files"][0]["gops"] == 5
    assert answer["data"]["chain"] is None
    verified = secguard("video", "verify", folder / "part1.mp4", "--json", cwd=site)
    assert verified.returncode == 0, verified.stdout
    done = secguard("video", "seal", folder, *device, "--close", "--json", cwd=site)
    assert done.returncode == 0, done.stderr + done.stdout
    answer = json.loads(done.stdout)["data"]
    assert (answer["done"], answer["before"], answer["closed"]) == (3, 0, True)
    assert [row["adopted"] for row in answer["files"]] == [True, False, False]
    whole = secguard("video", "verify", folder, "--json", cwd=site)
    assert whole.returncode == 0, whole.stdout
    again = secguard("video", "seal", folder, *device, cwd=site)
    assert again.returncode == 0
    assert "0 sealed" in again.stderr + again.stdout
    with (folder / "part2.mp4").open("ab") as file:
        file.write(b"more")
    changed = secguard("video", "seal", folder, *device, "--json", cwd=site)
    assert changed.returncode == 1
    assert json.loads(changed.stdout)["data"]["refused"] == 1
    (folder / "part3.mp4").unlink()
    broken = secguard("video", "verify", folder, "--json", cwd=site)
    assert broken.returncode == 1
    assert "video.recording.missing" in broken.stdout


def test_signing_into_a_recording(secguard: Run, site: Path, clip: Path) -> None:
    (site / "out").mkdir(exist_ok=True)
    device = ("--device", kit.CAMERA.value)
    for number in (1, 2):
        words = ("video", "sign", clip, f"out/{number}.mp4", *device, "--recording", "--json")
        done = secguard(*words, cwd=site)
        assert done.returncode == 0, done.stderr + done.stdout
        assert json.loads(done.stdout)["data"]["chain"] == f"out/{CHAIN_NAME}"
    closed = json.loads(secguard("video", "seal", "out", *device, "--close", "--json", cwd=site).stdout)["data"]
    assert (closed["done"], closed["before"], closed["closed"]) == (0, 2, True)
    late = secguard("video", "sign", clip, "out/3.mp4", *device, "--recording", "--json", cwd=site)
    assert json.loads(late.stdout)["error"]["code"] == "video.seal.closed"
    assert not (site / "out" / "3.mp4").exists()
    both = secguard("video", "sign", clip, "out/4.mp4", *device, "--recording", "--manifest", "m.json", cwd=site)
    assert both.returncode == 2


def test_a_clip_across_segments_that_were_signed_into_a_recording(secguard: Run, site: Path, clip: Path) -> None:
    (site / "two").mkdir()
    device = ("--device", kit.CAMERA.value)
    for number in (0, 1):  # the clip has 60 frames, 15 a second
        begin = f"2026-10-01T08:00:0{number * 4}Z"
        words = ("video", "sign", clip, f"two/{number}.mp4", *device, "--start", begin, "--recording")
        assert secguard(*words, cwd=site).returncode == 0
    span = ("--from", "2026-10-01T08:00:02Z", "--to", "2026-10-01T08:00:06Z", "--case", "A-1", "-o", "cut.mp4")
    made = secguard("evidence", "clip", "two/0.mp4", "two/1.mp4", *span, cwd=site)
    assert made.returncode == 0, made.stderr
    judged = secguard("video", "verify", "cut.mp4", "--json", cwd=site)
    assert judged.returncode == 0, judged.stdout


def test_at_import_with_the_sites_operator(secguard: Run, site: Path, clip: Path) -> None:
    folder = recording(clip, site / "old", 2)
    (folder / "part3.dav").write_bytes(b"DHAV" + bytes(1000))
    words = ("video", "seal", folder, "--device", kit.CAMERA.value, "--at-import", "--close", "--json")
    done = secguard(*words, cwd=site)
    assert done.returncode == 0, done.stderr + done.stdout
    answer = json.loads(done.stdout)["data"]
    assert [row["container"] for row in answer["files"]] == ["mp4", "mp4", "other"]
    verified = secguard("video", "verify", folder / "part1.mp4", "--json", cwd=site)
    assert verified.returncode == 3
    found = json.loads(verified.stdout)
    wanting = {axis for axis, value in found["axes"].items() if value != "pass"}
    assert wanting == {"provenance", "coverage"}
    assert secguard("video", "verify", folder / "part3.dav", "--json", cwd=site).returncode == 3


def test_errors(secguard: Run, site: Path, clip: Path) -> None:
    shutil.copy(clip, site / "part1.mp4")
    (site / "video").mkdir()
    for words, code in (
        (("none.mp4",), "core.file.missing"),
        (("video", "video"), "video.seal.paths"),
        (("part1.mp4", "--close"), "video.seal.paths"),
        (("video", "--key", "file:x"), "video.seal.key"),
        (("part1.mp4", "video/x.mp4", "--recording", "r"), "video.seal.folders"),
    ):
        done = secguard("video", "seal", *words, "--device", kit.CAMERA.value, "--json", cwd=site)
        assert done.returncode == 2
        assert json.loads(done.stdout)["error"]["code"] == code


SEALER = """
import sys, pickle, pathlib
sys.path.insert(0, sys.argv[1])
import video_kit as kit, seal_kit
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from secguard.keys import KeySigner
home = pathlib.Path(sys.argv[2])
key = KeySigner(load_pem_private_key((home / "key").read_bytes(), None))
chain = x509.load_pem_x509_certificates((home / "chain").read_bytes())
def record(data):
    sys.stdout.write(data["act"] + "\\n")
    sys.stdout.flush()
seal_kit.seal_folder(home / "video", kit.Identity(key, chain, kit.CAMERA), record, close=True)
"""


def _process(tmp_path: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SEALER, str(Path(kit.__file__).parent), str(tmp_path)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _keys(pki: kit.Pki, tmp_path: Path) -> None:
    form = kit.serialization.PrivateFormat.PKCS8
    none = kit.serialization.NoEncryption()
    pem = kit.serialization.Encoding.PEM
    (tmp_path / "key").write_bytes(pki.camera.signer.private_key().private_bytes(pem, form, none))
    (tmp_path / "chain").write_bytes(b"".join(item.public_bytes(pem) for item in pki.camera.chain))


def test_killed_again_and_again(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    """kill -9 after each few acts; in the end every file is in the chain once, in order, and all verifies."""
    folder = recording(clip, tmp_path / "video", 12)
    _keys(pki, tmp_path)
    for acts in (1, 3, 2, 4):
        process = _process(tmp_path)
        assert process.stdout is not None
        for _ in range(acts):
            process.stdout.readline()
        time.sleep(0.001 * acts)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    process = _process(tmp_path)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    lines = [line.record for line in read_lines(folder / CHAIN_NAME)]
    names = [item.segment.name for item in lines if item is not None and item.segment is not None]
    assert names == [f"part{number + 1}.mp4" for number in range(12)]
    assert judge_recording(folder, pki.trust, kit.NOW).verdict.outcome is Outcome.PASS


def test_two_at_once(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    folder = recording(clip, tmp_path / "video", 6)
    _keys(pki, tmp_path)
    both = [_process(tmp_path) for _ in range(3)]
    for process in both:
        process.communicate(timeout=120)
    assert 0 in {process.returncode for process in both}
    assert judge_recording(folder, pki.trust, kit.NOW).verdict.outcome is Outcome.PASS
    names = [
        line.record.segment.name
        for line in read_lines(folder / CHAIN_NAME)
        if line.record is not None and line.record.segment is not None
    ]
    assert names == [f"part{number + 1}.mp4" for number in range(6)]


def test_interrupted(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    """Ctrl-C stops within a second and leaves a chain that goes on."""
    folder = recording(clip, tmp_path / "video", 12)
    _keys(pki, tmp_path)
    process = _process(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert time.monotonic() - begun < 5
    assert process.returncode != 0
    process = _process(tmp_path)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert judge_recording(folder, pki.trust, kit.NOW).verdict.outcome is Outcome.PASS
