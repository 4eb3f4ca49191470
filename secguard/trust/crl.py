"""Revocation lists (RFC 5280, section 5), judged for a time: as a set, signed by the issuer, and fresh.

What is not known reads as unknown, never as good: no list, a stale list, one that another key signed, one that covers
other certificates (sharding), one that may have dropped the certificate because it had expired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from secguard.core import Finding, finding, rfc3339
from secguard.trust.facts import WEAK_HASHES, Facts
from secguard.trust.names import MALFORMED

__all__ = ["EXPIRED_CERTS_ON_CRL", "CrlList", "Revocation", "earlier", "judge_lists"]

EXPIRED_CERTS_ON_CRL = x509.ObjectIdentifier("2.5.29.60")
"""X.509 (ITU-T), 9.5.2.8: the list keeps certificates that expired after the given time."""

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


def earlier(one: Revocation | None, other: Revocation) -> Revocation:
    """The earlier of two statements about the same certificate; it is the one that harms more."""
    return other if one is None or other.since < one.since else one


class CrlList:
    """A list, read once: its entries are a dictionary by serial number (0.2 us a look-up), made on first use."""

    def __init__(self, crl: x509.CertificateRevocationList) -> None:
        self.crl = crl
        self.issuer = crl.issuer
        self.this_update = crl.last_update_utc
        self.next_update = crl.next_update_utc

    def signed_by(self, issuer: x509.Certificate) -> bool:
        """Tell whether the issuer's key signed the list, and may sign lists (cRLSign); reads the whole list."""
        try:
            usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
            if not usage.crl_sign:
                return False
        except x509.ExtensionNotFound:
            pass
        try:
            if isinstance(self.crl.signature_hash_algorithm, WEAK_HASHES):
                return False
            return self.crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
        except (InvalidSignature, *MALFORMED):
            return False

    @cached_property
    def _entries(self) -> dict[int, x509.RevokedCertificate]:
        return {item.serial_number: item for item in self.crl}

    def entry(self, serial: int) -> Revocation | None:
        """The entry of a serial number, or None.

        Raises:
            ValueError: the list cannot be parsed.
        """
        item = self._entries.get(serial)
        return _read(item) if item is not None else None

    @cached_property
    def _point(self) -> x509.IssuingDistributionPoint | None:
        try:
            return self.crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
        except x509.ExtensionNotFound:
            return None

    @cached_property
    def _unusable(self) -> str:
        """Why the list says nothing about any certificate."""
        for item in self.crl.extensions:
            if item.oid == ExtensionOID.DELTA_CRL_INDICATOR:
                return "it is a delta list, which holds changes only"
            if item.critical and item.oid not in _KNOWN_CRITICAL:
                return "it has a critical extension that is not known here"
        point = self._point
        if point is None:
            return ""
        if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
            return "it is an indirect or partial list"
        if point.relative_name is not None:
            return "its distribution point is named relative to the issuer"
        return ""

    @cached_property
    def _names(self) -> frozenset[x509.GeneralName] | None:
        names = self._point.full_name if self._point is not None else None
        return None if names is None else frozenset(names)

    def unusable_for(self, facts: Facts) -> str:
        """Why the list says nothing about this certificate; empty when it does.

        Raises:
            ValueError: the list or the certificate cannot be parsed.
        """
        if self._unusable:
            return self._unusable
        point = self._point
        if point is None:
            return ""
        if (point.only_contains_user_certs and facts.is_ca) or (point.only_contains_ca_certs and not facts.is_ca):
            return "it covers the other kind of certificates"
        if self._names is not None and self._names.isdisjoint(facts.points):
            return "it is another shard: its distribution point is not the certificate's"
        return ""

    def keeps_expired(self, since: datetime) -> bool:
        """Tell whether the list still holds certificates that expired at `since`.

        Raises:
            ValueError: the list cannot be parsed.
        """
        return self.this_update <= since or (self._kept_since is not None and self._kept_since <= since)

    @cached_property
    def _kept_since(self) -> datetime | None:
        try:
            value = self.crl.extensions.get_extension_for_oid(EXPIRED_CERTS_ON_CRL).value
            assert isinstance(value, x509.UnrecognizedExtension)
            # GeneralizedTime YYYYMMDDHHMMSSZ: tag, length 15, text
            if value.value[:2] != b"\x18\x0f":
                return None
            return datetime.strptime(value.value[2:].decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        except (x509.ExtensionNotFound, ValueError):
            return None


def judge_lists(facts: Facts, issuer: Facts, lists: Sequence[CrlList], at: datetime) -> Revocation | Finding | None:
    """Ask the lists about a certificate.

    Args:
        facts: the certificate.
        issuer: its verified issuer.
        lists: at least one; all signed by the issuer, the newest first.
        at: the time to judge for, aware.

    Returns:
        None when the certificate was good at `at`; its entry; or a finding that says why that is not known.
    """
    problem: Finding | None = None
    for item in lists:
        try:
            reason = item.unusable_for(facts)
            entry = item.entry(facts.serial)
            kept = item.keeps_expired(facts.not_after)
        except MALFORMED:
            reason, entry, kept = "it cannot be parsed", None, False
        if reason:
            problem = problem or finding("trust.crl.unsupported", facts.title, reason=reason)
            continue
        # An entry speaks even when the list that holds it is old.
        if entry is not None:
            return entry
        if item.next_update is None or at > item.next_update:
            until = rfc3339(item.next_update) if item.next_update else "never stated"
            stale = finding("trust.crl.stale", facts.title, issuer=issuer.title, until=until, at=rfc3339(at))
            # It covers the certificate, so it says more than a list of other certificates.
            problem = stale if problem is None or problem.code == "trust.crl.unsupported" else problem
            continue
        if not kept:
            problem = problem or finding("trust.crl.after-expiry", facts.title, issued=rfc3339(item.this_update))
            continue
        return None
    assert problem is not None
    return problem


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
