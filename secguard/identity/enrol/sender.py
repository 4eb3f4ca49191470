"""Who sends a request: a device with its certificate, with its maker's, or with a one-time secret."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509

from secguard.core import Axis, FormatError, Outcome, RefusedError, SecguardError, UsageError, describe, rfc3339
from secguard.gbid import GbId
from secguard.identity.certificate import ROOT
from secguard.identity.enrol.makers import Maker, load_makers, which_device
from secguard.identity.enrol.secrets import find_secret
from secguard.identity.records import CaRecord, CaStatus, CertificateRecord, DeviceRecord, DeviceStatus, Status
from secguard.identity.registry import Registry
from secguard.identity.registry.secrets import SecretRecord
from secguard.identity.site import Site
from secguard.trust import MALFORMED, Purpose, TrustPolicy, common_name, read_crls

__all__ = ["Credential", "Doorkeeper", "Sender", "claimed_id", "parse_basic"]

_TLS_CLIENTS = {Purpose.DEVICE, Purpose.PLATFORM}
_LEAD = timedelta(minutes=5)  # a certificate begins so much before it is issued
_MAX_CACHED = 4096
_MAX_HEADER = 1024


class Credential(StrEnum):
    """How a sender was authenticated."""

    CERTIFICATE = "certificate"
    MAKER = "maker"
    SECRET = "secret"  # noqa: S105 - a name, no secret


@dataclass(frozen=True, slots=True)
class Sender:
    """An authenticated device.

    Attributes:
        gbid: its ID.
        device: its record; None if the register does not hold it.
        credential: how it was authenticated.
        row: the certificate it presented, if this site issued it.
        secret: the one-time secret it gave; not used up yet.
    """

    gbid: GbId
    device: DeviceRecord | None
    credential: Credential
    row: CertificateRecord | None = None
    secret: SecretRecord | None = None


def parse_basic(header: str) -> tuple[str, str]:
    """User and password of an Authorization header (RFC 7617).

    Raises:
        FormatError: `identity.enrol.authorization`: another scheme, or not well formed.
    """
    scheme, _, value = header[:_MAX_HEADER].partition(" ")
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        user = colon = password = ""
    if scheme.lower() != "basic" or not colon:
        raise FormatError("identity.enrol.authorization", "the Authorization header is not HTTP Basic")
    return user, password


def claimed_id(authorization: str, certificate: bytes | None) -> str:
    """The ID that a caller claims, believed or not; empty if it claims none."""
    try:
        if authorization:
            return GbId.parse(parse_basic(authorization)[0].strip()).value
        if certificate is not None:
            return GbId.parse(common_name(x509.load_der_x509_certificate(certificate))).value
    except (SecguardError, *MALFORMED):
        pass
    return ""


class Doorkeeper:
    """Tells who sends; reads the registry by a connection of its own.

    Args:
        site: the site's CAs.
        registry: an open registry, for this object only.
        grace_hours: how long a superseded certificate still authenticates its device: the answer that brought the new
            one may have been lost.

    Attributes:
        makers: the makers that are believed.
        cas: the CAs of the site.
    """

    def __init__(self, site: Site, registry: Registry, grace_hours: float = 24) -> None:
        self._site = site
        self.registry = registry
        self._grace = timedelta(hours=grace_hours)
        self._judged: set[bytes] = set()
        self._seen: tuple[object, ...] = ()
        self.makers: list[Maker] = []
        self.cas: Mapping[str, CaRecord] = {}
        self._certificates: list[x509.Certificate] = []
        self._policy = TrustPolicy([site.root])
        self.refresh()

    def refresh(self) -> bool:
        """Read CAs, makers and the root's revocation list again if they have changed, and tell whether they had.

        Raises:
            FormatError: a maker's file, or the list, cannot be read; what was known before stays in force.
        """
        folder, crl = self._site.certs / "makers", self._site.crl_folder / f"{ROOT}.crl"
        files = [*sorted(folder.glob("*.pem")), *sorted(folder.glob("*.crl")), *([crl] if crl.exists() else [])]
        cas = {name: ca for name, ca in self.registry.authorities().items() if ca.status != CaStatus.PENDING}
        seen = (cas, [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in files])
        if seen == self._seen:
            return False
        makers = load_makers(folder)
        policy = TrustPolicy([cas[ROOT].x509()], read_crls([crl]) if crl.exists() else ())
        self.makers, self.cas, self._policy, self._seen = makers, cas, policy, seen
        self._certificates = [ca.x509() for name, ca in cas.items() if name != ROOT]
        self._judged.clear()
        return True

    @property
    def anchors(self) -> list[x509.Certificate]:
        """All certificates that a device's own may lead to: for the handshake."""
        makers = [certificate for maker in self.makers for certificate in maker.certificates]
        return [self.cas[ROOT].x509(), *self._certificates, *makers]

    def by_certificate(self, data: bytes, at: datetime) -> Sender:
        """The device that presented a certificate in the handshake.

        Args:
            data: the certificate in DER; that the sender holds its key has been proven.
            at: now, aware.

        Raises:
            RefusedError: `identity.enrol.*`: expired, revoked, superseded too long ago, not a device's, or foreign.
        """
        try:
            leaf = x509.load_der_x509_certificate(data)
            row = self.registry.by_serial(f"{leaf.serial_number:032x}")
            own = leaf.issuer in {one.subject for one in self._certificates}
        except MALFORMED as error:
            raise RefusedError("identity.enrol.foreign", "the device's certificate cannot be read") from error
        if row is None or row.certificate != data:
            if own:
                raise RefusedError("identity.enrol.foreign", "the device's certificate is not in the register")
            gbid, device = which_device(self.makers, leaf, self.registry, at)
            return Sender(gbid, device, Credential.MAKER)
        if row.device is None or row.purpose not in _TLS_CLIENTS:
            raise RefusedError(
                "identity.enrol.purpose",
                f"a {row.profile} certificate does not authenticate a device",
                hint="use the certificate that the device shows in TLS",
            )
        self._check_status(row, at)
        problem = self._judge(leaf, data, row, at)
        if problem:
            raise RefusedError("identity.enrol.certificate", f"the device's certificate is not accepted: {problem}")
        gbid = GbId.parse(row.device)
        return Sender(gbid, self._device(gbid), Credential.CERTIFICATE, row)

    def _device(self, gbid: GbId) -> DeviceRecord | None:
        device = self.registry.device(gbid.value)
        if device is not None and device.status == DeviceStatus.RETIRED:
            raise RefusedError("identity.device.retired", f"{gbid} is retired", hint="ask the site's administrator")
        return device

    def _check_status(self, row: CertificateRecord, at: datetime) -> None:
        if row.expired(at):
            raise RefusedError(
                "identity.enrol.expired",
                f"the device's certificate ended at {row.not_after}",
                hint="ask for a one-time secret: secguard identity enrol allow",
            )
        if row.status == Status.ACTIVE or (row.status == Status.SUPERSEDED and self._in_grace(row, at)):
            return
        raise RefusedError(
            "identity.enrol.revoked" if row.status == Status.REVOKED else "identity.enrol.superseded",
            f"the device's certificate is {row.status}",
            hint="use the newer certificate, or ask for a one-time secret: secguard identity enrol allow",
        )

    def _in_grace(self, row: CertificateRecord, at: datetime) -> bool:
        """Tell whether a certificate was superseded only lately, by one that is still good."""
        active = self.registry.active(row.holder, row.profile)
        if active is None:
            return False
        later = [
            one.not_before
            for one in self.registry.certificates(row.holder)
            if one.profile == row.profile and one.serial != row.serial and one.certificate is not None
        ]
        since = min((start for start in later if start >= row.not_before), default=active.not_before)
        return at <= datetime.fromisoformat(since) + _LEAD + self._grace

    def _judge(self, leaf: x509.Certificate, data: bytes, row: CertificateRecord, at: datetime) -> str:
        """Why the path is not believed; empty if it is, which is kept: status and end are asked for every time."""
        if data in self._judged:
            return ""
        judgement = self._policy.judge_chain(
            [leaf, *self._certificates], Purpose(row.purpose), at, gbid=GbId.parse(row.holder)
        )
        # Of the device's own status the register knows more than any list; of the CA's the root's list does.
        for item in judgement.findings:
            if (item.axis is Axis.PROVENANCE and item.outcome is not Outcome.PASS) or (
                item.axis is Axis.REVOCATION and item.outcome is Outcome.FAIL
            ):
                return describe(item)
        if not judgement.believed:
            return "no path to the root"
        if len(self._judged) >= _MAX_CACHED:
            self._judged.clear()
        self._judged.add(data)
        return ""

    def by_secret(self, header: str, at: datetime) -> Sender:
        """The device that gave its ID and its one-time secret by HTTP Basic; the secret is not used up yet.

        Raises:
            RefusedError: `identity.enrol.secret`: no such secret, used, expired, or another device's: one answer for
                all, so that nobody can guess which.
            FormatError: another scheme.
        """
        user, password = parse_basic(header)
        now = rfc3339(at.replace(microsecond=0))
        try:
            gbid = GbId.parse(user.strip())
            found = find_secret(self.registry, gbid.value, password, now)
        except UsageError:
            found = None
        if found is None:
            raise RefusedError(
                "identity.enrol.secret",
                "no such one-time secret: wrong, used, expired, or another device's",
                hint="user name: the device's 20 digits; a new secret: secguard identity enrol allow",
            )
        return Sender(gbid, self._device(gbid), Credential.SECRET, secret=found)
