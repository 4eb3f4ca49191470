"""The status of certificates as real clients see it: OpenSSL, GnuTLS and curl against the running application."""

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

CAMERA = "32011600001320000001"
OTHER = "32011600001320000002"
THIRD = "32011600001320000003"
SERVE = """
import asyncio, sys
from pathlib import Path
from aiohttp import web
from secguard.identity.status.app import status_app
from secguard.workspace import Workspace

async def main():
    with Workspace.find(Path(sys.argv[1])) as ws:
        runner = web.AppRunner(status_app(ws.authority()))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(sys.argv[2])).start()
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def need(name: str, package: str) -> str:
    tool = shutil.which(name)
    if tool is None:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return tool


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Served:
    """A workspace of a city, and its status service in a process of its own."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root = root
        self.environment = environment
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def secguard(self, *words, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "secguard", *map(str, words), "-w", str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, cwd=self.root, check=False)
        assert done.returncode == code, done.stderr
        return done

    def run(self, *words, check: bool = True) -> str:
        done = subprocess.run(
            [*map(str, words)], capture_output=True, text=True, cwd=self.root, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def configure(self, shards: int) -> None:
        path = self.root / "secguard.toml"
        text = path.read_text()
        for key, value in (
            ("crl_url", f'"{self.base}/crl"'),
            ("ocsp_url", f'"{self.base}/ocsp"'),
            ("ca_url", f'"{self.base}/ca"'),
            ("crl_shards", str(shards)),
        ):
            text = re.sub(rf"^#? ?{key} *=.*\n", "", text, flags=re.MULTILINE)
            text = text.replace("[identity]\n", f"[identity]\n{key} = {value}\n")
        path.write_text(text)

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE, str(self.root), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A site with four shards a CA and three cameras: the first stays good, the second and third are revoked."""
    need("openssl", "openssl")
    need("curl", "curl")
    folder = tmp_path_factory.mktemp("status")
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "xdg")}
    root = folder / "site"
    subprocess.run(
        [sys.executable, "-m", "secguard", "init", str(root), "--area", "320116"],
        check=True, capture_output=True, env=environment,
    )  # fmt: skip
    made = Served(root, environment)
    made.configure(4)
    made.secguard("identity", "ca", "init", "--yes")
    for name, gbid in (("cam1", CAMERA), ("cam2", OTHER), ("cam3", THIRD)):
        made.secguard("identity", "issue", gbid, "--profile", "camera", "-o", name)
        shutil.copy(root / name / f"{gbid}.camera.pem", root / f"{name}.pem")
    made.secguard("identity", "revoke", OTHER, "--reason", "keyCompromise", "--since", "2026-01-02T03:04:05Z")
    made.secguard("identity", "revoke", THIRD, "--reason", "cessationOfOperation")
    made.start()
    made.run("curl", "-sf", f"{made.base}/ca/devices.cer", "-o", "devices.cer")
    made.run("openssl", "x509", "-inform", "DER", "-in", "devices.cer", "-out", "devices.pem")
    yield made
    made.stop()


def openssl_ocsp(served, *words, check=True) -> str:
    return served.run(
        "openssl", "ocsp", "-issuer", "devices.pem", "-url", f"{served.base}/ocsp", "-CAfile", "certs/root.pem", *words,
        check=check,
    )  # fmt: skip


def test_openssl_ocsp(served):
    said = openssl_ocsp(served, "-cert", "cam1.pem", "-nonce")
    assert "Response verify OK" in said
    assert "cam1.pem: good" in said
    assert "WARNING" not in said  # the nonce came back
    said = openssl_ocsp(served, "-cert", "cam2.pem", "-no_nonce")
    assert "Response verify OK" in said
    assert "cam2.pem: revoked" in said
    assert "Reason: keyCompromise" in said


def test_openssl_ocsp_with_many_certificates(served):
    said = openssl_ocsp(served, "-cert", "cam1.pem", "-cert", "cam2.pem", "-serial", "0x4711", "-nonce")
    assert "Response verify OK" in said
    assert re.findall(r"^(\S+): (good|revoked|unknown)$", said, re.MULTILINE) == [
        ("cam1.pem", "good"),
        ("cam2.pem", "revoked"),
        ("0x4711", "unknown"),
    ]


def test_openssl_ocsp_by_sha256_and_of_a_stranger(served):
    said = served.run(
        "openssl", "ocsp", "-sha256", "-issuer", "devices.pem", "-cert", "cam1.pem", "-url", f"{served.base}/ocsp",
        "-CAfile", "certs/root.pem",
    )  # fmt: skip
    assert "cam1.pem: good" in said
    said = served.run(
        "openssl", "ocsp", "-issuer", "cam1.pem", "-cert", "cam2.pem", "-url", f"{served.base}/ocsp",
        "-CAfile", "certs/root.pem", check=False,
    )  # fmt: skip
    assert "unauthorized" in said


@pytest.mark.parametrize(("name", "status"), [("cam1", "good"), ("cam3", "revoked")])
def test_gnutls_ocsptool(served, name, status):
    need("ocsptool", "gnutls-bin")
    said = served.run(
        "ocsptool", f"--ask={served.base}/ocsp", "--load-issuer=devices.pem", f"--load-cert={name}.pem", "--nonce",
        "--load-trust=devices.pem", "--outder", f"--outfile={name}.ocsp",
    )  # fmt: skip
    assert "Verifying OCSP Response: Success." in said
    said = served.run("ocsptool", "--verify-response", f"--load-response={name}.ocsp", "--load-trust=devices.pem")
    assert f"Certificate Status: {status}" in said
    assert "Verifying OCSP Response: Success." in said
    assert "Nonce:" in said


@pytest.mark.parametrize("kind", ["full", "shard"])
def test_openssl_verify_with_lists_that_were_fetched(served, kind):
    served.run("curl", "-sf", f"{served.base}/crl/root.crl", "-o", "root.crl")
    served.run("openssl", "crl", "-inform", "DER", "-in", "root.crl", "-out", "root.crl.pem")
    for name, problem in (("cam1", ""), ("cam2", "certificate revoked"), ("cam3", "certificate revoked")):
        text = served.run("openssl", "x509", "-in", f"{name}.pem", "-noout", "-text")
        (shard,) = re.findall(rf"URI:({served.base}/crl/devices\.[0-3]\.crl)", text)
        url = shard if kind == "shard" else f"{served.base}/crl/devices.crl"
        served.run("curl", "-sf", url, "-o", "list.crl")
        served.run("openssl", "crl", "-inform", "DER", "-in", "list.crl", "-out", "list.pem")
        (served.root / "lists.pem").write_bytes(
            (served.root / "list.pem").read_bytes() + (served.root / "root.crl.pem").read_bytes()
        )
        for check in ("-crl_check", "-crl_check_all"):
            said = served.run(
                "openssl", "verify", "-x509_strict", check, "-extended_crl", "-CRLfile", "lists.pem", "-CAfile",
                "certs/root.pem", "-untrusted", "devices.pem", f"{name}.pem", check=not problem,
            )  # fmt: skip
            assert problem in said
            assert said.endswith(f"{name}.pem: OK\n") == (not problem)


def test_shard_of_another_certificate_does_not_serve(served):
    """The critical issuingDistributionPoint keeps OpenSSL from taking an empty shard for an answer."""
    text = served.run("openssl", "x509", "-in", "cam2.pem", "-noout", "-text")
    (own,) = re.findall(r"/crl/devices\.([0-3])\.crl", text)
    other = (int(own) + 1) % 4
    served.run("curl", "-sf", f"{served.base}/crl/devices.{other}.crl", "-o", "other.crl")
    served.run("openssl", "crl", "-inform", "DER", "-in", "other.crl", "-out", "other.pem")
    said = served.run(
        "openssl", "verify", "-x509_strict", "-crl_check", "-extended_crl", "-CRLfile", "other.pem", "-CAfile",
        "certs/root.pem", "-untrusted", "devices.pem", "cam2.pem", check=False,
    )  # fmt: skip
    assert "cam2.pem: OK" not in said


def test_gnutls_certtool_reads_the_lists(served):
    need("certtool", "gnutls-bin")
    for name in ("devices.crl", "devices.0.crl", "devices.1.crl", "devices.2.crl", "devices.3.crl", "root.crl"):
        served.run("curl", "-sf", f"{served.base}/crl/{name}", "-o", "any.crl")
        said = served.run("certtool", "--crl-info", "--inder", "--infile", "any.crl")
        assert "X.509 Certificate Revocation List Information" in said
        if name == "devices.crl":
            assert "Revoked certificates (2)" in said
            issuer = served.run("certtool", "--verify-crl", "--inder", "--infile", "any.crl", "--load-ca-certificate",
                                "devices.cer", check=False)  # fmt: skip
            assert "Verified" in issuer or "verified" in issuer


def header(said: str, name: str) -> str:
    (found,) = re.findall(rf"^{name}: (.*?)\r?$", said, re.MULTILINE | re.IGNORECASE)
    return found


def test_curl_caches_lists(served):
    url = f"{served.base}/crl/devices.crl"
    said = served.run("curl", "-sf", "-D", "-", "-o", "/dev/null", url)
    assert header(said, "Content-Type") == "application/pkix-crl"
    age = int(header(said, "Cache-Control").partition("max-age=")[2])
    assert 0 < age <= 7 * 86400
    tag = header(said, "ETag")
    assert (
        "304"
        in served.run("curl", "-s", "-D", "-", "-o", "/dev/null", "-H", f"If-None-Match: {tag}", url).split("\n")[0]
    )
    since = header(said, "Last-Modified")
    assert " 304 " in served.run("curl", "-s", "-D", "-", "-o", "/dev/null", "-H", f"If-Modified-Since: {since}", url)
    assert " 200 " in served.run("curl", "-s", "-I", url)


def test_curl_asks_by_get(served):
    served.run("openssl", "ocsp", "-issuer", "devices.pem", "-cert", "cam1.pem", "-no_nonce", "-reqout", "req.der")
    text = base64.b64encode((served.root / "req.der").read_bytes()).decode()
    quoted = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    for path in (text, quoted):
        said = served.run("curl", "-sf", "-D", "-", "-o", "get.ocsp", f"{served.base}/ocsp/{path}")
        assert header(said, "Content-Type") == "application/ocsp-response"
        assert "max-age=" in header(said, "Cache-Control")
        assert header(said, "ETag")
        assert header(said, "Expires") > ""
        assert header(said, "Last-Modified") > ""
        said = served.run("openssl", "ocsp", "-respin", "get.ocsp", "-issuer", "devices.pem", "-cert", "cam1.pem",
                          "-CAfile", "certs/root.pem", "-no_nonce")  # fmt: skip
        assert "cam1.pem: good" in said


def test_only_what_is_public_is_served(served):
    paths = [
        "/", "/crl/", "/crl/../registry.db", "/crl/..%2fregistry.db", "/crl/%2e%2e/keys/root.key.pem",
        "/crl/devices.key.pem",
        "/crl/devices.00.crl", "/crl/nobody.crl", "/crl/devices.4000.crl", "/crl/.lock", "/crl//etc/passwd",
        "/crl/%2fetc%2fpasswd", "/ca/../keys/devices.key.pem", "/ca/nobody.cer", "/ca/", "/ca/devices.pem",
        "/crl/devices.crl%00", "/crl/devices.crl/..", "/keys/root.key.pem",
    ]  # fmt: skip
    for path in paths:
        said = served.run("curl", "-s", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", f"{served.base}{path}")
        assert said == "404", path
    said = served.run(
        "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE", f"{served.base}/crl/devices.crl"
    )
    assert said == "405"
    (served.root / "big").write_bytes(bytes(1 << 20))
    said = served.run(
        "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@big", f"{served.base}/ocsp"
    )
    assert said == "413"


@pytest.mark.parametrize("data", [b"", b"0", b"\x30\x03\x02\x01\x00", bytes(5000)])
def test_malformed_requests(served, data):
    (served.root / "bad").write_bytes(data)
    served.run("curl", "-sf", "--data-binary", "@bad", f"{served.base}/ocsp", "-o", "answer")
    assert (served.root / "answer").read_bytes() == b"\x30\x03\x0a\x01\x01"
    served.run("curl", "-sf", f"{served.base}/ocsp/%25%25%25", "-o", "answer")
    assert (served.root / "answer").read_bytes() == b"\x30\x03\x0a\x01\x01"


def test_ca_certificates_and_health(served):
    served.run("curl", "-sf", f"{served.base}/ca/chain.pem", "-o", "chain.pem")
    assert (served.root / "chain.pem").read_text().count("BEGIN CERTIFICATE") == 6
    assert served.run("openssl", "verify", "-CAfile", "certs/root.pem", "devices.pem") == "devices.pem: OK\n"
    health = json.loads(served.run("curl", "-sf", f"{served.base}/healthz"))
    assert health["status"] == "ok"
    assert "devices" in health["ocsp"]


@pytest.fixture
def own(served, tmp_path):
    """A copy of the site, to be changed; it is served by a process of its own."""
    shutil.copytree(served.root.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "copy" / "xdg")}
    made = Served(tmp_path / "copy" / "site", environment)
    yield made
    made.stop()


def test_revocation_while_the_service_runs(own):
    own.start()
    assert "cam1.pem: good" in openssl_ocsp(own, "-cert", "cam1.pem", "-no_nonce")
    before = own.run("curl", "-sf", "-D", "-", "-o", "/dev/null", f"{own.base}/crl/devices.crl")
    own.secguard("identity", "revoke", CAMERA, "--reason", "keyCompromise")
    assert "cam1.pem: revoked" in openssl_ocsp(own, "-cert", "cam1.pem", "-no_nonce")
    after = own.run("curl", "-sf", "-D", "-", "-o", "now.crl", "-H", f"If-None-Match: {header(before, 'ETag')}",
                    f"{own.base}/crl/devices.crl")  # fmt: skip
    assert " 200 " in after
    assert own.run("openssl", "crl", "-inform", "DER", "-in", "now.crl", "-noout", "-text").count("Serial Number") == 3


def test_killed_revocation_is_finished_by_the_service(own):
    """`kill -9` right after the commit: OCSP says so at once, the service publishes the list and records the event."""
    script = (
        "import os, signal, sys; from pathlib import Path; from secguard.workspace import Workspace\n"
        "from secguard.identity.status import publish\n"
        "publish.record_waiting = lambda site: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Workspace.find(Path(sys.argv[1])).authority().revoke(sys.argv[2], 'keyCompromise', case='A17')\n"
    )
    words = [sys.executable, "-c", script, str(own.root), CAMERA]
    assert subprocess.run(words, env=own.environment, check=False).returncode == -signal.SIGKILL
    own.start()
    assert "cam1.pem: revoked" in openssl_ocsp(own, "-cert", "cam1.pem", "-no_nonce")
    own.run("curl", "-sf", "-o", "now.crl", f"{own.base}/crl/devices.crl")
    assert own.run("openssl", "crl", "-inform", "DER", "-in", "now.crl", "-noout", "-text").count("Serial Number") == 3
    own.stop(signal.SIGKILL)
    from secguard.workspace import Workspace

    with Workspace.find(own.root) as ws:
        events = [ws.ledger.event(index) for index in range(ws.ledger.size)]
        assert not ws.registry.outbox()
    cases = [event.case for event in events if event.kind == "certificate.revoked" and event.subject == CAMERA]
    assert cases == ["A17", "A17"]


def test_two_processes_revoke_at_once(own):
    words = [
        sys.executable,
        "-m",
        "secguard",
        "identity",
        "revoke",
        "-w",
        str(own.root),
        "--reason",
        "superseded",
        CAMERA,
    ]
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=own.environment) for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    said = own.run("openssl", "crl", "-inform", "DER", "-in", "state/identity/crl/devices.crl", "-noout", "-text")
    assert said.count("Serial Number") == 3


def test_many_by_a_list(own):
    for number in range(10, 12):
        own.secguard("identity", "issue", f"3201160000132{number:07}", "--profile", "camera", "-q")
    lines = [f"3201160000132{number:07},keyCompromise,2026-02-03T04:05:06Z" for number in range(10, 12)]
    (own.root / "stolen.csv").write_text("\n".join(["# stolen", *lines, CAMERA]))
    done = json.loads(own.secguard("identity", "revoke", "--file", "stolen.csv", "--case", "A1", "--json").stdout)
    assert done["data"]["total"] == 6
    done = json.loads(own.secguard("identity", "crl", "--json", "-o", "all.pem").stdout)
    assert done["data"]["published"] == 0
    assert (own.root / "all.pem").read_text().count("BEGIN X509 CRL") == len(done["data"]["lists"]) == 26
    done = json.loads(own.secguard("identity", "crl", "--all", "--json").stdout)
    assert done["data"]["published"] == 26
    (own.root / "bad.csv").write_text(f"{OTHER}\n32011600001320009999\n")
    done = own.secguard("identity", "revoke", "--file", "bad.csv", code=2)
    assert "bad.csv, line 2" in done.stderr
    assert "nothing to revoke" in own.secguard("identity", "revoke", code=2).stderr
    assert "future" in own.secguard("identity", "revoke", OTHER, "--since", "2999-01-01T00:00:00Z", code=2).stderr


def test_service_under_many_hands(own):
    """Answers stay right while lists are replaced under their readers: every fetched list is whole and signed."""
    import aiohttp
    from cryptography import x509

    own.start()
    issuer = x509.load_pem_x509_certificate((own.root / "devices.pem").read_bytes())
    stop = threading.Event()
    counts: list[int] = []

    async def fetch() -> None:
        async with aiohttp.ClientSession() as session:
            while not stop.is_set():
                async with session.get(f"{own.base}/crl/devices.crl") as reply:
                    crl = x509.load_der_x509_crl(await reply.read())
                assert crl.is_signature_valid(issuer.public_key())
                counts.append(len(crl))

    reader = threading.Thread(target=lambda: asyncio.run(fetch()))
    reader.start()
    try:
        for number in range(20, 22):
            own.secguard("identity", "issue", f"3201160000132{number:07}", "--profile", "camera", "-q")
            own.secguard("identity", "revoke", f"3201160000132{number:07}", "-q")
        time.sleep(0.3)
    finally:
        stop.set()
        reader.join()
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (2, 4)
