"""Revocation lists (RFC 5280, section 5), judged for a time: as a set, signed by the issuer, and fresh.

What is not known reads as unknown, never as good: no list, a stale list, one that another key signed, one that covers
other certificates (sharding), one that may have dropped the certificate because it had expired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from secguard.core import Finding, Outcome, TimeSource, finding, rfc3339
from secguard.trust.names import MALFORMED, title

__all__ = ["EXPIRED_CERTS_ON_CRL", "CrlList", "Revocation", "judge_revocation"]

EXPIRED_CERTS_ON_CRL = x509.ObjectIdentifier("2.5.29.60")
"""X.509 (ITU-T), 9.5.2.8: the list keeps certificates that expired after the given time."""

_SHA256 = hashes.SHA256()
_COMPROMISE = {"keyCompromise", "cACompromise", "aACompromise"}
_KNOWN_CRITICAL = {ExtensionOID.ISSUING_DISTRIBUTION_POINT}


@dataclass(frozen=True, slots=True)
class Revocation:
    """One entry: when the certificate stopped being trustworthy, and why.

    Attributes:
        since: revocation date, or the earlier invalidity date (RFC 5280, 5.3.2) when the entry has one.
        reason: CRLReason as RFC 5280 spells it (`keyCompromise`), `unspecified` if none.
    """

    since: datetime
    reason: str


class CrlList:
    """A list, read once: its entries are a dictionary by serial number (0.2 us a look-up), made on first use."""

    def __init__(self, crl: x509.CertificateRevocationList) -> None:
        self.crl = crl
        self.issuer = crl.issuer
        self.this_update = crl.last_update_utc
        self.next_update = crl.next_update_utc
        self._entries: dict[int, x509.RevokedCertificate] | None = None
        self._signers: dict[bytes, bool] = {}

    def signed_by(self, issuer: x509.Certificate) -> bool:
        """Tell whether the issuer's key signed the list, and may sign lists (cRLSign)."""
        key = issuer.fingerprint(_SHA256)
        if key not in self._signers:
            self._signers[key] = self._check(issuer)
        return self._signers[key]

    def _check(self, issuer: x509.Certificate) -> bool:
        try:
            usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
            if not usage.crl_sign:
                return False
        except x509.ExtensionNotFound:
            pass
        try:
            return self.crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
        except (InvalidSignature, *MALFORMED):
            return False

    def entry(self, serial: int) -> Revocation | None:
        """The entry of a serial number, or None.

        Raises:
            ValueError: the list cannot be parsed.
        """
        if self._entries is None:
            self._entries = {item.serial_number: item for item in self.crl}
        item = self._entries.get(serial)
        return _read(item) if item is not None else None

    def usable_for(self, certificate: x509.Certificate) -> str:
        """Why the list says nothing about this certificate; empty when it does.

        Raises:
            ValueError: the list or the certificate cannot be parsed.
        """
        extensions = self.crl.extensions
        if any(item.critical and item.oid not in _KNOWN_CRITICAL for item in extensions):
            return "it has a critical extension that is not known here"
        try:
            point = extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
        except x509.ExtensionNotFound:
            return ""
        if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
            return "it is an indirect or partial list"
        if point.relative_name is not None:
            return "its distribution point is named relative to the issuer"
        authority = _is_ca(certificate)
        if (point.only_contains_user_certs and authority) or (point.only_contains_ca_certs and not authority):
            return "it covers the other kind of certificates"
        if point.full_name is not None and not _points(certificate) & set(point.full_name):
            return "it is another shard: its distribution point is not the certificate's"
        return ""

    def keeps_expired(self, since: datetime) -> bool:
        """Tell whether the list still holds certificates that expired at `since`.

        Raises:
            ValueError: the list cannot be parsed.
        """
        if self.this_update <= since:
            return True
        try:
            value = self.crl.extensions.get_extension_for_oid(EXPIRED_CERTS_ON_CRL).value
            assert isinstance(value, x509.UnrecognizedExtension)
            # GeneralizedTime YYYYMMDDHHMMSSZ: tag, length 15, text
            if value.value[:2] != b"\x18\x0f":
                return False
            stated = datetime.strptime(value.value[2:].decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        except (x509.ExtensionNotFound, ValueError):
            return False
        return stated <= since


def judge_revocation(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    lists: Sequence[CrlList],
    at: datetime,
    source: TimeSource | None = None,
) -> list[Finding]:
    """Judge one certificate against the lists of its issuer.

    Args:
        certificate: the certificate.
        issuer: its verified issuer.
        lists: candidates, of any issuer.
        at: the time to judge for, aware.
        source: who vouches for `at`; None means the caller states it.

    Returns:
        Nothing when the certificate was good at `at`; else findings on the revocation axis.
    """
    name = title(certificate)
    named = [item for item in lists if item.issuer == certificate.issuer]
    if not named:
        return [finding("trust.crl.missing", name, issuer=title(issuer))]
    signed = [item for item in named if item.signed_by(issuer)]
    if not signed:
        return [finding("trust.crl.signature", name, issuer=title(issuer))]
    problem: Finding | None = None
    for item in sorted(signed, key=lambda one: one.this_update, reverse=True):
        try:
            reason = item.usable_for(certificate)
            entry = item.entry(certificate.serial_number)
            kept = item.keeps_expired(certificate.not_valid_after_utc)
        except MALFORMED:
            reason, entry, kept = "it cannot be parsed", None, False
        if reason:
            problem = problem or finding("trust.crl.unsupported", name, reason=reason)
            continue
        # An entry speaks even when the list that holds it is old.
        if entry is not None:
            return [_revoked(entry, name, at, source)]
        if item.next_update is None or at > item.next_update:
            until = rfc3339(item.next_update) if item.next_update else "never stated"
            problem = problem or finding("trust.crl.stale", name, issuer=title(issuer), until=until, at=rfc3339(at))
            continue
        if not kept:
            problem = problem or finding("trust.crl.after-expiry", name, issued=rfc3339(item.this_update))
            continue
        return []
    assert problem is not None
    return [problem]


def _revoked(entry: Revocation, name: str, at: datetime, source: TimeSource | None) -> Finding:
    since = rfc3339(entry.since)
    if entry.since <= at:
        return finding("trust.certificate.revoked", name, since=since, reason=entry.reason)
    # Whoever holds a stolen key can also claim any time before the theft was noticed.
    doubtful = source is TimeSource.CLAIMED and entry.reason in _COMPROMISE
    return finding(
        "trust.certificate.revoked-later",
        name,
        outcome=Outcome.UNKNOWN if doubtful else None,
        since=since,
        reason=entry.reason,
        at=rfc3339(at),
        source=source or "the caller",
    )


def _read(item: x509.RevokedCertificate) -> Revocation:
    since, reason = item.revocation_date_utc, "unspecified"
    for extension in item.extensions:
        if isinstance(extension.value, x509.CRLReason):
            reason = str(extension.value.reason.value)
        elif isinstance(extension.value, x509.InvalidityDate):
            since = min(since, extension.value.invalidity_date_utc)
        elif extension.critical or extension.oid == CRLEntryExtensionOID.CERTIFICATE_ISSUER:
            raise ValueError("an entry of an indirect list")
    return Revocation(since, reason)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _points(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return set()
    return {name for point in points for name in point.full_name or ()}
