"""Floor 1: GB/T 28181 IDs, the code tables of its editions, and scopes over them."""

from secguard.gbid.gbid import GbId
from secguard.gbid.scope import Scope
from secguard.gbid.tables import DEFAULT_EDITION, EDITIONS, Meaning, Tables, tables

__all__ = ["DEFAULT_EDITION", "EDITIONS", "GbId", "Meaning", "Scope", "Tables", "tables"]
