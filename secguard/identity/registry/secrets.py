"""The registry: one-time secrets with which devices may enrol; only their digests are kept."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from secguard.core import rfc3339
from secguard.identity.registry.base import Base

__all__ = ["SecretRecord", "Secrets"]


class SecretRecord(msgspec.Struct, frozen=True):
    """One one-time secret; the fields are the columns of the registry.

    Attributes:
        digest: of the secret, see `secguard.identity.enrol.secrets`; hex.
        device: the ID of the one device it is for.
        profile: the one profile it is for.
        created: RFC 3339 time.
        expires: RFC 3339 time.
        used: RFC 3339 time of its use; None while it can be used.
    """

    digest: str
    device: str
    profile: str
    created: str
    expires: str
    used: str | None = None


_FIELDS = ", ".join(field.name for field in msgspec.structs.fields(SecretRecord))


class Secrets(Base):
    """One row a secret."""

    def add_secret(self, secret: SecretRecord) -> None:
        """Enter a secret inside a transaction; unused ones of the same device and profile go, so that one counts."""
        self._db.execute(
            "DELETE FROM secrets WHERE device = ? AND profile = ? AND used IS NULL", (secret.device, secret.profile)
        )
        query = f"INSERT INTO secrets ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608 - names of our own struct
        self._db.execute(query, msgspec.structs.astuple(secret))

    def secrets(self, device: str | None = None) -> Sequence[SecretRecord]:
        """The secrets of a device, or all, used ones too; soonest to expire first."""
        query = f"SELECT {_FIELDS} FROM secrets"  # noqa: S608 - names of our own struct
        order = "ORDER BY expires, device, profile"
        rows = (
            self._db.execute(f"{query} {order}")
            if device is None
            else self._db.execute(f"{query} WHERE device = ? {order}", (device,))
        )
        return [SecretRecord(*row) for row in rows]

    def use_secret(self, digest: str, at: datetime, device: str, profile: str) -> bool:
        """Use a secret up, inside a transaction.

        Returns:
            False if it was used before, has expired, was withdrawn, or is for another device or profile.
        """
        query = (
            "UPDATE secrets SET used = ? WHERE digest = ? AND used IS NULL AND expires > ? "
            "AND device = ? AND profile = ?"
        )
        return self._db.execute(query, (rfc3339(at), digest, rfc3339(at), device, profile)).rowcount == 1

    def restore_secret(self, digest: str, at: datetime) -> None:
        """Give a secret back, inside a transaction, that was used at `at` and brought no certificate."""
        self._db.execute("UPDATE secrets SET used = NULL WHERE digest = ? AND used = ?", (digest, rfc3339(at)))

    def withdraw_secrets(self, device: str, profile: str = "") -> int:
        """Delete a device's unused secrets, inside a transaction, and tell how many there were."""
        query = "DELETE FROM secrets WHERE device = ? AND used IS NULL AND (? = '' OR profile = ?)"
        return self._db.execute(query, (device, profile, profile)).rowcount
