"""Long work goes through helper processes: the same rows, the same differences, the same errors as without."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from index_kit import copy, say

from secguard import audit
from secguard.audit import SqliteIndex, catch_up, compare, rows_of
from secguard.audit.index import following, helpers, sqlite
from secguard.core import FormatError, SystemPartError
from secguard.events import Actor, Event
from secguard.ledger import Ledger


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (following, sqlite, audit.reconciliation):
        monkeypatch.setattr(module, "MANY", 10)
    monkeypatch.setattr(following, "_LONG_BATCH", 300)
    monkeypatch.setattr(audit.reconciliation, "_RANGE", 300)
    monkeypatch.setattr(following, "cores", lambda: 2)


@pytest.fixture
def ledger(tmp_path: Path) -> Generator[Ledger]:
    with Ledger.create(tmp_path / "ledger", "test.example/log", anchor=tmp_path / "anchor") as opened:
        opened.record(
            [
                Event(
                    id=f"e-{number}",
                    kind="video.viewed",
                    time=datetime(2026, 10, 1, tzinfo=UTC) + timedelta(seconds=number),
                    actor=Actor(name="张三"),
                    reason=f"核查案件线索 {number}",
                    data={"session": f"s-{number}"},
                )
                for number in range(1000)
            ]
        )
        yield opened


@pytest.fixture
def index(tmp_path: Path) -> Generator[SqliteIndex]:
    opened = SqliteIndex.open(tmp_path / "audit.db")
    yield opened
    opened.close()


def test_the_rows_and_the_differences_are_the_same(ledger: Ledger, index: SqliteIndex) -> None:
    done: list[int] = []
    assert catch_up(index, ledger, lambda at, *_: done.append(at)) == 1000
    assert done == [512, 1000]  # files of 256 events
    assert index.rows(0, 1000) == [row for first, bodies in ledger.scan() for row in rows_of(first, bodies)]
    assert index.damage() == ([], [])  # all trees are there again
    assert compare(index, ledger) == ([], {"missing": 0, "extra": 0, "altered": 0}, 1000, 1000)
    db = index._db
    db.execute("DELETE FROM event WHERE seq = 7")
    say(db, 650, "actor", "李四")
    db.execute("UPDATE words SET text = 'x' WHERE rowid = 651")
    copy(db, 1, 5000)
    db.execute("DROP INDEX event_actor")
    findings, counts, *_ = compare(index, ledger)
    assert [(item.code, item.data.get("index"), item.data.get("columns")) for item in findings] == [
        ("audit.index.missing", 7, ""),
        ("audit.index.altered", 650, "actor"),
        ("audit.index.altered", 651, "data"),
        ("audit.index.extra", 5000, ""),
        ("audit.index.damaged", None, None),
    ]
    assert counts == {"missing": 1, "extra": 1, "altered": 2}


def test_trees_that_are_being_built_are_no_damage(ledger: Ledger, index: SqliteIndex) -> None:
    merging = "SELECT v FROM words_config WHERE k = 'automerge'"
    index.prepare(1000)
    assert index._db.execute(merging).fetchone() == (0,)
    assert index.damage() == ([], [])
    assert index.check("trees").problems == []
    index.settle()
    assert index._db.execute(merging).fetchone() == (4,)
    index._db.execute("DROP INDEX event_actor")
    assert [text for text in index.damage().problems if "event_actor" in text]


def test_a_helper_hands_errors_over_and_may_die(ledger: Ledger, index: SqliteIndex, tmp_path: Path) -> None:
    with helpers.Helper() as helper:
        helper.send("rows", str(ledger.root), 0, 2, False, 300)
        helper.send("check", str(index.file), "trees")
        first, after, rows = helper.receive()
        assert (first, after, [row[0] for row in rows], helper.receive()) == (0, 2, [0, 1], None)
        assert helper.receive() == ([], [])
        (tmp_path / "no.db").write_bytes(b"no database" * 1000)
        helper.send("check", str(tmp_path / "no.db"), "trees")
        with pytest.raises(FormatError, match="not a database"):
            helper.receive()
        helper._process.kill()
        with pytest.raises(SystemPartError, match="ended early"):
            helper.receive()


def test_an_interrupt_ends_the_helpers(ledger: Ledger, index: SqliteIndex) -> None:
    catch_up(index, ledger)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(index, ledger, interrupt)
    assert compare(index, ledger)[0] == []
