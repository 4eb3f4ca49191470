"""The signed segment manifest: what ONVIF Media Signing cannot say about a recording.

A DSSE envelope (payload type `application/vnd.secguard.segment+json`) beside the file: whose camera, how many frames
in how many GOPs, what each of them hashes to, which parameter sets they decode with, when each is shown. The media
signing key signs it, and its certificate chain lies inside, so the root certificate alone verifies it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np
from cryptography import x509

from secguard.core import FormatError
from secguard.keys import Signer, seal, unseal
from secguard.video.hashing import Hashed
from secguard.video.nal import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = [
    "PAYLOAD_TYPE",
    "Gops",
    "Manifest",
    "OpenedManifest",
    "Shown",
    "digest_config",
    "digest_presentation",
    "digest_sets",
    "gop_samples",
    "gop_starts",
    "gops_of",
    "shown_of",
]

PAYLOAD_TYPE = "application/vnd.secguard.segment+json"

_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_HexOrNone = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_MAX_CHAIN = 16


class Gops(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column a property, one row a GOP, in decoding order.

    Attributes:
        sha256: SHA-256 over the concatenated SHA-256 hashes of the GOP's slices, hex.
        frames: frames (samples that hold a slice).
        slices: slices.
        times: SHA-256, hex, over durations and composition offsets of the GOP's samples, in seconds.
        sets: SHA-256, hex, over the parameter sets in the GOP's samples; empty where there are none.

    `times` and `sets` are empty as a whole in manifests made before these columns existed.
    """

    sha256: tuple[_Hex, ...]
    frames: tuple[_Count, ...]
    slices: tuple[_Count, ...]
    times: tuple[_Hex, ...] = ()
    sets: tuple[_HexOrNone, ...] = ()

    def same_length(self) -> bool:
        """Every column has one value a GOP, or is not there."""
        count = len(self.sha256)
        return (
            len(self.frames) == len(self.slices) == count
            and len(self.times) in {0, count}
            and len(self.sets) in {0, count}
        )


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What says how the samples are shown, beside their times: SHA-256, hex, of each, to tell them apart.

    Attributes:
        edits: the edit list, in seconds.
        header: the track header: enabled, matrix, width and height.
        tracks: the kinds of tracks in the file, in order.
    """

    edits: _Hex
    header: _Hex
    tracks: _Hex


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Version 1 of the manifest of one segment.

    Attributes:
        device: GB/T 28181 ID of the camera.
        recording: ID of the recording that the segment belongs to; empty outside of one.
        sequence: number of the segment within its recording, from 1.
        previous: SHA-256 of the manifest before, hex; empty for the first.
        container: what `presentation` was read from; another one says it in other words. `other`: a file that is not
            read here, proven by its hash alone.
        codec: `h264`, `h265` or `other`.
        size, sha256: the whole file.
        frames, slices, nals: counts of the video track; `nals` counts every NAL unit, SEIs included.
        seis: signed SEIs of ONVIF Media Signing in it.
        first_counter, last_counter: running numbers of the first and the last of them; 0 where not known.
        gops: the GOPs.
        starts: microseconds from `start` until the first frame of each GOP is shown; empty in older manifests.
        config: SHA-256 of the decoder configuration record, hex; empty where the container has none.
        parameter_sets: hash over the decoder configuration and all parameter sets in the stream.
        presentation: hash over sample times, edit list, track header and the kinds of tracks.
        shown: hashes of its parts; None in older manifests.
        start, end: wall clock of the first frame and of the end of the last, RFC 3339, as claimed by the signer.
        time_source: who vouches for these times: `claimed` by the signer, `container` (the file's creation time),
            `file` (its last change in the file system, which copying alters), `signing` (it ended when it was signed).
        sealed: `recording`: by the camera's key; `import`: by an operator's or a platform's key, later, so that
            nothing is known of the time before.
        sealed_at: when it was sealed, RFC 3339, as claimed by the signer; empty in older manifests.
        chain: certificates in PEM, leaf first.
    """

    v: int = 1
    device: str
    recording: str = ""
    sequence: Annotated[int, msgspec.Meta(ge=1)] = 1
    previous: str = ""
    container: str = "mp4"
    codec: str
    size: _Count
    sha256: _Hex
    frames: _Count
    slices: _Count
    nals: _Count
    seis: _Count
    first_counter: _Count = 0
    last_counter: _Count
    gops: Gops
    starts: tuple[_Count, ...] = ()
    config: _HexOrNone = ""
    parameter_sets: _Hex
    presentation: _Hex
    shown: Shown | None = None
    start: str
    end: str
    time_source: str = "claimed"
    sealed: Literal["recording", "import"] = "recording"
    sealed_at: str = ""
    chain: str

    def seal(self, signer: Signer) -> bytes:
        """The envelope, signed."""
        return seal(msgspec.json.encode(self), PAYLOAD_TYPE, signer)


@dataclass(frozen=True, slots=True)
class OpenedManifest:
    """A manifest as read from its envelope.

    Attributes:
        manifest: its content; worth nothing unless `signed` is True and the chain is believed.
        chain: its certificates, leaf first.
        signed: the leaf's key signed the envelope.
        sha256: hash of the envelope as given.
    """

    manifest: Manifest
    chain: tuple[x509.Certificate, ...]
    signed: bool
    sha256: bytes

    @classmethod
    def read(cls, data: bytes, where: str = "") -> "OpenedManifest":
        """Open an envelope.

        Raises:
            FormatError: it is no segment manifest; a wrong signature is no error, see `signed`.
        """
        try:
            payload, _ = unseal(data, PAYLOAD_TYPE, ())
            manifest = msgspec.json.decode(payload, type=Manifest)
            if manifest.v != 1:
                raise FormatError("video.manifest.version", f"version {manifest.v} of the manifest is not known")
            if not manifest.gops.same_length() or len(manifest.starts) not in {0, len(manifest.gops.sha256)}:
                raise FormatError("video.manifest.format", "the GOP columns differ in length")
            chain = tuple(x509.load_pem_x509_certificates(manifest.chain.encode()))
            if len(chain) > _MAX_CHAIN:
                raise FormatError("video.manifest.format", f"more than {_MAX_CHAIN} certificates")
            _, key = unseal(data, PAYLOAD_TYPE, [chain[0].public_key()])
        except FormatError as error:
            error.where = error.where or where
            raise
        except Exception as error:
            raise FormatError("video.manifest.format", "not a segment manifest", where=where) from error
        return cls(manifest, chain, key is not None, hashlib.sha256(data).digest())


def digest_sets(stream: Stream) -> bytes:
    """SHA-256 over the decoder configuration record and every parameter set in the stream, each with its sample.

    The sample counts, since a parameter set acts from its place on.
    """
    source, nals = stream.source, stream.nals
    config = stream.track.config
    digest = hashlib.sha256(b"secguard segment parameter sets 1\0")
    digest.update(len(config).to_bytes(8, "big") + config)
    for index in np.flatnonzero(nals.sets).tolist():
        data = source.data[int(nals.offset[index]) : int(nals.end[index])]
        digest.update(int(nals.sample[index]).to_bytes(8, "big") + len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


def digest_presentation(stream: Stream) -> bytes:
    """SHA-256 over all that says when and how the samples are shown.

    Timescales, sample durations, composition offsets, the edit list, the track header (enabled, matrix, size), what
    else turns or shapes the picture, and the kinds of tracks in the file, in order.
    """
    source, track, samples = stream.source, stream.track, stream.samples
    digest = hashlib.sha256(b"secguard segment presentation 1\0")
    digest.update(b"".join(value.to_bytes(8, "big") for value in (source.timescale, track.timescale, len(samples))))
    for column in (samples.delta, samples.shift):
        digest.update(column.astype(">i8").tobytes())
    for row in track.edits:
        digest.update(b"".join(value.to_bytes(9, "big", signed=True) for value in row))
    # Creation and modification times and the duration are bookkeeping, the rest shows.
    wide = track.header[0] == 1
    digest.update(track.header[1:4] + track.header[36 if wide else 24 :] + track.shape)
    digest.update("\0".join(f"{item.handler} {item.entry}" for item in source.tracks).encode())
    return digest.digest()


def shown_of(stream: Stream) -> Shown:
    """What says how the samples are shown, each hashed for itself."""
    source, track = stream.source, stream.track
    edits = [
        [str(Fraction(duration, source.timescale)), str(Fraction(begin, track.timescale)), rate]
        for duration, begin, rate in track.edits
    ]
    wide = track.header[0] == 1
    parts = (
        msgspec.json.encode(edits),
        track.header[1:4] + track.header[36 if wide else 24 :] + track.shape,
        "\0".join(f"{item.handler} {item.entry}" for item in source.tracks).encode(),
    )
    return Shown(*(hashlib.sha256(b"secguard segment shown 1\0" + part).hexdigest() for part in parts))


def digest_config(stream: Stream) -> str:
    """SHA-256 of the decoder configuration record, hex; empty where the container has none."""
    config = stream.track.config
    return hashlib.sha256(config).hexdigest() if config else ""


def gops_of(stream: Stream, hashed: Hashed) -> Gops:
    """The GOP columns of a hashed track.

    Only slices count: SEIs come and go with a signature. A GOP's samples run from that of its first slice up to that
    of the next GOP's first slice, so that a part of a recording has the columns of the same GOPs of the whole.

    Args:
        stream: the recording.
        hashed: SHA-256 of every slice in it; other units in it do not count.
    """
    nals = stream.nals
    picture = nals.vcl[hashed.nal]
    index = np.flatnonzero(picture)
    if not len(index):
        return Gops((), (), ())
    starts = np.flatnonzero(hashed.leads[index])
    if not len(starts) or starts[0] != 0:
        starts = np.concatenate((np.zeros(1, dtype=np.int64), starts))
    ends = np.append(starts[1:], len(index))
    sample = nals.sample[hashed.nal[index]]
    new = np.concatenate(([True], np.diff(sample) != 0))
    width = hashed.width
    sha256, frames = [], []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        digest = hashlib.sha256()
        if picture.all():
            digest.update(hashed.plain[start * width : end * width])
        else:
            for at in index[start:end].tolist():
                digest.update(hashed.plain[at * width : at * width + width])
        sha256.append(digest.hexdigest())
        frames.append(int(new[start:end].sum()))
    first = sample[starts]
    stop = np.append(first[1:], len(stream.samples))
    return Gops(
        tuple(sha256),
        tuple(frames),
        tuple((ends - starts).tolist()),
        tuple(_times(stream, first, stop)),
        tuple(_sets(stream, first, stop)),
    )


def gop_samples(stream: Stream) -> "tuple[Int64s, Int64s]":
    """First sample of each GOP, and the sample behind its last: the GOPs of `gops_of`."""
    nals = stream.nals
    index = np.flatnonzero(nals.vcl)
    if not len(index):
        return index, index
    starts = np.flatnonzero(nals.leads[index])
    if not len(starts) or starts[0] != 0:
        starts = np.concatenate((np.zeros(1, dtype=np.int64), starts))
    first: Int64s = nals.sample[index[starts]]
    return first, np.append(first[1:], len(stream.samples))


def gop_starts(stream: Stream) -> tuple[int, ...]:
    """When the first frame of each GOP is shown, in microseconds after the recording's first frame."""
    samples, scale = stream.samples, stream.track.timescale
    first, _ = gop_samples(stream)
    if not len(first):
        return ()
    shown = samples.dts + samples.shift
    ticks = np.minimum.reduceat(shown, first) - int(shown.min())
    return tuple((ticks // scale * 1_000_000 + ticks % scale * 1_000_000 // scale).tolist())


def _times(stream: Stream, first: "Int64s", stop: "Int64s") -> Iterator[str]:
    """Hash of each GOP's sample times, relative to its first decoding time: seconds, as reduced fractions.

    So another timescale that says the same times gives the same hash.
    """
    samples = stream.samples
    columns = []
    for column in (samples.delta, samples.shift):
        common = np.gcd(column, stream.track.timescale)
        columns += [(column // common).astype(">i8"), (stream.track.timescale // common).astype(">i8")]
    for low, high in zip(first.tolist(), stop.tolist(), strict=True):
        digest = hashlib.sha256(b"secguard gop times 1\0")
        for column in columns:
            digest.update(column[low:high].tobytes())
        yield digest.hexdigest()


def _sets(stream: Stream, first: "Int64s", stop: "Int64s") -> Iterator[str]:
    """Hash of the parameter sets in each GOP's samples, each with its place in the GOP."""
    nals, data = stream.nals, stream.source.data
    index = np.flatnonzero(nals.sets)
    sample = nals.sample[index]
    lows, highs = np.searchsorted(sample, first), np.searchsorted(sample, stop)
    for start, low, high in zip(first.tolist(), lows.tolist(), highs.tolist(), strict=True):
        if low >= high:
            yield ""
            continue
        digest = hashlib.sha256(b"secguard gop parameter sets 1\0")
        for at in index[low:high].tolist():
            unit = data[int(nals.offset[at]) : int(nals.end[at])]
            digest.update((int(nals.sample[at]) - start).to_bytes(8, "big") + len(unit).to_bytes(8, "big") + unit)
        yield digest.hexdigest()
