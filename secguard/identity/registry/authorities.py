"""The registry: CAs."""

import msgspec

from secguard.identity.records import CaRecord
from secguard.identity.registry.base import Base

__all__ = ["Authorities"]


class Authorities(Base):
    """One record a CA.

    Attributes:
        changes: how often this object changed a record; other processes show in `Registry.data_version`.
    """

    changes = 0

    def add_authority(self, authority: CaRecord) -> None:
        """Enter a CA inside a transaction."""
        self.changes += 1
        self._db.execute(
            # The number stands here: a registry of version 1 has no default for it.
            "INSERT INTO authorities (name, certificate, key, status, created, crl_number) VALUES (?, ?, ?, ?, ?, 0)",
            msgspec.structs.astuple(authority),
        )

    def set_authority(self, authority: CaRecord) -> None:
        """Change a CA's certificate, key and status, inside a transaction."""
        self.changes += 1
        self._db.execute(
            "UPDATE authorities SET certificate = ?, key = ?, status = ? WHERE name = ?",
            (authority.certificate, authority.key, authority.status, authority.name),
        )

    def authorities(self) -> dict[str, CaRecord]:
        """All CAs, also pending and retired ones, by name; empty before `identity ca init`."""
        rows = self._db.execute("SELECT name, certificate, key, status, created FROM authorities ORDER BY name")
        return {row[0]: CaRecord(*row) for row in rows}

    def next_crl_number(self, name: str) -> int:
        """Count a CA's list number up inside a transaction, and return it (RFC 5280, 5.2.3: it only grows)."""
        query = "UPDATE authorities SET crl_number = crl_number + 1 WHERE name = ? RETURNING crl_number"
        (number,) = self._db.execute(query, (name,)).fetchone()
        return int(number)

    def crl_number(self, name: str) -> int:
        """The highest list number of a CA that is known here; 0 before its first list."""
        row = self._db.execute("SELECT crl_number FROM authorities WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def raise_crl_number(self, name: str, number: int) -> None:
        """Take note of a list number inside a transaction; a lower one than is known changes nothing."""
        self._db.execute("UPDATE authorities SET crl_number = max(crl_number, ?) WHERE name = ?", (number, name))

    def drop_authority(self, name: str) -> None:
        """Give up a CA that is still pending, inside a transaction."""
        self.changes += 1
        self._db.execute("DELETE FROM authorities WHERE name = ? AND status = 'pending'", (name,))
