"""Revocation lists and OCSP against the machine's limits: `python tests/bench/bench_identity_status.py [--json]`.

A list is compared with SHA-256 over its bytes, OCSP with bare ECDSA signatures by the same key, in processor time. Both
sides of a ratio take turns in one run.
"""

import argparse
import json
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from secguard.core import FixedClock
from secguard.events import Actor, Event, Receipt
from secguard.gbid import Scope
from secguard.identity import Authority, IdentityConfig, Registry, create_authority
from secguard.identity.issuing.issue import Request
from secguard.identity.status.crl import build_crl, collect
from secguard.identity.status.delegate import delegates
from secguard.identity.status.ocsp import Responder, ResponseStatus
from secguard.identity.status.revoke import Revocation

HERE = Path(__file__).parent
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
CAMERA = "32011600001320000001"
CA = "devices"


class NoLedger:
    """Takes events and keeps none: the ledger is measured in its own benchmark."""

    def record(self, events: Sequence[Event]) -> Sequence[Receipt]:
        return [Receipt(event.id, 0, bytes(32), "bench") for event in events]


def site(folder: Path) -> Authority:
    shutil.copytree(HERE.parent.parent / "certs", folder / "certs", ignore=shutil.ignore_patterns("*.pem"))
    registry = Registry.open(folder / "identity" / "registry.db")
    return create_authority(
        folder / "identity",
        certs=folder / "certs",
        registry=registry,
        config=IdentityConfig(),
        scope=Scope(("320116",)),
        origin="bench.example/1",
        operator="bench",
        passphrase=b"correct horse",
        clock=FixedClock(NOW),
        recorder=NoLedger(),
        actor=Actor(name="bench"),
    )


def fill(registry: Registry, count: int) -> None:
    """Revoked certificates, as if they had been issued; their bytes stand for a certificate of a camera."""
    reasons = ("keyCompromise", "superseded", "cessationOfOperation", "unspecified")
    rows = (
        (CA, f"{secrets.randbits(127) | 1 << 127:032x}", f"h{n}", "camera", "device", "revoked", "2026-10-01T00:00:00Z",
         "2028-10-01T00:00:00Z", "00", "", "", os.urandom(900), f"2026-10-{n % 28 + 1:02}T08:{n % 60:02}:00Z",
         reasons[n % 4], -1, n)
        for n in range(1, count + 1)
    )  # fmt: skip
    with registry.transaction():
        registry._db.executemany(
            "INSERT INTO certificates (issuer, serial, holder, profile, purpose, status, not_before, not_after, spki, "
            "key, event, certificate, revoked, reason, shard, revocation) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            rows,
        )


def taken(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    function()
    return clock() - began


def bench_crl(authority: Authority, count: int, rounds: int) -> list[dict[str, Any]]:
    registry, signer = authority.registry, authority.signer(CA)
    issuer = authority.certificates[CA]
    fill(registry, count)

    def build(*, anew: bool = False) -> bytes:
        with registry.transaction():
            number = registry.next_crl_number(CA)
            entries = collect(registry, CA, anew=anew)
        return build_crl(issuer, signer, entries.der, number=number, this_update=NOW, next_update=NOW)

    cold = taken(build)
    data = build()
    rebuilds, hashed, published = [], [], []
    for n in range(rounds):
        holder = f"3201160000132{n + 100:07}"
        authority.issue([Request(holder, "camera")])
        published.append(taken(partial(authority.revoke, holder, profile="camera")))
        rebuilds.append(taken(build))
        hashed.append(taken(lambda: sha256(data).digest()))
    assert len(x509.load_der_x509_crl(data)) == count
    assert len(x509.load_der_x509_crl(build())) == count + rounds
    rebuilt, bare = min(rebuilds), min(hashed)
    thousands = f"{count:,}"
    return [
        {"what": f"CRL of {thousands} entries, one more: rebuilt and signed; ratio: SHA-256 over it",
         "value": rebuilt * 1e3, "unit": "ms", "ratio": bare / rebuilt, "goal": 0.2},
        {"what": f"one revocation beside {thousands}: record, list signed, on the disk",
         "value": statistics.median(published) * 1e3, "unit": "ms"},
        {"what": f"CRL of {thousands} entries encoded anew from the certificates", "value": cold, "unit": "s"},
    ]  # fmt: skip


def bench_many(authority: Authority, count: int) -> list[dict[str, Any]]:
    first = 200_000
    holders = [f"3201160000132{first + n:07}" for n in range(count)]
    with authority.registry.transaction():
        authority.registry._db.executemany(
            "INSERT INTO certificates (issuer, serial, holder, profile, purpose, status, not_before, not_after, spki, "
            "key, event, certificate) VALUES (?,?,?,'camera','device','active','2026-10-01T00:00:00Z',"
            "'2028-10-01T00:00:00Z','00','','',?)",
            [(CA, f"{secrets.randbits(127) | 1 << 127:032x}", holder, os.urandom(900)) for holder in holders],
        )
    wanted = [Revocation(holder, "keyCompromise") for holder in holders]
    seconds = taken(lambda: authority.revoke_all(wanted))
    return [
        {"what": f"{count:,} revocations at once, list published", "value": count / seconds, "unit": "1/s"},
    ]


def bench_ocsp(authority: Authority, rounds: int) -> list[dict[str, Any]]:
    issued = authority.issue([Request(CAMERA, "camera")])[0]
    found, failed = delegates(authority)
    assert not failed
    registry = Registry.open(authority.registry.path)
    responder = Responder(registry, authority.clock)
    responder.serve(authority.certificates.items(), found)
    key = next(item for item in found if item.issuer == CA).signer.private_key()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = ocsp.OCSPRequestBuilder().add_certificate(issued.certificate, authority.certificates[CA], hashes.SHA256())
    requests = [
        builder.add_extension(x509.OCSPNonce(secrets.token_bytes(32)), critical=False)
        .build()
        .public_bytes(Encoding.DER)
        for _ in range(200)
    ]
    plain = builder.build().public_bytes(Encoding.DER)
    algorithm, data = ec.ECDSA(hashes.SHA256()), os.urandom(300)

    def answer() -> None:
        for request in requests:
            assert responder.respond(request).status is ResponseStatus.SUCCESSFUL

    def bare() -> None:
        for _ in requests:
            key.sign(data, algorithm)

    def cached() -> None:
        for _ in requests:
            responder.respond(plain)

    times: dict[str, list[float]] = {"answer": [], "bare": [], "cached": []}
    for _ in range(4 * rounds):
        for name, function in (("answer", answer), ("bare", bare), ("cached", cached)):
            times[name].append(taken(function, time.process_time))
    registry.close()
    best = {name: len(requests) / min(values) for name, values in times.items()}
    return [
        {"what": "OCSP answers with a nonce: parse, look up, sign; ratio: bare ECDSA signatures (P-256, SHA-256)",
         "value": best["answer"], "unit": "1/s", "ratio": best["answer"] / best["bare"], "goal": 0.2},
        {"what": "OCSP answers without a nonce, asked again", "value": best["cached"], "unit": "1/s",
         "ratio": best["cached"] / best["bare"], "goal": 0.2},
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        authority = site(Path(folder))
        rows = bench_ocsp(authority, options.rounds)
        rows += bench_crl(authority, options.entries, options.rounds)
        rows += bench_many(authority, options.entries // 10)
        authority.registry.close()
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            ratio = f"  ratio {row['ratio']:.2f}" if "ratio" in row else ""
            print(f"{row['what']}: {row['value']:,.4g} {row['unit']}{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
