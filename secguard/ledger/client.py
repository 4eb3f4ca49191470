"""Recording through the service: a length-prefixed JSON request over its Unix socket, an answer after fdatasync."""

import base64
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from secguard.core.errors import FormatError, RefusedError, SecguardError, SystemPartError, UsageError
from secguard.events import Event, Receipt
from secguard.ledger.journal import MAX_FRAME_EVENTS

__all__ = ["MAX_MESSAGE", "Answer", "Refusal", "Request", "pack", "record_remotely", "socket_address"]

MAX_MESSAGE = 64 << 20
"""Bytes of a request or an answer."""
_TIMEOUT = 30.0
_KINDS: dict[str, type[SecguardError]] = {
    kind.__name__: kind for kind in (FormatError, RefusedError, SystemPartError, UsageError)
}


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends."""

    events: list[Event]


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why nothing was recorded."""

    kind: str
    code: str
    message: str
    hint: str
    where: str


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the service answers: columns of receipts, or a refusal."""

    indexes: list[int] = []
    duplicates: list[bool] = []
    leaves: list[str] = []
    error: Refusal | None = None


def pack(message: Request | Answer) -> bytes:
    """A message as it goes over the socket: big-endian uint32 length, JSON."""
    data = msgspec.json.encode(message)
    return struct.pack(">I", len(data)) + data


def _receive(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = connection.recv(min(count - len(data), 1 << 20))
        if not part:
            raise ConnectionResetError
        data += part
    return bytes(data)


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for `path` that fits into the 108 bytes that the kernel has for it, however deep the folder lies."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def record_remotely(path: Path, events: Sequence[Event], origin: str) -> list[Receipt] | None:
    """Have the service record, at most `MAX_FRAME_EVENTS` at a time; None if no service listens at `path`.

    Raises:
        SecguardError: what the service answered, or `ledger.service.lost`: it may or may not be recorded; a retry with
            the same event IDs is safe.
    """
    receipts: list[Receipt] = []
    for at in range(0, len(events), MAX_FRAME_EVENTS):
        part = _record_part(path, events[at : at + MAX_FRAME_EVENTS], origin)
        if part is None:
            return None
        receipts += part
    return receipts


def _record_part(path: Path, events: Sequence[Event], origin: str) -> list[Receipt] | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT)
        try:
            with socket_address(path) as address:
                connection.connect(address)
        except OSError:
            return None
        try:
            connection.sendall(pack(Request(list(events))))
            length = int.from_bytes(_receive(connection, 4), "big")
            if length > MAX_MESSAGE:
                raise ConnectionResetError
            answer = msgspec.json.decode(_receive(connection, length), type=Answer)
            leaves = [base64.b64decode(leaf) for leaf in answer.leaves]
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise SystemPartError(
                "ledger.service.lost",
                "the ledger's service broke off before it answered",
                hint="run the command again; what was recorded is not recorded twice",
                where=str(path),
            ) from error
    if answer.error is not None:
        refusal = answer.error
        raise _KINDS.get(refusal.kind, SecguardError)(
            refusal.code, refusal.message, hint=refusal.hint, where=refusal.where
        )
    columns = zip(events, answer.indexes, leaves, answer.duplicates, strict=True)
    return [Receipt(event.id, index, leaf, origin, flag) for event, index, leaf, flag in columns]
