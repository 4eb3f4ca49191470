"""The registry: one record a device, one row a certificate; SQLite, STRICT, WAL, synchronous=FULL.

A certificate's row goes through `reserved` (committed before signing) -> `signed` (committed before anything is
recorded or delivered) -> `active` -> `superseded | revoked`. A row that is `reserved` or `signed` belongs to an
interrupted issue; the next issue for the same holder and profile takes it up again. Of each (holder, profile) at most
one row is pending and one is active.
"""

from pathlib import Path
from typing import Self

from secguard.identity.registry.authorities import Authorities
from secguard.identity.registry.certificates import Certificates
from secguard.identity.registry.devices import Devices
from secguard.identity.registry.revocations import Revocations
from secguard.identity.registry.schema import SCHEMA, UPGRADES, VERSION
from secguard.identity.registry.secrets import Secrets
from secguard.store import open_sqlite

__all__ = ["Registry"]


class Registry(Devices, Authorities, Certificates, Revocations, Secrets):
    """The registry of one site; open it without any key. Close it, or use it as a context manager."""

    @classmethod
    def open(cls, path: Path) -> "Registry":
        """Open the database, creating it when new.

        Raises:
            SecguardError: as `store.open_sqlite`.
        """
        return cls(open_sqlite(path, SCHEMA, VERSION, upgrades=UPGRADES), path)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
