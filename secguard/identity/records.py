"""What the registry keeps: devices, CAs and certificates."""

from datetime import datetime
from enum import StrEnum

import msgspec
from cryptography import x509

__all__ = ["CaRecord", "CaStatus", "CertificateRecord", "Datum", "DeviceRecord", "DeviceStatus", "Status"]


class Status(StrEnum):
    """Where a certificate stands; expiry is not a status, it follows from the time."""

    RESERVED = "reserved"
    SIGNED = "signed"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    VOID = "void"


class DeviceStatus(StrEnum):
    """Where a device stands."""

    REGISTERED = "registered"
    ISSUED = "issued"
    INSTALLED = "installed"
    ACTIVE = "active"
    RETIRED = "retired"


class Datum(StrEnum):
    """The geodetic datum of coordinates; GCJ-02 is shifted by up to 700 m against the others."""

    UNKNOWN = ""
    WGS84 = "WGS-84"
    GCJ02 = "GCJ-02"
    CGCS2000 = "CGCS2000"


class DeviceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One device; the fields are the columns of the registry. Empty text means: not known.

    Attributes:
        gbid: its GB/T 28181 ID.
        name: what people call it.
        vendor_serial: the maker's serial number.
        status: see `DeviceStatus`.
        registered: RFC 3339 time it was entered.
        mac: MAC address, `aa:bb:cc:dd:ee:ff`.
        model: the maker's model.
        maker: the maker.
        address: `host:port` of its TLS endpoint, for `identity probe --registry`.
        site: where it is installed.
        longitude: degrees east, or None.
        latitude: degrees north, or None.
        datum: see `Datum`.
        zone: network zone of the isolation policy.
        sensitivity: class of what it sees, as the site defines it.
        must_sign: it has the duty to sign its video.
        updated: RFC 3339 time of the last change of the record.
    """

    gbid: str
    name: str = ""
    vendor_serial: str = ""
    status: str = DeviceStatus.REGISTERED
    registered: str = ""
    mac: str = ""
    model: str = ""
    maker: str = ""
    address: str = ""
    site: str = ""
    longitude: float | None = None
    latitude: float | None = None
    datum: str = Datum.UNKNOWN
    zone: str = ""
    sensitivity: str = ""
    must_sign: bool = False
    updated: str = ""


class CaStatus(StrEnum):
    """Where a CA stands: waits for the root's signature; issues; issues no more but still answers; is history."""

    PENDING = "pending"
    CURRENT = "current"
    RETIRING = "retiring"
    RETIRED = "retired"


class CaRecord(msgspec.Struct, frozen=True):
    """One CA; the fields are columns of the registry.

    Attributes:
        name: `root`, or the name of its profile, with a suffix where there are several (`devices-320116`).
        certificate: DER; empty while pending.
        key: reference of its private key (`file:` and a path, relative to the site's folder if inside it; `pkcs11:`);
            empty if the key is elsewhere (an offline root).
        status: see `CaStatus`.
        created: RFC 3339.
    """

    name: str
    certificate: bytes
    key: str
    status: str = CaStatus.CURRENT
    created: str = ""

    def x509(self) -> x509.Certificate:
        """The certificate, parsed.

        Raises:
            ValueError: it is still pending.
        """
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
        shard: number of the sharded list it is on when revoked; -1: only on the full list.
        revocation: position among all revocations, which only grows; None while not revoked.
        invalid_since: RFC 3339 time since which it must not be trusted (RFC 5280, 5.3.2), if before `revoked`.
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
    shard: int = -1
    revocation: int | None = None
    invalid_since: str | None = None

    def x509(self) -> x509.Certificate:
        """The certificate, parsed.

        Raises:
            ValueError: it is only reserved.
        """
        if not self.certificate:  # empty: issued after a backup that was restored
            raise ValueError("this certificate has no bytes here")
        return x509.load_der_x509_certificate(self.certificate)

    def expired(self, at: datetime) -> bool:
        """Tell whether it has ended at a time (aware)."""
        return at > datetime.fromisoformat(self.not_after)
