"""What a path must say beyond X.509: purpose, GB scope, validity and key strength; each rule a pure function.

Under a secguard root (one that carries a GB scope) everything is mandatory. Under any other root, the user's own choice
of trust anchor, only what certificates there can be expected to say is asked for.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from secguard.core import Finding, Outcome, finding, rfc3339
from secguard.gbid import GbId
from secguard.trust.names import title
from secguard.trust.oids import Purpose, oids_of
from secguard.trust.path import Path
from secguard.trust.scope import scope_of

__all__ = ["device_rules", "purpose_rules", "scope_rules", "strength_rules", "validity_rules"]

_T = TypeVar("_T", bound=x509.ExtensionType)

_DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # RFC 9336
_MIN_RSA_BITS = 2048
_WEAK_HASHES = (hashes.MD5, hashes.SHA1)
_EKU_NAMES = {oids_of(purpose).eku: str(purpose) for purpose in Purpose} | {
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS client",
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS server",
}
# Purposes whose keys belong to a device, so that their certificates must name it.
_OF_DEVICES = {Purpose.DEVICE, Purpose.MEDIA_SIGNING}
# What makers certify without saying so; keys of logs, operators and authorities are always certified as such.
_MAY_BE_UNSTATED = {Purpose.DEVICE, Purpose.PLATFORM, Purpose.MEDIA_SIGNING}


def validity_rules(path: Path, at: datetime) -> Iterator[Finding]:
    """Every certificate, the trust anchor too, must be valid at `at` (both ends included; RFC 5280, 4.1.2.5)."""
    for certificate in path.certificates:
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if at < since:
            yield finding("trust.certificate.not-yet-valid", title(certificate), since=rfc3339(since), at=rfc3339(at))
        elif at > until:
            yield finding("trust.certificate.expired", title(certificate), until=rfc3339(until), at=rfc3339(at))


def strength_rules(path: Path) -> Iterator[Finding]:
    """Keys and signature hashes must be ones that nobody can break; the anchor's own signature proves nothing."""
    for certificate in path.certificates:
        weak = _weak_key(certificate)
        if not weak and certificate is not path.anchor and isinstance(_hash(certificate), _WEAK_HASHES):
            weak = "signed with a broken hash"
        if weak:
            yield finding("trust.certificate.weak", title(certificate), reason=weak)


def _weak_key(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except Exception:  # noqa: BLE001 - unknown curves and algorithms raise several kinds; all mean "not accepted"
        return "a key of an unknown kind"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA with {key.key_size} bits" if key.key_size < _MIN_RSA_BITS else ""
    if isinstance(key, ec.EllipticCurvePublicKey):
        known = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
        return "" if known else f"elliptic curve {key.curve.name}"
    return "" if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) else "a key of an unknown kind"


def _hash(certificate: x509.Certificate) -> hashes.HashAlgorithm | None:
    try:
        return certificate.signature_hash_algorithm
    except Exception:  # noqa: BLE001 - an algorithm that cannot be named is treated as broken
        return hashes.MD5()  # noqa: S303 - a marker, nothing is hashed


def purpose_rules(path: Path, purpose: Purpose, *, foreign: bool) -> Iterator[Finding]:
    """The end entity's key must be certified for `purpose`, and every CA above it must be allowed to do so."""
    if foreign and purpose in _MAY_BE_UNSTATED and _extension(path.leaf, x509.ExtendedKeyUsage) is None:
        yield finding("trust.purpose.unstated", title(path.leaf), purpose=purpose, root=title(path.anchor))
    for certificate in path.certificates[:1] if foreign else path.certificates[:-1]:
        reason = _unfit(certificate, purpose, leaf=certificate is path.leaf, foreign=foreign)
        if reason:
            yield finding("trust.purpose.wrong", title(certificate), purpose=purpose, reason=reason)


def _unfit(certificate: x509.Certificate, purpose: Purpose, *, leaf: bool, foreign: bool) -> str:
    """Why a certificate may not stand in a path for `purpose`; empty if it may."""
    wanted = oids_of(purpose)
    accepted = {wanted.eku}
    lenient = foreign and purpose in _MAY_BE_UNSTATED
    if lenient:
        accepted.add(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
        if purpose is Purpose.MEDIA_SIGNING:
            accepted.add(_DOCUMENT_SIGNING)
    if leaf:
        basic = _extension(certificate, x509.BasicConstraints)
        if basic is not None and basic.ca:
            return "it is a CA certificate"
        usage = _extension(certificate, x509.KeyUsage)
        if (usage is None and not foreign) or (usage is not None and not usage.digital_signature):
            return "its key usage is not digitalSignature"
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if extended is None:
        if leaf and not lenient:
            return "it states no extended key usage"
    elif not accepted & set(extended):
        names = [_EKU_NAMES.get(item, item.dotted_string) for item in list(extended)[:8]]
        return f"it is for {', '.join(names)}"
    if not foreign:
        policies = _extension(certificate, x509.CertificatePolicies)
        if policies is None or wanted.policy not in {item.policy_identifier for item in policies}:
            return "its certificate policy does not allow it"
    return ""


def scope_rules(path: Path) -> Iterator[Finding]:
    """Under a secguard root every CA carries a GB scope that lies within the one above it; so does an end entity's."""
    above = scope_of(path.anchor)
    for certificate in reversed(path.certificates[:-1]):
        own = scope_of(certificate)
        if own is None:
            if certificate is not path.leaf:
                yield finding("trust.scope.missing", title(certificate))
            continue
        if above is not None and not own.within(above):
            yield finding("trust.scope.exceeded", title(certificate), scope=own.text, issuer=above.text)
        above = own


def device_rules(
    path: Path, purpose: Purpose, stated: GbId | None, expected: GbId | None, *, foreign: bool
) -> Iterator[Finding]:
    """The ID in the certificate must be the expected one, and lie in the scope of every CA of the path."""
    name = title(path.leaf)
    if stated is None:
        if expected is not None or (purpose in _OF_DEVICES and not foreign):
            yield finding(
                "trust.gbid.absent",
                name,
                outcome=Outcome.UNKNOWN if foreign else None,
                expected=expected.value if expected else "any",
            )
        return
    if expected is not None and stated != expected:
        yield finding("trust.gbid.mismatch", name, stated=stated.value, expected=expected.value)
    for issuer in path.certificates[1:]:
        scope = scope_of(issuer)
        if scope is not None and not scope.covers(stated):
            yield finding("trust.scope.device", name, gbid=stated.value, issuer=title(issuer), scope=scope.text)


def _extension(certificate: x509.Certificate, kind: type[_T]) -> _T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
