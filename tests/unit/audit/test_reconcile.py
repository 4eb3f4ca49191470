import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from index_kit import copy, say

from secguard.audit import Damage, Reconciled, SqliteIndex, catch_up, compare, reindex, search
from secguard.audit import reconcile as judge_index
from secguard.audit.index.directory import directory_is_sound
from secguard.audit.index.rows import COLUMNS
from secguard.audit.index.tables import LISTS, NAMED, quoted
from secguard.core import Axis, Clock, Outcome, RefusedError, SystemPartError, finding
from secguard.core.findings import describe
from secguard.events import Actor, Event, Result
from secguard.ledger.note import Checkpoint
from secguard.ledger.witness import Compared, Seen

Make = Callable[..., Event]


@pytest.fixture
def reconcile(index: SqliteIndex, log: Any, clock: Clock, auditor: Actor, make: Make) -> Callable[[], Reconciled]:
    log.record([make(number, data={"session": f"s-{number}"}) for number in range(10)])
    catch_up(index, log)
    return lambda: judge_index(index, log, clock, auditor)


def named(done: Reconciled) -> list[tuple[str, int, str]]:
    return [(item.code, item.data["index"], item.data["id"]) for item in done.verdict.findings if "index" in item.data]


def test_an_index_that_agrees(reconcile: Any, log: Any, index: SqliteIndex) -> None:
    done = reconcile()
    assert done.verdict.outcome is Outcome.PASS
    assert (done.size, done.position, done.missing, done.extra, done.altered) == (10, 10, 0, 0, 0)
    event = log.event(done.recorded)
    assert (event.kind, event.outcome, event.subject) == ("audit.reconciled", Result.SUCCESS, log.origin)
    assert index.position == log.size == 11
    assert reconcile().verdict.outcome is Outcome.PASS


def test_what_witnesses_remember_decides_too(
    reconcile: Any, log: Any, index: SqliteIndex, clock: Clock, auditor: Actor
) -> None:
    assert reconcile().witnesses == {}
    seen = [Seen("witness.example/w1", Checkpoint(log.origin, 9, b"\0" * 32), b"")]
    done = judge_index(index, log, clock, auditor, witnessed=Compared(seen, []))
    assert (done.verdict.outcome, done.witnesses) == (Outcome.PASS, {"witness.example/w1": 9})
    assert log.event(done.recorded).data["witnesses"] == {"witness.example/w1": 9}
    for code, outcome in (("ledger.witness.ahead", Outcome.FAIL), ("ledger.witness.silent", Outcome.UNKNOWN)):
        catch_up(index, log)
        said = finding(code, "witness.example/w1", size=900, have=log.size, reason="it does not answer")
        done = judge_index(index, log, clock, auditor, witnessed=Compared(seen, [said]))
        assert (done.verdict.outcome, [item.code for item in done.verdict.findings]) == (outcome, [code])


def test_a_deleted_row(reconcile: Any, index: SqliteIndex, log: Any) -> None:
    index._db.execute("DELETE FROM event WHERE seq = 4")
    index._db.execute("DELETE FROM words WHERE rowid = 4")
    done = reconcile()
    assert named(done) == [("audit.index.missing", 4, "e-4")]
    assert (done.missing, done.extra, done.altered) == (1, 0, 0)
    assert done.verdict.axes[Axis.COMPLETENESS] is Outcome.FAIL
    assert log.event(done.recorded).data["missing"] == 1


def test_an_added_row(reconcile: Any, index: SqliteIndex) -> None:
    for seq in (10, 77, -1):
        copy(index._db, 0, seq, "forged")
    done = reconcile()
    assert sorted(named(done)) == [("audit.index.extra", seq, "forged") for seq in (-1, 10, 77)]
    assert (done.missing, done.extra, done.altered) == (0, 3, 0)


def test_what_another_process_indexes_meanwhile_is_no_extra_row(
    index: SqliteIndex, log: Any, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stray, forged = index.stray, False
    log.record([make(number) for number in range(10)])
    catch_up(index, log)

    def meanwhile(stop: int) -> Any:
        log.record([make(100 + log.size)])
        with contextlib.closing(SqliteIndex.open(tmp_path / "audit.db")) as other:
            catch_up(other, log)
        if forged:
            say(index._db, log.size - 1, "actor", "forged")
        return stray(stop)

    monkeypatch.setattr(index, "stray", meanwhile)
    assert compare(index, log)[:2] == ([], {"missing": 0, "extra": 0, "altered": 0})
    forged = True
    assert compare(index, log)[1]["extra"] == 1


def test_an_index_that_is_begun_anew_meanwhile(
    reconcile: Any, index: SqliteIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage = index.damage
    monkeypatch.setattr(index, "damage", lambda: (damage(), index.clear())[0])
    done = reconcile()
    assert done.verdict.outcome is Outcome.UNKNOWN
    assert [item.code for item in done.verdict.findings] == ["audit.index.rebuilt"]


def test_rows_that_come_again_while_the_index_is_built_anew_are_not_missing(
    reconcile: Any, log: Any, index: SqliteIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun anew after the position was read, and as far as before when all was compared."""
    rows = index.rows
    index_anew = iter([index.clear])
    monkeypatch.setattr(index, "rows", lambda start, stop: (next(index_anew, bool)(), rows(start, stop))[1])
    monkeypatch.setattr(index, "stray", lambda stop: catch_up(index, log) and [])
    done = reconcile()
    assert [item.code for item in done.verdict.findings] == ["audit.index.rebuilt"]
    assert done.verdict.outcome is Outcome.UNKNOWN
    monkeypatch.undo()
    catch_up(index, log)
    assert reconcile().verdict.outcome is Outcome.PASS


def test_a_row_of_a_pruned_body_is_named(reconcile: Any, log: Any, index: SqliteIndex) -> None:
    log.bodies[3] = None
    done = reconcile()
    assert named(done) == [("audit.index.kept", 3, "e-3")]
    assert (done.extra, done.verdict.outcome) == (1, Outcome.FAIL)
    assert index.forget([3, 99]) == 1
    assert compare(index, log)[1] == {"missing": 0, "extra": 0, "altered": 0}


@pytest.mark.parametrize("column", [name for name in COLUMNS if name not in {"seq", "reasoned", "data"}])
def test_each_edited_column(reconcile: Any, index: SqliteIndex, column: str) -> None:
    if column in NAMED:
        say(index._db, 6, column, "x")
    else:
        value = {"time": 1, "digest": b"\0" * 32}.get(column, "x")
        index._db.execute(f"UPDATE event SET {column} = ? WHERE seq = 6", (value,))
    done = reconcile()
    assert named(done) == [("audit.index.altered", 6, "x" if column == "nothing" else "e-6")]
    (found,) = done.verdict.findings
    assert found.data["columns"] == column
    assert "e-6" in describe(found)
    assert "e-6" in describe(found, "zh")


def test_edited_words(reconcile: Any, index: SqliteIndex) -> None:
    index._db.execute("UPDATE words SET text = 'x' WHERE rowid = 6")
    done = reconcile()
    assert named(done) == [("audit.index.altered", 6, "e-6")]
    assert done.verdict.findings[0].data["columns"] == "data"


@pytest.mark.parametrize("field", NAMED)
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE name SET value = 'x' WHERE id = {number}",
        "UPDATE name SET field = 'ghost' WHERE id = {number}",
        "DELETE FROM name WHERE id = {number}",
        "UPDATE event SET {column} = 999999 WHERE seq = 6",
        "UPDATE event SET {column} = (SELECT max(id) FROM name WHERE field <> '{field}') WHERE seq = 6",
        "DELETE FROM named WHERE rowid = {number}",
        "UPDATE named SET text = 'x' WHERE rowid = {number}",
        "UPDATE named_content SET c0 = 'x' WHERE id = {number}",
        "DELETE FROM named_content WHERE id = {number}",
    ],
)
def test_a_name_that_is_not_what_events_say(
    told_apart: SqliteIndex, log: Any, tmp_path: Path, change: str, field: str
) -> None:
    """Whoever changes a name changes what many events seem to say, or hides them from a search for its words."""
    value = getattr(told_apart.rows(6, 7)[0], field)
    with contextlib.closing(sqlite3.connect(tmp_path / "audit.db")) as db:
        (number,) = db.execute("SELECT id FROM name WHERE field = ? AND value = ?", (field, value)).fetchone()
        db.execute(change.format(number=number, column=quoted(field), field=field))
        db.commit()
    findings, counts, *_ = compare(told_apart, log)
    assert [item.data["id"] for item in findings if item.code == "audit.index.altered"] == ["e-6"], "who says it"
    assert counts == {"missing": 0, "extra": 0, "altered": 1}


@pytest.fixture
def told_apart(log: Any, make: Make, index: SqliteIndex) -> SqliteIndex:
    """Each event says other things in all its fields."""
    log.record([make(number, **_one_of_its_own(number)) for number in range(10)])
    catch_up(index, log)
    assert compare(index, log)[0] == []
    return index


def _one_of_its_own(number: int) -> dict[str, Any]:
    who = Actor(name=f"张{number}", role=f"侦查员{number}", org=f"支队{number}", address=f"10.0.0.{number}")
    return {
        "actor": who, "subject": f"3201160000131000{number:04d}", "case": f"案{number}", "approver": f"李{number}",
        "reason": f"核查第{number}号线索",
    }  # fmt: skip


@pytest.mark.parametrize("field", NAMED)
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE name SET uses = uses + 1 WHERE field = '{field}'",
        "UPDATE name SET uses = 0 WHERE id = (SELECT max({column}) FROM event)",
        "INSERT INTO name SELECT max(id) + 1, field, 'nobody', 1 FROM name WHERE field = '{field}'",
    ],
)
def test_names_that_are_counted_wrongly(told_apart: SqliteIndex, log: Any, change: str, field: str) -> None:
    """A search believes the counts where names of one field are all that it asks for."""
    told_apart._db.execute(change.format(column=quoted(field), field=field))
    problems = [item.data.get("problem", "") for item in compare(told_apart, log)[0]]
    assert f"how many events say each name is counted wrongly: {field}" in problems


def test_lists_of_words_that_belong_to_no_name(reconcile: Any, index: SqliteIndex) -> None:
    index._db.execute("INSERT INTO named (rowid, text) VALUES (900, 'x')")
    done = reconcile()
    assert [item.code for item in done.verdict.findings] == ["audit.index.damaged"]
    assert done.verdict.outcome is Outcome.FAIL


def test_words_without_a_row_and_a_row_without_words(reconcile: Any, index: SqliteIndex) -> None:
    index._db.execute("DELETE FROM words WHERE rowid = 2")
    index._db.execute("DELETE FROM event WHERE seq = 3")
    index._db.execute("INSERT INTO words (rowid, text) VALUES (50, 'x')")
    assert sorted(named(reconcile())) == [
        ("audit.index.altered", 2, "e-2"),
        ("audit.index.extra", 50, ""),
        ("audit.index.missing", 3, "e-3"),
    ]


def test_inverted_lists_that_do_not_hold_the_words(reconcile: Any, index: SqliteIndex) -> None:
    (text,) = index._db.execute("SELECT c0 FROM words_content WHERE id = 5").fetchone()
    index._db.execute("UPDATE words SET text = 'x' WHERE rowid = 5")
    index._db.execute("UPDATE words_content SET c0 = ? WHERE id = 5", (text,))
    done = reconcile()
    assert named(done) == [("audit.index.altered", 5, "e-5")]
    assert {item.code for item in done.verdict.findings} == {"audit.index.altered", "audit.index.damaged"}
    assert done.altered == 1


def test_lost_lists_and_changed_definitions(reconcile: Any, index: SqliteIndex) -> None:
    index._db.execute("DELETE FROM words_data")
    index._db.execute("DROP INDEX event_actor")
    done = reconcile()
    problems = [item.data["problem"] for item in done.verdict.findings if item.code == "audit.index.damaged"]
    assert any("event_actor" in text for text in problems)
    assert len(problems) == 2
    assert done.verdict.outcome is Outcome.FAIL


def test_behind_is_no_alteration(reconcile: Any, log: Any, make: Make, index: SqliteIndex) -> None:
    log.record([make(20), make(21)])
    done = reconcile()
    assert done.verdict.outcome is Outcome.UNKNOWN
    (found,) = done.verdict.findings
    assert (found.code, found.data["behind"]) == ("audit.index.behind", 2)
    assert log.event(done.recorded).outcome is Result.UNKNOWN
    assert index.position == 10


def test_a_ledger_that_lost_its_newest_events(reconcile: Any, log: Any) -> None:
    del log.bodies[8:]
    done = reconcile()
    assert {item.code for item in done.verdict.findings} == {"audit.index.ahead", "audit.index.extra"}
    assert sorted(named(done)) == [("audit.index.extra", 8, "e-8"), ("audit.index.extra", 9, "e-9")]


def test_counts_are_complete_where_the_list_is_not(
    reconcile: Any, index: SqliteIndex, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secguard.audit.reconciliation.MAX_NAMED", 3)
    index._db.execute("DELETE FROM event")
    index._db.execute("DELETE FROM words")
    findings, counts, position, size = compare(index, log)
    assert (len(findings), counts["missing"], position, size) == (3, 10, 10, 10)


def test_an_interrupt_does_not_wait_for_the_check_of_the_structure(
    reconcile: Any, index: SqliteIndex, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = threading.Event()

    def damage() -> Damage:
        checked.wait(60)
        return Damage([], [])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "damage", damage)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        compare(index, log, interrupt)
    assert time.monotonic() - began < 30
    checked.set()


def test_a_check_that_fails_is_an_error(
    reconcile: Any, index: SqliteIndex, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage() -> Damage:
        raise SystemPartError("audit.index.busy", "another process writes the index")

    monkeypatch.setattr(index, "damage", damage)
    with pytest.raises(SystemPartError, match="another process"):
        compare(index, log)


@pytest.fixture
def many(index: SqliteIndex, log: Any, make: Make) -> SqliteIndex:
    """An index whose full-text lists have many pages, several of which begin with no word."""
    for table in LISTS:
        index._db.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('pgsz', 100)")
    for start in range(0, 90, 30):
        texts = {number: f"w{number * 37 % 89} 抓捕 common{number}" for number in range(start, start + 30)}
        log.record([make(number, reason=text, data={"note": text}) for number, text in texts.items()])
        catch_up(index, log)
    assert index.damage() == Damage([], [])
    return index


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM words_idx",
        "DELETE FROM words_idx WHERE pgno >> 1 = 4",
        "UPDATE words_idx SET term = x'30' WHERE pgno >> 1 = 4",
        "UPDATE words_idx SET term = CAST(term AS TEXT) WHERE pgno >> 1 = 4",
        "UPDATE words_idx SET pgno = pgno + 2 WHERE pgno >> 1 = 4",
        "INSERT INTO words_idx SELECT segid, x'30ff', 2 FROM words_idx LIMIT 1",
    ],
)
@pytest.mark.parametrize("table", LISTS)
def test_a_directory_of_words_that_hides_some(many: SqliteIndex, log: Any, change: str, table: str) -> None:
    """SQLite's own check passes most of these, and words are not found any more."""
    many._db.execute(change.replace("words", table))
    findings, *_ = compare(many, log)
    assert any(item.code == "audit.index.damaged" and "directory" in describe(item) for item in findings)


def test_the_directory_stays_sound_through_merges_and_deletions(many: SqliteIndex) -> None:
    luck = random.Random(3)
    for turn in range(150):
        with many._db:
            many._db.execute("BEGIN")
            for row in range(luck.randint(1, 12)):
                words = " ".join(f"w{luck.randint(0, 900)}" for _ in range(8))
                many._db.execute(
                    "INSERT INTO words (rowid, text) VALUES (?, ?)", (turn * 50 + row + 999, f"{words} a b")
                )
            many._db.execute("DELETE FROM words WHERE rowid = ?", (luck.randint(0, turn * 50 + 999),))
        if turn % 5 == 0:
            many._db.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (luck.choice([-5, 3, 20]),))
        assert directory_is_sound(many._db, "words")


def test_the_directory_of_words_that_share_more_than_127_bytes(index: SqliteIndex) -> None:
    luck = random.Random(5)
    with index._db:
        index._db.execute("BEGIN")
        for row in range(120):
            long = luck.choice("ab") * luck.choice([3, 126, 127, 128, 129, 300])
            words = " ".join(long + "".join(luck.choices("xyz", k=luck.randint(1, 200))) for _ in range(4))
            index._db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (row, words))
    places = [place for (place,) in index._db.execute("SELECT pgno FROM words_idx WHERE term > x'30'")]
    assert len(places) > 10
    assert directory_is_sound(index._db, "words")
    for place in places:
        (term,) = index._db.execute("SELECT term FROM words_idx WHERE pgno = ?", (place,)).fetchone()
        for wrong in (term[:-1] + bytes([term[-1] + 1]), term[:-1]):
            index._db.execute("UPDATE words_idx SET term = ? WHERE pgno = ?", (wrong, place))
            assert directory_is_sound(index._db, "words") is False
        index._db.execute("UPDATE words_idx SET term = ? WHERE pgno = ?", (term, place))
    assert directory_is_sound(index._db, "words")


def test_an_index_of_another_log(reconcile: Any, index: SqliteIndex, log: Any, clock: Clock, auditor: Actor) -> None:
    for name in ("'other.example/log'", "NULL"):
        index._db.execute(f"UPDATE meta SET origin = {name}")
        for act in (reconcile, lambda: search("*", index, log, clock, auditor)):
            with pytest.raises(RefusedError) as caught:
                act()
            assert caught.value.code == "audit.index.foreign"


@pytest.mark.parametrize(
    "change",
    ["DROP TABLE event", "DROP TABLE words", "DROP TABLE name", "DROP TABLE named", "DROP TABLE meta",
     "DELETE FROM meta", "PRAGMA user_version = 0", "PRAGMA user_version = 7",
     "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM event; END"],
)  # fmt: skip
def test_reindex_mends_whatever_was_done_to_the_tables(log: Any, make: Make, tmp_path: Path, change: str) -> None:
    log.record([make(number) for number in range(10)])
    path = tmp_path / "broken.db"
    SqliteIndex.open(path).close()
    database = sqlite3.connect(path)
    database.execute(change)
    database.commit()
    database.close()
    with contextlib.closing(SqliteIndex.open(path, rebuild=True)) as index:
        assert reindex(index, log) == 10
        assert compare(index, log)[0] == []
