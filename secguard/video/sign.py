"""Sign an MP4 recording: ONVIF Media Signing SEIs in the stream, and a segment manifest beside the file.

One pass hashes the slices, GOP by GOP; each GOP gets one SEI, put before the first slice of the next GOP; the last
one ends the last sample. A second pass copies the file and inserts them. Nothing is re-encoded or re-muxed.
"""

import hashlib
import mmap
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Clock, Progress, RefusedError, UsageError, rfc3339, silent
from secguard.core.files import atomic_write
from secguard.gbid import GbId
from secguard.keys import Signer, key_id
from secguard.trust import MALFORMED, Purpose, gbid_of, stated_purposes
from secguard.video.containers import map_file
from secguard.video.containers.annexb import Elementary
from secguard.video.containers.mp4 import Movie
from secguard.video.hashing import hash_nals, hash_range
from secguard.video.insertions import Times, insertions
from secguard.video.manifest import (
    Manifest,
    digest_config,
    digest_presentation,
    digest_sets,
    gop_starts,
    gops_of,
    shown_of,
)
from secguard.video.nal import Stream, open_stream
from secguard.video.sei import UUID
from secguard.video.signing.bare import bare_edits
from secguard.video.signing.modes import Mode, signature_room
from secguard.video.signing.output import Edit, Insertion, write_edits
from secguard.video.signing.packets import program_edits
from secguard.video.signing.transport import transport_edits
from secguard.video.splice import movie_edits

__all__ = ["Signed", "manifest_path", "sign"]


@dataclass(frozen=True, slots=True)
class Signed:
    """What `sign` made, before or after its release.

    Attributes:
        output, manifest: the files' final names.
        input_sha256, output_sha256, manifest_sha256, certificate_sha256: hashes, hex.
        gops: GOPs of the video track.
        seis: SEIs inserted.
        frames: frames covered.
        size: bytes of the output.
        start, end: wall clock of the recording.
    """

    output: Path
    manifest: Path
    input_sha256: str
    output_sha256: str
    manifest_sha256: str
    certificate_sha256: str
    gops: int
    seis: int
    frames: int
    size: int
    start: datetime
    end: datetime

    def event_data(self) -> dict[str, str | int]:
        """The values of the `video.signed` event."""
        return {
            "input_sha256": self.input_sha256,
            "output_sha256": self.output_sha256,
            "manifest_sha256": self.manifest_sha256,
            "certificate_sha256": self.certificate_sha256,
            "gops": self.gops,
        }


def manifest_path(video: Path) -> Path:
    """Where the manifest of `video` stands: `OUT.mp4.manifest.json`."""
    return video.with_name(video.name + ".manifest.json")


_PACKETS = ("ps", "ts")
_CONTAINERS = ("mp4", "annexb", *_PACKETS)
_SMALLEST = 2  # bytes of a NAL unit's length that an SEI fits


def _check(stream: Stream, signer: Signer, chain: Sequence[x509.Certificate], device: GbId, mode: Mode) -> None:
    """Refuse what cannot or must not be signed."""
    source, nals, track = stream.source, stream.nals, stream.track
    where = str(source.path)
    mode.check()
    if source.container not in _CONTAINERS:
        raise RefusedError(
            "video.sign.container",
            f"signatures are not put into {source.container} files",
            hint="store it as MP4 first: ffmpeg -i IN -c copy OUT.mp4",
            where=where,
        )
    if not nals.vcl.any():
        raise UsageError("video.sign.empty", "the video track holds no picture", where=where)
    if source.cut >= 0 or stream.samples.lost:
        raise RefusedError(
            "video.sign.damaged",
            "the recording is cut off; a signature would vouch for what is left",
            hint="copy it again from its source",
            where=where,
        )
    if nals.damaged.any():
        at = int(nals.offset[np.flatnonzero(nals.damaged)[0]])
        raise RefusedError(
            "video.sign.damaged",
            "the recording is damaged; a signature would vouch for it",
            where=f"{where}, byte {at}",
        )
    if 0 < track.length_size < _SMALLEST:
        raise UsageError(
            "video.sign.length-size",
            f"NAL unit lengths of {track.length_size} bytes leave no room for an SEI",
            hint="remux the file first: ffmpeg -i IN -c copy OUT.mp4",
            where=where,
        )
    for index in np.flatnonzero(nals.sei).tolist():
        if source.data[int(nals.offset[index]) : int(nals.offset[index]) + 600].find(UUID) >= 0:
            raise RefusedError(
                "video.sign.signed",
                "the recording is signed already",
                hint="verify it, or sign the original",
                where=f"{where}, byte {source.place(int(nals.offset[index]))}",
            )
    signature_room(signer)
    if not chain or key_id(chain[0].public_key()) != key_id(signer.public_key()):
        raise UsageError(
            "video.sign.certificate",
            "the first certificate of the chain is not the key's",
            hint="leaf first in --chain",
        )
    _check_holder(chain[0], device)


def _check_holder(leaf: x509.Certificate, device: GbId) -> None:
    """What no verifier would believe is not signed, nor recorded as signed."""
    try:
        named, purposes = gbid_of(leaf, trust_cn=True), stated_purposes(leaf)
    except MALFORMED as error:
        raise UsageError("video.sign.certificate", f"the certificate is malformed: {str(error)[:120]}") from None
    if named is not None and named != device:
        raise RefusedError(
            "video.sign.device",
            f"the certificate is that of {named}, not of {device}",
            hint="give the key and the chain of this camera",
        )
    if purposes and Purpose.MEDIA_SIGNING not in purposes:
        raise RefusedError(
            "video.sign.purpose",
            f"the certificate is for {', '.join(purposes)}, not for media-signing",
            hint=f"secguard identity issue {device} --profile media-signing",
        )


def _without_root(chain: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The chain as the SEI carries it: the root is left out, it comes from elsewhere."""
    return [item for number, item in enumerate(chain) if number == 0 or item.issuer != item.subject]


@contextmanager
def sign(
    source: Path,
    target: Path,
    *,
    signer: Signer,
    chain: Sequence[x509.Certificate],
    device: GbId,
    clock: Clock,
    start: datetime | None = None,
    mode: Mode | None = None,
    manifest: Path | None = None,
    place: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Iterator[Signed]:
    """Sign a recording; the block decides its fate.

    Both files are complete under temporary names when the block begins, so that the act can be recorded; they get
    their names when it ends, and are removed when it raises.

    Args:
        source: the recording; it stays as it is.
        target: the signed copy.
        signer: a media signing key: ECDSA P-256 or P-384, or RSA.
        chain: its certificates, leaf first; the root may be among them and is left out.
        device: GB/T 28181 ID of the camera.
        clock: the time when no other is known.
        start: wall clock of the first frame; default: the file's creation time, else such that it ends now.
        mode: how it is signed.
        manifest: the manifest's file; default: `manifest_path(target)`.
        place: what the manifest says of its place in a recording: `recording`, `sequence`, `previous`.
        progress: called with bytes done.

    Yields:
        Hashes and counts for the record.

    Raises:
        FormatError: the source is no readable recording.
        RefusedError: it is damaged or signed already, the target exists, or the certificate is another device's or
            for another purpose.
        UsageError: key and certificate do not fit, or the recording cannot be signed.
        SystemPartError: the disk is full; nothing is left behind.
    """
    beside = manifest or manifest_path(target)
    for path in (target, beside):
        if path.exists():
            raise RefusedError("video.sign.exists", "the output exists", hint="choose another name", where=str(path))
    for folder in (target.parent, beside.parent):
        if not folder.is_dir():
            raise UsageError("video.sign.folder", "no such folder", where=str(folder))
    mode = mode or Mode()
    stream = open_stream(source)
    _check(stream, signer, chain, device, mode)
    # What stands in packets was taken out of them, so that the source's bytes are not the file's.
    file = stream.source.data if stream.source.container not in _PACKETS else map_file(source)
    with _Background(file) as whole:
        chosen = np.flatnonzero(stream.nals.vcl)
        hashed = hash_nals(stream.source.data, stream.nals, chosen, name=mode.hash_name, progress=progress)
        times = Times.of(stream, start, clock)
        pem = b"".join(item.public_bytes(Encoding.PEM) for item in _without_root(chain))
        seis = list(insertions(stream, hashed, times, signer=signer, chain=pem, serial=device.value, mode=mode))
        pending = write_edits(file, _edits(stream, file, seis), target, progress)
        try:
            if mode.hash_name != "sha256":  # the manifest's own hashes are SHA-256, whatever the SEIs use
                hashed = hash_nals(stream.source.data, stream.nals, chosen)
            gops = gops_of(stream, hashed)
            signed = [item.counter for item in seis if item.counter]
            segment = Manifest(
                device=device.value,
                container=stream.source.container,
                codec=stream.track.codec,
                size=pending.size,
                sha256=pending.sha256.hex(),
                frames=sum(gops.frames),
                slices=len(hashed),
                nals=len(stream.nals) + len(seis),
                seis=len(signed),
                first_counter=signed[0],
                last_counter=signed[-1],
                gops=gops,
                starts=gop_starts(stream),
                config=digest_config(stream),
                parameter_sets=digest_sets(stream).hex(),
                presentation=digest_presentation(stream).hex(),
                shown=shown_of(stream),
                start=rfc3339(times.start),
                end=rfc3339(times.end),
                time_source="signing" if times.source == "clock" else times.source,
                sealed_at=rfc3339(clock.now()),
                chain=pem.decode("ascii"),
                **(place or {}),
            )
            envelope = segment.seal(signer)
            yield Signed(
                target,
                beside,
                whole.digest().hex(),
                pending.sha256.hex(),
                hashlib.sha256(envelope).hexdigest(),
                hashlib.sha256(chain[0].public_bytes(Encoding.DER)).hexdigest(),
                len(gops.sha256),
                len(seis),
                segment.frames,
                pending.size,
                times.start,
                times.end,
            )
            # The manifest first: a video without it verifies as unknown, a manifest without its video harms nobody.
            atomic_write(beside, envelope)
            try:
                pending.release()
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
        finally:
            pending.discard()


def _edits(stream: Stream, file: mmap.mmap, seis: Sequence[Insertion]) -> Iterable[Edit]:
    """What changes in the file."""
    if isinstance(stream.source, Movie):
        return movie_edits(stream.source, stream.track, seis)
    if isinstance(stream.source, Elementary) and stream.source.container == "ps":
        return program_edits(stream.source, file, seis)
    if isinstance(stream.source, Elementary) and stream.source.container == "ts":
        return transport_edits(stream.source, file, seis)
    return bare_edits(seis)


class _Background:
    """SHA-256 of the whole input on a second core while the first hashes slices; leaving the block ends it."""

    def __init__(self, file: mmap.mmap) -> None:
        self._value = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(file,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # after an error nobody waits for gigabytes, and nothing reads the file any longer
        self._thread.join()

    def _run(self, file: mmap.mmap) -> None:
        self._value = hash_range(file, 0, len(file), stop=self._stop)

    def digest(self) -> bytes:
        self._thread.join()
        return self._value
