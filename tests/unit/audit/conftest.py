"""A log in memory (the real one is used in tests/integration/audit), an index on disk, and events to fill them."""

import hashlib
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from secguard.audit import SqliteIndex
from secguard.core import FixedClock
from secguard.events import Actor, Event, Receipt, decode_stored, encode

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))


class MemoryLog:
    """What audit needs of a ledger, without a disk."""

    origin = "test.example/log"

    def __init__(self) -> None:
        self.bodies: list[bytes | None] = []
        self.places: dict[str, int] = {}
        self.batch = 3

    @property
    def size(self) -> int:
        return len(self.bodies)

    def record(self, events: Sequence[Event]) -> Sequence[Receipt]:
        receipts = []
        for event in events:
            place = self.places.get(event.id)
            duplicate = place is not None
            if place is None:
                place = self.places[event.id] = len(self.bodies)
                self.bodies.append(encode(event))
            body = self.bodies[place] or b""
            receipts.append(Receipt(event.id, place, hashlib.sha256(body).digest(), self.origin, duplicate))
        return receipts

    def scan(self, start: int, stop: int) -> Iterator[tuple[int, Sequence[bytes | None]]]:
        for first in range(start, stop, self.batch):
            yield first, self.bodies[first : min(stop, first + self.batch)]

    def event(self, index: int) -> Event:
        body = self.bodies[index]
        assert body is not None
        return decode_stored(body)

    def checkpoint(self) -> bytes | None:
        return None


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def index(tmp_path: Path) -> Generator[SqliteIndex]:
    opened = SqliteIndex.open(tmp_path / "audit.db")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 11, 1, 8, tzinfo=UTC))


@pytest.fixture
def auditor() -> Actor:
    return Actor(name="auditor")


@pytest.fixture
def make() -> Callable[..., Event]:
    """Make an event; what is not named is ordinary."""

    def event(number: int = 0, **values: object) -> Event:
        defaults: dict[str, object] = {
            "id": f"e-{number}",
            "kind": "video.viewed",
            "time": datetime(2026, 10, 1, tzinfo=UTC) + timedelta(minutes=number),
            "actor": Actor(name="张三", role="侦查员", org="刑侦支队", address="10.16.0.7"),
            "subject": "32011600001310000001",
            "reason": "核查 case",
        }
        return Event(**{**defaults, **values})  # type: ignore[arg-type]

    return event
