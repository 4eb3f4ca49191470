"""Issuing and provisioning against the machine's own limits: `python tests/bench/bench_identity_issue.py [--json]`.

Every ratio is taken within one run, in turns, so that a busy machine slows both sides:

- issuing: CSR parse, proof of possession and a certificate from a template, against one ECDSA sign and one verify;
- provisioning: keys, certificates, registry, ledger and files of `--devices` cameras, two certificates each, against
  processes of the same number that make as many keys and CSRs, parse them, check the proof of possession and sign with
  the builder of `cryptography`, and keep nothing; once by the clock, before and after, and once in processor time;
- and the same provisioning in certificates a second, against step-ca's sign endpoint with its own database and its load
  generator, loaded in the same run; where it cannot be built (Go, wrk), against the 670 a second that it once served.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secguard.gbid import GbId, Scope
from secguard.identity import IdentityConfig, Profile
from secguard.identity.certificate import Validity, build_ca, build_leaf
from secguard.identity.issuing.certify import new_serial
from secguard.identity.issuing.provision import provision
from secguard.identity.issuing.request import read_csr
from secguard.identity.issuing.template import Template
from secguard.identity.issuing.wishes import Setting
from secguard.identity.profiles import CaProfile, Usage
from secguard.keys import generate
from secguard.trust import Purpose

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SPAN = Validity(NOW, NOW + timedelta(days=730))
GBID = "32011600001320000001"
STEP_CA = 670
ECDSA = ec.ECDSA(hashes.SHA256())


def authority() -> tuple[x509.Certificate, Any, Profile, IdentityConfig]:
    """A device CA in memory."""
    config = IdentityConfig(crl_url="http://crl.example", crl_shards=64, ocsp_url="http://ocsp.example")
    root, signer = generate(), generate()
    long = Validity(NOW, NOW + timedelta(days=3650))
    scope = Scope(("320116",))
    common: dict[str, Any] = {"validity": long, "scope": scope, "signer": root}
    top = build_ca(CaProfile(days=3650), "root", config, root.public_key(), serial=1, issuer=None, **common)
    below = CaProfile(days=3650, purposes=(Purpose.DEVICE,))
    ca = build_ca(below, "devices", config, signer.public_key(), serial=2, issuer=top, **common)
    profile = Profile(
        name="camera", purpose=Purpose.DEVICE, days=730, usages=(Usage.CLIENT_AUTH, Usage.SERVER_AUTH), dns=True
    )
    return ca, signer, profile, config


def request() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A device's key and CSR."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    return key, csr.public_bytes(serialization.Encoding.DER)


def spent(function: Callable[[], object], times: int) -> float:
    """Processor seconds a call."""
    began = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - began) / times


def issuing(rounds: int) -> list[dict[str, Any]]:
    """CSR in, certificate out, in memory; the best of some rounds on both sides."""
    ca, signer, profile, config = authority()
    key, csr = request()
    data = b"x" * 600
    signature = key.sign(data, ECDSA)
    public = key.public_key()
    common: dict[str, Any] = {"issuer": ca, "issuer_name": "devices", "signer": signer, "validity": SPAN}
    first = build_leaf(profile, GBID, config, public, serial=int(new_serial(), 16), vendor_serial="SN 1", **common)
    template = Template(first, profile, GbId(GBID), config, "devices")
    der, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo

    def floor() -> None:
        signer.private_key().sign(data, ECDSA)
        public.verify(signature, data, ECDSA)

    def by_template() -> None:
        spki = read_csr(csr, profile).public_bytes(der, form)
        template.certificate(template.tbs(GbId(GBID), int(new_serial(), 16), SPAN, spki, "SN 1"), signer)

    def by_builder() -> None:
        build_leaf(profile, GBID, config, read_csr(csr, profile), serial=int(new_serial(), 16), **common)

    best: dict[Callable[[], None], float] = {}
    for _ in range(rounds):
        for function in (floor, by_template, by_builder):
            best[function] = min(best.get(function, 1e9), spent(function, 100))
    return [
        row("one ECDSA sign + one verify", 1 / best[floor], "/s a core"),
        row("issuing: CSR, possession, sign", 1 / best[by_template], "/s a core", best[floor] / best[by_template], 0.5),
        row("the same with the builder alone", 1 / best[by_builder], "/s a core", best[floor] / best[by_builder]),
    ]  # fmt: skip


def bare(count: int) -> float:
    """Keys, CSRs, proofs of possession and signatures, and nothing kept; returns the processor seconds."""
    began = time.process_time()
    ca, signer, profile, config = authority()
    common: dict[str, Any] = {"issuer": ca, "issuer_name": "devices", "signer": signer, "validity": SPAN}
    for _ in range(count):
        csr = x509.load_der_x509_csr(request()[1])
        if not csr.is_signature_valid:
            raise SystemExit("no proof of possession")
        build_leaf(profile, GBID, config, csr.public_key(), serial=int(new_serial(), 16), **common)
    return time.process_time() - began


def bare_rate(certificates: int, jobs: int) -> tuple[float, float]:
    """Certificates a second of `jobs` processes that are running already, and processor seconds a certificate."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        list(pool.map(bare, [1] * jobs * 4))
        began = time.monotonic()
        busy = sum(pool.map(bare, [100] * (certificates // 100)))
        return certificates / (time.monotonic() - began), busy / certificates


def busy() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def busy_of(process: int) -> float:
    """Processor seconds of a process that runs."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def step_ca(folder: Path) -> tuple[str, float, float]:
    """What step-ca is called in the table, its certificates a second, and processor seconds a certificate."""
    import bench_identity_est as est

    script, lines = folder / "load.lua", folder / "requests.txt"
    script.write_text(est.SCRIPT)
    try:
        if shutil.which("wrk") is None:
            raise FileNotFoundError("wrk")
        server = est.StepCa(folder / "step-ca")
    except (OSError, subprocess.SubprocessError):
        return "step-ca's 670/s of an earlier run", STEP_CA, 2 / STEP_CA
    try:
        server.prepare(0, est.SECONDS * est.ENOUGH, lines)
        began = busy() + busy_of(server.process.pid)
        rate, _ = est.load(server.url, lines, script)
        used = busy() + busy_of(server.process.pid) - began
        return "step-ca in this run", rate, used / (rate * est.SECONDS)
    finally:
        server.close()


def provisioning(devices: int, jobs: int, folder: Path) -> list[dict[str, Any]]:
    """A workspace with a real ledger on a real disk; bare work before and after."""
    from secguard.workspace import Workspace

    site = folder / "site"
    for words in (["init", str(site), "--area", "320116"], ["identity", "ca", "init", "--yes", "-w", str(site)]):
        subprocess.run([sys.executable, "-m", "secguard", *words], check=True, capture_output=True)
    path = folder / "devices.csv"
    lines = [f"3201160000132{n:07},camera {n},SN{n}" for n in range(devices)]
    path.write_text("\n".join(["gbid,name,vendor_serial", *lines, ""]))
    before = bare_rate(2 * devices, jobs)
    with Workspace.find(site) as workspace:
        began = busy()
        done = provision(workspace.authority(None), path, Setting(folder / "out", jobs=jobs))
        used = busy() - began
    if done.refused or done.issued != 2 * devices:
        raise SystemExit(f"{len(done.refused)} refused, {done.issued} issued")
    after = bare_rate(2 * devices, jobs)
    limit, rate = (before[0] + after[0]) / 2, done.certificates / done.seconds
    bare_cost, cost = (before[1] + after[1]) / 2, used / done.certificates
    name, peer, peer_cost = step_ca(folder)
    return [
        row(f"key, CSR, possession, signature alone, {jobs} processes", limit, "certificates/s"),
        row(f"provisioning {devices} devices, {jobs} jobs", rate, "certificates/s", rate / limit, 0.5),
        row("the same in processor time", cost * 1e6, "us a certificate", bare_cost / cost, 0.5),
        row(name, peer, "certificates/s"),
        row("provisioning against it", rate, "certificates/s", rate / peer, 5),
        row("the same in processor time", cost * 1e6, "us a certificate", peer_cost / cost, 5),
        row("devices with both certificates", done.devices / done.seconds, "devices/s"),
    ]


def row(what: str, value: float, unit: str, ratio: float | None = None, goal: float | None = None) -> dict[str, Any]:
    """One measurement."""
    return {"what": what, "value": value, "unit": unit, "ratio": ratio, "goal": goal}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dir", type=Path, help="on the disk to be measured")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="secguard-bench-", dir=args.dir))
    # ext4 looks for inodes near the parent folder and passes over those deleted within half a minute, one by one: the
    # mark of a top folder lets it begin elsewhere, so that what others have just deleted does not count.
    subprocess.run(["chattr", "+T", str(folder)], check=False, capture_output=True)
    os.environ["XDG_STATE_HOME"] = str(folder / "xdg")
    try:
        rows = [*issuing(args.rounds), *provisioning(args.devices, args.jobs, folder)]
    finally:
        shutil.rmtree(folder)
    if args.json:
        print(json.dumps(rows))
        return
    for item in rows:
        ratio = "" if item["ratio"] is None else f"  ratio {item['ratio']:.2f} (goal {item['goal']})"
        print(f"{item['what']:56} {item['value']:>10,.0f} {item['unit']}{ratio}")


if __name__ == "__main__":
    main()
