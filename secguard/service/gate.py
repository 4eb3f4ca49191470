"""Connections, bounded: how many there are, how long a handshake may take, and how long one may say nothing."""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

__all__ = ["Gate"]

_HANDSHAKE_SECONDS = 10
_SILENT_SECONDS = 20.0
_IDLE_SECONDS = 60.0
_CONNECTIONS = 4096
_LOG = logging.getLogger("secguard.gate")


def _ours(record: logging.LogRecord) -> bool:
    """Not what a peer did wrong: it was answered 400, or is gone. Else scanners would fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError, ConnectionError))


_LOG.addFilter(_ours)


class Gate:
    """Accepts connections for an aiohttp application.

    Args:
        app: the application; not started yet.
        context: gives the TLS context of a new connection; None for plain HTTP.
        connections: how many at once; one address gets at most half of them.
        refused: told of a client certificate that the handshake refused: the address, and why.
    """

    def __init__(
        self,
        app: web.Application,
        context: Callable[[], ssl.SSLContext] | None = None,
        *,
        connections: int = _CONNECTIONS,
        refused: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self._refused = refused
        self._context = context
        self._most = connections
        self._open: Counter[str] = Counter()
        self._timers: dict[object, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.address = ("", 0)
        app.middlewares.insert(0, self._timed())
        app.on_response_prepare.append(_name)
        self._runner = web.AppRunner(
            app, access_log=None, logger=_LOG, keepalive_timeout=_IDLE_SECONDS, shutdown_timeout=5
        )

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """Start the application, and accept connections of sockets that listen.

        Raises:
            SecguardError: the application does not start.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            for one in sockets:
                self._servers.append(await loop.create_server(lambda: _Door(self), sock=one, backlog=512))
        except BaseException:
            await self._runner.cleanup()
            raise
        self.address = sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Accept nothing more, finish what is under way, and stop the application."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await self._runner.cleanup()

    @property
    def count(self) -> int:
        """Connections that are open."""
        return self._open.total()

    def _timed(self) -> Middleware:
        @web.middleware
        async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
            """While a request is worked on its connection may be silent; before and after it may not."""
            self._cancel(request.protocol)
            try:
                return await handler(request)
            finally:
                transport = request.transport
                if transport is not None:
                    self._expect(request.protocol, transport, _IDLE_SECONDS + _SILENT_SECONDS)

        return timed

    def _expect(self, key: object, transport: asyncio.Transport, seconds: float) -> None:
        """Break a connection off that brings no whole request (or takes no answer) in time."""
        self._cancel(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, transport.abort)

    def _cancel(self, key: object) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def admit(self, transport: asyncio.Transport) -> None:
        """Take a new connection, or close it at once when there are too many."""
        peer = transport.get_extra_info("peername") or ("",)
        address = str(peer[0])
        if self._open.total() >= self._most or self._open[address] >= max(1, self._most // 2):
            transport.abort()
            return
        self._open[address] += 1
        task = asyncio.create_task(self._serve(transport, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, transport: asyncio.Transport, address: str) -> None:
        server = self._runner.server
        assert server is not None
        protocol = server()
        relay = _Relay(protocol, lambda: self._leave(address, protocol))
        try:
            if self._context is None:
                transport.set_protocol(relay)
                inner: asyncio.Transport | None = transport
            else:
                loop = asyncio.get_running_loop()
                inner = await loop.start_tls(
                    transport, relay, self._context(), server_side=True, ssl_handshake_timeout=_HANDSHAKE_SECONDS
                )
            if inner is None or relay.lost:
                raise ConnectionResetError
        except BaseException as error:
            transport.abort()
            relay.connection_lost(None)
            if isinstance(error, ssl.SSLCertVerificationError):
                self._refused(address, error.verify_message)
            if isinstance(error, OSError):  # what handshakes fail with: no TLS, a stranger's certificate, too slow
                return
            raise
        relay.connection_made(inner)
        self._expect(protocol, inner, _SILENT_SECONDS)
        if self._context is None:
            inner.resume_reading()

    def _leave(self, address: str, key: object) -> None:
        self._cancel(key)
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


async def _name(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "secguard"  # versions are nobody's business


class _Door(asyncio.Protocol):
    """The first moment of a connection: nothing is read before the gate has admitted it."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._gate.admit(transport)


class _Relay(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, and tells when the connection has ended."""

    def __init__(self, protocol: asyncio.Protocol, ended: Callable[[], None]) -> None:
        self._protocol = protocol
        self._ended = ended
        self._made = False
        self._early: list[bytes] = []
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = True
        self._protocol.connection_made(transport)
        for data in self._early:
            self._protocol.data_received(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self._made:
            self._protocol.data_received(data)
        else:  # a request that came along with the end of the handshake
            self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._ended()
            if self._made:
                self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
