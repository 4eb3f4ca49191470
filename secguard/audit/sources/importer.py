"""Import: JSON lines -> strict reading -> redaction -> ledger. A line that cannot be read is recorded as rejected.

The file is hashed first, so the act is recorded with what it imports, and the same file is known again. Every event
keeps its ID: a line that the ledger holds already is a duplicate, and adds nothing. So an import killed at any point is
resumed by running it again. A line that reuses an ID for a different event is rejected, never taken for a duplicate.

A file is a claim: it cannot say that an actor was authenticated here, nor report acts that only secguard records (a
certificate issued, a recording signed), which other rooms rely on.
"""

import codecs
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from secguard.audit.index.index import Log, body_of
from secguard.core import Clock, Finding, FormatError, Progress, RefusedError, Throttle, UsageError, finding, silent
from secguard.core.files import translate_os_error
from secguard.events import (
    MAX_EVENT,
    SOURCE_KINDS,
    Actor,
    Assurance,
    Event,
    Result,
    decode_stored,
    decode_untrusted,
    encode,
    long_act,
    redact,
)

__all__ = ["ENCODINGS", "MAX_LISTED", "Imported", "Rejected", "import_file"]

ENCODINGS = ("utf-8", "gb18030")
"""GB18030 reads GBK and GB2312 as well."""
MAX_LISTED = 1000
"""Rejected lines that a result lists; all are counted, and all are in the ledger."""

_BATCH = 512
_RESERVED = "secguard:"  # IDs that secguard derives; a source that used them could keep a rejection from being recorded
_PEER = "peer_uid"  # who handed the event in, as the kernel tells the service; a file cannot say that
_ROOM = 40  # bytes for it, so that a line does not fit or not by whether the service runs


class Rejected(msgspec.Struct, frozen=True):
    """A line that was put aside: its number (from 1), the reason's code and words, and SHA-256 of its bytes."""

    line: int
    code: str
    reason: str
    sha256: str


class Imported(msgspec.Struct, frozen=True):
    """What an import did; `recorded + duplicates + rejected == lines`.

    Attributes:
        file: name of the file.
        sha256: its digest, in hex.
        lines: lines that are not blank.
        recorded: events that are new in the ledger.
        duplicates: events that were there before.
        rejected: lines that were put aside.
        listed: the first of them, at most 1000.
    """

    file: str
    sha256: str
    lines: int
    recorded: int
    duplicates: int
    rejected: int
    listed: tuple[Rejected, ...]

    def findings(self) -> list[Finding]:
        """One finding a listed line, one for the rest."""
        found = [
            finding("audit.record.rejected", f"{self.file}, line {item.line}", reason=item.reason, sha256=item.sha256)
            for item in self.listed
        ]
        if self.rejected > len(self.listed):
            found.append(finding("audit.record.rejected-more", self.file, count=self.rejected - len(self.listed)))
        return found


class _Line(NamedTuple):
    number: int
    data: bytes | None  # None: too long to be an event
    sha256: str
    size: int


def _lines(file: BinaryIO, digest: "hashlib._Hash") -> Iterator[_Line]:
    number = 0
    while raw := file.readline(MAX_EVENT + 2):
        digest.update(raw)
        number += 1
        if raw.endswith(b"\n") or len(raw) < MAX_EVENT + 2:
            data = raw.rstrip(b"\r\n")
            if number == 1:
                data = data.removeprefix(codecs.BOM_UTF8)
            if data.strip():
                yield _Line(number, data, "", len(data))
            continue
        whole, size = hashlib.sha256(), 0
        while raw:
            line = raw.rstrip(b"\r\n") if raw.endswith(b"\n") else raw
            whole.update(line)
            size += len(line)
            raw = b"" if raw.endswith(b"\n") else file.readline(MAX_EVENT + 2)
            digest.update(raw)
        yield _Line(number, None, whole.hexdigest(), size)


def _survey(file: BinaryIO) -> tuple[str, int, int]:
    digest, size, lines, last = hashlib.sha256(), 0, 0, b"\n"
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
        last = chunk[-1:]
    file.seek(0)
    return digest.hexdigest(), size, lines + (last != b"\n")


def _as_claim(event: Event) -> Event:
    if event.kind not in SOURCE_KINDS:
        raise FormatError(
            "audit.record.own-kind",
            f"{event.kind} is recorded by secguard itself, never imported",
            hint="docs/events.md says which kinds a source may report",
            where="kind",
        )
    if event.id.startswith(_RESERVED):
        raise FormatError("audit.record.reserved-id", f"IDs that begin with {_RESERVED} are reserved", where="id")
    data = event.data
    if _PEER in data:
        data = {name: value for name, value in data.items() if name != _PEER} | {f"source_{_PEER}": data[_PEER]}
    if event.actor.assurance is Assurance.CLAIMED:
        return event if data is event.data else msgspec.structs.replace(event, data=data)
    actor = msgspec.structs.replace(event.actor, assurance=Assurance.CLAIMED)
    data = {**data, "source_assurance": event.actor.assurance.value}
    return msgspec.structs.replace(event, actor=actor, data=data)


def _said(event: Event) -> bytes:
    """What the source said: the event without what the service adds, which another run may not have met."""
    if _PEER in event.data:
        data = {name: value for name, value in event.data.items() if name != _PEER}
        event = msgspec.structs.replace(event, data=data)
    return encode(event)


class _Import:
    def __init__(self, log: Log, clock: Clock, actor: Actor, *, file: str, sha256: str, encoding: str) -> None:
        self._log = log
        self._clock = clock
        self._actor = actor
        self._file = file
        self._sha256 = sha256
        self._encoding = encoding
        self._batch: list[tuple[_Line, Event, bool]] = []
        self._seen_good = False
        self._first_error: FormatError | None = None
        self.lines = 0
        self.recorded = 0
        self.duplicates = 0
        self.rejected = 0
        self.listed: list[Rejected] = []

    def take(self, line: _Line) -> None:
        self.lines += 1
        try:
            self._batch.append((line, self._read(line), True))
            self._seen_good = True
        except FormatError as error:
            self._first_error = self._first_error or error
            self._batch.append((line, self._reject(line, error), False))
        if len(self._batch) >= _BATCH:
            self.flush()

    def _read(self, line: _Line) -> Event:
        if line.data is None:
            raise FormatError("events.size", f"a record of {line.size} bytes; {MAX_EVENT} is the limit")
        text: bytes | str = line.data
        if self._encoding != "utf-8":
            try:
                text = line.data.decode(self._encoding)
            except UnicodeDecodeError as error:
                raise FormatError("events.encoding", f"not {self._encoding}", where=f"byte {error.start}") from error
        event = redact(_as_claim(decode_untrusted(text)))
        size = len(encode(event))  # it may have grown past the limit
        if size > MAX_EVENT - _ROOM:
            raise FormatError("events.size", f"an event of {size} bytes; {MAX_EVENT - _ROOM} is the limit")
        return event

    def _reject(self, line: _Line, error: FormatError) -> Event:
        sha256 = line.sha256 or hashlib.sha256(line.data or b"").hexdigest()
        reason = str(error)[:500]  # it may quote the line
        self.rejected += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(Rejected(line.number, error.code, reason, sha256))
        # The name follows from what was rejected and where, so that a second run records it no second time.
        name = hashlib.sha256(f"{self._sha256} {line.number} {sha256}".encode()).hexdigest()
        return redact(
            Event(
                id=f"{_RESERVED}rejected:{name[:32]}",
                kind="record.rejected",
                time=self._clock.now(),
                actor=self._actor,
                subject=self._file,
                reason=reason,
                outcome=Result.FAILURE,
                data={
                    "file_sha256": self._sha256,
                    "line": line.number,
                    "bytes": line.size,
                    "raw_sha256": sha256,
                    "code": error.code,
                },
            )
        )

    def flush(self) -> None:
        """Record the batch; returns when it is durable."""
        if self._first_error is not None and not self._seen_good and self.lines >= _BATCH:
            raise FormatError(
                "audit.import.format",
                f"no line of the first {self.lines} is an event: {self._first_error}",
                hint=self._first_error.hint or "one JSON object a line; docs/audit.md shows the fields",
                where=self._file,
            )
        batch, self._batch = self._batch, []
        receipts = self._log.record([event for _, event, _ in batch])
        conflicts: list[Event] = []
        for (line, event, good), receipt in zip(batch, receipts, strict=True):
            if not good:
                continue
            if not receipt.duplicate:
                self.recorded += 1
            elif self._same(event, receipt.index):
                self.duplicates += 1
            else:
                error = FormatError(
                    "audit.record.conflict", f"event {receipt.index} of the ledger has this ID and says something else"
                )
                conflicts.append(self._reject(line, error))
        if conflicts:
            self._log.record(conflicts)

    def _same(self, event: Event, index: int) -> bool:
        stored = body_of(self._log, index)
        return stored is None or _said(decode_stored(stored)) == encode(event)


def import_file(
    path: Path,
    log: Log,
    clock: Clock,
    actor: Actor,
    *,
    encoding: str = "utf-8",
    case: str = "",
    reason: str = "",
    progress: Progress = silent,
) -> Imported:
    """Bring a file of events into the ledger; it does not index them (see `secguard.audit.catch_up`).

    Args:
        path: JSON lines, one event a line; a regular file.
        log: the ledger; `import.started` and `import.finished` are recorded around the events.
        clock: time of the recorded acts.
        actor: who imports.
        encoding: one of `ENCODINGS`.
        case: case number of the import.
        reason: its purpose.
        progress: lines done.

    Raises:
        UsageError: no such file, or an unknown encoding.
        FormatError: none of the first 512 lines is an event: the wrong file or encoding; nothing of it is recorded.
        RefusedError: the file changed while it was read, or the ledger refused; what was acknowledged stays.
    """
    if encoding not in ENCODINGS:
        raise UsageError("audit.import.encoding", f"unknown encoding {encoding!r}", hint=" or ".join(ENCODINGS))
    if not path.is_file():
        problem = "not a regular file" if path.exists() else "no such file"
        raise UsageError("audit.import.file", problem, hint="name a file of JSON lines", where=str(path))
    try:
        with path.open("rb") as file:
            return _run(
                file,
                path.name,
                log=log,
                clock=clock,
                actor=actor,
                encoding=encoding,
                case=case,
                reason=reason,
                progress=Throttle(progress),
            )
    except OSError as error:
        raise translate_os_error(error, path) from error


def _run(
    file: BinaryIO,
    name: str,
    *,
    log: Log,
    clock: Clock,
    actor: Actor,
    encoding: str,
    case: str,
    reason: str,
    progress: Progress,
) -> Imported:
    sha256, size, total = _survey(file)
    name = name.encode("utf-8", "replace").decode()[:256]
    facts = {"sha256": sha256, "bytes": size, "encoding": encoding}
    with long_act(log, clock, "import", actor=actor, subject=name, case=case, reason=reason, **facts) as closing:
        run = _Import(log, clock, actor, file=name, sha256=sha256, encoding=encoding)
        digest = hashlib.sha256()
        for line in _lines(file, digest):
            run.take(line)
            progress(line.number, total, "lines")
        if digest.hexdigest() != sha256:
            raise RefusedError(
                "audit.import.changed",
                "the file changed while it was imported",
                hint="import it again when it is complete; lines that are in already are skipped",
                where=name,
            )
        run.flush()
        closing.update(
            sha256=sha256,
            lines=run.lines,
            recorded=run.recorded,
            duplicates=run.duplicates,
            rejected=run.rejected,
        )
    progress(total, total, "lines")
    return Imported(name, sha256, run.lines, run.recorded, run.duplicates, run.rejected, tuple(run.listed))
