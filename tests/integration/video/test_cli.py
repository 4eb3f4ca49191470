"""The command line in a process: vectors, sign and verify in a workspace, errors, exit codes, reports."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import video_kit as kit
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.video import frame_offsets

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("name", ["h264", "h265"])
def test_vectors(secguard: Run, vectors: Path, name: str) -> None:
    video, root = vectors / f"test_signed_{name}.mp4", vectors / "ca.pem"
    today = secguard("video", "verify", video, "--root", root, "--json")
    assert today.returncode == 1
    then = ("--at", "2025-06-01T00:00:00Z")
    full = secguard("video", "verify", video, "--root", root, *then, "--json")
    answer = json.loads(full.stdout)
    assert full.returncode == answer["exit"] == 3
    assert answer["schema"] == "secguard.video.verify/1"
    assert answer["axes"]["integrity"] == answer["axes"]["provenance"] == "pass"
    assert answer["data"]["valid_seis"] == 5
    narrowed = secguard(
        "video", "verify", video, "--root", root, *then, "--require", "integrity", "--require", "provenance", "--json"
    )
    assert narrowed.returncode == 0
    assert json.loads(narrowed.stdout)["data"]["narrowed"] is True


def test_report(secguard: Run, signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    root, crl = tmp_path / "root.pem", tmp_path / "ca.crl"
    root.write_bytes(pki.root.public_bytes(Encoding.PEM))
    crl.write_bytes(pki.crl.public_bytes(Encoding.DER))
    frames = frame_offsets(signed)
    path = kit.flip(signed, tmp_path / "flipped.mp4", int(frames.offset[29] + frames.size[29] - 2))
    for lang, words in (("en", "Video verification"), ("zh", "视频验证")):
        report = tmp_path / f"{lang}.html"
        done = secguard(
            *("video", "verify", path, "--root", root, "--crl", crl, "--at", "2026-10-01T08:00:00Z"),
            *("--manifest", str(signed) + ".manifest.json", "--report", report, "--lang", lang),
        )
        assert done.returncode == 1, done.stderr
        assert "GOP 3, frame 30" in done.stderr
        text = report.read_text(encoding="utf-8")
        assert words in text
        assert "GOP 3" in text
    intact = secguard(
        *("video", "verify", signed, "--root", root, "--crl", crl, "--at", "2026-10-01T08:00:00Z"),
        *("--device", kit.CAMERA.value, "--json"),
    )
    assert intact.returncode == 0, intact.stdout
    assert set(json.loads(intact.stdout)["axes"].values()) == {"pass"}


def test_inspect(secguard: Run, vectors: Path) -> None:
    done = secguard("video", "inspect", vectors / "test_signed_h264.mp4", "--json")
    data = json.loads(done.stdout)["data"]
    assert done.returncode == 0
    assert (data["frames"], data["gops"], data["nals"]) == (256, 5, 261)
    assert [row["counter"] for row in data["seis"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("what", ["missing", "truncated", "text", "no root"])
def test_errors_are_one_line(secguard: Run, signed: Path, vectors: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "video.mp4"
    if what == "truncated":
        path.write_bytes(signed.read_bytes()[:9000])
    elif what == "text":
        path.write_text("no video " * 100)
    elif what == "no root":
        path.write_bytes(signed.read_bytes())
    root = () if what == "no root" else ("--root", vectors / "ca.pem")
    done = secguard("video", "verify", path, *root)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_sign_in_a_workspace(secguard: Run, clip: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert secguard("init", site).returncode == 0
    made = secguard("identity", "ca", "init", "--yes", cwd=site)
    assert made.returncode == 0, made.stderr
    issued = secguard("identity", "issue", kit.CAMERA.value, "--profile", "camera", "-o", "out", cwd=site)
    assert issued.returncode == 0, issued.stderr
    signing = ("video", "sign", clip, "signed.mp4", "--device", kit.CAMERA.value, "--case", "A-1", "--json")
    done = secguard(*signing, cwd=site)
    assert done.returncode == 0, done.stderr + done.stdout
    answer = json.loads(done.stdout)
    assert answer["receipt"]["index"] >= 0
    assert {"input_sha256", "output_sha256", "manifest_sha256", "certificate_sha256", "gops"} <= set(answer["data"])
    verified = secguard("video", "verify", "signed.mp4", "--device", kit.CAMERA.value, "--json", cwd=site)
    assert verified.returncode == 0, verified.stdout
    answer = json.loads(verified.stdout)
    assert set(answer["axes"].values()) == {"pass"}
    assert answer["data"]["device"] == kit.CAMERA.value
    assert answer["receipt"]["origin"]
    again = secguard(*signing, cwd=site)
    assert again.returncode == 2
    assert json.loads(again.stdout)["error"]["code"] == "video.sign.exists"
    frames = frame_offsets(site / "signed.mp4")
    kit.flip(site / "signed.mp4", site / "signed.mp4", int(frames.offset[29] + frames.size[29] - 2))
    broken = secguard("video", "verify", "signed.mp4", "--json", cwd=site)
    assert broken.returncode == 1
    assert [item["where"] for item in json.loads(broken.stdout)["findings"] if item["outcome"] == "fail"] == [
        "GOP 3, frame 30"
    ]


def test_full_disk_leaves_nothing(secguard: Run, clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: writing fails in the middle."""
    code = (
        "import resource,sys,signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE,(8192,8192));"
        f"sys.path.insert(0,{str(Path(kit.__file__).parent)!r});"
        "import video_kit as k; from pathlib import Path; p=k.make_pki();"
        f"k.sign_clip(Path({str(clip)!r}),Path({str(tmp_path / 'out.mp4')!r}),p.camera)"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "core.write.failed" in done.stderr or "cannot write" in done.stderr
    assert list(tmp_path.glob("*.mp4*")) + list(tmp_path.glob(".*.tmp")) == []


def test_people_see_what_is_wrong_and_a_summary(secguard: Run, pki: kit.Pki, tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(pki.root.public_bytes(Encoding.PEM))
    signed = tmp_path / "signed.mp4"
    kit.sign_clip(kit.make_clip(tmp_path / "many.mp4", gop=1, options={"g": "1"}), signed, pki.camera)
    words = ("--root", root, "--at", "2026-10-01T08:00:00Z", "--require", "integrity")
    intact = secguard("video", "verify", signed, *words)
    assert intact.returncode == 0
    assert "60 GOPs as signed" in intact.stderr
    assert intact.stderr.count("\n") < 20
    frames = frame_offsets(signed)
    path = kit.flip(signed, tmp_path / "flipped.mp4", int(frames.offset[29] + frames.size[29] - 2))
    wrong = secguard("video", "verify", path, *words)
    assert wrong.returncode == 1
    assert "60 GOPs, 1 not as signed" in wrong.stderr
    assert "59 GOPs are not listed here" in wrong.stderr
    assert "intact" not in wrong.stderr
    listed = json.loads(secguard("video", "verify", path, *words, "--json").stdout)["data"]["timeline"]
    assert len(listed) == 60


def test_unsigned_and_a_wrong_manifest(secguard: Run, clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(pki.root.public_bytes(Encoding.PEM))
    done = secguard("video", "verify", clip, "--root", root, "--json")
    assert done.returncode == 3
    assert set(json.loads(done.stdout)["axes"].values()) == {"unknown"}, "nothing passes that nobody signed"
    done = secguard("video", "verify", clip, "--root", root, "--manifest", clip)
    assert done.returncode == 2
    assert str(clip) in done.stderr
