"""Seal the files of a recording, one after another, into its chain; or single files, each by a manifest of its own.

What is sealed already is left alone, so the same call goes on after an interruption, a crash, or when the recorder has
written more.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from secguard.core import Clock, Progress, RefusedError, SecguardError, SystemPartError, silent
from secguard.core.files import translate_os_error
from secguard.core.limits import read_bounded
from secguard.gbid import GbId
from secguard.video.manifest import Manifest, OpenedManifest
from secguard.video.recording_files import list_segments, safe_name
from secguard.video.recording_writer import Promise, RecordAct, RecordingChain
from secguard.video.seal import (
    Sealer,
    describe,
    event_data,
    manifest_target,
    prepare,
    read_own_manifest,
    write_manifest,
)

__all__ = ["Sealed", "SealedFile", "SigningInto", "seal_files", "seal_recording"]


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file that was sealed, or could not be.

    Attributes:
        name: as given, or relative to the recording's folder.
        number: of the segment; 0 for a single file.
        manifest: where its manifest stands.
        container, gops, frames, size: what it is; `other` was sealed as a whole.
        adopted: it had a manifest of its own already.
        note: why it was sealed as a whole only.
        error: why it was not sealed; empty if it was.
    """

    name: str
    number: int = 0
    manifest: str = ""
    container: str = ""
    gops: int = 0
    frames: int = 0
    size: int = 0
    adopted: bool = False
    note: str = ""
    error: str = ""


@dataclass(slots=True)
class Sealed:
    """What `seal_recording` and `seal_files` did.

    Attributes:
        files: those sealed now, and those that could not be.
        before: files that were sealed before.
        fresh: files left for later, since they were changed a moment ago.
        recording, chain: the recording's ID and the chain's path; empty for single files.
        closed: the recording is closed.
        until: up to this time everything is told.
        notices: what was repaired.
    """

    files: list[SealedFile] = field(default_factory=list)
    before: int = 0
    fresh: int = 0
    recording: str = ""
    chain: str = ""
    closed: bool = False
    until: datetime | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def refused(self) -> list[SealedFile]:
        """Files that could not be sealed."""
        return [item for item in self.files if item.error]


class _Meter:
    """Progress over all files, by bytes."""

    def __init__(self, sizes: Mapping[str, int], progress: Progress) -> None:
        self._sizes, self._progress = sizes, progress
        self._total, self._done = max(sum(sizes.values()), 1), 0

    def part(self, name: str) -> Progress:
        """For one file: its share, whatever it counts by."""

        def update(done: int, total: int | None, _: str) -> None:
            share = self._sizes[name] * done // max(total or 1, 1)
            self._progress(min(self._done + share, self._total - 1), self._total, "bytes")

        return update

    def finish(self, name: str) -> None:
        self._done += self._sizes[name]
        self._progress(self._done, self._total, "bytes")


def _named(item: Manifest, name: str, number: int, target: Path, **more: Any) -> SealedFile:
    return SealedFile(name, number, str(target), item.container, len(item.gops.sha256), item.frames, item.size, **more)


def seal_files(
    paths: Sequence[Path],
    *,
    device: GbId,
    sealer: Sealer,
    clock: Clock,
    record: RecordAct,
    start: datetime | None = None,
    output: Path | None = None,
    progress: Progress = silent,
) -> Sealed:
    """Put a manifest beside each file; a file that has its own already is left alone.

    Args:
        paths: the files; `start` is that of the first, the others follow it.
        device: their camera.
        sealer: who seals.
        clock: tells now.
        record: called with the values of each act before its manifest is released.
        start: wall clock of the first frame.
        output: folder for the manifests; default: beside the files.
        progress: called with bytes done.

    Raises:
        SecguardError: nothing can be sealed: the key does not fit, the disk is full, an act could not be recorded.
    """
    sealer.check(device)
    done = Sealed()
    meter = _Meter({str(path): path.stat().st_size if path.is_file() else 0 for path in paths}, progress)
    for path in paths:
        target = manifest_target(path, output, path.name)
        try:
            if read_own_manifest(path, target, device) is not None:
                done.before += 1
                continue
            described = describe(path, device, clock=clock, start=start, progress=meter.part(str(path)))
        except SystemPartError:
            raise
        except SecguardError as error:
            if len(paths) == 1:
                raise
            done.files.append(SealedFile(str(path), error=error.message))
            continue
        finally:
            meter.finish(str(path))
        manifest, envelope = prepare(described, sealer, clock)
        record({"act": "segment", **event_data(manifest, envelope, sealer, path.name)})
        write_manifest(target, envelope)
        done.files.append(_named(manifest, str(path), 0, target, note=described.note))
        start = described.end if start is not None else None
    return done


@dataclass(slots=True)
class _Work:
    """The sealing of one folder."""

    folder: Path
    output: Path | None
    device: GbId
    sealer: Sealer
    clock: Clock
    chain: RecordingChain
    start: datetime | None
    done: Sealed

    def seal(self, name: str, progress: Progress) -> None:
        """Seal one file, and put it into the chain."""
        path = self.folder / name
        target = manifest_target(path, self.output, name)
        if not safe_name(name):
            self.done.files.append(SealedFile(repr(name)[:200], error="this name cannot stand in a chain"))
            return
        place = self.chain.place
        try:
            opened = read_own_manifest(path, target, self.device)
            own = opened is not None and self._fits(opened, place, path)
            described = (
                describe(path, self.device, clock=self.clock, start=self.start, progress=progress) if not own else None
            )
        except SystemPartError:
            raise
        except SecguardError as error:
            self.done.files.append(SealedFile(name, error=error.message))
            return
        if described is None:
            assert opened is not None
            self._adopt(name, opened, target)
            return
        manifest, envelope = prepare(described, self.sealer, self.clock, **place)
        number = int(place["sequence"])
        self.chain.add(
            name,
            manifest,
            envelope,
            event_data(manifest, envelope, self.sealer, name),
            lambda: write_manifest(target, envelope),
        )
        self.done.files.append(_named(manifest, name, number, target, note=described.note))
        self.start = described.end if self.start is not None else None

    def _fits(self, opened: OpenedManifest, place: Mapping[str, object], path: Path) -> bool:
        """A manifest that was there can stand in the chain as it is; one of ours that no line names is made again."""
        manifest = opened.manifest
        if manifest.recording in ("", place["recording"]):
            told = (manifest.sequence, manifest.previous)
            return not manifest.recording or told == (place["sequence"], place["previous"])
        raise RefusedError(
            "video.seal.recording",
            f"its manifest belongs to recording {manifest.recording}",
            hint="give that one with --recording, or put the file into a folder of its own",
            where=str(path),
        )

    def _adopt(self, name: str, opened: OpenedManifest, target: Path) -> None:
        envelope = read_bounded(target)
        number = len(self.chain.segments) + 1
        if hashlib.sha256(envelope).digest() != opened.sha256:
            raise RefusedError("video.seal.growing", "its manifest was changed while it was read", where=name)
        self.chain.add(name, opened.manifest, envelope, event_data(opened.manifest, envelope, self.sealer, name))
        self.done.files.append(_named(opened.manifest, name, number, target, adopted=True))


@dataclass(frozen=True, slots=True)
class SigningInto:
    """A recording's chain, held open while a file is signed that becomes its next segment.

    Attributes:
        chain: the chain.
        sealer: who signs.
    """

    chain: RecordingChain
    sealer: Sealer

    @classmethod
    @contextmanager
    def open(
        cls, folder: Path, *, device: GbId, sealer: Sealer, clock: Clock, record: RecordAct
    ) -> "Iterator[SigningInto]":
        """Open the chain of a folder, or begin one.

        Raises:
            RefusedError: it is closed or broken, or another process holds it.
        """
        promise = replace(Promise(), whole=False)
        opened = RecordingChain(folder, device=device, sealer=sealer, clock=clock, record=record, promise=promise)
        with opened as chain:
            if chain.closed:
                raise RefusedError(
                    "video.seal.closed",
                    f"recording {chain.recording} is closed",
                    hint="put new files into another folder",
                    where=str(chain.path),
                )
            yield cls(chain, sealer)

    @property
    def place(self) -> Mapping[str, Any]:
        """What the manifest of the next segment says of its place."""
        return self.chain.place

    def add(self, video: Path, manifest: Path) -> None:
        """Put the signed file into the chain.

        Raises:
            SecguardError: it could not be recorded or written; the signed file stands, and `video seal` can add it.
        """
        envelope = read_bounded(manifest)
        opened = OpenedManifest.read(envelope, str(manifest))
        data = event_data(opened.manifest, envelope, self.sealer, video.name)
        self.chain.add(video.name, opened.manifest, envelope, data)


def _choose(
    chain: RecordingChain, names: Sequence[str], folder: Path, done: Sealed, fresh: tuple[float, float]
) -> dict[str, int]:
    """The files to be sealed, with their sizes; those changed within `fresh` wait."""
    chosen = {}
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError as error:
            done.files.append(SealedFile(name, error=f"cannot read: {error.strerror}"))
            continue
        sealed = chain.segments.get(name)
        if sealed is not None:
            done.before += 1
            if sealed != status.st_size:
                done.files.append(SealedFile(name, error="it was changed after it was sealed"))
        elif fresh[0] < status.st_mtime <= fresh[1]:
            done.fresh += 1
        else:
            chosen[name] = status.st_size
    return chosen


def seal_recording(
    folder: Path,
    *,
    device: GbId,
    sealer: Sealer,
    clock: Clock,
    record: RecordAct,
    names: Sequence[str] | None = None,
    recording: str = "",
    output: Path | None = None,
    start: datetime | None = None,
    order: str = "name",
    min_age: float = 0.0,
    heartbeat: bool = False,
    close: bool = False,
    promise: Promise | None = None,
    progress: Progress = silent,
) -> Sealed:
    """Seal what is new in a recording's folder, and continue its chain.

    Args:
        folder: where the files are.
        device: their camera.
        sealer: who seals.
        clock: tells now.
        record: called with the values of each act before anything of it is released.
        names: the files, relative; default: all recordings in the folder, see `list_segments`.
        recording: ID of the recording; default: the chain's, or device and time for a new one.
        output: folder for chain and manifests; default: beside the files.
        start: wall clock of the first new file's first frame; the others follow it.
        order: see `list_segments`.
        min_age: files changed less than so many seconds ago are left for later: the recorder still writes them.
        heartbeat: state that there is nothing else up to now.
        close: state that the recording ended.
        promise: what a new recording promises.
        progress: called with bytes done.

    Raises:
        RefusedError: another process seals this recording, its chain is broken, or it is closed and there is more.
        SecguardError: nothing can be sealed: the key does not fit, the disk is full, an act could not be recorded.
    """
    done = Sealed()
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise translate_os_error(error, output) from error
    opened = RecordingChain(
        output or folder,
        device=device,
        sealer=sealer,
        clock=clock,
        record=record,
        recording=recording,
        promise=replace(promise or Promise(), whole=names is None),
    )
    with opened as chain:
        now = clock.now()  # before looking: what comes later is not covered by the heartbeat
        listed = list_segments(folder, order) if names is None else list(names)
        latest = now.timestamp()
        # A file from a far future has a wrong clock behind it; it would wait for ever.
        fresh = (latest - min_age, latest + max(min_age, 60.0)) if min_age > 0 else (latest, latest - 1)
        chosen = _choose(chain, listed, folder, done, fresh)
        if chain.closed and chosen:
            raise RefusedError(
                "video.seal.closed",
                f"recording {chain.recording} is closed, and {next(iter(chosen))} is not in it",
                hint="put new files into another folder",
                where=str(chain.path),
            )
        work = _Work(folder, output, device, sealer, clock, chain, start, done)
        meter = _Meter(chosen, progress)
        for name in chosen:
            work.seal(name, meter.part(name))
            meter.finish(name)
        if (heartbeat or close) and done.refused:
            done.notices.append("no heartbeat, no close: not every file could be sealed")
        elif close and not chain.closed:
            if done.fresh:
                done.notices.append("not closed: files were left for later")
            else:
                chain.close(now)
        elif heartbeat and not chain.closed:
            # What the recorder still writes began at a time that nobody knows here.
            chain.heartbeat(None if done.fresh else now - timedelta(seconds=min_age))
        done.recording, done.chain = chain.recording, str(chain.path)
        done.closed, done.until = chain.closed, chain.until
        done.notices[:0] = chain.notices
    return done
