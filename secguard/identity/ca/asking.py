"""What a site asks of the root: a PKCS#10 request (RFC 2986) for one issuing CA, carried as a file.

The subject says who asks: CN the CA's name, OU its kind, O and C the site, DC its DNS domain (RFC 2247). The requested
extensions carry the GB scope, and where the site publishes lists and certificates. The root decides about all of it.
"""

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from secguard.core import FormatError, RefusedError, UsageError
from secguard.gbid import Scope
from secguard.identity.certificate import ROOT
from secguard.identity.config import IdentityConfig
from secguard.identity.profiles import CaProfile
from secguard.keys import Algorithm, Signer, algorithm_of
from secguard.trust import decode_scope, scope_extension
from secguard.trust.oids import GB_SCOPE

__all__ = ["CA_NAME", "CaRequest", "build_request", "check_key", "read_request", "site_config"]

CA_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
"""Names of CAs; they name files and URLs."""

_MAX_CSR = 16 << 10
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]{1,500}")


@dataclass(frozen=True, slots=True)
class CaRequest:
    """One issuing CA that is asked for.

    Attributes:
        name: the CA's name at the site.
        kind: its profile.
        scope: the GB/T 28181 IDs that it is to certify.
        organization: O of the site.
        country: C of the site.
        domain: DNS domain of the site's devices.
        crl_url: base URL of the site's lists; empty: none.
        ca_url: base URL of the site's CA certificates; empty: none.
    """

    name: str
    kind: str
    scope: Scope
    organization: str
    country: str
    domain: str
    crl_url: str = ""
    ca_url: str = ""


def build_request(ask: CaRequest, signer: Signer) -> bytes:
    """The request in PEM, signed with the CA's own key."""
    parts = [
        (NameOID.COUNTRY_NAME, ask.country),
        (NameOID.ORGANIZATION_NAME, ask.organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, ask.kind),
        (NameOID.COMMON_NAME, ask.name),
        *((NameOID.DOMAIN_COMPONENT, label) for label in reversed(ask.domain.split("."))),
    ]
    builder = (
        x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(kind, value) for kind, value in parts]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(scope_extension(ask.scope), critical=False)
    )
    if ask.crl_url:
        url = x509.UniformResourceIdentifier(f"{ask.crl_url.rstrip('/')}/{ROOT}.crl")
        point = x509.DistributionPoint([url], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    if ask.ca_url:
        url = x509.UniformResourceIdentifier(f"{ask.ca_url.rstrip('/')}/{ROOT}.cer")
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, url)
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    key = signer.private_key()
    digest = {Algorithm.P384: hashes.SHA384(), Algorithm.ED25519: None}.get(signer.algorithm, hashes.SHA256())
    return builder.sign(key, digest).public_bytes(Encoding.PEM)  # type: ignore[arg-type] # keys.Algorithm admits none that cannot sign


def read_request(data: bytes, where: str = "") -> tuple[CaRequest, PublicKeyTypes]:
    """Read a request, and check its proof of possession.

    Raises:
        FormatError: `identity.ca.request`: not a request of `identity ca request`.
        RefusedError: `identity.csr.signature`: the sender does not hold the key.
        UsageError: a key of an unsupported kind.
    """
    try:
        if len(data) > _MAX_CSR:
            raise ValueError("too large")
        pem = data.lstrip().startswith(b"-----BEGIN")
        csr = x509.load_pem_x509_csr(data) if pem else x509.load_der_x509_csr(data)
        key = csr.public_key()
        proven = csr.is_signature_valid
        ask = _ask(csr)
    except Exception as error:
        # ValueError, UnsupportedAlgorithm, TypeError, FormatError ...: whatever hostile bytes provoke means the same
        raise FormatError(
            "identity.ca.request",
            f"not a request for an issuing CA{f': {error}' if isinstance(error, UsageError) else ''}",
            hint="it is made by: secguard identity ca request -o DIR",
            where=where,
        ) from error
    if not proven:
        raise RefusedError(
            "identity.csr.signature", "the request is not signed by its own key", hint="make it again", where=where
        )
    algorithm_of(key)
    return ask, key


def _ask(csr: x509.CertificateSigningRequest) -> CaRequest:
    def text(kind: x509.ObjectIdentifier, limit: int = 64) -> str:
        (found,) = csr.subject.get_attributes_for_oid(kind)
        value = str(found.value)
        if not 1 <= len(value) <= limit or not value.isprintable():
            raise ValueError("a name")
        return value

    labels = [str(item.value) for item in csr.subject.get_attributes_for_oid(NameOID.DOMAIN_COMPONENT)]
    name, kind, domain = text(NameOID.COMMON_NAME), text(NameOID.ORGANIZATIONAL_UNIT_NAME), ".".join(reversed(labels))
    if not CA_NAME.fullmatch(name) or not CA_NAME.fullmatch(kind) or not _DOMAIN.fullmatch(domain):
        raise ValueError("a name")
    if name != kind and not name.startswith(f"{kind}-"):
        raise ValueError("a name")
    scope = csr.extensions.get_extension_for_oid(GB_SCOPE).value
    assert isinstance(scope, x509.UnrecognizedExtension)
    return CaRequest(
        name,
        kind,
        decode_scope(scope.value),
        text(NameOID.ORGANIZATION_NAME),
        text(NameOID.COUNTRY_NAME, 2),
        domain,
        _base(_crl_urls(csr), f"/{ROOT}.crl"),
        _base(_ca_urls(csr), f"/{ROOT}.cer"),
    )


def _crl_urls(csr: x509.CertificateSigningRequest) -> list[str]:
    try:
        points = csr.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for point in points for name in point.full_name or ()]


def _ca_urls(csr: x509.CertificateSigningRequest) -> list[str]:
    try:
        places = csr.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return []
    return [str(item.access_location.value) for item in places]


def _base(urls: list[str], end: str) -> str:
    if not urls:
        return ""
    (url,) = urls
    if not _URL.fullmatch(url) or not url.endswith(end):
        raise ValueError("a URL")
    return url.removesuffix(end)


def check_key(ask: CaRequest, key: PublicKeyTypes, profile: CaProfile) -> None:
    """Refuse a kind of key that the profile of the CA does not ask for.

    Raises:
        RefusedError: `identity.csr.key`.
    """
    if algorithm_of(key) is not profile.key:
        raise RefusedError(
            "identity.csr.key",
            f"the key of {ask.name} is {algorithm_of(key)}; the profile {ask.kind} asks for {profile.key}",
            hint="the root's certs/ca and the site's must agree",
        )


def site_config(ask: CaRequest, own: IdentityConfig) -> IdentityConfig:
    """What the certificate says of the site that asked; the root's own URLs, if it has any, before the site's."""
    return IdentityConfig(
        organization=ask.organization,
        country=ask.country,
        domain=ask.domain,
        edition=own.edition,
        crl_url=own.crl_url or ask.crl_url,
        ca_url=own.ca_url or ask.ca_url,
    )
