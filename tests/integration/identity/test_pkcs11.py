"""A site whose CA keys lie in a token (SoftHSM2), from the command line; OpenSSL verifies what they sign."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

CAMERA = "32011600001320000001"
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "1234-5678"


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A token of its own, and a function that gives URIs into it."""
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("needs SoftHSM: apt-get install softhsm2")
    pytest.importorskip("pkcs11", reason="needs the extra pkcs11")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    label = f"ca-{uuid.uuid4().hex[:8]}"
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "87654321", "--pin", PIN],
        check=True,
        capture_output=True,
    )
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text(PIN)

    def uri(label_of_key: str = "", *, token: str = label, module: Path = MODULE, pin: Path = pin) -> str:
        place = f"pkcs11:token={token}" + (f";object={label_of_key}" if label_of_key else "")
        return f"{place}?module-path={module}&pin-source={pin}"

    return uri


@pytest.fixture
def run(tmp_path, monkeypatch, token):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))

    def call(*words, code=0, site="site"):
        line = [sys.executable, "-m", "secguard", *map(str, words), "-w", str(tmp_path / site)]
        done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=os.environ, timeout=120)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert PIN not in done.stdout + done.stderr
        return done

    for name in ("site", "root"):
        subprocess.run([sys.executable, "-m", "secguard", "init", str(tmp_path / name), "--area", "320116"], check=True)
    return call


def verify(tmp_path, certificate: Path) -> subprocess.CompletedProcess:
    lists = tmp_path / "crls.pem"
    data = b""
    for crl in sorted((tmp_path / "site/state/identity/crl").glob("*.crl")):
        data += subprocess.run(["openssl", "crl", "-inform", "DER", "-in", crl], check=True, capture_output=True).stdout
    lists.write_bytes(data)
    return subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", tmp_path / "site/certs/root.pem"),
            *("-CRLfile", lists, "-untrusted", tmp_path / "chain.pem", certificate),
        ],
        capture_output=True,
        text=True,
    )


def test_a_site_with_its_cas_in_a_token(run, token, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    run("identity", "ca", "init", "--yes", "--key", token("city"))
    keys = tmp_path / "site/state/identity/keys"
    assert not list(keys.glob("devices*"))
    assert not (keys / "root.key.pem").exists()
    rows = json.loads(run("identity", "ca", "show", "--json").stdout)["data"]["authorities"]
    assert {row["key"] for row in rows} == {"token"}
    run("identity", "issue", CAMERA, "--profile", "camera", "-o", tmp_path / "cam")
    run("identity", "ca", "rollover", "devices", "--key", token("devices-2"))
    run("identity", "issue", "32011600001320000002", "--profile", "camera", "-o", tmp_path / "cam2")
    run("identity", "ca", "chain", "-o", tmp_path / "chain.pem")
    first, second = tmp_path / f"cam/{CAMERA}.camera.pem", tmp_path / "cam2/32011600001320000002.camera.pem"
    for certificate in (first, second):
        done = verify(tmp_path, certificate)
        assert done.returncode == 0, done.stderr
    run("identity", "verify", second)
    run("identity", "revoke", CAMERA)
    assert "revoked" in verify(tmp_path, first).stderr
    run("identity", "verify", first, code=1)
    # a backup names what it cannot hold
    saved = json.loads(run("identity", "ca", "backup", "-o", tmp_path / "b.tar", "--json").stdout)["data"]
    assert "root" in saved["in_tokens"]
    # without the token nothing is issued
    shutil.move(tmp_path / "tokens", tmp_path / "away")
    (tmp_path / "tokens").mkdir()
    gone = run("identity", "issue", "32011600001320000003", "--profile", "camera", "-o", tmp_path / "cam3", code=2)
    assert "no such token" in gone.stderr
    assert not (tmp_path / "cam3").exists()
    shutil.move(tmp_path / "tokens", tmp_path / "empty")
    shutil.move(tmp_path / "away", tmp_path / "tokens")
    run("identity", "issue", "32011600001320000003", "--profile", "camera", "-o", tmp_path / "cam3")


def test_an_offline_root_and_issuing_cas_in_tokens(run, token, tmp_path):
    # no passphrase: nothing of the root lies in a file
    run("identity", "ca", "init", "--root-only", "--key", token("root"), site="root")
    assert not (tmp_path / "root/state/passphrase").exists()
    request = run("identity", "ca", "request", "-o", tmp_path / "req", "--yes", "--key", token("site"), "--json")
    assert len(json.loads(request.stdout)["data"]["requests"]) == 5
    run("identity", "ca", "sign", tmp_path / "req", "-o", tmp_path / "ans", "--yes", site="root")
    run("identity", "ca", "install", tmp_path / "ans")
    run("identity", "issue", CAMERA, "--profile", "camera", "-o", tmp_path / "cam")
    run("identity", "verify", tmp_path / f"cam/{CAMERA}.camera.pem")


def test_what_is_wrong_with_a_token_is_one_line(run, token, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("0000")
    for uri, text in (
        (token("a", token="none"), "no such token"),
        (token("a", module=Path("/nowhere.so")), "no such PKCS#11 module"),
        (token("a", pin=wrong), "refuses this PIN"),
        (token("a", pin=tmp_path / "absent"), "no such key file"),
        ("pkcs11:token=a?pin-value=9876", "read by every process"),
        ("token=a", "not a PKCS#11 URI"),
    ):
        done = run("identity", "ca", "init", "--yes", "--key", uri, code=2)
        assert text in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "9876" not in done.stderr
        assert not (tmp_path / "site/certs/root.pem").exists()
        assert not (tmp_path / "site/state/passphrase").exists()
    run("identity", "ca", "init", "--yes", "--key", token())


def test_a_killed_issue_with_a_token_is_completed(run, token, tmp_path):
    """Signatures of a token cannot be made again: the one that was stored is the one that is delivered."""
    run("identity", "ca", "init", "--yes", "--key", token())
    program = (
        "import os, sys\n"
        "from secguard.ledger import Ledger\n"
        "def record(self, events):\n"
        "    os.kill(os.getpid(), 9)\n"
        "Ledger.record = record\n"
        "from secguard.cli.main import main\n"
        "sys.argv = ['secguard', *sys.argv[1:]]\n"
        "main()\n"
    )
    words = [
        "identity",
        "issue",
        CAMERA,
        "--profile",
        "camera",
        "-o",
        str(tmp_path / "cam"),
        "-w",
        str(tmp_path / "site"),
    ]
    killed = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=tmp_path)
    assert killed.returncode == -9, killed.stderr
    assert not list((tmp_path / "cam").glob("*.camera.pem"))
    from secguard.identity import Registry

    with Registry.open(tmp_path / "site/state/identity/registry.db") as registry:
        kept = registry.pending(CAMERA, "camera")
        assert kept is not None
        assert kept.status == "signed"
    run("identity", "issue", CAMERA, "--profile", "camera", "-o", tmp_path / "cam")
    with Registry.open(tmp_path / "site/state/identity/registry.db") as registry:
        row = registry.active(CAMERA, "camera")
        assert row is not None
        assert (row.serial, row.certificate) == (kept.serial, kept.certificate)
