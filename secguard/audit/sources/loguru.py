"""A loguru sink for platforms in Python: log records that name a kind become events.

    from loguru import logger
    from secguard.audit.sources.loguru import sink

    logger.add(sink("/var/log/vms/audit.jsonl"))            # a file that `secguard audit collect` follows
    logger.bind(kind="video.played", actor="张三", subject="32011600001310000001", case="案2026-7").info("核查案件线索")

Bound values are fields of the event; those that it does not have go into its `data`. The message is its reason, unless
`reason` is bound. Records without `kind` are none of the sink's business.

A sink never drops an event in silence: what is no event raises (loguru prints that to stderr, or raises with
`catch=False`), and where events cannot be handed in, the call waits and then raises.
"""

import atexit
import errno
import os
import ssl
import sys
import threading
import time
from collections import deque
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from secguard.audit.sources.reading import finish
from secguard.core.errors import SystemPartError, UsageError
from secguard.events import Event, encode, event_from, new_event_id

if TYPE_CHECKING:
    from loguru import Message

__all__ = ["FileSink", "HttpSink", "event_of", "sink"]

_FIELDS = ("subject", "case", "approver", "reason")
_ACTOR = ("role", "org", "address")
_BATCH = 500
_BATCH_BYTES = 1_000_000


def event_of(record: Any) -> Event | None:
    """The event of a loguru record; None if it is not meant to be one.

    Raises:
        FormatError: it is meant to be one, and is none; the message says which field.
    """
    extra = dict(record["extra"])
    kind = extra.pop("kind", None)
    if kind is None:
        return None
    actor = extra.pop("actor", None)
    fields: dict[str, Any] = {
        "id": str(extra.pop("id", "") or new_event_id()),
        "kind": kind,
        "time": record["time"].astimezone(UTC).isoformat(),
        "actor": dict(actor) if isinstance(actor, dict) else {"name": str(actor or "unknown")},
        "reason": str(record["message"])[:4096],
    }
    for name in _ACTOR:
        if name in extra:
            fields["actor"][name] = str(extra.pop(name))
    for name in (*_FIELDS, "outcome"):
        if name in extra:
            fields[name] = str(extra.pop(name))
    data = extra.pop("data", {})
    fields["data"] = {**(data if isinstance(data, dict) else {"data": data}), **extra}
    if record["exception"] is not None:
        fields["data"]["exception"] = str(record["exception"].value)[:1000]
    return finish(event_from(fields))[0]


def sink(
    target: str | Path,
    *,
    token_file: str | Path | None = None,
    ca: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    durable: bool = True,
    waiting: int = 10_000,
    patience: float = 30.0,
) -> "FileSink | HttpSink":
    """A sink for `logger.add`.

    Args:
        target: a file, or the URL of an HTTP source (`https://host:port/v1/events`).
        token_file: of the URL: file with its token.
        ca: of the URL: PEM file of the only CAs that are believed; default: those of the machine.
        certificate: of the URL: PEM file of this client's certificate.
        key: its key.
        durable: of a file: every event is on the disk when the call returns.
        waiting: of the URL: events that may wait for it.
        patience: of the URL: seconds that a call waits when so many do, and that `stop` waits to deliver.

    Raises:
        UsageError: the URL is none, or a file is missing.
        SystemPartError: the file cannot be opened.
    """
    text = str(target)
    if text.startswith(("http://", "https://")):
        return HttpSink(
            text, token_file=token_file, ca=ca, certificate=certificate, key=key, waiting=waiting, patience=patience
        )
    return FileSink(Path(text), durable=durable)


class FileSink:
    """Appends events to a file of mode 0600, one a line; many processes may share it.

    Rotation from outside is followed: when the file has been renamed or removed, a new one is begun.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._path = path
        self._durable = durable
        self._lock = threading.Lock()
        self._file = -1
        with self._lock:
            self._reopen()

    def _reopen(self) -> None:
        try:
            if self._file >= 0:
                here, there = os.fstat(self._file), self._path.stat()
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return
        except FileNotFoundError:
            pass
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemPartError("audit.sink.file", f"cannot open: {error.strerror}", where=str(self._path)) from error

    def write(self, message: "Message") -> None:
        """Take a record; called by loguru.

        Raises:
            SecguardError: it is no event, or cannot be written.
        """
        event = event_of(message.record)
        if event is None:
            return
        line = encode(event) + b"\n"
        with self._lock:
            self._reopen()
            try:
                size = os.fstat(self._file).st_size
                if size and os.pread(self._file, 1, size - 1) != b"\n":
                    line = b"\n" + line  # half a line of a day when the disk was full must not swallow this one
                # One write with O_APPEND: lines of several processes do not mix.
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if self._durable:
                    os.fdatasync(self._file)
            except OSError as error:
                raise SystemPartError(
                    "audit.sink.file", f"cannot write: {error.strerror}", where=str(self._path)
                ) from error

    def stop(self) -> None:
        """Close the file; called by loguru."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


class HttpSink:
    """Hands events in to an HTTP source from a thread; each is sent until it is said to be durable.

    Events wait in memory: for those that must outlive a crash of the platform take a file. A program that ends without
    removing the sink delivers them first; a forked process has a thread and a queue of its own.

    Attributes:
        refused: events that the source put aside; it has recorded why.
    """

    def __init__(
        self,
        url: str,
        *,
        token_file: str | Path | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        waiting: int = 10_000,
        patience: float = 30.0,
    ) -> None:
        # The thread must not be amid these imports when the program forks: the child would have half of them.
        import http.client
        import json

        self._http, self._json = http.client, json
        "host".encode("idna")  # what looks names up imports this
        parts = urlsplit(url)
        if not parts.hostname or parts.username:
            raise UsageError(
                "audit.sink.url", "not a URL without name and password", hint="https://host:port/v1/events"
            )
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path or "/v1/events"
        self._context: ssl.SSLContext | None = None
        try:
            self._token = Path(token_file).read_text().strip() if token_file else ""
            if parts.scheme == "https":
                self._context = ssl.create_default_context(cafile=str(ca) if ca else None)
                if certificate:
                    self._context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError("audit.sink.file", f"cannot read: {error}") from error
        self._waiting = waiting
        self._patience = patience
        self._begin()

    def _begin(self) -> None:
        """Begin in this process; after a fork, what waits is the parent's, and its thread and locks are not here."""
        self._process = os.getpid()
        self._queue: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._deadline = float("inf")
        self.refused = 0
        self.problem = ""
        self._thread = threading.Thread(target=self._run, name="secguard-sink", daemon=True)
        self._thread.start()
        atexit.register(self.stop)
        ends = sys.modules.get("multiprocessing.util")
        if ends is not None:  # its processes end without `atexit`
            ends.Finalize(self, self._stop_in, args=(self._process,), exitpriority=10)

    def _stop_in(self, process: int) -> None:
        if os.getpid() == process and not self._stopping:
            self.stop()

    def write(self, message: "Message") -> None:
        """Take a record; called by loguru. Waits while too many wait.

        Raises:
            SecguardError: it is no event, or the source has not taken any for too long.
        """
        event = event_of(message.record)
        if event is None:
            return
        line = encode(event)
        if os.getpid() != self._process:
            self._begin()
        with self._changed:
            room = self._changed.wait_for(lambda: len(self._queue) < self._waiting or self._stopping, self._patience)
            if not room or self._stopping:
                raise SystemPartError(
                    "audit.sink.full",
                    f"{len(self._queue)} events wait and are not taken: {self.problem or 'the source is slow'}",
                    where=self._host,
                )
            self._queue.append(line)
            self._changed.notify_all()

    def stop(self) -> None:
        """Deliver what waits, and end; called by loguru.

        Raises:
            SystemPartError: not all of it could be delivered in time.
        """
        atexit.unregister(self.stop)
        if os.getpid() != self._process:  # nothing was handed in by this process
            return
        with self._changed:
            self._stopping = True
            self._deadline = time.monotonic() + self._patience
            self._changed.notify_all()
        self._thread.join(self._patience + 5)
        if self._queue:
            raise SystemPartError(
                "audit.sink.undelivered",
                f"{len(self._queue)} events were not taken: {self.problem}",
                where=self._host,
            )

    def _run(self) -> None:
        pause = 0.1
        connection = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue) or self._stopping)
                batch = self._batch()
            if not batch or time.monotonic() > self._deadline:
                break
            try:
                connection = connection or self._connect()
                self._send(connection, batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on, and the events wait
                self.problem = str(error)
                if connection is not None:
                    connection.close()
                    connection = None
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, pause)
                if self._stopping:
                    time.sleep(min(pause, 0.2))
                pause = min(pause * 2, 5.0)
                continue
            pause, self.problem = 0.1, ""
            with self._changed:
                for _ in batch:
                    self._queue.popleft()
                self._changed.notify_all()
        if connection is not None:
            connection.close()

    def _batch(self) -> list[bytes]:
        """What is sent next; a source takes requests of a megabyte at least."""
        batch: list[bytes] = []
        room = _BATCH_BYTES
        for line in islice(self._queue, _BATCH):
            room -= len(line) + 1
            if batch and room < 0:
                break
            batch.append(line)
        return batch

    def _connect(self) -> Any:
        if self._context is None:
            return self._http.HTTPConnection(self._host, self._port, timeout=40)
        return self._http.HTTPSConnection(self._host, self._port, timeout=40, context=self._context)

    def _send(self, connection: Any, batch: list[bytes]) -> None:
        """Send until it is durable.

        Raises:
            OSError: no answer.
            SystemPartError: it is not taken now.
        """
        headers = {"Content-Type": "application/x-ndjson"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request("POST", self._path, b"\n".join(batch), headers)
            response = connection.getresponse()
            body = response.read(1 << 20)
        except self._http.HTTPException as error:
            raise SystemPartError("audit.sink.http", f"no answer: {error}") from error
        if response.status not in {200, 422}:
            raise SystemPartError(
                "audit.sink.http", f"status {response.status}: {body[:200].decode('utf-8', 'replace')}"
            )
        said = self._json.loads(body)
        if not isinstance(said, dict) or not isinstance(said.get("rejected"), int):
            raise SystemPartError("audit.sink.http", "what answers is no source of events")
        self.refused += said["rejected"]
