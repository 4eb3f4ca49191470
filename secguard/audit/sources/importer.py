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
from typing import Any, BinaryIO, NamedTuple

import msgspec

from secguard.audit.index.index import Log
from secguard.audit.sources.letters import DeadLetters, Letter
from secguard.audit.sources.reading import RESERVED, columns, finish, rejection, same
from secguard.core import Clock, Finding, FormatError, Progress, RefusedError, Throttle, UsageError, finding, silent
from secguard.core.files import translate_os_error
from secguard.events import MAX_EVENT, Actor, Event, decode_untrusted, long_act

__all__ = ["ENCODINGS", "MAX_LISTED", "Imported", "Rejected", "import_file"]

ENCODINGS = ("utf-8", "gb18030")
"""GB18030 reads GBK and GB2312 as well."""
MAX_LISTED = 1000
"""Rejected lines that a result lists; all are counted, and all are in the ledger."""

_BATCH = 512
_LATER = 2048


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
    head: bytes = b""  # of one that is too long


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
        whole, size, head = hashlib.sha256(), 0, raw
        while raw:
            line = raw.rstrip(b"\r\n") if raw.endswith(b"\n") else raw
            whole.update(line)
            size += len(line)
            raw = b"" if raw.endswith(b"\n") else file.readline(MAX_EVENT + 2)
            digest.update(raw)
        yield _Line(number, None, whole.hexdigest(), size, head)


def _survey(file: BinaryIO) -> tuple[str, int, int]:
    digest, size, lines, last = hashlib.sha256(), 0, 0, b"\n"
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
        last = chunk[-1:]
    file.seek(0)
    return digest.hexdigest(), size, lines + (last != b"\n")


class _Import:
    def __init__(
        self,
        log: Log,
        clock: Clock,
        actor: Actor,
        *,
        file: str,
        sha256: str,
        encoding: str,
        letters: DeadLetters | None,
    ) -> None:
        self._log = log
        self._clock = clock
        self._actor = actor
        self._file = file
        self._sha256 = sha256
        self._encoding = encoding
        self._letters = letters
        self._aside: list[Letter] = []
        self._kept: set[str] | None = None
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
        if len(self._batch) >= (_BATCH if self.lines == _BATCH else _LATER):
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
        return finish(decode_untrusted(text))[0]

    def _reject(self, line: _Line, error: FormatError) -> Event:
        sha256 = line.sha256 or hashlib.sha256(line.data or b"").hexdigest()
        self.rejected += 1
        # The name follows from what was rejected and where, so that a second run records it no second time.
        name = hashlib.sha256(f"{self._sha256} {line.number} {sha256}".encode()).hexdigest()
        place = {"file_sha256": self._sha256, "line": line.number, "bytes": line.size, "raw_sha256": sha256}
        event = rejection(
            error,
            event_id=f"{RESERVED}rejected:{name[:32]}",
            time=self._clock.now(),
            actor=self._actor,
            subject=self._file,
            data=place,
        )
        if len(self.listed) < MAX_LISTED:
            self.listed.append(Rejected(line.number, error.code, str(error)[:500], sha256))
        self._aside.append(Letter(sha256, self._file, line.head if line.data is None else line.data, line.size))
        return event

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
        self._keep()
        indexes, duplicates = columns(self._log.record([event for _, event, _ in batch]))
        conflicts: list[Event] = []
        for (line, event, good), index, duplicate in zip(batch, indexes, duplicates, strict=True):
            if not good:
                continue
            if not duplicate:
                self.recorded += 1
            elif same(self._log, index, event):
                self.duplicates += 1
            else:
                error = FormatError(
                    "audit.record.conflict", f"event {index} of the ledger has this ID and says something else"
                )
                conflicts.append(self._reject(line, error))
        if conflicts:
            self._keep()
            self._log.record(conflicts)

    def _keep(self) -> None:
        """Keep the bytes of rejected lines, before the ledger says that they came; once, however often they come."""
        aside, self._aside = self._aside, []
        if not aside or self._letters is None:
            return
        if self._kept is None:
            self._kept = self._letters.digests()
        new = {letter.sha256: letter for letter in aside if letter.sha256 not in self._kept}
        if new:
            self._letters.keep(list(new.values()), self._clock.now())
            self._kept.update(new)


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
    letters: DeadLetters | None = None,
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
        letters: keeps the bytes of lines that are put aside.

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
                letters=letters,
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
    letters: DeadLetters | None,
) -> Imported:
    sha256, size, total = _survey(file)
    name = name.encode("utf-8", "replace").decode()[:256]
    facts: dict[str, Any] = {"sha256": sha256, "bytes": size, "encoding": encoding}
    with long_act(log, clock, "import", actor=actor, subject=name, case=case, reason=reason, **facts) as closing:
        run = _Import(log, clock, actor, file=name, sha256=sha256, encoding=encoding, letters=letters)
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
