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
from typing import Any, Protocol

from loguru import logger

from secguard.core import SecguardError, SystemPartError
from secguard.events import Event
from secguard.identity.authority import Authority
from secguard.identity.issuing.order import Certified, Order

__all__ = ["Certifier", "Desk", "Registrar"]

_BATCH = 256
_QUEUE = 4096
_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Ask:
    """An order that somebody waits for."""

    order: Order
    answer: "asyncio.Future[bytes]"


@dataclass(frozen=True, slots=True)
class _Note:
    """An event to record."""

    event: Event
    answer: "asyncio.Future[None]"


_Answers = list[tuple["asyncio.Future[Any]", object]]


class Desk:
    """Certifies and records batches, whatever happens to one of them.

    Args:
        authority: the site's CAs, with their passphrase.
    """

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def record(self, events: Sequence[Event]) -> SecguardError | None:
        """Record events, and return why they could not be."""
        try:
            self._authority.record(events)
        except SecguardError as error:
            return error
        except Exception as error:  # noqa: BLE001 - those who wait are told, and the service goes on
            logger.opt(exception=error).error("events could not be recorded")
            return SystemPartError("identity.enrol.failed", "the site could not record", hint="see the service's log")
        finally:
            self._authority.receipts.clear()
        for event in events:
            if event.kind == "certificate.refused" and "code" in event.data:
                facts = event.data
                logger.warning("refused {} from {}: {}", event.subject, facts["address"], facts["message"])
        return None

    def certify(self, orders: Sequence[Order]) -> Sequence[Certified | SecguardError]:
        """Certify keys, one answer an order; a certificate that is answered is durable."""
        if not orders:
            return ()
        try:
            answers: Sequence[Certified | SecguardError] = self._authority.certify(orders)
        except SecguardError as error:
            logger.warning("{} enrolments failed: {}: {}", len(orders), error.code, error)
            return [error] * len(orders)
        except Exception as error:  # noqa: BLE001 - one order must not end the service, nor spoil its neighbours
            if len(orders) > 1:
                return [answer for order in orders for answer in self.certify([order])]
            logger.opt(exception=error).error("an enrolment of {} failed", orders[0].holder)
            return [
                SystemPartError("identity.enrol.failed", "the site could not certify", hint="see the service's log")
            ]
        finally:
            self._authority.receipts.clear()
        done = [one.record for one in answers if isinstance(one, Certified)]
        names = [f"{row.holder} ({row.profile})" for row in done[:_NAMED]]
        if done:
            logger.info("enrolled {}{}", ", ".join(names), f" and {len(done) - _NAMED} more" * (len(done) > _NAMED))
        return answers


class Certifier(Protocol):
    """What enrolment needs of the one who certifies; `Registrar` does it in this process."""

    @property
    def alive(self) -> bool:
        """True while certificates can be made."""

    def start(self) -> None:
        """Get ready, in the loop."""

    async def stop(self) -> None:
        """Finish what has been asked for."""

    async def certify(self, order: Order) -> bytes:
        """See `Registrar.certify`."""

    async def record(self, event: Event) -> None:
        """See `Registrar.record`."""


class Registrar:
    """Certifies and records for an event loop, in a thread of its own; `start` it in the loop, `stop` it at the end.

    Args:
        authority: used by that thread alone from `start` on.
    """

    def __init__(self, authority: Authority) -> None:
        self._desk = Desk(authority)
        self._queue: queue.SimpleQueue[_Ask | _Note | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="enrolment", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

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

    async def certify(self, order: Order) -> bytes:
        """Certify a key, and return the certificate in DER; what is answered is durable.

        Raises:
            RefusedError: the order is refused, or its secret was used meanwhile.
            SystemPartError: `identity.enrol.busy`: too many wait already; or a part of the machine failed.
        """
        assert self._loop is not None
        if self._queue.qsize() >= _QUEUE:
            raise SystemPartError("identity.enrol.busy", "too many devices enrol at once", hint="try again in a while")
        answer: asyncio.Future[bytes] = self._loop.create_future()
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
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_deliver, answers)

    def _note(self, notes: Sequence[_Note]) -> _Answers:
        if not notes:
            return []
        problem = self._desk.record([note.event for note in notes])
        return [(note.answer, problem) for note in notes]

    def _take(self, asks: Sequence[_Ask]) -> _Answers:
        results = self._desk.certify([ask.order for ask in asks])
        return [
            (ask.answer, one.certificate if isinstance(one, Certified) else one)
            for ask, one in zip(asks, results, strict=True)
        ]


def _deliver(answers: _Answers) -> None:
    for future, answer in answers:
        if future.done():  # the client went away
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
