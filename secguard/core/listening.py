"""Listening sockets: on every address of a host, opened before anything is served."""

import contextlib
import socket

from secguard.core.errors import SystemPartError

__all__ = ["listen"]

_SO_RCVBUFFORCE = 33
_BACKLOG = 512


def listen(
    host: str, port: int, where: str, kind: socket.SocketKind = socket.SOCK_STREAM, buffer: int = 0
) -> list[socket.socket]:
    """Bind on all addresses of a host; with port 0 on a free one, the same for all.

    Args:
        host: a name or an address; empty: all of the machine's.
        port: 0 to 65535.
        kind: stream or datagram.
        where: what the socket is for, in the error.
        buffer: bytes the kernel keeps of datagrams not yet read; 0: the system's default.

    Raises:
        SystemPartError: `service.listen`.
    """
    found: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        try:
            places = socket.getaddrinfo(host or None, port, type=kind, flags=socket.AI_PASSIVE)
            for family, _, protocol, _, address in dict.fromkeys(places):
                one = undo.enter_context(socket.socket(family, kind, protocol))
                found.append(one)
                if kind == socket.SOCK_STREAM:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                elif buffer:
                    _widen(one, buffer)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                chosen = port or (found[0].getsockname()[1] if len(found) > 1 else 0)
                one.bind((address[0], chosen, *address[2:]))
                if kind == socket.SOCK_STREAM:
                    one.listen(_BACKLOG)
                one.setblocking(False)
        except OSError as error:
            raise SystemPartError(
                "service.listen",
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                hint="is another service there? choose another port",
                where=where,
            ) from error
        undo.pop_all()
    return found


def _widen(one: socket.socket, buffer: int) -> None:
    try:
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
    except OSError:  # only root passes net.core.rmem_max
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
