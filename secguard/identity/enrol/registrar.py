"""One thread that certifies for all connections: what came in while one batch was on its way makes the next.

An answer is released only after its certificate is in the registry and its event in the ledger (`certify`). A one-time
secret is used up as its certificate's row is entered, and given back when none came of it: a crash in between costs a
secret, never a second certificate.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loguru import logger

from secguard.core import SecguardError, SystemPartError
from secguard.events import Event
from secguard.identity.authority import Authority
from secguard.identity.issuing.order import Certified, Order

__all__ = ["Registrar"]

_BATCH = 256
_QUEUE = 4096


@dataclass(frozen=True, slots=True)
class _Ask:
    """An order that somebody waits for."""

    order: Order
    answer: "asyncio.Future[Certified]"


@dataclass(frozen=True, slots=True)
class _Note:
    """An event to record."""

    event: Event
    answer: "asyncio.Future[None]"


_Answers = list[tuple["asyncio.Future[Any]", object]]


class Registrar:
    """Certifies and records for an event loop, in a thread of its own; `start` it in the loop, `stop` it at the end.

    Args:
        authority: used by that thread alone from `start` on.
    """

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._queue: queue.SimpleQueue[_Ask | _Note | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="enrolment", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.issued = 0
        self.batches = 0

    def start(self) -> None:
        """Start the thread; answers go to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Finish what has been asked for, and end the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    async def certify(self, order: Order) -> Certified:
        """Certify a key; what is answered is durable.

        Raises:
            RefusedError: the order is refused, or its secret was used meanwhile.
            SystemPartError: `identity.enrol.busy`: too many wait already; or a part of the machine failed.
        """
        assert self._loop is not None
        if self._queue.qsize() >= _QUEUE:
            raise SystemPartError("identity.enrol.busy", "too many devices enrol at once", hint="try again in a while")
        answer: asyncio.Future[Certified] = self._loop.create_future()
        self._queue.put(_Ask(order, answer))
        return await answer

    async def record(self, event: Event) -> None:
        """Record an event.

        Raises:
            SecguardError: it could not be recorded.
        """
        assert self._loop is not None
        answer: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Note(event, answer))
        await answer

    def _run(self) -> None:
        ending = False
        while not ending:
            items = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(items) < _BATCH:
                    items.append(self._queue.get_nowait())
            ending = None in items
            answers = self._note([item for item in items if isinstance(item, _Note)])
            asks = [item for item in items if isinstance(item, _Ask)]
            if asks:
                answers += self._take(asks)
            self._authority.receipts.clear()
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_deliver, answers)

    def _note(self, notes: Sequence[_Note]) -> _Answers:
        if not notes:
            return []
        try:
            self._authority.record([note.event for note in notes])
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            return [(note.answer, error) for note in notes]
        return [(note.answer, None) for note in notes]

    def _take(self, asks: Sequence[_Ask]) -> _Answers:
        try:
            return self._certify(asks)
        except SecguardError as error:
            return [(ask.answer, error) for ask in asks]
        except Exception as error:  # noqa: BLE001 - one order must not end the service, nor spoil its neighbours
            if len(asks) > 1:
                return [answer for ask in asks for answer in self._take([ask])]
            logger.opt(exception=error).error("an enrolment of {} failed", asks[0].order.holder)
            failed = SystemPartError(
                "identity.enrol.failed", "the site could not certify", hint="see the service's log"
            )
            return [(asks[0].answer, failed)]

    def _certify(self, asks: Sequence[_Ask]) -> _Answers:
        results = self._authority.certify([ask.order for ask in asks])
        self.issued += sum(isinstance(one, Certified) for one in results)
        self.batches += 1
        return [(ask.answer, one) for ask, one in zip(asks, results, strict=True)]


def _deliver(answers: _Answers) -> None:
    for future, answer in answers:
        if future.done():  # the client went away
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
