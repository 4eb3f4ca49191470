"""`secguard identity provision` as processes: kill -9 at any moment, SIGINT, two at once, a full disk, openssl."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from secguard.identity import Registry

NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"
KILLS = 50 if NIGHTLY else 6
DEVICES = 600 if NIGHTLY else 120


def camera(number: int) -> str:
    return f"3201160000132{number:07}"


def listing(site: Path, first: int, count: int, name: str = "devices.csv") -> Path:
    path = site.parent / name
    lines = [f"{camera(n)},机位{n},SN{n}" for n in range(first, first + count)]
    path.write_text("\n".join(["gbid,name,vendor_serial", *lines, ""]), encoding="utf-8")
    return path


def command(site: Path, path: Path, out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "secguard", "identity", "provision", str(path), "-o", str(out), "--json", *more]
    return [*words, "-w", str(site)]


def start(site: Path, path: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command(site, path, out, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(site: Path, path: Path, out: Path, *more: str, code: int = 0) -> dict:
    done = subprocess.run(command(site, path, out, *more), capture_output=True, timeout=240)
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stdout)


def delivered(out: Path, *, with_keys: bool = True) -> list[x509.Certificate]:
    """The certificates that lie in the files, each file read as its receiver reads it."""
    found = []
    passphrase = (out / "passphrase.txt").read_bytes().strip() if (out / "passphrase.txt").exists() else b""
    for path in out.glob("[0-9]*/*.pem"):
        data = path.read_bytes()
        leaf = x509.load_pem_x509_certificates(data)[0]
        if with_keys:
            assert serialization.load_pem_private_key(data, passphrase).public_key() == leaf.public_key(), path
        found.append(leaf)
    return found


def recorded(site: Path) -> list[str]:
    """Serial numbers that the ledger says were issued to devices."""
    from secguard.workspace import Workspace

    with Workspace.find(site) as ws:
        events = [ws.ledger.event(index) for index in range(ws.ledger.size)]
    kinds = {"camera", "media-signing"}
    return [e.data["serial"] for e in events if e.kind == "certificate.issued" and e.data["profile"] in kinds]


def rows(site: Path):
    with Registry.open(site / "state/identity/registry.db") as registry:
        return [row for row in registry.certificates() if row.device]


def nothing_unrecorded(site: Path, out: Path) -> None:
    active = {row.serial: row for row in rows(site) if row.status == "active"}
    said = Counter(recorded(site))
    assert set(said.values()) <= {1}
    for leaf in delivered(out, with_keys=False):
        serial = f"{leaf.serial_number:032x}"
        assert active[serial].certificate == leaf.public_bytes(serialization.Encoding.DER)
        assert said[serial] == 1


def exactly(site: Path, out: Path, devices: int) -> None:
    """Each device has its two certificates: in the files, in the registry, in the ledger; each once."""
    nothing_unrecorded(site, out)
    leaves = delivered(out)
    serials = sorted(f"{leaf.serial_number:032x}" for leaf in leaves)
    assert len(serials) == len(set(serials)) == 2 * devices
    names = Counter(path.name[:20] for path in out.glob("[0-9]*/*.pem"))
    assert set(names.values()) == {2}
    assert len(names) == devices
    found = rows(site)
    assert sorted(row.serial for row in found if row.status == "active") == serials
    assert {row.status for row in found} <= {"active", "void"}
    assert sorted(recorded(site)) == serials
    keys = {leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo) for leaf in leaves}  # fmt: skip # noqa: E501
    assert len(keys) == 2 * devices


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def changed(process: "subprocess.Popen[bytes]", out: Path) -> None:
    """Wait until the job's own folder holds something else than now, or the process has ended."""
    before = set(out.glob(".provision/*"))
    wait_for(lambda: process.poll() is not None or set(out.glob(".provision/*")) != before, 30)


@pytest.mark.timeout(3600 if NIGHTLY else 300)
def test_killed_at_any_moment_the_job_ends_with_all_and_each_once(site, tmp_path):
    path, out = listing(site, 0, DEVICES), tmp_path / "out"
    rng = random.Random(28181)
    killed = 0
    for attempt in range(KILLS):
        process = start(site, path, out, "--jobs", "2")
        if attempt % 3 == 0:  # early: while the job is set up
            time.sleep(rng.uniform(0.3, 1.5))
        else:  # while keys, certificates and files are made
            changed(process, out)
            time.sleep(rng.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        process.stderr.close()
        nothing_unrecorded(site, out)
    assert killed >= KILLS // 2
    data = finish(site, path, out, *(["--resume"] if (out / ".provision/job.json").exists() else []))["data"]
    assert data["refused"] == 0
    assert data["delivered"] + data["again"] == DEVICES
    exactly(site, out, DEVICES)
    again = finish(site, path, out, "--resume")["data"]
    assert (again["again"], again["certificates"]) == (DEVICES, 0)


def test_interrupt_stops_within_a_second_and_the_job_goes_on(site, tmp_path):
    path, out = listing(site, 0, 3000), tmp_path / "out"
    process = start(site, path, out, "--jobs", "2")
    wait_for(lambda: any(out.glob("[0-9]*/*.pem")))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    took = time.monotonic() - began
    assert process.returncode == 130, errors
    assert took < 5  # a second on a machine of its own
    assert 0 < len(list(out.glob("[0-9]*/*.pem"))) < 6000
    nothing_unrecorded(site, out)
    small = listing(site, 0, 3000)
    assert small.read_bytes() == path.read_bytes()
    if NIGHTLY:
        finish(site, path, out, "--resume")
        exactly(site, out, 3000)


def test_two_at_once_over_the_same_and_over_other_devices(site, tmp_path):
    ours, theirs = listing(site, 0, 120, "a.csv"), listing(site, 60, 120, "b.csv")
    first, second = start(site, ours, tmp_path / "a"), start(site, theirs, tmp_path / "b")
    outputs = [process.communicate(timeout=240) for process in (first, second)]
    assert {first.returncode, second.returncode} <= {0, 1}, outputs
    data = [json.loads(stdout)["data"] for stdout, _ in outputs]
    refusals = [one for item in data for one in item["refusals"]]
    assert {one["code"] for one in refusals} == {"identity.certificate.active"}
    assert sum(item["certificates"] for item in data) == 2 * 180
    assert len(refusals) == 2 * 60
    serials = [f"{leaf.serial_number:032x}" for out in ("a", "b") for leaf in delivered(tmp_path / out)]
    active = [row for row in rows(site) if row.status == "active"]
    assert sorted(serials) == sorted(row.serial for row in active)
    assert len(active) == 360
    assert sorted(recorded(site)) == sorted(serials)


def test_workers_end_with_their_parent(site, tmp_path):
    path, out = listing(site, 0, 2000), tmp_path / "out"
    process = start(site, path, out, "--jobs", "2")
    wait_for(lambda: any(out.glob(".provision/keys-*")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()

    def gone(pid: str) -> bool:
        stat = Path(f"/proc/{pid}/stat")
        try:
            return stat.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_for(lambda: all(gone(pid) for pid in children), 10)


def test_full_disk_and_then_more_room(site, tmp_path):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root: a small tmpfs is mounted")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    path, out = listing(site, 0, 120), small / "out"
    try:
        document = finish(site, path, out, code=2)
        assert "No space left" in document["error"]["message"]
        nothing_unrecorded(site, out)
        subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
        assert finish(site, path, out, "--resume")["data"]["refused"] == 0
        exactly(site, out, 120)
    finally:
        subprocess.run(["umount", small], check=True)


def test_openssl_opens_what_is_delivered(site, tmp_path):
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs openssl: apt-get install openssl")
    path = listing(site, 0, 1)
    for kind in ("pem", "p12"):
        out = tmp_path / kind
        finish(site, path, out, "--format", kind, "--replace")
        passphrase, folder = f"file:{out / 'passphrase.txt'}", out / camera(0)[:8]
        pem = folder / f"{camera(0)}.camera.pem"
        check = ["verify", "-x509_strict", "-CAfile", out / "ca.pem", "-untrusted", pem, pem]
        subprocess.run([tool, *map(str, check)], check=True, capture_output=True)
        if kind == "pem":
            key = subprocess.run(
                [tool, "pkey", "-in", pem, "-passin", passphrase, "-pubout"], check=True, capture_output=True
            )
        else:
            store = folder / f"{camera(0)}.camera.p12"
            both = subprocess.run(
                [tool, "pkcs12", "-in", store, "-passin", passphrase, "-nodes"], check=True, capture_output=True
            )
            assert both.stdout.count(b"BEGIN CERTIFICATE") == 3
            key = subprocess.run([tool, "pkey", "-pubout"], input=both.stdout, check=True, capture_output=True)
        stated = subprocess.run([tool, "x509", "-in", pem, "-noout", "-pubkey"], check=True, capture_output=True)
        assert key.stdout == stated.stdout


def test_refused_lines_end_with_1_and_no_secret_is_printed(site, tmp_path):
    path, out = listing(site, 0, 2), tmp_path / "out"
    path.write_text(path.read_text(encoding="utf-8") + "123,wrong,\n", encoding="utf-8")
    done = subprocess.run(command(site, path, out), capture_output=True, timeout=240)
    assert done.returncode == 1
    data = json.loads(done.stdout)["data"]
    assert [(one["line"], one["code"]) for one in data["refusals"]] == [(4, "gbid.length")]
    assert Path(data["error_file"]).exists()
    assert (out / "passphrase.txt").read_bytes().strip() not in done.stdout + done.stderr
