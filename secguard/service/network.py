"""What the service serves over the network: enrolment, in a process of its own; status and the log, in threads."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secguard.core import UsageError
from secguard.core.listening import listen
from secguard.service.gate import Gate
from secguard.service.office import Office

if TYPE_CHECKING:
    from aiohttp import web

    from secguard.workspace import Workspace

__all__ = ["Network", "Places", "parse_place"]

_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Places:
    """Where to listen, `host:port`; empty: not at all.

    Attributes:
        est: enrolment over TLS.
        status: revocation lists and OCSP over plain HTTP.
        ledger: checkpoint and tiles of the log over plain HTTP.
    """

    est: str = ""
    status: str = ""
    ledger: str = ""

    def __bool__(self) -> bool:
        return bool(self.est or self.status or self.ledger)


def parse_place(text: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`.

    Raises:
        UsageError: `service.place`.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and host[:1] != "["):
        raise UsageError("service.place", f"{text[:60]!r} is not host:port", hint="for example 0.0.0.0:8443")
    return host.strip("[]"), int(port)


class Network:
    """The service's listeners: enrolment by `Office`; status and ledger, each in a thread of this process.

    Args:
        open_workspace: opens the site anew, for one thread alone.
        places: where to listen.
        passphrase_file: opens the CAs' keys.

    Attributes:
        urls: what is served where, once started.
    """

    def __init__(
        self, open_workspace: "Callable[[], Workspace]", places: Places, passphrase_file: Path | None = None
    ) -> None:
        self._open = open_workspace
        self._places = places
        self._passphrase_file = passphrase_file
        self._parts: list[Office | _Served] = []
        self.urls: dict[str, str] = {}

    def start(self) -> None:
        """Listen; returns when all is served.

        Raises:
            SecguardError: a wrong or missing passphrase, an open key file, no server certificate, an address in use.
        """
        if self._places.est:
            host, port = parse_place(self._places.est)
            with contextlib.closing(self._open()) as workspace:
                shown = workspace.config.serve.host or host
            sockets = listen(host, port, "est")
            self._start(Office(self._open, sockets, shown, self._passphrase_file))
            self.urls["est"] = f"https://{_name(sockets[0])}/.well-known/est"
        if self._places.status:
            host, port = parse_place(self._places.status)
            sockets = listen(host, port, "status")
            self._start(_Status(self._open, sockets, self._passphrase_file))
            self.urls["status"] = f"http://{_name(sockets[0])}"
        if self._places.ledger:
            host, port = parse_place(self._places.ledger)
            sockets = listen(host, port, "ledger")
            self._start(_Mirror(self._open, sockets, self._passphrase_file))
            self.urls["ledger"] = f"http://{_name(sockets[0])}"

    def _start(self, part: "Office | _Served") -> None:
        self._parts.append(part)  # what has begun is stopped, whatever comes of it
        part.start()

    def stop(self) -> None:
        """Finish what is under way, and end."""
        for part in reversed(self._parts):
            part.stop()

    @property
    def failure(self) -> BaseException | None:
        """Why a part ended before it was told to; None while all run."""
        return next((part.failure for part in self._parts if part.failure is not None), None)


def _name(one: socket.socket) -> str:
    host, port = one.getsockname()[:2]
    return f"{f'[{host}]' if ':' in host else host}:{port}"


class _Served:
    """Serves an application, in a thread with an event loop of its own."""

    name = ""

    def __init__(
        self,
        open_workspace: "Callable[[], Workspace]",
        sockets: Sequence[socket.socket],
        passphrase_file: Path | None,
    ) -> None:
        self._open = open_workspace
        self._sockets = sockets
        self._passphrase_file = passphrase_file
        self._thread = threading.Thread(target=self._run, name=self.name)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()
        self._started.wait(_START_SECONDS)
        if self.failure is not None:
            self._thread.join()
            raise self.failure

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.ident is not None:
            self._thread.join()
        for one in self._sockets:
            one.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which ends the process
            self.failure = error
        finally:
            self._started.set()

    def _app(self, workspace: "Workspace") -> "web.Application":
        raise NotImplementedError

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        with contextlib.closing(self._open()) as workspace:
            gate = Gate(self._app(workspace), connections=workspace.config.serve.connections)
            await gate.open(self._sockets)
            self._started.set()
            try:
                await self._stop.wait()
            finally:
                await gate.close()


class _Status(_Served):
    """Revocation lists and OCSP."""

    name = "status"

    def _app(self, workspace: "Workspace") -> "web.Application":
        from secguard.identity.status.app import status_app

        authority = workspace.authority(self._passphrase_file)
        for name in authority.signing:
            authority.signer(name)  # a missing passphrase, or a key that others may read, must show now
        return status_app(authority)


class _Mirror(_Served):
    """Checkpoint and tiles of the log."""

    name = "ledger"

    def _app(self, workspace: "Workspace") -> "web.Application":
        from secguard.ledger.mirror import mirror_app

        return mirror_app(workspace.state / "ledger")
