"""802.1X with EAP-TLS (RFC 5216): hostapd as RADIUS server believes what secguard issued, and nothing else.

eapol_test plays the camera and its switch. All on the loopback interface.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

CAMERA = "32011600001320000001"
STOLEN = "32011600001320000002"
SERVER = "radius.video.internal"
SECRET = "loopback-only"

HOSTAPD = """
driver=none
interface=lo
logger_stdout=-1
logger_stdout_level=0
eap_server=1
eap_user_file={folder}/users
ca_cert={folder}/believed.pem
server_cert={site}/radius/{server}.server.chain.pem
private_key={site}/radius/{server}.server.key.pem
private_key_passwd={passphrase}
check_crl=2
tls_flags=[DISABLE-TLSv1.0][DISABLE-TLSv1.1]
radius_server_clients={folder}/clients
radius_server_auth_port={port}
"""

SUPPLICANT = """
network={{
    key_mgmt=WPA-EAP
    eap=TLS
    identity="{identity}"
    ca_cert="{root}"
    domain_match="{server}"
    client_cert="{certificate}"
    private_key="{key}"
    private_key_passwd="{passphrase}"
}}
"""


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    found = {}
    for name, package in (("hostapd", "hostapd"), ("eapol_test", "eapoltest")):
        path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if path is None:
            pytest.skip(f"needs {name}: apt-get install {package}")
        found[name] = path
    return found


@dataclass
class Site:
    """A workspace with its CAs."""

    root: Path

    def __call__(self, *words: str) -> str:
        environment = {**os.environ, "XDG_STATE_HOME": str(self.root.parent / f"{self.root.name}-xdg")}
        command = [sys.executable, "-m", "secguard", *words]
        cwd = self.root if self.root.exists() else self.root.parent
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=cwd).stdout

    @property
    def passphrase(self) -> str:
        return (self.root / "state" / "passphrase").read_text().strip()

    def camera(self, gbid: str) -> Path:
        self("identity", "issue", gbid, "--profile", "camera", "-o", gbid)
        return self.root / gbid


def make(folder: Path) -> Site:
    site = Site(folder)
    site("init", str(folder), "--area", "320116")
    site("identity", "ca", "init", "--yes")
    return site


@pytest.fixture(scope="module")
def site(tools, tmp_path_factory) -> Site:
    made = make(tmp_path_factory.mktemp("dot1x") / "site")
    made("identity", "issue", SERVER, "--profile", "server", "-o", "radius")
    return made


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Radius:
    """hostapd that only serves RADIUS; started by `with`, ended by its own process."""

    def __init__(self, tool: str, site: Site, folder: Path) -> None:
        self._tool, self._site, self._folder = tool, site, folder
        self._log = folder / "hostapd.log"
        self.port = 0
        self.root = site.root / "certs" / "root.pem"

    def believe(self) -> None:
        """The recipe: the root, the cameras' CA (few cameras send it) and every list of the path, in one file."""
        self._site("identity", "crl", "-o", "lists.pem")
        root = self._site.root
        chain = (root / CAMERA / f"{CAMERA}.camera.chain.pem").read_text()
        issuing = chain[chain.rindex("-----BEGIN") :]
        parts = [(root / "certs" / "root.pem").read_text(), issuing, (root / "lists.pem").read_text()]
        (self._folder / "believed.pem").write_text("\n".join(parts))

    def __enter__(self) -> Self:
        folder = self._folder
        (folder / "users").write_text("* TLS\n")
        (folder / "clients").write_text(f"127.0.0.1/32 {SECRET}\n")
        for _ in range(5):  # somebody else may take the port in between
            self.port = free_port()
            (folder / "hostapd.conf").write_text(
                HOSTAPD.format(
                    folder=folder, site=self._site.root, server=SERVER, passphrase=self._site.passphrase, port=self.port
                )
            )
            (folder / "hostapd.conf").chmod(0o600)
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [self._tool, "-dd", str(folder / "hostapd.conf")], stdout=log, stderr=subprocess.STDOUT
                )
            until = time.monotonic() + 20
            while self._process.poll() is None and time.monotonic() < until:
                if "AP-ENABLED" in self.log:
                    return self
                time.sleep(0.05)
            self._stop()
        raise AssertionError(self.log[-3000:])

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


def admitted(tool: str, radius: "Radius", folder: Path, site: Site, gbid: str) -> bool:
    """Whether the camera of a site got onto the network."""
    files = site.root / gbid
    config = folder / f"{gbid}.conf"
    config.write_text(
        SUPPLICANT.format(
            identity=gbid,
            root=radius.root,
            server=SERVER,
            certificate=files / f"{gbid}.camera.pem",
            key=files / f"{gbid}.camera.key.pem",
            passphrase=site.passphrase,
        )
    )
    config.chmod(0o600)
    done = subprocess.run(
        [tool, "-c", str(config), "-a", "127.0.0.1", "-p", str(radius.port), "-s", SECRET, "-t", "20"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    assert last in {"SUCCESS", "FAILURE"}, done.stdout[-3000:]
    assert (done.returncode == 0) == (last == "SUCCESS")
    return last == "SUCCESS"


def test_good_camera_in_revoked_and_foreign_out(tools, site, tmp_path):
    for gbid in (CAMERA, STOLEN):
        site.camera(gbid)
    radius = Radius(tools["hostapd"], site, tmp_path)
    radius.believe()

    def tried(gbid: str, owner: Site = site) -> bool:
        return admitted(tools["eapol_test"], radius, tmp_path, owner, gbid)

    with radius:
        assert tried(CAMERA), radius.log[-4000:]
        assert tried(STOLEN)
        assert "CN=" + CAMERA in radius.log.replace("'", "")
    site("identity", "revoke", STOLEN, "--reason", "keyCompromise")
    radius.believe()
    other = make(tmp_path / "other")
    other.camera(CAMERA)
    with radius:
        assert tried(CAMERA), radius.log[-4000:]
        before = radius.log
        assert not tried(STOLEN)
        assert re.search("certificate revoked", radius.log[len(before) :], re.IGNORECASE), radius.log[-4000:]
        # Same ID, same names, another site's CA.
        before = radius.log
        assert not tried(CAMERA, other)
        assert re.search(
            "unable to get local issuer|self.signed certificate in certificate chain|certificate signature failure",
            radius.log[len(before) :],
            re.IGNORECASE,
        ), radius.log[-4000:]
