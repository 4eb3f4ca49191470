"""The root's revocation list at a site that has not the root's key: brought by hand, and never an older one."""

from collections.abc import Iterator
from datetime import timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import FormatError, RefusedError, rfc3339
from secguard.core.limits import read_bounded
from secguard.events import Event
from secguard.identity.ca.setting import Setting
from secguard.identity.certificate import ROOT
from secguard.identity.issuing.deliver import make_folder
from secguard.identity.records import CaRecord, CaStatus
from secguard.store import atomic_write
from secguard.trust import MALFORMED, parse_crls

__all__ = ["check_root_crl", "crl_event", "crl_number", "keep_root_crl", "known_number", "revoked_cas"]

_SKEW = timedelta(minutes=5)
"""How far the clocks of the two machines may be apart."""


def crl_number(crl: x509.CertificateRevocationList) -> int:
    """The list's number (RFC 5280, 5.2.3).

    Raises:
        FormatError: it has none.
    """
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (x509.ExtensionNotFound, *MALFORMED) as error:
        raise FormatError("identity.crl.number", "the list has no CRL number") from error


def known_number(setting: Setting) -> int:
    """The highest number of the root's list that this site has seen; 0: none."""
    known = setting.registry.crl_number(ROOT)
    if setting.root_crl.exists():
        (crl,) = parse_crls(read_bounded(setting.root_crl), str(setting.root_crl))
        known = max(known, crl_number(crl))
    return known


def check_root_crl(setting: Setting, root: x509.Certificate, crl: x509.CertificateRevocationList) -> int:
    """Refuse a list that is not the root's full and current one; returns its number.

    Raises:
        RefusedError: `identity.crl.foreign`, `identity.crl.stale`, `identity.crl.future`, `identity.crl.partial`.
        FormatError: it has no number.
    """
    try:
        ours = crl.issuer == root.subject and crl.is_signature_valid(root.public_key())  # type: ignore[arg-type] # keys.Algorithm admits none that cannot sign
        critical = any(extension.critical for extension in crl.extensions)
    except MALFORMED as error:
        raise FormatError("trust.crl.format", "the root's list cannot be read") from error
    if not ours:
        raise RefusedError(
            "identity.crl.foreign", "the list is not signed by this site's root", hint="fetch root.crl from the root"
        )
    if critical:
        raise RefusedError("identity.crl.partial", "the list covers a part of the root's certificates only")
    now = setting.clock.now()
    if crl.next_update_utc is None or crl.next_update_utc < now:
        until = rfc3339(crl.next_update_utc) if crl.next_update_utc else "never stated"
        raise RefusedError(
            "identity.crl.stale",
            f"the root's list was good until {until}",
            hint="make a fresh one on the root's machine: secguard identity crl",
        )
    if crl.last_update_utc > now + _SKEW:
        raise RefusedError(
            "identity.crl.future",
            f"the root's list begins at {rfc3339(crl.last_update_utc)}; it is {rfc3339(now)} here",
            hint="set the clocks of both machines right",
        )
    return crl_number(crl)


def crl_event(setting: Setting, crl: x509.CertificateRevocationList, number: int) -> Event:
    """The event of a list that was brought; the same at every attempt."""
    return setting.event(
        "crl.published",
        ROOT,
        f"crl-root-{number}-{rfc3339(crl.last_update_utc)}",
        number=number,
        revoked=len(crl),
        next_update=rfc3339(crl.next_update_utc) if crl.next_update_utc else "",
    )


def revoked_cas(known: dict[str, CaRecord], crl: x509.CertificateRevocationList) -> Iterator[CaRecord]:
    """The CAs that the list ends, as they are to stand from now on."""
    for record in known.values():
        if record.status in {CaStatus.PENDING, CaStatus.RETIRED} or record.name == ROOT:
            continue
        if crl.get_revoked_certificate_by_serial_number(record.x509().serial_number) is not None:
            yield msgspec.structs.replace(record, status=CaStatus.RETIRED)


def keep_root_crl(setting: Setting, crl: x509.CertificateRevocationList) -> None:
    """Put the list where the site's lists are.

    Raises:
        SystemPartError: the write failed.
    """
    make_folder(setting.root_crl.parent)
    atomic_write(setting.root_crl, crl.public_bytes(Encoding.DER))
