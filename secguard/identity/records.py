"""What the registry keeps: devices, CAs and certificates."""

from datetime import datetime
from enum import StrEnum

import msgspec
from cryptography import x509

__all__ = ["CaRecord", "CertificateRecord", "DeviceRecord", "Status"]


class Status(StrEnum):
    """Where a certificate stands; expiry is not a status, it follows from the time."""

    RESERVED = "reserved"
    SIGNED = "signed"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    VOID = "void"


class DeviceRecord(msgspec.Struct, frozen=True):
    """One device.

    Attributes:
        gbid: its GB/T 28181 ID.
        name: what people call it; may be empty.
        vendor_serial: the maker's serial number; may be empty.
        status: `registered` or `issued`.
        registered: RFC 3339 time it was entered.
    """

    gbid: str
    name: str
    vendor_serial: str
    status: str
    registered: str


class CaRecord(msgspec.Struct, frozen=True):
    """One CA.

    Attributes:
        name: `root`, `devices` or `services`.
        certificate: DER.
        key: reference of its private key, `file:` and a path, relative to the site's folder if inside it.
    """

    name: str
    certificate: bytes
    key: str

    def x509(self) -> x509.Certificate:
        """The certificate, parsed."""
        return x509.load_der_x509_certificate(self.certificate)


class CertificateRecord(msgspec.Struct, frozen=True):
    """One certificate; the fields are the columns of the registry.

    Attributes:
        issuer: name of the CA.
        serial: serial number, lower-case hex.
        holder: GB/T 28181 ID, or the name of a person or service.
        device: the same ID if the holder is a device.
        profile: name of the profile.
        purpose: what it is for.
        status: see `Status`.
        not_before: RFC 3339.
        not_after: RFC 3339.
        spki: SHA-256 of the public key, hex.
        key: reference of the private key (as for a CA); empty if the device keeps it (CSR).
        event: ID of the event that records the issue.
        certificate: DER; None while only reserved.
        revoked: RFC 3339 time of revocation.
        reason: CRLReason.
        revoked_event: ID of the event that records the revocation.
    """

    issuer: str
    serial: str
    holder: str
    device: str | None
    profile: str
    purpose: str
    status: str
    not_before: str
    not_after: str
    spki: str
    key: str
    event: str
    certificate: bytes | None = None
    revoked: str | None = None
    reason: str | None = None
    revoked_event: str | None = None

    def x509(self) -> x509.Certificate:
        """The certificate, parsed.

        Raises:
            ValueError: it is only reserved.
        """
        if self.certificate is None:
            raise ValueError("a reserved certificate has no bytes yet")
        return x509.load_der_x509_certificate(self.certificate)

    def expired(self, at: datetime) -> bool:
        """Tell whether it has ended at a time (aware)."""
        return at > datetime.fromisoformat(self.not_after)
