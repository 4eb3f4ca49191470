"""What many events say stands once in the index: how such names come, are shared between processes, and go."""

import contextlib
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secguard.audit import SqliteIndex, catch_up, compare, parse, rows_of
from secguard.audit.index import names
from secguard.audit.index.helpers import MANY
from secguard.audit.index.tables import TREES, numbers_of
from secguard.audit.query.groups import ByField
from secguard.core import RefusedError, SystemPartError
from secguard.events import Actor, Event

Make = Callable[..., Event]
# The tables of version 1: all words of every event in one list.
_FIRST = """
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT, position INTEGER NOT NULL) STRICT;
INSERT INTO meta VALUES (1, 'test.example/log', 2);
CREATE TABLE event (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, actor TEXT NOT NULL, time INTEGER NOT NULL) STRICT;
CREATE VIRTUAL TABLE words USING fts5 (reason, text, tokenize = 'ascii', columnsize = 0);
CREATE INDEX event_actor ON event (actor, time);
INSERT INTO event VALUES (0, 'e-0', '张三', 5);
PRAGMA user_version = 1;
"""
# The tables of version 2: names without a count of their events.
_SECOND = """
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT, position INTEGER NOT NULL) STRICT;
INSERT INTO meta VALUES (1, 'test.example/log', 1);
CREATE TABLE name (id INTEGER PRIMARY KEY, field TEXT NOT NULL, value TEXT NOT NULL, UNIQUE (field, value)) STRICT;
INSERT INTO name VALUES (0, 'actor', '张三');
CREATE TABLE event (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, actor INTEGER NOT NULL, time INTEGER NOT NULL) STRICT;
CREATE VIRTUAL TABLE named USING fts5 (text, tokenize = 'ascii', columnsize = 0);
CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'ascii', columnsize = 0);
CREATE INDEX event_actor ON event (actor, time);
INSERT INTO event VALUES (0, 'e-0', 0, 5);
PRAGMA user_version = 2;
"""


def found(index: SqliteIndex, text: str, clock: Any) -> list[int]:
    return sorted(index.find(parse(text, now=clock.now()), limit=100).seqs)


def said(path: Path) -> set[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return set(db.execute("SELECT field, value FROM name"))


@pytest.mark.parametrize("script", [_FIRST, _SECOND])
def test_an_index_of_an_earlier_version_is_built_anew(
    tmp_path: Path, log: Any, make: Make, clock: Any, script: str
) -> None:
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(script)
    log.record([make(number) for number in range(3)])
    with contextlib.closing(SqliteIndex.open(path)) as index:
        assert (index.position, index.origin) == (0, None)
        assert catch_up(index, log) == 3
        assert compare(index, log)[0] == []
        assert found(index, "刑侦支队", clock) == [0, 1, 2]


def test_a_value_stands_once_for_each_field(tmp_path: Path, index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(number, approver="张三") for number in range(50)])
    catch_up(index, log)
    assert {pair for pair in said(tmp_path / "audit.db") if pair[1] == "张三"} == {
        ("actor", "张三"),
        ("approver", "张三"),
    }
    (lists,) = index._db.execute("SELECT count(*) FROM named").fetchone()
    assert lists == len(said(tmp_path / "audit.db"))


def test_names_go_with_the_last_event_that_says_them(
    tmp_path: Path, index: SqliteIndex, log: Any, make: Make, clock: Any
) -> None:
    log.record([make(0), make(1, reason="配合纪委调查", actor=Actor(name="赵六")), make(2, actor=Actor(name="赵六"))])
    catch_up(index, log)
    log.bodies[1] = None
    assert index.forget([1]) == 1
    assert not {value for _, value in said(tmp_path / "audit.db")} & {"配合 合纪 纪委 委调 调查 查"}
    assert ("actor", "赵六") in said(tmp_path / "audit.db")
    assert (found(index, "纪委", clock), found(index, "赵六", clock)) == ([], [2])
    assert compare(index, log)[0] == []
    index.close()
    for file in tmp_path.glob("audit.db*"):  # the bytes too
        assert "纪委".encode() not in file.read_bytes()


def test_another_process_forgets_a_name_meanwhile(
    tmp_path: Path, index: SqliteIndex, log: Any, make: Make, clock: Any
) -> None:
    log.record([make(0, case="案7"), make(1)])
    catch_up(index, log)
    assert index.rows(0, 1)[0].case == "案7"
    with contextlib.closing(SqliteIndex.open(tmp_path / "audit.db")) as other:
        assert other.forget([0]) == 1
        log.record([make(2, case="案8")])  # takes the number that is free now
        catch_up(other, log)
    log.bodies[0] = None
    log.record([make(3, case="案7"), make(4, case="案8")])
    catch_up(index, log)
    assert compare(index, log)[0] == []
    assert (found(index, "case:案7", clock), found(index, "案8", clock)) == ([3], [2, 4])


def test_names_of_a_transaction_that_was_taken_back(index: SqliteIndex, log: Any, make: Make, clock: Any) -> None:
    log.record([make(0, case="案1")])
    rows = rows_of(0, log.bodies)
    with pytest.raises(RefusedError):
        index.add(log.origin, 0, 1, [*rows, *rows])
    catch_up(index, log)
    assert compare(index, log)[0] == []
    assert found(index, "案1", clock) == [0]


def test_names_are_counted_as_events_come_and_go(index: SqliteIndex, log: Any, make: Make, clock: Any) -> None:
    rng = random.Random(3)
    for _ in range(4):
        log.record([make(len(log.bodies) + number, case=f"案{rng.randrange(5)}") for number in range(40)])
        catch_up(index, log)
        gone = rng.sample(range(log.size), 9)
        for place in gone:
            log.bodies[place] = None
        index.forget([*gone, *gone[:3], 10_000])
        counted = index.count(parse("", now=clock.now()), ByField("case"))
        for case, count in counted.groups:
            asked = [f"case:{case}", f"text:{case}", f"case:{case[0]}?", f"case:{case} time:*"]
            wanted = [count, count, counted.total, count]
            assert [index.find(parse(text, now=clock.now()), limit=9).total for text in asked] == wanted
    assert compare(index, log)[0] == []


def test_a_count_of_names_sees_no_later_events(index: SqliteIndex, log: Any, make: Make, clock: Any) -> None:
    log.record([make(number, case="案1") for number in range(5)])
    catch_up(index, log)
    page = index.find(parse("case:案1", now=clock.now()), limit=2)
    log.record([make(number, case="案1") for number in range(5, 8)])
    catch_up(index, log)
    assert index.find(parse("case:案1", now=clock.now()), limit=2, after=page.next).total == page.total == 5


def test_memory_of_names_is_bounded(
    index: SqliteIndex, log: Any, make: Make, monkeypatch: pytest.MonkeyPatch, clock: Any
) -> None:
    monkeypatch.setattr(names, "_MAX_KNOWN", 30)
    monkeypatch.setattr(names, "_MAX_CHARACTERS", 500)
    for start in range(0, 90, 30):
        log.record(
            [make(number, reason=f"第{number}号线索" * 9, case=f"案{number}") for number in range(start, start + 30)]
        )
        catch_up(index, log)
        held = index._names._known.values(), index._names._values.values()
        assert sum(len(part) for parts in held for part in parts) < 200
    assert compare(index, log)[0] == []
    assert found(index, "第77号", clock) == [77]


def test_more_names_than_a_field_has_numbers(index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(0, case="案1")])
    index._db.execute("INSERT INTO name VALUES (?, 'case', 'the last', 0)", (numbers_of("case")[1],))
    with pytest.raises(SystemPartError, match="different values of case"):
        catch_up(index, log)
    assert (index.position, index.rows(0, 9)) == (0, [])


@pytest.mark.parametrize("table", ["words_content", "named_content"])
@pytest.mark.parametrize("value", ["x'ff00'", "7", "NULL", "'a' || char(0) || 'b'"])
def test_words_of_another_type_are_no_crash(index: SqliteIndex, log: Any, make: Make, table: str, value: str) -> None:
    log.record([make(number, case=f"案{number}", data={"session": f"s-{number}"}) for number in range(5)])
    catch_up(index, log)
    index._db.execute(f"UPDATE {table} SET c0 = {value} WHERE id = (SELECT max(id) FROM {table})")
    findings, counts, *_ = compare(index, log)
    assert findings
    assert counts["altered"]


def test_names_are_forgotten_though_a_load_was_broken_off(
    tmp_path: Path, index: SqliteIndex, log: Any, make: Make
) -> None:
    log.record([make(number, case=f"案{number}") for number in range(5)])
    catch_up(index, log)
    index.prepare(MANY)
    log.bodies[1] = None
    assert index.forget([1]) == 1
    assert ("case", "案1") not in said(tmp_path / "audit.db")
    assert {name for (name,) in index._db.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")} >= set(TREES)
