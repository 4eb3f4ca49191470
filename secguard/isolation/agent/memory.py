"""What an agent remembers: the runs it has begun, so that none is ever run twice, and that it runs one at a time."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from secguard.core.errors import RefusedError, SystemPartError
from secguard.core.files import fsync_directory, translate_os_error
from secguard.isolation.plan.plan import Plan

__all__ = ["Memory", "default_folder"]

_MAX_BYTES = 64 << 20  # 800,000 runs


def default_folder() -> Path:
    """`$STATE_DIRECTORY` (systemd), else `secguard/agent` below `$XDG_STATE_HOME` or `~/.local/state`."""
    if given := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home, "secguard", "agent")


class Memory:
    """The runs of an agent, kept in a folder; held by one run at a time. Use it as a context manager.

    Raises (on entering):
        RefusedError: `isolation.agent.busy`: another run holds it.
        SystemPartError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self._folder / "runs", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise translate_os_error(error, self._folder) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.__exit__(None, None, None)
            raise RefusedError(
                "isolation.agent.busy",
                "the agent is running another plan",
                hint="wait until it has ended",
                where=str(self._folder),
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def check(self, plan: Plan) -> bytes:
        """Refuse a run that was begun before; gives what is remembered.

        Raises:
            RefusedError: `isolation.plan.replayed`.
            SystemPartError: too much to remember.
        """
        size = os.fstat(self._lock).st_size
        if size > _MAX_BYTES:
            raise SystemPartError(
                "isolation.agent.memory",
                "the agent remembers too many runs",
                hint="move the file away once every plan in it is past its window",
                where=str(self._folder / "runs"),
            )
        known = os.pread(self._lock, size, 0)
        if any(item.startswith(plan.run.encode()) for item in known.splitlines()):
            raise RefusedError(
                "isolation.plan.replayed",
                f"run {plan.run[:8]} was begun here before; a plan runs once",
                hint="make a new plan: secguard isolation plan",
            )
        return known

    def begin(self, plan: Plan) -> None:
        """Remember a run, for good, before its first packet.

        Raises:
            RefusedError: `isolation.plan.replayed`: it was begun before.
            SystemPartError: it cannot be written down; nothing may be sent then.
        """
        line = f"{plan.run} {plan.not_after:%Y-%m-%dT%H:%M:%SZ}\n".encode()
        try:
            known = self.check(plan)
            if known and not known.endswith(b"\n"):
                line = b"\n" + line  # what a full disk cut off
            if os.write(self._lock, line) != len(line):
                raise OSError(28, os.strerror(28))
            os.fsync(self._lock)
            fsync_directory(self._folder)
        except OSError as error:
            raise translate_os_error(error, self._folder / "runs") from error
