"""Containers: MP4 (also fragmented), Matroska, MPEG-TS, MPEG-PS and bare streams, told apart by their first bytes.

MP4 and Matroska are read where they lie: exact bytes, nothing re-muxed. From TS and PS the video stream is taken out of
its packets into a nameless temporary file first.
"""

from pathlib import Path

from secguard.core import FormatError
from secguard.video.containers.source import Samples, Source, Track, Units, map_file

__all__ = ["Samples", "Source", "Track", "Units", "map_file", "open_source"]

_HEAD = 4 * 204


def open_source(path: Path) -> Source:
    """Open a recording.

    Raises:
        UsageError: no such file, or not a regular one.
        SystemPartError: the file cannot be read, or the folder for temporary files is full.
        FormatError: it is none of the containers, or a damaged one.
    """
    from secguard.video.containers import annexb, mkv, mp4, ps, ts

    head = _head(path)
    if head[4:8] in mp4.BRANDS:
        return mp4.open_movie(path)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return mkv.open_mkv(path)
    if head.startswith(b"\x00\x00\x01\xba"):
        return ps.open_ps(path)
    if ts.packet_layout(head)[0]:
        return ts.open_ts(path)
    if head.lstrip(b"\0").startswith(b"\x01") and head.startswith(b"\0\0"):
        return annexb.open_annexb(path)
    raise FormatError(
        "video.container.format",
        "not a video file that is read here",
        hint="MP4, MKV, MPEG-TS, MPEG-PS, or a bare H.264 or H.265 stream",
        where=f"{path}, byte 0",
    )


def _head(path: Path) -> bytes:
    with map_file(path) as data:
        return bytes(data[:_HEAD])
