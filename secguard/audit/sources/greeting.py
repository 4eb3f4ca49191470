"""TLS listeners that say whom they turned away: a sender without the right certificate is not heard, and that shows."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

from loguru import logger

__all__ = ["TlsListener"]

_HANDSHAKE_SECONDS = 10.0
_GREETINGS = 1024
"""Handshakes at once; further clients wait in the kernel's queue."""


class TlsListener:
    """Accepts TLS clients on a listening socket.

    Args:
        listening: does not block; closed at the end.
        context: TLS of this server.
        make: the protocol of a client whose handshake is done.
        refused: told of one whose handshake failed: its address, and why.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        refused: Callable[[str, str], None],
    ) -> None:
        self._listening = listening
        self._context = context
        self._make = make
        self._refused = refused
        self._room = asyncio.Semaphore(_GREETINGS)
        self._greetings: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept nothing more; handshakes under way are broken off."""
        self._accepting.cancel()
        for task in list(self._greetings):
            task.cancel()
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                client, address = await loop.sock_accept(self._listening)
            except OSError as error:  # no file is left for another connection
                self._room.release()
                logger.error("no client can be accepted: {}", error.strerror)
                await asyncio.sleep(1)
                continue
            task = asyncio.create_task(self._greet(client, str(address[0])))
            self._greetings.add(task)
            task.add_done_callback(self._greetings.discard)

    async def _greet(self, client: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # it only looked whether somebody listens
                await loop.connect_accepted_socket(
                    self._make, client, ssl=self._context, ssl_handshake_timeout=_HANDSHAKE_SECONDS
                )
        except ssl.SSLCertVerificationError as error:
            self._refused(peer, error.verify_message)
        except ssl.SSLError as error:
            self._refused(peer, (error.reason or "no TLS").replace("_", " ").lower())
        except OSError:
            self._refused(peer, f"no TLS handshake in {_HANDSHAKE_SECONDS:.0f} s")
        finally:
            self._room.release()
