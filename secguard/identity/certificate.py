"""Certificates and revocation lists, built from profiles; pure functions of their arguments, signed deterministically.

The same arguments give the same bytes (RFC 6979 signatures), so an interrupted issue signs again without a trace.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
    PublicKeyTypes,
)
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from secguard.core import UsageError
from secguard.gbid import GbId, Scope
from secguard.identity.config import IdentityConfig
from secguard.identity.profiles import CaProfile, Domains, Holder, Profile, Usage
from secguard.keys import Signer
from secguard.trust import (
    Purpose,
    hardware_module_name,
    oids_of,
    permanent_identifier,
    scope_extension,
    scope_of,
)

__all__ = ["ROOT", "Validity", "build_ca", "build_leaf", "crl_file", "distribution_points", "shard_of"]

ROOT = "root"
"""Name of the root among the CAs."""

_USAGES = {Usage.CLIENT_AUTH: ExtendedKeyUsageOID.CLIENT_AUTH, Usage.SERVER_AUTH: ExtendedKeyUsageOID.SERVER_AUTH}
_MAX_NAME = 64  # ub-common-name and ub-organization-name of RFC 5280


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when, aware UTC, whole seconds, both included."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def starting(cls, at: datetime, days: int, *, within: x509.Certificate | None = None) -> "Validity":
        """`days` from a little before `at` (clocks of devices lag), clipped to the issuer's validity."""
        start = at.astimezone(UTC).replace(microsecond=0) - timedelta(minutes=5)
        end = start + timedelta(days=days)
        if within is not None:
            start = max(start, within.not_valid_before_utc)
            end = min(end, within.not_valid_after_utc)
        return cls(start, end)


def _name(config: IdentityConfig, common: str, *, unit: str = "", vendor_serial: str = "") -> x509.Name:
    if not 1 <= len(common or vendor_serial) <= _MAX_NAME or not common.isprintable():
        raise UsageError(
            "identity.name.format",
            f"{common[:70]!r} cannot stand in a certificate",
            hint=f"1 to {_MAX_NAME} printable characters",
        )
    parts = [
        (NameOID.COUNTRY_NAME, config.country),
        (NameOID.ORGANIZATION_NAME, config.organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.SERIAL_NUMBER, vendor_serial),
        (NameOID.COMMON_NAME, common),
    ]
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts if value])


def _regions(config: IdentityConfig, scope: Scope, gbid: GbId | None = None) -> list[str]:
    """DNS domains of a scope's areas, or of the one a device lies in."""
    areas = [area for area in scope.areas if gbid is None or gbid.value.startswith(area)]
    return [f"cam.{area}.{config.domain}" for area in areas] or [f"cam.{config.domain}"]


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _policies(purposes: Iterable[Purpose]) -> x509.CertificatePolicies:
    return x509.CertificatePolicies([x509.PolicyInformation(oids_of(one).policy, None) for one in purposes])


def _begin(
    subject: x509.Name, issuer: x509.Name, key: PublicKeyTypes, serial: int, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(_certifiable(key))
        .serial_number(serial)
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(_certifiable(key)), critical=False)
    )


def _certifiable(key: PublicKeyTypes) -> CertificatePublicKeyTypes:
    return key  # type: ignore[return-value] # keys.Algorithm admits none that cannot be certified


def shard_of(serial: int, shards: int) -> int:
    """The number of the sharded list that a certificate is on when revoked; -1 without shards."""
    return serial % shards if shards else -1


def crl_file(issuer_name: str, shard: int = -1) -> str:
    """The file name of a CA's full list, or of one of its shards."""
    return f"{issuer_name}.crl" if shard < 0 else f"{issuer_name}.{shard}.crl"


def distribution_points(config: IdentityConfig, issuer_name: str, shard: int = -1) -> x509.CRLDistributionPoints:
    """Where the list is that a certificate would be on; `config.crl_url` is set."""
    url = x509.UniformResourceIdentifier(f"{config.crl_url.rstrip('/')}/{crl_file(issuer_name, shard)}")
    return x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)])


def _issued(
    builder: x509.CertificateBuilder, issuer: x509.Certificate, config: IdentityConfig, name: str, shard: int = -1
) -> x509.CertificateBuilder:
    """What every certificate below the root says about its issuer, and where its status is told."""
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )
    if config.crl_url:
        builder = builder.add_extension(distribution_points(config, name, shard), critical=False)
    places = []
    if config.ocsp_url and name != ROOT:
        places.append((AuthorityInformationAccessOID.OCSP, config.ocsp_url))
    if config.ca_url:
        places.append((AuthorityInformationAccessOID.CA_ISSUERS, f"{config.ca_url.rstrip('/')}/{name}.cer"))
    if places:
        access = [x509.AccessDescription(kind, x509.UniformResourceIdentifier(url)) for kind, url in places]
        builder = builder.add_extension(x509.AuthorityInformationAccess(access), critical=False)
    return builder


def _signing(signer: Signer) -> tuple[CertificateIssuerPrivateKeyTypes, hashes.SHA256 | hashes.SHA384 | None]:
    key = signer.private_key()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key, hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()
    return key, hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None  # type: ignore[return-value]


def _sign(builder: x509.CertificateBuilder, signer: Signer) -> x509.Certificate:
    key, digest = _signing(signer)
    deterministic = True if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return builder.sign(key, digest, ecdsa_deterministic=deterministic)


def build_ca(
    profile: CaProfile,
    common: str,
    config: IdentityConfig,
    key: PublicKeyTypes,
    *,
    serial: int,
    validity: Validity,
    scope: Scope,
    issuer: x509.Certificate | None,
    signer: Signer,
) -> x509.Certificate:
    """A CA certificate: the root (`issuer` None, `signer` its own key), or an issuing CA for end entities only.

    Args:
        profile: purposes and name constraints.
        common: CN of the subject.
        config: the site.
        key: public key of the CA.
        serial: its serial number.
        validity: its validity.
        scope: the GB/T 28181 IDs it may certify.
        issuer: the root's certificate, or None for the root itself.
        signer: key of the issuer.
    """
    subject = _name(config, common)
    builder = _begin(subject, issuer.subject if issuer else subject, key, serial, validity)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else 1), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(scope_extension(scope), critical=False)
    )
    if issuer is not None:
        # Every CA may certify the key that answers for it by OCSP.
        purposes = (*profile.purposes, Purpose.OCSP)
        usages = {oids_of(one).eku: None for one in purposes}
        if profile.domains is not Domains.NONE:
            usages |= dict.fromkeys(_USAGES.values())
            domains = _regions(config, scope) if profile.domains is Domains.REGIONS else [config.domain]
            permitted = [x509.DNSName(domain) for domain in domains]
            builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
        builder = builder.add_extension(_policies(purposes), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        builder = _issued(builder, issuer, config, ROOT)
    return _sign(builder, signer)


def build_leaf(
    profile: Profile,
    holder: str,
    config: IdentityConfig,
    key: PublicKeyTypes,
    *,
    serial: int,
    validity: Validity,
    issuer: x509.Certificate,
    issuer_name: str,
    signer: Signer,
    vendor_serial: str = "",
    names: Sequence[x509.GeneralName] = (),
) -> x509.Certificate:
    """An end entity's certificate as its profile says.

    Args:
        profile: the profile.
        holder: GB/T 28181 ID of a device (checked by the caller), a host, or a name.
        config: the site.
        key: the holder's public key.
        serial: serial number.
        validity: its validity.
        issuer: certificate of the issuing CA.
        issuer_name: its name among the site's CAs, which is also its list's.
        signer: key of the issuing CA.
        vendor_serial: the maker's serial number of a device; empty if unknown.
        names: further alternative names, which a request asked for and its profile allows.

    Raises:
        UsageError: the holder's name does not fit into a certificate.
    """
    gbid = GbId.parse(holder) if profile.holder is Holder.DEVICE else None
    unit = gbid.type_code if gbid else str(profile.purpose)
    common = gbid.value if gbid else holder
    if profile.holder is Holder.HOST and isinstance(_host(holder), x509.IPAddress):
        # A CN beside no dNSName is held against the CA's name constraints (GnuTLS does so with any text): an address
        # stands in the serial number of the subject.
        common, vendor_serial = "", holder
    subject = _name(config, common, unit=unit, vendor_serial=vendor_serial)
    usages = dict.fromkeys([oids_of(profile.purpose).eku, *(_USAGES[usage] for usage in profile.usages)])
    builder = (
        _begin(subject, issuer.subject, key, serial, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        .add_extension(_policies([profile.purpose]), critical=False)
    )
    if gbid is not None:
        own: list[x509.GeneralName] = [permanent_identifier(gbid)]
        if vendor_serial:
            own.append(hardware_module_name(gbid.type_code, vendor_serial))
        if profile.dns:
            region = _regions(config, scope_of(issuer) or Scope(), gbid)[0]
            own.append(x509.DNSName(f"d{gbid.value}.{gbid.centre}.{region}"))
    else:
        own = [_host(holder)] if profile.holder is Holder.HOST else []
    own += [name for name in names if name not in own]
    if own:
        builder = builder.add_extension(x509.SubjectAlternativeName(own), critical=False)
    shard = shard_of(serial, config.crl_shards)
    if profile.no_check:  # RFC 6960, 4.2.2.2.1
        builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    builder = _issued(builder, issuer, config, issuer_name, -1 if profile.no_check else shard)
    return _sign(builder, signer)
