"""Whether a certificate was revoked at a time: what lists and OCSP responses say, weighed together.

Revoked beats everything, "the CA does not know it" beats good, and good of either kind is enough. Without a good answer
the status is unknown, with the reason.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import reduce

from cryptography import x509

from secguard.core import Finding, Outcome, TimeSource, finding, rfc3339
from secguard.trust.crl import CrlList, Revocation, earlier, judge_lists
from secguard.trust.facts import Facts
from secguard.trust.ocsp import Authorise, OcspResponse, Statement, judge_responses

__all__ = ["StatusEvidence"]

_COMPROMISE = {"keyCompromise", "cACompromise", "aACompromise"}
_MAX_ISSUERS = 256


class StatusEvidence:
    """Lists and responses of any issuer, sorted by whom and what they speak about.

    Args:
        crls: revocation lists.
        responses: OCSP responses.
    """

    def __init__(self, crls: Iterable[x509.CertificateRevocationList], responses: Iterable[OcspResponse]) -> None:
        self._named: dict[x509.Name, list[CrlList]] = {}
        for crl in crls:
            item = CrlList(crl)
            self._named.setdefault(item.issuer, []).append(item)
        # Whose signature was checked, by the issuer's whole certificate.
        self._signed: dict[x509.Certificate, tuple[CrlList, ...]] = {}
        self._statements: dict[int, list[Statement]] = {}
        self._refused = ""
        self._responses = 0
        for response in responses:
            self._responses += 1
            self._refused = self._refused or response.refused
            for serial, statements in response.statements.items():
                self._statements.setdefault(serial, []).extend(statements)

    def judge(
        self, facts: Facts, issuer: Facts, at: datetime, source: TimeSource | None, authorise: Authorise
    ) -> list[Finding]:
        """Judge one certificate.

        Args:
            facts: the certificate.
            issuer: its verified issuer.
            at: the time to judge for, aware.
            source: who vouches for `at`; None means the caller states it.
            authorise: judges certificates of delegated responders.

        Returns:
            Nothing when the certificate was good at `at`; else findings on the revocation axis.
        """
        statements = self._statements.get(facts.serial)
        told = judge_responses(facts, issuer, statements, at, authorise) if statements else self._silent(facts, issuer)
        listed = self.listed(facts, issuer, at)
        known = [item for item in (told, listed) if isinstance(item, Revocation)]
        if known:
            return [revoked(reduce(earlier, known), facts.title, at, source)]
        problems = [item for item in (listed, told) if isinstance(item, Finding)]
        if any(item.code == "trust.ocsp.unknown" for item in problems):
            return [item for item in problems if item.code == "trust.ocsp.unknown"]
        if listed is None or (statements and told is None):
            return []
        # Who gives responses does not miss the list.
        return problems if len(problems) == 1 else [item for item in problems if item.code != "trust.crl.missing"]

    def _silent(self, facts: Facts, issuer: Facts) -> Finding | None:
        """Why the responses say nothing about a certificate; None without responses."""
        if self._refused:
            return finding("trust.ocsp.refused", facts.title, status=self._refused)
        # Responses are about end entities; that a CA above has none is the lists' affair.
        if self._responses and not facts.is_ca:
            return finding("trust.ocsp.other", facts.title, issuer=issuer.title)
        return None

    def listed(self, facts: Facts, issuer: Facts, at: datetime) -> Revocation | Finding | None:
        """What the lists say: None for good, an entry, or why the status is not known."""
        lists = self._signed.get(issuer.certificate)
        if lists is None:
            named = self._named.get(issuer.certificate.subject, [])
            lists = tuple(
                sorted(
                    (item for item in named if item.signed_by(issuer.certificate)),
                    key=lambda one: one.this_update,
                    reverse=True,
                )
            )
            if len(self._signed) >= _MAX_ISSUERS:
                self._signed.clear()
            self._signed[issuer.certificate] = lists
        if lists:
            return judge_lists(facts, issuer, lists, at)
        code = "trust.crl.signature" if issuer.certificate.subject in self._named else "trust.crl.missing"
        return finding(code, facts.title, issuer=issuer.title)


def revoked(entry: Revocation, name: str, at: datetime, source: TimeSource | None) -> Finding:
    """The finding about a revocation, seen from the judged time."""
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
