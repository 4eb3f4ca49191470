"""Revoking certificates (RFC 5280, section 5.3), and saying so: in the ledger, in the lists, to whoever asks.

Order of steps: the rows are marked revoked and the events kept with them, in one commit (from here on OCSP says so) ->
the ledger records the events -> the lists that changed are published. A crash or a refusal in between leaves the rest
to the next run, of whatever kind: another revocation, `identity crl`, the service.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ReasonFlags

from secguard.core import FormatError, SecguardError, UsageError, parse_time, rfc3339
from secguard.core.limits import read_bounded
from secguard.events import new_event_id
from secguard.gbid import GbId
from secguard.identity.certificate import ROOT
from secguard.identity.lock import exclusive
from secguard.identity.records import CaStatus, CertificateRecord, Status
from secguard.identity.site import Site
from secguard.identity.status.publish import publish_locked
from secguard.keys import key_id

__all__ = ["CA_PROFILE", "REASONS", "Revocation", "read_revocations", "revoke"]

REASONS = tuple(
    reason.value for reason in ReasonFlags if reason not in {ReasonFlags.remove_from_crl, ReasonFlags.certificate_hold}
)
"""CRLReason (RFC 5280, 5.3.1) that can be given; a revocation is final, so a hold is not among them."""

CA_PROFILE = "ca"
"""Profile in the row of a CA's own certificate, which is entered when it is revoked."""

_MAX_FILE = 16 << 20
_MAX_LINES = 100_000
_LIVE = {Status.ACTIVE, Status.SUPERSEDED}


@dataclass(frozen=True, slots=True)
class Revocation:
    """What is to be revoked.

    Attributes:
        target: a serial number in hex; a holder: all its certificates in force; or a CA by name.
        reason: one of `REASONS`.
        since: when it stopped being trustworthy, if before now (invalidityDate of RFC 5280, 5.3.2); aware.
        where: line of the list it comes from, for messages.
    """

    target: str
    reason: str = "unspecified"
    since: datetime | None = None
    where: str = ""


def read_revocations(path: Path, reason: str = "unspecified", since: datetime | None = None) -> list[Revocation]:
    """Read a list of revocations: a line each, `TARGET[,REASON[,SINCE]]`; what follows a `#` is skipped.

    Args:
        path: the file, UTF-8, at most 100,000 lines.
        reason: for lines that state none.
        since: for lines that state none.

    Raises:
        UsageError: no such file, an unknown reason or no time, with the line.
        FormatError: not text, too long, or empty.
    """
    try:
        lines = read_bounded(path, _MAX_FILE).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError("identity.revocations.format", "not UTF-8 text", where=str(path)) from error
    found = []
    for number, line in enumerate(lines, 1):
        fields = [field.strip() for field in line.partition("#")[0].split(",")]
        if not any(fields):
            continue
        where = f"{path}, line {number}"
        if len(fields) > 3 or not fields[0]:
            raise FormatError("identity.revocations.format", "not TARGET[,REASON[,SINCE]]", where=where)
        target, stated, time = (*fields, "", "")[:3]
        try:
            found.append(Revocation(target, stated or reason, parse_time(time) if time else since, where))
        except SecguardError as error:
            raise UsageError(error.code, error.message, hint=error.hint, where=where) from error
    if not 1 <= len(found) <= _MAX_LINES:
        raise FormatError(
            "identity.revocations.format",
            f"{len(found)} lines: 1 to {_MAX_LINES} can be revoked at once",
            where=str(path),
        )
    return found


def revoke(
    site: Site, revocations: Sequence[Revocation], *, profile: str = "", case: str = ""
) -> list[CertificateRecord]:
    """Revoke certificates, record it, and publish the lists that changed; all are looked up before anything is changed.

    Revoking again what is revoked changes nothing, and completes what an interrupted run left.

    Args:
        site: the site's CAs.
        revocations: what to revoke.
        profile: of a holder, only the certificates of this profile.
        case: case number, recorded.

    Returns:
        The rows as they are now.

    Raises:
        UsageError: nothing to revoke, an unknown reason, a time in the future, or a wrong passphrase.
        RefusedError: recording failed: the registry and OCSP say revoked, the lists do not yet; run again.
        SystemPartError: a write failed.
    """
    now = site.clock.now().replace(microsecond=0)
    for one in revocations:
        _check(one, now)
    with exclusive(site.lock):
        found: dict[tuple[str, str], tuple[CertificateRecord, Revocation]] = {}
        with site.registry.transaction():  # thousands of look-ups cost one lock of the database
            for one in revocations:
                for row in _find(site, one, profile):
                    found.setdefault((row.issuer, row.serial), (row, one))
        issuers = {row.issuer for row, _ in found.values()}
        for name in sorted(issuers):
            site.signer(name)  # a key that does not open must show before anything is changed
        _mark(site, list(found.values()), now, case)
        publish_locked(site, issuers)
        with site.registry.transaction():
            rows = [site.registry.certificate(*key) for key in found]
        return [row for row in rows if row is not None]


def _check(one: Revocation, now: datetime) -> None:
    if one.reason not in REASONS:
        raise UsageError(
            "identity.reason.unknown",
            f"unknown reason {one.reason[:40]!r}",
            hint=f"one of {', '.join(REASONS)}",
            where=one.where,
        )
    if one.since is not None and one.since > now:
        raise UsageError(
            "identity.since.future",
            f"{rfc3339(one.since)} lies in the future",
            hint="--since is when the key stopped being trustworthy; leave it out for now",
            where=one.where,
        )


def _mark(site: Site, found: Sequence[tuple[CertificateRecord, Revocation]], now: datetime, case: str) -> None:
    """Commit the revocations together with their events."""
    fresh = [(row, one, new_event_id()) for row, one in found if row.status != Status.REVOKED]
    events = [
        site.event("certificate.revoked", row.holder, event, case=case, **_facts(row, one, now))
        for row, one, event in fresh
    ]
    authorities = [row for row, _, _ in fresh if row.profile == CA_PROFILE]
    ended = {name: ca for name, ca in site.cas.items() if ca.certificate in {row.certificate for row in authorities}}
    events += [site.event("ca.retired", name, case=case) for name, ca in ended.items() if ca.status != CaStatus.RETIRED]
    registry = site.registry
    with registry.transaction():
        for row in authorities:
            if registry.certificate(row.issuer, row.serial) is None:
                registry.reserve(row)
        for ca in ended.values():  # it issues no more
            registry.set_authority(msgspec.structs.replace(ca, status=CaStatus.RETIRED))
        rows = [(row, one.reason, _since(one, now), event) for row, one, event in fresh]
        registry.revoke(rows, now, registry.next_revocation())
        registry.release_devices({row.device: None for row, _, _ in fresh if row.device})
        registry.put_outbox((event.id, msgspec.json.encode(event)) for event in events)


def _since(one: Revocation, now: datetime) -> str | None:
    return rfc3339(one.since.replace(microsecond=0)) if one.since is not None and one.since < now else None


def _facts(row: CertificateRecord, one: Revocation, now: datetime) -> dict[str, Any]:
    since = _since(one, now)
    facts = {"profile": row.profile, "issuer": row.issuer, "serial": row.serial, "since": rfc3339(now)}
    return facts | {"crl_reason": one.reason} | ({"invalid_since": since} if since else {})


def _find(site: Site, one: Revocation, profile: str) -> list[CertificateRecord]:
    serial = one.target.lower().replace(":", "").removeprefix("0x")
    found = site.registry.by_serial(serial)
    if found is not None:
        rows = [found]
    else:
        rows = [row for row in site.registry.certificates(one.target) if not profile or row.profile == profile]
    live = [row for row in rows if row.status in _LIVE]
    done = [row for row in rows if row.status == Status.REVOKED]
    if live or done:
        return live or done
    authority = _find_ca(site, one, serial)
    if authority is not None:
        return [authority]
    if one.target.isascii() and one.target.isdigit() and len(one.target) != 32:
        GbId.parse(one.target)  # says what is wrong with the ID
    raise UsageError(
        "identity.certificate.none",
        f"no certificate of {one.target[:64]!r}",
        hint="`secguard identity list` shows holders and serial numbers",
        where=one.where,
    )


def _find_ca(site: Site, one: Revocation, serial: str) -> CertificateRecord | None:
    """The row of a CA's own certificate, by the CA's name or by serial number; it goes on the root's list."""
    for name, certificate in site.certificates.items():
        if one.target != name and serial != f"{certificate.serial_number:032x}":
            continue
        if name == ROOT:
            raise UsageError(
                "identity.root.final",
                "a root certificate cannot be revoked: nothing stands above it",
                hint="take it out of every verifier, and make a new root",
                where=one.where,
            )
        known = site.registry.certificate(ROOT, f"{certificate.serial_number:032x}")
        return known or CertificateRecord(
            issuer=ROOT,
            serial=f"{certificate.serial_number:032x}",
            holder=name,
            device=None,
            profile=CA_PROFILE,
            purpose=CA_PROFILE,
            status=Status.ACTIVE,
            not_before=rfc3339(certificate.not_valid_before_utc),
            not_after=rfc3339(certificate.not_valid_after_utc),
            spki=key_id(certificate.public_key()),
            key="",
            event="",
            certificate=certificate.public_bytes(Encoding.DER),
        )
    return None
