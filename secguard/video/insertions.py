"""The SEIs that sign a recording: which slices each covers, what it says, and where it goes into the samples."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import Clock, UsageError
from secguard.keys import Signer
from secguard.video.hashing import Hashed
from secguard.video.nal import Stream
from secguard.video.sei import compose, document
from secguard.video.splice import Insertion

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Times", "insertions"]

_EPOCH_1601 = 11_644_473_600  # seconds from 1601-01-01 to 1970-01-01
_EPOCH_1904 = 2_082_844_800  # seconds from 1904-01-01 to 1970-01-01
_LAST_SECOND = 253_402_300_799  # of the year 9999
_PART = 600
"""Slices a signature covers at most: the reference implementation reads lists of 600 SHA-256 hashes."""
_LIST = 2000
"""Hashes that fit the 16-bit length of a hash list."""


@dataclass(frozen=True, slots=True)
class Times:
    """The wall clock of a recording.

    Attributes:
        start, end: of its first frame, and of the end of its last.
        ticks: time of each sample, and of the end behind the last, in 100 ns since 1601.
    """

    start: datetime
    end: datetime
    ticks: "NDArray[np.int64]"

    @classmethod
    def of(cls, stream: Stream, start: datetime | None, clock: Clock) -> "Times":
        """Lay the frames' times on the wall clock.

        Args:
            stream: the recording.
            start: time of its first frame; default: the file's creation time if it has a plausible one, else such
                that the recording ends now.
            clock: tells now.
        """
        samples, scale = stream.samples, stream.track.timescale
        shown = samples.dts + samples.shift
        shown = np.append(shown, (shown + samples.delta).max()) - shown.min()
        length = timedelta(microseconds=int(shown[-1]) * 1_000_000 // scale)
        now, created = clock.now(), stream.source.created
        if start is None and _EPOCH_1904 < created <= _EPOCH_1904 + _LAST_SECOND:
            claimed = datetime.fromtimestamp(created - _EPOCH_1904, UTC)
            start = claimed if claimed <= now else None
        start = (now - length if start is None else start).astimezone(UTC)
        since = start - datetime(1970, 1, 1, tzinfo=UTC)
        base = (_EPOCH_1601 + since.days * 86_400 + since.seconds) * 10**7 + since.microseconds * 10
        # Seconds and the rest apart: ticks times 10^7 would not fit 64 bits.
        ticks = base + shown // scale * 10**7 + shown % scale * 10**7 // scale
        return cls(start, start + length, ticks)


@dataclass(frozen=True, slots=True)
class _Part:
    """A (partial) GOP to be signed: hashable units `first` to `stop`."""

    first: int
    stop: int
    partial: bool


def _parts(hashed: Hashed, new_frame: "NDArray[np.bool_]") -> list[_Part]:
    """GOPs, cut at frame borders where they hold more than `_PART` slices."""
    parts: list[_Part] = []
    borders = [*np.flatnonzero(hashed.leads).tolist(), len(hashed)]
    if borders[0] != 0:
        borders.insert(0, 0)
    frames = np.flatnonzero(new_frame)
    for start, end in itertools.pairwise(borders):
        first = start
        while end - first > _PART:
            inside = frames[(frames > first) & (frames <= first + _PART)]
            if not len(inside):  # one picture of more slices than a list takes
                break
            cut = int(inside[-1])
            parts.append(_Part(first, cut, partial=True))
            first = cut
        parts.append(_Part(first, end, partial=False))
    return parts


def insertions(
    stream: Stream, hashed: Hashed, times: Times, *, signer: Signer, chain: bytes, serial: str
) -> Iterator[Insertion]:
    """One signed SEI a (partial) GOP, in order.

    Each goes before the first slice behind what it covers; the last one ends the last sample.

    Args:
        stream: the recording.
        hashed: its hashed slices, at least one.
        times: its wall clock.
        signer: the media signing key.
        chain: its certificates in PEM, without the root.
        serial: what the SEIs name as the device's serial number.

    Raises:
        UsageError: a picture has more slices than an SEI can count.
    """
    width, name = hashed.width, hashed.name
    make = getattr(hashlib, name)
    sample = stream.nals.sample[hashed.nal]
    link = bytes(width)
    for number, part in enumerate(_parts(hashed, np.concatenate(([True], np.diff(sample) != 0))), start=1):
        hashes = hashed.linked[part.first * width : part.stop * width]
        last = part.stop == len(hashed)
        count = part.stop - part.first
        if count > 0xFFFF:
            raise UsageError("video.sign.slices", f"one picture of {count} slices cannot be signed")
        signed = document(
            stream.track.codec,
            chain=chain,
            vendor=("", serial, "secguard"),
            partial=part.partial,
            start=int(times.ticks[sample[part.first]]),
            end=int(times.ticks[-1 if last else sample[part.stop]]),
            counter=number,
            gop_hash=make(hashes).digest(),
            link_hash=link,
            hashes=hashes if count <= _LIST else b"",
            count=count,
            hash_name=name,
        )
        link = hashes[:width]
        unit = compose(signed, signer.sign_digest(make(signed).digest(), name))
        data = len(unit).to_bytes(stream.track.length_size, "big") + unit
        if last:
            samples, at = stream.samples, len(stream.samples) - 1
            yield Insertion(at, int(samples.offset[at] + samples.size[at]), data, behind=True)
        else:
            slot = int(stream.nals.offset[hashed.nal[part.stop]]) - stream.track.length_size
            yield Insertion(int(sample[part.stop]), slot, data)
