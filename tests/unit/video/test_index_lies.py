"""An index that says one thing twice, or turns and reshapes the picture beside the track header."""

import struct
from pathlib import Path

import pytest
import video_kit as kit

from secguard.core import FormatError, Outcome
from secguard.video import manifest_path
from secguard.video.containers.mp4 import open_movie

_TABLE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_QUARTER = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


def _box(data: bytes, path: tuple[bytes, ...]) -> tuple[int, int]:
    """Start and end of a box."""
    start, end = 0, len(data)
    for number, kind in enumerate(path):
        at = start + 8 * bool(number)
        while data[at + 4 : at + 8] != kind:
            at += int.from_bytes(data[at : at + 4], "big")
            assert at < end, kind
        start, end = at, at + int.from_bytes(data[at : at + 4], "big")
    return start, end


def _grown(data: bytes, path: tuple[bytes, ...], at: int, more: bytes) -> bytes:
    """`more` put in at `at`; the boxes of `path` hold it. The media data lie in front."""
    out = bytearray(data)
    for depth in range(1, len(path) + 1):
        start, end = _box(data, path[:depth])
        out[start : start + 4] = (end - start + len(more)).to_bytes(4, "big")
    out[at:at] = more
    return bytes(out)


@pytest.mark.parametrize(
    "path",
    [
        (*_TABLE, b"stts"),
        (*_TABLE, b"stsz"),
        (*_TABLE, b"stsd"),
        (b"moov", b"trak", b"edts"),
        (b"moov", b"trak", b"edts", b"elst"),
        (b"moov", b"trak", b"tkhd"),
        (b"moov", b"mvhd"),
        (b"moov",),
    ],
)
def test_what_is_said_twice_is_refused(signed: Path, pki: kit.Pki, tmp_path: Path, path: tuple[bytes, ...]) -> None:
    data = signed.read_bytes()
    start, end = _box(data, path)
    changed = bytearray(data[start:end])
    changed[-1] ^= 1
    (tmp_path / "twice.mp4").write_bytes(_grown(data, path[:-1], end, bytes(changed)))
    with pytest.raises(FormatError, match="twice") as refused:
        kit.judge_clip(tmp_path / "twice.mp4", pki, manifest=manifest_path(signed))
    assert refused.value.code == "video.mp4.ambiguous"


def test_chunk_offsets_in_two_widths_are_refused(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    data = signed.read_bytes()
    _, end = _box(data, (*_TABLE, b"stco"))
    (tmp_path / "twice.mp4").write_bytes(_grown(data, _TABLE, end, struct.pack(">I4sII", 16, b"co64", 0, 0)))
    with pytest.raises(FormatError, match="twice"):
        kit.judge_clip(tmp_path / "twice.mp4", pki)


def _turned(data: bytes) -> bytes:
    start, _ = _box(data, (b"moov", b"mvhd"))
    return data[: start + 44] + struct.pack(">9i", *_QUARTER) + data[start + 80 :]


def _squeezed(data: bytes) -> bytes:
    start, _ = _box(data, (*_TABLE, b"stsd"))
    return data[: start + 48] + struct.pack(">HH", 16, 16) + data[start + 52 :]


def _with(kind: bytes, *values: int) -> bytes:
    return struct.pack(f">I4s{len(values)}I", 8 + 4 * len(values), kind, *values)


def _entry_with(data: bytes, more: bytes) -> bytes:
    start, _ = _box(data, (*_TABLE, b"stsd"))
    entry, size = start + 16, int.from_bytes(data[start + 16 : start + 20], "big")
    out = bytearray(_grown(data, (*_TABLE, b"stsd"), entry + size, more))
    out[entry : entry + 4] = (size + len(more)).to_bytes(4, "big")
    return bytes(out)


def _stretched(data: bytes) -> bytes:
    start, end = _box(data, (*_TABLE, b"stsd"))
    at = data.find(b"pasp", start, end)
    if at < 0:
        return _entry_with(data, _with(b"pasp", 1, 8))
    return data[: at + 4] + struct.pack(">II", 1, 8) + data[at + 12 :]


def _cropped(data: bytes) -> bytes:
    return _entry_with(data, _with(b"clap", 16, 1, 16, 1, 0, 1, 0, 1))


@pytest.mark.parametrize("change", [_turned, _squeezed, _stretched, _cropped])
def test_a_picture_turned_or_reshaped_beside_its_track_header(signed, pki, tmp_path, change) -> None:
    path = tmp_path / "shaped.mp4"
    path.write_bytes(change(signed.read_bytes()))
    assert open_movie(path).video.shape
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert "video.presentation.display" in kit.codes(answer)
    assert answer.verdict.outcome is Outcome.FAIL
    assert kit.judge_clip(path, pki).verdict.outcome is Outcome.UNKNOWN


def test_square_pixels_may_be_stated(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    data = signed.read_bytes()
    start, end = _box(data, (*_TABLE, b"stsd"))
    if data.find(b"pasp", start, end) < 0:
        data = _entry_with(data, _with(b"pasp", 1, 1))
    (tmp_path / "square.mp4").write_bytes(data)
    answer = kit.judge_clip(tmp_path / "square.mp4", pki, manifest=manifest_path(signed))
    assert answer.verdict.outcome is Outcome.PASS
