"""`identity probe` over a real workspace: registry, reports, update, interruption, credentials."""

import contextlib
import csv
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secguard.identity import Registry

CAMERAS = [f"3201160000132000000{n}" for n in range(1, 5)]
PLATFORM = "32011600002000000001"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A workspace with four cameras and a platform."""
    root = tmp_path_factory.mktemp("probe") / "site"
    environment = {**os.environ, "XDG_STATE_HOME": str(root.parent / "xdg")}
    for words in (
        ["init", str(root), "--area", "320116"],
        ["identity", "ca", "init", "--yes", "-w", str(root)],
        *(["identity", "issue", camera, "--profile", "camera", "-w", str(root)] for camera in CAMERAS[:3]),
        ["identity", "issue", PLATFORM, "--profile", "platform", "-w", str(root)],
    ):
        subprocess.run([sys.executable, "-m", "secguard", *words], check=True, capture_output=True, env=environment)
    return root


@pytest.fixture
def run(secguard, site):
    def call(*words, code=0):
        done = secguard("identity", *words, cwd=site)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return call


def open_key(site, folder, holder, profile):
    """The files of a holder, the key in clear for a server of ours."""
    stem = site / "state" / "identity" / "devices" / holder / f"{holder}.{profile}"
    passphrase = (site / "state" / "passphrase").read_bytes().strip()
    key = serialization.load_pem_private_key(stem.with_name(f"{stem.name}.key.pem").read_bytes(), passphrase)
    clear = folder / f"{holder}.key"
    clear.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return stem.with_name(f"{stem.name}.chain.pem"), clear


@contextlib.contextmanager
def camera(chain, key, demand=None):
    """A camera's web interface on all loopback addresses."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(chain, key)
    if demand is not None:
        made.load_verify_locations(demand)
        made.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("0.0.0.0", 0), backlog=512)

    def one(sock):
        sock.settimeout(10)
        with contextlib.suppress(OSError, ssl.SSLError), made.wrap_socket(sock, server_side=True) as tls:
            tls.recv(4096)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def loop():
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=one, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def place(site, **addresses):
    """Enter addresses into the registry."""
    with Registry.open(site / "state" / "identity" / "registry.db") as registry, registry.transaction():
        records = {item.gbid: item for item in registry.devices()}
        registry.save([msgspec.structs.replace(records[key[1:]], address=value) for key, value in addresses.items()])


def test_the_registry_probed_reported_and_updated(run, site, tmp_path):
    first, second, third = CAMERAS[:3]
    with (
        camera(*open_key(site, tmp_path, first, "camera")) as one,
        camera(*open_key(site, tmp_path, second, "camera")) as two,
    ):
        # The second camera's certificate answers at the third's address; the second itself is off.
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            off = closed.getsockname()[1]
        place(
            site, **{f"_{first}": f"127.0.0.1:{one}", f"_{third}": f"127.0.0.2:{two}", f"_{second}": f"127.0.0.3:{off}"}
        )
        report = tmp_path / "report.html"
        done = run("probe", "--registry", "--json", "--update", "--report", str(report), "--lang", "zh", code=1)
        answer = json.loads(done.stdout)
        assert answer["schema"] == "secguard.identity.probe/1"
        assert answer["outcome"] == "fail"
        assert answer["data"]["outcomes"] == {"pass": 1, "fail": 1, "unknown": 2}
        assert answer["data"]["not_probed"] == [PLATFORM]
        assert answer["data"]["updated"] == [first]
        assert answer["receipt"]["index"] > 0
        found = {item["target"]: {f["code"] for f in item["findings"]} for item in answer["data"]["endpoints"]}
        assert found[f"127.0.0.1:{one}"] == set()
        assert found[f"127.0.0.2:{two}"] == {"identity.endpoint.wrong-device"}
        assert found[f"127.0.0.3:{off}"] == {"identity.endpoint.refused"}
        page = report.read_text(encoding="utf-8")
        assert "在线设备证书核查" in page
        assert "证书剩余有效期分布" in page
        assert "identity.endpoint.wrong-device" in page

        again = json.loads(run("probe", "--registry", "--json", "--update", code=1).stdout)
        assert again["data"]["updated"] == []
        assert again["data"]["sha256"] == answer["data"]["sha256"], "the same answers, the same digest"
        lines = run("probe", "--registry", "--jsonl", code=1).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        assert sum("endpoint" in item for item in records) == 3
        assert records[-1]["summary"]["outcome"] == "fail"
        assert records[-1]["summary"]["exit"] == 1

        table = tmp_path / "report.csv"
        run("probe", "--registry", "--area", "320116", "--report", str(table), code=1)
        rows = list(csv.reader(io.StringIO(table.read_text(encoding="utf-8-sig"))))
        assert any(f"127.0.0.2:{two}" in row for row in rows)
        junit = tmp_path / "report.xml"
        run("probe", "--registry", "--report", str(junit), code=1)
        names = {case.get("name") for case in ET.parse(junit).iter("testcase")}
        assert f"127.0.0.2:{two} {third}" in names
        run("probe", "--registry", "--area", "11", code=2)
    with Registry.open(site / "state" / "identity" / "registry.db") as registry:
        assert registry.device(first).status == "active"
        assert registry.device(second).status == "issued"


def test_a_list_and_a_foreign_root(run, secguard, site, tmp_path):
    chain, key = open_key(site, tmp_path, CAMERAS[0], "camera")
    with camera(chain, key) as port:
        targets = tmp_path / "list.txt"
        targets.write_text(f"# cameras\n127.0.0.1:{port} {CAMERAS[0]}\n\n127.0.0.1:{port} {CAMERAS[0]}\n")
        answer = json.loads(run("probe", "--file", str(targets), "--json").stdout)
        assert [item["target"] for item in answer["data"]["endpoints"]] == [f"127.0.0.1:{port}"], "each once"
        # On another machine, with nothing but the root: the status is not known, and that is no pass.
        away = tmp_path / "away"
        away.mkdir()
        root = site / "certs" / "root.pem"
        done = secguard("identity", "probe", f"127.0.0.1:{port}", "--root", root, "--json", cwd=away)
        assert done.returncode == 3, done.stderr
        assert json.loads(done.stdout)["axes"]["revocation"] == "unknown"
        crls = site / "state" / "identity" / "crl"
        done = secguard("identity", "probe", f"127.0.0.1:{port}", "--root", root, "--crl", crls, cwd=away)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["10.0.0.0/24"],
        ["--area", "3201", "127.0.0.1:1"],
        ["127.0.0.1:1", "127.0.0.1:2", "--max", "1"],
        ["127.0.0.1:1", "--mutual", "--credentials", "empty"],
    ],
)
def test_wrong_words_are_one_clear_line(run, words):
    done = run("probe", *words, code=2)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_interrupted_it_keeps_what_it_has(site):
    quiet = socket.create_server(("0.0.0.0", 0), backlog=512)
    port = quiet.getsockname()[1]
    words = [f"127.0.1.{n}:{port}" for n in range(1, 100)]
    process = subprocess.Popen(
        [sys.executable, "-m", "secguard", "identity", "probe", *words, "--jobs", "8", "--timeout", "60", "--jsonl"],
        cwd=site,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with quiet:
        quiet.accept()[0].close()
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 4
    assert "Traceback" not in err
    summary = json.loads(out.splitlines()[-1])["summary"]
    assert summary["interrupted"]
    assert summary["by_finding"]["identity.endpoint.not-probed"] >= 90


def test_mutual_with_credentials_of_the_site(run, site, tmp_path):
    folder = tmp_path / "credentials"
    made = json.loads(run("probe-credentials", str(folder), "--json").stdout)
    assert [item["name"] for item in made["data"]["credentials"]] == ["other", "revoked", "expired"]
    passphrase = site / "state" / "passphrase"
    stem = site / "state" / "identity" / "devices" / PLATFORM / f"{PLATFORM}.platform"
    good = ["--cert", f"{stem}.chain.pem", "--key", f"file:{stem}.key.pem", "--credentials", str(folder)]
    good += ["--passphrase-file", str(passphrase), "--timeout", "3"]
    chain, key = open_key(site, tmp_path, CAMERAS[0], "camera")
    with camera(chain, key, demand=site / "certs" / "root.pem") as port:
        answer = json.loads(run("probe", f"127.0.0.1:{port}", "--mutual", *good, "--json", code=1).stdout)
        (endpoint,) = answer["data"]["endpoints"]
        assert endpoint["clients"] == {
            "good": "accepted",
            "none": "refused",
            "stranger": "refused",
            "expired": "refused",
            "revoked": "accepted",
            "other": "accepted",
        }
        codes = {item["code"] for item in answer["findings"]}
        assert codes == {"identity.endpoint.client-revoked", "identity.endpoint.client-other"}
        only = ["--try", "none", "--try", "stranger"]
        run("probe", f"127.0.0.1:{port}", "--mutual", *only, *good)
        # Without the right client nothing is proven.
        run("probe", f"127.0.0.1:{port}", "--mutual", *only, code=3)
    ended = json.loads(run("probe-credentials", str(folder), "--end", "--json").stdout)
    assert len(ended["data"]["revoked"]) == 1
    with Registry.open(site / "state" / "identity" / "registry.db") as registry:
        now = time.time()
        holders = {item["holder"] for item in made["data"]["credentials"]}
        for holder in holders:
            for record in registry.certificates(holder):
                assert record.status == "revoked" or record.x509().not_valid_after_utc.timestamp() < now


def test_names_that_would_run_reach_no_terminal_table_or_page(run, site, tmp_path):
    """One key at two addresses, in a certificate whose names are commands for spreadsheets, terminals and browsers."""
    nasty = "=cmd|'/c calc'!A1\x1b[2J\u202e<script>alert(1)</script>"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, nasty[:64])])
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "nasty.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "nasty.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with camera(tmp_path / "nasty.pem", tmp_path / "nasty.key") as port:
        words = ["probe", f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
        page, table = tmp_path / "r.html", tmp_path / "r.csv"
        shown = run(*words, "--report", str(page), code=1)
        run(*words, "--report", str(table), "-q", code=1)
        answer = json.loads(run(*words, "--json", code=1).stdout)
    for text in (shown.stdout, shown.stderr, page.read_text(encoding="utf-8"), table.read_text(encoding="utf-8-sig")):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script>" not in page.read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(table.read_text(encoding="utf-8-sig"))))
    assert not [cell for row in rows for cell in row if cell.startswith("=")]
    found = {item["target"]: {f["code"] for f in item["findings"]} for item in answer["data"]["endpoints"]}
    for codes in found.values():
        assert {"identity.endpoint.key-shared", "identity.endpoint.self-signed", "identity.endpoint.expiring"} <= codes
