"""The search index follows the log in a process of its own: recording never waits for it.

    python -m secguard.service.indexing FOLDER

The service starts this program, and starts it again if it dies; it ends when its standard input does. `secguard audit
index --follow` is the same loop for sites where no service runs. `state/index/following.json` says how it goes, for
`secguard status`.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from loguru import logger

from secguard.core.errors import RefusedError, SecguardError, SystemPartError
from secguard.core.files import atomic_write, translate_os_error
from secguard.workspace.indexes import Following, FollowingState, following_file

if TYPE_CHECKING:
    from secguard.workspace import Workspace

__all__ = ["IndexProcess", "follow"]

_TICK = 0.5
_LONGEST = 30.0
"""Seconds between two looks at the log; after failures up to the longer."""
_WRITE_SECONDS = 5.0
_STOP_SECONDS = 10.0


class _Stopped(Exception):  # noqa: N818 - no error
    """Whoever started the loop wants it to end."""


class _Standing:
    """Keeps the file up to date, and says every change of state once."""

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self._path = following_file(workspace.state)
        self._last: Following | None = None
        self._written = 0.0
        self._current: datetime | None = None

    def note(self, state: FollowingState, position: int, **values: object) -> None:
        now = self._workspace.clock.now()
        if state == "current":
            self._current = now
        following = Following(state, now, self._current, position, **values)  # type: ignore[arg-type] # rate, problem
        before = self._last
        if before is None or (before.state, before.problem) != (following.state, following.problem):
            if following.problem:
                logger.error("index: {}", following.problem)
            elif before is not None and before.problem:
                logger.warning("index: it goes on, at {} events, {:.0f} a second", position, following.rate)
        else:
            calm = 1.0 if before.position != position else _WRITE_SECONDS
            if time.monotonic() < self._written + calm:
                return
        self._last = following
        self._written = time.monotonic()
        with suppress(SystemPartError):  # a full disk must not end the indexing on a server
            atomic_write(self._path, msgspec.json.encode(following) + b"\n", durable=False)


@contextmanager
def _alone(path: Path) -> Generator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise translate_os_error(error, path) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                "audit.index.followed",
                "another process follows the log with this index",
                hint="one is enough: the service has one of its own",
                where=str(path),
            ) from None
        yield


def follow(workspace: "Workspace", stop: threading.Event, said: Callable[[int], None] = lambda _: None) -> None:
    """Follow the log with the index until `stop` is set; whatever fails is tried again, and said once.

    Args:
        workspace: an open workspace of this thread's own.
        stop: set it to end: within a second, or after what the index writes in one go.
        said: called with the position when it has moved.

    Raises:
        RefusedError: `audit.index.followed`: another process does that already.
    """
    with _alone(workspace.state / "index" / "follower.lock"):
        _follow(workspace, stop, said)


def _follow(workspace: "Workspace", stop: threading.Event, said: Callable[[int], None]) -> None:
    from secguard.audit import catch_up

    standing = _Standing(workspace)
    pause, closed, position = _TICK, False, 0

    def progress(done: int, total: int | None, _: str) -> None:
        if stop.is_set():
            raise _Stopped
        del total
        standing.note("indexing", base + done, rate=done / max(time.monotonic() - began, 1e-3))

    while not stop.is_set():
        began = time.monotonic()
        base = position
        try:
            base = position = workspace.index.position
            count = catch_up(workspace.index, workspace.ledger, progress)
            position = base + count
            rate = count / max(time.monotonic() - began, 1e-3)
            standing.note("current", position, rate=rate)
            if count:
                said(position)
            if not closed:  # acts that were killed while nothing followed
                closed = True
                workspace.close_dangling()
            pause = _TICK
        except _Stopped:
            return
        except SystemPartError as error:
            standing.note("waiting", position, problem=f"{error.code}: {error}")
            pause = min(2 * pause, _LONGEST)
        except SecguardError as error:
            standing.note("alarm", position, problem=f"{error.code}: {error}")
            pause = _LONGEST
            _reopen(workspace)
        stop.wait(pause)


def _reopen(workspace: "Workspace") -> None:
    """Let go of an index that may have been rebuilt by then."""
    index = workspace.__dict__.pop("index", None)
    if index is not None:
        index.close()


class IndexProcess:
    """The process that follows the log with the index, started again when it dies."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._due = 0.0
        self._pause = 1.0

    def tick(self) -> None:
        """Start it if it does not run; after a death later and later."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            logger.error("index: its process ended ({}); starting another", self._process.returncode)
            self._release()
            self._due = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST)
        if time.monotonic() < self._due:
            return
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "secguard.service.indexing", str(self._root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment,
            process_group=0,  # Ctrl-C is for the service, which ends it
        )

    def stop(self) -> None:
        """End it: what it writes in one go may take some seconds; a killed one leaves the index sound."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._release()

    def _release(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None


def main() -> int:
    """Follow until SIGTERM, or until the process that started this one is gone."""
    from secguard.workspace import Workspace

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while sys.stdin.buffer.read(1 << 10):
            pass
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        with Workspace.find(Path(sys.argv[1])) as workspace:
            while not stop.is_set():
                try:
                    follow(workspace, stop)
                except RefusedError:  # somebody else follows: take over when they end
                    stop.wait(_LONGEST)
    except SecguardError as error:
        logger.error("{}: {}", error.code, error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
