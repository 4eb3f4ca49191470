"""The source that takes syslog in: UDP, TCP and TLS."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from secguard.audit.sources.feeds import Desk, Peers
from secguard.audit.sources.framing import Frame, Framer
from secguard.audit.sources.greeting import TlsListener
from secguard.audit.sources.identities import Revoked, certificate_names
from secguard.audit.sources.intake import Delivery
from secguard.audit.sources.reading import Read
from secguard.audit.sources.sequences import Sequences
from secguard.audit.sources.settings import SyslogSource
from secguard.core import FormatError, UsageError
from secguard.core.listening import listen

__all__ = ["SyslogFeed", "open_place", "parse_place"]

_DATAGRAM = 65_536
_TURN = 256
_FRAMES = 512
_DRAIN = 5.0
_MOST = 4_000_000
_STRANGER = "this address may not send"


def parse_place(text: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`.

    Raises:
        UsageError: `audit.source.place`.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError("audit.source.place", f"{text[:60]!r} is not host:port", hint="for example 0.0.0.0:6514")
    return host.strip("[]"), int(port)


def open_place(place: str, kind: socket.SocketKind, buffer: int = 0) -> list[socket.socket]:
    """The sockets of a `host:port`, see `core.listening.listen`.

    Raises:
        UsageError: `audit.source.place`.
        SystemPartError: `service.listen`.
    """
    host, port = parse_place(place)
    return listen(host, port, place, kind, buffer)


def name_of(one: socket.socket) -> str:
    """`host:port` of a socket."""
    host, port = one.getsockname()[:2]
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def _waiting(one: socket.socket) -> int:
    """How many datagrams wait; they are thrown away."""
    count = 0
    for _ in range(_MOST):
        try:
            one.recv(1)
        except BlockingIOError:
            break
        except OSError:  # an ICMP error
            continue
        count += 1
    return count


class SyslogFeed:
    """Takes syslog in.

    Args:
        desk: takes the messages.
        settings: where to listen.
        context: TLS of this server; None without `tls`.
        numbers: follows what the senders count up; None without `sequence`.
    """

    def __init__(
        self, desk: Desk, settings: SyslogSource, context: ssl.SSLContext | None, numbers: Sequences | None = None
    ) -> None:
        self.desk = desk
        self.settings = settings
        self.peers = Peers(settings.peers)
        self.stopping = False
        self.connections: set[_Stream] = set()
        self.leaving: set[_Stream] = set()
        self.revoked: Revoked = lambda _: False
        self._context = context
        self._udp: list[socket.socket] = []
        self._drops: dict[int, int] = {}
        self._servers: list[asyncio.Server | TlsListener] = []
        self._numbers = numbers
        self._seen: dict[str, int] = {}

    async def start(self) -> None:
        """Listen.

        Raises:
            SystemPartError: `service.listen`.
        """
        loop = asyncio.get_running_loop()
        settings, places = self.settings, self.desk.meter.health.places
        if settings.udp:
            self._udp = open_place(settings.udp, socket.SOCK_DGRAM, settings.buffer_mb << 20)
            for one in self._udp:
                places.append(f"udp {name_of(one)}")
                loop.add_reader(one, self._datagrams, one)
        for one in open_place(settings.tcp, socket.SOCK_STREAM) if settings.tcp else ():
            places.append(f"tcp {name_of(one)}")
            self._servers.append(await loop.create_server(lambda: _Stream(self), sock=one))
        for one in open_place(settings.tls, socket.SOCK_STREAM) if settings.tls else ():
            assert self._context is not None
            places.append(f"tls {name_of(one)}")
            turned = self.desk.meter.turn_away
            self._servers.append(TlsListener(one, self._context, lambda: _Stream(self), turned))

    def look(self, now: float) -> None:
        """Count what the kernel dropped (`drops` of /proc/net/udp, by the socket's inode), and what is missing."""
        if self._numbers is not None:
            self._numbers.look(now)
        if not self._udp:
            return
        wanted = {str(os.fstat(one.fileno()).st_ino): one.fileno() for one in self._udp}
        for table in ("udp", "udp6"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    number = wanted.get(fields[9]) if len(fields) >= 13 else None
                    if number is not None:
                        drops = int(fields[-1])
                        new = (drops - self._drops.get(number, 0)) & 0xFFFFFFFF
                        self._drops[number] = drops
                        if new:
                            self.desk.lost(new, "the kernel dropped datagrams", transport="udp", total=drops)

    async def stop(self) -> None:
        """Close the listeners; datagrams that the kernel has are taken in, and what streams have sent."""
        self.stopping = True
        loop = asyncio.get_running_loop()
        for one in self._udp:
            loop.remove_reader(one)
            with contextlib.suppress(OSError):
                one.connect(one.getsockname())  # from now on the kernel takes nothing from others; what it has stays
            until = loop.time() + _DRAIN  # whoever goes on sending must not keep this from ending
            while self._receive(one) and loop.time() < until:
                await self.desk.intake.room()
            if left := _waiting(one):
                self.desk.lost(left, "not read before the end", transport="udp")
        self.look(loop.time())
        for one in self._udp:
            one.close()
        self._udp.clear()
        for server in self._servers:
            server.close()
        for stream in list(self.connections):
            stream.finish()
        for stream in list(self.leaving):
            stream.finish()
        if streams := self.connections | self.leaving:
            await asyncio.wait([stream.ended for stream in streams], timeout=5)
            for stream in list(self.connections):
                stream.abort()
            await asyncio.sleep(0)
        if self._numbers is not None:
            self._numbers.look(float("inf"))  # what is missing now has not come

    def close(self) -> None:
        """Write down what was seen; after everything is settled."""
        if self._numbers is not None:
            self._numbers.look(float("inf"))

    def _datagrams(self, one: socket.socket) -> None:
        self._receive(one)
        if self.desk.intake.full and not self.stopping:
            loop = asyncio.get_running_loop()
            loop.remove_reader(one)  # what does not fit into its buffer the kernel drops and counts

            def resume() -> None:
                if not self.stopping:
                    loop.add_reader(one, self._datagrams, one)

            self.desk.intake.when_room(resume)

    def _receive(self, one: socket.socket) -> int:
        """Take in the datagrams that wait, so many that others have their turn; how many."""
        delivery = Delivery()
        received = self.desk.clock.now()
        count = 0
        for count in range(_TURN):  # noqa: B007 - how many is the answer
            try:
                data, address = one.recvfrom(_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of an answer that was never sent
                continue
            peer = address[0]
            if not self.peers.admits(peer):
                self.desk.meter.turn_away(peer, _STRANGER)
                continue
            self.message(delivery, data, received, peer=peer, transport="udp")
        else:
            count = _TURN
        self.hand_in(delivery)
        return count

    def message(
        self,
        delivery: Delivery,
        data: bytes,
        received: Any,
        *,
        peer: str,
        transport: str,
        certificate: str = "",
    ) -> None:
        """Add one message to a delivery."""
        place = {"transport": transport, "peer": peer}
        read, record = self.desk.take(delivery, data, received, place=place, peer=peer, certificate=certificate)
        if self._numbers is None or not record or not isinstance(read, Read):
            return
        named = self._numbers.place(record, peer, asyncio.get_running_loop().time())
        if named is None:
            return
        stream, number = named
        via = {**read.event.data["via"], "number": number, "stream": stream}
        event_id = read.event.id if read.own else self._numbers.derived(stream, number, data)
        event = msgspec.structs.replace(read.event, id=event_id, data={**read.event.data, "via": via})
        delivery.events[-1] = event
        self._seen[stream] = number

    def hand_in(self, delivery: Delivery) -> None:
        """Queue a delivery, and count its numbers in once it is recorded."""
        if self._numbers is not None and self._seen:
            numbers, seen = self._numbers, self._seen
            self._seen = {}
            delivery.done = lambda settled: numbers.settled(seen, settled.end)
        if delivery.events:
            self.desk.intake.put(delivery)


class _Stream(asyncio.Protocol):
    """One connection."""

    def __init__(self, feed: SyslogFeed) -> None:
        self._feed = feed
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._certificate = ""
        self._kind = "tcp"
        self._paused = False
        self._lost = False
        self._backlog: deque[Frame] = deque()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        feed = self._feed
        name = transport.get_extra_info("peername") or ("",)
        self._peer = str(name[0])
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        refused = "" if feed.peers.admits(self._peer) else _STRANGER
        if not refused and len(feed.connections) >= feed.settings.connections:
            refused = "too many connections"
        if tls is not None:
            self._kind = "tls"
            shown = tls.getpeercert(binary_form=True)
            names = certificate_names(shown)
            self._certificate = names.shown
            if not refused and not names.match(feed.settings.clients):
                refused = f"{self._certificate or 'no certificate'} is not among clients"
            if not refused and shown and feed.revoked(shown):
                refused = f"the certificate of {self._certificate} is revoked or not known"
        if refused:
            feed.desk.meter.turn_away(self._peer, refused)
        if refused or feed.stopping:
            transport.abort()
            if not self.ended.done():
                self.ended.set_result(None)
            return
        feed.connections.add(self)
        # The sender says nothing for hours, and may be gone meanwhile.
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self in self._feed.connections:
            self._take(self._framer.feed(data))

    def _take(self, frames: Sequence[Frame]) -> None:
        self._backlog.extend(frames)
        self._drain()

    def _drain(self) -> None:
        """Hand in what has been read, as far as there is room; what has no room stops the sender."""
        feed, transport = self._feed, self._transport
        while self._backlog and (feed.stopping or not feed.desk.intake.full):
            self._hand_in([self._backlog.popleft() for _ in range(min(_FRAMES, len(self._backlog)))])
        if feed.desk.intake.full and not feed.stopping:
            if not self._paused:
                self._paused = True
                if transport is not None and not transport.is_closing():
                    transport.pause_reading()
                feed.desk.intake.when_room(self._resume)
        elif self._lost and not self._backlog and not self.ended.done():
            self.ended.set_result(None)

    def _resume(self) -> None:
        self._paused = False
        self._drain()
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _hand_in(self, frames: Sequence[Frame]) -> None:
        feed, delivery = self._feed, Delivery()
        desk = feed.desk
        received = desk.clock.now()
        for frame in frames:
            if frame.problem:
                desk.meter.heard(received, asyncio.get_running_loop().time())
                desk.reject(
                    delivery,
                    FormatError("audit.syslog.framing", frame.problem),
                    frame.data,
                    received,
                    place={"transport": self._kind, "peer": self._peer},
                    sha256=frame.sha256,
                    size=frame.size,
                )
            else:
                feed.message(
                    delivery,
                    frame.data,
                    received,
                    peer=self._peer,
                    transport=self._kind,
                    certificate=self._certificate,
                )
        feed.hand_in(delivery)

    def eof_received(self) -> bool:
        return False  # close

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self in self._feed.connections:
            frames = self._framer.close()
            if exc is not None:  # cut off: half a line is no message
                frames = [frame._replace(problem=frame.problem or "cut off in a line") for frame in frames]
            self._feed.connections.discard(self)
            self._take(frames)
        elif not self.ended.done():
            self.ended.set_result(None)
        if not self.ended.done():  # what was read waits for room
            self._feed.leaving.add(self)
            self.ended.add_done_callback(lambda _: self._feed.leaving.discard(self))

    def finish(self) -> None:
        """Take in what the kernel has of this connection, then end it."""
        transport = self._transport
        if self._paused or self._lost:
            self._resume()  # what was read is handed in, however full the queue is: there will be no more
        if transport is None or self._lost:
            return
        raw: socket.socket | None = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            if raw is not None and self._kind == "tcp":
                raw.shutdown(socket.SHUT_RD)  # what has arrived is still read; then comes the end
                return
        asyncio.get_running_loop().call_later(0.2, transport.close)  # two turns of the loop read what has arrived

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()
