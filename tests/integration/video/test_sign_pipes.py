"""Signing from and into pipes, larger than memory, and with the options of the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import video_kit as kit
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secguard.core import Outcome

Run = Callable[..., subprocess.CompletedProcess[str]]
PROGRAM = [sys.executable, "-m", "secguard"]


@pytest.fixture
def site(secguard: Run, pki: kit.Pki, tmp_path: Path) -> Path:
    """A workspace, and beside it the camera's key and chain."""
    place = tmp_path / "site"
    assert secguard("init", place).returncode == 0
    key = pki.camera.signer.private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (place / "key.pem").write_bytes(key)
    (place / "key.pem").chmod(0o600)
    (place / "chain.pem").write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in pki.camera.chain))
    return place


WORDS = (
    "--device",
    kit.CAMERA.value,
    "--key",
    "file:key.pem",
    "--chain",
    "chain.pem",
    "--start",
    "2026-10-01T07:00:00Z",
)


def test_through_pipes(site: Path, clip: Path, pki: kit.Pki) -> None:
    words = [*PROGRAM, "video", "sign", "-", "-", *WORDS, "--manifest", "clip.manifest"]
    with clip.open("rb") as source:
        done = subprocess.run(words, cwd=site, stdin=source, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (site / "clip.mp4").write_bytes(done.stdout)
    answer = kit.judge_clip(site / "clip.mp4", pki, manifest=site / "clip.manifest")
    assert answer.verdict.outcome is Outcome.PASS
    assert kit.codes(answer) == set()
    kit.sign_clip(clip, site / "direct.mp4", pki.camera, start=kit.NOW.replace(hour=7))
    assert (site / "direct.mp4").read_bytes() == done.stdout


def test_a_reader_that_goes_away_gets_no_manifest(site: Path, pki: kit.Pki) -> None:
    clip = kit.make_clip(site / "clip.mp4", frames=200, size=(320, 240), noise=230, options={"qp": "10"})
    assert clip.stat().st_size > 1 << 20
    words = [*PROGRAM, "video", "sign", str(clip), "-", *WORDS, "--manifest", "clip.manifest"]
    with subprocess.Popen(words, cwd=site, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(1000)
        running.stdout.close()
        said = running.stderr.read().decode()
        assert running.wait(60) == 2
    assert said.count("error: ") == 1
    assert "video.sign.pipe" in said or "went away" in said
    assert "Traceback" not in said
    assert not (site / "clip.manifest").exists()


def test_what_a_pipe_needs(secguard: Run, site: Path, clip: Path) -> None:
    done = secguard("video", "sign", clip, "-", *WORDS, cwd=site)
    assert done.returncode == 2
    assert "--manifest" in done.stderr
    done = secguard("video", "sign", clip, "-", *WORDS, "--manifest", "m", "--json", cwd=site)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "video.sign.output"
    empty = subprocess.run(
        [*PROGRAM, "video", "sign", "-", "out.mp4", *WORDS],
        cwd=site,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert empty.returncode == 2
    assert "nothing came" in empty.stderr


def test_modes_on_the_command_line(secguard: Run, site: Path, clip: Path, pki: kit.Pki) -> None:
    mode = ("--hash", "sha384", "--every", "2", "--partial", "7", "--certificate-sei", "--low-bitrate")
    vendor = ("--prevention-after", "--firmware", "9.1", "--serial", "S-1", "--manufacturer", "Maker")
    done = secguard("video", "sign", clip, "out.mp4", *WORDS, *mode, *vendor, "--json", cwd=site)
    assert done.returncode == 0, done.stderr
    answer = kit.judge_clip(site / "out.mp4", pki, manifest=site / "out.mp4.manifest.json")
    assert answer.verdict.outcome is Outcome.PASS
    assert (site / "out.mp4").read_bytes().count(b"BEGIN CERTIFICATE") == 1
    wrong = secguard("video", "sign", clip, "other.mp4", *WORDS, "--every", "0", cwd=site)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


def large(path: Path, seed: Path, size: int) -> None:
    """A recording of many bytes: each frame is one slice of 1 MB, most of them one byte again and again."""
    shape = kit.take_apart(seed)[0]
    body = bytes(range(1, 256)) * 4112
    with path.open("wb") as file:
        count = size // len(body)
        small = [kit.Sample(b"", shape.delta, 0, sync=n % 50 == 0) for n in range(count)]
        kit.put_together(seed, [item.of([b"\x65\x88" + bytes([n % 251 + 1])]) for n, item in enumerate(small)], path)
        head = path.read_bytes()
        at = head.index(b"mdat") - 4
        index = bytearray(head[head.index(b"moov", at) - 4 :])
        sizes = index.index(b"stsz") + 16
        for number in range(count):
            index[sizes + 4 * number : sizes + 4 * number + 4] = (len(body) + 7).to_bytes(4, "big")
        # 64-bit media data header: the first chunk moves by eight bytes.
        place = index.index(b"stco") + 12
        index[place : place + 4] = (int.from_bytes(index[place : place + 4], "big") + 8).to_bytes(4, "big")
        file.seek(0)
        file.truncate()
        file.write(head[:at] + (1).to_bytes(4, "big") + b"mdat" + (count * (len(body) + 7) + 16).to_bytes(8, "big"))
        for number in range(count):
            kind = b"\x65" if number % 50 == 0 else b"\x41"
            mark = (len(body) + 3).to_bytes(4, "big") + kind + b"\x9a" + bytes([number % 251 + 1])
            file.write(mark + body)
        file.write(index)


@pytest.mark.parametrize("gigabytes", [2 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 0.5])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, clip: Path, gigabytes: float) -> None:
    large(tmp_path / "large.mp4", clip, int(gigabytes * (1 << 30)))
    code = (
        "import sys;"
        f"sys.path.insert(0,{str(Path(kit.__file__).parent)!r});"
        "import video_kit as k; from pathlib import Path; p=k.make_pki();"
        f"k.sign_clip(Path({str(tmp_path / 'large.mp4')!r}),Path({str(tmp_path / 'out.mp4')!r}),p.camera);"
        "hwm=[x for x in open('/proc/self/status') if x.startswith('VmHWM')][0];"  # ru_maxrss counts the parent's
        "print(int(hwm.split()[1])//1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200
