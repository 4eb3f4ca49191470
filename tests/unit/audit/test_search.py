import importlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from index_kit import say

from secguard.audit import Asker, Page, SqliteIndex, by_time, catch_up, parse_field
from secguard.audit import search as answer
from secguard.audit.search.answer import checkpoint_of
from secguard.core import Clock, Outcome, RefusedError, UsageError
from secguard.events import Actor, Event, Receipt

Make = Callable[..., Event]


@pytest.fixture
def search(index: SqliteIndex, log: Any, clock: Clock, auditor: Actor) -> Callable[..., Page]:
    def ask(query: str, **options: Any) -> Page:
        return answer(query, index, log, clock, auditor, **options)

    return ask


def test_an_answer_comes_from_the_ledger_and_says_how_far_it_reaches(search: Any, log: Any, make: Make) -> None:
    log.record([make(0), make(1, actor=Actor(name="李四"), data={"bytes": 7})])
    page = search("李四", wait=True, case="案9", reason="月查")
    assert (page.total, page.position, page.size, page.checkpoint) == (1, 2, 2, None)
    assert page.outcome is Outcome.PASS
    (hit,) = page.hits
    assert (hit.index, hit.event) == (1, log.event(1))
    document = hit.document()
    assert document["ledger_index"] == 1
    assert document["actor"] == {"name": "李四"}
    assert document["data"] == {"bytes": 7}
    asked = log.event(page.recorded)
    assert (asked.kind, asked.actor.name, asked.case, asked.reason) == ("audit.searched", "auditor", "案9", "月查")
    assert asked.data == {"query": "李四", "total": 1, "shown": 1, "after": None, "position": 2}


def test_a_search_does_not_make_the_next_one_inconclusive(search: Any, log: Any, make: Make) -> None:
    log.record([make(0)])
    search("", wait=True)
    page = search("kind:audit.searched")
    assert page.outcome is Outcome.PASS
    assert (page.total, page.position, page.size) == (1, 2, 2)


def test_an_index_behind_is_inconclusive_until_one_waits(search: Any, log: Any, make: Make) -> None:
    log.record([make(0), make(1)])
    page = search("核查")
    assert (page.total, page.outcome) == (0, Outcome.UNKNOWN)
    (found,) = page.findings
    assert found.code == "audit.index.behind"
    assert (found.data["position"], found.data["size"], found.data["behind"]) == (0, 2, 2)
    assert search("核查", wait=True).total == 2


def test_the_question_is_recorded_before_the_answer(search: Any, log: Any, make: Make) -> None:
    log.record([make(0)])

    def refuse(events: Sequence[Event]) -> Sequence[Receipt]:
        raise RefusedError("ledger.full", "the disk is full")

    log.record = refuse
    with pytest.raises(RefusedError, match="disk is full"):
        search("核查", wait=True)


def test_pages_hold_still_while_events_arrive(search: Any, log: Any, make: Make) -> None:
    log.record([make(number) for number in range(7)])
    first = search("张三", wait=True, limit=3)
    log.record([make(100), make(101, time=make(3).time + timedelta(seconds=1))])
    second = search("张三", wait=True, limit=3, after=first.next)
    third = search("张三", limit=3, after=second.next)
    assert [hit.index for page in (first, second, third) for hit in page.hits] == [6, 5, 4, 3, 2, 1, 0]
    assert [page.total for page in (first, second, third)] == [7, 7, 7]
    assert third.next is None
    assert search("张三", limit=100).total == 9


def test_newest_first_by_claimed_time(search: Any, log: Any, make: Make) -> None:
    log.record([make(number) for number in (5, 1, 9)])
    assert [hit.event.id for hit in search("", wait=True).hits] == ["e-9", "e-5", "e-1"]


def test_a_row_changed_to_be_found_is_named(search: Any, index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(0), make(1, actor=Actor(name="李四"))])
    catch_up(index, log)
    say(index._db, 0, "actor", "李四")
    page = search("actor:李四")
    assert [hit.event.id for hit in page.hits] == ["e-1"]
    assert page.outcome is Outcome.FAIL
    (found,) = page.findings
    assert (found.code, found.data["id"]) == ("audit.index.altered", "e-0")


def test_a_row_without_an_event_is_named(search: Any, index: SqliteIndex, log: Any, make: Make) -> None:
    log.record([make(0)])
    catch_up(index, log)
    index._db.execute("UPDATE event SET seq = 99")
    index._db.execute("UPDATE meta SET position = 100")
    page = search("seq:99")
    assert page.hits == ()
    assert {item.code for item in page.findings} == {"audit.index.altered", "audit.index.ahead"}


def test_a_search_does_not_find_earlier_searches_by_their_words(search: Any, log: Any, make: Make) -> None:
    log.record([make(0)])
    assert [search("核查", wait=True).total for _ in range(3)] == [1, 1, 1]
    assert search("kind:audit.searched").total == 3


def test_limits_and_cursors_are_checked_before_anything_is_recorded(search: Any, log: Any) -> None:
    for options in ({"limit": 0}, {"limit": 10_001}, {"after": "x"}):
        with pytest.raises(UsageError):
            search("", **options)
    with pytest.raises(UsageError):
        search("(")
    assert log.size == 0


def test_the_checkpoint_is_told(log: Any) -> None:
    log.checkpoint = lambda: b"test.example/log\n12\ncm9vdA==\n\n\xe2\x80\x94 test.example/log c2ln\n"
    assert checkpoint_of(log) == {"origin": "test.example/log", "size": 12, "root": "cm9vdA=="}


def test_pages_are_plain_data(search: Any) -> None:
    assert msgspec.to_builtins(search(""))["total"] == 0


def test_counts_by_field_are_recorded_first(
    index: SqliteIndex, log: Any, clock: Clock, auditor: Actor, make: Make
) -> None:
    log.record([make(n, actor=Actor(name="张三" if n % 3 else "李四"), case="案7" if n == 4 else "") for n in range(9)])
    asker = Asker(index, log, clock, auditor, wait=True, case="案9", reason="月查")
    assert parse_field("User.Name") == parse_field("actor"), "the names of queries"
    counts = asker.count("kind:video.viewed", parse_field("actor"), limit=1)
    assert (counts.by, counts.groups, counts.distinct, counts.total) == ("actor", (("张三", 6),), 2, 9)
    assert (counts.position, counts.size, counts.checkpoint, counts.outcome) == (9, 9, None, Outcome.PASS)
    asked = log.event(counts.recorded)
    assert (asked.kind, asked.case, asked.reason) == ("audit.searched", "案9", "月查")
    assert asked.data == {"query": "kind:video.viewed", "total": 9, "shown": 0, "by": "actor", "position": 9}
    assert asker.count("kind:video.viewed", parse_field("case")).groups == (("", 8), ("案7", 1))
    assert Asker(index, log, clock, auditor).count("不存在", parse_field("case")).groups == ()


def test_a_histogram_counts_local_days_and_shows_empty_ones(
    index: SqliteIndex, log: Any, clock: Clock, auditor: Actor, make: Make
) -> None:
    days = [timedelta(), timedelta(hours=15, minutes=59), timedelta(hours=16), timedelta(days=3), timedelta(days=31)]
    log.record([make(n, time=make(0).time + day) for n, day in enumerate(days)])
    shanghai = timezone(timedelta(hours=8))
    asker = Asker(index, log, clock, auditor, wait=True, zone=shanghai)
    everything = "kind:video.viewed"
    counts = asker.count(everything, by_time("day", shanghai))
    assert counts.groups[:4] == (("2026-10-01", 2), ("2026-10-02", 1), ("2026-10-03", 0), ("2026-10-04", 1))
    assert (counts.groups[-1], len(counts.groups), counts.distinct) == (("2026-11-01", 1), 32, 4)
    assert asker.count(everything, by_time("month", shanghai)).groups == (("2026-10", 4), ("2026-11", 1))
    hours = asker.count(f"{everything} time:2026-10-01", by_time("hour", shanghai)).groups
    assert (hours[0], hours[-1], len(hours)) == (("2026-10-01T08:00", 1), ("2026-10-01T23:00", 1), 16)


def test_times_at_the_ends_of_the_calendar_are_counted(
    index: SqliteIndex, log: Any, clock: Clock, auditor: Actor, make: Make
) -> None:
    log.record([make(0, time=datetime(1, 1, 1, tzinfo=UTC)), make(1, time=datetime(9999, 12, 31, 23, tzinfo=UTC))])
    for hours, unit, named in (
        (-8, "month", ("0000-12", "9999-12")),
        (8, "month", ("0001-01", "10000-01")),
        (-8, "day", ("0000-12-31", "9999-12-31")),
        (0, "hour", ("0001-01-01T00:00", "9999-12-31T23:00")),
    ):
        by = by_time(unit, timezone(timedelta(hours=hours)))  # type: ignore[arg-type]
        asker = Asker(index, log, clock, auditor, wait=True)
        assert asker.count("kind:video.viewed", by).groups == tuple((name, 1) for name in named)


def test_too_many_groups_are_refused(  # noqa: PLR0917 - fixtures
    index: SqliteIndex, log: Any, clock: Clock, auditor: Actor, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.record([make(n, subject=f"{n}") for n in range(5)])
    for module in ("secguard.audit.query.groups", "secguard.audit.index.counts"):
        monkeypatch.setattr(f"{module}.MAX_GROUPS", 3)
    asker = Asker(index, log, clock, auditor, wait=True)
    with pytest.raises(UsageError, match="more than 3 different values"):
        asker.count("", parse_field("subject"))
    for name in ("id", "time", "reason", "", "x" * 100):
        with pytest.raises(UsageError, match="cannot count by"):
            parse_field(name)


def test_all_pages_are_one_view_and_every_event_is_checked(  # noqa: PLR0917 - fixtures
    index: SqliteIndex, log: Any, clock: Clock, auditor: Actor, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("secguard.audit.search.answer"), "_WALK", 4)
    log.record([make(n) for n in range(10)])
    asker = Asker(index, log, clock, auditor, wait=True)
    answer = asker.all("kind:video.viewed")
    asked = log.event(answer.recorded)  # before a single event is handed over
    assert asked.data == {"query": "kind:video.viewed", "total": 10, "shown": "all", "position": 10}
    seen = [next(answer.hits).index]
    log.record([make(99)])
    catch_up(index, log)
    index._db.execute("UPDATE event SET kind = 'video.played' WHERE seq = 1")
    seen += [hit.index for hit in answer.hits]
    assert seen == [9, 8, 7, 6, 5, 4, 3, 2, 0]
    assert answer.outcome is Outcome.PASS  # a row changed to be missed shows in reconcile
    index._db.execute("UPDATE event SET kind = 'video.viewed' WHERE seq = 1")
    say(index._db, 1, "actor", "x")
    answer = asker.all("actor:x")
    assert list(answer.hits) == []
    assert [item.code for item in answer.findings] == ["audit.index.altered"]
    assert list(asker.all("不存在").hits) == []


def test_what_was_deleted_by_policy_is_said(search: Any, log: Any, make: Make) -> None:
    log.record([make(0), make(1)])
    search("", wait=True)
    log.bodies[1] = None
    page = search("kind:video.viewed")
    assert (page.total, [hit.index for hit in page.hits], page.pruned) == (2, [0], 1)
    assert [item.code for item in page.findings] == ["audit.index.kept"]
