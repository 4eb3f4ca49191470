"""The operations of EST behind HTTP: who asks, what for, may they; then certify, or refuse and say so in the ledger."""

import asyncio
import dataclasses
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secguard.core import RefusedError, SecguardError, UsageError
from secguard.identity.authority import Authority
from secguard.identity.certificate import ROOT
from secguard.identity.enrol.claims import (
    Claims,
    check_binding,
    check_identity,
    check_same_subject,
    read_claims,
    wants_encrypted_key,
)
from secguard.identity.enrol.labels import enrolable, label_of
from secguard.identity.enrol.limits import Buckets, Flood
from secguard.identity.enrol.registrar import Certifier
from secguard.identity.enrol.sender import Credential, Doorkeeper, Sender, claimed_id
from secguard.identity.enrol.wire import certs_only, csr_attributes, decode_request
from secguard.identity.issuing.order import Order
from secguard.identity.issuing.request import check_holder, read_csr
from secguard.identity.profiles import Profile
from secguard.identity.records import CaStatus
from secguard.keys import generate
from secguard.trust import stated_purposes

__all__ = ["Caller", "Enrolment", "TooManyError"]

_FAILURES = (10, 1 / 6)  # of one address: ten at once, then one in six seconds
_RENEWALS = (10, 1 / 60)  # of one device: ten at once, then one a minute
_RECORDED = (60, 1 / 6)  # refusals recorded one by one: sixty at once, then one in six seconds
_RECORDED_EACH = (10, 1 / 60)  # the same of one address, so that one stranger hides no other


class TooManyError(RefusedError):
    """Too many attempts.

    Args:
        code: as for `SecguardError`.
        message: as for `SecguardError`.
        seconds: when to try again.
    """

    def __init__(self, code: str, message: str, *, seconds: float) -> None:
        super().__init__(code, message, hint=f"try again in {max(1, round(seconds))} seconds")
        self.seconds = max(1, round(seconds))


@dataclass(frozen=True, slots=True)
class Caller:
    """The other end of a connection.

    Attributes:
        address: its IP address.
        certificate: what it presented in the handshake, DER; None without one.
        authorization: the request's Authorization header; empty without one.
        tls_unique: the connection's channel binding, if it has one.
    """

    address: str
    certificate: bytes | None = None
    authorization: str = ""
    tls_unique: bytes | None = None

    @property
    def network(self) -> str:
        """What counts as one caller: an IPv4 address, or the /64 of an IPv6 one."""
        try:
            found = ipaddress.ip_address(self.address.partition("%")[0])
        except ValueError:
            return self.address
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
            return str(ipaddress.ip_network((found, 64), strict=False))
        return str(found)


class Enrolment:
    """EST's operations.

    Args:
        authority: the site's CAs, with their passphrase.
        registrar: certifies.
        doorkeeper: authenticates.
        ticks: seconds that only grow, for the limits.
    """

    def __init__(
        self,
        authority: Authority,
        registrar: Certifier,
        doorkeeper: Doorkeeper,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authority = authority
        self._registrar = registrar
        self._doorkeeper = doorkeeper
        self._failures = Buckets(*_FAILURES, ticks)
        self._renewals = Buckets(*_RENEWALS, ticks)
        self._recorded = Buckets(*_RECORDED, ticks)
        self._recorded_each = Buckets(*_RECORDED_EACH, ticks)
        self._flood = Flood()
        self.refused = 0

    @property
    def alive(self) -> bool:
        """True while certificates can be made."""
        return self._registrar.alive

    def authenticate(self, caller: Caller) -> Sender:
        """Tell who sends; a one-time secret, if there is one, counts before a certificate.

        Raises:
            TooManyError: `identity.enrol.too-many`: too many failed attempts from there.
            RefusedError: `identity.enrol.*`: not believed.
            FormatError: a malformed Authorization header.
        """
        wait = self._failures.wait(caller.network)
        if wait:
            raise TooManyError("identity.enrol.too-many", "too many failed attempts", seconds=wait)
        at = self._authority.clock.now()
        try:
            if caller.authorization:
                return self._doorkeeper.by_secret(caller.authorization, at)
            if caller.certificate is not None:
                return self._doorkeeper.by_certificate(caller.certificate, at)
        except SecguardError:
            self._failures.take(caller.network)
            raise
        raise RefusedError(
            "identity.enrol.unauthenticated",
            "who are you?",
            hint="present the device's certificate, or its ID and one-time secret by HTTP Basic",
        )

    def profile_for(self, sender: Sender, label: str, *, renew: bool = False) -> Profile:
        """The profile that a sender asks for.

        Raises:
            UsageError: no such label, or not for the device's type.
            RefusedError: its one-time secret is for another.
        """
        if sender.secret is not None:
            if label not in {"", sender.secret.profile}:
                raise RefusedError(
                    "identity.enrol.profile",
                    f"the one-time secret is for {sender.secret.profile}, not {label[:40]}",
                    hint=f"ask below /.well-known/est/{sender.secret.profile}",
                )
            label = sender.secret.profile
        elif renew and not label and sender.row is not None:
            label = sender.row.profile
        profile = label_of(self._authority.profiles, sender.gbid, label)
        check_holder(sender.gbid.value, profile, self._authority.config.edition)
        return profile

    async def enrol(self, caller: Caller, label: str, body: bytes, *, renew: bool) -> bytes:
        """Certify the key of a request; the answer is a certs-only message with the certificate alone (4.2.3).

        Raises:
            SecguardError: it is refused.
        """
        sender = self.authenticate(caller)
        profile = self.profile_for(sender, label, renew=renew)
        data = decode_request(body)
        claims = self._check(sender, caller, data)
        if renew:
            self._check_renewal(sender, profile, claims)
        # The signature is checked here, not where the CA keys are; what a request may ask for is read there again.
        public = read_csr(data, profile)
        asked = {"csr": data} if profile.from_request else {"public": public}
        return await self._certify(sender, Order(sender.gbid.value, profile.name, **asked, replace=True, renewal=renew))

    async def make_key(self, caller: Caller, label: str, body: bytes) -> tuple[bytes, bytes]:
        """Make a key for a device: PKCS#8 in DER, which is kept nowhere, and the certs-only message (4.4).

        Raises:
            SecguardError: it is refused.
        """
        sender = self.authenticate(caller)
        profile = self.profile_for(sender, label)
        if not profile.server_keys:
            raise RefusedError(
                "identity.enrol.server-keys",
                f"devices make their keys for {profile.name} themselves",
                hint="use simpleenroll; the profile says otherwise with `server_keys: true`",
            )
        claims = self._check(sender, caller, decode_request(body))
        if wants_encrypted_key(claims):
            raise RefusedError(
                "identity.enrol.encrypted-key",
                "the request wants its key encrypted once more, which is not done here",
                hint="leave the DecryptKeyIdentifier out: TLS protects the key",
            )
        key = (await asyncio.to_thread(generate, profile.key)).private_key()
        order = Order(sender.gbid.value, profile.name, public=key.public_key(), replace=True)
        answer = await self._certify(sender, order)
        return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), answer

    def _check(self, sender: Sender, caller: Caller, data: bytes) -> Claims:
        claims = read_claims(data)
        check_identity(claims, sender.gbid, sender.device.vendor_serial if sender.device else "")
        check_binding(claims, caller.tls_unique)
        return claims

    def _check_renewal(self, sender: Sender, profile: Profile, claims: Claims) -> None:
        if sender.row is None:
            raise RefusedError(
                "identity.enrol.no-certificate",
                "to re-enrol, a device presents the certificate that this site issued to it",
                hint="use simpleenroll",
            )
        row = sender.row
        if row.profile != profile.name:
            active = self._doorkeeper.registry.active(sender.gbid.value, profile.name)
            if active is None:
                raise RefusedError(
                    "identity.enrol.no-certificate",
                    f"{sender.gbid} has no {profile.name} certificate to renew",
                    hint="use simpleenroll",
                )
            row = active
        check_same_subject(claims, row.x509(), sender.gbid)

    async def _certify(self, sender: Sender, order: Order) -> bytes:
        limited = sender.credential is not Credential.SECRET
        wait = self._renewals.wait(sender.gbid.value) if limited else 0
        if wait:
            raise TooManyError("identity.enrol.too-often", f"{sender.gbid} enrols too often", seconds=wait)
        if sender.secret is not None:
            order = dataclasses.replace(order, secret=sender.secret.digest)
        answer = await self._registrar.certify(order)
        if limited:
            self._renewals.take(sender.gbid.value)
        return certs_only([answer])

    def ca_certificates(self, label: str) -> bytes:
        """The root and the issuing CAs, in a rollover the old and the new one, as a certs-only message (4.1.3).

        Raises:
            UsageError: no such label.
        """
        profiles = [self._labelled(label)] if label else enrolable(self._authority.profiles).values()
        purposes = {profile.purpose for profile in profiles}
        return certs_only(
            ca.certificate
            for name, ca in self._doorkeeper.cas.items()
            if name == ROOT
            or (
                ca.status in {CaStatus.CURRENT, CaStatus.RETIRING}
                and not purposes.isdisjoint(stated_purposes(ca.x509()))
            )
        )

    def attributes(self, caller: Caller, label: str) -> bytes | None:
        """What a request should hold (4.5.2); None if that depends on who asks, and nobody knows."""
        sender: Sender | None = None
        if caller.certificate is not None:
            try:
                sender = self._doorkeeper.by_certificate(caller.certificate, self._authority.clock.now())
            except SecguardError:
                sender = None
        if sender is not None:
            return csr_attributes(self.profile_for(sender, label), sender.gbid)
        if label:
            return csr_attributes(self._labelled(label), None)
        profiles = list(enrolable(self._authority.profiles).values())
        return csr_attributes(profiles[0], None) if len({one.key for one in profiles}) == 1 else None

    def _labelled(self, label: str) -> Profile:
        able = enrolable(self._authority.profiles)
        if label not in able:
            raise UsageError(
                "identity.enrol.label", f"no label {label[:40]!r}", hint=f"labels: {', '.join(sorted(able))}"
            )
        return able[label]

    async def refuse(self, error: SecguardError, caller: Caller, operation: str, label: str) -> None:
        """Record a failed enrolment: each by itself, or in a flood of them a sum a minute (`flush`).

        Raises:
            SecguardError: it could not be recorded.
        """
        self.refused += 1
        subject = self._subject(caller)
        if not (self._recorded_each.take(caller.network) and self._recorded.take("")):
            self._flood.add(error.code, caller.network, subject)
            return
        event = self._authority.event(
            "certificate.refused",
            subject,
            denied=True,
            operation=operation,
            profile=label[:40],
            code=error.code,
            message=error.message[:200],
            address=caller.address,
        )
        await self._registrar.record(event)

    def _subject(self, caller: Caller) -> str:
        """Whom a refused caller claims to be: a device's ID, or `est`."""
        return claimed_id(caller.authorization, caller.certificate) or "est"

    async def flush(self) -> None:
        """Record the sum of the refusals that were too many.

        Raises:
            SecguardError: it could not be recorded; they are kept for the next time.
        """
        if self._flood.count:
            flood, self._flood = self._flood, Flood()
            told = self._authority.event("certificate.refused", "est", denied=True, **flood.facts())
            await self._registrar.record(told)
