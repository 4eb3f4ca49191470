"""The agent behind HTTPS: a web application that judges who calls, and hands the orders to an agent process.

One WebSocket is one run: its messages are the lines of `secguard.isolation.agent.control`, both ways. The process ends
with the connection, so a controller that stops, dies or is cut off stops the agent's packets. It alone needs
CAP_NET_RAW; this part only needs the network.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web
from loguru import logger

from secguard.core.clock import Clock, SystemClock
from secguard.core.errors import RefusedError, SecguardError
from secguard.isolation.agent.control import MAX_MESSAGE
from secguard.isolation.agent.credentials import Trust, certificate_names
from secguard.isolation.agent.peer import peer_chain
from secguard.isolation.agent.spawn import environment, python

__all__ = ["PATH", "REFUSED", "Door", "agent_app"]

PATH = "/v1/run"
"""Where a controller connects to."""
REFUSED = "Secguard-Refused"
"""Header of a refusal: its code, a space, and why."""
_HEARTBEAT = 5.0
_READ = 1 << 16


@dataclass
class Door:
    """What the application serves.

    Attributes:
        name: the agent.
        zone: where it stands; empty believes the plan.
        key: its private key, PEM in clear.
        certificate: SHA-256 of its certificate.
        trust: whose calls and plans count.
        memory: folder of the runs that were begun.
        namespace: path of a network namespace to probe in; empty: this one.
        clock: the time.
    """

    name: str
    key: bytes
    certificate: str
    trust: Trust
    memory: Path
    zone: str = ""
    namespace: str = ""
    clock: Clock = field(default_factory=SystemClock)
    busy: bool = False

    def command(self, descriptor: int) -> list[str]:
        """The agent process's command line; it holds no secret."""
        words = ["--name", self.name, "--zone", self.zone, "--netns", self.namespace]
        words += ["--certificate", self.certificate, "--memory", str(self.memory), "--parent", str(os.getpid())]
        for path in self.trust.roots:
            words += ["--root", str(path)]
        for path in self.trust.crls:
            words += ["--crl", str(path)]
        return python("secguard.isolation.agent.stdio", *words, "--key-descriptor", str(descriptor))


def agent_app(door: Door) -> web.Application:
    """The application; it wants to be served over TLS that demands a client certificate."""
    app = web.Application(client_max_size=1024)
    closing = asyncio.Event()

    async def run(request: web.Request) -> web.StreamResponse:
        try:
            caller = await asyncio.to_thread(_judge, door, request.get_extra_info("ssl_object"))
            if door.busy:
                raise RefusedError("isolation.agent.busy", "the agent is running another plan")
        except SecguardError as error:
            logger.warning("refused a call from {}: {}", request.remote, error)
            text = f"{error.code} {error.message}".encode("ascii", "replace").decode().replace("\n", " ")
            status = 409 if error.code == "isolation.agent.busy" else 403
            return web.Response(status=status, headers={REFUSED: text[:500]})
        socket = web.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=MAX_MESSAGE, compress=False, timeout=1)
        if not socket.can_prepare(request).ok:
            return web.Response(status=400, headers={REFUSED: "isolation.control.format not a WebSocket"})
        door.busy = True
        try:
            await socket.prepare(request)
            logger.info("a run of {} begins", caller)
            await _relay(door, socket, closing)
        finally:
            door.busy = False
        return socket

    async def stop(_: web.Application) -> None:
        closing.set()

    app.router.add_get(PATH, run)
    app.on_shutdown.append(stop)
    return app


def _judge(door: Door, channel: Any) -> str:
    """Who calls; refused unless it is an isolation agent's certificate that nobody revoked."""
    chain = peer_chain(channel)
    door.trust.judge_peer(chain, door.clock.now())
    return ", ".join(certificate_names(chain[0])) or chain[0].subject.rfc4514_string()


@contextlib.asynccontextmanager
async def _process(door: Door) -> AsyncIterator[asyncio.subprocess.Process]:
    memory = os.memfd_create("secguard-key", 0)
    try:
        os.write(memory, door.key)
        os.lseek(memory, 0, os.SEEK_SET)
        process = await asyncio.create_subprocess_exec(
            *door.command(memory),
            env=environment(),
            pass_fds=(memory,),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_MESSAGE,
        )
    finally:
        os.close(memory)
    handle = os.pidfd_open(process.pid)  # `process.kill` would race with the loop for the exit status
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
        with contextlib.suppress(ConnectionError):
            await process.communicate()  # to the end of its pipes


async def _relay(door: Door, socket: web.WebSocketResponse, closing: asyncio.Event) -> None:
    async with _process(door) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        tasks = [
            asyncio.create_task(one)
            for one in (_inward(socket, process.stdin), _outward(process.stdout, socket), closing.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    await socket.close()


async def _inward(socket: web.WebSocketResponse, stream: asyncio.StreamWriter) -> None:
    async for message in socket:
        if message.type is not WSMsgType.BINARY:
            return
        stream.write(message.data.replace(b"\n", b" ") + b"\n")
        await stream.drain()


async def _outward(stream: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    while line := await stream.readline():
        await socket.send_bytes(line)
