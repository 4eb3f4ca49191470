from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from secguard.audit import Page, SqliteIndex, catch_up
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
    index._db.execute("UPDATE event SET actor = '李四' WHERE seq = 0")
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
