import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secguard.audit import SqliteIndex, catch_up, parse, reindex, row_of, rows_of
from secguard.audit.index.rows import Row
from secguard.audit.index.words import phrase_of
from secguard.audit.query.query import All, Words
from secguard.core import Clock, FormatError, RefusedError, SystemPartError
from secguard.events import Actor, Event, encode

Make = Callable[..., Event]


def find(index: SqliteIndex, word: str) -> list[int]:
    phrase = phrase_of(word)
    assert phrase is not None
    return list(index.find(Words("text", phrase), limit=100).seqs)


def test_a_row_can_be_computed_from_the_body(make: Make) -> None:
    event = make(
        3,
        actor=Actor(name="张三", role="侦查员", org="刑侦", address="10.0.0.1"),
        case="案1",
        approver="李队",
        data={"a": [1, "下载"], "b": {"c": True, "d": None, "e": 2.5}},
        subject="s\0t",
    )
    row = row_of(7, encode(event))
    assert row[:4] == (7, "e-3", "video.viewed", 1_790_812_980_000_000)
    assert row[4:13] == ("张三", "侦查员", "刑侦", "10.0.0.1", "s\ufffdt", "案1", "李队", "success", 1)
    assert row.reason == "核查 查 case"
    assert row.text.split(" ␟ ")[-3:] == ["1", "下载 载", "2 5"]
    with pytest.raises(FormatError):
        row_of(0, b"{}")


def test_pruned_bodies_have_no_row(make: Make) -> None:
    assert [row.seq for row in rows_of(5, [encode(make(0)), None, encode(make(1))])] == [5, 7]


_WORDS = ["核", "案", "案件", "李四", "下载录像", "录像", "像", "LI", "gb28181", "２０２６", "李四 LI", "四"]


@pytest.mark.parametrize("word", _WORDS)
def test_words_of_any_length_are_found(index: SqliteIndex, log: Any, make: Make, word: str) -> None:
    log.record(
        [
            make(0, reason="无关"),
            make(1, actor=Actor(name="李四 Li"), case="案件2026", reason="核查下载录像 GB28181"),
            make(2, reason="无关", actor=Actor(name="王五")),
        ]
    )
    catch_up(index, log)
    assert find(index, word) == [1]


def test_catch_up_goes_on_from_the_position(index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(number) for number in range(5)])
    calls: list[tuple[int, int | None, str]] = []
    assert catch_up(index, log, lambda *call: calls.append(call)) == 5
    assert calls[-1] == (5, 5, "events")
    assert (index.position, index.origin) == (5, log.origin)
    assert catch_up(index, log) == 0
    log.record([make(9)])
    assert catch_up(index, log) == 1
    assert [row.seq for row in index.rows(0, 99)] == [0, 1, 2, 3, 4, 5]


def test_many_transactions(index: SqliteIndex, log: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secguard.audit.index.following._BATCH", 4)
    log.record([make(number) for number in range(11)])
    log.bodies[6] = None
    catch_up(index, log)
    assert index.position == 11
    assert index.rows(0, 11) == rows_of(0, log.bodies)


def test_two_processes_index_at_once(index: SqliteIndex, log: Any, make: Make, tmp_path: Path) -> None:
    log.record([make(number) for number in range(8)])
    other = SqliteIndex.open(tmp_path / "audit.db")
    scan = log.scan

    def interrupted(start: int, stop: int) -> Iterator[tuple[int, list[bytes | None]]]:
        log.scan = scan
        catch_up(other, log)  # the other process is faster
        yield from scan(start, stop)

    log.scan = interrupted
    assert catch_up(index, log) == 8
    assert [row.seq for row in index.rows(0, 99)] == list(range(8))
    other.close()


def test_an_index_of_another_log_or_ahead_of_its_log(index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(0), make(1)])
    catch_up(index, log)
    log.bodies.pop()
    with pytest.raises(RefusedError, match="knows 2 events, the ledger holds 1") as caught:
        catch_up(index, log)
    assert caught.value.code == "audit.index.ahead"
    log.origin = "other.example/log"
    with pytest.raises(RefusedError, match=r"belongs to the log test\.example"):
        catch_up(index, log)


def test_a_row_where_none_should_be(index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(0, data={"session": "s"})])
    index._db.execute("INSERT INTO words (rowid, text) VALUES (0, '')")
    with pytest.raises(RefusedError, match="rows stand in the index"):
        catch_up(index, log)
    assert (index.position, index.rows(0, 9)) == (0, [Row.blank(0)])


def test_reindex_forgets_everything_else(index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(0), make(1)])
    catch_up(index, log)
    index._db.executescript(
        "CREATE TABLE more (a); CREATE VIEW seen AS SELECT 1; DROP INDEX event_time;"
        "CREATE TRIGGER hide AFTER INSERT ON event BEGIN DELETE FROM event WHERE seq = NEW.seq; END;"
    )
    assert len(index.damage().problems) == 4
    assert reindex(index, log) == 2
    assert index.damage() == ([], [])
    assert index.rows(0, 9) == rows_of(0, log.bodies)


def test_a_file_that_is_no_index(tmp_path: Path, log: Any, make: Make) -> None:
    path = tmp_path / "index" / "audit.db"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(FormatError):
        SqliteIndex.open(path)
    index = SqliteIndex.open(path, rebuild=True)
    log.record([make(0)])
    assert reindex(index, log) == 1
    index._db.execute("PRAGMA user_version=99")
    index.close()
    with pytest.raises(RefusedError, match="schema 99"):
        SqliteIndex.open(path)
    SqliteIndex.open(path, rebuild=True).close()


def test_damage_is_one_clear_error(index: SqliteIndex, log: Any, make: Make, clock: Clock) -> None:
    log.record([make(0)])
    catch_up(index, log)
    index._db.execute("DELETE FROM words_data")
    with pytest.raises(FormatError, match="the index is damaged") as caught:
        find(index, "核查")
    assert "reindex" in caught.value.hint
    index._db.execute("DROP TABLE event")
    with pytest.raises(SystemPartError, match="no such table") as failed:
        index.find(parse("actor:x", now=clock.now()), limit=1)
    assert "reindex" in failed.value.hint
    index._db.execute("DELETE FROM meta")
    with pytest.raises(FormatError, match="lost its position"):
        _ = index.position


def test_an_interrupt_stops_a_query(index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(number) for number in range(50)])
    catch_up(index, log)

    def interrupt() -> int:
        raise KeyboardInterrupt

    index._db.set_progress_handler(interrupt, 10)
    with pytest.raises(KeyboardInterrupt):
        index.find(All(), limit=1)
    with pytest.raises(KeyboardInterrupt):
        index.check("trees")


def test_a_reader_meanwhile_sees_the_old_state(index: SqliteIndex, log: Any, make: Make, tmp_path: Path) -> None:
    log.record([make(0)])
    catch_up(index, log)
    writer = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM event")
    assert index.find(All(), limit=1).total == 1
    writer.execute("COMMIT")
    writer.close()
    assert index.find(All(), limit=1).total == 0


def test_forged_statistics_do_not_slow_a_comparison(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    SqliteIndex.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("ANALYZE")
        db.executemany(
            "INSERT INTO sqlite_stat1 VALUES (?, ?, '1 1')", [("event", "event_time"), ("words_content", None)]
        )
        db.commit()
    asked: list[str] = []
    with contextlib.closing(SqliteIndex.open(path)) as index:
        index._db.set_trace_callback(asked.append)
        index.rows(1, 10)
        index._db.set_trace_callback(None)
        for query in (text for text in asked if "BETWEEN" in text):
            plan = [row[3] for row in index._db.execute(f"EXPLAIN QUERY PLAN {query}")]
            assert [step for step in plan if step.startswith("SCAN")] == [], "never the whole table for each row"
