"""Blobs are what their names say; databases open one way."""

import sqlite3

import pytest

from secguard.core import FormatError, RefusedError, UsageError
from secguard.store import BlobStore, open_sqlite

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT NOT NULL) STRICT;"


def test_blob_round_trip_and_tamper(tmp_path):
    store = BlobStore(tmp_path)
    ref = store.put(b"content")
    assert store.put(b"content") == ref
    assert store.get(ref.sha256) == b"content"
    path = tmp_path / ref.sha256[:2] / ref.sha256[2:]
    path.write_bytes(b"contenu")
    with pytest.raises(FormatError, match="digest"):
        store.get(ref.sha256)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65])
def test_blob_names_are_digests(tmp_path, name):
    with pytest.raises(UsageError):
        BlobStore(tmp_path).get(name)


def test_sqlite_settings(tmp_path):
    db = open_sqlite(tmp_path / "d" / "x.db", SCHEMA, 1)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO t VALUES (1, x'00')")
    db.close()
    open_sqlite(tmp_path / "d" / "x.db", SCHEMA, 1).close()
    with pytest.raises(RefusedError, match="schema 1"):
        open_sqlite(tmp_path / "d" / "x.db", SCHEMA, 2)


def test_junk_is_no_database(tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"junk" * 1000)
    with pytest.raises(FormatError):
        open_sqlite(path, SCHEMA, 1)
