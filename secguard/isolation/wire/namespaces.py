"""Anonymous network namespaces, held by descriptors of this process alone: nothing is left when it dies."""

import ctypes
import os
import signal
from pathlib import Path

from secguard.core.errors import SystemPartError

__all__ = ["Namespaces", "die_with_parent", "isolate"]

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def isolate() -> None:
    """Leave the machine's network for an empty one, as root, or else through a user namespace of our own.

    Raises:
        SystemPartError: neither is allowed here.
    """
    try:
        _call("unshare", _CLONE_NEWNET)
    except OSError:
        uid, gid = os.getuid(), os.getgid()
        try:
            _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")
        except OSError as error:
            raise SystemPartError(
                "isolation.lab.namespaces",
                f"cannot make network namespaces: {error.strerror}",
                hint="run as root, or allow user namespaces (sysctl user.max_user_namespaces)",
            ) from None


class Namespaces:
    """Network namespaces by name; this process is in one of them at a time."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def add(self, name: str) -> None:
        """Make a namespace and enter it."""
        _call("unshare", _CLONE_NEWNET)
        self._descriptors[name] = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def enter(self, name: str) -> None:
        """Enter a namespace; processes started from here on are in it."""
        _call("setns", self._descriptors[name], _CLONE_NEWNET)

    def path(self, name: str) -> str:
        """A path by which children of this process find the namespace."""
        return f"/proc/{os.getpid()}/fd/{self._descriptors[name]}"
