"""Insert NAL units into the video of an MPEG program stream (ISO/IEC 13818-1, 2.5).

The PES packet that carries the video grows, or is followed by further ones; time stamps, clock references and every
other stream stay as they are.
"""

import mmap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import FormatError, RefusedError
from secguard.video.containers.annexb import Elementary
from secguard.video.signing.bare import coded
from secguard.video.signing.output import Edit, Insertion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["grouped", "program_edits"]

_LARGEST = 0xFFFF  # PES_packet_length
_BARE = b"\x80\0\0"  # flags of a PES header that states nothing, and the length of what it states
_SEARCH = 9 + 255  # the longest PES header


def grouped(source: Elementary, insertions: Sequence[Insertion]) -> dict[int, list[tuple[int, bytes]]]:
    """By number of the piece of the file that they go into: places in the piece, and bytes."""
    groups: dict[int, list[tuple[int, bytes]]] = {}
    for at, data in map(coded, insertions):
        whole = at >= int(source.ends[-1])  # behind the last byte: the last piece that holds any
        piece = int(np.searchsorted(source.ends, at, side="left" if whole else "right"))
        before = int(source.ends[piece - 1]) if piece else 0
        groups.setdefault(piece, []).append((at - before, data))
    return groups


def program_edits(source: Elementary, file: mmap.mmap, insertions: Sequence[Insertion]) -> Iterator[Edit]:
    """The edits of a program stream, packet by packet.

    A PES packet takes what goes into it as far as its length can say; the rest goes into packets without time stamps.

    Args:
        source: the opened stream; its pieces are the payloads of the video's PES packets.
        file: the file.
        insertions: in order.

    Raises:
        RefusedError: a packet states a checksum over the one before it.
        FormatError: a payload is not where a packet ends.
    """
    for piece, items in sorted(grouped(source, insertions).items()):
        before = int(source.ends[piece - 1]) if piece else 0
        start, size = int(source.starts[piece]), int(source.ends[piece]) - before
        header = _header(source, file, start, size)
        begin = start - len(header)
        if header[4:6] == b"\0\0":  # it lasts to the next pack, however long it is
            yield from ((start + at, start + at, data) for at, data in items)
            continue
        yield from _packets(file, begin, header, (start, size), items)


def _header(source: Elementary, file: mmap.mmap, start: int, size: int) -> bytes:
    """The PES header that ends where a payload starts."""
    low = max(start - _SEARCH, 0)
    head = bytes(file[low:start])
    at = head.rfind(b"\0\0\1", 0, len(head) - 6)
    while at >= 0:
        found = head[at:]
        fits = found[3] in range(0xE0, 0xF0) and len(found) == 9 + found[8]
        told = int.from_bytes(found[4:6], "big")
        if fits and told in {0, len(found) - 6 + size}:
            break
        at = head.rfind(b"\0\0\1", 0, at + 2)
    else:
        raise FormatError(
            "video.container.format", "a PES packet does not end where it says", where=f"{source.path}, byte {start}"
        )
    if found[7] & 0x02:
        raise RefusedError(
            "video.sign.checksum",
            "the video's packets carry checksums that would be wrong afterwards",
            hint="store it as MP4 first: ffmpeg -i IN -c copy OUT.mp4",
            where=f"{source.path}, byte {low + at}",
        )
    return found


def _packets(
    file: mmap.mmap, begin: int, header: bytes, payload: tuple[int, int], items: list[tuple[int, bytes]]
) -> Iterator[Edit]:
    """One PES packet with `items` put in, cut into as many as its length field asks for."""
    start, size = payload
    pieces: list[bytes] = []
    at = 0
    for place, data in items:
        pieces += [file[start + at : start + place], data]
        at = place
    pieces.append(file[start + at : start + size])
    body = b"".join(pieces)
    room = _LARGEST - (len(header) - 6)
    first, rest = body[:room], body[room:]
    made = header[:4] + (len(header) - 6 + len(first)).to_bytes(2, "big") + header[6:] + first
    step = _LARGEST - len(_BARE)
    for low in range(0, len(rest), step):
        part = rest[low : low + step]
        # The marker, priority and copyright bits are those of the packet that it continues.
        made += header[:4] + (len(_BARE) + len(part)).to_bytes(2, "big") + header[6:7] + _BARE[1:] + part
    yield begin, start + size, made
