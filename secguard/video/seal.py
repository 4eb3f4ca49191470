"""Seal recordings as they are: a signed manifest beside any file, of any container and codec; the file is not touched.

What holds H.264 or H.265 in a container that is read here gets the full manifest, GOP by GOP. Anything else gets the
hash of the whole file: then equality proves everything, and a difference proves nothing but itself.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import (
    Clock,
    FixedClock,
    FormatError,
    Progress,
    RefusedError,
    SystemPartError,
    UsageError,
    rfc3339,
    silent,
)
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.limits import read_bounded
from secguard.gbid import GbId
from secguard.keys import Signer, key_id
from secguard.trust import MALFORMED, Purpose, gbid_of, stated_purposes
from secguard.video.claims import read_claims
from secguard.video.containers import map_file
from secguard.video.hashing import hash_nals, hash_range
from secguard.video.insertions import Times
from secguard.video.manifest import (
    Gops,
    Manifest,
    OpenedManifest,
    digest_config,
    digest_presentation,
    digest_sets,
    gop_starts,
    gops_of,
    shown_of,
)
from secguard.video.nal import Stream, open_stream
from secguard.video.recording_files import MANIFEST_SUFFIX

__all__ = [
    "OTHER",
    "Described",
    "Sealer",
    "describe",
    "event_data",
    "hash_file",
    "import_purpose",
    "manifest_target",
    "prepare",
    "read_own_manifest",
    "write_manifest",
]

OTHER = "other"
"""Container and codec of a file that is not read here."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Sealer:
    """Who seals.

    Attributes:
        signer: the key.
        chain: its certificates, leaf first.
        sealed: `recording`: the camera's media signing key; `import`: an operator's or a platform's, later.
    """

    signer: Signer
    chain: tuple[x509.Certificate, ...]
    sealed: Literal["recording", "import"] = "recording"

    @property
    def pem(self) -> str:
        """The chain without the root, which comes from elsewhere."""
        kept = [item for number, item in enumerate(self.chain) if number == 0 or item.issuer != item.subject]
        return b"".join(item.public_bytes(Encoding.PEM) for item in kept).decode("ascii")

    @property
    def certificate_sha256(self) -> str:
        """Hash of the leaf, hex."""
        return hashlib.sha256(self.chain[0].public_bytes(Encoding.DER)).hexdigest()

    def check(self, device: GbId) -> None:
        """Refuse what no verifier would believe.

        Raises:
            UsageError: the chain is not the key's.
            RefusedError: its certificate is another device's, or for another purpose.
        """
        if not self.chain or key_id(self.chain[0].public_key()) != key_id(self.signer.public_key()):
            raise UsageError(
                "video.seal.certificate",
                "the first certificate of the chain is not the key's",
                hint="leaf first in --chain",
            )
        try:
            named, purposes = gbid_of(self.chain[0], trust_cn=True), stated_purposes(self.chain[0])
        except MALFORMED as error:
            raise UsageError("video.seal.certificate", f"the certificate is malformed: {str(error)[:120]}") from None
        imported = self.sealed == "import"
        wanted = (Purpose.OPERATOR, Purpose.PLATFORM) if imported else (Purpose.MEDIA_SIGNING,)
        if purposes and not set(wanted) & set(purposes):
            raise RefusedError(
                "video.seal.purpose",
                f"the certificate is for {', '.join(purposes)}, not for {' or '.join(wanted)}",
                hint="without --at-import the camera's media signing key seals; with it an operator's or a platform's",
            )
        if not imported and named is not None and named != device:
            raise RefusedError(
                "video.seal.device",
                f"the certificate is that of {named}, not of {device}",
                hint="give the key and the chain of this camera",
            )


@dataclass(frozen=True, slots=True)
class Described:
    """A file's manifest before it has a signer.

    Attributes:
        manifest: everything that the file tells.
        end: wall clock of its end.
        note: why it is sealed as a whole only; empty for a full manifest.
    """

    manifest: Manifest
    end: datetime
    note: str = ""


class _Whole:
    """SHA-256 of the whole file on a second core while the first hashes slices."""

    def __init__(self, path: Path) -> None:
        self._value = b""
        self._stop = threading.Event()
        self._data = map_file(path)
        self.size = len(self._data)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._value = hash_range(self._data, 0, len(self._data), stop=self._stop)

    def stop(self) -> None:
        """Nobody waits for gigabytes after an error."""
        self._stop.set()
        self._thread.join()
        self._data.close()

    def digest(self) -> bytes:
        self._thread.join()
        return self._value


@contextmanager
def _whole(path: Path) -> Iterator[_Whole]:
    work = _Whole(path)
    try:
        yield work
    finally:
        work.stop()


def hash_file(path: Path, progress: Progress = silent) -> tuple[int, bytes]:
    """Size and SHA-256 of a regular file of any kind and size.

    Raises:
        UsageError: no such file, or not a regular one.
        SystemPartError: it cannot be read.
    """
    digest, done = hashlib.sha256(), 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError("core.file.missing", "not a regular file", where=str(path))
            buffer = bytearray(_CHUNK)
            view = memoryview(buffer)
            while count := file.readinto(buffer):
                digest.update(view[:count])
                done += count
                progress(done, max(status.st_size, done), "bytes")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UsageError("core.file.missing", "no such file", where=str(path)) from None
    except OSError as error:
        raise SystemPartError("core.file.unreadable", f"cannot read: {error.strerror}", where=str(path)) from error
    return done, digest.digest()


def _status(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError("core.file.missing", "no such file", where=str(path)) from None
    except OSError as error:
        raise SystemPartError("core.file.unreadable", f"cannot read: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(status.st_mode):
        raise UsageError("core.file.missing", "not a regular file", where=str(path))
    return status.st_size, status.st_mtime_ns, status.st_ino


def _wall_clock(stream: Stream | None, start: datetime | None, changed: datetime) -> tuple[datetime, datetime, str]:
    """Start, end, and who says so."""
    if stream is not None:
        try:
            times = Times.of(stream, start, FixedClock(changed))
        except (OverflowError, ValueError):  # durations beyond all clocks, or no sample at all
            pass
        else:
            return times.start, times.end, "file" if times.source == "clock" else times.source
    return (start, start, "claimed") if start else (changed, changed, "file")


def import_purpose(leaf: x509.Certificate) -> Purpose:
    """What a key that seals at import must be certified for: a platform's if it says so, else an operator's."""
    try:
        return Purpose.PLATFORM if Purpose.PLATFORM in stated_purposes(leaf) else Purpose.OPERATOR
    except MALFORMED:
        return Purpose.OPERATOR


def _open(path: Path) -> tuple[Stream | None, str]:
    """The recording, or why it is sealed as a whole only."""
    try:
        stream = open_stream(path)
    except FormatError as error:
        return None, error.message
    return (stream, "") if stream.nals.vcl.any() else (None, "the video track holds no picture")


def _plain(path: Path, progress: Progress) -> Manifest:
    """What any file tells; the signer, the camera and the times are filled in later."""
    size, digest = hash_file(path, progress)
    return Manifest(
        device="",
        container=OTHER,
        codec=OTHER,
        size=size,
        sha256=digest.hex(),
        frames=0,
        slices=0,
        nals=0,
        seis=0,
        last_counter=0,
        gops=Gops((), (), ()),
        parameter_sets=digest.hex(),
        presentation=digest.hex(),
        start="",
        end="",
        chain="",
    )


def _full(stream: Stream, progress: Progress) -> Manifest:
    """What a recording tells; the signer, the camera and the times are filled in later."""
    nals = stream.nals
    with _whole(stream.source.path) as whole:
        hashed = hash_nals(stream.source.data, nals, np.flatnonzero(nals.vcl), progress=progress)
        gops = gops_of(stream, hashed)
        signed = [claim.sei.counter for claim in read_claims(stream).claims if claim.sei.signature]
        return Manifest(
            device="",
            container=stream.source.container,
            codec=stream.track.codec,
            size=whole.size,
            sha256=whole.digest().hex(),
            frames=sum(gops.frames),
            slices=len(hashed),
            nals=len(nals),
            seis=len(signed),
            first_counter=min(signed, default=0),
            last_counter=max(signed, default=0),
            gops=gops,
            starts=gop_starts(stream),
            config=digest_config(stream),
            parameter_sets=digest_sets(stream).hex(),
            presentation=digest_presentation(stream).hex(),
            shown=shown_of(stream),
            start="",
            end="",
            chain="",
        )


def describe(
    path: Path, device: GbId, *, clock: Clock, start: datetime | None = None, progress: Progress = silent
) -> Described:
    """Read a file for its manifest.

    Each byte is hashed once for the whole file, and once more if it lies in a slice.

    Args:
        path: the file.
        device: its camera.
        clock: tells now.
        start: wall clock of the first frame; default: the file's creation time, else such that it ends when the file
            was last changed.
        progress: called with bytes done.

    Raises:
        UsageError: no such file, or not a regular one.
        RefusedError: it was changed while it was read.
        SystemPartError: it cannot be read.
    """
    before = _status(path)
    changed = min(datetime.fromtimestamp(max(before[1], 0) / 10**9, UTC), clock.now())
    stream, note = _open(path)
    begin, end, source = _wall_clock(stream, start, changed)
    manifest = _plain(path, progress) if stream is None else _full(stream, progress)
    manifest = msgspec.structs.replace(
        manifest, device=device.value, start=rfc3339(begin), end=rfc3339(end), time_source=source
    )
    if _status(path) != before or manifest.size != before[0]:
        raise RefusedError(
            "video.seal.growing",
            "the file was changed while it was read",
            hint="seal it when the recorder has closed it; --min-age SECONDS leaves fresh files for later",
            where=str(path),
        )
    return Described(manifest, end, note)


def prepare(described: Described, sealer: Sealer, clock: Clock, **place: str | int) -> tuple[Manifest, bytes]:
    """The manifest with its signer, and its envelope.

    Args:
        described: the file.
        sealer: who seals it.
        clock: tells when.
        place: `recording`, `sequence` and `previous`, if it belongs to a recording.
    """
    manifest = msgspec.structs.replace(
        described.manifest, chain=sealer.pem, sealed=sealer.sealed, sealed_at=rfc3339(clock.now()), **place
    )
    return manifest, manifest.seal(sealer.signer)


def read_own_manifest(path: Path, target: Path, device: GbId) -> OpenedManifest | None:
    """The manifest that stands beside a file already, if it is this file's; None if there is none.

    Args:
        path: the file; its hash is compared.
        target: the manifest.
        device: the camera it must name.

    Raises:
        RefusedError: it is another file's or another camera's, or its signature is wrong.
        FormatError: it is no manifest.
    """
    if not target.exists():
        return None
    opened = OpenedManifest.read(read_bounded(target), str(target))
    manifest = opened.manifest
    problem = ""
    if not opened.signed:
        problem = "the manifest beside it has a wrong signature"
    elif manifest.device != device.value:
        problem = f"the manifest beside it is of device {manifest.device}"
    elif _status(path)[0] != manifest.size or hash_file(path)[1].hex() != manifest.sha256:
        problem = "it is not the file that its manifest sealed"
    if problem:
        raise RefusedError(
            "video.seal.manifest",
            problem,
            hint=f"see what was done to it: secguard video verify {path.name}",
            where=str(path),
        )
    return opened


def write_manifest(target: Path, envelope: bytes) -> None:
    """Put the manifest beside its file, in one durable step; folders are made.

    Raises:
        SystemPartError: the disk is full, or any other failed write.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise translate_os_error(error, target) from error
    atomic_write(target, envelope)


def manifest_target(path: Path, output: Path | None, name: str) -> Path:
    """Where a file's manifest goes: beside it, or below `output`."""
    return (path if output is None else output / name).with_name(path.name + MANIFEST_SUFFIX)


def event_data(manifest: Manifest, envelope: bytes, sealer: Sealer, name: str) -> dict[str, str | int]:
    """The values of a `video.sealed` event."""
    return {
        "file": name,
        "file_sha256": manifest.sha256,
        "manifest_sha256": hashlib.sha256(envelope).hexdigest(),
        "certificate_sha256": sealer.certificate_sha256,
        "sealed": sealer.sealed,
        "gops": len(manifest.gops.sha256),
    }
