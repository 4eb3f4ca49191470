"""EST over HTTP (RFC 7030, RFC 8951, RFC 9908): an aiohttp application; TLS is the service's.

The transport must be TLS that asks for a client certificate and lets one go without: what a certificate is worth is
decided here. Answers to mistakes are one line of plain text that an installer understands.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from ssl import SSLObject

from aiohttp import web
from loguru import logger

from secguard.core import FormatError, RefusedError, SecguardError, SystemPartError, UsageError
from secguard.identity.authority import Authority
from secguard.identity.enrol.enrolment import Caller, Enrolment, TooManyError
from secguard.identity.enrol.registrar import Certifier, Registrar
from secguard.identity.enrol.sender import Doorkeeper
from secguard.identity.enrol.wire import MAX_BODY, Base64, encode_body, layout_for, multipart
from secguard.identity.registry import Registry

__all__ = ["DOORKEEPER", "ENROLMENT", "est_app", "refusals"]

ENROLMENT = web.AppKey("enrolment", Enrolment)
DOORKEEPER = web.AppKey("doorkeeper", Doorkeeper)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PKCS10 = {"application/pkcs10", "application/x-pkcs10"}
_CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"
_BODY_SECONDS = 20
_FLUSH_SECONDS = 60
_REFRESH_SECONDS = 5
_UNKNOWN_WHO = {"identity.enrol.unauthenticated", "identity.enrol.secret", "identity.enrol.authorization"}
_NOT_FOUND = {"identity.enrol.label"}
_MALFORMED = {"identity.csr.signature", "identity.csr.key", "identity.enrol.subject", "identity.enrol.binding"}


def est_app(
    authority: Authority,
    *,
    base64: Mapping[str, Base64] | None = None,
    grace_hours: float = 24,
    registrar: Certifier | None = None,
) -> web.Application:
    """EST for a site.

    Args:
        authority: the site's CAs, with their passphrase; used by the application alone while it runs.
        base64: the layout of base64 by label, and under `default`; see `wire.layout_for`.
        grace_hours: see `Doorkeeper`.
        registrar: certifies; None: a thread of this process does, with `authority`.

    Raises:
        UsageError: no or a wrong passphrase, when it starts.
        FormatError: a file in certs/makers cannot be read.
    """
    layouts = dict(base64 or {})
    registry = Registry.open(authority.registry.path)
    doorkeeper = Doorkeeper(authority, registry, grace_hours)
    registrar = registrar or Registrar(authority)
    enrolment = Enrolment(authority, registrar, doorkeeper)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_plainly])
    app[ENROLMENT], app[DOORKEEPER] = enrolment, doorkeeper

    _ = authority.profiles  # a profile that cannot be read must show at the start

    async def life(_: web.Application) -> AsyncIterator[None]:
        registrar.start()
        chores = asyncio.create_task(_chores(enrolment, doorkeeper))
        yield
        chores.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await chores
        with contextlib.suppress(SecguardError):
            await enrolment.flush()
        await registrar.stop()
        registry.close()

    app.cleanup_ctx.append(life)

    def answer(request: web.Request, kind: str, data: bytes) -> web.Response:
        wrapped = layout_for(_label(request), request.headers.get("User-Agent", ""), layouts)
        return web.Response(
            body=encode_body(data, wrapped=wrapped),
            # RFC 8951 has clients ignore the encoding's name; those of before ask for it.
            headers={"Content-Type": kind, "Content-Transfer-Encoding": "base64"},
        )

    async def cacerts(request: web.Request) -> web.Response:
        return answer(request, _CERTS_ONLY, enrolment.ca_certificates(_label(request)))

    async def csrattrs(request: web.Request) -> web.Response:
        data = enrolment.attributes(_caller(request), _label(request))
        return web.Response(status=204) if data is None else answer(request, "application/csrattrs", data)

    def operation(name: str, act: Callable[[Caller, web.Request], Awaitable[web.Response]]) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            caller = _caller(request)
            try:
                return await act(caller, request)
            except (web.HTTPClientError, SecguardError) as error:
                problem = error if isinstance(error, SecguardError) else _refusal(error)
                await enrolment.refuse(problem, caller, name, _label(request))
                raise

        return handle

    async def enrol(caller: Caller, request: web.Request) -> web.Response:
        data = await enrolment.enrol(caller, _label(request), await _body(request), renew=False)
        return answer(request, _CERTS_ONLY, data)

    async def reenrol(caller: Caller, request: web.Request) -> web.Response:
        data = await enrolment.enrol(caller, _label(request), await _body(request), renew=True)
        return answer(request, _CERTS_ONLY, data)

    async def make_key(caller: Caller, request: web.Request) -> web.Response:
        key, data = await enrolment.make_key(caller, _label(request), await _body(request))
        boundary = secrets.token_hex(16)
        wrapped = layout_for(_label(request), request.headers.get("User-Agent", ""), layouts)
        parts = [("application/pkcs8", key), (_CERTS_ONLY, data)]
        body = multipart([(kind, encode_body(part, wrapped=wrapped)) for kind, part in parts], boundary)
        return web.Response(
            body=body,
            headers={"Content-Type": f"multipart/mixed; boundary={boundary}", "Cache-Control": "no-store"},
        )

    for prefix in ("/.well-known/est", "/.well-known/est/{label}"):
        app.router.add_get(f"{prefix}/cacerts", cacerts)
        app.router.add_get(f"{prefix}/csrattrs", csrattrs)
        for name, act in (("simpleenroll", enrol), ("simplereenroll", reenrol), ("serverkeygen", make_key)):
            app.router.add_post(f"{prefix}/{name}", operation(name, act))
    return app


def refusals(enrolment: Enrolment) -> Callable[[str, str], None]:
    """Make what records client certificates that a handshake refused; call it in the loop: address, reason."""
    tasks: set[asyncio.Task[None]] = set()

    async def record(address: str, why: str) -> None:
        error = RefusedError("identity.enrol.handshake", f"the client's certificate is not accepted: {why}")
        with contextlib.suppress(SecguardError):
            await enrolment.refuse(error, Caller(address), "handshake", "")

    def refused(address: str, why: str) -> None:
        task = asyncio.get_running_loop().create_task(record(address, why))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return refused


def _label(request: web.Request) -> str:
    return request.match_info.get("label", "")


def _caller(request: web.Request) -> Caller:
    """Who is at the other end.

    Raises:
        RefusedError: `identity.est.plain`: the connection is not TLS.
    """
    tls = request.get_extra_info("ssl_object")
    if not isinstance(tls, SSLObject):
        raise RefusedError("identity.est.plain", "EST needs TLS", hint="use https")
    # TLS 1.3 has no tls-unique, though OpenSSL would give something for it
    unique = tls.get_channel_binding("tls-unique") if tls.version() == "TLSv1.2" else None
    return Caller(
        request.remote or "",
        tls.getpeercert(binary_form=True),
        request.headers.get("Authorization", ""),
        unique,
    )


async def _body(request: web.Request) -> bytes:
    if request.content_type not in _PKCS10:
        raise web.HTTPUnsupportedMediaType(text="send a certificate request, Content-Type: application/pkcs10")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(text="send the request as it is, without Content-Encoding")
    if (request.content_length or 0) > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY, request.content_length or 0)
    if request.content.is_eof():  # it came along with its head, as most do
        return await request.read()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the request came too slowly") from None


def _refusal(error: web.HTTPException) -> SecguardError:
    return RefusedError(f"identity.est.http-{error.status}", _text(error))


def _text(error: web.HTTPException) -> str:
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return f"the request is larger than {MAX_BODY} bytes"
    if error.status == HTTPStatus.NOT_FOUND:
        return "no such path; EST is below /.well-known/est: cacerts, csrattrs, simpleenroll, simplereenroll"
    return error.text if error.text and not error.text[:1].isdigit() else error.reason


def _status(error: SecguardError) -> int:
    if isinstance(error, TooManyError):
        return HTTPStatus.TOO_MANY_REQUESTS
    if isinstance(error, SystemPartError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if error.code in _UNKNOWN_WHO:
        return HTTPStatus.UNAUTHORIZED
    if error.code in _NOT_FOUND:
        return HTTPStatus.NOT_FOUND
    if error.code in _MALFORMED or isinstance(error, FormatError):
        return HTTPStatus.BAD_REQUEST
    if isinstance(error, RefusedError) and error.code.startswith("identity."):
        return HTTPStatus.FORBIDDEN
    if isinstance(error, UsageError) and error.code.startswith(("identity.", "gbid.")):
        return HTTPStatus.FORBIDDEN
    return HTTPStatus.SERVICE_UNAVAILABLE  # the ledger refuses, a key cannot be opened: not the device's fault


@web.middleware
async def _plainly(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer errors in one line of plain text."""
    try:
        return await handler(request)
    except SecguardError as error:
        status = _status(error)
        text = f"{error.message}; {error.hint}" if error.hint else error.message
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            logger.warning("{} {}: {}: {}", request.method, request.path, error.code, error)
            text = "the site cannot certify now; try again in a while"
        headers = {}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Basic realm="secguard EST", charset="UTF-8"'
        if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
            headers["Retry-After"] = str(error.seconds if isinstance(error, TooManyError) else 30)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        status, text = error.status, _text(error)
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    except Exception as error:  # noqa: BLE001 - a device gets a sentence, never a traceback
        logger.opt(exception=error).error("{} {}", request.method, request.path[:200])
        status, text, headers = HTTPStatus.INTERNAL_SERVER_ERROR, "an error of the site's; see its log", {}
    printable = "".join(c if c.isprintable() else "?" for c in text)
    response = web.Response(status=status, text=f"{printable}\n", headers=headers)
    if not request.content.is_eof():
        response.force_close()  # what was not read is not waited for
    return response


async def _chores(enrolment: Enrolment, doorkeeper: Doorkeeper) -> None:
    """Tell the ledger of floods; follow changes of CAs and makers."""
    rounds = 0
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        rounds += 1
        try:
            doorkeeper.refresh()
            if rounds * _REFRESH_SECONDS % _FLUSH_SECONDS == 0:
                await enrolment.flush()
        except SecguardError as error:
            logger.error("{}: {}", error.code, error)
        except OSError as error:
            logger.error("certs/makers: {}", error)
