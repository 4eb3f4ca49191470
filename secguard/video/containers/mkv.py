"""Matroska and WebM (RFC 9559 over EBML, RFC 8794): the blocks of the video track, at their exact bytes."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import FormatError
from secguard.video.containers.mp4 import length_size
from secguard.video.containers.source import MAX_SAMPLES, Samples, Source, Track, map_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["Matroska", "open_mkv"]

_SEGMENT, _INFO, _SCALE, _DATE = 0x18538067, 0x1549A966, 0x2AD7B1, 0x4461
_TRACKS, _ENTRY, _NUMBER, _TYPE, _CODEC, _PRIVATE = 0x1654AE6B, 0xAE, 0xD7, 0x83, 0x86, 0x63A2
_ENCODINGS, _DURATION = 0x6D80, 0x23E383
_CLUSTER, _TIME, _SIMPLE, _GROUP, _BLOCK = 0x1F43B675, 0xE7, 0xA3, 0xA0, 0xA1
_LEVEL_1 = {_INFO, _TRACKS, _CLUSTER, 0x114D9B74, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
_CODECS = {"V_MPEG4/ISO/AVC": "h264", "V_MPEGH/ISO/HEVC": "h265"}
_HANDLERS = {1: "vide", 2: "soun", 17: "text"}
_TICKS = 1_000_000_000
_EPOCH_2001 = 3_061_152_000  # seconds from 1904-01-01 to 2001-01-01
_MAX_HEAD = 1 << 20
_MAX_ELEMENTS = 1 << 26
_RELEASE = 32 << 20


@dataclass(frozen=True, slots=True)
class Matroska(Source):
    """An opened Matroska file; `table` holds the samples of its video track."""

    table: Samples | None = None

    def samples(self, track: Track) -> Samples:  # noqa: ARG002 - there is one that is read
        """The samples: Matroska states when a frame is shown, not when it is decoded."""
        assert self.table is not None
        return self.table


def open_mkv(path: Path) -> Matroska:
    """Open a Matroska file.

    Raises:
        UsageError: no such file.
        SystemPartError: the file cannot be read.
        FormatError: it is none, is cut off, or packs its blocks in a way that changes bytes.
    """
    data = map_file(path)
    return _Reader(path, data).run()


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data
        self.scale, self.created = 1_000_000, 0
        self.tracks: list[Track] = []
        self.cut = -1
        self.duration = 0
        self.number = -1
        self.offset: list[int] = []
        self.size: list[int] = []
        self.time: list[int] = []
        self.sync: list[bool] = []

    def run(self) -> Matroska:
        segment = next((item for item in self.elements(0, len(self.data)) if item[0] == _SEGMENT), None)
        if segment is None:
            raise self.fail(0, "not a Matroska file: no segment")
        for kind, body, end in self.elements(segment[1], segment[2]):
            if kind == _INFO:
                self.info(body, end)
            elif kind == _TRACKS:
                self.read_tracks(body, end)
            elif kind == _CLUSTER:
                self.cluster(body, end)
        track = next((item for item in self.tracks if item.codec), None)
        tracks = tuple(self.tracks)
        if track is None:
            return Matroska(self.path, self.data, "mkv", _TICKS, self.created, tracks, cut=self.cut)
        return Matroska(self.path, self.data, "mkv", _TICKS, self.created, tracks, self.table(), cut=self.cut)

    def table(self) -> Samples:
        shown = np.array(self.time, dtype=np.int64) * self.scale
        order = np.sort(shown)
        usual = self.duration or (int(np.median(np.diff(order))) if len(order) > 1 else 0)
        following = np.append(order[1:], order[-1:] + usual)
        delta = following[np.searchsorted(order, shown)] - shown
        offset, size = np.array(self.offset, dtype=np.int64), np.array(self.size, dtype=np.int64)
        none = np.zeros(len(shown), dtype=np.int64)
        return Samples(offset, size, shown, delta, none, np.array(self.sync, dtype=np.bool_))

    def fail(self, at: int, what: str, hint: str = "") -> FormatError:
        return FormatError("video.mkv.format", what, hint=hint, where=f"{self.path}, byte {at}")

    def number_at(self, at: int, end: int, *, keep: bool) -> tuple[int, int, bool]:
        """A variable-size integer (RFC 8794, 4): value, where it ends, and whether all its bits are set."""
        first = self.data[at] if at < end else 0
        width = 9 - first.bit_length()
        if not first or at + width > end:
            raise self.fail(at, "an element is cut off", "the file is incomplete: copy it again from its source")
        raw = int.from_bytes(self.data[at : at + width], "big")
        mask = (1 << (7 * width)) - 1
        return raw if keep else raw & mask, at + width, raw & mask == mask

    def elements(self, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Elements in a row: ID, where the body begins and ends. One of unknown size lasts to the next of its level."""
        count = released = 0
        while at < stop:
            start = at
            try:
                kind, at, _ = self.number_at(at, stop, keep=True)
                size, at, unknown = self.number_at(at, stop, keep=False)
            except FormatError:
                if stop < len(self.data) or not self.number >= 0:
                    raise
                self.cut = start
                return
            end = self.unknown_end(kind, at, stop) if unknown else at + size
            if end > stop == len(self.data) and (kind == _SEGMENT or self.number >= 0):
                # The file ends early: what is there of its pictures counts.
                self.cut, end = max(self.cut, stop if kind == _SEGMENT else start), stop
            if end > stop:
                hint = "the file is incomplete: copy it again from its source"
                raise self.fail(start, f"element {kind:#x} needs {end - stop} bytes more than there are", hint)
            count += 1
            if count > _MAX_ELEMENTS:
                raise self.fail(start, f"more than {_MAX_ELEMENTS} elements in a row")
            yield kind, at, end
            at = end
            if at - released > _RELEASE:
                released = at
                self.data.madvise(mmap.MADV_DONTNEED)

    def unknown_end(self, kind: int, at: int, stop: int) -> int:
        if kind == _SEGMENT:
            return stop
        if kind != _CLUSTER:
            raise self.fail(at, f"element {kind:#x} has no size")
        while at < stop:
            child, body, _ = self.number_at(at, stop, keep=True)
            if child in _LEVEL_1:
                return at
            size, body, unknown = self.number_at(body, stop, keep=False)
            if unknown:
                raise self.fail(at, f"element {child:#x} has no size")
            at = body + size
        return stop

    def value(self, body: int, end: int) -> int:
        if end - body > 8:
            raise self.fail(body, "a number of more than 8 bytes")
        return int.from_bytes(self.data[body:end], "big")

    def info(self, body: int, end: int) -> None:
        for kind, start, stop in self.elements(body, end):
            if kind == _SCALE:
                self.scale = self.value(start, stop)
                if not 0 < self.scale <= _TICKS:
                    raise self.fail(start, "a timestamp scale that cannot be")
            elif kind == _DATE and stop - start == 8:  # nanoseconds since 2001
                since = int.from_bytes(self.data[start:stop], "big", signed=True)
                self.created = max(_EPOCH_2001 + since // _TICKS, 0)

    def read_tracks(self, body: int, end: int) -> None:
        for kind, start, stop in self.elements(body, end):
            if kind == _ENTRY and len(self.tracks) < 128:
                self.entry(start, stop)

    def entry(self, body: int, end: int) -> None:
        parts = {kind: (start, stop) for kind, start, stop in self.elements(body, end)}
        if _NUMBER not in parts or _TYPE not in parts or _CODEC not in parts:
            raise self.fail(body, "a track without number, type or codec")
        number, handler = self.value(*parts[_NUMBER]), _HANDLERS.get(self.value(*parts[_TYPE]), "data")
        start, stop = parts[_CODEC]
        name = self.data[start : min(stop, start + 64)].rstrip(b"\0").decode("latin-1")
        codec = _CODECS.get(name, "")
        if not codec:
            self.tracks.append(Track(handler, "", name, b"", 0, _TICKS, number=number))
            return
        if _PRIVATE not in parts:
            raise self.fail(body, "the video track has no decoder configuration (CodecPrivate)")
        start, stop = parts[_PRIVATE]
        if stop - start > _MAX_HEAD:
            raise self.fail(start, "a decoder configuration of more than a megabyte")
        config = bytes(self.data[start:stop])
        width = length_size(codec, config, f"{self.path}, byte {start}")
        if self.number < 0:
            self.number = number
            if _ENCODINGS in parts:
                hint = "remux the file first: ffmpeg -i IN -c copy OUT.mkv"
                raise self.fail(parts[_ENCODINGS][0], "the video track is compressed or encrypted once more", hint)
            self.duration = self.value(*parts[_DURATION]) if _DURATION in parts else 0
            if self.duration > 1 << 40:
                self.duration = 0
        self.tracks.append(Track(handler, codec, name, config, width, _TICKS, number=number))

    def cluster(self, body: int, end: int) -> None:
        base = 0
        for kind, start, stop in self.elements(body, end):
            if kind == _TIME:
                base = self.value(start, stop)
            elif kind == _SIMPLE:
                self.block(start, stop, base, sync=None)
            elif kind == _GROUP:
                inner = [(child, *place) for child, *place in self.elements(start, stop)]
                block = next(((low, high) for child, low, high in inner if child == _BLOCK), None)
                if block is not None:  # a block that refers to no other is a key frame
                    self.block(*block, base, sync=not any(child == 0xFB for child, _, _ in inner))

    def block(self, start: int, stop: int, base: int, *, sync: bool | None) -> None:
        if self.cut >= 0 and stop - start < 12:  # the header's longest form
            return
        number, at, _ = self.number_at(start, stop, keep=False)
        if number != self.number:
            return
        if stop - at < 3:
            raise self.fail(start, "a block without a header")
        flags = self.data[at + 2]
        if flags & 0x06:
            raise self.fail(start, "several frames in one block (lacing)", "remux the file first")
        time = base + int.from_bytes(self.data[at : at + 2], "big", signed=True)
        if not -(1 << 40) < time < 1 << 40:
            raise self.fail(start, "a time that cannot be")
        if len(self.offset) >= MAX_SAMPLES:
            raise self.fail(start, f"more than {MAX_SAMPLES} blocks")
        self.offset.append(at + 3)
        self.size.append(stop - at - 3)
        self.time.append(time)
        self.sync.append(bool(flags & 0x80) if sync is None else sync)
