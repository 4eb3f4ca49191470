"""The ceremonies of CAs from the command line, over real workspaces and ledgers; also killed, and out of order."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

CAMERA = "32011600001320000001"
NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A provincial root's workspace and a city's, the root made; copied for each test."""
    folder = tmp_path_factory.mktemp("ceremony")
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "xdg")}
    for words in (
        ["init", "root", "--area", "32"],
        ["init", "site", "--area", "320116"],
        ["identity", "ca", "init", "--root-only", "--area", "32", "--yes", "-w", "root"],
    ):
        subprocess.run(
            [sys.executable, "-m", "secguard", *words], check=True, capture_output=True, env=environment, cwd=folder
        )
    return folder


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    for name in ("root", "site", "xdg"):
        shutil.copytree(template / name, tmp_path / name, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def run(home):
    def call(*words, code=0, site="site"):
        line = [sys.executable, "-m", "secguard", "identity", *map(str, words), "-w", site]
        done = subprocess.run(line, capture_output=True, text=True, cwd=home, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call


def data(done) -> dict:
    return json.loads(done.stdout)["data"]


def test_from_ceremony_to_camera(run, home):
    asked = data(run("ca", "request", "-o", "req", "--yes", "--json"))["requests"]
    assert {item["name"] for item in asked} == {"devices", "logs", "media", "operators", "platforms"}
    assert {view["status"] for view in data(run("ca", "show", "--json"))["authorities"]} == {"pending"}
    # wrong order and nobody to confirm
    assert "ca init" in run("issue", CAMERA, "--profile", "camera", code=2).stderr
    assert "to install" in run("ca", "install", "req", code=2).stderr
    shown = run("ca", "sign", "req", "-o", "ans", site="root", code=2).stderr
    assert all(item["key_sha256"] in shown for item in asked)
    assert not (home / "ans").exists()
    signed = data(run("ca", "sign", "req", "-o", "ans", "--yes", "--json", site="root"))["certificates"]
    assert {item["key_sha256"] for item in signed} == {item["key_sha256"] for item in asked}
    assert (home / "ans/root.pem").exists()
    installed = data(run("ca", "install", "ans", "--json"))
    assert len(installed["installed"]) == 5
    run("issue", CAMERA, "--profile", "camera", "-o", "cam")
    run("verify", f"cam/{CAMERA}.camera.pem", "--gbid", CAMERA)
    run("ca", "chain", "-o", "chain.pem")
    # the root's workspace knows what it signed, and can end it
    rows = data(run("list", "--json", site="root"))["certificates"]
    assert len(rows) == 5
    devices = next(item["serial"] for item in signed if item["name"] == "devices")
    run("revoke", devices, "--reason", "cACompromise", site="root")
    run("ca", "install", "root/state/identity/crl/root.crl")
    run("verify", f"cam/{CAMERA}.camera.pem", code=1)
    refused = run("issue", "32011600001320000002", "--profile", "camera", code=2)
    assert len(refused.stderr.strip().splitlines()) == 1
    older = run("ca", "install", "ans/root.crl", code=2)
    assert "number" in older.stderr


def test_regions_are_asked_for_in_one_call(run, home):
    asked = data(
        run(
            *("ca", "request", "-o", "req", "--yes", "--json"),
            *("--kind", "devices", "--area", "320116", "--type", "131", "--type", "132", "--network", "0"),
            *("--kind=devices", "--area=320117", "--name=devices-lishui", "--kind", "media"),
        )
    )["requests"]
    assert {item["name"]: item["scope"] for item in asked} == {
        "devices": "area=320116 type=131,132 network=0",
        "devices-lishui": "area=320117",
        "media": "area=320116",
    }
    assert "kind" in run("ca", "request", "-o", "req", "--area", "320116", code=2).stderr
    sign = ("ca", "sign", "req/media.csr", "-o", "ans", "--yes", "--json")
    narrowed = data(run(*sign, "--scope", "area=32011601", site="root"))["certificates"]
    assert [item["scope"] for item in narrowed] == ["area=32011601"]


def test_a_site_with_its_root_adds_and_rolls_over(run, home):
    shutil.rmtree(home / "site")
    subprocess.run([sys.executable, "-m", "secguard", "init", "site", "--area", "3201"], check=True, cwd=home)
    run("ca", "init", "--yes")
    done = data(run("ca", "add", "devices", "--area", "320116", "--json"))
    assert done["name"] == "devices-320116"
    issued = data(run("issue", CAMERA, "--profile", "camera", "-o", "cam", "--json"))["certificates"]
    assert issued[0]["issuer"] == "devices-320116"
    assert data(run("ca", "rollover", "devices-320116", "--json"))["name"] == "devices-320116-g2"
    assert "in force" in run("ca", "retire", "devices-320116", code=2).stderr
    run("renew", CAMERA, "--profile", "camera")
    run("ca", "retire", "devices-320116")
    saved = data(run("ca", "backup", "-o", "b.tar", "--json"))
    assert saved["files"] > 10
    run("revoke", CAMERA)
    shutil.rmtree(home / "site/state/identity")
    back = data(run("ca", "restore", "b.tar", "--json"))
    assert back["same_ledger"]
    assert back["revoked_again"]
    run("verify", f"cam/{CAMERA}.camera.pem", code=1)
    run("issue", "32011600001320000002", "--profile", "camera", "-o", "cam2")
    run("verify", "cam2/32011600001320000002.camera.pem")
    changed = bytearray((home / "b.tar").read_bytes())
    changed[len(changed) // 2] ^= 1
    (home / "c.tar").write_bytes(changed)
    shutil.rmtree(home / "site/state/identity")
    run("ca", "restore", "c.tar", code=2)
    assert not (home / "site/state/identity/keys").exists()


@pytest.mark.parametrize("command", ["request", "sign", "install"] if NIGHTLY else ["install"])
def test_killed_at_any_moment_it_is_completed(run, home, command):
    """SIGKILL at a few moments of each step; the next run completes it, with nothing twice."""
    words = {
        "request": ["ca", "request", "-o", "req", "--yes"],
        "sign": ["ca", "sign", "req", "-o", "ans", "--yes"],
        "install": ["ca", "install", "ans"],
    }
    steps = {"request": "site", "sign": "root", "install": "site"}
    for step, site in steps.items():
        if step == command:
            started = time.monotonic()
            for count in range(12 if NIGHTLY else 3):
                line = [sys.executable, "-m", "secguard", "identity", *words[step], "-w", site]
                process = subprocess.Popen(line, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(0.35 + 0.12 * count)
                process.send_signal(signal.SIGKILL)
                process.wait()
                assert time.monotonic() - started < 100
        run(*words[step], site=site)
    run("issue", CAMERA, "--profile", "camera", "-o", "cam")
    run("verify", f"cam/{CAMERA}.camera.pem")
    rows = data(run("list", "--json", site="root"))["certificates"]
    assert sorted(row["status"] for row in rows) == ["active"] * 5
