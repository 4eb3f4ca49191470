"""The registry: one record a device, one row a certificate; SQLite, STRICT, WAL, synchronous=FULL.

A certificate's row goes through `reserved` (committed before signing) -> `signed` (committed before anything is
recorded or delivered) -> `active` -> `superseded | revoked`. A row that is `reserved` or `signed` belongs to an
interrupted issue; the next issue for the same holder and profile takes it up again. Of each (holder, profile) at most
one row is pending and one is active.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import msgspec

from secguard.core import rfc3339
from secguard.identity.records import CaRecord, CertificateRecord, DeviceRecord, Status
from secguard.store import open_sqlite, sqlite_failure

__all__ = ["Registry"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE devices (
  gbid TEXT PRIMARY KEY CHECK (length(gbid) = 20),
  name TEXT NOT NULL, vendor_serial TEXT NOT NULL, status TEXT NOT NULL, registered TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE authorities (
  name TEXT PRIMARY KEY, certificate BLOB NOT NULL, key TEXT NOT NULL, crl_number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE certificates (
  issuer TEXT NOT NULL REFERENCES authorities (name), serial TEXT NOT NULL,
  holder TEXT NOT NULL, device TEXT REFERENCES devices (gbid), profile TEXT NOT NULL, purpose TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('reserved', 'signed', 'active', 'superseded', 'revoked', 'void')),
  not_before TEXT NOT NULL, not_after TEXT NOT NULL, spki TEXT NOT NULL, key TEXT NOT NULL, event TEXT NOT NULL,
  certificate BLOB, revoked TEXT, reason TEXT, revoked_event TEXT,
  PRIMARY KEY (issuer, serial),
  CHECK (status IN ('reserved', 'void') OR certificate IS NOT NULL),
  CHECK ((status = 'revoked') = (revoked IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_active ON certificates (holder, profile) WHERE status = 'active';
CREATE UNIQUE INDEX one_pending ON certificates (holder, profile) WHERE status IN ('reserved', 'signed');
CREATE INDEX by_holder ON certificates (holder);
CREATE INDEX by_serial ON certificates (serial);
CREATE INDEX by_key ON certificates (spki);
CREATE INDEX by_expiry ON certificates (not_after) WHERE status = 'active';
CREATE INDEX by_revocation ON certificates (issuer) WHERE status = 'revoked';
"""
_FIELDS = tuple(field.name for field in msgspec.structs.fields(CertificateRecord))
_SELECT = f"SELECT {', '.join(_FIELDS)} FROM certificates"  # noqa: S608 - names of our own struct


class Registry:
    """The registry of one site; open it without any key. Close it, or use it as a context manager."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path

    @classmethod
    def open(cls, path: Path) -> "Registry":
        """Open the database, creating it when new.

        Raises:
            SecguardError: as `store.open_sqlite`.
        """
        return cls(open_sqlite(path, _SCHEMA, _VERSION), path)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One durable step: committed (fsync'ed) when the block ends, rolled back when it raises.

        Raises:
            SystemPartError: the disk is full, or the database is busy or damaged.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise sqlite_failure(error, self.path) from error

    # Devices

    def register(self, record: DeviceRecord) -> None:
        """Enter a device inside a transaction; a known one takes a new name, and a serial number if it has none."""
        self._db.execute(
            "INSERT INTO devices (gbid, name, vendor_serial, status, registered) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (gbid) DO UPDATE SET "
            "name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END, "
            "vendor_serial = CASE vendor_serial WHEN '' THEN excluded.vendor_serial ELSE vendor_serial END",
            msgspec.structs.astuple(record),
        )

    def device(self, gbid: str) -> DeviceRecord | None:
        """The record of a device, or None."""
        return next(self._devices("WHERE gbid = ?", (gbid,)), None)

    def devices(self) -> list[DeviceRecord]:
        """All devices, by ID."""
        return list(self._devices("ORDER BY gbid", ()))

    def _devices(self, clause: str, values: tuple[Any, ...]) -> Iterator[DeviceRecord]:
        query = f"SELECT gbid, name, vendor_serial, status, registered FROM devices {clause}"  # noqa: S608 - our own clauses
        for row in self._db.execute(query, values):
            yield DeviceRecord(*row)

    # Authorities

    def add_authority(self, authority: CaRecord) -> None:
        """Enter a CA inside a transaction."""
        self._db.execute(
            "INSERT INTO authorities (name, certificate, key, crl_number) VALUES (?, ?, ?, 0)",
            (authority.name, authority.certificate, authority.key),
        )

    def authorities(self) -> dict[str, CaRecord]:
        """All CAs, by name; empty before `identity ca init`."""
        rows = self._db.execute("SELECT name, certificate, key FROM authorities ORDER BY name")
        return {row[0]: CaRecord(*row) for row in rows}

    def next_crl_number(self, name: str) -> int:
        """Count a CA's list number up inside a transaction, and return it (RFC 5280, 5.2.3: it only grows)."""
        query = "UPDATE authorities SET crl_number = crl_number + 1 WHERE name = ? RETURNING crl_number"
        (number,) = self._db.execute(query, (name,)).fetchone()
        return int(number)

    # Certificates

    def reserve(self, record: CertificateRecord) -> None:
        """Enter a certificate that is about to be signed, inside a transaction.

        Raises:
            sqlite3.IntegrityError: another issue for this holder and profile is pending, or the serial is taken.
        """
        marks = ", ".join("?" * len(_FIELDS))
        query = f"INSERT INTO certificates ({', '.join(_FIELDS)}) VALUES ({marks})"  # noqa: S608 - names of our own struct
        self._db.execute(query, msgspec.structs.astuple(record))

    def store(self, record: CertificateRecord, certificate: bytes) -> None:
        """Keep a signature, inside a transaction: `reserved` -> `signed`."""
        self._set(record, "status = 'signed', certificate = ?", (certificate,))

    def activate(self, record: CertificateRecord) -> None:
        """Put a recorded certificate into force, inside a transaction; it supersedes the active one of its profile."""
        self._db.execute(
            "UPDATE certificates SET status = 'superseded' WHERE holder = ? AND profile = ? AND status = 'active'",
            (record.holder, record.profile),
        )
        self._set(record, "status = 'active'", ())
        if record.device is not None:
            self._db.execute("UPDATE devices SET status = 'issued' WHERE gbid = ?", (record.device,))

    def void(self, record: CertificateRecord) -> None:
        """Give up a pending row whose key is gone, inside a transaction."""
        self._set(record, "status = 'void'", ())

    def revoke(self, record: CertificateRecord, at: datetime, reason: str, event: str) -> None:
        """Mark a certificate revoked, inside a transaction."""
        self._set(
            record, "status = 'revoked', revoked = ?, reason = ?, revoked_event = ?", (rfc3339(at), reason, event)
        )

    def _set(self, record: CertificateRecord, assignment: str, values: tuple[Any, ...]) -> None:
        query = f"UPDATE certificates SET {assignment} WHERE issuer = ? AND serial = ?"  # noqa: S608 - our own assignments
        self._db.execute(query, (*values, record.issuer, record.serial))

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

    def with_key(self, spki: str) -> Sequence[CertificateRecord]:
        """Certificates over a key, named by the SHA-256 of its SubjectPublicKeyInfo."""
        return list(self._certificates("WHERE spki = ?", (spki,)))

    def expiring(self, before: datetime) -> Iterator[CertificateRecord]:
        """Active certificates that end before a time, soonest first."""
        clause = "WHERE status = 'active' AND not_after < ? ORDER BY not_after, holder"
        return self._certificates(clause, (rfc3339(before),))

    def revoked(self, issuer: str) -> Iterator[CertificateRecord]:
        """Revoked certificates of a CA, also expired ones: lists keep them."""
        return self._certificates("WHERE issuer = ? AND status = ? ORDER BY serial", (issuer, Status.REVOKED))
