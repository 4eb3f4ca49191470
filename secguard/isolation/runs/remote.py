"""Agents on other machines, over HTTPS with mutual TLS: one WebSocket an agent, in a thread of its own.

The connection is out of band: it goes to the agent's management address, and never needs a hole in the boundary that is
tested. Who the agent is, its certificate says, and the hello that the same key signs: a machine in the middle has none.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509

from secguard.core import Clock, RefusedError, SecguardError, SystemClock, UsageError
from secguard.isolation.agent.control import MAX_MESSAGE, Answer
from secguard.isolation.agent.credentials import Trust, certificate_names, fingerprint, stands_for
from secguard.isolation.agent.keys import spki
from secguard.isolation.agent.peer import client_context, peer_chain
from secguard.isolation.runs.process import Link

__all__ = ["Caller", "RemoteAgent", "check_url"]

_CONNECT_SECONDS = 15.0
_HEARTBEAT = 5.0
_CLOSE_SECONDS = 0.5
_LINGER = 0.05
_PATH = "/v1/run"
_REFUSED = "Secguard-Refused"
_HINTS = {
    "isolation.agent.unreachable": "is it started (secguard isolation agent --listen), and its port open from here?",
    "isolation.agent.protocol": "check the URL of --agent: host and port of `secguard isolation agent --listen`",
    "isolation.agent.busy": "wait until its run has ended; every agent has an address and port of its own",
    "isolation.agent.ended": "its log says why",
    "isolation.peer.certificate": "see `secguard identity verify`; fresh lists by --crl at both ends, roots by --root",
    "isolation.peer.middle": "something between here and the agent ends TLS; connect directly",
    "isolation.peer.name": "check AGENT=URL of --agent, and whose certificate that agent was given",
    "isolation.peer.tls": "both ends need a certificate of the isolation-agent profile from the same root",
}


@dataclass(frozen=True)
class Caller:
    """How the controller shows itself, and whom it believes.

    Attributes:
        chain: its certificate (isolation-agent profile) and its CA's, PEM.
        key: its private key, PEM in clear.
        trust: roots and revocation lists for the agents' certificates.
        clock: the time.
    """

    chain: bytes
    key: bytes
    trust: Trust
    clock: Clock = SystemClock()  # noqa: RUF009 - it holds nothing

    def context(self) -> ssl.SSLContext:
        """TLS for a connection to an agent.

        Raises:
            SecguardError: certificate, key or root do not fit.
        """
        return client_context(self.chain, self.key, self.trust.anchors_pem())


def check_url(text: str) -> str:
    """`https://host:port`, whole.

    Raises:
        UsageError: it is something else.
    """
    try:
        parts = urlsplit(text)
        fits = parts.scheme == "https" and parts.hostname and parts.port and parts.path in {"", "/"}
    except ValueError:
        fits = False
    if not fits or parts.query or parts.username:
        raise UsageError("isolation.agent.url", f"not https://host:port: {text[:80]!r}")
    return f"https://{parts.netloc}"


class RemoteAgent(Link):
    """An agent that serves HTTPS."""

    def __init__(self, name: str, zone: str, url: str, caller: Caller) -> None:
        super().__init__(name, zone)
        self._url = check_url(url)
        self._caller = caller
        self._context = caller.context()
        self._leaf: x509.Certificate | None = None
        self._lines: deque[bytes] = deque()
        self._mine, self._theirs = socket.socketpair()
        self._mine.setblocking(False)
        self._loop = asyncio.new_event_loop()
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._end: SecguardError | None = None
        self._thread = threading.Thread(target=self._work, name=f"agent {name}", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable when something came, or the connection ended."""
        return self._mine.fileno()

    def say(self, line: bytes) -> None:
        """Send an order."""
        with contextlib.suppress(RuntimeError):  # the connection has ended
            self._loop.call_soon_threadsafe(self._out.put_nowait, line)

    def take(self) -> bytes | None:
        """A line that came; the connection's end is an error."""
        with contextlib.suppress(BlockingIOError):
            self._mine.recv(1)
        if self._lines:
            return self._lines.popleft()
        if not self._thread.is_alive() or self._end is not None:
            self.error = self.error or (self._end.message if self._end else "the connection ended")
        return None

    def check_hello(self, answer: Answer) -> None:
        """The hello must come from the certificate of the connection: else somebody stands in between."""
        leaf = self._leaf
        if leaf is None or answer.key != spki(leaf.public_key()) or answer.certificate != fingerprint(leaf):
            self._end = RefusedError("isolation.peer.middle", "its key is not that of the connection")
            raise self._end
        if answer.agent != self.name:
            self._end = RefusedError("isolation.peer.name", f"it is agent {answer.agent[:60]}")
            raise self._end

    def refusal(self) -> SecguardError | None:
        """Why there is no connection, or the hello was refused."""
        if self._end is None:
            return None
        text = self.error or self._end.message
        hint = self._end.hint or _HINTS.get(self._end.code, "")
        return type(self._end)(self._end.code, f"agent {self.name}: {text}", hint=hint, where=self._url)

    def close(self) -> None:
        """End the connection, and with it the agent's run."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._out.put_nowait, None)
        self._thread.join(2 * _CLOSE_SECONDS)
        for end in (self._mine, self._theirs):
            end.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._theirs.send(b"!")

    def _work(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        except SecguardError as error:
            self._end = error
        except Exception as error:  # noqa: BLE001 - told to the controller, which ends the run
            self._end = SecguardError("isolation.agent.failed", f"{type(error).__name__}: {error}"[:200])
        finally:
            self._end = self._end or SecguardError("isolation.agent.ended", "the connection ended")
            self._loop.run_until_complete(asyncio.sleep(_LINGER))  # TLS transports end a moment after their session
            self._loop.close()
            self._wake()

    async def _run(self) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(ssl=self._context, limit=1, force_close=True)
        time_out = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_connect=_CONNECT_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=time_out, trust_env=False) as session:
            try:
                opening = session.ws_connect(
                    self._url + _PATH,
                    heartbeat=_HEARTBEAT,
                    max_msg_size=MAX_MESSAGE,
                    compress=0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                )
                channel = await asyncio.wait_for(opening, _CONNECT_SECONDS)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise self._failed(error) from error
            sender = asyncio.create_task(self._send(channel))
            try:
                self._judge(channel.get_extra_info("ssl_object"))
                async for message in channel:
                    if message.type is not aiohttp.WSMsgType.BINARY:
                        break
                    self._lines.append(message.data)
                    self._wake()
            finally:
                sender.cancel()
                await channel.close()

    async def _send(self, channel: "aiohttp.ClientWebSocketResponse") -> None:  # type: ignore[name-defined]  # noqa: F821 - imported late
        while (line := await self._out.get()) is not None:
            await channel.send_bytes(line)
        await channel.close()

    def _judge(self, channel: object) -> None:
        """Who answered; refused unless it is this agent, by a certificate that nobody revoked."""
        chain = peer_chain(channel)
        if not stands_for(chain[0], self.name):
            names = ", ".join(certificate_names(chain[0])) or "nobody"
            raise RefusedError("isolation.peer.name", f"it is {names[:120]}, not agent {self.name}")
        self._caller.trust.judge_peer(chain, self._caller.clock.now())
        self._leaf = chain[0]

    def _failed(self, error: Exception) -> SecguardError:
        """Why there is no connection, in words."""
        import aiohttp

        if isinstance(error, aiohttp.WSServerHandshakeError):
            code, _, text = (error.headers.get(_REFUSED, "") if error.headers else "").partition(" ")
            if text:
                return RefusedError(code[:100], f"it refuses: {text[:300]}")
            return SecguardError("isolation.agent.protocol", f"no secguard agent answers there (HTTP {error.status})")
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return RefusedError("isolation.peer.certificate", "its certificate does not lead to our root")
        inner = getattr(error, "os_error", None) or error
        if isinstance(inner, ssl.SSLError) or isinstance(error, aiohttp.ClientSSLError):
            return RefusedError("isolation.peer.tls", f"no TLS with it: {_reason(inner)}")
        if isinstance(error, TimeoutError):
            return SecguardError("isolation.agent.unreachable", "it does not answer")
        return SecguardError("isolation.agent.unreachable", f"cannot be reached: {_reason(inner)}")


def _reason(error: BaseException) -> str:
    text = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
    return str(text).replace("_", " ").lower()[:200]
