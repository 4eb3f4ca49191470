"""The process that talks to devices: TLS, HTTP, who asks, proof of possession. It opens no CA key and no passphrase.

`python -m secguard.service.front WORKSPACE HOST CHANNEL SOCKET...`, started by `secguard.service.office` with the
sockets as open files. It ends when it is told to (SIGTERM), or when the process that started it has gone.
"""

import asyncio
import gc
import os
import signal
import socket
import ssl
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from secguard.core import SecguardError
from secguard.identity.enrol.app import DOORKEEPER, ENROLMENT, est_app, refusals
from secguard.identity.enrol.sender import Doorkeeper
from secguard.identity.enrol.wire import Base64
from secguard.service.channel import RemoteRegistrar
from secguard.service.gate import Gate
from secguard.service.tls import find_server, server_context
from secguard.workspace import Workspace

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["main"]

_LOOK_SECONDS = 5
_GARBAGE = 20_000


class _Certificate:
    """The service's own certificate, followed when it is renewed; and the anchors of the clients'."""

    def __init__(self, registrar: RemoteRegistrar, doorkeeper: Doorkeeper, host: str) -> None:
        self._registrar, self._doorkeeper, self._host = registrar, doorkeeper, host
        self._seen: tuple[object, ...] = ()
        self._context: ssl.SSLContext | None = None
        self.not_after = ""

    def context(self) -> ssl.SSLContext:
        """What the next connection is served with."""
        assert self._context is not None
        return self._context

    async def load(self) -> None:
        """Take up a renewed certificate, or changed anchors.

        Raises:
            SecguardError: there is none that can be served; the one before stays in use.
        """
        record = find_server(self._doorkeeper.registry, self._host)
        anchors = self._doorkeeper.anchors
        seen = (record.issuer, record.serial, anchors)
        if seen != self._seen:
            chain, key = await self._registrar.credentials(record.holder)
            self._context = server_context(chain, key, anchors)
            self._seen, self.not_after = seen, record.not_after


async def _serve(workspace: Workspace, host: str, channel: socket.socket, sockets: list[socket.socket]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    registrar = RemoteRegistrar(lambda: os._exit(1))  # nothing can be certified any more, and nothing be kept
    await loop.create_connection(lambda: registrar, sock=channel)
    try:
        section = workspace.config.serve
        layouts = {label: Base64(layout) for label, layout in section.base64.items()}
        authority = workspace.authority(keyless=True)
        app = est_app(authority, base64=layouts, grace_hours=section.grace_hours, registrar=registrar)
        own = _Certificate(registrar, app[DOORKEEPER], host)
        await own.load()
        _add_health(app, own)
        gate = Gate(app, own.context, connections=section.connections, refused=refusals(app[ENROLMENT]))
        await gate.open(sockets)
    except SecguardError as error:
        registrar.ready(error)
        await asyncio.sleep(1)  # the other process ends this one
        return
    gc.collect()
    gc.freeze()  # what is there now stays; requests leave few cycles behind
    gc.set_threshold(_GARBAGE)
    registrar.ready()
    try:
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), _LOOK_SECONDS)
            except TimeoutError:
                try:
                    await own.load()
                except (SecguardError, OSError) as error:
                    logger.error("the server certificate stays as it was: {}", error)
    finally:
        await gate.close()


def _add_health(app: "web.Application", own: _Certificate) -> None:
    from aiohttp import web

    async def health(_: web.Request) -> web.Response:
        alive = app[ENROLMENT].alive
        facts = {"status": "ok" if alive else "failed", "certificate_until": own.not_after}
        return web.json_response(facts, status=200 if alive else 503)

    app.router.add_get("/healthz", health)


def main() -> None:
    """Serve until told to stop; see the module."""
    root, host, *numbers = sys.argv[1:]
    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{time:HH:mm:ss} {level} {message}", diagnose=False)
    channel, *sockets = [socket.socket(fileno=int(number)) for number in numbers]
    with closing(Workspace.find(Path(root))) as workspace:
        asyncio.run(_serve(workspace, host, channel, sockets))


if __name__ == "__main__":
    main()
