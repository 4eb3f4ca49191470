"""What is asked for, checked before anything is made: holders, and PKCS#10 requests (RFC 2986)."""

import contextlib
import ipaddress
import re
from collections.abc import Collection

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import FormatError, RefusedError, UsageError
from secguard.gbid import GbId
from secguard.identity.profiles import Holder, Profile
from secguard.keys import Algorithm, algorithm_of

__all__ = ["check_holder", "check_key", "read_csr"]

_MAX_CSR = 16 << 10
_NAME = re.compile(r"[^\W_][\w .@/:-]{0,63}")
_HOST = re.compile(r"(?=.{1,64}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_VENDOR_SERIAL = re.compile(r"[A-Za-z0-9 '()+,./:=?-]{1,64}")  # PrintableString of X.520


def check_holder(holder: str, profile: Profile, edition: str, vendor_serial: str = "") -> tuple[str, GbId | None]:
    """Check whom a certificate is to name, and return the name, and the ID of a device.

    Raises:
        UsageError: no GB/T 28181 ID, or one of a type the profile is not for; or no name.
    """
    if vendor_serial and not _VENDOR_SERIAL.fullmatch(vendor_serial):
        raise UsageError(
            "identity.vendor-serial.format",
            f"{vendor_serial[:70]!r} cannot stand in a certificate as a serial number",
            hint="1 to 64 ASCII letters, digits, spaces and '()+,-./:=?",
        )
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


def read_csr(data: bytes, profile: Profile) -> PublicKeyTypes:
    """Read a request in PEM or DER, check its proof of possession, and return its key.

    The subject and the extensions it asks for are ignored: the profile says what the certificate holds.

    Raises:
        FormatError: `identity.csr.format`: not a request.
        RefusedError: `identity.csr.signature`: the sender does not hold the key; `identity.csr.key`: a kind of key that
            the profile does not accept.
    """
    try:
        if len(data) > _MAX_CSR:
            raise ValueError("too large")
        pem = data.lstrip().startswith(b"-----BEGIN")
        csr = x509.load_pem_x509_csr(data) if pem else x509.load_der_x509_csr(data)
        key = csr.public_key()
        proven = csr.is_signature_valid
    except Exception as error:
        # ValueError, UnsupportedAlgorithm, TypeError ...: whatever a hostile request provokes means the same
        raise FormatError("identity.csr.format", "not a certificate request (PKCS#10) in PEM or DER") from error
    if not proven:
        raise RefusedError(
            "identity.csr.signature",
            "the request is not signed by its own key",
            hint="make a new request on the device",
        )
    check_key(key, profile, profile.accept or (profile.key,))
    return key


def check_key(key: PublicKeyTypes, profile: Profile, accepted: Collection[Algorithm]) -> None:
    """Check the kind of a key.

    Raises:
        RefusedError: `identity.csr.key`: it is not among the `accepted` ones, or too short.
    """
    try:
        kind: Algorithm | None = algorithm_of(key)
    except UsageError:
        kind = None
    if kind not in accepted:
        raise RefusedError(
            "identity.csr.key",
            f"profile {profile.name} does not accept this kind of key",
            hint=f"accepted: {', '.join(dict.fromkeys(accepted))}",
        )
