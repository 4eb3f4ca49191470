"""The whole way of an administrator, as docs/identity.md tells it: from the root's ceremony to the coverage report."""

import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

AREA = "320116"
CAMERAS = [f"32011600001320000{number:03}" for number in range(1, 12)]
RECORDER = "32011600001180000001"
UNREGISTERED = CAMERAS[-1]


def catalog() -> bytes:
    """The platform's answer to a catalog query, GB18030 as platforms send it: eleven cameras and a recorder."""
    items = "".join(
        f"<Item><DeviceID>{gbid}</DeviceID><Name>江宁路口{number}</Name><Manufacturer>海康</Manufacturer>"
        f"<Model>DS-2CD</Model><CivilCode>{AREA}</CivilCode><Address>秣陵街道</Address><Parental>0</Parental>"
        f"<ParentID>32011600002000000001</ParentID><Status>ON</Status><Longitude>118.{840 + number}</Longitude>"
        f"<Latitude>31.{950 + number}</Latitude></Item>"
        for number, gbid in enumerate([*CAMERAS, RECORDER])
    )
    total = len(CAMERAS) + 1
    return (
        '<?xml version="1.0" encoding="GB18030"?>\r\n<Response><CmdType>Catalog</CmdType><SN>17</SN>'
        f"<DeviceID>32011600002000000001</DeviceID><SumNum>{total}</SumNum>"
        f'<DeviceList Num="{total}">{items}</DeviceList></Response>'
    ).encode("gb18030")


@pytest.fixture
def run(secguard, tmp_path):
    def call(*words, code=0, cwd="site"):
        done = secguard(*words, "--json", cwd=tmp_path / cwd)
        assert done.returncode == code, (words, done.stdout[-1500:], done.stderr)
        return json.loads(done.stdout)

    return call


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """The site's service, as systemd would start it; gives the URL of enrolment."""
    process = subprocess.Popen(
        [sys.executable, "-m", "secguard", "serve", "-w", str(site)], stderr=subprocess.PIPE, text=True
    )
    try:
        seen = ""
        assert process.stderr is not None
        while not (found := re.search(r"https://\S+", seen)):
            line = process.stderr.readline()
            assert line, seen
            seen += line
        yield found.group().rstrip("/")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_from_the_ceremony_to_the_coverage_report(run, secguard, tmp_path):
    openssl, curl = tool("openssl", "openssl"), tool("curl", "curl")
    root, site = tmp_path / "root", tmp_path / "site"
    port = free_port()

    # The root: a workspace of its own, on a machine without a network. Only files go between the two.
    for folder in (root, site):
        assert secguard("init", folder, "--area", AREA).returncode == 0
    run("identity", "ca", "init", "--root-only", "--yes", cwd="root")
    config = site / "secguard.toml"
    # Where devices and verifiers will find lists and OCSP; it goes into every certificate, so it comes first.
    status = f"http://127.0.0.1:{port}"
    text, count = re.subn(
        r"(?m)^crl_url = .*$",
        f'crl_url = "{status}/crl"\nocsp_url = "{status}/ocsp"\nca_url = "{status}/ca"',
        config.read_text(),
    )
    assert count == 1
    config.write_text(f'{text}\n[serve]\nest = "127.0.0.1:0"\nstatus = "127.0.0.1:{port}"\n')
    run("identity", "ca", "request", "-o", "../requests", "--yes")
    run("identity", "ca", "sign", "../requests", "-o", "../signed", "--yes", cwd="root")
    shown = run("identity", "ca", "show", cwd="root")["data"]["authorities"][0]
    run("identity", "ca", "install", "../signed", "--root-sha256", shown["sha256"])
    assert not (site / "state/identity/keys/root.key.pem").exists()
    assert run("identity", "lint")["outcome"] == "pass"

    # The register, from the platform's own catalog; one camera of it is not entered here.
    (site / "catalog.xml").write_bytes(catalog())
    short = catalog().replace(re.search(rb"<Item><DeviceID>%b.*?</Item>" % UNREGISTERED.encode(), catalog())[0], b"")
    (site / "first.xml").write_bytes(short.replace(b"SumNum>12<", b"SumNum>11<").replace(b'Num="12"', b'Num="11"'))
    imported = run("identity", "device", "import", "first.xml", "--datum", "GCJ-02", "--case", "JN-2026-7")
    assert run("identity", "device", "list")["data"]["total"] == 11, imported

    # Certificates: four cameras from a list, four one by one, one enrols over the network, one gets none yet.
    (site / "cameras.csv").write_text("gbid\n" + "\n".join(CAMERAS[:4]) + "\n")
    provisioned = run("identity", "provision", "cameras.csv", "-o", "out")["data"]
    assert (provisioned["delivered"], provisioned["refused"]) == (4, 0)
    for gbid in CAMERAS[4:8]:
        run("identity", "issue", gbid, "--profile", "camera")
    run("identity", "issue", RECORDER, "--profile", "nvr")
    run("identity", "issue", "127.0.0.1", "--profile", "server")
    camera = CAMERAS[8]
    run("identity", "enrol", "allow", camera, "-o", "secret")
    secret = (site / "secret").read_text().split()[-1]
    request = (
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        f"/CN={camera}",
    )
    device = tmp_path / "device"
    device.mkdir()
    subprocess.run(
        [openssl, *request, "-keyout", "key.pem", "-out", "csr.der", "-outform", "DER"],
        cwd=device,
        check=True,
        capture_output=True,
    )
    (device / "csr.b64").write_bytes(base64.encodebytes((device / "csr.der").read_bytes()))

    def enrol(url: str, operation: str, *more: str) -> subprocess.CompletedProcess:
        words = [
            curl,
            "-sS",
            "--fail",
            "--cacert",
            str(site / "certs/root.pem"),
            "-H",
            "Content-Type: application/pkcs10",
        ]
        words += ["--data-binary", f"@{device / 'csr.b64'}", *more, f"{url}/{operation}"]
        return subprocess.run(words, capture_output=True, timeout=60)

    with serving(site) as url:
        est = url if url.endswith("/est") else f"{url}/.well-known/est"
        answer = enrol(est, "simpleenroll", "-u", f"{camera}:{secret}")
        assert answer.returncode == 0, answer.stderr
        (device / "p7.der").write_bytes(base64.b64decode(answer.stdout))
        made = subprocess.run(
            [openssl, "pkcs7", "-inform", "DER", "-in", "p7.der", "-print_certs"], cwd=device, capture_output=True
        )
        (device / "cert.pem").write_bytes(made.stdout)
        assert enrol(est, "simpleenroll", "-u", f"{camera}:{secret}").returncode != 0  # once
        again = enrol(est, "simplereenroll", "--cert", str(device / "cert.pem"), "--key", str(device / "key.pem"))
        assert again.returncode == 0, again.stdout

        # A live endpoint, asked for what it really serves: the enrolment service itself.
        probed = run("identity", "probe", urlsplit(url).netloc)
        assert probed["outcome"] == "pass"

        # OpenSSL asks the responder about a good camera and a revoked one, while the service runs.
        bad = CAMERAS[7]
        run("identity", "revoke", bad, "--reason", "keyCompromise", "--case", "JN-2026-8")
        devices = tmp_path / "devices.pem"
        fetched = subprocess.run([curl, "-sS", "--fail", f"{status}/ca/devices.cer"], capture_output=True, timeout=30)
        assert fetched.returncode == 0, fetched.stderr
        convert = [openssl, "x509", "-inform", "DER", "-out", str(devices)]
        subprocess.run(convert, input=fetched.stdout, check=True)

        def stands(gbid: str) -> str:
            leaf = site / f"state/identity/devices/{gbid}/{gbid}.camera.pem"
            words = [openssl, "ocsp", "-issuer", str(devices), "-cert", str(leaf), "-url", f"{status}/ocsp"]
            done = subprocess.run(
                [*words, "-CAfile", str(site / "certs/root.pem"), "-verify_other", str(devices)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            return done.stdout

        assert ": good" in stands(CAMERAS[4])
        assert ": revoked" in stands(bad)

    # Renewal: what has its key here; cameras that have their own are named.
    renewed = run("identity", "renew", "--expiring", "731", "--area", AREA)["data"]
    assert renewed["renewed"] == 3 * 2 + 1
    assert {item["holder"] for item in renewed["devices"]} == {*CAMERAS[:4], camera}
    assert run("identity", "renew", "--due")["data"]["renewed"] == 0
    assert run("identity", "expiring", "--critical", "30", "--report", "ends.html")["outcome"] == "pass"
    facts = run("status")["data"]
    assert "REVOCATION LISTS STALE" not in facts

    # Judged by others, with the root and the lists alone.
    run("identity", "crl", "-o", "lists.pem")
    for gbid, code in ((CAMERAS[4], 0), (bad, 1)):
        leaf = f"state/identity/devices/{gbid}/{gbid}.camera.chain.pem"
        run("identity", "verify", leaf, "--root", "certs/root.pem", "--crl", "lists.pem", "--gbid", gbid, code=code)

    _coverage(run, site)
    _ledger(run, site, camera, bad)


def _coverage(run, site: Path) -> None:
    """The report that names who is missing, signed, and believed on another machine; no other catalog passes for it."""
    told = run(
        *(
            "identity",
            "device",
            "coverage",
            "--catalog",
            "catalog.xml",
            "-o",
            "coverage.json",
            "--report",
            "coverage.html",
        ),
        *("--lang", "zh"),
        code=1,
    )
    assert (told["data"]["entries"], told["data"]["registered"]["passed"], told["data"]["certified"]["passed"]) == (
        12,
        11,
        9,
    )
    missing = {(item["code"], item["gbid"]) for item in told["data"]["exceptions"] if item["measure"] != "located"}
    assert ("identity.coverage.unregistered", UNREGISTERED) in missing
    named = {gbid for _, gbid in missing}
    assert named == {UNREGISTERED, CAMERAS[9], CAMERAS[7]}  # not entered; without a certificate; revoked
    text = (site / "coverage.html").read_text()
    assert all(gbid in text for gbid in named)
    court = site.parent / "court"
    court.mkdir()
    for name in ("coverage.json", "catalog.xml", "lists.pem", "certs/root.pem"):
        shutil.copy(site / name, court)
    words = ("identity", "device", "coverage-verify", "coverage.json", "--root", "root.pem", "--crl", "lists.pem")
    run(*words, "--catalog", "catalog.xml", cwd="court")
    (court / "catalog.xml").write_bytes(b"other")
    run(*words, "--catalog", "catalog.xml", cwd="court", code=1)


def _ledger(run, site: Path, camera: str, bad: str) -> None:
    """Every act stands in the ledger, and the ledger is whole."""
    from secguard.workspace import Workspace

    with Workspace.find(site) as ws:
        events = [event for event in map(ws.ledger.event, range(ws.ledger.size)) if event is not None]
    kinds = Counter(event.kind for event in events)
    assert kinds["ca.requested"] == kinds["ca.installed"] == 1 or kinds["ca.installed"] == 5
    assert kinds["certificate.revoked"] == 2  # the camera's, and its media signing certificate
    assert {event.case for event in events if event.kind == "certificate.revoked"} == {"JN-2026-8"}
    assert kinds["enrolment.allowed"] == 1
    assert kinds["certificate.refused"] == 1
    assert [event.subject for event in events if event.kind == "certificate.refused"] == [camera]
    assert run("ledger", "verify")["outcome"] == "pass"
