"""Where anyone asks for the status of certificates, over plain HTTP: lists, OCSP, and the CAs' own certificates.

Everything told here is signed, so nothing is lost without TLS; RFC 5280 (section 8) warns of a circle otherwise.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import re
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import unquote_to_bytes

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from loguru import logger

from secguard.core import SecguardError
from secguard.core.limits import read_bounded
from secguard.identity.authority import Authority
from secguard.identity.certificate import ROOT
from secguard.identity.registry import Registry
from secguard.identity.status.delegate import delegates
from secguard.identity.status.ocsp import INTERNAL_ERROR, Answer, Responder
from secguard.identity.status.publish import overdue, publish
from secguard.identity.status.request import MAX_REQUEST
from secguard.trust import chain_pem

__all__ = ["status_app"]

_TICK = 15.0
"""Seconds between two looks at lists, CAs and responders' certificates."""
_MAX_AGE = 3600
"""Seconds for which caches may keep a list: a revocation is seen by all within the hour, not at nextUpdate."""
_MAX_AGE_OCSP = 300
_BODY_SECONDS = 10
_MAX_LIST = 256 << 20
_LIST = re.compile(r"([a-z][a-z0-9-]{0,39})(\.(0|[1-9][0-9]{0,5}))?\.crl")
_CA = re.compile(r"([a-z][a-z0-9-]{0,39})\.cer")


def status_app(authority: Authority) -> web.Application:
    """The application, to be served over plain HTTP, by itself or mounted below a prefix.

    While it runs, it publishes lists before they grow old, finishes what a killed revocation left, and renews the
    certificates of its OCSP keys. Without a passphrase it serves what is there, and OCSP as long as its keys open.

    `GET /crl/<ca>[.<shard>].crl`, `POST /ocsp`, `GET /ocsp/<base64>`, `GET /ca/<ca>.cer`, `GET /ca/chain.pem`,
    `GET /healthz`.

    Args:
        authority: the site's CAs, opened.
    """
    desk = _Desk(authority)
    app = web.Application(client_max_size=MAX_REQUEST)
    app.cleanup_ctx.append(desk.run)
    app.add_routes(
        [
            web.get("/crl/{file}", desk.crl),
            web.post("/ocsp", desk.ocsp_post),
            web.post("/ocsp/", desk.ocsp_post),
            web.get("/ocsp/{request:.*}", desk.ocsp_get),
            web.get("/ca/chain.pem", desk.chain),
            web.get("/ca/{file}", desk.ca),
            web.get("/healthz", desk.health),
        ]
    )
    return app


class _Desk:
    """What the handlers share."""

    def __init__(self, authority: Authority) -> None:
        self._site = authority
        self._problems: dict[str, str] = {}
        self._ready: list[str] = []
        self._next_updates: dict[str, tuple[int, int, datetime | None]] = {}
        self._responder: Responder | None = None

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Keep lists and keys fresh while the application runs."""
        registry = Registry.open(self._site.registry.path)
        self._responder = Responder(registry, self._site.clock)
        await asyncio.to_thread(self._refresh)
        task = asyncio.create_task(self._keep_fresh())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            registry.close()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        """One look at everything; what fails is logged once, and tried again at the next."""
        problems: dict[str, str] = {}
        try:
            self._site.refresh()
            found, failed = delegates(self._site)
            problems |= {f"ocsp {name}": f"{error.code}: {error}" for name, error in failed.items()}
            if self._responder is not None:
                self._responder.serve(self._site.certificates.items(), found)
            self._ready = [item.issuer for item in found]
            if overdue(self._site) or self._site.registry.outbox():
                publish(self._site)
        except SecguardError as error:
            problems["lists"] = f"{error.code}: {error}"
        except Exception as error:  # noqa: BLE001 - the service goes on, and says that it is not well
            problems["internal"] = repr(error)
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                logger.error("status service, {}: {}", name, problem)
        self._problems = problems

    async def crl(self, request: web.Request) -> web.StreamResponse:
        """A revocation list, DER."""
        name = request.match_info["file"]
        match = _LIST.fullmatch(name)
        path = self._site.crl_folder / name
        if match is None or match[1] not in self._site.cas or not await asyncio.to_thread(path.is_file):
            raise web.HTTPNotFound
        until = await asyncio.to_thread(self._next_update, path)
        left = int((until - self._site.clock.now()).total_seconds()) if until else 0
        headers = {"Content-Type": "application/pkix-crl", "X-Content-Type-Options": "nosniff"}
        headers["Cache-Control"] = f"public, max-age={min(left, _MAX_AGE)}" if left > 0 else "no-cache"
        return web.FileResponse(path, headers=headers)

    def _next_update(self, path: Path) -> datetime | None:
        """NextUpdate of a list; a list is parsed once."""
        with contextlib.suppress(OSError, ValueError, SecguardError):
            stat = path.stat()
            known = self._next_updates.get(path.name)
            if known is None or known[:2] != (stat.st_mtime_ns, stat.st_size):
                crl = x509.load_der_x509_crl(read_bounded(path, _MAX_LIST))
                known = stat.st_mtime_ns, stat.st_size, crl.next_update_utc
                self._next_updates[path.name] = known
            return known[2]
        return None

    async def ca(self, request: web.Request) -> web.StreamResponse:
        """A CA's certificate, DER (RFC 5280, 4.2.2.1)."""
        match = _CA.fullmatch(request.match_info["file"])
        certificate = self._site.certificates.get(match[1]) if match else None
        if certificate is None:
            raise web.HTTPNotFound
        return _document(request, certificate.public_bytes(Encoding.DER), "application/pkix-cert")

    async def chain(self, request: web.Request) -> web.StreamResponse:
        """All CAs of the site, PEM, the root last; also those that issue no more but still answer."""
        names = sorted(self._site.certificates, key=lambda name: (name == ROOT, name))
        data = chain_pem([self._site.certificates[name] for name in names])
        return _document(request, data, "application/x-pem-file")

    async def ocsp_post(self, request: web.Request) -> web.StreamResponse:
        """OCSP by POST (RFC 6960, A.1)."""
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                data = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        return self._reply(self._respond(data))

    async def ocsp_get(self, request: web.Request) -> web.StreamResponse:
        """OCSP by GET; the request is the base64 after `/ocsp/`, percent-encoded or not."""
        raw = request.rel_url.raw_path.partition("/ocsp/")[2]
        text = unquote_to_bytes(raw).rstrip(b"=")
        try:
            if len(text) > 2 * MAX_REQUEST:
                raise ValueError
            data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            data = b""
        answer = self._respond(data)
        reply = self._reply(answer)
        if answer.this_update is not None and answer.next_update is not None:
            left = int((answer.next_update - self._site.clock.now()).total_seconds())
            reply.headers["Cache-Control"] = (
                f"public, max-age={max(0, min(left, _MAX_AGE_OCSP))}, no-transform, must-revalidate"
            )
            reply.headers["ETag"] = f'"{hashlib.sha256(answer.der).hexdigest()[:32]}"'
            reply.headers["Last-Modified"] = _http_date(answer.this_update)
            reply.headers["Expires"] = _http_date(answer.next_update)
        return reply

    def _respond(self, data: bytes) -> Answer:
        try:
            assert self._responder is not None
            return self._responder.respond(data)
        except (SecguardError, sqlite3.Error, OSError) as error:
            logger.error("OCSP: {}", error)
            return INTERNAL_ERROR

    def _reply(self, answer: Answer) -> web.Response:
        return web.Response(
            body=answer.der, content_type="application/ocsp-response", headers={"Cache-Control": "no-store"}
        )

    async def health(self, _: web.Request) -> web.StreamResponse:
        """200 when all lists are fresh and every CA's responder has its key; else 503 with what is not."""
        body = {
            "status": "failing" if self._problems else "ok",
            "ocsp": self._ready,
            "problems": sorted(self._problems),
        }
        return web.json_response(body, status=503 if self._problems else 200, headers={"Cache-Control": "no-store"})


def _http_date(at: datetime) -> str:
    return format_datetime(at.astimezone(UTC), usegmt=True)


def _document(request: web.Request, data: bytes, kind: str) -> web.Response:
    """A small file with its digest as ETag."""
    digest = hashlib.sha256(data).hexdigest()[:32]
    headers = {"ETag": f'"{digest}"', "Cache-Control": "public, max-age=3600"}
    if any(item.value in {digest, "*"} for item in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=data, content_type=kind, headers=headers)
