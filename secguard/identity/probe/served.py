"""Reading what was served: the facts of a certificate that somebody else made, without believing anything."""

import hashlib
import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from secguard.core import Finding, Outcome, SecguardError, finding, rfc3339
from secguard.identity.probe.result import Served
from secguard.identity.probe.targets import Target, safe
from secguard.trust import MALFORMED, Purpose, gbid_of, stated_purposes, title

__all__ = ["issuer_of", "name_held", "parse_chain", "purpose_of", "serve_facts", "validity_findings", "weaknesses"]

_MIN_RSA = 2048
_MIN_EC = 224
_TLS_PURPOSES = (Purpose.DEVICE, Purpose.PLATFORM, Purpose.ISOLATION_AGENT)


def parse_chain(chain: Sequence[bytes]) -> list[x509.Certificate]:
    """Certificates from DER; also those that OpenSSL takes and `cryptography` refuses are found out here.

    Raises:
        ValueError: one cannot be read; the message says why.
    """
    found = []
    for data in chain:
        try:
            certificate = x509.load_der_x509_certificate(data)
            _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.not_valid_after_utc
            found.append(certificate)
        except (*MALFORMED, OverflowError) as error:
            raise ValueError(safe(str(error))) from None
    return found


def issuer_of(certificate: x509.Certificate) -> str:
    """The issuer's name, printable."""
    with suppress(*MALFORMED):
        return safe(certificate.issuer.rfc4514_string()) or "no name"
    return "unreadable name"


def _key(certificate: x509.Certificate) -> tuple[str, str]:
    """The kind of the key, and why it is weak (empty if it is not)."""
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return "unknown", ""
    if isinstance(key, rsa.RSAPublicKey):
        name = f"RSA {key.key_size} bits"
        return name, name if key.key_size < _MIN_RSA or key.public_numbers().e < 3 else ""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}", f"EC {key.curve.name}" if key.curve.key_size < _MIN_EC else ""
    if isinstance(key, dsa.DSAPublicKey):
        return f"DSA {key.key_size} bits", f"DSA {key.key_size} bits"
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else "Ed448", ""
    return type(key).__name__.strip("_"), ""


def _hash(certificate: x509.Certificate) -> hashes.HashAlgorithm | None:
    with suppress(*MALFORMED):
        return certificate.signature_hash_algorithm
    return None


def weaknesses(certificate: x509.Certificate, where: str) -> Iterator[Finding]:
    """Findings about a key that can be computed from its public half, and about a hash that can be forged."""
    _, weak = _key(certificate)
    if weak:
        yield finding("identity.endpoint.weak-key", where, reason=weak)
    digest = _hash(certificate)
    if isinstance(digest, hashes.MD5 | hashes.SHA1):  # also of one that signed itself: who pins it relies on its hash
        yield finding("identity.endpoint.weak-signature", where, reason=digest.name.upper())


def validity_findings(
    certificate: x509.Certificate, at: datetime, days: int, where: str, *, demanded: bool
) -> Iterator[Finding]:
    """Findings about the time; `demanded` makes one that ends within `days` a violation."""
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if at < since:
        yield finding("identity.endpoint.not-yet-valid", where, since=rfc3339(since))
    elif at > until:
        yield finding("identity.endpoint.expired", where, until=rfc3339(until))
    elif (until - at).total_seconds() < days * 86400:
        outcome = Outcome.FAIL if demanded else None
        yield finding(
            "identity.endpoint.expiring", where, outcome=outcome, until=rfc3339(until), days=(until - at).days
        )


def serve_facts(certificate: x509.Certificate, sent: int) -> Served:
    """The facts of an end entity's certificate."""
    data = certificate.public_bytes(Encoding.DER)
    try:
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        spki = hashlib.sha256(key).hexdigest()
    except (UnsupportedAlgorithm, ValueError):
        spki = ""
    gbid = ""
    with suppress(*MALFORMED, SecguardError):
        found = gbid_of(certificate, trust_cn=True)
        gbid = found.value if found else ""
    digest = _hash(certificate)
    return Served(
        subject=title(certificate),
        issuer=issuer_of(certificate),
        serial=f"{certificate.serial_number:x}"[:64],
        not_before=rfc3339(certificate.not_valid_before_utc),
        not_after=rfc3339(certificate.not_valid_after_utc),
        key=_key(certificate)[0],
        signature=digest.name.upper() if digest else "",
        spki=spki,
        sha256=hashlib.sha256(data).hexdigest(),
        gbid=gbid,
        sent=sent,
    )


def purpose_of(certificate: x509.Certificate, *, device: bool) -> Purpose:
    """What to judge a certificate for: the TLS purpose that it states, else by what it names."""
    with suppress(*MALFORMED):
        for purpose in stated_purposes(certificate):
            if purpose in _TLS_PURPOSES:
                return purpose
    return Purpose.DEVICE if device else Purpose.PLATFORM


def serves_tls(certificate: x509.Certificate) -> bool:
    """Tell whether a TLS server may use it (RFC 5280, 4.2.1.12): serverAuth, any, or nothing stated."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages


def name_held(certificate: x509.Certificate, target: Target, sni: str = "") -> bool:
    """Tell whether the subject's alternative names hold the endpoint's (RFC 9525: dNSName with one `*`, iPAddress)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    wanted = sni or target.host
    try:
        address = ipaddress.ip_address(wanted.partition("%")[0])
    except ValueError:
        patterns = [item.lower().rstrip(".") for item in names.get_values_for_type(x509.DNSName)]
        wild = f"*.{wanted.partition('.')[2]}"
        return wanted.lower() in patterns or (wanted.count(".") > 1 and wild in patterns)
    return address in names.get_values_for_type(x509.IPAddress)
