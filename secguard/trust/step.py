"""The last step of a path, from an issuing CA that was verified before to an end entity, without OpenSSL.

OpenSSL spends as much on taking a certificate in as on its signature. A certificate of the plain shape that issuing CAs
of video networks give out needs few rules, which stand here; any other shape, and any doubt, is OpenSSL's to judge:
`holds` never says that something is wrong. Whatever it accepts, OpenSSL accepts too (a test compares them).
"""

import re

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from secguard.trust import der
from secguard.trust.facts import Facts
from secguard.trust.names import MALFORMED

__all__ = ["holds"]

_PLAIN = {
    x509.AuthorityInformationAccess,
    x509.AuthorityKeyIdentifier,
    x509.BasicConstraints,
    x509.CertificatePolicies,
    x509.CRLDistributionPoints,
    x509.ExtendedKeyUsage,
    x509.KeyUsage,
    x509.OCSPNoCheck,
    x509.SubjectAlternativeName,
    x509.SubjectKeyIdentifier,
}
_MAY_BE_CRITICAL = {x509.BasicConstraints, x509.KeyUsage}
_VERSION_3 = b"\xa0\x03\x02\x01\x02"
_INTEGER = 0x02
# AlgorithmIdentifier in DER (RFC 5758, 3.2: no parameters).
_ECDSA = {
    oid: (der.sequence(der.oid(oid.dotted_string)), ec.ECDSA(digest))
    for oid, digest in (
        (SignatureAlgorithmOID.ECDSA_WITH_SHA256, hashes.SHA256()),
        (SignatureAlgorithmOID.ECDSA_WITH_SHA384, hashes.SHA384()),
    )
}
_DNS = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")


def holds(leaf: Facts, issuer: Facts) -> bool:
    """Tell whether `issuer` surely certified `leaf` by the rules of RFC 5280, 6.1.3; False means: ask OpenSSL."""
    try:
        if not (_plain(leaf) and _linked(leaf, issuer) and _names(leaf, issuer)):
            return False
        return _signed(leaf.certificate, issuer)
    except (InvalidSignature, *MALFORMED):
        return False


def _signed(certificate: x509.Certificate, issuer: Facts) -> bool:
    """Equal names, equal signature algorithms within and without, and the signature."""
    known = _ECDSA.get(certificate.signature_algorithm_oid)
    key = issuer.key
    if known is None or not isinstance(key, ec.EllipticCurvePublicKey):
        certificate.verify_directly_issued_by(issuer.certificate)
        return True
    # TBSCertificate (RFC 5280, 4.1): version, serial number, signature algorithm, issuer; its start is read here.
    inner, kind = known
    tbs = certificate.tbs_certificate_bytes
    start = tbs.find(_VERSION_3, 2, 2 + 3 + len(_VERSION_3)) + len(_VERSION_3)
    if tbs[start] != _INTEGER:
        return False
    start += 2 + tbs[start + 1]
    if not tbs.startswith(inner + issuer.subject_der, start):
        return False
    key.verify(certificate.signature, tbs, kind)
    return True


def _plain(leaf: Facts) -> bool:
    if not (leaf.kinds <= _PLAIN and _MAY_BE_CRITICAL.issuperset(leaf.critical)):
        return False
    basic, usage = leaf.get(x509.BasicConstraints), leaf.get(x509.KeyUsage)
    return (
        leaf.certificate.version is x509.Version.v3
        and basic is not None
        and not basic.ca
        and usage is not None
        and not usage.key_cert_sign
        and leaf.common_name != ""
    )


def _linked(leaf: Facts, issuer: Facts) -> bool:
    own, above = leaf.get(x509.AuthorityKeyIdentifier), issuer.get(x509.SubjectKeyIdentifier)
    return (
        own is not None
        and above is not None
        and own.key_identifier == above.digest
        and own.authority_cert_issuer is None
        and own.authority_cert_serial_number is None
        and leaf.get(x509.SubjectKeyIdentifier) is not None
    )


def _names(leaf: Facts, issuer: Facts) -> bool:
    found = leaf.get(x509.SubjectAlternativeName)
    names = list(found or ())
    if (found is not None and not names) or not all(isinstance(item, x509.OtherName | x509.DNSName) for item in names):
        return False
    constraints = issuer.get(x509.NameConstraints)
    if constraints is None:
        return True
    if constraints.excluded_subtrees or not constraints.permitted_subtrees:
        return False
    bases = [item.value if isinstance(item, x509.DNSName) else "" for item in constraints.permitted_subtrees]
    hosts = [item.value for item in names if isinstance(item, x509.DNSName)]
    # Without a dNSName OpenSSL holds the CN against the constraint.
    if not hosts or not all(_DNS.fullmatch(item) for item in (*bases, *hosts)):
        return False
    return all(any(host == base or host.endswith(f".{base}") for base in bases) for host in hosts)
