"""The signed comparison: what an operator states about a catalog and the register, verifiable with the root alone.

A DSSE envelope that carries the operator's chain and the revocation lists of its time.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Axis, FormatError, Verdict, finding, judge, parse_time, rfc3339
from secguard.core.errors import SecguardError
from secguard.core.limits import MAX_DOCUMENT
from secguard.identity.inventory.coverage import Coverage, Rate, Why
from secguard.identity.inventory.policy import RegisterPolicy
from secguard.identity.inventory.rows import Source
from secguard.keys import Signer, seal, unseal
from secguard.trust import Purpose, TrustPolicy, common_name, parse_certificates, parse_crls

__all__ = ["PAYLOAD_TYPE", "CatalogFile", "Statement", "make_statement", "open_statement", "seal_statement", "verify"]

PAYLOAD_TYPE = "application/vnd.secguard.coverage+json"
_MAX_LIST = 8 << 20
_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Rates = dict[str, Rate]


class CatalogFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the catalog: name, bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: _Hex


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Version 1 of the document.

    Attributes:
        made: when it was signed, RFC 3339, as the operator's machine says.
        at: the time that certificates were judged for.
        operator: common name of the operator's certificate.
        catalog: the files that were compared.
        registry_sha256: over the records and certificates that were compared.
        policy_sha256: of `policies/register.yaml`; empty: the defaults.
        area: prefix of the IDs that were looked at.
        target: per cent.
        outcome: pass, fail or unknown.
        entries: entries of the catalog that count.
        rates, areas, types: as `Coverage`.
        ghosts, offline, skipped: as `Coverage`.
        exceptions: every one, by name.
        chain: the operator's certificates, PEM, end entity first.
        crls: revocation lists of that time, PEM.
    """

    v: int = 1
    made: str
    at: str
    operator: str
    catalog: tuple[CatalogFile, ...]
    registry_sha256: _Hex
    policy_sha256: str
    area: str
    target: float
    outcome: str
    entries: int
    rates: _Rates
    areas: dict[str, _Rates]
    types: dict[str, _Rates]
    ghosts: int
    offline: int
    skipped: dict[str, int]
    exceptions: tuple[Why, ...]
    chain: str
    crls: str


def make_statement(
    coverage: Coverage,
    sources: Sequence[Source],
    policy: RegisterPolicy,
    *,
    made: datetime,
    chain: Sequence[x509.Certificate],
    crls: Iterable[x509.CertificateRevocationList],
) -> Statement:
    """What is to be signed; a revocation list of more than 8 MB is left out."""
    lists = [item.public_bytes(Encoding.PEM) for item in crls]
    verdict = coverage.verdict
    assert verdict is not None
    return Statement(
        made=rfc3339(made),
        at=rfc3339(coverage.at),
        operator=common_name(chain[0]) or "",
        catalog=tuple(CatalogFile(item.name, item.size, item.sha256) for item in sources),
        registry_sha256=coverage.registry,
        policy_sha256=policy.digest,
        area=coverage.area,
        target=coverage.target,
        outcome=verdict.outcome,
        entries=coverage.entries,
        rates=coverage.rates,
        areas=coverage.areas,
        types=coverage.types,
        ghosts=coverage.ghosts,
        offline=coverage.offline,
        skipped=dict(coverage.skipped),
        exceptions=tuple(coverage.exceptions),
        chain=b"".join(item.public_bytes(Encoding.PEM) for item in chain).decode(),
        crls=b"".join(item for item in lists if len(item) <= _MAX_LIST).decode(),
    )


def seal_statement(statement: Statement, signer: Signer) -> tuple[bytes, str]:
    """The envelope, and the SHA-256 of the signed bytes, which the ledger keeps.

    Raises:
        FormatError: it would be larger than a verifier reads.
    """
    payload = msgspec.json.encode(statement)
    envelope = seal(payload, PAYLOAD_TYPE, signer)
    if len(envelope) > MAX_DOCUMENT:
        raise FormatError(
            "identity.coverage.too-large",
            f"the signed report would have {len(envelope)} bytes; {MAX_DOCUMENT} are the limit",
            hint="compare area by area (--area)",
        )
    return envelope, hashlib.sha256(payload).hexdigest()


@dataclass(frozen=True, slots=True)
class Opened:
    """A statement as read: worth nothing unless `signed` and its chain is believed."""

    statement: Statement
    chain: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...]
    made: datetime
    signed: bool
    sha256: str


def open_statement(data: bytes, where: str = "") -> Opened:
    """Open an envelope.

    Raises:
        FormatError: it is no signed comparison; a wrong signature is no error, see `signed`.
    """
    try:
        payload, _ = unseal(data, PAYLOAD_TYPE, ())
        statement = msgspec.json.decode(payload, type=Statement)
        if statement.v != 1:
            raise FormatError("identity.coverage.version", f"version {statement.v} is not known")
        chain = parse_certificates(statement.chain.encode(), where)
        crls = parse_crls(statement.crls.encode(), where) if statement.crls else []
        _, key = unseal(data, PAYLOAD_TYPE, [chain[0].public_key()])
        made = parse_time(statement.made)
    except FormatError as error:
        error.where = error.where or where
        raise
    except (msgspec.MsgspecError, SecguardError, ValueError, RecursionError, IndexError) as error:
        raise FormatError("identity.coverage.format", "not a signed comparison", where=where) from error
    except Exception as error:
        # Keys of kinds that the library does not know raise errors of their own.
        raise FormatError("identity.coverage.format", "not a signed comparison", where=where) from error
    return Opened(statement, tuple(chain), tuple(crls), made, key is not None, hashlib.sha256(payload).hexdigest())


def verify(
    opened: Opened,
    where: str,
    roots: Sequence[x509.Certificate],
    crls: Iterable[x509.CertificateRevocationList] = (),
    *,
    at: datetime | None = None,
    catalog: Mapping[str, str] | None = None,
    require: Iterable[Axis] = (),
) -> Verdict:
    """Judge a signed comparison: that it is unchanged and an operator of the site signed it. Not what it says.

    Args:
        opened: the document.
        where: its name.
        roots: trust anchors.
        crls: newer revocation lists than those it carries.
        at: judge the operator's certificate for this time; None: the time it says it was made.
        catalog: file -> SHA-256 of catalogs that must be those compared.
        require: axes that decide; by default integrity, provenance and revocation.
    """
    moment = at or opened.made
    findings = []
    if not opened.signed:
        findings.append(finding("identity.coverage.signature", where))
    stated = {item.sha256 for item in opened.statement.catalog}
    for name, digest in (catalog or {}).items():
        if digest not in stated:
            findings.append(finding("identity.coverage.catalog-differs", name, file=name, found=digest))
    judgement = TrustPolicy(roots, [*opened.crls, *crls]).judge_chain(opened.chain, Purpose.OPERATOR, moment)
    return judge(
        where,
        moment,
        examined=judgement.examined | {Axis.INTEGRITY},
        findings=[*findings, *judgement.findings],
        default=(Axis.INTEGRITY, Axis.PROVENANCE, Axis.REVOCATION),
        require=require,
    )


def facts(statement: Statement) -> dict[str, Any]:
    """What the ledger keeps of a comparison."""
    return {
        "catalog_sha256": [item.sha256 for item in statement.catalog][:100],
        "registry_sha256": statement.registry_sha256,
        "area": statement.area,
        "outcome": statement.outcome,
        "entries": statement.entries,
        **{name: rate.passed for name, rate in statement.rates.items()},
        "ghosts": statement.ghosts,
        "exceptions": len(statement.exceptions),
    }
