"""The registry: certificates, from reservation to revocation."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from secguard.core import rfc3339
from secguard.identity.records import CertificateRecord
from secguard.identity.registry.base import Base, batched

__all__ = ["Certificates"]

_FIELDS = tuple(field.name for field in msgspec.structs.fields(CertificateRecord))
_SELECT = f"SELECT {', '.join(_FIELDS)} FROM certificates"  # noqa: S608 - names of our own struct
_BARE = _SELECT.replace(", certificate,", ", NULL,")
# CAs are followed by other commands, and the service renews its responders by itself.
_OF_HOLDERS = "status = 'active' AND purpose NOT IN ('ca', 'ocsp')"


class Certificates(Base):
    """One row a certificate."""

    def reserve(self, *records: CertificateRecord) -> None:
        """Enter certificates that are about to be signed, inside a transaction.

        Raises:
            sqlite3.IntegrityError: another issue for a holder and profile is pending, or a serial is taken.
        """
        marks = ", ".join("?" * len(_FIELDS))
        query = f"INSERT INTO certificates ({', '.join(_FIELDS)}) VALUES ({marks})"  # noqa: S608 - names of our own struct
        self._db.executemany(query, map(msgspec.structs.astuple, records))

    def store(self, record: CertificateRecord, certificate: bytes) -> None:
        """Keep a signature, inside a transaction: `reserved` -> `signed`."""
        self.store_all([(record, certificate)])

    def store_all(self, signed: Iterable[tuple[CertificateRecord, bytes]]) -> None:
        """Keep signatures, inside a transaction: `reserved` -> `signed`."""
        self._db.executemany(
            "UPDATE certificates SET status = 'signed', certificate = ? WHERE issuer = ? AND serial = ?",
            ((certificate, record.issuer, record.serial) for record, certificate in signed),
        )

    def activate(self, *records: CertificateRecord) -> None:
        """Put recorded certificates into force, inside a transaction; each supersedes the active one of its profile."""
        self._db.executemany(
            "UPDATE certificates SET status = 'superseded' WHERE holder = ? AND profile = ? AND status = 'active'",
            ((record.holder, record.profile) for record in records),
        )
        self._db.executemany(
            "UPDATE certificates SET status = 'active' WHERE issuer = ? AND serial = ?",
            ((record.issuer, record.serial) for record in records),
        )
        self._db.executemany(
            "UPDATE devices SET status = 'issued' WHERE gbid = ? AND status IN ('registered', 'retired')",
            {(record.device,) for record in records if record.device is not None},
        )

    def void(self, *records: CertificateRecord) -> None:
        """Give up pending rows whose keys are gone, inside a transaction."""
        self._db.executemany(
            "UPDATE certificates SET status = 'void' WHERE issuer = ? AND serial = ?",
            ((record.issuer, record.serial) for record in records),
        )

    def _certificates(self, clause: str, values: tuple[Any, ...] = ()) -> Iterator[CertificateRecord]:
        for row in self._db.execute(f"{_SELECT} {clause}", values):
            yield CertificateRecord(*row)

    def certificates(self, holder: str | None = None) -> Iterator[CertificateRecord]:
        """All certificates, or a holder's, by holder, profile and time."""
        order = "ORDER BY holder, profile, not_before, serial"
        return (
            self._certificates(order) if holder is None else self._certificates(f"WHERE holder = ? {order}", (holder,))
        )

    def active(self, holder: str, profile: str) -> CertificateRecord | None:
        """The active certificate of a holder and profile, or None."""
        clause = "WHERE holder = ? AND profile = ? AND status = 'active'"
        return next(self._certificates(clause, (holder, profile)), None)

    def standing(self, holders: Iterable[str]) -> Iterator[CertificateRecord]:
        """The active and pending certificates of holders."""
        return self._among("holder", holders, " AND status IN ('active', 'reserved', 'signed')")

    def with_keys(self, spkis: Iterable[str]) -> Iterator[CertificateRecord]:
        """Certificates over keys; see `with_key`."""
        return self._among("spki", spkis)

    def _among(self, column: str, values: Iterable[str], more: str = "") -> Iterator[CertificateRecord]:
        for some in batched(values):
            yield from self._certificates(f"WHERE {column} IN ({', '.join('?' * len(some))}){more}", some)

    def holders(self, profile: str) -> list[str]:
        """Who has an active certificate of a profile, latest first."""
        query = (
            "SELECT holder FROM certificates WHERE profile = ? AND status = 'active' ORDER BY not_before DESC, holder"
        )
        return [row[0] for row in self._db.execute(query, (profile,))]

    def pending(self, holder: str, profile: str) -> CertificateRecord | None:
        """The row of an interrupted issue, or None."""
        clause = "WHERE holder = ? AND profile = ? AND status IN ('reserved', 'signed')"
        return next(self._certificates(clause, (holder, profile)), None)

    def by_serial(self, serial: str) -> CertificateRecord | None:
        """The certificate with a serial number (lower-case hex), or None."""
        return next(self._certificates("WHERE serial = ?", (serial,)), None)

    def certificate(self, issuer: str, serial: str) -> CertificateRecord | None:
        """The certificate of a CA with a serial number (lower-case hex), or None."""
        return next(self._certificates("WHERE issuer = ? AND serial = ?", (issuer, serial)), None)

    def with_key(self, spki: str) -> Sequence[CertificateRecord]:
        """Certificates over a key, named by the SHA-256 of its SubjectPublicKeyInfo."""
        return list(self._certificates("WHERE spki = ?", (spki,)))

    def expiring(self, before: datetime, *, bare: bool = False) -> Iterator[CertificateRecord]:
        """Active certificates that end before a time, soonest first; not those of CAs and of OCSP responders.

        Args:
            before: the time, aware.
            bare: leave out the certificates' bytes, which weigh most of a long list.
        """
        clause = f"WHERE {_OF_HOLDERS} AND not_after < ? ORDER BY not_after, holder"
        for row in self._db.execute(f"{_BARE if bare else _SELECT} {clause}", (rfc3339(before),)):
            yield CertificateRecord(*row)

    def expiries(self, area: str = "") -> list[tuple[str, str, str, int]]:
        """How many of what `expiring` counts end on each day: (`YYYY-MM-DD`, profile, issuing CA, count), by day.

        Args:
            area: only devices whose ID begins with these digits.
        """
        query = (
            "SELECT substr(not_after, 1, 10) AS day, profile, issuer, count(*) FROM certificates "  # noqa: S608 - our own clause
            f"WHERE {_OF_HOLDERS} AND coalesce(device, '') LIKE ? || '%' "
            "GROUP BY day, profile, issuer ORDER BY day, profile, issuer"
        )
        return list(self._db.execute(query, (area,)))

    def in_force(self, at: datetime) -> dict[str, int]:
        """Active certificates that have not expired at a time, counted by CA; without those of OCSP responders."""
        query = (
            "SELECT issuer, count(*) FROM certificates "
            "WHERE status = 'active' AND not_after >= ? AND purpose != 'ocsp' GROUP BY issuer"
        )
        return {row[0]: int(row[1]) for row in self._db.execute(query, (rfc3339(at),))}
