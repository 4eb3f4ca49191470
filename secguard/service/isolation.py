"""`secguard isolation agent --listen`: the agent behind a door on the management network: TLS, both ends certified."""

import asyncio
import contextlib
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from loguru import logger

from secguard.core import SecguardError
from secguard.core.listening import listen
from secguard.isolation.agent.app import Door, agent_app
from secguard.isolation.agent.credentials import fingerprint
from secguard.isolation.agent.peer import private_pem, server_context
from secguard.keys import load_signer
from secguard.service.gate import Gate
from secguard.service.network import parse_place
from secguard.trust import chain_pem, read_certificates

if TYPE_CHECKING:
    from secguard.keys import Signer

__all__ = ["Identity", "serve_agent"]

_CONNECTIONS = 64
_LOOK_SECONDS = 5.0


@dataclass
class Identity:
    """The agent's certificate and key in their files; a renewed certificate is taken up without a restart.

    Attributes:
        cert: certificate and its CA's, PEM.
        key: reference of the private key.
        passphrase: opens it.
    """

    cert: Path
    key: str
    passphrase: bytes | None = None

    def load(self) -> "tuple[list[x509.Certificate], Signer]":
        """Chain, leaf first, and key.

        Raises:
            SecguardError: a file is missing or damaged, or others may read the key.
        """
        return read_certificates(self.cert), load_signer(self.key, self.passphrase)

    def stamp(self) -> tuple[int, ...]:
        """Changes when one of the files does."""
        found = []
        for path in (self.cert, Path(self.key.removeprefix("file:"))):
            with contextlib.suppress(OSError):
                found.append(path.stat().st_mtime_ns)
        return tuple(found)


def serve_agent(door: Door, identity: Identity, place: str, ready: Callable[[str], None] = lambda _url: None) -> None:
    """Serve runs until SIGTERM or SIGINT; a run that is under way is stopped then, at once.

    Args:
        door: what is served; its key and certificate are filled in from `identity`.
        identity: the agent's certificate.
        place: `host:port`; port 0 takes a free one.
        ready: called with the URL once connections are accepted.

    Raises:
        SecguardError: certificate, key, root or address are not usable.
        KeyboardInterrupt: it was interrupted.
    """
    host, port = parse_place(place)
    contexts = _Contexts(door, identity)
    interrupted = asyncio.run(_serve(door, contexts, host, port, ready))
    if interrupted:
        raise KeyboardInterrupt


class _Contexts:
    def __init__(self, door: Door, identity: Identity) -> None:
        self._door = door
        self._identity = identity
        self._stamp: tuple[int, ...] = ()
        self._context: ssl.SSLContext | None = None
        self.load()

    def get(self) -> ssl.SSLContext:
        assert self._context is not None
        return self._context

    def load(self) -> None:
        stamp = self._identity.stamp()
        if self._context is not None and stamp == self._stamp:
            return
        chain, signer = self._identity.load()
        key = private_pem(signer)
        self._context = server_context(chain_pem(chain), key, self._door.trust.anchors_pem())
        self._door.key, self._door.certificate = key, fingerprint(chain[0])
        self._stamp = stamp


async def _serve(door: Door, contexts: _Contexts, host: str, port: int, ready: Callable[[str], None]) -> bool:
    stop = asyncio.Event()
    interrupted: list[int] = []
    loop = asyncio.get_running_loop()

    def told(number: int) -> None:
        if number == signal.SIGINT:
            interrupted.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)
    gate = Gate(
        agent_app(door),
        contexts.get,
        connections=_CONNECTIONS,
        refused=lambda address, why: logger.warning("refused a connection from {}: {}", address, why),
    )
    await gate.open(listen(host, port, "agent"))
    try:
        shown, bound = gate.address
        ready(f"https://{f'[{shown}]' if ':' in shown else shown}:{bound}")
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_SECONDS)
            try:
                contexts.load()
            except (SecguardError, OSError) as error:
                logger.error("the agent's certificate stays as it was: {}", error)
    finally:
        await gate.close()
    return bool(interrupted)
