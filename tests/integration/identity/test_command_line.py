"""The command line over a real workspace and ledger, and what OpenSSL says to what it makes."""

import json
import os
import pty
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secguard.identity import Registry
from secguard.trust import read_certificates

CAMERA = "32011600001320000001"
NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"


@pytest.fixture
def run(secguard, site):
    def call(*words, code=0):
        done = secguard("identity", *words, cwd=site)
        assert done.returncode == code, done.stderr
        return done

    return call


@pytest.fixture
def openssl():
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs openssl: apt-get install openssl")

    def call(*words, cwd):
        return subprocess.run([tool, *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=60)

    return call


def document(done) -> dict:
    return json.loads(done.stdout)


def test_init_made_a_passphrase_and_said_so(secguard, tmp_path):
    root = tmp_path / "fresh"
    assert secguard("init", root, "--area", "320116").returncode == 0
    done = secguard("identity", "ca", "init", cwd=root, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--yes" in done.stderr
    done = secguard("identity", "ca", "init", "--yes", "--name", "Jiangning", cwd=root)
    assert done.returncode == 0, done.stderr
    secret = root / "state" / "passphrase"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert str(secret) in done.stderr
    assert secret.read_text().strip() not in done.stdout + done.stderr
    assert "Jiangning root CA" in read_certificates(root / "certs" / "root.pem")[0].subject.rfc4514_string()
    again = secguard("identity", "ca", "init", "--yes", cwd=root)
    assert again.returncode == 2
    assert "already" in again.stderr


def test_prompts_on_a_terminal(secguard, tmp_path):
    root = tmp_path / "fresh"
    assert secguard("init", root, "--area", "320116").returncode == 0
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "secguard", "identity", "ca", "init", "-w", str(root)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    seen = b""
    for word in (b"New passphrase for the keys", b"Repeat for confirmation"):
        while word not in seen:
            seen += os.read(leader, 4096)
        os.write(leader, b"horse battery\n")
    while process.poll() is None:
        try:
            seen += os.read(leader, 4096)
        except OSError:
            break
    os.close(leader)
    assert process.wait(60) == 0
    assert b"horse battery" not in seen  # not echoed
    assert not (root / "state" / "passphrase").exists()


def test_camera_from_issue_to_revocation(run, site):
    done = document(run("issue", CAMERA, "--profile", "camera", "-o", "camera1", "--json"))
    assert [item["profile"] for item in done["data"]["certificates"]] == ["camera", "media-signing"]
    assert done["receipt"]["origin"]
    leaf = f"camera1/{CAMERA}.camera.pem"
    answer = document(run("verify", leaf, "--purpose", "device", "--gbid", CAMERA, "--json"))
    assert (answer["outcome"], answer["axes"]) == ("pass", {"provenance": "pass", "revocation": "pass"})
    assert answer["data"]["gbid"] == CAMERA
    wrong = document(run("verify", leaf, "--purpose", "media-signing", "--json", code=1))
    assert {item["code"] for item in wrong["findings"]} == {"trust.purpose.wrong"}
    other = document(run("verify", leaf, "--gbid", "32011600001320000002", "--json", code=1))
    assert [item["code"] for item in other["findings"]] == ["trust.gbid.mismatch"]
    old = document(run("verify", leaf, "--at", "2001-01-01T00:00:00Z", "--json", code=1))
    assert "trust.certificate.not-yet-valid" in {item["code"] for item in old["findings"]}
    late = document(run("verify", leaf, "--at", "2099-01-01T00:00:00Z", "--json", code=1))
    assert "trust.certificate.expired" in {item["code"] for item in late["findings"]}

    rows = document(run("list", "--json"))["data"]["certificates"]
    assert {row["profile"] for row in rows} == {"camera", "media-signing", "log", "operator", "ca"}
    shown = document(run("device", "show", CAMERA, "--json"))["data"]
    assert (shown["status"], len(shown["certificates"])) == ("issued", 2)
    assert document(run("device", "list", "--json"))["data"]["total"] == 1
    assert document(run("expiring", "--days", "400", "--json"))["data"]["total"] == 1
    assert len(run("list", "--jsonl").stdout.splitlines()) == 9

    renewed = document(run("renew", CAMERA, "--profile", "camera", "--json"))["data"]["certificates"][0]
    assert renewed["new"]
    revoked = document(run("revoke", CAMERA, "--reason", "keycompromise", "--case", "A-1", "--json"))
    assert {row["reason"] for row in revoked["data"]["certificates"]} == {"keyCompromise"}
    answer = document(run("verify", leaf, "--report", "report.html", "--lang", "zh", "--json", code=1))
    assert [item["code"] for item in answer["findings"]] == ["trust.certificate.revoked"]
    assert "证书路径" in (site / "report.html").read_text()
    narrowed = document(run("verify", leaf, "--require", "provenance", "--json"))
    assert narrowed["data"]["narrowed"]


def test_court_without_a_workspace(run, site, secguard, tmp_path):
    run("issue", CAMERA, "--profile", "camera", "-o", "camera1")
    run("crl", "-o", "lists.pem")
    court = tmp_path / "court"
    court.mkdir()
    for name in (f"camera1/{CAMERA}.media-signing.chain.pem", "certs/root.pem", "lists.pem"):
        shutil.copy(site / name, court)
    chain = f"{CAMERA}.media-signing.chain.pem"
    done = secguard("identity", "verify", chain, "--root", "root.pem", "--crl", "lists.pem", "--json", cwd=court)
    assert done.returncode == 0, done.stdout
    done = secguard("identity", "verify", chain, "--root", "root.pem", "--json", cwd=court)
    assert done.returncode == 3
    assert {item["code"] for item in json.loads(done.stdout)["findings"]} == {"trust.crl.missing"}
    done = secguard("identity", "verify", chain, cwd=court)
    assert (done.returncode, "--root" in done.stderr) == (2, True)
    done = secguard("identity", "verify", "lists.pem", "--root", "root.pem", cwd=court)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["issue", "3201160000132000001", "--profile", "camera"], "20 digits"),
        (["issue", "32020600001320000001", "--profile", "camera"], "outside the scope"),
        (["issue", CAMERA, "--profile", "toaster"], "no profile"),
        (["issue", CAMERA, "--profile", "camera", "--passphrase-file", "wrong"], "does not open"),
        (["issue", CAMERA, "--profile", "camera", "--csr", "secguard.toml"], "not a certificate request"),
        (["revoke", "32011600001320000077"], "no certificate"),
        (["renew", CAMERA, "--profile", "camera"], "no active"),
        (["device", "show", CAMERA], "not registered"),
        (["verify", "secguard.toml"], "not a certificate"),
        (["verify", "none.pem"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, site, words, message):
    (site / "wrong").write_text("not it\n")
    (site / "wrong").chmod(0o600)
    before = sorted(str(path) for path in site.rglob("*") if path.suffix == ".pem")
    done = run(*words, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "(" in done.stderr or "no such file" in done.stderr  # a hint
    assert sorted(str(path) for path in site.rglob("*") if path.suffix == ".pem") == before


def test_open_key_file(run, site):
    key = site / "state" / "identity" / "keys" / "media.key.pem"
    key.chmod(0o644)
    done = run("issue", CAMERA, "--profile", "camera", code=2)
    assert f"chmod 600 {key}" in done.stderr
    assert not (site / "state" / "identity" / "devices").exists()


def test_full_disk(run, site):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root: a small tmpfs is mounted")
    folder = site / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        (folder / "filler").write_bytes(bytes(4096))
        done = run("issue", CAMERA, "--profile", "camera", "-o", "small", code=2)
        assert "No space left" in done.stderr
        assert [path.name for path in folder.iterdir()] == ["filler"]
        (folder / "filler").unlink()
    finally:
        subprocess.run(["umount", folder], check=True)
    run("issue", CAMERA, "--profile", "camera", "-o", "large")


def test_openssl_accepts_what_is_issued(run, site, openssl):
    run("issue", CAMERA, "--profile", "camera", "-o", "camera1", "--vendor-serial", "SN 7")
    run("issue", "32011600001180000001", "--profile", "nvr", "-o", "nvr1")
    run("issue", "32011600002000000001", "--profile", "platform", "-o", "sip")
    run("issue", "zhang.min", "--profile", "operator", "-o", "people")
    run("crl", "-o", "lists.pem")
    chains = sorted(site.glob("*/*.chain.pem")) + sorted((site / "state/identity/keys").glob("*.chain.pem"))
    assert len(chains) == 7

    def verify(chain, *more):
        leaf = chain.with_name(chain.name.replace(".chain.pem", ".pem"))
        return openssl(
            *("verify", "-x509_strict", "-policy_check", "-crl_check_all", "-CRLfile", "lists.pem"),
            *("-CAfile", "certs/root.pem", "-untrusted", chain, *more, leaf),
            cwd=site,
        )

    for chain in chains:
        done = verify(chain)
        assert done.returncode == 0, (chain.name, done.stderr)
    camera = site / f"camera1/{CAMERA}.camera.chain.pem"
    signing = site / f"camera1/{CAMERA}.media-signing.chain.pem"
    assert verify(camera, "-purpose", "sslclient").returncode == 0
    assert verify(camera, "-purpose", "sslserver").returncode == 0
    assert verify(camera, "-verify_hostname", f"d{CAMERA}.32011600.cam.320116.video.internal").returncode == 0
    assert verify(signing, "-purpose", "sslclient").returncode != 0
    # The purpose is a certificate policy too, which OpenSSL follows down the chain.
    device, media = (f"1.2.840.113556.1.8000.2554.53190.44964.15710.18424.35755.15616109.3643827.2.{n}" for n in "13")
    assert verify(camera, "-explicit_policy", "-policy", device).returncode == 0
    assert verify(camera, "-explicit_policy", "-policy", media).returncode != 0
    run("revoke", CAMERA, "--profile", "camera")
    run("crl", "-o", "lists.pem")
    assert "revoked" in verify(camera).stderr
    assert verify(signing).returncode == 0


def test_gnutls_accepts_every_name_of_a_host(run, site):
    if shutil.which("certtool") is None:
        pytest.skip("needs certtool: apt-get install gnutls-bin")
    for host in ("est.video.internal", "video.internal", "192.0.2.7", "2001:db8::7"):
        for profile in ("server", "isolation-agent"):
            run("issue", host, "--profile", profile, "-o", "hosts")
    chains = sorted((site / "hosts").glob("*.chain.pem"))
    assert len(chains) == 8
    for chain in chains:
        words = ("certtool", "--verify", "--load-ca-certificate", site / "certs/root.pem", "--infile", chain)
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (chain.name, done.stdout)


def test_request_made_by_openssl(run, site, openssl):
    words = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=anything")
    assert openssl(*words, "-keyout", "device.key", "-out", "device.csr", cwd=site).returncode == 0
    done = document(run("issue", CAMERA, "--profile", "camera", "--csr", "device.csr", "-o", "out", "--json"))
    assert len(done["data"]["certificates"]) == 1
    assert not list((site / "out").glob("*.key.pem"))
    assert run("verify", f"out/{CAMERA}.camera.chain.pem").returncode == 0


def test_tls_handshake_with_the_issued_certificates(run, site):
    """Mutual TLS between a camera and a platform server: both sides check the other."""
    import ssl

    run("issue", CAMERA, "--profile", "camera", "-o", "camera1")
    run("issue", "32011600002000000001", "--profile", "platform", "-o", "sip")
    secret = (site / "state" / "passphrase").read_text().strip()

    def context(kind, folder, stem):
        made = ssl.SSLContext(kind)
        made.load_cert_chain(site / folder / f"{stem}.chain.pem", site / folder / f"{stem}.key.pem", secret)
        made.load_verify_locations(site / "certs" / "root.pem")
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    server = context(ssl.PROTOCOL_TLS_SERVER, "sip", "32011600002000000001.platform")
    client = context(ssl.PROTOCOL_TLS_CLIENT, "camera1", f"{CAMERA}.camera")
    pipes = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = "d32011600002000000001.32011600.cam.320116.video.internal"
    left = server.wrap_bio(pipes[0], pipes[1], server_side=True)
    right = client.wrap_bio(pipes[1], pipes[0], server_hostname=name)
    waiting = {left, right}
    for _ in range(10):
        for side in (left, right):
            if side not in waiting:
                continue
            try:
                side.do_handshake()
                waiting.discard(side)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    assert ("commonName", CAMERA) in {pair[0] for pair in left.getpeercert()["subject"]}


def test_killed_at_any_moment_nothing_is_delivered_without_a_record(site, secguard):
    """`kill -9` while cameras are being issued, over and over; then all of it is completed."""
    script = (
        "import sys; from pathlib import Path; from secguard.workspace import Workspace\n"
        "from secguard.identity import Request\n"
        "ws = Workspace.find(Path(sys.argv[1])); a = ws.authority()\n"
        "print('go', flush=True)\n"
        "for n in range(40): a.issue([Request(f'3201160000132{n:07}', 'camera')])\n"
    )
    rng = random.Random(28181)
    killed = 0
    for _ in range(30 if NIGHTLY else 6):
        process = subprocess.Popen([sys.executable, "-c", script, str(site)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0.01, 0.25))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        _every_delivered_file_has_its_row(site)
    assert killed > 3
    done = subprocess.run([sys.executable, "-c", script, str(site)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _every_delivered_file_has_its_row(site)
    with Registry.open(site / "state/identity/registry.db") as registry:
        rows = [row for row in registry.certificates() if row.device]
    live = [row for row in rows if row.status == "active"]
    assert len(live) == 80
    assert len({row.serial for row in rows}) == len(rows)
    assert {row.status for row in rows} <= {"active", "void"}
    recorded = _events(site)
    assert sorted(recorded) == sorted(row.serial for row in live if row.device)


def _every_delivered_file_has_its_row(site: Path) -> None:
    recorded = set(_events(site))
    with Registry.open(site / "state/identity/registry.db") as registry:
        for path in (site / "state/identity/devices").rglob("*.chain.pem"):
            serial = f"{read_certificates(path)[0].serial_number:032x}"
            row = registry.by_serial(serial)
            assert row is not None
            assert row.status == "active"
            assert serial in recorded


def _events(site: Path) -> list[str]:
    from secguard.workspace import Workspace

    with Workspace.find(site) as ws:
        events = [ws.ledger.event(index) for index in range(ws.ledger.size)]
    return [
        event.data["serial"]
        for event in events
        if event.kind == "certificate.issued" and event.data["profile"] in {"camera", "media-signing"}
    ]


def test_two_processes_issue_the_same_camera(site):
    words = [sys.executable, "-m", "secguard", "identity", "issue", CAMERA, "--profile", "camera", "-w", str(site)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with Registry.open(site / "state/identity/registry.db") as registry:
        assert [row.status for row in registry.certificates(CAMERA)] == ["active", "active"]
