"""Bad input through the real command line: one clear line with a hint, exit 2, nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from secguard.workspace.demo.clip import make_clip

CAMERA = "32011600001320000001"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with a certified camera and a signed clip, made once and copied for each test."""
    folder = tmp_path_factory.mktemp("made")
    # The anchor lies in the workspace, so that each copy has its own.
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "ws" / "state" / "xdg")}

    def run(*args: object) -> None:
        subprocess.run([sys.executable, "-m", "secguard", *map(str, args)], cwd=folder, env=environment, check=True)

    run("init", "ws", "--area", "320116", "-q")
    run("identity", "ca", "init", "--yes", "-w", "ws", "-q")
    run("identity", "issue", CAMERA, "--profile", "camera", "-w", "ws", "-q")
    make_clip(folder / "in.mp4", seconds=1, width=160, height=96)
    return folder


@pytest.fixture
def site(made, tmp_path):
    shutil.copytree(made, tmp_path / "site")
    return tmp_path / "site"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(done: subprocess.CompletedProcess[str], *words: str, hint: str = "(") -> None:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]
    assert hint in lines[0]


@pytest.mark.parametrize("device", ["", "123", "3201160000132000000x", "320116000013200000011"])
def test_wrong_id(secguard, site, device):
    before = tree(site)
    refused(secguard("identity", "issue", device, "--profile", "camera", "-o", "out", "-w", "ws", cwd=site))
    assert tree(site) == before


def test_an_id_of_another_city(secguard, site):
    done = secguard(
        "identity", "issue", "11010100001320000001", "--profile", "camera", "-o", "out", "-w", "ws", cwd=site
    )
    refused(done, "11010100001320000001")
    assert not (site / "out").exists()


@pytest.mark.parametrize("keep", [0, 7, 40, 500, 0.5, 0.9, 0.999])
def test_truncated_mp4(secguard, site, keep):
    data = (site / "in.mp4").read_bytes()
    (site / "cut.mp4").write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    done = secguard("video", "sign", "cut.mp4", "out.mp4", "--device", CAMERA, "-w", "ws", cwd=site)
    refused(done, "cut.mp4")
    assert not list(site.glob("*out.mp4*"))
    refused(secguard("video", "verify", "cut.mp4", "-w", "ws", cwd=site), "cut.mp4")


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 300])
def test_corrupt_checkpoint(secguard, site, content):
    assert secguard("ledger", "checkpoint", "-w", "ws", cwd=site).returncode == 0
    (checkpoint,) = [p for p in (site / "ws" / "state" / "ledger").rglob("checkpoint") if p.is_file()]
    checkpoint.write_bytes(content)
    refused(secguard("ledger", "checkpoint", "-w", "ws", cwd=site), "checkpoint")


def test_wrong_passphrase(secguard, site):
    wrong = site / "wrong"
    wrong.write_text("not it\n")
    wrong.chmod(0o600)
    before = tree(site)
    done = secguard(
        "identity",
        "issue",
        CAMERA[:-1] + "2",
        "--profile",
        "camera",
        "-w",
        "ws",
        "--passphrase-file",
        "wrong",
        cwd=site,
    )
    refused(done, "passphrase")
    ledger = {name for name in tree(site) if name not in before and "/ledger/" not in name}
    assert not [name for name in ledger if name.endswith(".pem")]


def test_a_passphrase_file_that_others_may_read(secguard, site):
    (site / "ws" / "state" / "passphrase").chmod(0o644)
    done = secguard("video", "sign", "in.mp4", "out.mp4", "--device", CAMERA, "-w", "ws", cwd=site)
    refused(done, hint="chmod 600")
    assert not (site / "out.mp4").exists()


def test_unknown_key_in_the_configuration(secguard, site):
    path = site / "ws" / "secguard.toml"
    path.write_text(path.read_text().replace("[identity]", "[identity]\ncrl_dayz = 3"))
    for command in (("status",), ("audit", "search", "x"), ("ledger", "verify")):
        refused(secguard(*command, "-w", "ws", cwd=site), "crl_dayz", hint="crl_days")


def test_no_workspace(secguard, tmp_path):
    refused(secguard("status", cwd=tmp_path), hint="secguard init")


def test_a_crash_is_never_exit_code_1(secguard, site):
    (site / "ws" / "state" / "identity" / "registry.db").write_bytes(b"junk" * 999)
    done = secguard("identity", "list", "-w", "ws", cwd=site)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_errors_in_the_json_frame(secguard, tmp_path):
    done = secguard("video", "verify", "none.mp4", "--root", "none.pem", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit"], document["schema"]) == (2, 2, "secguard.video.verify/1")
    assert document["error"]["message"]
    assert set(document["error"]) == {"code", "message", "hint", "where"}


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small tmpfs")
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_while_signing(secguard, site, small_disk):
    target = small_disk / "out.mp4"
    fill(small_disk / "ballast", leave=8 << 10)
    done = secguard("video", "sign", "in.mp4", target, "--device", CAMERA, "-w", "ws", cwd=site)
    refused(done, "No space left on device")
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]


def test_a_full_disk_while_recording(secguard, site, small_disk):
    shutil.copytree(site / "ws", small_disk / "ws")
    shutil.copy(site / "in.mp4", small_disk)
    fill(small_disk / "ballast", leave=0)
    done = secguard("video", "sign", site / "in.mp4", site / "out.mp4", "--device", CAMERA, "-w", "ws", cwd=small_disk)
    refused(done, "No space left on device")
    assert not list(site.glob("*out.mp4*"))
    (small_disk / "ballast").unlink()
    done = secguard("ledger", "verify", "-w", "ws", cwd=small_disk)
    assert done.returncode in {0, 3}, done.stderr
    done = secguard("video", "sign", site / "in.mp4", site / "out.mp4", "--device", CAMERA, "-w", "ws", cwd=small_disk)
    assert done.returncode == 0, done.stderr


def fill(path: Path, leave: int) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    if leave:
        os.truncate(path, path.stat().st_size - leave)
