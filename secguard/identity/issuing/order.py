"""One certificate that is asked for, and the answer."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.identity.certificate import Validity
from secguard.identity.records import CertificateRecord

__all__ = ["Certified", "Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """One certificate that is asked for, over one key; exactly one of `csr`, `public` and `spki` is given.

    Attributes:
        holder: a device's GB/T 28181 ID, a host, or a name, as the profile says.
        profile: name of the profile.
        csr: a PKCS#10 request (PEM or DER); its signature proves that the sender holds the key.
        public: the key, when the caller knows by other means who holds it.
        spki: the same in DER (SubjectPublicKeyInfo), of a key that the caller made; a P-256 key is then not decoded.
        key: reference of the private key, for the registry; empty if the device keeps it.
        replace: an active certificate over another key is superseded; otherwise it stands in the way.
        name: what people call the device, for its record.
        vendor_serial: the maker's serial number, for its record and certificate.
        issuer: a CA by name; empty: the one that the site chooses.
        renewal: an active certificate over the same key is superseded; otherwise it is the answer.
        validity: instead of the profile's; only for certificates that test others (`identity.probe.credentials`).
        secret: digest of the one-time secret that allows it; it is used up as the row is entered, in one commit.
    """

    holder: str
    profile: str
    csr: bytes | None = None
    public: PublicKeyTypes | None = None
    key: str = ""
    replace: bool = False
    name: str = ""
    vendor_serial: str = ""
    issuer: str = ""
    renewal: bool = False
    validity: Validity | None = None
    spki: bytes = b""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate that is in force, stored and recorded.

    Attributes:
        record: its row.
        certificate: DER.
        chain: it and the issuing CA's, DER, without the root.
        new: False if it had been issued before.
    """

    record: CertificateRecord
    certificate: bytes
    chain: tuple[bytes, ...]
    new: bool
