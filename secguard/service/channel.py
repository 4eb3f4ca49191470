"""Between the process that talks to devices and the one that certifies: length-prefixed msgpack over a socket pair.

The front sends orders, events and questions for its TLS key; each has a number, and one answer. What comes from the
front is believed as to who asks for what, never as to what a certificate says.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secguard.core import FormatError, RefusedError, SecguardError, SystemPartError, UsageError
from secguard.events import Event
from secguard.identity import Order

__all__ = ["Ask", "Done", "Frames", "FromFront", "Note", "Problem", "Ready", "RemoteRegistrar", "TlsAsk", "pack"]

MAX_FRAME = 1 << 20
"""Bytes of a message; a request is 64 kB at most."""
_WAITING = 4096
_T = TypeVar("_T")
_KINDS: dict[str, type[SecguardError]] = {
    kind.__name__: kind for kind in (FormatError, RefusedError, SystemPartError, UsageError)
}


class Ask(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An order, of a sender that is authenticated and holds its key; `public` is SubjectPublicKeyInfo in DER."""

    number: int
    holder: str
    profile: str
    csr: bytes | None
    public: bytes | None
    renewal: bool
    secret: str


class Note(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An event to record."""

    number: int
    event: Event


class TlsAsk(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The front wants chain and key of its own certificate."""

    number: int
    host: str


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The front serves; or why it does not."""

    number: int
    problem: "Problem | None" = None


class Problem(msgspec.Struct, frozen=True, array_like=True):
    """An error on its way."""

    kind: str
    code: str
    message: str
    hint: str
    where: str

    @classmethod
    def of(cls, error: SecguardError) -> "Problem":
        """What an error says."""
        kind = next((base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS), "SystemPartError")
        return cls(kind, error.code, error.message, error.hint, error.where)

    def error(self) -> SecguardError:
        """The error again."""
        return _KINDS.get(self.kind, SystemPartError)(self.code, self.message, hint=self.hint, where=self.where)


class Done(msgspec.Struct, frozen=True, array_like=True):
    """The answer: certificates in PEM or DER, a key in PEM, or a problem."""

    number: int
    data: bytes = b""
    key: bytes = b""
    problem: Problem | None = None


FromFront = Ask | Note | TlsAsk | Ready
_encode = msgspec.msgpack.Encoder().encode


def pack(message: FromFront | Done) -> bytes:
    """A message as it goes over the socket."""
    data = _encode(message)
    return len(data).to_bytes(4, "big") + data


class Frames(Generic[_T]):
    """Cuts what arrives into messages of one type."""

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._inbox = bytearray()

    def feed(self, data: bytes) -> Iterator[_T]:
        """Take what has arrived, and give the messages that are whole.

        Raises:
            FormatError: `service.channel`: the other side is not ours, or broken.
        """
        inbox = self._inbox
        inbox += data
        at = 0
        try:
            while len(inbox) - at >= 4:
                size = int.from_bytes(inbox[at : at + 4], "big")
                if size > MAX_FRAME:
                    raise FormatError("service.channel", f"a message of {size} bytes")
                if len(inbox) - at - 4 < size:
                    break
                message = self._decode(bytes(inbox[at + 4 : at + 4 + size]))
                at += 4 + size
                yield message
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise FormatError("service.channel", f"a message is not understood: {error}") from error
        finally:
            del inbox[:at]


class RemoteRegistrar(asyncio.Protocol):
    """Has another process certify and record; a protocol on the socket to it.

    Args:
        lost: called when that process has gone.
    """

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._frames: Frames[Done] = Frames(Done)
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._number = 0
        self._outbox: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        for done in self._frames.feed(data):
            future = self._waiting.pop(done.number, None)
            if future is None or future.done():  # the client went away
                continue
            if done.problem is not None:
                future.set_exception(done.problem.error())
            else:
                future.set_result(done)

    def connection_lost(self, _: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self._lost()

    @property
    def alive(self) -> bool:
        """True while the other process is there."""
        return self._transport is not None

    def start(self) -> None:
        """Nothing to start: the other process runs."""

    async def stop(self) -> None:
        """Wait for the answers that are due."""
        while self._waiting and self.alive:
            await asyncio.wait(self._waiting.values(), timeout=1)

    async def certify(self, order: Order) -> bytes:
        """See `Registrar.certify`."""
        if len(self._waiting) >= _WAITING:
            raise SystemPartError("identity.enrol.busy", "too many devices enrol at once", hint="try again in a while")
        key = order.public
        public = None if key is None else key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ask = Ask(self._next(), order.holder, order.profile, order.csr, public, order.renewal, order.secret)
        return (await self.exchange(ask)).data

    async def record(self, event: Event) -> None:
        """See `Registrar.record`."""
        await self.exchange(Note(self._next(), event))

    async def credentials(self, host: str) -> tuple[bytes, bytes]:
        """Chain and key of the service's certificate for a host, both in PEM.

        Raises:
            SecguardError: there are none.
        """
        done = await self.exchange(TlsAsk(self._next(), host))
        return done.data, done.key

    def ready(self, problem: SecguardError | None = None) -> None:
        """Tell the other process that this one serves, or why it does not."""
        self._send(Ready(self._next(), None if problem is None else Problem.of(problem)))

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def exchange(self, message: FromFront) -> Done:
        """Send a message, and wait for its answer."""
        answer: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._waiting[message.number] = answer
        self._send(message)
        return await answer

    def _send(self, message: FromFront) -> None:
        if self._transport is None:
            raise SystemPartError("service.channel.lost", "the site's process is gone")
        if not self._outbox:  # what one turn of the loop asks for goes out together, and makes one batch
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(pack(message))

    def _flush(self) -> None:
        data, self._outbox = b"".join(self._outbox), []
        if self._transport is not None:
            self._transport.write(data)
