"""EST against step-ca's sign endpoint, in one run: `python tests/bench/bench_identity_est.py [--json] [--rounds N]`.

Both serve TLS on this machine, both have their own durable database, both are loaded by the same wrk over keep-alive
connections: a device, its own key, its own request; a one-time secret here, a one-time token there. They take turns,
and the medians are compared; the processor time of both is shown, for it says more than a rate on a busy machine.
step-ca is built from its Go module when it is not on the PATH (needs Go and a module proxy); wrk is Debian's `wrk`.
"""

import argparse
import base64
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

MODULE = "github.com/smallstep/certificates/cmd/step-ca@v0.30.0"
CONNECTIONS = 64
SECONDS = 6
ENOUGH = 2600
"""Requests for each second of a round: more than either serves."""
SCRIPT = """
local lines, at = {}, 0
good, bad = 0, 0
function init(args)
  for line in io.lines(args[1]) do lines[#lines + 1] = line end
end
function request()
  at = at + 1
  if at > #lines then return wrk.format("GET", "/healthz") end
  local path, kind, authorization, body = lines[at]:match("^(%S+) (%S+) (%S+) (%S+)$")
  local headers = {["Content-Type"] = kind, ["User-Agent"] = "wrk"}
  if authorization ~= "-" then headers["Authorization"] = "Basic " .. authorization end
  body = body:gsub("~", "\\\\n"):gsub("%%", " ")
  return wrk.format("POST", path, headers, body)
end
function response(status, headers, body)
  if at <= #lines and (status == 200 or status == 201) then good = good + 1 else bad = bad + 1 end
end
function setup(thread) THREAD = thread end
function done(summary, latency, requests)
  local good, bad = THREAD:get("good"), THREAD:get("bad")
  print(string.format("RESULT %d %d %d %d", good, bad, summary.duration, latency:percentile(99)))
end
"""


def make_request(name: str) -> bytes:
    """A device's request in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def requests(names: list[str]) -> list[bytes]:
    """Requests of many devices, on all cores."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(make_request, names, chunksize=200))


def load(url: str, lines: Path, script: Path) -> tuple[float, float]:
    """Send requests of a file for some seconds, and return answers a second and the 99th percentile in ms."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--timeout", "60s", "-s", script, url, "--", lines]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise SystemExit(done.stdout + done.stderr)
    good, bad, micros, tail = map(int, found.groups())
    if bad:
        raise SystemExit(f"{bad} of {good + bad} requests to {url} were refused")
    return good / (micros / 1e6), tail / 1000


def processor_seconds(pid: int) -> float:
    """What a process and its children have used so far."""
    seconds = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        seconds += sum(processor_seconds(int(child)) for child in (task / "children").read_text().split())
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return seconds + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(port: int, process: "subprocess.Popen[Any]") -> None:
    """Wait until a server listens."""
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the server ended")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server does not listen")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Secguard:
    """`secguard serve --est`, with devices that may enrol."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder / "xdg")}
        self._run("init", str(self.site), "--area", "320116")
        self._run("identity", "ca", "init", "--yes", "-w", str(self.site))
        self._run("identity", "issue", "127.0.0.1", "--profile", "server", "-w", str(self.site))
        self.port = free_port()
        self._start()

    def _run(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "secguard", *arguments, "-q"], env=self.environment, check=True)

    def _start(self) -> None:
        command = [sys.executable, "-m", "secguard", "serve", "-w", self.site, "--est", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL)
        wait_for(self.port, self.process)

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"https://127.0.0.1:{self.port}"

    def prepare(self, first: int, count: int, path: Path) -> None:
        """Allow devices, and write what they send."""
        from secguard.identity.enrol.secrets import allow
        from secguard.workspace import Workspace

        names = [f"3201160000132{first + number:07d}" for number in range(count)]
        with Workspace.find(self.site) as workspace:
            secrets = allow(workspace.authority(), names)
        lines = []
        for secret, request in zip(secrets, requests(names), strict=True):
            user = base64.b64encode(f"{secret.gbid}:{secret.secret}".encode()).decode()
            body = base64.b64encode(request).decode()
            lines.append(f"/.well-known/est/simpleenroll application/pkcs10 {user} {body}\n")
        path.write_text("".join(lines))

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


def find_step_ca() -> str:
    """The program, built if it is not here."""
    found = shutil.which("step-ca")
    if found:
        return found
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secguard-bench"
    program = folder / "step-ca"
    if not program.exists():
        go = shutil.which("go") or "/usr/local/go/bin/go"
        environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(folder)}
        subprocess.run([go, "install", MODULE], env=environment, check=True)
    return str(program)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class StepCa:
    """step-ca with a JWK provisioner and its default database (Badger)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.port = free_port()
        self.key = ec.generate_private_key(ec.SECP256R1())
        numbers = self.key.public_key().public_numbers()
        self.kid = "bench"
        jwk = {"use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256"}
        jwk |= {"x": _b64(numbers.x.to_bytes(32, "big")), "y": _b64(numbers.y.to_bytes(32, "big"))}
        self._cas()
        config = {
            "root": str(folder / "root.crt"),
            "crt": str(folder / "ca.crt"),
            "key": str(folder / "ca.key"),
            "address": f"127.0.0.1:{self.port}",
            "dnsNames": ["127.0.0.1"],
            "db": {"type": "badgerv2", "dataSource": str(folder / "db")},
            "authority": {"provisioners": [{"type": "JWK", "name": "bench", "key": jwk}]},
        }
        (folder / "ca.json").write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [find_step_ca(), folder / "ca.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self.port, self.process)

    def _cas(self) -> None:
        now = datetime.now(UTC)
        root_key, ca_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root_name, ca_name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("root", "ca"))
        for file, subject, key, length in (("root", root_name, root_key, 1), ("ca", ca_name, ca_key, 0)):
            builder = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(root_name)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - timedelta(hours=1))
                .not_valid_after(now + timedelta(days=30))
                .add_extension(x509.BasicConstraints(ca=True, path_length=length), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            )
            certificate = builder.sign(root_key, hashes.SHA256())
            (self.folder / f"{file}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (self.folder / "ca.key").write_bytes(ca_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"https://127.0.0.1:{self.port}"

    def _token(self, name: str) -> str:
        now = int(time.time())
        head = {"alg": "ES256", "kid": self.kid, "typ": "JWT"}
        claims = {
            "iss": "bench",
            "aud": f"{self.url}/1.0/sign",
            "sub": name,
            "sans": [name],
            "jti": os.urandom(16).hex(),
        }
        claims |= {"iat": now, "nbf": now - 10, "exp": now + 290}
        text = f"{_b64(json.dumps(head).encode())}.{_b64(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def prepare(self, first: int, count: int, path: Path) -> None:
        """Make tokens and requests."""
        names = [f"d{first + number:07d}.example" for number in range(count)]
        lines = []
        for name, request in zip(names, requests(names), strict=True):
            body = base64.encodebytes(request).decode().replace("\n", "~")
            pem = f"-----BEGIN%CERTIFICATE%REQUEST-----~{body}-----END%CERTIFICATE%REQUEST-----~"
            lines.append(f'/1.0/sign application/json - {{"csr":"{pem}","ott":"{self._token(name)}"}}\n')
        path.write_text("".join(lines))

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


def measure(rounds: int) -> list[dict[str, Any]]:
    """Load both by turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "load.lua"
        script.write_text(SCRIPT)
        ours, theirs = Secguard(folder / "ours"), StepCa(folder / "theirs")
        rates: dict[str, list[tuple[float, float, float]]] = {"ours": [], "theirs": []}
        try:
            for number in range(rounds):
                for key, server in (("ours", ours), ("theirs", theirs)):
                    lines = folder / f"{key}.txt"
                    server.prepare(number * SECONDS * ENOUGH, SECONDS * ENOUGH, lines)  # type: ignore[attr-defined]
                    before = processor_seconds(server.process.pid)  # type: ignore[attr-defined]
                    found = load(server.url, lines, script)  # type: ignore[attr-defined]
                    used = processor_seconds(server.process.pid) - before  # type: ignore[attr-defined]
                    rates[key].append((*found, 1000 * used / (found[0] * SECONDS)))
        finally:
            ours.close()
            theirs.close()
    rate, tail, work = (
        {key: statistics.median(one[column] for one in found) for key, found in rates.items()} for column in range(3)
    )
    return [
        {"what": "step-ca: sign over TLS, its database (the peer)", "value": rate["theirs"], "unit": "/s"},
        {
            "what": "EST: simpleenroll over TLS, durable registry and ledger",
            "value": rate["ours"],
            "unit": "/s",
            "ratio": rate["ours"] / rate["theirs"],
            "goal": 2,
        },
        {"what": "EST: processor time of an enrolment", "value": work["ours"], "unit": "ms", "ratio": None, "goal": ""},
        {"what": "step-ca: processor time of one", "value": work["theirs"], "unit": "ms", "ratio": None, "goal": ""},
        {"what": "EST: 99th percentile", "value": tail["ours"], "unit": "ms", "ratio": None, "goal": ""},
        {"what": "step-ca: 99th percentile", "value": tail["theirs"], "unit": "ms", "ratio": None, "goal": ""},
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = measure(options.rounds)
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            ratio = f"{row['ratio']:.2f}" if row.get("ratio") else ""
            print(f"{row['what']:60} {row['value']:10,.1f} {row['unit']:4} {ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
