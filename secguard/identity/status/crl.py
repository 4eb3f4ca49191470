"""Revocation lists (RFC 5280, section 5), put together from entries that are encoded once and kept.

A list of 100,000 entries costs little more than its hash: the parts are read from the registry, checked, joined and
signed. The parts are a cache: each carries its digest, and together they must hold as many entries as the registry has
revocations, and end with the last one; else they are made again from the certificates themselves.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509

from secguard.core import RefusedError
from secguard.identity.registry import Registry
from secguard.identity.registry.revocations import CrlPart, RevokedRow
from secguard.identity.status import der
from secguard.keys import Signer
from secguard.trust import EXPIRED_CERTS_ON_CRL
from secguard.trust.der import oid

__all__ = ["REASON_CODES", "Entries", "build_crl", "collect", "encode_entries"]

_PART = 1024
"""Entries a part: one more revocation rewrites at most this many."""

_REASON = oid("2.5.29.21")
_INVALIDITY = oid("2.5.29.24")
REASON_CODES = {
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
"""CRLReason (RFC 5280, 5.3.1) by name; `unspecified` is not stated."""


@dataclass(frozen=True, slots=True)
class Entries:
    """All entries of a list.

    Attributes:
        der: the encoded entries, in the order of revocation.
        count: how many.
        last: number of the last revocation among them; 0 if there is none.
    """

    der: bytes
    count: int
    last: int


@lru_cache(maxsize=4096)
def _rest(revoked: str, reason: str | None, invalid_since: str | None) -> bytes:
    """What follows the serial number in an entry."""
    parts = []
    if reason in REASON_CODES:
        parts.append(der.sequence(_REASON, der.tlv(0x04, bytes((0x0A, 1, REASON_CODES[reason])))))
    if invalid_since is not None:
        value = der.generalized_time(datetime.fromisoformat(invalid_since))
        parts.append(der.sequence(_INVALIDITY, der.tlv(0x04, value)))
    return der.time(datetime.fromisoformat(revoked)) + (der.sequence(*parts) if parts else b"")


def encode_entries(rows: Iterable[RevokedRow]) -> list[bytes]:
    """Encode entries of a list: serial number, revocation date, reason (unless unspecified), invalidity date."""
    return [
        der.sequence(der.integer(int(row.serial, 16)), _rest(row.revoked, row.reason, row.invalid_since))
        for row in rows
    ]


def collect(registry: Registry, issuer: str, shard: int = -1, *, anew: bool = False) -> Entries:
    """Gather the entries of a list, inside a transaction: those that are kept, and what was revoked since.

    Args:
        registry: the registry.
        issuer: name of the CA.
        shard: the shard, or -1 for the full list.
        anew: encode all of them again, from the certificates.

    Raises:
        RefusedError: `identity.crl.incomplete`: entries are missing even then; the registry is damaged.
    """
    parts = [] if anew else _sound(registry.crl_parts(issuer, shard))
    count, last = registry.revoked_count(issuer, shard)
    if not anew and parts is not None:
        parts = _extend(registry, issuer, shard, parts)
        if _complete(parts, count, last):
            return _join(parts)
    registry.drop_crl_parts(issuer, shard)
    registry.recount(issuer)
    count, last = registry.revoked_count(issuer, shard)
    parts = _extend(registry, issuer, shard, [])
    if not _complete(parts, count, last):
        raise RefusedError(
            "identity.crl.incomplete",
            f"the list of {issuer} would lack entries",
            hint="the registry is damaged: restore it from its backup",
            where=str(registry.path),
        )
    return _join(parts)


def _digest(part: int, entries: int, last: int, data: bytes) -> bytes:
    return hashlib.sha256(b"%d %d %d\n%b" % (part, entries, last, data)).digest()


def _sound(parts: list[CrlPart]) -> list[CrlPart] | None:
    """The parts as kept, or None if one is missing or damaged."""
    last = 0
    for number, part in enumerate(parts):
        if part.part != number or part.last <= last or part.digest != _digest(*part[:3], part.der):
            return None
        last = part.last
    return parts


def _complete(parts: Sequence[CrlPart], count: int, last: int) -> bool:
    return sum(part.entries for part in parts) == count and (parts[-1].last if parts else 0) == last


def _extend(registry: Registry, issuer: str, shard: int, parts: list[CrlPart]) -> list[CrlPart]:
    """Append what was revoked since the last part; the last part is filled up first."""
    rows = list(registry.revoked(issuer, shard, parts[-1].last if parts else 0))
    while rows:
        open_part = parts.pop() if parts and parts[-1].entries < _PART else CrlPart(len(parts), 0, 0, b"", b"")
        taken, rows = rows[: _PART - open_part.entries], rows[_PART - open_part.entries :]
        data = b"".join((open_part.der, *encode_entries(taken)))
        entries, last = open_part.entries + len(taken), taken[-1].revocation
        part = CrlPart(open_part.part, entries, last, _digest(open_part.part, entries, last, data), data)
        registry.put_crl_part(issuer, shard, part)
        parts.append(part)
    return parts


def _join(parts: Sequence[CrlPart]) -> Entries:
    count, last = sum(part.entries for part in parts), parts[-1].last if parts else 0
    return Entries(b"".join(part.der for part in parts), count, last)


def build_crl(
    issuer: x509.Certificate,
    signer: Signer,
    entries: bytes,
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    urls: Sequence[str] = (),
) -> bytes:
    """A revocation list in DER, byte for byte what `cryptography` builds.

    It keeps certificates that have expired, and says so: old video must stay judgeable.

    Args:
        issuer: certificate of the CA.
        signer: its key.
        entries: encoded entries, from `collect`.
        number: CRLNumber.
        this_update: aware.
        next_update: aware.
        urls: of a shard, the distribution points that its certificates name, in a critical issuingDistributionPoint
            (RFC 5280, 5.2.5); empty: the list covers all certificates of the CA.
    """
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    since = der.generalized_time(issuer.not_valid_before_utc.astimezone(UTC))
    items: list[tuple[x509.ExtensionType, bool]] = [
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
        (x509.CRLNumber(number), False),
        (x509.UnrecognizedExtension(EXPIRED_CERTS_ON_CRL, since), False),
    ]
    if urls:
        names = [x509.UniformResourceIdentifier(url) for url in urls]
        point = x509.IssuingDistributionPoint(
            full_name=names,
            relative_name=None,
            only_contains_user_certs=False,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        )
        items.append((point, True))
    body = der.sequence(
        der.integer(1),
        der.algorithm(signer),
        issuer.subject.public_bytes(),
        der.time(this_update),
        der.time(next_update),
        der.header(0x30, len(entries)) if entries else b"",
        entries,
        der.tlv(0xA0, der.extensions(items)),
    )
    return der.signed(signer, body)
