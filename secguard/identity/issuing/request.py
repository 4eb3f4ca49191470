"""What is asked for, checked before anything is made: holders, and PKCS#10 requests (RFC 2986)."""

import contextlib
import ipaddress
import re
from collections.abc import Collection

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from secguard.core import FormatError, RefusedError, UsageError
from secguard.gbid import GbId
from secguard.identity.profiles import Asked, Holder, Profile
from secguard.keys import Algorithm, algorithm_of

__all__ = ["MAX_CSR", "allowed_names", "check_holder", "check_key", "check_vendor_serial", "read_csr", "read_names"]

MAX_CSR = 16 << 10
"""Bytes of a request."""
_MAX_ASKED = 8
_NAME = re.compile(r"[^\W_][\w .@/:-]{0,63}")
_HOST = re.compile(r"(?=.{1,64}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_ECDSA = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ec.ECDSA(hashes.SHA256()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ec.ECDSA(hashes.SHA384()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ec.ECDSA(hashes.SHA512()),
}
_NAMING = (NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER)
_DEVICE_ID = re.compile(r"[0-9]{20}")
_MAX_RSA_BITS = 8192  # TLS of Go refuses more; and each verification would cost milliseconds
_DEVICE_LABEL = re.compile(r"(?:^|\.)d?([0-9]{20})(?:\.|$)")
_VENDOR_SERIAL = re.compile(r"[A-Za-z0-9 '()+,./:=?-]{1,64}")  # PrintableString of X.520


def check_holder(holder: str, profile: Profile, edition: str, vendor_serial: str = "") -> tuple[str, GbId | None]:
    """Check whom a certificate is to name, and return the name, and the ID of a device.

    Raises:
        UsageError: no GB/T 28181 ID, or one of a type the profile is not for; or no name.
    """
    check_vendor_serial(vendor_serial)
    if profile.holder is Holder.HOST:
        return _host(holder), None
    if profile.holder is Holder.NAME:
        if not _NAME.fullmatch(holder):
            raise UsageError(
                "identity.name.format",
                f"{holder[:70]!r} is not a name",
                hint="1 to 64 letters, digits, and . @ / : - _",
            )
        return holder, None
    gbid = GbId.parse(holder).validate(edition)
    if profile.types and not gbid.type_code.startswith(profile.types):
        raise UsageError(
            "identity.profile.type",
            f"profile {profile.name} is for types {', '.join(profile.types)}; {gbid} is of type {gbid.type_code}",
            hint="choose another --profile",
            where="positions 11-13",
        )
    return gbid.value, gbid


def check_vendor_serial(vendor_serial: str) -> None:
    """Check the maker's serial number; empty means unknown.

    Raises:
        UsageError: `identity.vendor-serial.format`: X.520 has no such serialNumber.
    """
    if vendor_serial and not _VENDOR_SERIAL.fullmatch(vendor_serial):
        raise UsageError(
            "identity.vendor-serial.format",
            f"{vendor_serial[:70]!r} cannot stand in a certificate as a serial number",
            hint="1 to 64 ASCII letters, digits, spaces and '()+,-./:=?",
        )


def _host(holder: str) -> str:
    """A DNS name in lower case, or an IP address in its one form."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(holder))
    if not _HOST.fullmatch(holder.lower()):
        raise UsageError(
            "identity.host.format",
            f"{holder[:70]!r} is no host",
            hint="a DNS name of at most 64 characters, or an IP address",
        )
    return holder.lower()


def read_csr(data: bytes, profile: Profile, device: str = "") -> PublicKeyTypes:
    """Read a request in PEM or DER, check its proof of possession, and return its key.

    The subject and the extensions it asks for are ignored: the profile says what the certificate holds. `read_names`
    reads what a profile allows to be asked for. A subject that is the ID of another device tells that files were mixed
    up: the key is that device's.

    Args:
        data: the request.
        profile: what is to be issued.
        device: ID of the device that the certificate will name; empty: none.

    Raises:
        FormatError: `identity.csr.format`: not a request.
        RefusedError: `identity.csr.signature`: the sender does not hold the key; `identity.csr.key`: a kind of key that
            the profile does not accept; `identity.csr.device`: it names another device.
    """
    try:
        csr = _load(data)
        key = csr.public_key()
        proven = _proven(csr, key)
        named = [str(name.value).strip() for name in csr.subject if name.oid in _NAMING] if device else []
    except Exception as error:
        # ValueError, UnsupportedAlgorithm, TypeError ...: whatever a hostile request provokes means the same
        raise _no_request() from error
    if not proven:
        raise RefusedError(
            "identity.csr.signature",
            "the request is not signed by its own key",
            hint="make a new request on the device",
        )
    other = next((name for name in named if _DEVICE_ID.fullmatch(name) and name != device), "")
    if device and other:
        raise RefusedError(
            "identity.csr.device",
            f"the request is of {other}, not of {device}",
            hint="take the request of this device; were the files mixed up?",
        )
    check_key(key, profile, profile.accept or (profile.key,))
    return key


def _proven(csr: x509.CertificateSigningRequest, key: object) -> bool:
    """Tell whether a request is signed by its own key; `is_signature_valid` would decode the key a second time."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return csr.is_signature_valid
    scheme = _ECDSA.get(csr.signature_algorithm_oid)
    if scheme is None:
        return False
    try:
        key.verify(csr.signature, csr.tbs_certrequest_bytes, scheme)
    except InvalidSignature:
        return False
    return True


def read_names(data: bytes, profile: Profile, domain: str, device: GbId | None = None) -> list[x509.GeneralName]:
    """The alternative names that a request asks for and its profile allows it to (`from_request`).

    Args:
        data: the request, whose signature is known to be good.
        profile: the profile.
        domain: the site's; a host name must lie below it.
        device: the device that the certificate names; another device's host name is refused.

    Raises:
        FormatError: `identity.csr.format`: its extensions cannot be read.
        RefusedError: `identity.csr.name`: a name that may not stand in the certificate.
    """
    try:
        extensions = _load(data).extensions
    except Exception as error:
        raise _no_request() from error
    return allowed_names(extensions, profile, domain, device)


def allowed_names(
    extensions: x509.Extensions, profile: Profile, domain: str, device: GbId | None = None
) -> list[x509.GeneralName]:
    """Those alternative names, of a request or of the certificate that is renewed; see `read_names`."""
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
    found: list[x509.GeneralName] = []
    for name in names:
        if isinstance(name, x509.DNSName) and Asked.DNS in profile.from_request:
            _check_host(name.value, domain, device)
            found.append(name)
        elif isinstance(name, x509.IPAddress) and Asked.IP in profile.from_request:
            _check_address(name.value)
            found.append(name)
    for kind in (x509.DNSName, x509.IPAddress):
        if sum(isinstance(name, kind) for name in found) > _MAX_ASKED:
            raise _bad_name(f"more than {_MAX_ASKED} names of a kind")
    return found


def _check_host(host: str, domain: str, device: GbId | None) -> None:
    own = device.value if device is not None else ""
    if not _HOST.fullmatch(host) or not host.endswith(f".{domain}"):
        raise _bad_name(f"the host name {host[:70]!r} does not lie below {domain}")
    other = _DEVICE_LABEL.search(host)
    if other and other[1] != own:
        raise _bad_name(f"the host name {host[:70]!r} is that of another device")


def _check_address(address: object) -> None:
    if not isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address) or (
        address.is_multicast
        or address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or address == ipaddress.ip_address("255.255.255.255")
        or getattr(address, "ipv4_mapped", None) is not None
    ):
        raise _bad_name(f"{str(address)[:50]} is not the address of one host")


def _bad_name(message: str) -> RefusedError:
    return RefusedError(
        "identity.csr.name", f"the request asks for too much: {message}", hint="make a request without this name"
    )


def _load(data: bytes) -> x509.CertificateSigningRequest:
    if len(data) > MAX_CSR:
        raise ValueError("too large")
    pem = data.lstrip().startswith(b"-----BEGIN")
    return x509.load_pem_x509_csr(data) if pem else x509.load_der_x509_csr(data)


def _no_request() -> FormatError:
    return FormatError("identity.csr.format", "not a certificate request (PKCS#10) in PEM or DER")


def check_key(key: PublicKeyTypes, profile: Profile, accepted: Collection[Algorithm]) -> None:
    """Check the kind of a key.

    Raises:
        RefusedError: `identity.csr.key`: it is not among the `accepted` ones, too short or too long.
    """
    try:
        kind: Algorithm | None = algorithm_of(key)
    except UsageError:
        kind = None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > _MAX_RSA_BITS:
        raise RefusedError(
            "identity.csr.key",
            f"an RSA key of {key.key_size} bits is more than many clients take",
            hint=f"RSA with 2048 to {_MAX_RSA_BITS} bits, or better ECDSA P-256",
        )
    if kind not in accepted:
        raise RefusedError(
            "identity.csr.key",
            f"profile {profile.name} does not accept this kind of key",
            hint=f"accepted: {', '.join(dict.fromkeys(accepted))}",
        )
