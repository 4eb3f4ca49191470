"""The registry: revocations, the parts that lists are made of, and events that wait for the ledger."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from secguard.core import rfc3339
from secguard.identity.records import CertificateRecord
from secguard.identity.registry.base import Base

__all__ = ["CrlPart", "CrlState", "Revocations", "RevokedRow", "Standing"]


class RevokedRow(NamedTuple):
    """What a list says of a revoked certificate: its number among all revocations, serial in hex, RFC 3339 times."""

    revocation: int
    serial: str
    revoked: str
    reason: str | None
    invalid_since: str | None


class CrlPart(NamedTuple):
    """Encoded entries of a list: how many, the number of the last revocation among them, a digest, and the bytes."""

    part: int
    entries: int
    last: int
    digest: bytes
    der: bytes


class CrlState(NamedTuple):
    """A list as last published: CRLNumber, RFC 3339 times, entries, last revocation, SHA-256, URLs (by spaces)."""

    number: int
    this_update: str
    next_update: str
    entries: int
    last: int
    sha256: str
    urls: str


class Standing(NamedTuple):
    """Where a certificate stands; RFC 3339 times."""

    serial: str
    status: str
    not_after: str
    revoked: str | None
    reason: str | None
    invalid_since: str | None


_STANDINGS = f"SELECT {', '.join(Standing._fields)} FROM certificates WHERE issuer = ? AND serial IN"  # noqa: S608 - our own fields
_STANDING = f"{_STANDINGS} (?)"


class Revocations(Base):
    """What is revoked; a revocation is final, and has a number that only grows."""

    def revoke(
        self, records: Iterable[tuple[CertificateRecord, str, str | None, str]], at: datetime, start: int
    ) -> None:
        """Mark certificates revoked, inside a transaction.

        Args:
            records: each with its reason (CRLReason), the time it became invalid (RFC 3339) and its event's ID.
            at: time of the revocation.
            start: number of the first, from `next_revocation`.
        """
        time = rfc3339(at)
        self._db.executemany(
            "UPDATE certificates SET status = 'revoked', revoked = ?, reason = ?, invalid_since = ?, "
            "revoked_event = ?, revocation = ? WHERE issuer = ? AND serial = ?",
            (
                (time, reason, since, event, number, record.issuer, record.serial)
                for number, (record, reason, since, event) in enumerate(records, start)
            ),
        )

    def next_revocation(self) -> int:
        """The number of the next revocation, inside a transaction."""
        query = "SELECT coalesce(max(revocation), 0) + 1 FROM certificates WHERE revocation IS NOT NULL"
        return int(self._db.execute(query).fetchone()[0])

    def release_devices(self, gbids: Iterable[str]) -> None:
        """Move devices without any active certificate back to `registered`, inside a transaction."""
        self._db.executemany(
            "UPDATE devices SET status = 'registered' WHERE gbid = ? AND status IN ('issued', 'installed', 'active') "
            "AND NOT EXISTS (SELECT 1 FROM certificates WHERE holder = gbid AND status = 'active')",
            ((gbid,) for gbid in gbids),
        )

    def revoked(self, issuer: str, shard: int = -1, after: int = 0) -> Iterator[RevokedRow]:
        """Revoked certificates of a CA (or of one shard), also expired ones, in the order of revocation."""
        query = "SELECT revocation, serial, revoked, reason, invalid_since FROM certificates"
        if shard >= 0:
            query += " WHERE issuer = ? AND shard = ? AND revocation > ? ORDER BY revocation"
            rows = self._db.execute(query, (issuer, shard, after))
        else:  # few are new, however many there are
            query += " INDEXED BY by_revocation WHERE issuer = ? AND revocation > ? ORDER BY revocation"
            rows = self._db.execute(query, (issuer, after))
        return map(RevokedRow._make, rows)

    def revoked_count(self, issuer: str, shard: int = -1) -> tuple[int, int]:
        """How many certificates of a CA (or of one shard) are revoked, and the number of the last revocation."""
        query = "SELECT coalesce(sum(entries), 0), coalesce(max(last), 0) FROM crl_counts WHERE issuer = ?"
        if shard >= 0:
            return tuple(self._db.execute(f"{query} AND shard = ?", (issuer, shard)).fetchone())
        return tuple(self._db.execute(query, (issuer,)).fetchone())

    def recount(self, issuer: str) -> None:
        """Count a CA's revocations anew from the certificates themselves, inside a transaction."""
        self._db.execute("DELETE FROM crl_counts WHERE issuer = ?", (issuer,))
        self._db.execute(
            "INSERT INTO crl_counts SELECT issuer, shard, count(*), max(revocation) FROM certificates "
            "WHERE issuer = ? AND revocation IS NOT NULL GROUP BY issuer, shard",
            (issuer,),
        )

    def shards(self, issuer: str) -> list[int]:
        """The shards that certificates of a CA point to, also those of an earlier configuration."""
        query = (
            "WITH RECURSIVE found (shard) AS (SELECT min(shard) FROM certificates WHERE issuer = ?1 AND shard >= 0 "
            "UNION ALL SELECT (SELECT min(shard) FROM certificates WHERE issuer = ?1 AND shard > found.shard "
            "AND shard >= 0) FROM found WHERE found.shard IS NOT NULL) SELECT shard FROM found WHERE shard IS NOT NULL"
        )
        return [row[0] for row in self._db.execute(query, (issuer,))]

    def crl_parts(self, issuer: str, shard: int) -> list[CrlPart]:
        """The encoded entries of a list, in order."""
        query = "SELECT part, entries, last, digest, der FROM crl_parts WHERE issuer = ? AND shard = ? ORDER BY part"
        return [CrlPart(*row) for row in self._db.execute(query, (issuer, shard))]

    def put_crl_part(self, issuer: str, shard: int, part: CrlPart) -> None:
        """Keep a part, inside a transaction."""
        query = "INSERT OR REPLACE INTO crl_parts VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._db.execute(query, (issuer, shard, *part))

    def drop_crl_parts(self, issuer: str, shard: int) -> None:
        """Forget a list's parts, inside a transaction: they are made again from the certificates."""
        self._db.execute("DELETE FROM crl_parts WHERE issuer = ? AND shard = ?", (issuer, shard))

    def crl_states(self, issuer: str) -> dict[int, CrlState]:
        """A CA's lists as last published, by shard; -1 is the full list."""
        query = f"SELECT shard, {', '.join(CrlState._fields)} FROM crl_lists WHERE issuer = ?"  # noqa: S608 - our own fields
        return {row[0]: CrlState(*row[1:]) for row in self._db.execute(query, (issuer,))}

    def set_crl_state(self, issuer: str, shard: int, state: CrlState) -> None:
        """Remember that a list is published, inside a transaction."""
        query = "INSERT OR REPLACE INTO crl_lists VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._db.execute(query, (issuer, shard, *state))

    def status_of(self, issuer: str, serials: Sequence[str]) -> dict[str, Standing]:
        """Where certificates of a CA stand, by serial number, all at one point in time; unknown ones are missing."""
        if len(serials) == 1:
            row = self._db.execute(_STANDING, (issuer, serials[0])).fetchone()
            return {row[0]: Standing(*row)} if row else {}
        marks = ", ".join("?" * len(serials))
        rows = self._db.execute(f"{_STANDINGS} ({marks})", (issuer, *serials))
        return {row[0]: Standing(*row) for row in rows}

    def data_version(self) -> int:
        """A number that changes when another connection has committed something."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def put_outbox(self, events: Iterable[tuple[str, bytes]]) -> None:
        """Keep events, by ID, until the ledger has them; inside the transaction of the act itself."""
        self._db.executemany("INSERT OR IGNORE INTO outbox (id, event) VALUES (?, ?)", events)

    def outbox(self) -> list[tuple[str, bytes]]:
        """Events that the ledger may not have yet, in the order of the acts."""
        return list(self._db.execute("SELECT id, event FROM outbox ORDER BY rowid"))

    def clear_outbox(self, ids: Iterable[str]) -> None:
        """Forget events that the ledger has, inside a transaction."""
        self._db.executemany("DELETE FROM outbox WHERE id = ?", ((one,) for one in ids))
