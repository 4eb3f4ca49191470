"""Insert NAL units into the video of an MPEG transport stream (ISO/IEC 13818-1, 2.4).

A packet that takes bytes is followed by new ones of its stream, so the continuity counters behind are counted on.
Clock references, time stamps and every other stream stay as they are.
"""

import itertools
import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import RefusedError
from secguard.video.containers.annexb import Elementary
from secguard.video.containers.ts import packet_layout
from secguard.video.signing.output import Edit, Insertion
from secguard.video.signing.packets import grouped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["transport_edits"]

_PACKET, _FULL = 188, 184
_BATCH = 1 << 15  # packets at a time: 6 MB
_MAX_LENGTH = 0xFFFF


@dataclass(frozen=True, slots=True)
class _Layout:
    """Packets of `size` bytes, `before` of them in front of the sync byte."""

    size: int
    before: int

    def packet(self, offset: int) -> int:
        """Where the packet begins (its sync byte) that holds a file offset."""
        return offset - (offset - self.before) % self.size


def transport_edits(source: Elementary, file: mmap.mmap, insertions: Sequence[Insertion]) -> Iterator[Edit]:
    """The edits of a transport stream, in order.

    Args:
        source: the opened stream; its pieces are the payloads of the video's packets.
        file: the file.
        insertions: in order.

    Raises:
        RefusedError: packets carry error correction, or are encrypted.
    """
    layout = _Layout(*packet_layout(file[: 4 * 204]))
    where = str(source.path)
    if layout.size > 192:
        raise _refused("packets of 204 bytes carry error correction that would be wrong afterwards", where)
    pieces = np.flatnonzero(np.diff(source.ends, prepend=0) > 0)
    made: dict[int, tuple[bytes, int]] = {}  # sync byte of a packet -> what it becomes, and how many packets are added
    lengths: dict[int, int] = {}  # sync byte of the packet that begins a PES packet -> bytes added to it
    for piece, items in grouped(source, insertions).items():
        at = layout.packet(int(source.starts[piece]))
        if file[at + 3] & 0xC0:
            raise _refused("the video is encrypted", f"{where}, byte {at}")
        made[at] = _grow(file, layout, at, items, int(source.starts[piece]))
        number = int(np.searchsorted(pieces, piece))
        head = at
        while not file[head + 1] & 0x40 and number:
            number -= 1
            head = layout.packet(int(source.starts[pieces[number]]))
        lengths[head] = lengths.get(head, 0) + sum(len(data) for _, data in items)
    first = layout.packet(int(source.starts[pieces[0]]))
    pid = int.from_bytes(file[first + 1 : first + 3], "big") & 0x1FFF
    yield from _rewrite(file, layout, pid, made, lengths)


def _refused(what: str, where: str) -> RefusedError:
    hint = "store it as MP4 first: ffmpeg -i IN -c copy OUT.mp4"
    return RefusedError("video.sign.packets", what, hint=hint, where=where)


def _grow(file: mmap.mmap, layout: _Layout, at: int, items: list[tuple[int, bytes]], start: int) -> tuple[bytes, int]:
    """A packet with bytes put in, and those that follow it; how many those are."""
    packet = file[at : at + _PACKET]
    begin = 5 + packet[4] if packet[3] & 0x20 else 4
    payload, done, skip = [packet[begin : start - at]], start - at, start - at
    for place, data in items:
        payload += [packet[done : skip + place], data]
        done = skip + place
    payload.append(packet[done:])
    body = b"".join(payload)
    room = _PACKET - begin
    made = [packet[:begin] + body[:room]]
    lead = file[at - layout.before : at]
    for number, low in enumerate(range(room, len(body), _FULL), start=1):
        part = body[low : low + _FULL]
        counter = (packet[3] + number) & 15
        head = packet[:1] + bytes((packet[1] & 0xBF, packet[2]))
        if len(part) == _FULL:
            made.append(lead + head + bytes((0x10 | counter,)) + part)
            continue
        length = _FULL - 1 - len(part)
        field = (bytes((length,)) + b"\0" + b"\xff" * (length - 1)) if length else b"\0"
        made.append(lead + head + bytes((0x30 | counter,)) + field + part)
    return b"".join(made), len(made) - 1


def _rewrite(
    file: mmap.mmap, layout: _Layout, pid: int, made: dict[int, tuple[bytes, int]], lengths: dict[int, int]
) -> Iterator[Edit]:
    """Everything from the first packet on that changes: counters, lengths, and the packets that grow."""
    size = layout.size
    begin = min([*made, *lengths])
    count = (len(file) - begin - _PACKET + size) // size
    grown, heads = sorted(made), deque(sorted(lengths.items()))
    added = 0
    for low in range(0, count, _BATCH):
        high = min(low + _BATCH, count)
        base = begin + low * size
        stop = begin + (high - 1) * size + _PACKET
        raw = np.frombuffer(file[base:stop], dtype=np.uint8).copy()
        padded = np.append(raw, np.zeros(size - _PACKET, dtype=np.uint8)).reshape(high - low, size)
        mine = ((padded[:, 1].astype(np.int64) & 0x1F) << 8 | padded[:, 2]) == pid
        here = grown[_first(grown, base) : _first(grown, stop)]
        steps = np.zeros(high - low + 1, dtype=np.int64)
        for at in here:
            steps[(at - base) // size + 1] += made[at][1]
        shift = np.cumsum(steps)[:-1] + added
        added += int(steps.sum())
        rows = np.flatnonzero(mine)
        control = padded[rows, 3]
        padded[rows, 3] = control & 0xF0 | (control + shift[rows]) & 15
        data = padded.reshape(-1)[: stop - base].tobytes()
        edges = [base, *here, stop]
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            at = start
            if number:  # the packet that grows, its counter counted on like all others
                longer = heads.popleft()[1] if heads and heads[0][0] == start else 0
                shifted = int(shift[(start - base) // size])
                yield start, start + _PACKET, _count_on(made[start][0], layout, shifted, longer)
                at = start + _PACKET
            part = bytearray(data[at - base : end - base])
            while heads and heads[0][0] < end:
                head, longer = heads.popleft()
                _lengthen(part, head - at, longer)
            yield at, end, bytes(part)


def _first(places: list[int], offset: int) -> int:
    return int(np.searchsorted(np.array(places, dtype=np.int64), offset))


def _count_on(packets: bytes, layout: _Layout, shift: int, grown: int) -> bytes:
    """Packets with their counters counted on, and the length that the first of them states."""
    changed = bytearray(packets)
    for at in range(3, len(changed), layout.size):
        changed[at] = changed[at] & 0xF0 | (changed[at] + shift) & 15
    if grown:
        _lengthen(changed, 0, grown)
    return bytes(changed)


def _lengthen(data: bytearray, packet: int, grown: int) -> None:
    """The PES packet that begins in a packet is longer now; 0 says nothing, as video may (2.4.3.7)."""
    at = packet + (5 + data[packet + 4] if data[packet + 3] & 0x20 else 4)
    told = int.from_bytes(data[at + 4 : at + 6], "big")
    if told:
        told = told + grown if told + grown <= _MAX_LENGTH else 0
        data[at + 4 : at + 6] = told.to_bytes(2, "big")
