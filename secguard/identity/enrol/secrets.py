"""One-time secrets: what an installer types into a device, so that it can ask for its first certificate.

A secret has 130 random bits, so its digest needs no slow hash; it is bound to one device and one profile.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from secguard.core import RefusedError, UsageError, rfc3339
from secguard.events import Event
from secguard.gbid import GbId
from secguard.identity.enrol.labels import label_of
from secguard.identity.issuing.request import check_holder
from secguard.identity.lock import exclusive
from secguard.identity.records import DeviceRecord, DeviceStatus
from secguard.identity.registry import Registry
from secguard.identity.registry.secrets import SecretRecord
from secguard.identity.site import Site

__all__ = ["MAX_HOURS", "OneTimeSecret", "allow", "digest_of", "find_secret", "withdraw"]

MAX_HOURS = 24 * 90
"""A secret that lives longer is a password."""

_CHARACTERS = 26
_GROUP = 7
_MAX_TYPED = 128


@dataclass(frozen=True, slots=True)
class OneTimeSecret:
    """A fresh secret; it is nowhere kept.

    Attributes:
        gbid: the device.
        profile: the profile.
        secret: what is typed into the device, as the password of its ID.
        expires: RFC 3339 time.
    """

    gbid: str
    profile: str
    secret: str = field(repr=False)
    expires: str


def _fresh() -> str:
    text = base64.b32encode(secrets.token_bytes(17)).decode("ascii").lower()[:_CHARACTERS]
    return "-".join(text[at : at + _GROUP] for at in range(0, _CHARACTERS, _GROUP))


def digest_of(gbid: str, secret: str) -> str:
    """What the registry keeps; capitals, spaces and hyphens do not count, for installers type it from paper."""
    typed = "".join(secret[:_MAX_TYPED].lower().replace("-", "").split())
    return hashlib.sha256(f"secguard one-time secret\0{gbid}\0{typed}".encode()).hexdigest()


def allow(site: Site, gbids: Sequence[str], profile: str = "", hours: float = 24) -> list[OneTimeSecret]:
    """Allow devices to enrol, each with a secret of its own; earlier unused ones for the same profile are void.

    A device that the register does not hold is entered, as `issue` does.

    Args:
        site: the site's CAs; no passphrase is needed.
        gbids: the devices.
        profile: which certificate; empty: the profile for the device's type.
        hours: how long the secret can be used.

    Raises:
        UsageError: a wrong ID, profile or time.
        RefusedError: a device lies outside the CA's scope, or is retired; recording failed.
        SystemPartError: a write failed.
    """
    if not 0 < hours <= MAX_HOURS:
        raise UsageError("identity.enrol.hours", f"{hours:g} hours", hint=f"more than 0, at most {MAX_HOURS}")
    now = site.clock.now().replace(microsecond=0)
    expires = rfc3339(now + timedelta(seconds=round(hours * 3600)))
    made: dict[tuple[str, str], OneTimeSecret] = {}
    for text in gbids:
        gbid = GbId.parse(text)
        label = label_of(site.profiles, gbid, profile)
        holder, _ = check_holder(gbid.value, label, site.config.edition)
        site.issuer(label.purpose, gbid)
        known = site.registry.device(holder)
        if known is not None and known.status == DeviceStatus.RETIRED:
            raise RefusedError(
                "identity.device.retired",
                f"{holder} is retired",
                hint="a new device needs an ID of its own, or enter it again",
            )
        made[holder, label.name] = OneTimeSecret(holder, label.name, _fresh(), expires)
    with exclusive(site.lock):
        with site.registry.transaction():
            for one in made.values():
                site.registry.register(DeviceRecord(one.gbid, registered=rfc3339(now)))
        events: dict[str, Event] = {}
        for one in made.values():
            device = site.registry.device(one.gbid)
            if device is not None and device.status == DeviceStatus.REGISTERED:
                name = f"device-registered-{one.gbid}"
                events.setdefault(name, site.event("device.registered", one.gbid, name))
            event = site.event("enrolment.allowed", one.gbid, profile=one.profile, expires=one.expires)
            events[event.id] = event
        site.record(list(events.values()))
        with site.registry.transaction():
            for one in made.values():
                digest = digest_of(one.gbid, one.secret)
                site.registry.add_secret(SecretRecord(digest, one.gbid, one.profile, rfc3339(now), one.expires))
    return list(made.values())


def withdraw(site: Site, gbid: str, profile: str = "") -> int:
    """Withdraw a device's unused secrets, and tell how many there were.

    Raises:
        UsageError: a wrong ID, or there are none.
        RefusedError: recording failed; the secrets are withdrawn all the same.
        SystemPartError: a write failed.
    """
    holder = GbId.parse(gbid).value
    with exclusive(site.lock):
        with site.registry.transaction():
            count = site.registry.withdraw_secrets(holder, profile)
        if not count:
            raise UsageError(
                "identity.enrol.none", f"{holder} has no unused secret", hint="`secguard identity enrol list` shows all"
            )
        site.record([site.event("enrolment.withdrawn", holder, profile=profile, secrets=count)])
    return count


def find_secret(registry: Registry, gbid: str, secret: str, now: str) -> SecretRecord | None:
    """The unused secret of a device that was typed, or None; each of the device's is compared in constant time.

    Args:
        registry: an open registry.
        gbid: the ID that was given as the user's name.
        secret: what was given as the password.
        now: RFC 3339 time, whole seconds.
    """
    typed = digest_of(gbid, secret)
    found = None
    for one in registry.secrets(gbid):
        if hmac.compare_digest(one.digest, typed) and one.used is None and one.expires > now:
            found = one
    return found
