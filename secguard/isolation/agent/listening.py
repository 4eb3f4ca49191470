"""A mirror port without an address: found by its name, since nothing else tells which it is."""

import fcntl
import socket
import struct

from secguard.core.errors import RefusedError
from secguard.isolation.wire.wire import Interface

__all__ = ["mirror_port"]

_SIOCGIFHWADDR = 0x8927
_REQUEST = struct.Struct("16s16x8x")
_ETHERNET = 1


def mirror_port(name: str) -> Interface:
    """The Ethernet interface of that name, with or without addresses.

    Raises:
        RefusedError: there is none.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            told = fcntl.ioctl(channel, _SIOCGIFHWADDR, _REQUEST.pack(name.encode()))
    except OSError as error:
        raise RefusedError(
            "isolation.agent.interface",
            f"no interface {name[:15]!r} to hear on: {error.strerror}",
            hint="the policy's `interface` is the mirror port's name on the agent's host",
        ) from None
    (kind,) = struct.unpack_from("H", told, 16)
    if kind != _ETHERNET:
        raise RefusedError("isolation.agent.interface", f"{name[:15]!r} is no Ethernet interface")
    return Interface(name, told[18:24], ())
