"""A witness over HTTP (C2SP tlog-witness), to be served alone or below a prefix; the protocol needs no sign-in."""

import asyncio
import re

from aiohttp import web
from loguru import logger

from secguard.core.errors import SecguardError
from secguard.ledger.witness.request import MAX_REQUEST
from secguard.ledger.witness.witness import Witness

__all__ = ["witness_app"]

_HASH = re.compile(r"[0-9a-f]{64}")
_BODY_SECONDS = 10


def witness_app(witness: Witness) -> web.Application:
    """The application: `POST /add-checkpoint`, `GET /<SHA-256 of an origin>/checkpoint`, `GET /healthz`.

    Args:
        witness: answers.
    """
    desk = _Desk(witness)
    app = web.Application(client_max_size=MAX_REQUEST)
    app.add_routes(
        [
            web.post("/add-checkpoint", desk.add),
            web.get("/healthz", desk.health),
            web.get("/{origin}/checkpoint", desk.seen),
        ]
    )
    return app


class _Desk:
    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._failed = ""

    async def add(self, request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        try:
            reply = await asyncio.to_thread(self._witness.add_checkpoint, body)
        except SecguardError as error:
            self._failed = error.code
            logger.error("nothing was cosigned: {}: {}", error.code, error)
            raise web.HTTPServiceUnavailable from error
        self._failed = ""
        level = {200: "INFO", 422: "ERROR"}.get(reply.status, "WARNING")
        logger.log(level, "{}: {} {}", request.remote, reply.status, reply.reason)
        headers = {"Content-Type": reply.kind, "Cache-Control": "no-store"}
        return web.Response(status=reply.status, body=reply.body, headers=headers)

    async def seen(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["origin"]
        try:
            note = await asyncio.to_thread(self._witness.seen, name) if _HASH.fullmatch(name) else None
        except SecguardError as error:
            logger.error("{}: {}", error.code, error)
            raise web.HTTPServiceUnavailable from error
        if note is None:
            raise web.HTTPNotFound
        headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache"}
        return web.Response(body=note, headers=headers)

    async def health(self, _: web.Request) -> web.StreamResponse:
        body = {"status": "failing" if self._failed else "ok", "logs": len(self._witness.origins)}
        return web.json_response(body, status=503 if self._failed else 200, headers={"Cache-Control": "no-store"})
