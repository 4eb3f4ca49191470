"""Between the sources and the ledger: a bounded queue a source, and one committer that records for all of them.

While one group of deliveries is on its way to the disk the next gathers. A delivery is settled when all of it is
durable; if the ledger cannot record (a full disk), deliveries wait, queues fill, and sources stop reading.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from loguru import logger

from secguard.audit.index.index import Log
from secguard.audit.sources.letters import DeadLetters, Letter
from secguard.audit.sources.meter import Meter
from secguard.audit.sources.reading import RESERVED, columns, rejection, said, same, sha256_of
from secguard.core import Clock, FormatError, SecguardError
from secguard.events import Actor, Event, encode

__all__ = ["Committer", "Delivery", "Intake", "Settled"]

MAX_GROUP = 4096
_GROUP_BYTES = 16 << 20
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(slots=True)
class Settled:
    """What became of a delivery: new events, those there before, conflicts by place; the ledger's size then."""

    recorded: int = 0
    duplicates: int = 0
    conflicts: dict[int, str] = field(default_factory=dict)
    end: int = 0


@dataclass(slots=True, eq=False)
class Delivery:
    """Events of one source that are settled together.

    Attributes:
        events: in order; among them a `record.rejected` for each letter.
        own: which of them have an ID of the source's own.
        letters: what was put aside.
        size: bytes, for the bound of the queue.
        done: called in the loop's thread when all is durable.
    """

    events: list[Event] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    size: int = 0
    done: Callable[[Settled], None] | None = None

    def add(self, event: Event, size: int, *, own: bool) -> None:
        """Add an event."""
        self.events.append(event)
        self.own.append(own)
        self.size += size + 1500  # what Python needs beside the bytes


class Intake:
    """One source's queue."""

    def __init__(self, meter: Meter, limit: int, wake: Callable[[], None]) -> None:
        self.meter = meter
        self.queue: deque[Delivery] = deque()
        self._limit = limit
        self._wake = wake
        self._bytes = 0
        self._count = 0
        self._waiters: list[Callable[[], None]] = []

    @property
    def full(self) -> bool:
        """Nothing more should be read."""
        return self._bytes >= self._limit

    @property
    def idle(self) -> bool:
        """Everything is settled."""
        return self._count == 0

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery; the caller stops when `full`, and goes on when `when_room` calls."""
        self.queue.append(delivery)
        self._bytes += delivery.size
        self._count += 1
        self.meter.health.waiting += len(delivery.events)
        self._wake()

    def when_room(self, call: Callable[[], None]) -> None:
        """Call once, as soon as there is room."""
        self._waiters.append(call)

    async def room(self) -> None:
        """Wait for room."""
        while self.full:
            waiter = asyncio.get_running_loop().create_future()
            self.when_room(lambda waiter=waiter: None if waiter.done() else waiter.set_result(None))  # type: ignore[misc] # mypy cannot type a lambda's default
            await waiter

    def settled(self, delivery: Delivery, settled: Settled) -> None:
        """A delivery is durable."""
        self._bytes -= delivery.size
        self._count -= 1
        health = self.meter.health
        health.waiting -= len(delivery.events)
        health.recorded += settled.recorded
        health.duplicates += settled.duplicates
        health.rejected += len(settled.conflicts)
        if delivery.done is not None:
            delivery.done(settled)
        if not self.full and self._waiters:
            waiters, self._waiters = self._waiters, []
            for call in waiters:
                call()


class Committer:
    """Records what the intakes hold.

    Args:
        log: the ledger.
        letters: keeps raw bytes.
        clock: time of rejections.
        actor: who collects.
    """

    def __init__(self, log: Log, letters: DeadLetters, clock: Clock, actor: Actor) -> None:
        self._log = log
        self._letters = letters
        self._clock = clock
        self._actor = actor
        self._intakes: list[Intake] = []
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "collect-commit")
        self._turn = 0
        self.problem = ""

    def intake(self, meter: Meter, limit: int) -> Intake:
        """A queue for a source, which may hold `limit` bytes."""
        made = Intake(meter, limit, self._woken.set)
        self._intakes.append(made)
        return made

    def stop(self) -> None:
        """End when everything is settled."""
        self._stopping.set()
        self._woken.set()

    @property
    def idle(self) -> bool:
        """Everything is settled."""
        return all(intake.idle for intake in self._intakes)

    async def run(self) -> None:
        """Record until stopped and settled. A ledger that refuses is tried again, with growing pauses."""
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                while group := self._gather():
                    await self._commit(group)
                if self._stopping.is_set():
                    return
        finally:
            self._thread.shutdown(wait=True)

    def _gather(self) -> list[tuple[Intake, Delivery]]:
        """The next deliveries, each source in its turn."""
        group: list[tuple[Intake, Delivery]] = []
        events = size = 0
        waiting = deque(self._intakes[self._turn :] + self._intakes[: self._turn])
        self._turn = (self._turn + 1) % max(1, len(self._intakes))
        while waiting and events < MAX_GROUP and size < _GROUP_BYTES:
            intake = waiting.popleft()
            if intake.queue:
                delivery = intake.queue.popleft()
                group.append((intake, delivery))
                events += len(delivery.events)
                size += delivery.size
                waiting.append(intake)
        return group

    async def _commit(self, group: Sequence[tuple[Intake, Delivery]]) -> None:
        loop = asyncio.get_running_loop()
        deliveries = [delivery for _, delivery in group]
        attempt = 0
        while True:
            try:
                settled = await loop.run_in_executor(self._thread, self._record, deliveries)
                break
            except FormatError as error:  # an event that cannot be written: every delivery, then every event alone
                if len(group) > 1:
                    for alone in group:
                        await self._commit([alone])
                    return
                self._exclude(deliveries[0], error)
            except SecguardError as error:
                if self.problem != str(error):
                    logger.error("the ledger does not record, events wait: {}", error)
                self.problem = str(error)
                await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                attempt += 1
        if self.problem:
            logger.info("the ledger records again")
            self.problem = ""
        for (intake, delivery), one in zip(group, settled, strict=True):
            intake.settled(delivery, one)

    def _exclude(self, delivery: Delivery, error: FormatError) -> None:
        """Put aside what cannot be encoded; what is read has been encoded before, so this is a last resort."""
        for at, event in enumerate(delivery.events):
            try:
                encode(event)
            except FormatError as problem:
                delivery.events[at] = self._rejected(event, problem, repr(event).encode("utf-8", "replace"))
                delivery.own[at] = False
                return
        raise error

    def _rejected(self, event: Event, error: FormatError, raw: bytes) -> Event:
        sha256 = sha256_of(raw)
        via = event.data.get("via")
        source = str(via.get("source", "")) if isinstance(via, dict) else ""
        return rejection(
            error,
            event_id=f"{RESERVED}rejected:{sha256[:40]}",
            time=self._clock.now(),
            actor=self._actor,
            subject=source,
            data={"raw_sha256": sha256, "bytes": len(raw), "rejected_id": event.id},
        )

    def _record(self, deliveries: Sequence[Delivery]) -> list[Settled]:
        """Record deliveries; in the committer's thread."""
        letters = [letter for delivery in deliveries for letter in delivery.letters]
        if letters:
            self._letters.keep(letters, self._clock.now())
        events = [event for delivery in deliveries for event in delivery.events]
        indexes, duplicates = columns(self._log.record(events))
        answers: list[Settled] = []
        conflicts: list[Event] = []
        at = 0
        for delivery in deliveries:
            answer = Settled(end=max(indexes, default=-1) + 1)
            for place, (event, own) in enumerate(zip(delivery.events, delivery.own, strict=True)):
                index, duplicate = indexes[at], duplicates[at]
                at += 1
                if not duplicate:
                    answer.recorded += event.kind != "record.rejected"
                elif not own or same(self._log, index, event):
                    answer.duplicates += event.kind != "record.rejected"
                else:
                    error = FormatError(
                        "audit.record.conflict",
                        f"event {index} of the ledger has this ID and says something else",
                    )
                    raw = said(event)
                    conflicts.append(self._rejected(event, error, raw))
                    self._letters.keep([Letter(sha256_of(raw), "", raw, len(raw))], self._clock.now())
                    answer.conflicts[place] = str(error)
            answers.append(answer)
        if conflicts:
            self._log.record(conflicts)
        return answers
