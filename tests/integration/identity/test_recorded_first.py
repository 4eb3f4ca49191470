"""Every act is in the ledger before its result is out; where the ledger refuses, nothing comes out."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from secguard.cli.main import cli
from secguard.core import RefusedError
from secguard.ledger import Ledger
from secguard.workspace import Workspace

CAMERA = "32011600001320000001"
OTHER = "32011600001320000002"
CATALOG = (
    '<?xml version="1.0" encoding="UTF-8"?><Response><CmdType>Catalog</CmdType><SN>1</SN><DeviceID>32011600002000000001'
    f'</DeviceID><SumNum>1</SumNum><DeviceList Num="1"><Item><DeviceID>{CAMERA}</DeviceID><Name>n</Name></Item>'
    "</DeviceList></Response>"
)

# What is typed, the kinds of act it leaves, and whether it hands out a file or changes one that others read.
ACTS = {
    "issue": (["issue", OTHER, "--profile", "camera"], {"device.registered", "certificate.issued"}, True),
    "issue to -o": (["issue", OTHER, "--profile", "camera", "-o", "out"], {"certificate.issued"}, True),
    "issue over a request": (["issue", OTHER, "--profile", "camera", "--csr", "x.csr"], {"certificate.issued"}, True),
    "renew": (["renew", CAMERA, "--profile", "camera"], {"certificate.renewed"}, True),
    "renew many": (["renew", "--expiring", "800", "--area", "320116"], {"certificate.renewed"}, True),
    "revoke": (["revoke", CAMERA], {"certificate.revoked", "crl.published"}, True),
    "crl": (["crl", "--all"], {"crl.published"}, True),
    "ca add": (["ca", "add", "devices", "--area", "32011601"], {"ca.certified", "ca.installed"}, False),
    "ca rollover": (["ca", "rollover", "devices"], {"ca.certified", "ca.installed"}, False),
    "ca backup": (["ca", "backup", "-o", "saved"], {"ca.saved"}, True),
    "device import": (["device", "import", "catalog.xml"], {"devices.imported"}, False),
    "device add": (["device", "add", OTHER], {"device.registered"}, False),
    "device set": (["device", "set", CAMERA, "--name", "gate"], {"device.updated"}, False),
    "device retire": (["device", "retire", CAMERA], {"device.retired", "certificate.revoked"}, True),
    "device coverage": (
        ["device", "coverage", "--catalog", "catalog.xml", "-o", "cov.json"],
        {"devices.compared"},
        True,
    ),
    "enrol allow": (["enrol", "allow", CAMERA, "-o", "secret"], {"enrolment.allowed"}, True),
    "probe": (["probe", "127.0.0.1:{port}"], {"endpoints.probed"}, False),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded") / "site"
    environment = {**os.environ, "XDG_STATE_HOME": str(root.parent / "xdg")}
    for words in (
        ["init", str(root), "--area", "320116"],
        ["identity", "ca", "init", "--yes", "-w", str(root)],
        ["identity", "issue", CAMERA, "--profile", "camera", "-w", str(root)],
    ):
        subprocess.run([sys.executable, "-m", "secguard", *words], check=True, capture_output=True, env=environment)
    (root / "catalog.xml").write_text(CATALOG)
    return root


@pytest.fixture
def site(site, monkeypatch):
    monkeypatch.chdir(site)
    return site


@pytest.fixture(scope="module")
def port():
    """A server that closes every connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def released(site: Path) -> dict[str, bytes]:
    """What leaves the authority: files outside its state, published lists, and what holders get, without their keys."""
    found = {}
    for path in site.rglob("*"):
        name = str(path.relative_to(site))
        inside = name.startswith("state/") and not name.startswith(("state/identity/crl/", "state/identity/devices/"))
        if path.is_file() and not inside and not name.endswith((".key.pem", ".lock", ".tmp")):
            found[name] = path.read_bytes()
    return found


def kinds(site: Path) -> list[str]:
    with Workspace.find(site) as ws:
        return [event.kind for event in map(ws.ledger.event, range(ws.ledger.size)) if event is not None]


def typed(name: str, port: int) -> list[str]:
    return ["identity", *(word.format(port=port) for word in ACTS[name][0])]


@pytest.mark.parametrize("name", ACTS)
def test_recorded_before_it_is_released(site, port, monkeypatch, name):
    _, expected, hands_out = ACTS[name]
    _request(site)
    before, known = released(site), len(kinds(site))
    record, seen = Ledger.record, []

    def watched(self, events):
        seen.append(released(site))
        return record(self, events)

    monkeypatch.setattr(Ledger, "record", watched)
    done = CliRunner().invoke(cli, typed(name, port))
    assert not isinstance(done.exception, Exception), done.exception
    assert done.exit_code in {0, 1, 3}, done.output
    assert seen, "nothing was recorded"
    assert seen[0] == before, "something was out before the ledger had it"
    assert expected <= set(kinds(site)[known:])
    assert (released(site) != before) is hands_out or not hands_out


@pytest.mark.parametrize("name", ACTS)
def test_where_the_ledger_refuses_nothing_comes_out(site, port, monkeypatch, name):
    _request(site)
    before = released(site)

    def refuse(self, events):
        raise RefusedError("ledger.test", "the ledger refuses")

    monkeypatch.setattr(Ledger, "record", refuse)
    done = CliRunner().invoke(cli, typed(name, port))
    assert isinstance(done.exception, RefusedError), (done.exception, done.output)
    assert released(site) == before
    with Workspace.find(site) as ws:
        assert ws.registry.active(OTHER, "camera") is None
        assert {row.status for row in ws.registry.certificates(CAMERA)} <= {"active", "revoked", "signed", "reserved"}


def _request(site: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    (site / "x.csr").write_bytes(csr.public_bytes(Encoding.PEM))
