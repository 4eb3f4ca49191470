"""Asking witnesses over HTTP: for a cosignature of a checkpoint, and for the last checkpoint that they cosigned."""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from secguard.core import Finding, finding
from secguard.core.errors import FormatError, RefusedError, SecguardError, SystemPartError, UsageError
from secguard.ledger.note import MAX_NOTE, NoteKey, open_checkpoint, parse_checkpoint
from secguard.ledger.witness.cosignature import Cosignature, WitnessKey, add_cosignatures, cosignatures
from secguard.ledger.witness.request import format_request, parse_size

if TYPE_CHECKING:
    import http.client
    import socket

    from _typeshed import WriteableBuffer

__all__ = ["Answer", "Peer", "ask", "ask_all", "fetch_seen"]

_SECONDS = 10.0
_ATTEMPTS = 4
"""Requests for one cosignature: the witness may be asked by others meanwhile."""
_OK, _UNKNOWN, _CONFLICT, _FORBIDDEN, _CONTRADICTS = 200, 404, 409, 403, 422

Prove = Callable[[int, int], Sequence[bytes]]
"""The consistency proof from an old size to a new one."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A witness as a log knows it.

    Attributes:
        key: its name and key.
        url: prefix of its HTTP interface, `http` or `https`; empty: it cannot be asked from here.
        ca: PEM file of the only CA that is believed for `https`; None: those of this machine.
    """

    key: WitnessKey
    url: str = ""
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking one witness.

    Attributes:
        name: the witness.
        lines: its signature lines; empty if it gave none.
        cosignature: what they say.
        size: entries of the last checkpoint it cosigned before, as far as it told.
        finding: why it did not cosign: `ledger.witness.silent`, `.unknown`, `.ahead` or `.fork`.
    """

    name: str
    lines: bytes = b""
    cosignature: Cosignature | None = None
    size: int | None = None
    finding: Finding | None = None


def _connect(peer: Peer, seconds: float) -> "tuple[http.client.HTTPConnection, str]":
    import http.client
    import ssl

    parts = urlsplit(peer.url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1 or parts.query or parts.fragment:
        raise UsageError("ledger.witness.url", f"not the URL of a witness: {peer.url[:80]!r}")
    prefix = parts.path.rstrip("/")
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, port, timeout=seconds), prefix
    try:
        context = ssl.create_default_context(cafile=str(peer.ca) if peer.ca is not None else None)
    except OSError as error:
        raise UsageError("ledger.witness.ca", "cannot read the witness's CA", where=str(peer.ca)) from error
    return http.client.HTTPSConnection(parts.hostname, port, timeout=seconds, context=context), prefix


class _Reader(io.RawIOBase):
    """Reads an answer until a deadline, however slowly it comes: a socket's own timeout begins anew with each byte."""

    def __init__(self, sock: "socket.socket", inner: io.RawIOBase, deadline: float) -> None:
        self._sock = sock
        self._inner = inner
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


class _Session:
    """One connection to a witness, kept alive over a few requests; bounded in time and size."""

    def __init__(self, peer: Peer, seconds: float) -> None:
        self._peer = peer
        self._deadline = time.monotonic() + seconds
        self._connection, self._prefix = _connect(peer, seconds)
        self._connection.response_class = self._response  # type: ignore[assignment] # all that is asked of it is to be called

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _response(self, sock: "socket.socket", *args: Any, **options: Any) -> "http.client.HTTPResponse":
        import http.client

        response = http.client.HTTPResponse(sock, *args, **options)
        response.fp = io.BufferedReader(_Reader(sock, response.fp.detach(), self._deadline))
        return response

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        """Status, content type and body.

        Raises:
            SystemPartError: `ledger.witness.silent`.
        """
        import http.client

        connection = self._connection
        try:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.timeout = left
            if connection.sock is not None:
                connection.sock.settimeout(left)
            headers = {"User-Agent": "secguard", "Content-Type": "text/plain; charset=utf-8"}
            connection.request(method, f"{self._prefix}/{path}", body=body, headers=headers)
            response = connection.getresponse()
            data = response.read(MAX_NOTE + 1)
            if len(data) > MAX_NOTE:
                raise http.client.HTTPException("its answer is too long")
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise SystemPartError(
                "ledger.witness.silent",
                f"the witness {self._peer.key.name} cannot be asked: {reason}",
                hint="is it running, and reachable from here?",
                where=self._peer.url,
            ) from error
        return response.status, response.headers.get("Content-Type", ""), data


def ask(peer: Peer, note: bytes, prove: Prove, *, old: int = 0, seconds: float = _SECONDS) -> Answer:
    """Ask one witness to cosign a checkpoint.

    Args:
        peer: the witness.
        note: the checkpoint, signed by the log.
        prove: gives consistency proofs.
        old: the size that the witness saw last, as far as known; it corrects a wrong one.
        seconds: for everything together.

    Raises:
        UsageError: the peer has no proper URL.
        FormatError: the checkpoint is none.
    """
    checkpoint = parse_checkpoint(note)
    name, size = peer.key.name, None
    try:
        with _Session(peer, seconds) as session:
            for _ in range(_ATTEMPTS):
                proof = prove(old, checkpoint.size) if old else ()
                status, _kind, data = session.request("POST", "add-checkpoint", format_request(old, proof, note))
                if status != _CONFLICT:
                    break
                size = _size(data)
                if size > checkpoint.size:
                    ahead = finding("ledger.witness.ahead", name, size=size, have=checkpoint.size)
                    return Answer(name, size=size, finding=ahead)
                if size == old:  # the older text of the standard: same size, other root
                    return Answer(name, size=size, finding=finding("ledger.witness.fork", name, size=size))
                old = size
            if status == _OK:
                signed = add_cosignatures(note, data, [peer.key])
                (given,) = cosignatures(signed, [peer.key])
                return Answer(name, data, given, size)
            if status == _CONTRADICTS:
                return Answer(name, size=size, finding=finding("ledger.witness.fork", name, size=old))
            return Answer(name, size=size, finding=_refused(name, status, data))
    except (SystemPartError, FormatError, RefusedError, ValueError) as error:
        reason = error.message if isinstance(error, SecguardError) else "its answer makes no sense"
        return Answer(name, size=size, finding=finding("ledger.witness.silent", name, reason=reason))


def _size(data: bytes) -> int:
    return parse_size(data.removesuffix(b"\n"))


def _refused(name: str, status: int, data: bytes) -> Finding:
    if status == _UNKNOWN:
        return finding("ledger.witness.unknown", name)
    said = data[:200].decode("utf-8", "replace").strip()
    reason = f"it does not believe the log's key: {said}" if status == _FORBIDDEN else f"HTTP {status} {said}"
    return finding("ledger.witness.silent", name, reason=reason)


def ask_all(
    peers: Sequence[Peer], note: bytes, prove: Prove, *, old: int = 0, seconds: float = _SECONDS
) -> list[Answer]:
    """Ask all witnesses at once; see `ask`. Peers without a URL are left out."""
    asked = [peer for peer in peers if peer.url]
    if not asked:
        return []
    with ThreadPoolExecutor(min(len(asked), 16), "witness") as threads:
        return list(threads.map(lambda peer: ask(peer, note, prove, old=old, seconds=seconds), asked))


def fetch_seen(peer: Peer, origin: str, keys: Sequence[NoteKey], seconds: float = _SECONDS) -> bytes | None:
    """The last checkpoint that a witness cosigned of a log, with both signatures verified; None if it has none.

    Args:
        peer: the witness.
        origin: the log.
        keys: the log's keys.
        seconds: how long it may take.

    Raises:
        SystemPartError: `ledger.witness.silent`: it does not answer, or does not serve what it has seen.
        FormatError: what it serves is no checkpoint.
        RefusedError: what it serves is not signed by the log, or not by the witness.
    """
    with _Session(peer, seconds) as session:
        path = f"{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"
        status, _, data = session.request("GET", path)
    if status == _UNKNOWN:
        return None
    if status != _OK:
        raise SystemPartError(
            "ledger.witness.silent", f"the witness {peer.key.name} answered HTTP {status}", where=peer.url
        )
    checkpoint = open_checkpoint(data, keys, peer.url)
    if checkpoint.origin != origin:
        raise RefusedError("ledger.checkpoint.foreign", "the witness serves another log's checkpoint", where=peer.url)
    if not cosignatures(data, [peer.key], peer.url):
        raise RefusedError("ledger.cosignature.none", "the witness did not cosign what it serves", where=peer.url)
    return data
