"""`identity verify` with OCSP: answers of `openssl ocsp` as files and asked for online; many files at once."""

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

CAMERA = "32011600001320000001"
SECOND = "32011600001320000002"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def openssl() -> str:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs openssl: apt-get install openssl")
    return tool


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A site whose certificates name a responder and lists on the loopback interface; the ports stand in `ports`."""
    root = tmp_path_factory.mktemp("verify") / "site"
    environment = {**os.environ, "XDG_STATE_HOME": str(root.parent / "xdg")}

    def run(*words: str) -> None:
        cwd = root if root.exists() else root.parent
        subprocess.run(
            [sys.executable, "-m", "secguard", *words], check=True, capture_output=True, env=environment, cwd=cwd
        )

    run("init", str(root), "--area", "320116")
    ports = {"ocsp": free_port(), "crl": free_port()}
    (root / "ports").write_text(json.dumps(ports))
    config = (root / "secguard.toml").read_text()
    values = f'crl_url = "http://127.0.0.1:{ports["crl"]}"\nocsp_url = "http://127.0.0.1:{ports["ocsp"]}/ocsp"'
    changed = re.sub(r"^crl_url = .*$", values, config, count=1, flags=re.MULTILINE)
    assert changed != config
    (root / "secguard.toml").write_text(changed)
    run("identity", "ca", "init", "--yes")
    for gbid in (CAMERA, SECOND):
        run("identity", "issue", gbid, "--profile", "camera", "-o", gbid)
    run("identity", "crl", "-o", "lists.pem")
    return root


@pytest.fixture
def site(template, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    shutil.copytree(template.parent / "xdg", tmp_path / "xdg")
    shutil.copytree(template, tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def court(site, tmp_path, openssl) -> Path:
    """What a court holds: chains, the root, the root's list; and an OCSP signer made outside, to run `openssl ocsp`."""
    folder = tmp_path / "court"
    folder.mkdir()
    for gbid in (CAMERA, SECOND):
        shutil.copy(site / gbid / f"{gbid}.camera.chain.pem", folder / f"{gbid}.pem")
    shutil.copy(site / "certs" / "root.pem", folder)
    chain = (folder / f"{CAMERA}.pem").read_text()
    (folder / "ca.pem").write_text(chain[chain.rindex("-----BEGIN") :])
    shutil.copy(site / "state" / "identity" / "crl" / "root.crl", folder)
    key = next((site / "state" / "identity" / "keys").glob("devices.key.pem"))
    passphrase = (site / "state" / "passphrase").read_text().strip()
    done = subprocess.run(
        [openssl, "pkey", "-in", str(key), "-passin", "stdin", "-out", str(folder / "ca.key")],
        input=passphrase, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def index(folder: Path, openssl: str, status: dict[str, str]) -> None:
    """The text data base of `openssl ocsp`."""
    lines = []
    for gbid, state in status.items():
        words = [openssl, "x509", "-in", f"{gbid}.pem", "-noout", "-serial"]
        serial = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=True).stdout.strip()
        revoked = "260101000000Z,keyCompromise" if state == "R" else ""
        lines.append("\t".join((state, "350101000000Z", revoked, serial.partition("=")[2], "unknown", f"/CN={gbid}")))
    (folder / "index.txt").write_text("".join(f"{line}\n" for line in lines))


def respond(folder: Path, openssl: str, *gbids: str, out: str = "answer.ocsp") -> None:
    certificates = [word for gbid in gbids for word in ("-cert", f"{gbid}.pem")]
    common = ["-issuer", "ca.pem", *certificates]
    subprocess.run([openssl, "ocsp", *common, "-reqout", "request.der"], check=True, cwd=folder, capture_output=True)
    done = subprocess.run(
        [openssl, "ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key",
         "-reqin", "request.der", "-respout", out, "-nmin", "60"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def codes(document: dict) -> set[str]:
    return {item["code"] for item in document["findings"]}


def test_answers_of_openssl_as_files(court, openssl, secguard):
    def verify(*words, code):
        done = secguard("identity", "verify", *words, "--root", "root.pem", "--crl", "root.crl", "--json", cwd=court)
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    assert codes(verify(f"{CAMERA}.pem", code=3)) == {"trust.crl.missing"}
    index(court, openssl, {CAMERA: "V", SECOND: "R"})
    respond(court, openssl, CAMERA, SECOND)  # one response about both
    good = verify(f"{CAMERA}.pem", "--ocsp", "answer.ocsp", code=0)
    assert good["axes"] == {"provenance": "pass", "revocation": "pass"}
    assert codes(verify(f"{SECOND}.pem", "--ocsp", "answer.ocsp", code=1)) == {"trust.certificate.revoked"}
    # Replayed: the answer about one for the other.
    respond(court, openssl, CAMERA, out="one.ocsp")
    assert codes(verify(f"{SECOND}.pem", "--ocsp", "one.ocsp", code=3)) == {"trust.ocsp.other"}
    # Stale tomorrow.
    tomorrow = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86400))
    later = verify(f"{CAMERA}.pem", "--ocsp", "one.ocsp", "--at", tomorrow, code=3)
    assert codes(later) == {"trust.ocsp.stale"}
    # The responder does not know it.
    index(court, openssl, {SECOND: "V"})
    respond(court, openssl, CAMERA, out="unknown.ocsp")
    assert codes(verify(f"{CAMERA}.pem", "--ocsp", "unknown.ocsp", code=3)) == {"trust.ocsp.unknown"}
    done = secguard("identity", "verify", f"{CAMERA}.pem", "--root", "root.pem", "--ocsp", "root.pem", cwd=court)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "OCSP response" in done.stderr

    both = verify(f"{CAMERA}.pem", f"{SECOND}.pem", "--ocsp", "answer.ocsp", code=1)
    assert [row["outcome"] for row in both["data"]["certificates"]] == ["pass", "fail"]
    assert (both["data"]["total"], both["data"]["pass"], both["data"]["fail"]) == (2, 1, 1)


class _Lists(http.server.BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        file = self.folder / Path(self.path).name
        data = file.read_bytes() if file.exists() else b""
        self.send_response(200 if data else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_online(site, court, openssl, secguard):
    ports = json.loads((site / "ports").read_text())
    for name in ("root.crl", "answer.ocsp"):
        (court / name).unlink(missing_ok=True)

    def verify(*words, code):
        done = secguard("identity", "verify", *words, "--root", "root.pem", "--online", "--json", cwd=court)
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    # Nobody there: not known, and it says whom it asked.
    assert codes(verify(f"{CAMERA}.pem", code=3)) == {"trust.crl.missing", "trust.online.unreachable"}
    handler = type("Handler", (_Lists,), {"folder": site / "state" / "identity" / "crl"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", ports["crl"]), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    index(court, openssl, {CAMERA: "V", SECOND: "R"})
    log = (court / "responder.log").open("wb")
    responder = subprocess.Popen(
        [openssl, "ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key",
         "-port", str(ports["ocsp"])],
        cwd=court, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        until = time.monotonic() + 20
        # Not by connecting: a connection without a request keeps this responder busy for ever.
        while "waiting for" not in (court / "responder.log").read_text() and time.monotonic() < until:
            time.sleep(0.05)
        assert responder.poll() is None, (court / "responder.log").read_text()
        assert verify(f"{CAMERA}.pem", code=0)["axes"]["revocation"] == "pass"
        assert codes(verify(f"{SECOND}.pem", code=1)) == {"trust.certificate.revoked"}
        both = verify(f"{CAMERA}.pem", f"{SECOND}.pem", code=1)
        assert [row["outcome"] for row in both["data"]["certificates"]] == ["pass", "fail"]
    finally:
        responder.terminate()
        responder.wait(10)
        log.close()
        server.shutdown()
        server.server_close()


def test_folder_and_lines(site, secguard):
    done = secguard("identity", "verify", CAMERA, SECOND, "--jsonl", cwd=site)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["gbid"], row["purpose"]) for row in rows] == [
        (gbid, purpose) for gbid in (CAMERA, SECOND) for purpose in ("device", "media-signing")
    ]
    (site / CAMERA / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (site / "none").mkdir()
    done = secguard("identity", "verify", CAMERA, "certs/root.pem", "secguard.toml", "--jsonl", cwd=site)
    assert done.returncode == 1
    rows = {Path(row["file"]).name: row["codes"] for row in map(json.loads, done.stdout.splitlines())}
    assert rows["root.pem"] == ["trust.purpose.wrong"]
    assert rows["secguard.toml"] == ["trust.certificate.malformed"]
    assert rows["broken.pem"] == ["trust.certificate.malformed"]
    assert rows[f"{CAMERA}.camera.pem"] == []
    done = secguard("identity", "verify", "none", cwd=site)
    assert (done.returncode, "no end entity" in done.stderr) == (2, True)
    done = secguard("identity", "verify", CAMERA, "--report", "fleet.html", "--lang", "zh", cwd=site)
    assert done.returncode == 1
    assert "证书核验" in (site / "fleet.html").read_text()


def test_a_folder_of_chains_alone(site, secguard):
    """A chain without its own certificate beside it is judged, never passed over."""
    folder = site / "chains"
    folder.mkdir()
    for gbid in (CAMERA, SECOND):
        shutil.copy(site / gbid / f"{gbid}.camera.chain.pem", folder)
    shutil.copy(site / SECOND / f"{SECOND}.camera.pem", folder)
    done = secguard("identity", "verify", "chains", "--jsonl", cwd=site)
    assert done.returncode == 0, done.stderr
    names = [Path(json.loads(line)["file"]).name for line in done.stdout.splitlines()]
    assert names == [f"{CAMERA}.camera.chain.pem", f"{SECOND}.camera.pem"]
