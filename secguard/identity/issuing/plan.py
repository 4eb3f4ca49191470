"""What an order comes to, checked before anything is made: profile, holder, issuing CA, key."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from secguard.core import FormatError, RefusedError, UsageError
from secguard.gbid import GbId
from secguard.identity.issuing.order import Order
from secguard.identity.issuing.request import check_holder, check_key, check_vendor_serial, read_csr, read_names
from secguard.identity.issuing.spki import is_p256, spki_of
from secguard.identity.profiles import Profile
from secguard.identity.records import CaStatus, CertificateRecord, DeviceRecord
from secguard.identity.site import Site
from secguard.keys import Algorithm, algorithm_of
from secguard.trust import scope_of, stated_purposes

__all__ = ["Job", "find_profile", "fitting_serial", "in_the_way", "plan"]


@dataclass(slots=True)
class Job:
    """One order on its way.

    Attributes:
        order: what was asked for.
        profile: its profile.
        holder: the holder's name in its one form.
        device: the ID of a device.
        issuer: name of the issuing CA.
        algorithm: the kind of the key.
        key_bytes: its SubjectPublicKeyInfo in DER.
        spki: its `key_id`.
        names: alternative names that the request asks for and may ask for.
        vendor_serial: the maker's serial number as it stands in the certificate.
        known: the device's record before the order.
        entry: the device's record with what the order says of it.
        given_up: a row that an interrupted issue left, over another key.
        record: its row.
        fresh: the row is not yet entered.
        new: False if it had been issued before.
    """

    order: Order
    profile: Profile
    holder: str
    device: GbId | None
    issuer: str
    algorithm: Algorithm
    key_bytes: bytes
    spki: str
    names: Sequence[x509.GeneralName] = ()
    vendor_serial: str = ""
    known: DeviceRecord | None = None
    entry: DeviceRecord | None = None
    given_up: CertificateRecord | None = None
    fresh: bool = False
    record: CertificateRecord | None = None
    new: bool = True

    @property
    def public(self) -> PublicKeyTypes:
        """The key."""
        # What `plan` has let through is a key of a kind that certificates hold.
        return load_der_public_key(self.key_bytes)

    @property
    def row(self) -> CertificateRecord:
        """Its row; it has one."""
        assert self.record is not None
        return self.record

    @property
    def place(self) -> tuple[str, str]:
        """Holder and profile: of each place one certificate is in force."""
        return self.holder, self.profile.name


def find_profile(site: Site, name: str) -> Profile:
    """A profile of the workspace.

    Raises:
        UsageError: there is none of this name.
    """
    profile = site.profiles.get(name)
    if profile is None:
        raise UsageError(
            "identity.profile.unknown",
            f"no profile {name[:40]!r}",
            hint=f"there are: {', '.join(site.profiles)}",
            where=str(site.certs),
        )
    return profile


def fitting_serial(known: DeviceRecord | None, vendor_serial: str) -> str:
    """A device keeps the maker's serial number with which it was registered; returns the one it has, or empty.

    Raises:
        RefusedError: `identity.device.serial`: another one is given now.
        UsageError: `identity.vendor-serial.format`: the registered one cannot stand in a certificate.
    """
    if known is None or not known.vendor_serial:
        return vendor_serial
    if vendor_serial not in {"", known.vendor_serial}:
        raise RefusedError(
            "identity.device.serial",
            f"{known.gbid} is registered with the maker's serial number {known.vendor_serial}",
            hint="another camera needs an ID of its own",
        )
    check_vendor_serial(known.vendor_serial)
    return known.vendor_serial


def in_the_way(site: Site, active: CertificateRecord) -> RefusedError:
    """The error for a holder whose active certificate is over another key."""
    return RefusedError(
        "identity.certificate.active",
        f"{active.holder} has an active {active.profile} certificate, serial {active.serial}",
        hint="use it, renew it (identity renew), or revoke it first (identity revoke)",
        where=site.locate(active.key).removeprefix("file:") if active.key else "",
    )


def plan(site: Site, order: Order) -> Job:
    """Check an order against profile, scope and key rules; the registry's part comes under the lock.

    Raises:
        UsageError: a wrong ID, name or profile; no CA for the purpose.
        FormatError: a CSR that is none.
        RefusedError: outside the CA's scope, no proof of possession, a kind of key the profile does not accept.
        ValueError: not exactly one of `csr`, `public` and `spki`.
    """
    if (order.csr is not None) + (order.public is not None) + bool(order.spki) != 1:
        raise ValueError("an order has a csr or a public key")
    profile = find_profile(site, order.profile)
    holder, device = check_holder(order.holder, profile, site.config.edition, order.vendor_serial)
    issuer = (
        _named_issuer(site, order.issuer, profile, device) if order.issuer else site.issuer(profile.purpose, device)
    )
    names: Sequence[x509.GeneralName] = ()
    if order.csr is not None:
        public = read_csr(order.csr, profile, holder if device else "")
        algorithm, key_bytes = algorithm_of(public), spki_of(public)
        if profile.from_request:
            names = read_names(order.csr, profile, site.config.domain, device)
    else:
        algorithm, key_bytes = _given_key(order, profile)
    spki = hashlib.sha256(key_bytes).hexdigest()
    return Job(order, profile, holder, device, issuer, algorithm, key_bytes, spki, names)


def _given_key(order: Order, profile: Profile) -> tuple[Algorithm, bytes]:
    accepted = (profile.key, *profile.accept)
    if order.public is None and is_p256(order.spki) and Algorithm.P256 in accepted:
        return Algorithm.P256, order.spki
    try:
        public = order.public if order.public is not None else load_der_public_key(order.spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError("identity.key.format", "not a public key (SubjectPublicKeyInfo in DER)") from error
    check_key(public, profile, accepted)
    return algorithm_of(public), spki_of(public)


def _named_issuer(site: Site, name: str, profile: Profile, device: GbId | None) -> str:
    """A CA that was asked for by name; a retiring one still certifies who answers for it."""
    record = site.cas.get(name)
    certificate = site.certificates.get(name)
    allowed = {CaStatus.CURRENT, CaStatus.RETIRING} if profile.no_check else {CaStatus.CURRENT}
    if record is None or certificate is None or record.status not in allowed:
        raise UsageError(
            "identity.issuer.unknown", f"no CA {name[:40]!r} that issues", hint="secguard identity ca show lists them"
        )
    if profile.purpose not in stated_purposes(certificate):
        raise UsageError(
            "identity.purpose.unissued",
            f"the CA {name} does not certify the purpose {profile.purpose}",
            hint="secguard identity ca show lists them",
        )
    for ca in (certificate, site.root):
        scope = scope_of(ca)
        if device is not None and scope is not None and not scope.covers(device):
            raise RefusedError(
                "identity.scope.exceeded",
                f"{device} lies outside the scope of this site's CA ({scope})",
                hint="its certificate must come from the CA of its own area",
                where=name,
            )
    return name
