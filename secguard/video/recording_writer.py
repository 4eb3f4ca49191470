"""Write the chain of a recording: one sealer at a time, each line durable before the next, resumable after any crash.

A line is appended in one write and waited for. A crash in it leaves a torn line, which the next opening takes away (or
completes, if only its end is missing) and tells about. Each act is recorded before anything of it is released.
"""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import msgspec
from cryptography import x509

from secguard.core import Clock, RefusedError, UsageError, parse_time, rfc3339
from secguard.core.files import fsync_directory, translate_os_error
from secguard.gbid import GbId
from secguard.keys import seal
from secguard.video.manifest import Manifest
from secguard.video.recording_chain import CHAIN_TYPE, MAX_LINES, Line, Record, Segment, read_lines
from secguard.video.recording_files import CHAIN_NAME, safe_name
from secguard.video.seal import Sealer

__all__ = ["Promise", "RecordAct", "RecordingChain"]

RecordAct = Callable[[Mapping[str, Any]], object]
"""Records an act with these values; if it raises, the act does not happen."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a new recording promises, so that silence can be told from a cut.

    Attributes:
        heartbeat: at least every so many seconds a line follows; 0: no promise.
        max_gap: segments follow each other with at most so many seconds between; -1: no promise.
        whole: the recording is all that lies in its folder.
    """

    heartbeat: int = 0
    max_gap: float = -1.0
    whole: bool = False


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RecordingChain:
    """A chain that is held open for appending; use it as a context manager.

    Attributes:
        path: the file.
        recording: ID of the recording; empty until the first line is written.
        segments: names of the sealed files, with their sizes, in order.
        until: up to this time everything is told, as claimed; None before the first line.
        closed: nothing can be added any more.
        notices: what was repaired.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: GbId,
        sealer: Sealer,
        clock: Clock,
        record: RecordAct,
        recording: str = "",
        promise: Promise | None = None,
    ) -> None:
        self.path = folder / CHAIN_NAME
        self.recording = recording
        self.segments: dict[str, int] = {}
        self.until: datetime | None = None
        self.closed = False
        self.notices: list[str] = []
        self._device, self._sealer, self._clock, self._record = device, sealer, clock, record
        self._promise = promise or Promise()
        self._descriptor = -1
        self._lines = 0
        self._last = ""
        self._manifest = ""
        self._leaf = ""  # certificate in force in the chain

    def __enter__(self) -> Self:
        self._sealer.check(self._device)
        if self.recording and not _ID.fullmatch(self.recording):
            raise UsageError(
                "video.seal.recording",
                f"not an ID of a recording: {self.recording[:80]!r}",
                hint="letters, digits, dots, dashes and underscores",
            )
        while True:
            self._lock()
            try:
                named = self.path.stat()
            except FileNotFoundError:
                named = None
            held = os.fstat(self._descriptor)
            if named is not None and (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino):
                break
            os.close(self._descriptor)  # another process, which had nothing to write, took its name away
        try:
            self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            if not self._lines:
                # Nothing was written: no empty chain stays behind. Still locked, so nobody else can have begun one.
                with contextlib.suppress(OSError):
                    if not os.fstat(self._descriptor).st_size:
                        self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise UsageError("core.file.missing", "no such folder", where=str(self.path.parent)) from None
        except OSError as error:
            raise translate_os_error(error, self.path) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            self._descriptor = -1
            raise RefusedError(
                "video.seal.busy",
                "another process is sealing this recording",
                hint="wait for it to end, and run again",
                where=str(self.path),
            ) from None

    def _read(self) -> None:
        """Follow the chain to its end; only a sound one is continued."""
        last: Line | None = None
        certificates: tuple[x509.Certificate, ...] = ()
        size = 0
        for line in read_lines(self.path):
            if line.torn:
                self._mend(line, size)
                if line.record is None:
                    break
            record = line.record
            if record is None or record.sequence != line.number or record.previous != self._last:
                raise self._broken(line.number)
            if line.number == 1:
                self._same(record)
            elif (record.recording, record.device, record.kind) != (self.recording, self._device.value, record.kind):
                raise self._broken(line.number)
            if (record.kind == "open") != (line.number == 1) or self.closed:
                raise self._broken(line.number)
            if record.chain:
                certificates = line.certificates()
                self._leaf = record.chain
            self._follow(record)
            self._lines, self._last, last = line.number, line.sha256, line
            size += len(line.data) + 1
            if line.torn:
                break
        if last is not None and not (certificates and last.signed_by(certificates[0].public_key())):
            raise self._broken(last.number)

    def _broken(self, number: int) -> RefusedError:
        return RefusedError(
            "video.seal.chain",
            "the chain is broken; nothing is added to it",
            hint=f"see what is wrong: secguard video verify {self.path.parent}",
            where=f"{self.path}, line {number}",
        )

    def _same(self, record: Record) -> None:
        """The chain is that of the recording to be continued."""
        if record.device != self._device.value:
            raise RefusedError("video.seal.device", f"this is a recording of {record.device}", where=str(self.path))
        if self.recording and self.recording != record.recording:
            raise RefusedError(
                "video.seal.recording",
                f"this folder holds recording {record.recording}",
                hint="give another folder, or leave --recording out",
                where=str(self.path),
            )
        self.recording = record.recording

    def _mend(self, line: Line, size: int) -> None:
        """A crash tore the last line: complete it, or take it away."""
        try:
            if line.record is not None:
                os.write(self._descriptor, b"\n")
                self.notices.append(f"line {line.number} of the chain had lost its end; it was completed")
            else:
                os.ftruncate(self._descriptor, size)
                self.notices.append(f"line {line.number} of the chain was torn by a crash; it was taken away")
            os.fsync(self._descriptor)
        except OSError as error:
            raise translate_os_error(error, self.path) from error

    def _follow(self, record: Record) -> None:
        """Take over what a line says."""
        if record.segment is not None:
            self.segments[record.segment.name] = record.segment.size
            self._manifest = record.segment.manifest
        self.closed = record.kind == "close"
        told = record.segment.end if record.segment is not None else record.until
        try:
            time = parse_time(told)
        except UsageError:
            return
        self.until = time if self.until is None else max(self.until, time)

    @property
    def place(self) -> dict[str, str | int]:
        """What the next segment's manifest says of its place: recording, sequence, previous."""
        if not self.recording:
            stamp = self._clock.now().strftime("%Y%m%dT%H%M%SZ")
            self.recording = f"{self._device.value}-{stamp}"
        return {"recording": self.recording, "sequence": len(self.segments) + 1, "previous": self._manifest}

    def _append(
        self, kind: str, data: Mapping[str, Any], release: Callable[[], None] = lambda: None, **said: Any
    ) -> None:
        """Sign a line, record the act, release what belongs to it, and write the line."""
        if self.closed:
            raise RefusedError(
                "video.seal.closed",
                f"recording {self.recording} is closed",
                hint="begin another one in another folder",
                where=str(self.path),
            )
        if self._lines >= MAX_LINES:
            raise RefusedError(
                "video.seal.size", f"a chain has at most {MAX_LINES} lines", hint="close it and begin another one"
            )
        pem = self._sealer.pem
        own = {"chain": pem, "sealed": self._sealer.sealed} if pem != self._leaf else {}
        recording = str(self.place["recording"])
        try:
            record = msgspec.convert(
                {
                    "v": 1,
                    "kind": kind,
                    "recording": recording,
                    "device": self._device.value,
                    "sequence": self._lines + 1,
                    "previous": self._last,
                    "time": rfc3339(self._clock.now()),
                    **own,
                    **said,
                },
                Record,
            )
        except msgspec.ValidationError as error:
            raise UsageError("video.seal.value", f"this cannot be said in a chain: {error}") from None
        line = seal(msgspec.json.encode(record), CHAIN_TYPE, self._sealer.signer)
        digest = hashlib.sha256(line[:-1]).hexdigest()
        self._record({"act": kind, "recording": recording, "line": record.sequence, "line_sha256": digest, **data})
        release()
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
            if record.sequence == 1:
                fsync_directory(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - (len(line) - len(view)))
            raise translate_os_error(error, self.path) from error
        self._lines, self._last, self._leaf = record.sequence, digest, pem
        self._follow(record)

    def _open(self) -> None:
        if not self._lines:
            promise = self._promise
            self._append("open", {}, heartbeat=promise.heartbeat, max_gap=promise.max_gap, whole=promise.whole)

    def add(
        self,
        name: str,
        manifest: Manifest,
        envelope: bytes,
        data: Mapping[str, Any],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Append a segment.

        Args:
            name: of the file, relative, with `/`.
            manifest: the file's, made for `place` or by the camera.
            envelope: the manifest as it stands beside the file.
            data: more values for the record of the act.
            release: gives the manifest its name; called once the act is recorded.

        Raises:
            RefusedError: the recording is closed or full, or the name is taken.
            UsageError: the name cannot stand in a chain.
            SystemPartError: the disk is full; the chain is as before.
        """
        if not safe_name(name):
            raise UsageError("video.seal.name", "this name cannot stand in a chain", where=repr(name))
        if name in self.segments:
            raise RefusedError("video.seal.exists", "it is sealed already", where=name)
        self._open()
        segment = Segment(
            number=len(self.segments) + 1,
            name=name,
            size=manifest.size,
            sha256=manifest.sha256,
            manifest=hashlib.sha256(envelope).hexdigest(),
            start=manifest.start,
            end=manifest.end,
            time_source=manifest.time_source,
            gops=len(manifest.gops.sha256),
            frames=manifest.frames,
            seis=manifest.seis,
            first_counter=manifest.first_counter,
            last_counter=manifest.last_counter,
        )
        self._append("segment", {"segment": segment.number, **data}, release, segment=segment)

    def heartbeat(self, until: datetime | None) -> None:
        """State that up to `until` there was nothing but what is listed; without it, that the sealer is alive."""
        self._open()
        told = rfc3339(until) if until is not None else ""
        self._append("heartbeat", {"until": told}, until=told, segments=len(self.segments))

    def close(self, until: datetime) -> None:
        """State that the recording ended; nothing can follow."""
        self._open()
        self._append("close", {"until": rfc3339(until)}, until=rfc3339(until), segments=len(self.segments))
