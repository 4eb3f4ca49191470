"""The sequencer: holds the write lock, takes events over a Unix socket, and commits for many writers at once.

While one group is on its way to the disk the next gathers. Who asked is taken from the kernel (SO_PEERCRED) and stamped
into the event as `data.peer_uid`; an actor that claims to be an account of this machine must be the account that asks,
otherwise its assurance is lowered to `claimed`.
"""

import base64
import os
import pwd
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec

from secguard.core.errors import RefusedError, SecguardError, SystemPartError
from secguard.events import Assurance, Event, Receipt
from secguard.ledger.client import MAX_MESSAGE, Answer, Refusal, Request, pack, socket_address
from secguard.ledger.journal import MAX_FRAME_EVENTS
from secguard.ledger.layout import Layout, read_config
from secguard.ledger.ledger import Ledger
from secguard.ledger.publish import check_history
from secguard.ledger.reader import Reader
from secguard.ledger.receipts import Receipts
from secguard.ledger.writer import WriteLock, Writer

__all__ = ["serve"]

_CONNECTIONS = 256
_decoder = msgspec.json.Decoder(Request)


@dataclass(slots=True, eq=False)
class _Peer:
    connection: socket.socket
    uid: int
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Call:
    peer: _Peer
    events: list[Event]


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _stamp(event: Event, uid: int) -> Event:
    actor = event.actor
    if actor.assurance is Assurance.OS_USER and actor.name != _account(uid):
        actor = msgspec.structs.replace(actor, assurance=Assurance.CLAIMED)
    return msgspec.structs.replace(event, actor=actor, data={**event.data, "peer_uid": uid})


def _refusal(error: SecguardError) -> Answer:
    return Answer(error=Refusal(type(error).__name__, error.code, error.message, error.hint, error.where))


def _answer(receipts: Sequence[Receipt]) -> Answer:
    return Answer(
        [item.index for item in receipts],
        [item.duplicate for item in receipts],
        [base64.b64encode(item.leaf_hash).decode() for item in receipts],
    )


class _Sequencer:
    def __init__(self, writer: Writer, listener: socket.socket, stop: threading.Event) -> None:
        self._writer = writer
        self._listener = listener
        self._stop = stop
        self._selector = selectors.DefaultSelector()
        self._calls: deque[_Call] = deque()
        self._thread = ThreadPoolExecutor(1, "ledger-sync")
        self._flying: tuple[list[_Call], Future[Receipts]] | None = None
        self._peers: set[_Peer] = set()
        self._wake_in, self._wake_out = socket.socketpair()
        for item in (listener, self._wake_in):
            item.setblocking(False)
            self._selector.register(item, selectors.EVENT_READ)

    def close(self) -> None:
        self._thread.shutdown()
        for peer in list(self._peers):
            self._drop(peer)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def run(self) -> None:
        while not self._stop.is_set() or self._flying is not None or self._calls:
            for key, mask in self._selector.select(0.2):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_in:
                    self._wake_in.recv(4096)
                else:
                    self._serve_peer(key.data, mask)
            if self._flying is not None and self._flying[1].done():
                self._finish()
            if self._flying is None and self._calls:
                self._start()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if len(self._peers) >= _CONNECTIONS or self._stop.is_set():
            connection.close()
            return
        connection.setblocking(False)
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        peer = _Peer(connection, struct.unpack("3i", raw)[1])
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer.connection)
            peer.connection.close()

    def _serve_peer(self, peer: _Peer, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._flush(peer)
            if mask & selectors.EVENT_READ:
                data = peer.connection.recv(1 << 20)
                if not data:
                    self._drop(peer)
                    return
                peer.inbox += data
                self._take(peer)
        except BlockingIOError:
            return
        except OSError:
            self._drop(peer)

    def _take(self, peer: _Peer) -> None:
        while len(peer.inbox) >= 4:
            length = int.from_bytes(peer.inbox[:4], "big")
            if length > MAX_MESSAGE:
                self._drop(peer)
                return
            if len(peer.inbox) < 4 + length:
                return
            data = bytes(peer.inbox[4 : 4 + length])
            del peer.inbox[: 4 + length]
            try:
                events = _decoder.decode(data).events
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                refused = RefusedError("ledger.service.request", f"the service does not understand: {error}")
                self._send(peer, _refusal(refused))
                continue
            if not 0 < len(events) <= MAX_FRAME_EVENTS:
                refused = RefusedError("ledger.service.request", f"not 1 to {MAX_FRAME_EVENTS} events")
                self._send(peer, _refusal(refused))
                continue
            self._calls.append(_Call(peer, [_stamp(event, peer.uid) for event in events]))

    def _send(self, peer: _Peer, answer: Answer) -> None:
        if peer in self._peers:
            peer.outbox += pack(answer)
            try:
                self._flush(peer)
            except OSError:
                self._drop(peer)

    def _flush(self, peer: _Peer) -> None:
        try:
            sent = peer.connection.send(peer.outbox)
            del peer.outbox[:sent]
        except BlockingIOError:
            pass
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.outbox else 0)
        self._selector.modify(peer.connection, events, peer)

    def _start(self) -> None:
        group: list[_Call] = []
        count = 0
        while self._calls and (not group or count + len(self._calls[0].events) <= MAX_FRAME_EVENTS):
            call = self._calls.popleft()
            group.append(call)
            count += len(call.events)
        try:
            batch = self._writer.prepare([event for call in group for event in call.events])
        except SecguardError as error:
            self._writer.recover()
            if len(group) == 1:
                self._send(group[0].peer, _refusal(error))
            else:  # one bad event must not refuse what others sent
                for call in group:
                    self._alone(call)
            return
        future = self._thread.submit(self._writer.commit, batch)
        future.add_done_callback(lambda _: self._wake_out.send(b"."))
        self._flying = (group, future)

    def _alone(self, call: _Call) -> None:
        try:
            answer = _answer(self._writer.record(call.events))
        except SecguardError as error:
            answer = _refusal(error)
        self._send(call.peer, answer)

    def _finish(self) -> None:
        assert self._flying is not None
        group, future = self._flying
        self._flying = None
        try:
            receipts = future.result()
        except SecguardError as error:
            self._writer.recover()
            for call in group:
                self._send(call.peer, _refusal(error))
            return
        at = 0
        for call in group:
            self._send(call.peer, _answer(receipts[at : at + len(call.events)]))
            at += len(call.events)
        self._writer.relieve()


def serve(ledger: Ledger, stop: threading.Event, *, ready: threading.Event | None = None, seconds: float = 5.0) -> None:
    """Be the log's sequencer until `stop` is set; blocks, so run it in a thread or a process of its own.

    Args:
        ledger: the log; it may be used at the same time, and then records through the socket too.
        stop: ends the service within a second; what is under way is finished.
        ready: set once the socket accepts.
        seconds: how long to wait for the write lock.

    Raises:
        RefusedError: `ledger.busy`, or the log is damaged.
        SystemPartError: the socket cannot be made.
    """
    layout = Layout(ledger.root)
    with ExitStack() as stack:
        lock = WriteLock(layout)
        stack.callback(lock.close)
        lock.acquire(seconds)
        reader = Reader(layout)
        stack.callback(reader.close)
        writer = Writer(layout, ledger.origin, ledger.notices, reader.leaf)
        stack.callback(writer.close)
        writer.refresh()
        check_history(layout, read_config(layout), writer.size)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            ledger.socket.unlink(missing_ok=True)  # we hold the lock, so whoever made it is gone
            with socket_address(ledger.socket) as address:
                listener.bind(address)
            ledger.socket.chmod(0o660)
            listener.listen(128)
        except OSError as error:
            raise SystemPartError(
                "ledger.service.socket", f"cannot listen: {os.strerror(error.errno or 0)}", where=str(ledger.socket)
            ) from error
        stack.callback(ledger.socket.unlink, missing_ok=True)
        sequencer = _Sequencer(writer, listener, stop)
        stack.callback(sequencer.close)
        if ready is not None:
            ready.set()
        sequencer.run()
