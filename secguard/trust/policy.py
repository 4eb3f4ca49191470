"""What is believed: given trust anchors and status evidence, judge a chain for a purpose, a time and a device."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from secguard.core import Axis, Finding, FormatError, Outcome, TimeSource, UsageError, describe, finding
from secguard.gbid import GbId
from secguard.ledger.note import NoteKey
from secguard.trust import rules
from secguard.trust.crl import Revocation
from secguard.trust.facts import Facts
from secguard.trust.names import MALFORMED, common_name, gbid_of, title
from secguard.trust.ocsp import OcspResponse
from secguard.trust.oids import Purpose
from secguard.trust.path import AnchorStore, Path, most_telling
from secguard.trust.pem import MAX_CERTIFICATES
from secguard.trust.revocation import StatusEvidence
from secguard.trust.scope import scope_of

__all__ = ["ChainJudgement", "LogKeys", "TrustPolicy"]

_MAX_RESPONDERS = 64


@dataclass(frozen=True, slots=True)
class ChainJudgement:
    """The answer about one chain.

    Attributes:
        findings: everything worth saying, on the axes provenance and revocation.
        examined: the axes for which evidence was looked at; to be handed to `core.judge`.
        gbid: the device that the end entity's certificate names; None if it names none or the path fails.
        leaf: the end entity as presented, also when it is not believed; None for an empty chain.
        path: the verified path, end entity first and trust anchor last; empty if there is none.
        foreign: True if the trust anchor is not a secguard root.
    """

    findings: tuple[Finding, ...]
    examined: frozenset[Axis]
    gbid: GbId | None
    leaf: x509.Certificate | None
    path: tuple[x509.Certificate, ...] = ()
    foreign: bool = False

    @property
    def believed(self) -> bool:
        """True if the chain leads to a trust anchor and nothing on the provenance axis is wrong."""
        return bool(self.path) and not any(
            item.axis is Axis.PROVENANCE and item.outcome is not Outcome.PASS for item in self.findings
        )

    @property
    def unrevoked(self) -> bool:
        """True if every certificate of the path is known to be unrevoked at the time."""
        return Axis.REVOCATION in self.examined and not any(
            item.axis is Axis.REVOCATION and item.outcome is not Outcome.PASS for item in self.findings
        )


class LogKeys(NamedTuple):
    """Keys of logs, and what was found while their chains were judged (why one is missing)."""

    keys: tuple[NoteKey, ...]
    findings: tuple[Finding, ...]


class TrustPolicy:
    """Trust anchors, revocation lists and OCSP responses; immutable, may be kept and shared between threads.

    Args:
        roots: trust anchors, self-signed; those that carry a GB scope are secguard roots, with all rules mandatory.
        crls: revocation lists of any issuer; a list that the issuer did not sign is not believed.
        ocsp: OCSP responses in DER (RFC 6960); one that neither the issuing CA nor its own responder signed, or that is
            not fresh at the judged time, is not believed.

    Raises:
        UsageError: no root, or one that is no self-signed CA certificate.
        FormatError: `trust.ocsp.format`.
    """

    def __init__(
        self,
        roots: Sequence[x509.Certificate],
        crls: Iterable[x509.CertificateRevocationList] = (),
        ocsp: Iterable[bytes] = (),
    ) -> None:
        if not roots:
            raise UsageError("trust.root.none", "no trust anchor", hint="give --root CA.pem")
        for root in roots:
            _check_root(root)
        self.roots = tuple(roots)
        self.crls = tuple(crls)
        self._responses = tuple(OcspResponse(item) for item in ocsp)
        self.ocsp = tuple(item.data for item in self._responses)
        self._responders: dict[tuple[x509.Certificate, ...], Path | Finding] = {}

    @cached_property
    def _stores(self) -> tuple[AnchorStore, ...]:
        own = [root for root in self.roots if _scoped(root)]
        foreign = [root for root in self.roots if not _scoped(root)]
        return tuple(AnchorStore(group, strict=group is own) for group in (own, foreign) if group)

    @cached_property
    def _status(self) -> StatusEvidence:
        return StatusEvidence(self.crls, self._responses)

    def judge_chain(
        self,
        chain: Sequence[x509.Certificate],
        purpose: Purpose,
        at: datetime,
        *,
        gbid: GbId | None = None,
        source: TimeSource | None = None,
    ) -> ChainJudgement:
        """Judge a chain; fails closed: whatever cannot be read or checked is a finding.

        Args:
            chain: end entity first, intermediates after it in any order; the root may be left out.
            purpose: what the key was used for.
            at: the time to judge for, aware.
            gbid: the device that the certificate must name.
            source: who vouches for `at`; None means that the caller states it (`--at`, or now).

        Raises:
            ValueError: if `at` is naive.
        """
        if at.tzinfo is None:
            raise ValueError("at must be an aware datetime")
        leaf = chain[0] if chain else None
        provenance = frozenset({Axis.PROVENANCE})
        if leaf is None:
            return ChainJudgement((finding("trust.chain.empty"),), provenance, None, None)
        if len(chain) > MAX_CERTIFICATES:
            problem = finding("trust.chain.too-long", title(leaf), count=len(chain), limit=MAX_CERTIFICATES)
            return ChainJudgement((problem,), provenance, None, leaf)
        path = self._path(chain)
        if isinstance(path, Finding):
            return ChainJudgement((path,), provenance, None, leaf)
        try:
            return self._judge_path(path, purpose, at, gbid, source)
        except (FormatError, *MALFORMED) as error:
            # Extensions are parsed lazily; any of the rules may be the first to look.
            problem = finding("trust.certificate.malformed", title(leaf), reason=str(error)[:200])
            return ChainJudgement((problem,), provenance, None, leaf)

    def _path(self, chain: Sequence[x509.Certificate]) -> Path | Finding:
        failed: list[Finding] = []
        for store in self._stores:
            found = store.build(chain)
            if isinstance(found, Path):
                return found
            failed.append(found)
        return most_telling(failed)

    def _judge_path(
        self, path: Path, purpose: Purpose, at: datetime, expected: GbId | None, source: TimeSource | None
    ) -> ChainJudgement:
        leaf, foreign = path.facts[0], path.facts[-1].scope is None
        stated = gbid_of(leaf.certificate, trust_cn=foreign, common=leaf.common_name)
        findings = [
            *self._rules(path, purpose, at),
            *rules.device_rules(path, purpose, stated, expected, foreign=foreign),
        ]
        for number, (facts, issuer) in enumerate(pairwise(path.facts), start=1):
            authorise = partial(self._unfit_responder, path.facts[number:])
            findings += self._status.judge(facts, issuer, at, source, authorise)
        return ChainJudgement(
            tuple(findings),
            frozenset({Axis.PROVENANCE, Axis.REVOCATION}),
            stated,
            leaf.certificate,
            path.certificates,
            foreign,
        )

    @staticmethod
    def _rules(path: Path, purpose: Purpose, at: datetime) -> Iterator[Finding]:
        foreign = path.facts[-1].scope is None
        yield from rules.validity_rules(path, at)
        yield from rules.strength_rules(path)
        yield from rules.purpose_rules(path, purpose, foreign=foreign)
        if not foreign:
            yield from rules.scope_rules(path)

    def _unfit_responder(
        self, above: tuple[Facts, ...], certificate: x509.Certificate, issuer: Facts, at: datetime
    ) -> str:
        """Why a certificate may not answer for `issuer`, whose path is `above` (RFC 6960, 4.2.2.2); empty if it may."""
        chain = (certificate, *(item.certificate for item in above))
        path = self._responders.get(chain)
        if path is None:
            if len(self._responders) >= _MAX_RESPONDERS:
                self._responders.clear()
            path = self._responders[chain] = self._path(chain)
        if isinstance(path, Finding):
            return describe(path)
        if len(path.facts) < 2 or path.facts[1].certificate != issuer.certificate:
            return "another CA certified the responder"
        wrong = [item for item in self._rules(path, Purpose.OCSP, at) if item.outcome is not Outcome.PASS]
        if wrong:
            return f"the responder's certificate: {describe(wrong[0])}"
        listed = self._status.listed(path.facts[0], issuer, at)
        if isinstance(listed, Revocation):
            return "the responder's certificate was revoked"
        if listed is not None and path.facts[0].get(x509.OCSPNoCheck) is None:
            return f"the responder's own status is not known: {describe(listed)}"
        return ""

    def log_keys(
        self, chains: Iterable[Sequence[x509.Certificate]], at: datetime, purpose: Purpose = Purpose.LOG
    ) -> LogKeys:
        """Signed-note keys certified for logs (or `Purpose.WITNESS`): the CN is the name, the key is Ed25519.

        Args:
            chains: one a key; a chain that is not believed, revoked, or of unknown status gives no key.
            at: the time to judge for, aware.
            purpose: `LOG` or `WITNESS`.
        """
        keys: list[NoteKey] = []
        findings: list[Finding] = []
        for chain in chains:
            judgement = self.judge_chain(chain, purpose, at)
            findings += judgement.findings
            if judgement.leaf is None or not (judgement.believed and judgement.unrevoked):
                continue
            key, name = judgement.leaf.public_key(), common_name(judgement.leaf)
            if name and isinstance(key, ed25519.Ed25519PublicKey):
                keys.append(NoteKey(name, key))
            else:
                findings.append(finding("trust.log.key", title(judgement.leaf)))
        return LogKeys(tuple(keys), tuple(findings))


def _scoped(root: x509.Certificate) -> bool:
    return scope_of(root) is not None


def _check_root(root: x509.Certificate) -> None:
    name = title(root)
    try:
        _scoped(root)
        root.verify_directly_issued_by(root)
    except Exception as error:
        raise UsageError(
            "trust.root.invalid",
            "not a root certificate: it is not signed by itself, or cannot be read",
            hint="--root takes the root certificate, not the device's",
            where=name,
        ) from error
