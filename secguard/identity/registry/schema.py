"""The tables of the registry, and the way from older versions to this one."""

__all__ = ["SCHEMA", "UPGRADES", "VERSION"]

VERSION = 2
_COLUMNS = (
    *(f"{name} TEXT NOT NULL DEFAULT ''" for name in ("mac", "model", "maker", "address", "site")),
    "longitude REAL",
    "latitude REAL",
    *(f"{name} TEXT NOT NULL DEFAULT ''" for name in ("datum", "zone", "sensitivity")),
    "must_sign INTEGER NOT NULL DEFAULT 0",
    "updated TEXT NOT NULL DEFAULT ''",
)
_MORE_OF_DEVICES = ";\n".join(f"ALTER TABLE devices ADD COLUMN {column}" for column in _COLUMNS)
_DEVICES = f"""
CREATE TABLE devices (
  gbid TEXT PRIMARY KEY CHECK (length(gbid) = 20),
  name TEXT NOT NULL, vendor_serial TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('registered', 'issued', 'installed', 'active', 'retired')),
  registered TEXT NOT NULL,
  {", ".join(_COLUMNS)}
) STRICT, WITHOUT ROWID
"""
_AUTHORITIES = """
CREATE TABLE authorities (
  name TEXT PRIMARY KEY, certificate BLOB NOT NULL, key TEXT NOT NULL,
  status TEXT NOT NULL DEFAULT 'current' CHECK (status IN ('pending', 'current', 'retiring', 'retired')),
  created TEXT NOT NULL DEFAULT '', crl_number INTEGER NOT NULL DEFAULT 0,
  CHECK ((status = 'pending') = (length(certificate) = 0))
) STRICT, WITHOUT ROWID
"""
_ADDED = """
CREATE UNIQUE INDEX by_revocation ON certificates (revocation) WHERE revocation IS NOT NULL;
CREATE INDEX revoked_by ON certificates (issuer, shard, revocation) WHERE status = 'revoked';
CREATE INDEX by_vendor_serial ON devices (vendor_serial) WHERE vendor_serial != '';
CREATE TABLE secrets (
  digest TEXT PRIMARY KEY, device TEXT NOT NULL, profile TEXT NOT NULL,
  created TEXT NOT NULL, expires TEXT NOT NULL, used TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX secrets_of ON secrets (device)
"""
SCHEMA = f"""
{_DEVICES};
{_AUTHORITIES};
CREATE TABLE certificates (
  issuer TEXT NOT NULL REFERENCES authorities (name), serial TEXT NOT NULL,
  holder TEXT NOT NULL, device TEXT REFERENCES devices (gbid), profile TEXT NOT NULL, purpose TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('reserved', 'signed', 'active', 'superseded', 'revoked', 'void')),
  not_before TEXT NOT NULL, not_after TEXT NOT NULL, spki TEXT NOT NULL, key TEXT NOT NULL, event TEXT NOT NULL,
  certificate BLOB, revoked TEXT, reason TEXT, revoked_event TEXT,
  shard INTEGER NOT NULL DEFAULT -1, revocation INTEGER,
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
{_ADDED};
"""
# Version 1 had one CA for all signing keys and knew of a device its name and serial number only.
UPGRADES = {
    1: f"""
{_MORE_OF_DEVICES};
ALTER TABLE authorities ADD COLUMN status TEXT NOT NULL DEFAULT 'current';
ALTER TABLE authorities ADD COLUMN created TEXT NOT NULL DEFAULT '';
ALTER TABLE certificates ADD COLUMN shard INTEGER NOT NULL DEFAULT -1;
ALTER TABLE certificates ADD COLUMN revocation INTEGER;
DROP INDEX by_revocation;
UPDATE certificates SET revocation = n FROM
  (SELECT issuer AS i, serial AS s, row_number() OVER (ORDER BY revoked, serial) AS n
   FROM certificates WHERE status = 'revoked') WHERE issuer = i AND serial = s;
{_ADDED}
"""  # noqa: S608 - made of our own constants
}
