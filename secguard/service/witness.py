"""A witness's process: its HTTP interface behind the gate, until it is told to stop."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from secguard.core.clock import SystemClock
from secguard.core.errors import UsageError
from secguard.core.listening import listen
from secguard.keys import check_private
from secguard.ledger.witness import WitnessHome
from secguard.service.gate import Gate
from secguard.service.network import parse_place

__all__ = ["serve_witness"]


def serve_witness(
    folder: Path,
    place: str,
    stop: threading.Event,
    *,
    passphrase: bytes | None = None,
    tls: tuple[Path, Path] | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a witness until `stop` is set.

    Args:
        folder: the witness's.
        place: `host:port`.
        stop: set it to end gracefully.
        passphrase: opens its key.
        tls: chain and key for `https`, PEM files; None: `http`.
        announce: told the URL once it is served.

    Raises:
        SecguardError: no witness, a wrong passphrase, an address in use, a certificate that cannot be served.
    """
    from secguard.ledger.witness.app import witness_app

    home = WitnessHome.open(folder)
    context = _context(*tls) if tls is not None else None
    app = witness_app(home.witness(passphrase, SystemClock()))
    host, port = parse_place(place)
    sockets = listen(host, port, "witness")

    async def run() -> None:
        gate = Gate(app, (lambda: context) if context is not None else None)
        await gate.open(sockets)
        shown, number = gate.address
        name = f"[{shown}]" if ":" in shown else shown
        announce(f"{'https' if context else 'http'}://{name}:{number}")
        try:
            await asyncio.to_thread(stop.wait)
        finally:
            await gate.close()

    try:
        asyncio.run(run())
    finally:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.close()


def _context(chain: Path, key: Path) -> ssl.SSLContext:
    check_private(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(chain, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            "service.certificate.unusable", f"cannot serve with this certificate: {error}", where=str(chain)
        ) from error
    return context
