"""Judging certificates against raw signature checks, in one run: `python tests/bench/bench_identity_verify.py`.

A camera's chain (camera, issuing CA, root) is judged with a revocation list of 100,000 entries; the floor is what
nobody can leave out, the checks of its two signatures. They take turns, in processor time; each certificate is new.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from secguard.gbid import Scope
from secguard.identity import IdentityConfig
from secguard.identity.certificate import ROOT, Validity, build_ca, build_leaf
from secguard.identity.profiles import load_ca_profiles, load_profiles
from secguard.keys import KeySigner, generate
from secguard.trust import Purpose, TrustPolicy

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CERTS = Path(__file__).parents[2] / "certs"
CAMERAS = 200


class Site:
    """A root, an issuing CA and cameras, made by the product's own builders and profiles."""

    def __init__(self) -> None:
        config = IdentityConfig(crl_url="http://crl.example")
        scope = Scope(("320116",))
        kinds = load_ca_profiles(CERTS / "ca")
        years = Validity.starting(NOW - 30 * DAY, 3650)
        root_key, self.ca_key, camera_key = generate(), generate(), generate()

        def ca(name: str, key: KeySigner, issuer: x509.Certificate | None) -> x509.Certificate:
            return build_ca(
                kinds[name], name, config, key.public_key(), serial=x509.random_serial_number(), validity=years,
                scope=scope, issuer=issuer, signer=root_key,
            )  # fmt: skip

        self.root = ca(ROOT, root_key, None)
        self.ca = ca("devices", self.ca_key, self.root)
        profile = load_profiles(CERTS)["camera"]
        self.cameras = [
            build_leaf(
                profile, f"3201160000132{number:07d}", config, camera_key.public_key(), issuer=self.ca,
                serial=x509.random_serial_number(), validity=Validity.starting(NOW, 700), issuer_name="devices",
                signer=self.ca_key,
            ).public_bytes(Encoding.DER)
            for number in range(1, CAMERAS + 1)
        ]  # fmt: skip
        self.ca_der = self.ca.public_bytes(Encoding.DER)
        self.root_list = crl(self.root, root_key, 0)

    def chains(self) -> list[list[x509.Certificate]]:
        """Freshly parsed, as they come from the wire."""
        load = x509.load_der_x509_certificate
        return [[load(data), load(self.ca_der)] for data in self.cameras]


def crl(issuer: x509.Certificate, key: KeySigner, entries: int) -> bytes:
    """A revocation list in DER."""
    revoked = [
        x509.RevokedCertificateBuilder()
        .serial_number((number + 1) << 100)
        .revocation_date(NOW - DAY)
        .add_extension(x509.CRLReason(x509.ReasonFlags.superseded), critical=False)
        .build()
        for number in range(entries)
    ]
    builder = x509.CertificateRevocationListBuilder(issuer.subject, NOW - DAY, NOW + 6 * DAY, [], revoked)
    private = key.private_key()
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.DER)


def raw(site: Site, chains: list[list[x509.Certificate]]) -> float:
    """Seconds for two signature checks a chain."""
    ca_key, root_key, kind = site.ca.public_key(), site.root.public_key(), ec.ECDSA(hashes.SHA256())
    assert isinstance(ca_key, ec.EllipticCurvePublicKey)
    assert isinstance(root_key, ec.EllipticCurvePublicKey)
    parts = [(a.signature, a.tbs_certificate_bytes, b.signature, b.tbs_certificate_bytes) for a, b in chains]
    began = time.process_time()
    for one, two, three, four in parts:
        ca_key.verify(one, two, kind)
        root_key.verify(three, four, kind)
    return time.process_time() - began


def judged(policy: TrustPolicy, chains: list[list[x509.Certificate]]) -> float:
    """Seconds for judging the chains."""
    good = 0
    began = time.process_time()
    for chain in chains:
        found = policy.judge_chain(chain, Purpose.DEVICE, NOW)
        good += found.believed and found.unrevoked
    seconds = time.process_time() - began
    assert good == len(chains)
    return seconds


def response(site: Site, der: bytes) -> bytes:
    """An OCSP response of the CA itself."""
    private = site.ca_key.private_key()
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return (
        ocsp.OCSPResponseBuilder()
        .add_response(
            x509.load_der_x509_certificate(der), site.ca, hashes.SHA1(),
            ocsp.OCSPCertStatus.GOOD, NOW, NOW + DAY, None, None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, site.ca)
        .sign(private, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )  # fmt: skip


def rows(entries: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Run everything and yield one row a measurement."""

    def row(what: str, value: float, unit: str, ratio: float | None = None, goal: float | str = "") -> dict[str, Any]:
        return {"what": what, "value": round(value, 3), "unit": unit, "ratio": ratio and round(ratio, 2), "goal": goal}

    site = Site()
    data = crl(site.ca, site.ca_key, entries)
    began = time.process_time()
    lists = [x509.load_der_x509_crl(site.root_list), x509.load_der_x509_crl(data)]
    policy = TrustPolicy([site.root], lists)
    judged(policy, site.chains()[:1])
    cold = time.process_time() - began
    began = time.process_time()
    assert lists[1].is_signature_valid(site.ca.public_key())  # type: ignore[arg-type] # an EC key
    floor = time.process_time() - began
    pairs = []
    for _ in range(rounds):
        chains = site.chains()
        pairs.append((raw(site, chains), judged(policy, chains)))
    raws, times = [one for one, _ in pairs], [two for _, two in pairs]
    ratio = statistics.median(one / two for one, two in pairs)
    yield row("two raw ECDSA P-256 signature checks", CAMERAS / statistics.median(raws), "chains/s")
    yield row(
        f"chain, purpose, GB scope and revocation with a list of {entries:,}", CAMERAS / statistics.median(times),
        "chains/s", ratio, 0.5,
    )  # fmt: skip
    yield row(f"the same, first certificate: list of {len(data) / 1e6:.1f} MB read, checked, set", cold * 1000, "ms")
    yield row("bare signature check of that list", floor * 1000, "ms")
    answers = [response(site, item) for item in site.cameras]
    pairs = []
    for _ in range(rounds):
        chains = site.chains()
        raws.append(raw(site, chains))
        began = time.process_time()
        fresh = TrustPolicy([site.root], lists[:1], answers)
        seconds = time.process_time() - began
        pairs.append((raws[-1] * 1.5, seconds + judged(fresh, chains)))
    seconds = statistics.median(two for _, two in pairs)
    yield row(
        "the same by OCSP responses, parsed and checked; against three raw checks", CAMERAS / seconds, "chains/s",
        statistics.median(one / two for one, two in pairs),
    )  # fmt: skip


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print("... verify", file=sys.stderr, flush=True)
    found = list(rows(options.entries, options.rounds))
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for item in found:
        ratio = f"{item['ratio']:.2f}" if item["ratio"] is not None else ""
        print(f"{item['what']:<82}{item['value']:>14,.3f} {item['unit']:<10}{ratio:>6}  {item['goal']}")


if __name__ == "__main__":
    main()
