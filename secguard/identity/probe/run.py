"""Many endpoints at once: threads shake hands, at most so many at a time and so many a second; answers as they come."""

import queue
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from secguard.core import SystemPartError
from secguard.identity.probe.clients import Clients, try_clients
from secguard.identity.probe.handshake import Answer, look
from secguard.identity.probe.targets import Target, safe

__all__ = ["Options", "ask", "ask_all"]

_STACK = 512 << 10
_OTHER_FILES = 64  # open beside the connections: registry, ledger, report


@dataclass(frozen=True, slots=True)
class Options:
    """How endpoints are asked.

    Attributes:
        jobs: connections at a time.
        rate: endpoints begun in a second; 0: as many as go.
        timeout: seconds for each connection.
        sni: server name to send; empty: the host, if it is a name.
        versions: also try versions older than TLS 1.2.
        clients: client certificates to try; None: none.
    """

    jobs: int = 64
    rate: float = 0.0
    timeout: float = 5.0
    sni: str = ""
    versions: bool = False
    clients: Clients | None = None


def ask(target: Target, options: Options, stop: threading.Event) -> Answer:
    """Ask one endpoint; whatever it does, there is an answer."""
    try:
        answer = look(target, timeout=options.timeout, stop=stop, sni=options.sni, versions=options.versions)
        if options.clients is not None and answer.state == "presented":
            tried = try_clients(target, options.clients, timeout=options.timeout, stop=stop, sni=options.sni)
            answer = replace(answer, clients=tried)
    except Exception as error:  # noqa: BLE001 - a peer must never end the run; what it did is told
        return Answer("garbage", safe(f"{type(error).__name__}: {error}"))
    return answer


@dataclass(slots=True)
class _Feed:
    """Hands out targets, paced."""

    targets: Sequence[Target]
    rate: float
    stop: threading.Event
    lock: threading.Lock
    index: int = 0
    next: float = 0.0

    def take(self) -> Target | None:
        with self.lock:
            if self.stop.is_set() or self.index >= len(self.targets):
                return None
            target = self.targets[self.index]
            self.index += 1
            now = time.monotonic()
            start = max(self.next, now)
            self.next = start + (1 / self.rate if self.rate else 0)
        if start > now and self.stop.wait(start - now):
            return None
        return target


def ask_all(targets: Sequence[Target], options: Options, stop: threading.Event) -> Iterator[tuple[Target, Answer]]:
    """Ask endpoints, at most `options.jobs` at a time.

    Setting `stop`, or leaving the loop, ends every wait within a fifth of a second.

    Yields:
        Each target with its answer, in the order they come; after a stop, those that had an answer.

    Raises:
        SystemPartError: not one thread can be started.
    """
    # Bounded: who judges may be slower than who asks, and chains must not pile up.
    jobs = max(min(options.jobs, len(targets), resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES), 1)
    answers: queue.Queue[tuple[Target, Answer] | None] = queue.Queue(maxsize=4 * jobs)
    feed = _Feed(targets, options.rate, stop, threading.Lock())

    def put(item: tuple[Target, Answer] | None) -> None:
        while True:
            with suppress(queue.Full):
                answers.put(item, timeout=0.2)
                return
            if stop.is_set():
                return

    def work() -> None:
        try:
            while (target := feed.take()) is not None:
                put((target, ask(target, options, stop)))
        finally:
            put(None)

    running = _start(work, jobs) if targets else 0
    try:
        while running:
            try:
                item = answers.get(timeout=0.2)
            except queue.Empty:
                if stop.is_set():
                    # A name that is being resolved cannot be interrupted; its thread ends with the process.
                    break
                continue
            if item is None:
                running -= 1
            elif item[1].state != "stopped":
                yield item
    finally:
        stop.set()


def _start(work: Callable[[], None], count: int) -> int:
    old = threading.stack_size(_STACK)
    started = 0
    try:
        for _ in range(count):
            threading.Thread(target=work, daemon=True, name="probe").start()
            started += 1
    except RuntimeError as error:
        if not started:
            raise SystemPartError(
                "identity.probe.threads", "no thread can be started", hint="raise the limit of processes (ulimit -u)"
            ) from error
    finally:
        threading.stack_size(old)
    return started
