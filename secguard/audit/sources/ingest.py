"""The source that takes events in over HTTP: `POST /v1/events`, JSON lines, answered when they are on the disk.

Sending again is safe: an event has its own ID, or one that follows from the sender, the position it names (header
`Secguard-Position`), or else from the bytes of the request, and from the number of the line.
"""

import asyncio
import hashlib
import io
import re
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from secguard.audit.sources.feeds import Desk, Peers
from secguard.audit.sources.identities import Revoked, certificate_names
from secguard.audit.sources.intake import Committer, Delivery, Settled
from secguard.audit.sources.settings import HttpSource
from secguard.audit.sources.sockets import name_of, open_place
from secguard.audit.sources.tokens import Tokens
from secguard.core import FormatError

if TYPE_CHECKING:
    import socket

    from aiohttp import web

__all__ = ["Door", "HttpFeed", "Opener"]

_POSITION = re.compile(r"[\x21-\x7e]{1,200}")
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})
_LISTED = 100
_LINES = 20_000
_DURABLE_SECONDS = 30.0
_INFLIGHT = 4
"""Bodies as large as allowed that may be read at once."""


class Door(Protocol):
    """Accepts connections for an application."""

    async def open(self, sockets: "Sequence[socket.socket]") -> None:
        """Start."""
        ...

    async def close(self) -> None:
        """Accept nothing more, and finish what is under way."""
        ...


Opener = Callable[["web.Application", "Callable[[], ssl.SSLContext] | None", int, Callable[[str, str], None]], Door]
"""Makes the door of an application: its TLS context if any, how many connections at once, and who is told of the
address and the reason where a handshake refused a client's certificate."""


class HttpFeed:
    """Takes events in over HTTP.

    Args:
        desk: takes the lines.
        settings: where to listen.
        context: TLS of this server; None for plain HTTP.
        tokens: which are allowed.
        committer: says whether the ledger records.
        opener: makes the door.
    """

    def __init__(
        self,
        desk: Desk,
        settings: HttpSource,
        context: ssl.SSLContext | None,
        *,
        tokens: Tokens,
        committer: Committer,
        opener: Opener,
    ) -> None:
        self._desk = desk
        self._settings = settings
        self.revoked: Revoked = lambda _: False
        self._context = context
        self._tokens = tokens
        self._committer = committer
        self._opener = opener
        self._peers = Peers(settings.peers)
        self._door: Door | None = None
        self._inflight = 0
        self._stopping = False

    async def start(self) -> None:
        """Listen.

        Raises:
            SystemPartError: `service.listen`.
        """
        import socket

        context = self._context
        self._door = self._opener(
            self.application(),
            (lambda: context) if context is not None else None,
            self._settings.connections,
            self._desk.meter.turn_away,
        )
        sockets = open_place(self._settings.listen, socket.SOCK_STREAM)
        scheme = "https" if context is not None else "http"
        self._desk.meter.health.places = [f"{scheme}://{name_of(one)}/v1/events" for one in sockets]
        await self._door.open(sockets)

    def look(self, now: float) -> None:
        """Nothing is lost here that is not said to the sender."""

    async def stop(self) -> None:
        """Answer what is under way, take nothing more."""
        self._stopping = True
        if self._door is not None:
            await self._door.close()

    def close(self) -> None:
        """Nothing is left to close."""

    def application(self) -> "web.Application":
        """The aiohttp application."""
        from aiohttp import web

        app = web.Application(client_max_size=self._settings.body_mb << 20)
        app.router.add_post("/v1/events", self._post)
        app.router.add_get("/healthz", self._health)
        return app

    async def _health(self, _: "web.Request") -> "web.Response":
        from aiohttp import web

        problem = self._committer.problem
        return web.json_response({"status": "failed" if problem else "ok"}, status=503 if problem else 200)

    def _refuse(self, status: int, code: str, message: str, peer: str = "", **headers: str) -> "web.Response":
        """Answer that nothing was taken; with `peer`, because it may not send at all."""
        from aiohttp import web

        if peer:
            self._desk.meter.turn_away(peer, message)
        else:
            self._desk.meter.health.refused += 1
        return web.json_response({"code": code, "message": message}, status=status, headers=headers)

    def _sender(self, request: "web.Request") -> tuple[str, str, "web.Response | None"]:
        """Who sends: a name, the name in its certificate, or why it may not."""
        settings = self._settings
        peer = request.remote or ""
        if not self._peers.admits(peer):
            return "", "", self._refuse(403, "audit.http.peer", "this address may not send", peer)
        transport = request.transport
        tls: Any = transport.get_extra_info("ssl_object") if transport is not None else None
        shown: bytes | None = tls.getpeercert(binary_form=True) if tls is not None else None
        names = certificate_names(shown)
        certificate = names.shown if shown and names.match(settings.clients) and not self.revoked(shown) else ""
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        holder = self._tokens.holder(secret.strip(), self._desk.name) if scheme.lower() == "bearer" else None
        enough = {
            "either": bool(certificate) or holder is not None,
            "token": holder is not None,
            "certificate": bool(certificate),
            "both": bool(certificate) and holder is not None,
        }[settings.require]
        if not enough:
            return (
                "",
                "",
                self._refuse(
                    401,
                    "audit.http.sender",
                    "no token or certificate that is allowed",
                    peer,
                    **{"WWW-Authenticate": "Bearer"},
                ),
            )
        return holder or certificate, certificate, None

    async def _post(self, request: "web.Request") -> "web.Response":
        from aiohttp import web

        if self._stopping:
            return self._refuse(503, "audit.http.stopping", "the service ends", **{"Retry-After": "5"})
        sender, certificate, refused = self._sender(request)
        if refused is not None:
            return refused
        if request.headers.get("Content-Encoding", "identity").strip().lower() not in _ENCODINGS:
            packed = {"Accept-Encoding": "gzip, deflate"}  # RFC 9110, section 12.5.3; else its bytes were put aside
            return self._refuse(415, "audit.http.encoding", "a body is plain, gzip or deflate", **packed)
        limit = self._settings.body_mb << 20
        if (request.content_length or 0) > limit:
            return self._refuse(413, "audit.http.size", f"a request has at most {limit} bytes")
        if self._committer.problem:
            return self._refuse(503, "audit.http.ledger", "the ledger does not record now", **{"Retry-After": "5"})
        reserved = request.content_length or limit
        if self._desk.intake.full or self._inflight + reserved > _INFLIGHT * limit:
            return self._refuse(429, "audit.http.busy", "too much is waiting", **{"Retry-After": "1"})
        self._inflight += reserved
        try:
            try:
                body = await self._body(request, limit)
            except web.RequestPayloadError:
                message = "the body is not what its headers say"
                return self._refuse(400, "audit.http.body", message, Connection="close")
            if body is None or body.count(b"\n") > _LINES:
                return self._refuse(413, "audit.http.size", f"a request has at most {limit} bytes and {_LINES} lines")
            return await self._take(request, body, sender, certificate)
        finally:
            self._inflight -= reserved

    @staticmethod
    async def _body(request: "web.Request", limit: int) -> bytes | None:
        parts = bytearray()
        async for part in request.content.iter_any():
            parts += part
            if len(parts) > limit:
                return None
        return bytes(parts)

    async def _take(self, request: "web.Request", body: bytes, sender: str, certificate: str) -> "web.Response":
        from aiohttp import web

        position = request.headers.get("Secguard-Position", "")
        if position and not _POSITION.fullmatch(position):
            return self._refuse(400, "audit.http.position", "Secguard-Position: 1 to 200 visible ASCII characters")
        stem = hashlib.sha256(f"{sender}\n{position}\n".encode() + (b"" if position else body)).hexdigest()[:40]
        desk, delivery = self._desk, Delivery()
        received = desk.clock.now()
        peer = request.remote or ""
        answer: dict[str, Any] = {"received": 0, "recorded": 0, "duplicates": 0, "ignored": 0, "rejected": 0}
        listed: list[dict[str, Any]] = []
        lines: list[int] = []
        for number, line in enumerate(io.BytesIO(body), 1):
            if number % 64 == 0:
                await asyncio.sleep(0)  # others have their turn
            raw = line.rstrip(b"\r\n")
            if not raw.strip():
                continue
            answer["received"] += 1
            read, _ = desk.take(
                delivery,
                raw,
                received,
                place={"transport": "http", "peer": peer, "sender": sender, "line": number},
                derived=f"{desk.name}:{stem}:{number}",
                peer=peer,
                certificate=certificate,
                live=False,
            )
            if read is None:
                answer["ignored"] += 1
                continue
            lines.append(number)
            if isinstance(read, FormatError):
                answer["rejected"] += 1
                if len(listed) < _LISTED:
                    listed.append({"line": number, "code": read.code, "reason": str(read)[:500]})
        if delivery.events:
            settled = await self._durable(delivery)
            if settled is None:
                return self._refuse(503, "audit.http.ledger", "not durable yet; send again", **{"Retry-After": "5"})
            answer["recorded"], answer["duplicates"] = settled.recorded, settled.duplicates
            answer["rejected"] += len(settled.conflicts)
            listed += [
                {"line": lines[place], "code": "audit.record.conflict", "reason": reason}
                for place, reason in settled.conflicts.items()
            ][: max(0, _LISTED - len(listed))]
        answer["problems"] = listed
        none = answer["rejected"] and answer["rejected"] == answer["received"]
        return web.json_response(answer, status=422 if none else 200)

    async def _durable(self, delivery: Delivery) -> Settled | None:
        """What became of a delivery, once it is on the disk; None if that takes too long."""
        future: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        delivery.done = lambda settled: None if future.done() else future.set_result(settled)
        self._desk.intake.put(delivery)
        try:
            return await asyncio.wait_for(future, _DURABLE_SECONDS)
        except TimeoutError:
            return None
