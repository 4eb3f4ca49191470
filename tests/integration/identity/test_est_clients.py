"""EST with clients that others wrote: strongSwan's pki, curl, openssl; and a service that is killed."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

CAMERA = "32011600001320000001"
OTHER = "32011600001320000002"


def need(*programs: str) -> None:
    packages = {"pki": "strongswan-pki libstrongswan-extra-plugins", "curl": "curl", "openssl": "openssl"}
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt-get install {packages[program]}")


def run(*command: object, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(part) for part in command], capture_output=True, timeout=60, **options)


class Service:
    """`secguard serve --est` of a site."""

    def __init__(self, site: Path, *options: str) -> None:
        self.site = site
        self.options = options
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "secguard", "serve", "-w", self.site, "--est", "127.0.0.1:0", *self.options]
        self.process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
        self.told = ""
        self.url = self.wait(r"est: (https://\S+)")
        self.status = self.wait(r"status: (http://\S+)") if "--status" in self.options else ""
        # read on, so that the service never waits for us
        self._drain = threading.Thread(target=self.process.stderr.read, daemon=True)
        self._drain.start()

    def wait(self, pattern: str) -> str:
        while True:
            line = self.process.stderr.readline()
            assert line, self.told
            self.told += line
            found = re.search(pattern, line)
            if found:
                return found.group(1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._drain.join(10)
        self.process.stderr.close()
        return code


@pytest.fixture
def site(secguard, tmp_path):
    for arguments in (
        ("init", "ws", "--area", "320116"),
        ("identity", "ca", "init", "--yes", "-w", "ws"),
        ("identity", "issue", "127.0.0.1", "--profile", "server", "-w", "ws"),
    ):
        done = secguard(*arguments)
        assert done.returncode == 0, done.stderr
    return tmp_path / "ws"


@pytest.fixture
def service(site):
    service = Service(site)
    yield service
    if service.process.poll() is None:
        service.stop(signal.SIGKILL)


def secret(secguard, gbid: str, *options: str) -> str:
    done = secguard("identity", "enrol", "allow", gbid, "-w", "ws", "--json", "--show", *options)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)["data"]["allowed"][0]["secret"]


def key_and_request(folder: Path, name: str, gbid: str) -> tuple[Path, Path]:
    key, request = folder / f"{name}.key", folder / f"{name}.der"
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key, check=True)
    run("openssl", "req", "-new", "-key", key, "-subj", f"/CN={gbid}", "-outform", "DER", "-out", request, check=True)
    return key, request


def curl(service: Service, path: str, request: Path | None, *options: object) -> tuple[int, bytes]:
    body = run("openssl", "base64", "-in", request).stdout if request else None
    post = ["-H", "Content-Type: application/pkcs10", "--data-binary", "@-"] if request else []
    root = service.site / "certs" / "root.pem"
    done = run(
        "curl", "-sS", "--cacert", root, *post, *options, "-w", "\n%{http_code}", f"{service.url}/{path}", input=body
    )
    answer, _, status = done.stdout.rpartition(b"\n")
    return int(status), answer


def unpack(answer: bytes) -> bytes:
    """As libest does it: only base64 in lines is read."""
    plain = run("openssl", "base64", "-d", input=answer, check=True).stdout
    assert plain
    return run("openssl", "pkcs7", "-inform", "DER", "-print_certs", input=plain, check=True).stdout


def test_curl_and_openssl(secguard, service, tmp_path):
    need("curl", "openssl")
    password = secret(secguard, CAMERA)
    key, request = key_and_request(tmp_path, "first", CAMERA)
    status, answer = curl(service, "cacerts", None)
    assert status == 200
    (tmp_path / "cas.pem").write_bytes(unpack(answer))
    status, answer = curl(service, "simpleenroll", request, "-u", f"{CAMERA}:{password}")
    assert status == 200, answer
    first = tmp_path / "first.pem"
    first.write_bytes(unpack(answer))
    assert curl(service, "simpleenroll", request, "-u", f"{CAMERA}:{password}")[0] == 401
    verified = run("openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "cas.pem", first)
    assert verified.returncode == 0, verified.stderr
    _, second = key_and_request(tmp_path, "second", CAMERA)
    mine = ("--cert", first, "--key", key)
    status, answer = curl(service, "simplereenroll", second, *mine)
    assert status == 200, answer
    _, other = key_and_request(tmp_path, "other", OTHER)
    assert curl(service, "simplereenroll", other, *mine)[0] == 403
    status, answer = curl(service, "csrattrs", None, *mine)
    assert status == 200
    shown = run("openssl", "asn1parse", "-inform", "DER", input=run("openssl", "base64", "-d", input=answer).stdout)
    assert b"prime256v1" in shown.stdout
    done = secguard("identity", "revoke", CAMERA, "--reason", "keyCompromise", "-w", "ws")
    assert done.returncode == 0
    status, text = curl(service, "simplereenroll", second, *mine)
    assert status == 403
    assert b"revoked" in text
    listed = json.loads(secguard("identity", "enrol", "list", "-w", "ws", "--json").stdout)["data"]
    assert [row["status"] for row in listed["secrets"]] == ["used"]
    found = secguard("audit", "search", "kind:certificate.refused", "--wait", "-w", "ws", "--json")
    assert json.loads(found.stdout)["data"]["total"] == 3, found.stdout
    assert service.stop() == 0
    assert secguard("ledger", "verify", "-w", "ws").returncode == 0


def test_strongswan_enrols_and_renews(secguard, service, tmp_path):
    need("pki", "openssl")
    root = service.site / "certs" / "root.pem"
    url = service.url.removesuffix("/.well-known/est")
    done = run("pki", "--estca", "--url", url, "--cacert", root, "--caout", tmp_path / "ca.pem", "--outform", "pem")
    assert done.returncode == 0, done.stderr
    fetched = sorted(tmp_path.glob("ca*.pem"))
    assert len(fetched) >= 4
    password = secret(secguard, CAMERA)
    old = None
    for number in (1, 2):
        key = tmp_path / f"{number}.key"
        key.write_bytes(run("pki", "--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem", check=True).stdout)
        request = tmp_path / f"{number}.der"
        request.write_bytes(
            run("pki", "--req", "--in", key, "--type", "ecdsa", "--dn", f"CN={CAMERA}", check=True).stdout
        )
        who = ["--userpass", f"{CAMERA}:{password}"] if old is None else ["--cert", old[0], "--key", old[1]]
        cas = [part for file in (root, *fetched) for part in ("--cacert", file)]
        done = run("pki", "--est", "--url", url, *cas, "--in", request, *who, "--outform", "pem")
        assert done.returncode == 0, done.stderr
        certificate = tmp_path / f"{number}.pem"
        certificate.write_bytes(done.stdout)
        shown = run("openssl", "x509", "-in", certificate, "-noout", "-subject").stdout
        assert CAMERA.encode() in shown
        old = (certificate, key)
    rows = json.loads(secguard("identity", "list", "-w", "ws", "--json").stdout)["data"]["certificates"]
    assert [row["status"] for row in rows if row["holder"] == CAMERA and row["profile"] == "camera"].count(
        "active"
    ) == 1
    done = run(
        "pki", "--est", "--url", url, *cas, "--in", request, "--userpass", f"{CAMERA}:{password}", "--outform", "pem"
    )
    assert done.returncode != 0  # the secret is used up


def test_a_killed_service_gave_nothing_that_is_not_recorded(secguard, site, tmp_path):
    need("curl", "openssl")
    from concurrent.futures import ThreadPoolExecutor

    gbids = [f"3201160000132{number:07d}" for number in range(1, 31)]
    allowed = secguard("identity", "enrol", "allow", *gbids, "-w", "ws", "-o", tmp_path / "secrets.csv")
    assert allowed.returncode == 0
    assert (tmp_path / "secrets.csv").stat().st_mode & 0o777 == 0o600
    secrets = dict(line.split(",")[0:3:2] for line in (tmp_path / "secrets.csv").read_text().splitlines()[1:])
    received: list[bytes] = []
    service = Service(site)

    def enrol(gbid: str) -> None:
        _, request = key_and_request(tmp_path, gbid, gbid)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status, answer = curl(service, "simpleenroll", request, "-u", f"{gbid}:{secrets[gbid]}")
            if status == 200:
                received.append(answer)
            if status in {200, 401}:  # 401: the secret was used, and the answer was killed
                return
            time.sleep(0.3)

    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(enrol, gbid) for gbid in gbids]
        for _ in range(2):
            goal = len(received) + 6
            deadline = time.monotonic() + 20
            while len(received) < goal and time.monotonic() < deadline:
                time.sleep(0.01)
            service.stop(signal.SIGKILL)
            service.start()
        for one in work:
            one.result(60)
    assert service.stop() == 0
    assert len(received) >= 12
    with sqlite3.connect(site / "state" / "identity" / "registry.db") as db:
        stored = {bytes(row[0]) for row in db.execute("SELECT certificate FROM certificates WHERE status = 'active'")}
    db.close()
    found = json.loads(
        secguard("audit", "search", "kind:certificate.issued", "--wait", "--limit", "500", "-w", "ws", "--json").stdout
    )
    recorded = json.dumps(found["data"]["hits"])
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    for answer in received:
        plain = run("openssl", "base64", "-d", input=answer, check=True).stdout
        (certificate,) = pkcs7.load_der_pkcs7_certificates(plain)
        der = certificate.public_bytes(Encoding.DER)
        assert der in stored
        assert hashlib.sha256(der).hexdigest() in recorded
    verified = secguard("ledger", "verify", "-w", "ws", "--json")
    assert verified.returncode == 0, verified.stdout


def test_where_a_secret_goes(secguard, site, tmp_path):
    done = secguard("identity", "enrol", "allow", CAMERA, "-w", "ws")
    assert done.returncode == 2  # no terminal, and nobody said --show
    file = tmp_path / "secret"
    done = secguard("identity", "enrol", "allow", CAMERA, "-w", "ws", "-o", file)
    assert done.returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() not in done.stdout + done.stderr
    assert secguard("identity", "enrol", "allow", CAMERA, "-w", "ws", "-o", file).returncode == 2
    assert secguard("identity", "enrol", "withdraw", CAMERA, "-w", "ws").returncode == 0
    assert secguard("identity", "enrol", "withdraw", CAMERA, "-w", "ws").returncode == 2
    assert secguard("identity", "enrol", "allow", "44010600001320000001", "-w", "ws", "--show").returncode == 2


def refused(secguard, *options: object, **more) -> str:
    done = secguard("serve", "-w", "ws", *options, **more)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_what_keeps_a_service_from_starting(secguard, site):
    keys = site / "state" / "identity" / "keys"
    ca = next(path for path in keys.rglob("*.pem") if "devices" in path.name)
    ca.chmod(0o644)
    assert f"chmod 600 {ca}" in refused(secguard, "--est", "127.0.0.1:0")
    ca.chmod(0o600)
    assert "identity issue" in refused(secguard, "--est", "127.0.0.2:0")
    assert "host:port" in refused(secguard, "--est", "8443")
    passphrase = site / "state" / "passphrase"
    hidden = passphrase.rename(site / "state" / "hidden")
    assert "passphrase" in refused(secguard, "--est", "127.0.0.1:0")
    hidden.rename(passphrase)
    service = Service(site)
    port = service.url.split(":")[2].split("/")[0]
    try:
        other = site.with_name("second")
        shutil.copytree(site, other, ignore=lambda folder, names: [name for name in names if name.endswith(".sock")])
        done = secguard("serve", "-w", other, "--est", f"127.0.0.1:{port}", env={**os.environ})
        assert done.returncode == 2
        assert "cannot listen" in done.stderr
    finally:
        assert service.stop() == 0


def test_status_health_and_a_renewed_certificate(secguard, site, tmp_path):
    need("curl", "openssl")
    service = Service(site, "--status", "127.0.0.1:0")
    try:
        listed = run("curl", "-sS", "-f", f"{service.status}/crl/devices.crl", check=True).stdout
        assert run("openssl", "crl", "-inform", "DER", "-noout", input=listed).returncode == 0
        assert b"ok" in run("curl", "-sS", "-f", f"{service.status}/healthz", check=True).stdout
        root = site / "certs" / "root.pem"
        base = service.url.removesuffix("/.well-known/est")
        done = run("curl", "-sS", "--cacert", root, f"{base}/healthz", check=True)
        before = json.loads(done.stdout)
        assert before["status"] == "ok"
        host = base.removeprefix("https://")

        def serial() -> bytes:
            shown = run("openssl", "s_client", "-connect", host, "-showcerts", input=b"").stdout
            return run("openssl", "x509", "-noout", "-serial", input=shown).stdout

        old = serial()
        assert secguard("identity", "renew", "127.0.0.1", "--profile", "server", "-w", "ws").returncode == 0
        deadline = time.monotonic() + 30
        while serial() == old:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        assert service.stop() == 0
