"""Read an MP4 file (ISO/IEC 14496-12) over mmap: its video track's samples as columns, exact byte positions.

Only the index is parsed; no sample is copied. Every count is checked against the bytes that are really there, so a
hostile file answers with one `FormatError` that holds the offset.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secguard.core import FormatError
from secguard.video.containers.source import Samples, Source, Track, map_file

__all__ = ["BRANDS", "Box", "Movie", "fail", "length_size", "open_movie", "walk"]

_MAX_BOXES = 1 << 16
_MAX_INDEX = 1 << 30
_MAX_CONFIG = 1 << 16
_ENTRIES = {b"avc1": "h264", b"avc3": "h264", b"hvc1": "h265", b"hev1": "h265"}
BRANDS = frozenset((b"ftyp", b"styp", b"moov", b"free", b"skip", b"mdat", b"wide"))
"""Types of boxes that an MP4 file may begin with."""
_CONFIG = {"h264": b"avcC", "h265": b"hvcC"}
_INDEX = b"mvhd tkhd edts elst mdia mdhd hdlr minf stbl stsd stts ctts stss stsc stsz stco avcC hvcC pasp clap"
_ONCE = frozenset(_INDEX.split())  # players differ in which of two they believe
_SAME = {b"stz2": b"stsz", b"co64": b"stco"}  # two ways to say one thing
_IDENTITY = b"".join(
    value.to_bytes(4, "big") for row in ((1 << 16, 0, 0), (0, 1 << 16, 0), (0, 0, 1 << 30)) for value in row
)


@dataclass(frozen=True, slots=True)
class Box:
    """A box: its type, where it starts, how long its header is, and where it ends (file offsets)."""

    kind: bytes
    start: int
    header: int
    end: int

    @property
    def body(self) -> int:
        """File offset of the first byte after the header."""
        return self.start + self.header


@dataclass(frozen=True, slots=True)
class Movie(Source):
    """An opened MP4 file.

    Attributes:
        boxes: top-level boxes.
        moov: the movie box.
    """

    boxes: tuple[Box, ...] = ()
    moov: Box = Box(b"moov", 0, 0, 0)

    @property
    def fragmented(self) -> bool:
        """True if samples lie in movie fragments (`moof`)."""
        return any(box.kind == b"moof" for box in self.boxes)

    def samples(self, track: Track) -> Samples:
        """The sample table of `track`, expanded to columns.

        Raises:
            FormatError: the tables contradict each other or the file.
        """
        from secguard.video.containers.fragments import read_fragments
        from secguard.video.containers.samples import read_samples

        samples = read_samples(self, track)
        return read_fragments(self, track, samples) if self.fragmented else samples


def fail(path: Path, offset: int, what: str, code: str = "video.mp4.format", hint: str = "") -> FormatError:
    """The error for bytes of `path` at `offset` that cannot be right."""
    return FormatError(code, what, hint=hint, where=f"{path}, byte {offset}")


def walk(data: mmap.mmap, start: int, end: int, path: Path) -> Iterator[Box]:
    """Boxes that lie one after another in `data[start:end]`.

    Raises:
        FormatError: a box is shorter than its header or longer than what is left.
    """
    count = 0
    while start < end:
        if end - start < 8:
            raise fail(path, start, "a box is cut off", "video.mp4.truncated", "the file is incomplete")
        size = int.from_bytes(data[start : start + 4], "big")
        kind = bytes(data[start + 4 : start + 8])
        header = 8
        if size == 1:
            if end - start < 16:
                raise fail(path, start, "a box is cut off", "video.mp4.truncated", "the file is incomplete")
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = end - start
        name = kind.decode("latin-1")
        if size < header:
            raise fail(path, start, f"box {name!r} is shorter than its header")
        if size > end - start:
            raise fail(
                path,
                start,
                f"box {name!r} needs {size} bytes, {end - start} are left",
                "video.mp4.truncated",
                "the file is incomplete: copy it again from its source",
            )
        count += 1
        if count > _MAX_BOXES:
            raise fail(path, start, f"more than {_MAX_BOXES} boxes in a row")
        yield Box(kind, start, header, start + size)
        start += size


def _children(data: mmap.mmap, box: Box, path: Path, skip: int = 0) -> dict[bytes, Box]:
    """Child boxes by type, the first of each.

    Raises:
        FormatError: one that may stand there once stands there twice.
    """
    found: dict[bytes, Box] = {}
    seen: set[bytes] = set()
    for child in walk(data, box.body + skip, box.end, path):
        kind = _SAME.get(child.kind, child.kind)
        if kind in seen and kind in _ONCE:
            raise _twice(path, child)
        seen.add(kind)
        found.setdefault(child.kind, child)
    return found


def _twice(path: Path, box: Box) -> FormatError:
    """The error for a file that says one thing twice: which of them is shown, depends on the player."""
    hint = "players differ in which of the two they show: ask for the recording as the device wrote it"
    what = f"box {box.kind.decode('latin-1')!r} stands there twice"
    return fail(path, box.start, what, "video.mp4.ambiguous", hint)


def _need(found: dict[bytes, Box], kind: bytes, parent: Box, path: Path) -> Box:
    if kind not in found:
        name = kind.decode("latin-1")
        raise fail(path, parent.start, f"box {parent.kind.decode('latin-1')!r} holds no {name!r}")
    return found[kind]


def _full(data: mmap.mmap, box: Box, path: Path, least: int, most: int = _MAX_INDEX) -> bytes:
    """A box's body, at least `least` bytes."""
    length = box.end - box.body
    if not least <= length <= most:
        raise fail(path, box.start, f"box {box.kind.decode('latin-1')!r} has {length} bytes")
    return bytes(data[box.body : box.end])


def open_movie(path: Path) -> Movie:
    """Map a file and read its index.

    Raises:
        UsageError: no such file.
        SystemPartError: the file cannot be read.
        FormatError: it is no MP4, or is cut off.
    """
    data = map_file(path)
    if data[4:8] not in BRANDS:
        raise FormatError("video.mp4.format", "not an MP4 file", where=f"{path}, byte 0")
    boxes, cut = _top_level(data, path)
    indexes = [box for box in boxes if box.kind == b"moov"]
    if len(indexes) > 1:
        raise _twice(path, indexes[1])
    moov = indexes[0] if indexes else None
    if moov is None:
        raise FormatError(
            "video.mp4.no-index",
            "the MP4 file has no index (moov)",
            hint="the file is incomplete: copy it again from its source",
            where=str(path),
        )
    children = list(walk(data, moov.body, moov.end, path))
    header = _need(_children(data, moov, path), b"mvhd", moov, path)
    created, timescale = _times(data, header, path)
    turned = _matrix(data, header)
    tracks = tuple(_track(data, box, path, turned) for box in children if box.kind == b"trak")
    return Movie(path, data, "mp4", timescale, created, tracks, boxes=boxes, moov=moov, cut=cut)


def _top_level(data: mmap.mmap, path: Path) -> tuple[tuple[Box, ...], int]:
    """The file's boxes, and where they end early; media data that are cut off count as far as they are there.

    Raises:
        FormatError: the file is cut off before its index ends.
    """
    boxes: list[Box] = []
    try:
        for box in walk(data, 0, len(data), path):
            boxes.append(box)  # noqa: PERF402 - those before the cut are kept
    except FormatError as error:
        at = boxes[-1].end if boxes else 0
        kind = bytes(data[at + 4 : at + 8])
        indexed = any(box.kind == b"moov" for box in boxes)
        if kind == b"moov" or not (indexed or error.code == "video.mp4.truncated"):
            raise
        if kind == b"mdat":
            boxes.append(Box(kind, at, 16 if bytes(data[at : at + 4]) == b"\0\0\0\1" else 8, len(data)))
            return tuple(boxes), len(data)
        return tuple(boxes), at
    return tuple(boxes), -1


def _times(data: mmap.mmap, box: Box, path: Path) -> tuple[int, int]:
    """Creation time and timescale of an `mvhd` or `mdhd` box."""
    body = _full(data, box, path, 20, 1 << 12)
    wide = body[0] == 1
    if wide and len(body) < 32:
        raise fail(path, box.start, f"box {box.kind.decode('latin-1')!r} is too short")
    created = int.from_bytes(body[4:12] if wide else body[4:8], "big")
    timescale = int.from_bytes(body[20:24] if wide else body[12:16], "big")
    if timescale == 0:
        raise fail(path, box.start, "a timescale of 0")
    return created, timescale


def _matrix(data: mmap.mmap, header: Box) -> bytes:
    """The movie header's matrix, by which players turn all tracks; empty if it leaves them as they are."""
    at = header.body + (48 if data[header.body] == 1 else 36)
    matrix = bytes(data[at : min(at + 36, header.end)])
    return b"" if matrix == _IDENTITY else matrix


def _edits(data: mmap.mmap, trak: dict[bytes, Box], path: Path) -> tuple[tuple[int, int, int], ...]:
    if b"edts" not in trak:
        return ()
    found = _children(data, trak[b"edts"], path)
    if b"elst" not in found:
        return ()
    box = found[b"elst"]
    body = _full(data, box, path, 8, 1 << 20)
    wide = 20 if body[0] == 1 else 12
    count = int.from_bytes(body[4:8], "big")
    if count * wide > len(body) - 8:
        raise fail(path, box.start, f"an edit list of {count} rows does not fit its box")
    rows = []
    for at in range(8, 8 + count * wide, wide):
        half = (wide - 4) // 2
        rows.append(
            (
                int.from_bytes(body[at : at + half], "big"),
                int.from_bytes(body[at + half : at + 2 * half], "big", signed=True),
                int.from_bytes(body[at + 2 * half : at + wide], "big", signed=True),
            )
        )
    return tuple(rows)


def _track(data: mmap.mmap, trak: Box, path: Path, turned: bytes) -> Track:
    parts = _children(data, trak, path)
    header = _full(data, _need(parts, b"tkhd", trak, path), path, 80, 1 << 10)
    media = _need(parts, b"mdia", trak, path)
    inside = _children(data, media, path)
    _, timescale = _times(data, _need(inside, b"mdhd", media, path), path)
    handler = _full(data, _need(inside, b"hdlr", media, path), path, 12, 1 << 16)[8:12].decode("latin-1")
    info = _need(inside, b"minf", media, path)
    table = _need(_children(data, info, path), b"stbl", info, path)
    tables = _children(data, table, path)
    edits = _edits(data, parts, path)
    entry, codec, config, size, shape = "", "", b"", 0, b""
    if handler == "vide":
        box = _need(tables, b"stsd", table, path)
        entry, codec, config, size = _entry(data, box, path)
        shape = _shape(data, box, header, path) if codec else b""
    at = 20 if header[0] == 1 else 12
    number = int.from_bytes(header[at : at + 4], "big")
    return Track(handler, codec, entry, config, size, timescale, header, edits, tables, number, turned + shape)


def _entry(data: mmap.mmap, box: Box, path: Path) -> tuple[str, str, bytes, int]:
    """Sample entry, codec, decoder configuration and length size of a video track's `stsd`."""
    if box.end - box.body < 16:
        raise fail(path, box.start, "box 'stsd' is too short")
    entries = list(walk(data, box.body + 8, box.end, path))
    name = entries[0].kind.decode("latin-1")
    codec = _ENTRIES.get(entries[0].kind, "")
    if not codec:
        return name, "", b"", 0
    if len(entries) != 1:
        raise fail(path, box.start, "several sample descriptions in one track are not supported")
    entry = entries[0]
    if entry.end - entry.body < 78:  # VisualSampleEntry, ISO/IEC 14496-12, 12.1.3
        raise fail(path, entry.start, f"sample entry {name!r} is too short")
    config_box = _need(_children(data, entry, path, 78), _CONFIG[codec], entry, path)
    config = _full(data, config_box, path, 7 if codec == "h264" else 23, _MAX_CONFIG)
    return name, codec, config, length_size(codec, config, f"{path}, byte {config_box.start}")


def _shape(data: mmap.mmap, box: Box, header: bytes, path: Path) -> bytes:
    """What the sample entry says of the picture's shape beyond the track header; empty for what follows from that.

    Width and height where the track header has others, the shape of a pixel where it is no square, and the clean
    aperture (ISO/IEC 14496-12, 12.1.3 and 12.1.4).
    """
    entry = next(walk(data, box.body + 8, box.end, path))
    size = bytes(data[entry.body + 24 : entry.body + 28])
    shape = b"" if size == header[-8:-6] + header[-4:-2] else b"size" + size
    found = _children(data, entry, path, 78)
    for kind, most in ((b"pasp", 8), (b"clap", 32)):
        if kind in found:
            body = _full(data, found[kind], path, most, most)
            shape += b"" if kind == b"pasp" and body[:4] == body[4:] else kind + body
    return shape


def length_size(codec: str, config: bytes, where: str) -> int:
    """Bytes of the length before each NAL unit, from an `avcC` or `hvcC` record (ISO/IEC 14496-15).

    Raises:
        FormatError: the record is too short, or names a reserved size.
    """
    least = 7 if codec == "h264" else 23
    if len(config) < least:
        raise FormatError("video.mp4.format", "the decoder configuration record is too short", where=where)
    size = (config[4] if codec == "h264" else config[21]) % 4 + 1
    if size == 3:
        raise FormatError("video.mp4.format", "NAL unit lengths of 3 bytes are reserved", where=where)
    return size
