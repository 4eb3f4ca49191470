"""What is believed: given trust anchors and revocation lists, judge a chain for a purpose, a time and a device."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from secguard.core import Axis, Finding, FormatError, Outcome, TimeSource, UsageError, finding
from secguard.gbid import GbId
from secguard.ledger.note import NoteKey
from secguard.trust import rules
from secguard.trust.crl import CrlList, judge_revocation
from secguard.trust.names import MALFORMED, common_name, gbid_of, title
from secguard.trust.oids import Purpose
from secguard.trust.path import AnchorStore, Path, most_telling
from secguard.trust.pem import MAX_CERTIFICATES
from secguard.trust.scope import scope_of

__all__ = ["ChainJudgement", "LogKeys", "TrustPolicy"]


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
    """Trust anchors and revocation lists; immutable, may be kept and shared.

    Args:
        roots: trust anchors, self-signed; those that carry a GB scope are secguard roots, with all rules mandatory.
        crls: revocation lists of any issuer; a list that the issuer did not sign is not believed.

    Raises:
        UsageError: no root, or one that is no self-signed CA certificate.
    """

    def __init__(self, roots: Sequence[x509.Certificate], crls: Iterable[x509.CertificateRevocationList] = ()) -> None:
        if not roots:
            raise UsageError("trust.root.none", "no trust anchor", hint="give --root CA.pem")
        for root in roots:
            _check_root(root)
        self.roots = tuple(roots)
        self.crls = tuple(crls)

    @cached_property
    def _stores(self) -> tuple[AnchorStore, ...]:
        own = [root for root in self.roots if _scoped(root)]
        foreign = [root for root in self.roots if not _scoped(root)]
        return tuple(AnchorStore(group, strict=group is own) for group in (own, foreign) if group)

    @cached_property
    def _lists(self) -> tuple[CrlList, ...]:
        return tuple(CrlList(item) for item in self.crls)

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
        foreign = not _scoped(path.anchor)
        stated = gbid_of(path.leaf, trust_cn=foreign)
        findings = [
            *rules.validity_rules(path, at),
            *rules.strength_rules(path),
            *rules.purpose_rules(path, purpose, foreign=foreign),
            *(() if foreign else rules.scope_rules(path)),
            *rules.device_rules(path, purpose, stated, expected, foreign=foreign),
        ]
        for certificate, issuer in zip(path.certificates, path.certificates[1:], strict=False):
            findings += judge_revocation(certificate, issuer, self._lists, at, source)
        return ChainJudgement(
            tuple(findings),
            frozenset({Axis.PROVENANCE, Axis.REVOCATION}),
            stated,
            path.leaf,
            path.certificates,
            foreign,
        )

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
