"""A small PKI whose every field a test can set wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secguard.gbid import GbId, Scope
from secguard.trust import Purpose, TrustPolicy, oids_of, permanent_identifier, scope_extension

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
CAMERA = GbId("32011600001320000001")
DISTRICT = Scope(("320116",))
_KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(8)]


def name(cn: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])


@dataclass
class Node:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Pki:
    """Builds certificates; every keyword replaces what a good one holds."""

    now = NOW
    camera = CAMERA
    district = DISTRICT

    def __init__(self) -> None:
        self._used = 0

    def key(self) -> ec.EllipticCurvePrivateKey:
        self._used += 1
        return _KEYS[(self._used - 1) % len(_KEYS)]

    def make(
        self,
        cn: str,
        issuer: Node | None,
        *,
        ca: bool,
        key=None,
        scope: Scope | None = None,
        purposes: Sequence[Purpose] = (),
        ekus: Sequence[x509.ObjectIdentifier] | None = None,
        gbid: GbId | None = None,
        path_length: int | None = None,
        start: datetime = NOW - timedelta(days=100),
        end: datetime = NOW + timedelta(days=265),
        usage: bool = True,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
        sans: Sequence[x509.GeneralName] = (),
        digest: hashes.HashAlgorithm | None = None,
        serial: int | None = None,
        basic: bool = True,
        crl_sign: bool = True,
    ) -> Node:
        key = key or self.key()
        signing = issuer.key if issuer else key
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(cn))
            .issuer_name(issuer.certificate.subject if issuer else name(cn))
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        if basic:
            builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        if usage:
            flags = (not ca, False, False, False, False, ca, ca and crl_sign, False, False)
            builder = builder.add_extension(x509.KeyUsage(*flags), critical=True)
        if issuer is not None:
            identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False
            )
        if scope is not None:
            builder = builder.add_extension(scope_extension(scope), False)
        if purposes:
            policies = [x509.PolicyInformation(oids_of(one).policy, None) for one in purposes]
            builder = builder.add_extension(x509.CertificatePolicies(policies), False)
        stated = [oids_of(one).eku for one in purposes] if ekus is None else list(ekus)
        if stated:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(dict.fromkeys(stated))), False)
        names = [*([permanent_identifier(gbid)] if gbid else []), *sans]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        for value, critical in extra:
            builder = builder.add_extension(value, critical)
        return Node(builder.sign(signing, digest or hashes.SHA256()), key)

    def root(self, cn: str = "root", **values) -> Node:
        values = {"scope": DISTRICT, "path_length": 1, "end": NOW + timedelta(days=3650), **values}
        return self.make(cn, None, ca=True, **values)

    def issuing(self, root: Node, cn: str = "issuing", **values) -> Node:
        values = {
            "scope": DISTRICT,
            "path_length": 0,
            "purposes": (Purpose.DEVICE, Purpose.MEDIA_SIGNING, Purpose.LOG),
            "end": NOW + timedelta(days=1000),
            **values,
        }
        return self.make(cn, root, ca=True, **values)

    def leaf(self, issuer: Node, cn: str = CAMERA.value, **values) -> Node:
        values = {"purposes": (Purpose.MEDIA_SIGNING,), "gbid": CAMERA, **values}
        return self.make(cn, issuer, ca=False, **values)

    def crl(
        self,
        issuer: Node,
        revoked: Sequence[x509.RevokedCertificate] = (),
        *,
        start: datetime = NOW - timedelta(days=1),
        end: datetime | None = NOW + timedelta(days=6),
        key=None,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> x509.CertificateRevocationList:
        builder = x509.CertificateRevocationListBuilder(
            issuer.certificate.subject, start, end, revoked_certificates=list(revoked)
        )
        for value, critical in extra:
            builder = builder.add_extension(value, critical)
        return builder.sign(key or issuer.key, hashes.SHA256())

    @staticmethod
    def revoked(
        node: Node, at: datetime, reason: x509.ReasonFlags | None = None, invalid: datetime | None = None
    ) -> x509.RevokedCertificate:
        builder = x509.RevokedCertificateBuilder().serial_number(node.certificate.serial_number).revocation_date(at)
        if reason is not None:
            builder = builder.add_extension(x509.CRLReason(reason), False)
        if invalid is not None:
            builder = builder.add_extension(x509.InvalidityDate(invalid), False)
        return builder.build()


@pytest.fixture
def pki() -> Pki:
    return Pki()


@dataclass
class Good:
    """A chain that is good, with its lists."""

    root: Node
    issuing: Node
    leaf: Node
    crls: list[x509.CertificateRevocationList]

    @property
    def chain(self) -> list[x509.Certificate]:
        return [self.leaf.certificate, self.issuing.certificate]

    @property
    def policy(self) -> TrustPolicy:
        return TrustPolicy([self.root.certificate], self.crls)


@pytest.fixture
def good(pki: Pki) -> Good:
    root = pki.root()
    issuing = pki.issuing(root)
    leaf = pki.leaf(issuing)
    return Good(root, issuing, leaf, [pki.crl(root), pki.crl(issuing)])


@pytest.fixture
def server_auth() -> x509.ObjectIdentifier:
    return ExtendedKeyUsageOID.SERVER_AUTH
