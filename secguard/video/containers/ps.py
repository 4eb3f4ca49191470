"""MPEG program streams (ISO/IEC 13818-1, 2.5): what platforms of GB/T 28181 record and send."""

import mmap
from pathlib import Path

from secguard.core import FormatError
from secguard.video.containers.annexb import Elementary
from secguard.video.containers.packets import CLOCK, CODECS, Extract, pes_header
from secguard.video.containers.source import Track, map_file

__all__ = ["open_ps"]

_END, _PACK, _MAP = 0xB9, 0xBA, 0xBC
_LOWEST = 0xB9  # ids of the system layer; lower ones belong to the video stream itself
_VIDEO = range(0xE0, 0xF0)
_BATCH = 4 << 20
_RELEASE = 32 << 20
_MAX_GAPS = 10_000
_NAMES = {0x1B: "h264", 0x24: "h265", 0x10: "mpeg4", 0x80: "svac", 0x0F: "aac", 0x90: "g711a", 0x91: "g711u"} | {
    0x92: "g722.1",
    0x93: "g723.1",
    0x99: "g729",
    0x9B: "svac-audio",
}
"""stream_type as GB/T 28181 assigns them (annex C), beside those of 13818-1."""


def open_ps(path: Path) -> Elementary:
    """Open a program stream and take its first video stream out of the packets.

    Bytes that are no packets are skipped, and the NAL unit that they stand in is marked as damaged.

    Raises:
        UsageError: no such file.
        SystemPartError: the file cannot be read, or the folder for temporary files is full.
        FormatError: it holds no H.264 or H.265 stream.
    """
    data = map_file(path)
    return _Reader(path, data).run()


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data
        self.out = Extract(path)
        self.types: dict[int, int] = {}
        self.video = -1
        self.held: list[bytes] = []
        self.holding = 0

    def run(self) -> Elementary:
        data, at, released = self.data, 0, 0
        size = len(data)
        while 0 <= at < size - 4:
            kind = data[at + 3]
            if data[at : at + 3] != b"\x00\x00\x01" or kind < _LOWEST:
                at = self.resync(at + 1)
                continue
            if kind == _PACK:
                at += self.pack(at)
            elif kind == _END:
                at += 4
            else:
                at = self.packet(at, kind)
            if at - released > _RELEASE:
                released = at
                data.madvise(mmap.MADV_DONTNEED)
        self.flush()
        codec = CODECS.get(self.types.get(self.video, -1), "")
        if self.video in self.types and not codec:
            codec_name = _NAMES.get(self.types[self.video], f"type {self.types[self.video]:#x}")
            raise FormatError("video.track.none", f"no H.264 or H.265 stream ({codec_name})", where=str(self.path))
        return self.out.finish("ps", codec, self.tracks())

    def tracks(self) -> list[Track]:
        """Other streams than the one that is read."""
        return [
            Track("vide" if number in _VIDEO else "soun", "", _NAMES.get(kind, f"{kind:#x}"), b"", 0, CLOCK)
            for number, kind in sorted(self.types.items())
            if number != self.video
        ]

    def pack(self, at: int) -> int:
        """Bytes of a pack header."""
        head = self.data[at + 4 : at + 14]
        if len(head) == 10 and head[0] >> 6 == 1:
            return 14 + (head[9] & 7)
        return 12  # MPEG-1

    def packet(self, at: int, kind: int) -> int:
        """Read one packet, and return where the next one is expected."""
        data = self.data
        length = int.from_bytes(data[at + 4 : at + 6], "big")
        end = at + 6 + length
        if kind == _MAP:
            self.map(data[at + 6 : min(end, len(data))])
        if kind not in _VIDEO:
            return min(end, len(data))
        if length == 0:  # not allowed here, and written all the same: it lasts to the next pack
            found = data.find(b"\x00\x00\x01\xba", at + 6)
            end = found if found >= 0 else len(data)
        if end > len(data):
            self.gap()
            end = len(data)
        if self.video < 0:
            self.video = kind
        if kind == self.video:
            self.take(at, end)
        return end

    def take(self, at: int, end: int) -> None:
        try:
            begin, pts, dts = pes_header(self.data[at : min(at + 19, end)])
        except ValueError:
            self.gap()
            return
        begin = min(at + begin, end)
        if pts >= 0:
            self.out.stamps.append((self.out.size + self.holding, pts, dts))
        self.out.starts.append(begin)
        self.out.sizes.append(end - begin)
        self.held.append(self.data[begin:end])
        self.holding += end - begin
        if self.holding > _BATCH:
            self.flush()

    def flush(self) -> None:
        if self.held:
            self.out.write(b"".join(self.held))
            self.held, self.holding = [], 0

    def map(self, body: bytes) -> None:
        """Program stream map (2.5.4): the kind of each stream."""
        if len(body) < 8:
            return
        at = 4 + int.from_bytes(body[2:4], "big")
        if at + 2 > len(body):
            return
        stop = min(at + 2 + int.from_bytes(body[at : at + 2], "big"), len(body) - 4)
        at += 2
        while at + 4 <= stop:
            self.types[body[at + 1]] = body[at]
            at += 4 + int.from_bytes(body[at + 2 : at + 4], "big")

    def gap(self) -> None:
        if len(self.out.gaps) < _MAX_GAPS:
            self.out.gaps.append(self.out.size + self.holding)

    def resync(self, at: int) -> int:
        """The next start code of the system layer; -1 if there is none."""
        self.gap()
        while True:
            at = self.data.find(b"\x00\x00\x01", at)
            if at < 0 or at + 3 >= len(self.data):
                return -1
            if self.data[at + 3] >= _LOWEST:
                return at
            at += 3
