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
from secguard.video.signing.compose import Composer, general, hash_list, provenance
from secguard.video.signing.modes import Mode, signature_room, signing_algorithm
from secguard.video.signing.output import Insertion

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Times", "insertions"]

_EPOCH_1601 = 11_644_473_600  # seconds from 1601-01-01 to 1970-01-01
_EPOCH_1904 = 2_082_844_800  # seconds from 1904-01-01 to 1970-01-01
_LAST_SECOND = 253_402_300_799  # of the year 9999
_LIST = 0xFFFE
"""Bytes of hashes that fit the 16-bit length of a hash list."""
_MAX_COUNT = 0xFFFF


@dataclass(frozen=True, slots=True)
class Times:
    """The wall clock of a recording.

    Attributes:
        start, end: of its first frame, and of the end of its last.
        ticks: time of each sample, and of the end behind the last, in 100 ns since 1601.
        source: who says so: `claimed` (given), `container` (its creation time), `clock` (it ends now).
    """

    start: datetime
    end: datetime
    ticks: "NDArray[np.int64]"
    source: str = "claimed"

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
        source = "claimed" if start is not None else "clock"
        if start is None and _EPOCH_1904 < created <= _EPOCH_1904 + _LAST_SECOND:
            claimed = datetime.fromtimestamp(created - _EPOCH_1904, UTC)
            start = claimed if claimed <= now else None
            source = "container" if start is not None else "clock"
        start = (now - length if start is None else start).astimezone(UTC)
        since = start - datetime(1970, 1, 1, tzinfo=UTC)
        base = (_EPOCH_1601 + since.days * 86_400 + since.seconds) * 10**7 + since.microseconds * 10
        # Seconds and the rest apart: ticks times 10^7 would not fit 64 bits.
        ticks = base + shown // scale * 10**7 + shown % scale * 10**7 // scale
        return cls(start, start + length, ticks, source)


@dataclass(frozen=True, slots=True)
class _Part:
    """A (partial) GOP: hashed slices `first` to `stop`."""

    first: int
    stop: int
    partial: bool


def _parts(hashed: Hashed, frames: "NDArray[np.int64]", mode: Mode) -> list[_Part]:
    """GOPs, cut at frame borders where they hold more than a signature may cover.

    Args:
        hashed: the slices.
        frames: the first slice of each frame.
        mode: tells how much a signature covers.
    """
    parts: list[_Part] = []
    borders = [*np.flatnonzero(hashed.leads).tolist(), len(hashed)]
    if borders[0] != 0:
        borders.insert(0, 0)
    for first, end in itertools.pairwise(borders):
        begin = first
        while begin < end:
            here = int(np.searchsorted(frames, begin, side="right"))  # the next frame
            cut = min(begin + mode.slices, end)
            if cut < end:  # back to a frame border; one frame of more slices than a list takes stays whole
                cut = max(int(frames[int(np.searchsorted(frames, cut, side="right")) - 1]), begin)
                if cut == begin:
                    cut = int(frames[here]) if here < len(frames) else end
            if mode.partial and here - 1 + mode.partial < len(frames):
                cut = min(cut, int(frames[here - 1 + mode.partial]))
            cut = min(cut, end)
            parts.append(_Part(begin, cut, partial=cut < end))
            begin = cut
    return parts


class _Writer:
    """Makes one SEI a part, and keeps the unsigned one that waits for its place."""

    def __init__(
        self, stream: Stream, hashed: Hashed, times: Times, *, signer: Signer, chain: bytes, serial: str, mode: Mode
    ) -> None:
        self.stream, self.hashed, self.times, self.signer, self.mode = stream, hashed, times, signer, mode
        self.make = getattr(hashlib, hashed.name)
        self.sample = stream.nals.sample[hashed.nal]
        self.frames = np.flatnonzero(np.concatenate(([True], np.diff(self.sample) != 0)))
        self.composer = Composer(stream.track.codec, signature_room(signer), mode.prevent_first)
        self.provenance = provenance(
            hash_name=hashed.name,
            algorithm=signing_algorithm(signer),
            vendor=(mode.firmware, mode.serial or serial, mode.manufacturer),
            chain=chain,
        )
        self.waiting: tuple[bytes, bytes] | None = None
        self.link = bytes(hashed.width)
        self.until = mode.every

    def sign(self, tlvs: bytes, *, certificate: bool = False) -> bytes:
        document = self.composer.document(tlvs, certificate=certificate)
        return self.composer.signed(document, self.signer.sign_digest(self.make(document).digest(), self.hashed.name))

    def place(self, at: int, unit: bytes, counter: int = 0) -> Insertion:
        """Before a slice, or behind the last one."""
        if at == len(self.hashed):
            samples, last = self.stream.samples, len(self.stream.samples) - 1
            return Insertion(last, int(samples.offset[last] + samples.size[last]), unit, behind=True, counter=counter)
        return Insertion(int(self.sample[at]), int(self.stream.nals.offset[self.hashed.nal[at]]), unit, counter=counter)

    def run(self) -> Iterator[Insertion]:
        if self.mode.certificate_sei:
            yield self.place(0, self.sign(self.provenance, certificate=True))
        for number, part in enumerate(_parts(self.hashed, self.frames, self.mode), start=1):
            yield from self.part(number, part)

    def part(self, number: int, part: _Part) -> Iterator[Insertion]:
        hashed, width = self.hashed, self.hashed.width
        hashes = hashed.linked[part.first * width : part.stop * width]
        if self.waiting is not None:
            # An unsigned SEI stands before the second frame of the next GOP, so that a list begins with H(I).
            unit, told = self.waiting
            following = int(np.searchsorted(self.frames, part.first, side="right"))
            second = min(int(self.frames[following]), part.stop) if following < len(self.frames) else part.stop
            yield self.place(second, unit)
            cut = (second - part.first) * width
            hashes = hashes[:cut] + self.make(told).digest() + hashes[cut:]
            self.waiting = None
        last = part.stop == len(hashed)
        count = len(hashes) // width
        if count > _MAX_COUNT:
            raise UsageError("video.sign.slices", f"one picture of {count} slices cannot be signed")
        signed = part.partial or last
        if not part.partial:
            self.until -= 1
            signed = signed or self.until == 0
            self.until = self.until or self.mode.every
        start, end = self.sample[part.first], None if last else self.sample[part.stop]
        tlvs = general(
            partial=part.partial,
            start=int(self.times.ticks[start]),
            end=int(self.times.ticks[-1 if end is None else end]),
            counter=number,
            count=count,
            gop_hash=self.make(hashes).digest(),
            link_hash=self.link,
        )
        if not self.mode.low_bitrate and count <= _LIST // width:
            tlvs += hash_list(hashes)
        self.link = hashed.linked[part.first * width : part.first * width + width]
        if not self.mode.certificate_sei:
            tlvs = self.provenance + tlvs
        if signed:
            yield self.place(part.stop, self.sign(tlvs), number)
        else:
            self.waiting = self.composer.unsigned(tlvs)


def insertions(
    stream: Stream,
    hashed: Hashed,
    times: Times,
    *,
    signer: Signer,
    chain: bytes,
    serial: str,
    mode: Mode | None = None,
) -> Iterator[Insertion]:
    """The SEIs of a recording, in order, each with its place.

    One a (partial) GOP. A signed one goes before the first slice behind what it covers, the last one behind the last
    slice; an unsigned one goes one frame later.

    Args:
        stream: the recording.
        hashed: its hashed slices, at least one.
        times: its wall clock.
        signer: the media signing key.
        chain: its certificates in PEM, without the root.
        serial: the device's serial number, unless the mode names another.
        mode: how it is signed.

    Raises:
        UsageError: a picture has more slices than an SEI can count, or the key is of another kind.
    """
    writer = _Writer(stream, hashed, times, signer=signer, chain=chain, serial=serial, mode=mode or Mode())
    yield from writer.run()
