"""What the service serves over the network, in a thread with an event loop of its own: enrolment and status."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from secguard.core import SecguardError, SystemPartError, UsageError
from secguard.service.gate import Gate

if TYPE_CHECKING:
    from aiohttp import web

    from secguard.identity import Authority
    from secguard.identity.enrol.sender import Doorkeeper
    from secguard.workspace import Workspace

__all__ = ["Network", "Places", "parse_place"]

_LOOK_SECONDS = 5
_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Places:
    """Where to listen, `host:port`; empty: not at all.

    Attributes:
        est: enrolment over TLS.
        status: revocation lists and OCSP over plain HTTP.
    """

    est: str = ""
    status: str = ""

    def __bool__(self) -> bool:
        return bool(self.est or self.status)


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
    """The service's listeners.

    Args:
        open_workspace: opens the site anew, for this thread alone.
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
        self._thread = threading.Thread(target=self._run, name="network")
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.urls: dict[str, str] = {}

    def start(self) -> None:
        """Listen; returns when all is served.

        Raises:
            SecguardError: a wrong or missing passphrase, an open key file, no server certificate, an address in use.
        """
        self._thread.start()
        self._started.wait(_START_SECONDS)
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Finish what is under way, and end."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def failure(self) -> BaseException | None:
        """Why the thread ended before it was told to; None while it runs."""
        return self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which ends the process
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        gates: list[Gate] = []
        workspaces: list[Workspace] = []

        def authority() -> "Authority":
            workspaces.append(self._open())
            opened = workspaces[-1].authority(self._passphrase_file)
            for name in opened.signing:
                opened.signer(name)  # a missing passphrase, or a key that others may read, must show now
            return opened

        try:
            follow: _Server | None = None
            if self._places.est:
                from secguard.identity.enrol.app import DOORKEEPER, ENROLMENT, est_app, refusals
                from secguard.identity.enrol.wire import Base64

                issuing = authority()
                serve = workspaces[-1].config.serve
                layouts = {label: Base64(layout) for label, layout in serve.base64.items()}
                app = est_app(issuing, base64=layouts, grace_hours=serve.grace_hours)
                place = parse_place(self._places.est)
                follow = _Server(issuing, app[DOORKEEPER], serve.host or place[0])
                _add_health(app, follow)
                refused = refusals(app[ENROLMENT])
                gates.append(Gate(app, follow.context, connections=serve.connections, refused=refused))
                await self._listen(gates[-1], "est", place, "https://{}/.well-known/est")
            if self._places.status:
                from secguard.identity.status.app import status_app

                app = status_app(authority())
                gates.append(Gate(app, connections=workspaces[-1].config.serve.connections))
                await self._listen(gates[-1], "status", parse_place(self._places.status), "http://{}")
            self._started.set()
            while not self._stop.is_set():
                try:
                    await asyncio.wait_for(self._stop.wait(), _LOOK_SECONDS)
                except TimeoutError:
                    if follow is not None:
                        follow.look()
        finally:
            for gate in reversed(gates):
                await gate.close()
            for workspace in workspaces:
                workspace.close()

    async def _listen(self, gate: Gate, name: str, place: tuple[str, int], url: str) -> None:
        host, port = place
        try:
            await gate.open(host, port)
        except OSError as error:
            raise SystemPartError(
                "service.listen",
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                hint="is another service there? choose another port",
                where=name,
            ) from error
        real_host, real_port = gate.address
        self.urls[name] = url.format(f"{f'[{real_host}]' if ':' in real_host else real_host}:{real_port}")


class _Server:
    """The service's own certificate, followed when it is renewed; and the anchors of the clients'."""

    def __init__(self, authority: "Authority", doorkeeper: "Doorkeeper", host: str) -> None:
        self._authority, self._doorkeeper, self._host = authority, doorkeeper, host
        self._seen: tuple[object, ...] = ()
        self._context: ssl.SSLContext | None = None
        self.not_after = ""
        self._load()

    def context(self) -> ssl.SSLContext:
        """What the next connection is served with."""
        assert self._context is not None
        return self._context

    def look(self) -> None:
        """Take up a renewed certificate, or changed anchors; where that fails the old ones stay in use."""
        try:
            self._load()
        except (SecguardError, OSError) as error:
            logger.error("the server certificate stays as it was: {}", error)

    def _load(self) -> None:
        from secguard.service.tls import find_server, server_context

        record = find_server(self._doorkeeper.registry, self._host)
        anchors = self._doorkeeper.anchors
        seen = (record.issuer, record.serial, anchors)
        if seen != self._seen:
            self._context = server_context(self._authority, record, anchors)
            self._seen, self.not_after = seen, record.not_after


def _add_health(app: "web.Application", server: _Server) -> None:
    from aiohttp import web

    from secguard.identity.enrol.app import ENROLMENT

    async def health(_: web.Request) -> web.Response:
        alive = app[ENROLMENT].alive
        facts = {"status": "ok" if alive else "failed", "certificate_until": server.not_after}
        return web.json_response(facts, status=200 if alive else 503)

    app.router.add_get("/healthz", health)
