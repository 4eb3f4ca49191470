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
CREATE INDEX revoked_by ON certificates (issuer, shard, revocation) WHERE revocation IS NOT NULL;
CREATE INDEX sharded ON certificates (issuer, shard) WHERE shard >= 0;
CREATE INDEX by_vendor_serial ON devices (vendor_serial) WHERE vendor_serial != '';
CREATE TABLE secrets (
  digest TEXT PRIMARY KEY, device TEXT NOT NULL, profile TEXT NOT NULL,
  created TEXT NOT NULL, expires TEXT NOT NULL, used TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX secrets_of ON secrets (device);
CREATE TABLE crl_counts (
  issuer TEXT NOT NULL, shard INTEGER NOT NULL, entries INTEGER NOT NULL, last INTEGER NOT NULL,
  PRIMARY KEY (issuer, shard)
) STRICT, WITHOUT ROWID;
CREATE TABLE crl_parts (
  issuer TEXT NOT NULL, shard INTEGER NOT NULL, part INTEGER NOT NULL,
  entries INTEGER NOT NULL, last INTEGER NOT NULL, digest BLOB NOT NULL, der BLOB NOT NULL,
  PRIMARY KEY (issuer, shard, part)
) STRICT;
CREATE TABLE crl_lists (
  issuer TEXT NOT NULL REFERENCES authorities (name), shard INTEGER NOT NULL, number INTEGER NOT NULL,
  this_update TEXT NOT NULL, next_update TEXT NOT NULL, entries INTEGER NOT NULL, last INTEGER NOT NULL,
  sha256 TEXT NOT NULL, urls TEXT NOT NULL,
  PRIMARY KEY (issuer, shard)
) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (id TEXT PRIMARY KEY, event BLOB NOT NULL) STRICT
"""
# A revocation is counted as it is made, so that a list can tell whether it has them all; and it is final.
_COUNT = (
    "BEGIN INSERT INTO crl_counts VALUES (NEW.issuer, NEW.shard, 1, NEW.revocation) "
    "ON CONFLICT (issuer, shard) DO UPDATE SET entries = entries + 1, last = max(last, excluded.last); END"
)
_TRIGGERS = f"""
CREATE TRIGGER revocation_counted AFTER UPDATE OF revocation ON certificates
  WHEN NEW.revocation IS NOT NULL AND OLD.revocation IS NULL {_COUNT};
CREATE TRIGGER revocation_entered AFTER INSERT ON certificates WHEN NEW.revocation IS NOT NULL {_COUNT};
CREATE TRIGGER revocation_numbered BEFORE UPDATE OF status ON certificates
  WHEN NEW.status = 'revoked' AND NEW.revocation IS NULL
  BEGIN SELECT RAISE(ABORT, 'a revocation needs its number'); END;
CREATE TRIGGER revocation_final BEFORE UPDATE ON certificates WHEN OLD.status = 'revoked' AND (
  NEW.status, NEW.issuer, NEW.serial, NEW.shard, NEW.revocation, NEW.revoked
) IS NOT (OLD.status, OLD.issuer, OLD.serial, OLD.shard, OLD.revocation, OLD.revoked)
  BEGIN SELECT RAISE(ABORT, 'a revocation is final'); END;
CREATE TRIGGER revocation_kept BEFORE DELETE ON certificates WHEN OLD.status = 'revoked'
  BEGIN SELECT RAISE(ABORT, 'a revocation is final'); END
"""
# Certificates lie in the order of their entry: by their random serial numbers, every row would dirty a page of its own.
SCHEMA = f"""
{_DEVICES};
{_AUTHORITIES};
CREATE TABLE certificates (
  issuer TEXT NOT NULL REFERENCES authorities (name), serial TEXT NOT NULL,
  holder TEXT NOT NULL, device TEXT REFERENCES devices (gbid), profile TEXT NOT NULL, purpose TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('reserved', 'signed', 'active', 'superseded', 'revoked', 'void')),
  not_before TEXT NOT NULL, not_after TEXT NOT NULL, spki TEXT NOT NULL, key TEXT NOT NULL, event TEXT NOT NULL,
  certificate BLOB, revoked TEXT, reason TEXT, revoked_event TEXT,
  shard INTEGER NOT NULL DEFAULT -1, revocation INTEGER, invalid_since TEXT,
  PRIMARY KEY (issuer, serial),
  CHECK (status IN ('reserved', 'void') OR certificate IS NOT NULL),
  CHECK ((status = 'revoked') = (revoked IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX one_active ON certificates (holder, profile) WHERE status = 'active';
CREATE UNIQUE INDEX one_pending ON certificates (holder, profile) WHERE status IN ('reserved', 'signed');
CREATE INDEX by_holder ON certificates (holder);
CREATE INDEX by_serial ON certificates (serial);
CREATE INDEX by_key ON certificates (spki);
CREATE INDEX by_expiry ON certificates (not_after) WHERE status = 'active';
{_ADDED};
{_TRIGGERS};
"""
# Version 1 had one CA for all signing keys and knew of a device its name and serial number only.
UPGRADES = {
    1: f"""
{_MORE_OF_DEVICES};
ALTER TABLE authorities ADD COLUMN status TEXT NOT NULL DEFAULT 'current';
ALTER TABLE authorities ADD COLUMN created TEXT NOT NULL DEFAULT '';
ALTER TABLE certificates ADD COLUMN shard INTEGER NOT NULL DEFAULT -1;
ALTER TABLE certificates ADD COLUMN revocation INTEGER;
ALTER TABLE certificates ADD COLUMN invalid_since TEXT;
DROP INDEX by_revocation;
UPDATE certificates SET revocation = n FROM
  (SELECT issuer AS i, serial AS s, row_number() OVER (ORDER BY revoked, serial) AS n
   FROM certificates WHERE status = 'revoked') WHERE issuer = i AND serial = s;
{_ADDED};
INSERT INTO crl_counts SELECT issuer, shard, count(*), max(revocation) FROM certificates
  WHERE revocation IS NOT NULL GROUP BY issuer, shard;
{_TRIGGERS}
"""  # noqa: S608 - made of our own constants
}
