"""Processes beside this one: they open ledger and index by themselves, and hand back columns, never events.

A Python process computes rows on one core. Where there are many events, helpers do that, and this process keeps the
index writing or counts what they found. Tasks and answers are `marshal` over pipes between a process and its own child.
"""

import marshal
import os
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import Any, Self

from secguard.core import FormatError, RefusedError, SecguardError, SystemPartError, UsageError

__all__ = ["MANY", "Helper", "cores", "in_any_order", "parts_of", "raised"]

MANY = 20_000
"""Events from which on helpers pay off: they need about a third of a second to start."""
_KINDS = {kind.__name__: kind for kind in (FormatError, RefusedError, SystemPartError, UsageError)}


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


class Helper:
    """One process; it ends when its standard input does, so also when this process is killed."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "secguard.audit.index.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # Ctrl-C is for this process, which ends the helper
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *task: Any) -> None:
        """Hand a task over; several may wait."""
        assert self._process.stdin is not None
        try:
            marshal.dump(task, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise _gone() from error

    def receive(self) -> Any:
        """The answer to the oldest task, or its next part; None after the last part.

        Raises:
            SecguardError: the task raised it.
            SystemPartError: the helper died.
        """
        assert self._process.stdout is not None
        try:
            fine, answer = marshal.load(self._process.stdout)  # noqa: S302 - our own child's
        except (EOFError, ValueError, TypeError, OSError) as error:
            raise _gone() from error
        if not fine:
            kind, *values = answer
            raise _KINDS.get(kind, SystemPartError)(values[0], values[1], hint=values[2], where=values[3])
        return answer

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a task that nobody will read
                pipe.close()


def _gone() -> SystemPartError:
    return SystemPartError(
        "audit.index.helper", "a helper process ended early", hint="is there enough memory? then try again"
    )


def parts_of(*task: Any) -> Generator[Any]:
    """The parts of a long answer, each computed by a helper while the caller works on the one before."""
    with Helper() as helper:
        helper.send(*task)
        while (part := helper.receive()) is not None:
            yield part


def in_any_order(tasks: Sequence[Sequence[Any]]) -> Generator[tuple[Sequence[Any], Any]]:
    """Tasks and their answers as they come, by as many helpers as there are processors; the first tasks begin first."""
    waiting = deque(tasks)
    helpers = [Helper() for _ in range(min(cores(), len(tasks)))]
    pool = ThreadPoolExecutor(len(helpers))

    try:
        running = {}
        for helper in helpers:
            task = waiting.popleft()
            running[pool.submit(_one, helper, task)] = (helper, task)
        while running:
            done = next(as_completed(running))
            helper, task = running.pop(done)
            yield task, done.result()
            if waiting:
                following = waiting.popleft()
                running[pool.submit(_one, helper, following)] = (helper, following)
    finally:
        for helper in helpers:
            helper.close()  # its thread reads to the end
        pool.shutdown()


def _one(helper: Helper, task: Sequence[Any]) -> Any:
    helper.send(*task)
    return helper.receive()


def raised(error: SecguardError) -> tuple[str, str, str, str, str]:
    """An error as an answer."""
    return type(error).__name__, error.code, error.message, error.hint, error.where
