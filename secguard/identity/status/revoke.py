"""Revoking, and publishing revocation lists (RFC 5280, section 5)."""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ReasonFlags

from secguard.core import UsageError, rfc3339
from secguard.events import new_event_id
from secguard.gbid import GbId
from secguard.identity.certificate import ROOT, build_crl
from secguard.identity.issuing.deliver import make_folder
from secguard.identity.lock import exclusive
from secguard.identity.records import CertificateRecord, Status
from secguard.identity.site import Site
from secguard.store import atomic_write

__all__ = ["REASONS", "publish", "revoke"]

REASONS = tuple(
    reason.value for reason in ReasonFlags if reason not in {ReasonFlags.remove_from_crl, ReasonFlags.certificate_hold}
)
"""CRLReason (RFC 5280, 5.3.1) that can be given; a revocation is final, so a hold is not among them."""

_ROOT_DAYS = 365


def revoke(site: Site, target: str, reason: str, *, profile: str = "", case: str = "") -> list[CertificateRecord]:
    """Revoke certificates, record it, and publish the lists; revoking again what is revoked only completes the work.

    Args:
        site: the site's CAs.
        target: a serial number in hex, or a holder: all its certificates in force.
        reason: one of `REASONS`.
        profile: of a holder, only the certificates of this profile.
        case: case number, recorded.

    Returns:
        The rows as they are now.

    Raises:
        UsageError: nothing to revoke, an unknown reason, or a wrong passphrase.
        RefusedError: recording failed: the registry says revoked, the lists do not; run again.
        SystemPartError: a write failed.
    """
    if reason not in REASONS:
        raise UsageError(
            "identity.reason.unknown", f"unknown reason {reason[:40]!r}", hint=f"one of {', '.join(REASONS)}"
        )
    with exclusive(site.lock):
        rows = _find(site, target, profile)
        for name in site.signing:
            site.signer(name)  # a wrong passphrase must show before anything is changed
        at = site.clock.now().replace(microsecond=0)
        with site.registry.transaction():
            for row in rows:
                if row.status != Status.REVOKED:
                    site.registry.revoke(row, at, reason, new_event_id())
        done = [row for row in (site.registry.by_serial(row.serial) for row in rows) if row is not None]
        site.record(
            [
                site.event(
                    "certificate.revoked",
                    row.holder,
                    row.revoked_event,
                    case=case,
                    profile=row.profile,
                    issuer=row.issuer,
                    serial=row.serial,
                    since=row.revoked,
                    crl_reason=row.reason,
                )
                for row in done
            ]
        )
        _publish(site)
    return done


def _find(site: Site, target: str, profile: str) -> list[CertificateRecord]:
    serial = target.lower().replace(":", "").removeprefix("0x")
    found = site.registry.by_serial(serial)
    if found is not None:
        rows = [found]
    else:
        rows = [row for row in site.registry.certificates(target) if not profile or row.profile == profile]
    live = [row for row in rows if row.status in {Status.ACTIVE, Status.SUPERSEDED}]
    done = [row for row in rows if row.status == Status.REVOKED]
    if live or done:
        return live or done
    if target.isascii() and target.isdigit() and len(target) != 32:
        GbId.parse(target)  # says what is wrong with the ID
    raise UsageError(
        "identity.certificate.none",
        f"no certificate of {target[:64]!r}",
        hint="`secguard identity list` shows holders and serial numbers",
    )


def publish(site: Site) -> list[Path]:
    """Sign and publish the lists of all CAs.

    Returns:
        The files, `<ca>.crl` in DER.

    Raises:
        UsageError: a wrong passphrase.
        RefusedError: recording failed; the old lists stand.
        SystemPartError: a write failed.
    """
    with exclusive(site.lock):
        return _publish(site)


def _publish(site: Site) -> list[Path]:
    lists = {}
    events = []
    now = site.clock.now()
    for name in site.signing:
        certificate, signer = site.certificates[name], site.signer(name)
        revoked = list(site.registry.revoked(name))
        with site.registry.transaction():
            number = site.registry.next_crl_number(name)
        days = _ROOT_DAYS if name == ROOT else site.config.crl_days
        crl = build_crl(certificate, signer, revoked, number=number, at=now, days=days)
        data = crl.public_bytes(Encoding.DER)
        lists[site.crl_folder / f"{name}.crl"] = data
        events.append(
            site.event(
                "crl.published",
                name,
                number=number,
                revoked=len(revoked),
                sha256=hashlib.sha256(data).hexdigest(),
                next_update=rfc3339(crl.next_update_utc) if crl.next_update_utc else "",
            )
        )
    site.record(events)
    make_folder(site.crl_folder)
    for path, data in lists.items():
        atomic_write(path, data)
    return list(lists)
