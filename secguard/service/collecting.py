"""Collecting for a site: the collector of `secguard.audit` with the site's ledger, certificates and doors."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from secguard.audit.sources.collector import Collector, Status, read_status
from secguard.audit.sources.identities import tls_context, trust
from secguard.audit.sources.ingest import Door, Opener
from secguard.audit.sources.settings import HttpSource, SyslogSource, load_sources
from secguard.audit.sources.sockets import parse_place
from secguard.core import SecguardError, UsageError
from secguard.events import close_dangling, ending_id
from secguard.service.gate import Gate
from secguard.trust import chain_pem, read_certificates

if TYPE_CHECKING:
    from aiohttp import web
    from cryptography import x509

    from secguard.workspace import Workspace

__all__ = ["Collecting", "collect"]


def collect(
    workspace: "Workspace",
    stop: asyncio.Event,
    *,
    passphrase_file: Path | None = None,
    ready: Callable[[dict[str, list[str]]], None] = lambda _: None,
) -> "asyncio.Task[Status]":
    """Start collecting in the running loop; the task ends when `stop` is set and everything is recorded.

    Args:
        workspace: an open workspace.
        stop: ends it.
        passphrase_file: opens the key of the site's own server certificate, where a source uses it.
        ready: called once with the places of each source.
    """
    _close_killed(workspace)
    collector = Collector(
        load_sources(workspace.config.audit.sources),
        root=workspace.root,
        state=workspace.state / "audit",
        log=workspace.ledger,
        clock=workspace.clock,
        actor=workspace.actor(),
        contexts=lambda _, settings: _context(workspace, settings, passphrase_file),
        opener=cast("Opener", _door),
        revoked=lambda certificate: _revoked(workspace, certificate),
    )
    return asyncio.get_running_loop().create_task(collector.run(stop, ready))


def _close_killed(workspace: "Workspace") -> None:
    """Record the end of a run that was killed, by what it said of itself: this must not wait for the index."""
    before = read_status(workspace.state / "audit")
    ledger = workspace.ledger
    with contextlib.suppress(SecguardError):  # deleted by retention; or nothing can be recorded: the run says so itself
        place = ledger.find(before.act) if before is not None and before.act else None
        if place is not None and ledger.find(ending_id(opening := ledger.event(place))) is None:
            close_dangling([opening], ledger, workspace.clock)


def _door(
    app: "web.Application",
    context: Callable[[], ssl.SSLContext] | None,
    connections: int,
    refused: Callable[[str, str], None],
) -> Door:
    return Gate(app, context, connections=connections, refused=refused)


def _context(
    workspace: "Workspace", settings: SyslogSource | HttpSource, passphrase_file: Path | None
) -> ssl.SSLContext | None:
    """TLS of a source: by files that its table names, or the site's own server certificate and CAs."""
    if isinstance(settings, HttpSource):
        place, demand = settings.listen, settings.require in {"certificate", "both"}
        if settings.plain:
            return None
    else:
        place, demand = settings.tls, True
        if not place:
            return None
    root = workspace.root
    crl = root / settings.crl if settings.crl else None
    anchors = read_certificates(root / settings.ca) if settings.ca else _site_anchors(workspace)
    if not anchors and demand:
        raise UsageError("audit.source.tls", "no CA is named for clients", hint="set ca", where=place)
    if settings.certificate:
        ca = chain_pem(anchors).decode("ascii") if anchors else None
        return tls_context(root / settings.certificate, root / settings.key, ca, crl=crl, demand=demand)
    return _site_context(workspace, place, anchors, crl, demand=demand, passphrase_file=passphrase_file)


def _site_anchors(workspace: "Workspace") -> "list[x509.Certificate]":
    """The root, and the CAs below it, which clients need not send; none where there is no authority."""
    if not workspace.root_certificate.exists():
        return []
    below = [record.x509() for record in workspace.registry.authorities().values()]
    return list(dict.fromkeys([*read_certificates(workspace.root_certificate), *below]))


def _site_context(
    workspace: "Workspace",
    place: str,
    anchors: "list[x509.Certificate]",
    crl: Path | None,
    *,
    demand: bool,
    passphrase_file: Path | None,
) -> ssl.SSLContext:
    """TLS with the certificate that the site has issued for this host (`identity issue HOST --profile server`)."""
    from secguard.service.tls import credentials, find_server, server_context

    authority = workspace.authority(passphrase_file)
    chain, key = credentials(authority, find_server(workspace.registry, parse_place(place)[0]))
    context = server_context(chain, key, anchors)
    context.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST  # the dates count here
    trust(context, None, crl=crl, demand=demand)
    return context


def _revoked(workspace: "Workspace", certificate: bytes) -> bool:
    """Whether the site has revoked it, or does not know it."""
    from cryptography import x509

    serial = x509.load_der_x509_certificate(certificate).serial_number
    record = workspace.registry.by_serial(f"{serial:032x}")
    return record is None or record.status == "revoked"


class Collecting:
    """Collects in a thread of the service, with a loop of its own.

    Args:
        open_workspace: opens the site anew, for this thread alone.
        passphrase_file: opens the key of the site's server certificate.
    """

    def __init__(self, open_workspace: "Callable[[], Workspace]", passphrase_file: Path | None = None) -> None:
        self._open = open_workspace
        self._passphrase_file = passphrase_file
        self._thread = threading.Thread(target=self._run, name="collect")
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.places: dict[str, list[str]] = {}
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start; returns when it collects.

        Raises:
            SecguardError: no source can be started.
        """
        self._thread.start()
        self._started.wait()
        if self.failure is not None:
            self._thread.join()
            raise self.failure

    def stop(self) -> None:
        """Record what is under way, and end."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(stop.set)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._collect())
        except (SecguardError, OSError, RuntimeError) as error:
            self.failure = error
        finally:
            self._started.set()

    async def _collect(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        workspace = self._open()
        try:
            await collect(workspace, self._stop, passphrase_file=self._passphrase_file, ready=self._ready)
        finally:
            workspace.close()

    def _ready(self, places: dict[str, list[str]]) -> None:
        self.places = places
        self._started.set()
