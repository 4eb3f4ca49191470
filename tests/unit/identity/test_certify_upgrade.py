"""A registry that the previous version made: it opens, is upgraded, and issues, renews and revokes."""

import sqlite3
from contextlib import closing

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from secguard.identity import Registry, Request
from secguard.identity.issuing.order import Certified, Order
from secguard.identity.records import CaRecord, CaStatus

CAMERA = "32011600001320000001"
# Version 1, as it was: one CA for all keys, a device with a name and a serial number only.
VERSION_1 = """
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
PRAGMA user_version = 1;
"""
TABLES = {"authorities": ("name", "certificate", "key", "crl_number"), "devices": (), "certificates": ()}


@pytest.fixture
def old(site):
    """The site with what it holds carried back into a registry of version 1."""
    site.open().issue([Request(CAMERA, "camera", name="East gate")])
    site.open().revoke(CAMERA, "superseded", profile="media-signing")
    path = site.registry.path
    site.registry.close()
    new = path.rename(path.with_name("new.db"))
    for ending in ("-wal", "-shm"):
        path.with_name(f"registry.db{ending}").unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_1)
        db.execute("ATTACH ? AS new", (str(new),))
        for table in TABLES:
            columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        db.commit()
    db.close()
    site.registry = Registry.open(path)
    return site


def test_old_registry_issues_renews_and_revokes(old):
    authority = old.open()
    before = {row.serial: row for row in old.registry.certificates(CAMERA)}
    assert {row.profile: row.status for row in before.values()} == {"camera": "active", "media-signing": "revoked"}
    assert old.registry.device(CAMERA).name == "East gate"
    renewed = authority.renew(CAMERA, "camera")
    assert renewed.record.serial not in before
    private = ec.generate_private_key(ec.SECP256R1())
    other = "32011600001320000002"
    (answer,) = authority.certify([Order(other, "camera", public=private.public_key())])
    assert isinstance(answer, Certified)
    assert [row.status for row in authority.revoke(other, "keyCompromise")] == ["revoked"]
    order = [row.serial for row in old.registry.certificates() if row.revocation is not None]
    assert len(order) == 2
    positions = sorted(row.revocation for row in old.registry.certificates() if row.revocation is not None)
    assert positions == [1, 2]


def test_ca_of_an_old_registry_gets_a_successor(old):
    added = CaRecord("devices-g2", b"certificate", "file:none", CaStatus.RETIRED)
    with old.registry.transaction():
        old.registry.add_authority(added)
    assert old.registry.authorities()["devices-g2"] == added
    assert old.registry.crl_number("devices-g2") == 0


def test_old_registry_opens_once_and_for_all(old):
    path = old.registry.path
    with closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
    assert version > 1
    with Registry.open(path) as again:
        assert again.device(CAMERA).mac == ""
        assert len(list(again.certificates(CAMERA))) == 2
