"""Purposes of a key, and the object identifiers that stand for them in certificates.

A purpose is stated twice: by an extended key usage (RFC 5280, 4.2.1.12), which other software understands, and by a
certificate policy (4.2.1.4), which an issuing CA must carry too, so that a CA can only hand out its own purposes.
Purposes without a standard extended key usage have one under our own arc. It is made of the UUID
cfc6afa4-3d5e-47f8-8bab-ee486d3799b3, whose digits stand in seven small arcs below the one that Microsoft lays open for
GUIDs. The plain form, 2.25.<UUID> of ITU-T X.667, is one arc of 128 bits: Go's crypto/x509 and others refuse a whole
certificate for an arc of more than 31 bits.
"""

from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

__all__ = ["ARC", "GBID_ASSIGNER", "GB_SCOPE", "HARDWARE_ARC", "Purpose", "PurposeOids", "oids_of", "stated_purposes"]

# Never changes: certificates in the field carry it.
ARC = "1.2.840.113556.1.8000.2554.53190.44964.15710.18424.35755.15616109.3643827"

GB_SCOPE = ObjectIdentifier(f"{ARC}.3.1")
"""Certificate extension: the GB/T 28181 IDs that a CA may certify (`secguard.trust.scope`)."""

GBID_ASSIGNER = ObjectIdentifier(f"{ARC}.4.1")
"""Assigner of a permanentIdentifier (RFC 4043) whose value is a GB/T 28181 ID."""

HARDWARE_ARC = f"{ARC}.5"
"""Below it, the type code of an ID names the hwType of a hardwareModuleName (RFC 4108)."""


class Purpose(StrEnum):
    """What a certified key is for."""

    DEVICE = "device"
    PLATFORM = "platform"
    MEDIA_SIGNING = "media-signing"
    OPERATOR = "operator"
    LOG = "log"
    WITNESS = "witness"
    TSA = "tsa"
    OCSP = "ocsp"
    ISOLATION_AGENT = "isolation-agent"


@dataclass(frozen=True, slots=True)
class PurposeOids:
    """The identifiers of one purpose.

    Attributes:
        eku: the extended key usage that its certificates must hold.
        policy: the certificate policy that they and their issuing CAs must hold.
    """

    eku: ObjectIdentifier
    policy: ObjectIdentifier


# Numbers are never reused.
_NUMBERS = {
    Purpose.DEVICE: 1,
    Purpose.PLATFORM: 2,
    Purpose.MEDIA_SIGNING: 3,
    Purpose.OPERATOR: 4,
    Purpose.LOG: 5,
    Purpose.WITNESS: 6,
    Purpose.TSA: 7,
    Purpose.OCSP: 8,
    Purpose.ISOLATION_AGENT: 9,
}
_STANDARD = {
    Purpose.DEVICE: ExtendedKeyUsageOID.CLIENT_AUTH,
    Purpose.PLATFORM: ExtendedKeyUsageOID.SERVER_AUTH,
    Purpose.TSA: ExtendedKeyUsageOID.TIME_STAMPING,
    Purpose.OCSP: ExtendedKeyUsageOID.OCSP_SIGNING,
}
_TABLE = {
    purpose: PurposeOids(
        _STANDARD.get(purpose) or ObjectIdentifier(f"{ARC}.1.{number}"), ObjectIdentifier(f"{ARC}.2.{number}")
    )
    for purpose, number in _NUMBERS.items()
}


def oids_of(purpose: Purpose) -> PurposeOids:
    """The identifiers of a purpose."""
    return _TABLE[purpose]


def stated_purposes(certificate: x509.Certificate) -> list[Purpose]:
    """The purposes whose policies a certificate carries; a claim, to be judged.

    Raises:
        ValueError: the certificate's extensions cannot be parsed.
    """
    try:
        policies = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except x509.ExtensionNotFound:
        return []
    stated = {item.policy_identifier for item in policies}
    return [purpose for purpose, oids in _TABLE.items() if oids.policy in stated]
