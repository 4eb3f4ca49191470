"""Worker processes that end with their parent: one pipe each, so that a killed parent leaves none behind."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from secguard.core import SecguardError, SystemPartError

__all__ = ["Crew"]

Task = tuple[Callable[..., Any], tuple[Any, ...]]


class Crew:
    """Processes that run functions with a common first argument; with none, the functions run here.

    Args:
        size: number of processes; 0: none.
        kit: the common first argument; it goes to the processes through their pipes.
    """

    def __init__(self, size: int, kit: Any) -> None:
        self._kit = kit
        self._busy: dict[Connection, Any] = {}
        self._idle: list[Connection] = []
        self._done: list[tuple[Any, Any]] = []
        self._processes = []
        context = multiprocessing.get_context("spawn")
        self.size = size
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            ours.send(kit)
            self._processes.append(process)
            self._idle.append(ours)

    @property
    def ready(self) -> bool:
        """True if a task would begin at once."""
        return bool(self._idle) if self.size else not self._done

    def submit(self, name: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Give a task to an idle process; there must be one."""
        if not self.size:
            self._done.append((name, _run(self._kit, (function, arguments))))
            return
        connection = self._idle.pop()
        self._busy[connection] = name
        try:
            connection.send((function, arguments))
        except OSError as error:
            raise _died() from error

    def results(self, *, seconds: float) -> Iterator[tuple[Any, Any]]:
        """What has been finished, waiting so long for it: (the task's name, what it returned).

        Raises:
            SecguardError: a task raised it, or a process died.
        """
        done, self._done = self._done, []
        if self._busy:
            for connection in wait(list(self._busy), 0 if done else seconds):
                assert isinstance(connection, Connection)
                try:
                    answer = connection.recv()
                except (EOFError, OSError) as error:
                    raise _died() from error
                done.append((self._busy.pop(connection), answer))
                self._idle.append(connection)
        for name, (failed, value) in done:
            if failed:
                raise value
            yield name, value

    @property
    def busy(self) -> bool:
        """True while a task runs or its result waits."""
        return bool(self._busy or self._done)

    def close(self) -> None:
        """End the processes, whatever they do; their work is made so that it can be cut off anywhere."""
        for connection in [*self._idle, *self._busy]:
            connection.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(2)
            if process.is_alive():
                process.kill()


def _died() -> SystemPartError:
    return SystemPartError(
        "identity.provision.worker",
        "a worker process ended unexpectedly",
        hint="is there enough memory? run again: the job goes on where it stopped, with --jobs 1 in one process",
    )


def _run(kit: Any, task: Task) -> tuple[bool, Any]:
    function, arguments = task
    try:
        return False, function(kit, *arguments)
    except SecguardError as error:
        return True, error


def _work(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(EOFError, OSError):
        kit = connection.recv()
        while True:
            connection.send(_run(kit, connection.recv()))
