"""How fast live endpoints are probed: many on loopback, each with its own certificate, against bare handshakes.

    python tests/bench/bench_identity_probe.py [--endpoints 1000] [--json]

The server shares the machine: one process a core answers, so the figures hold for probe and server together.
"""

import argparse
import json
import multiprocessing
import os
import socket
import ssl
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secguard.identity.probe.judge import Judge
from secguard.identity.probe.link import Link, context, open_socket
from secguard.identity.probe.probe import probe
from secguard.identity.probe.run import Options, ask_all
from secguard.identity.probe.targets import Target
from secguard.trust import TrustPolicy


def _certificate(name, key, issuer, signer, *, ca=False):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=300))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signer or key, hashes.SHA256())
    )


def _serve(listener, folder, count):
    """Answer each loopback address with its own certificate."""
    contexts = []
    for index in range(count):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(folder / f"{index}.pem")
        contexts.append(made)

    def one(sock):
        try:
            _, b, c = sock.getsockname()[0].split(".")[1:]
            with contexts[(int(b) * 256 + int(c)) % count].wrap_socket(sock, server_side=True) as tls:
                tls.recv(1)
        except (OSError, ssl.SSLError):
            sock.close()

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=one, args=(sock,), daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    count = args.endpoints
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root_key = ec.generate_private_key(ec.SECP256R1())
        root = _certificate("root", root_key, None, None, ca=True)
        for index in range(count):
            key = ec.generate_private_key(ec.SECP256R1())
            leaf = _certificate(f"camera {index}", key, root, root_key)
            clear = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            (folder / f"{index}.pem").write_bytes(clear + leaf.public_bytes(serialization.Encoding.PEM))
        listener = socket.create_server(("0.0.0.0", 0), backlog=1024)
        port = listener.getsockname()[1]
        fork = multiprocessing.get_context("fork")
        servers = [fork.Process(target=_serve, args=(listener, folder, count), daemon=True) for _ in range(2)]
        for server in servers:
            server.start()
        targets = [Target(f"127.1.{index // 256}.{index % 256}", port) for index in range(count)]
        # The servers load their certificates first.
        assert len(list(ask_all(targets[:4], Options(jobs=4, timeout=120), threading.Event()))) == 4
        rows = list(_measure(targets, TrustPolicy([root])))
        for server in servers:
            server.terminate()
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['what']:<58}{row['value']:>10,.1f} {row['unit']:<14}{row['ratio'] or '':>8}")


def _measure(targets, policy):
    stop = threading.Event()
    made = context()
    began = time.perf_counter()
    sample = targets[: len(targets) // 4]
    for target in sample:
        deadline = time.monotonic() + 10
        link = Link(open_socket(target, deadline, stop), deadline, stop)
        link.start(made)
        link.close()
    bare = len(sample) / (time.perf_counter() - began)
    yield {"what": "bare handshakes, one thread", "value": bare, "unit": "endpoints/s", "ratio": None, "goal": None}
    now = datetime.now(UTC)
    for jobs in (1, 64):
        used = sample if jobs == 1 else targets
        cpu, began = time.process_time(), time.perf_counter()
        probed = probe(used, Judge(policy, now), Options(jobs=jobs, timeout=30), subject="bench", at=now)
        seconds = time.perf_counter() - began
        assert all(item.state == "presented" for item in probed.endpoints)
        assert not any(one.code.endswith("key-shared") for item in probed.endpoints for one in item.findings)
        rate = len(used) / seconds
        yield {
            "what": f"probed and judged, {jobs} job{'s' if jobs > 1 else ''}, {len(used):,} endpoints",
            "value": rate,
            "unit": "endpoints/s",
            "ratio": round(rate / bare, 2),
            "goal": 0.5,
        }
        cost = (time.process_time() - cpu) / len(used) * 1000
        yield {"what": "  CPU of the probe alone", "value": cost, "unit": "ms/endpoint", "ratio": None, "goal": None}


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
