"""MPEG transport streams (ISO/IEC 13818-1, 2.4): packets of 188 bytes, also with the 4 or 16 bytes that some add."""

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import FormatError
from secguard.video.containers.annexb import Elementary
from secguard.video.containers.packets import CLOCK, CODECS, Extract, pes_header
from secguard.video.containers.source import Track, map_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

__all__ = ["open_ts", "packet_layout"]

_SIZES = ((188, 0), (192, 4), (204, 0))  # packet size, bytes before the sync byte
_SYNC = 0x47
_PACKET = 188
_ROWS = 1 << 16  # packets at a time: 12 MB
_TABLES = 1 << 16  # packets in which the tables must come
_MAX_GAPS = 10_000


def packet_layout(head: bytes) -> tuple[int, int]:
    """Packet size, and bytes before the sync byte; (0, 0) if it is no transport stream."""
    for size, before in _SIZES:
        places = range(before, min(len(head), size * 4), size)
        if len(places) > 1 and all(head[place] == _SYNC for place in places):
            return size, before
    return 0, 0


def open_ts(path: Path) -> Elementary:
    """Open a transport stream and take the first H.264 or H.265 stream out of its packets.

    Lost packets (continuity counter, 2.4.3.3) and wrong sync bytes mark the NAL unit as damaged that they stand in.

    Raises:
        UsageError: no such file.
        SystemPartError: the file cannot be read, or the folder for temporary files is full.
        FormatError: it is no transport stream, or holds no H.264 or H.265 stream.
    """
    data = map_file(path)
    size, before = packet_layout(data[: 4 * 204])
    if not size:
        raise FormatError("video.container.format", "not a transport stream", where=f"{path}, byte 0")
    count = (len(data) - before + size - _PACKET) // size
    types, pid = _tables(data, size, before, min(count, _TABLES), path)
    out = Extract(path)
    counter = -1
    for low in range(0, count, _ROWS):
        high = min(low + _ROWS, count)
        raw = np.frombuffer(data[before + low * size : before + (high - 1) * size + _PACKET], dtype=np.uint8)
        rows = np.lib.stride_tricks.as_strided(raw, (high - low, _PACKET), (size, 1), writeable=False)
        counter = _take(out, rows, before + low * size, size, pid=pid, counter=counter)
        data.madvise(mmap.MADV_DONTNEED)
    others = [
        Track("vide" if kind in CODECS else "data", "", f"{kind:#x}", b"", 0, CLOCK)
        for number, kind in sorted(types.items())
        if number != pid
    ]
    return out.finish("ts", CODECS[types[pid]], others)


def _take(out: Extract, rows: "Bytes", base: int, size: int, *, pid: int, counter: int) -> int:
    """Append the payload of a stream's packets; returns the last continuity counter."""
    mine = ((rows[:, 1].astype(np.int64) & 0x1F) << 8 | rows[:, 2]) == pid
    index = np.flatnonzero(mine & (rows[:, 0] == _SYNC))
    if not len(index):
        return counter
    rows = rows[index]
    control = rows[:, 3] >> 4 & 3
    start = np.where(control & 2, 5 + rows[:, 4].astype(np.int64), 4)
    start = np.where(control & 1, np.minimum(start, _PACKET), _PACKET)
    numbers = (rows[:, 3] & 15).astype(np.int64)
    loaded = (control & 1) > 0
    expected = np.concatenate(([counter], numbers[:-1]))
    repeated = (numbers == expected) & loaded & (expected >= 0)  # a packet may be sent twice
    lost = (numbers != (expected + 1) % 16) & loaded & (expected >= 0) & ~repeated
    start[repeated] = _PACKET
    begins = (rows[:, 1] & 0x40 > 0) & (start < _PACKET)
    stamps: list[tuple[int, int, int]] = []
    for row in np.flatnonzero(begins).tolist():
        at = int(start[row])
        head = rows[row, at : at + 19].tobytes()
        try:
            if head[:3] != b"\x00\x00\x01":
                raise ValueError
            skip, pts, dts = pes_header(head)
        except ValueError:
            lost[row] = True
            continue
        start[row] = min(at + skip, _PACKET)
        if pts >= 0:
            stamps.append((row, pts, dts))
    sizes = _PACKET - start
    places = np.cumsum(sizes) - sizes + out.size
    out.stamps += [(int(places[row]), pts, dts) for row, pts, dts in stamps]
    room = max(_MAX_GAPS - len(out.gaps), 0)
    out.gaps += places[np.flatnonzero(lost)[:room]].tolist()
    out.starts.append(base + index * size + start)
    out.sizes.append(sizes)
    pieces, done = [], 0
    for row in np.flatnonzero(start != 4).tolist():  # most packets are full, and go in runs
        pieces += [rows[done:row, 4:].tobytes(), rows[row, int(start[row]) :].tobytes()]
        done = row + 1
    pieces.append(rows[done:, 4:].tobytes())
    out.write(b"".join(pieces))
    return int(numbers[loaded][-1]) if loaded.any() else counter


def _tables(data: mmap.mmap, size: int, before: int, count: int, path: Path) -> tuple[dict[int, int], int]:
    """The kind of each stream by its PID (PAT 2.4.4.3, PMT 2.4.4.8), and the PID of the first that we read."""
    wanted: dict[int, int] = {0: 0x00}  # PID -> table_id
    parts: dict[int, bytearray] = {}
    types: dict[int, int] = {}
    for number in range(count):
        packet = data[before + number * size : before + number * size + _PACKET]
        pid = int.from_bytes(packet[1:3], "big") & 0x1FFF
        if packet[0] != _SYNC or pid not in wanted or not packet[3] & 0x10:
            continue
        body = packet[5 + packet[4] :] if packet[3] & 0x20 else packet[4:]
        if packet[1] & 0x40:
            parts[pid] = bytearray(body[1 + body[0] :]) if body else bytearray()
        elif pid in parts and len(parts[pid]) < 4096:
            parts[pid] += body
        section = parts.get(pid, b"")
        if len(section) < 3 or len(section) < 3 + (int.from_bytes(section[1:3], "big") & 0xFFF):
            continue
        section = bytes(section[: 3 + (int.from_bytes(section[1:3], "big") & 0xFFF)])
        if section[0] != wanted[pid]:
            continue
        if pid == 0:
            wanted |= dict.fromkeys(_programs(section), 2)
        else:
            types |= _streams(section)
            chosen = next((item for item, kind in types.items() if kind in CODECS), None)
            if chosen is not None:
                return types, chosen
    kinds = ", ".join(f"{kind:#x}" for kind in types.values()) or "no stream"
    raise FormatError("video.track.none", f"no H.264 or H.265 stream ({kinds})", where=str(path))


def _programs(section: bytes) -> list[int]:
    """PIDs of the program map tables."""
    rows = [section[at : at + 4] for at in range(8, len(section) - 7, 4)]
    return [int.from_bytes(row[2:4], "big") & 0x1FFF for row in rows if row[:2] != b"\0\0"]


def _streams(section: bytes) -> dict[int, int]:
    """stream_type by elementary PID."""
    if len(section) < 16:
        return {}
    found: dict[int, int] = {}
    at = 12 + (int.from_bytes(section[10:12], "big") & 0xFFF)
    while at + 5 <= len(section) - 4:
        found[int.from_bytes(section[at + 1 : at + 3], "big") & 0x1FFF] = section[at]
        at += 5 + (int.from_bytes(section[at + 3 : at + 5], "big") & 0xFFF)
    return found
