"""Raw packet sockets (packet(7)), opened the same way by who sends and who hears, with plain words on failure."""

import contextlib
import ctypes
import errno
import os
import socket

from secguard.core.errors import SystemPartError

__all__ = ["ETH_P_ALL", "SOL_PACKET", "bind", "libc", "open_raw"]

ETH_P_ALL = 3
SOL_PACKET = 263

libc = ctypes.CDLL(None, use_errno=True)
"""The C library; its calls let go of the interpreter's lock while they run."""


def open_raw() -> socket.socket:
    """A packet socket that is bound to nothing yet, so it hears nothing.

    Raises:
        SystemPartError: not permitted.
    """
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except PermissionError:
        raise SystemPartError(
            "isolation.raw.permission", "may not open raw sockets", hint="run as root, or grant CAP_NET_RAW"
        ) from None


def bind(handle: socket.socket, interface: str, protocol: int) -> None:
    """Tie a packet socket to one interface; with protocol `ETH_P_ALL` it hears from now on, with 0 never.

    Raises:
        SystemPartError: there is no such interface.
    """
    try:
        handle.bind((interface, protocol))
    except OSError as error:
        # An interface that is down is bound all the same, and heard when it comes up (NETDEV_UP).
        if error.errno == errno.ENETDOWN:
            with contextlib.suppress(OSError):
                handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return
        raise SystemPartError(
            "isolation.interface.missing",
            f"cannot use the interface: {os.strerror(error.errno or 0)}",
            hint="`ip link` lists the interfaces",
            where=interface[:60],
        ) from None
