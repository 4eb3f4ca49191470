from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import pytest

from secguard.core import FixedClock, RefusedError, UsageError
from secguard.events import Actor, Event, Receipt, Result, close_dangling, long_act

CLOCK = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
ACTOR = Actor(name="auditor")


class Memory:
    def __init__(self, refuse: int | None = None) -> None:
        self.events: list[Event] = []
        self._refuse = refuse

    def record(self, events: Sequence[Event]) -> Sequence[Receipt]:
        if len(self.events) == self._refuse:
            raise RefusedError("ledger.full", "the disk is full")
        self.events.extend(events)
        return [Receipt(event.id, 0, b"", "") for event in events]

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def test_both_ends_are_recorded() -> None:
    memory = Memory()
    with long_act(memory, CLOCK, "import", actor=ACTOR, subject="f", case="c", reason="r", sha256="00") as closing:
        assert memory.kinds == ["import.started"]
        closing["lines"] = 3
    started, finished = memory.events
    assert (started.subject, started.case, started.reason, started.data["sha256"]) == ("f", "c", "r", "00")
    assert (finished.kind, finished.outcome) == ("import.finished", Result.SUCCESS)
    assert finished.data == {"act": started.id, "lines": 3}
    assert finished.id != started.id


@pytest.mark.parametrize(
    ("error", "name"),
    [(UsageError("a.b.c", "m"), "a.b.c"), (ValueError("x"), "ValueError"), (KeyboardInterrupt(), "KeyboardInterrupt")],
)
def test_a_broken_act_is_recorded_as_failed(error: BaseException, name: str) -> None:
    memory = Memory()

    def act() -> None:
        with long_act(memory, CLOCK, "scan", actor=ACTOR, subject="p") as closing:
            closing["cases"] = 7
            raise error

    with pytest.raises(type(error)):
        act()
    assert memory.kinds == ["scan.started", "scan.failed"]
    assert memory.events[1].outcome is Result.FAILURE
    assert memory.events[1].data == {"act": memory.events[0].id, "cases": 7, "error": name}


def test_no_start_without_a_record() -> None:
    memory = Memory(refuse=0)
    began = False
    with pytest.raises(RefusedError), long_act(memory, CLOCK, "scan", actor=ACTOR, subject="p"):
        began = True
    assert not began


def test_an_end_that_cannot_be_recorded_is_an_error_and_no_failure_is_claimed() -> None:
    memory = Memory(refuse=1)
    with pytest.raises(RefusedError), long_act(memory, CLOCK, "scan", actor=ACTOR, subject="p"):
        pass
    assert memory.kinds == ["scan.started"]


def test_only_acts_of_dead_processes_are_closed_and_only_once() -> None:
    memory = Memory()
    with long_act(memory, CLOCK, "scan", actor=ACTOR, subject="mine"):
        (mine,) = memory.events
        boot, pid, start = str(mine.data["process"]).split("/")
        marks = [f"{boot}/{pid}/{int(start) + 1}", f"{boot}/999999999/1", f"other/{pid}/{start}", "", "x/y"]
        dead = [msgspec.structs.replace(mine, id=f"dead-{n}", data={"process": mark}) for n, mark in enumerate(marks)]
        assert close_dangling([mine, *dead], memory, CLOCK) == len(dead)
        closed = memory.events[1:]
        assert {event.kind for event in closed} == {"scan.failed"}
        assert [event.data for event in closed] == [{"act": f"dead-{n}", "error": "interrupted"} for n in range(5)]
    assert memory.events[-1].kind == "scan.finished"
    assert memory.events[-1].id not in {event.id for event in closed}
    assert close_dangling([], memory, CLOCK) == 0
