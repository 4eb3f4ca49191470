"""Every container gives the same NAL units and the same verdict; damage is said, what is hostile is refused."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import video_kit as kit
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core import FormatError, Outcome, RefusedError, SecguardError
from secguard.video import frame_offsets
from secguard.video.containers import open_source
from secguard.video.nal import open_stream
from secguard.video.sei import UUID
from secguard.video.signing import Mode

CODE = b"\x00\x00\x00\x01"


def remux(source: Path, target: Path, form: str | None = None, *, filtered: bool = False, **options: str) -> Path:
    import av
    from av.bitstream import BitStreamFilterContext

    av.logging.set_level(av.logging.ERROR)
    with av.open(str(source)) as old, av.open(str(target), "w", format=form, options=options) as new:
        stream = old.streams.video[0]
        out: Any = new.add_stream_from_template(stream)
        name = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}[stream.codec_context.name]
        convert = BitStreamFilterContext(name, stream).filter if filtered else lambda packet: [packet]
        last = None
        for packet in old.demux(stream):
            if not packet.size:
                continue
            for item in convert(packet):
                if item.dts is None:  # Matroska states none, and FFmpeg cannot guess the first ones
                    item.dts = item.pts - 200 if last is None else last + 1
                if last is not None and item.dts is not None and item.dts <= last:
                    item.dts = last + 1  # the shipped files repeat a time, which muxers refuse
                last = item.dts
                item.pts = item.dts if item.pts is None else max(item.pts, item.dts)
                item.stream = out
                new.mux(item)
    return target


def access_units(path: Path) -> list[list[bytes]]:
    return [sample.nals for sample in kit.take_apart(path)]


def sets_of(path: Path) -> list[bytes]:
    """Parameter sets of an `avcC` or `hvcC` record."""
    config = open_stream(path).track.config
    found, at = [], 0
    if open_stream(path).track.codec == "h264":
        count, at = config[5] & 31, 6
        for turn in range(2):
            for _ in range(count):
                size = int.from_bytes(config[at : at + 2], "big")
                found.append(config[at + 2 : at + 2 + size])
                at += 2 + size
            if turn == 0:
                count, at = config[at], at + 1
        return found
    at = 23
    for _ in range(config[22]):
        count, at = int.from_bytes(config[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            size = int.from_bytes(config[at : at + 2], "big")
            found.append(config[at + 2 : at + 2 + size])
            at += 2 + size
    return found


def annexb(units: Iterable[bytes]) -> bytes:
    return b"".join(CODE + unit for unit in units)


def elementary(path: Path) -> bytes:
    """The stream between start codes, with the parameter sets before the first picture."""
    return annexb(sets_of(path)) + b"".join(annexb(unit) for unit in access_units(path))


def _stamp(mark: int, value: int) -> bytes:
    head = mark << 4 | (value >> 30 & 7) << 1 | 1
    middle, low = (value >> 15 & 0x7FFF) << 1 | 1, (value & 0x7FFF) << 1 | 1
    return bytes([head]) + middle.to_bytes(2, "big") + low.to_bytes(2, "big")


def program_stream(path: Path, *, piece: int = 5000, mapped: bool = True, sound: bool = True) -> bytes:
    """A program stream as GB/T 28181 devices send it: pack header, map, PES packets of a limited size."""
    stream = open_stream(path)
    kind = {"h264": 0x1B, "h265": 0x24}[stream.track.codec]
    out = []
    for number, unit in enumerate(access_units(path)):
        sample = stream.samples
        scale = stream.track.timescale
        dts = int(sample.dts[number]) * 90000 // scale + 900
        pts = dts + int(sample.shift[number]) * 90000 // scale
        out.append(b"\x00\x00\x01\xba" + bytes([0x44, 0, 4, 0, 4, 1, 0, 0, 3, 0xF8 | 2]) + b"\xff\xff")
        if number % 12 == 0:
            out.append(b"\x00\x00\x01\xbb" + (6).to_bytes(2, "big") + bytes(6))
            if mapped:
                rows = bytes([kind, 0xE0, 0, 0]) + (bytes([0x90, 0xC0, 0, 0]) if sound else b"")
                body = b"\xe0\xff" + b"\0\0" + len(rows).to_bytes(2, "big") + rows + bytes(4)
                out.append(b"\x00\x00\x01\xbc" + len(body).to_bytes(2, "big") + body)
        data = annexb([*(sets_of(path) if number % 12 == 0 else []), *unit])
        for at in range(0, len(data), piece):
            times = _stamp(3, pts) + _stamp(1, dts) if at == 0 else b""
            part = data[at : at + piece]
            flags = 0xC0 if times else 0
            header = bytes([0x80, flags, len(times)]) + times
            out.append(b"\x00\x00\x01\xe0" + (len(header) + len(part)).to_bytes(2, "big") + header + part)
        if sound:
            out.append(
                b"\x00\x00\x01\xc0" + (3 + 40).to_bytes(2, "big") + b"\x80\0\0" + random.Random(number).randbytes(40)
            )
    out.append(b"\x00\x00\x01\xb9")
    return b"".join(out)


def units_of(path: Path) -> list[bytes]:
    """All slices and signatures; containers add and drop parameter sets, delimiters and notes of the encoder."""
    stream = open_stream(path)
    nals = stream.nals
    chosen = np.flatnonzero(nals.vcl | nals.sei).tolist()
    units = [bytes(stream.source.data[int(nals.offset[item]) : int(nals.end[item])]) for item in chosen]
    return [unit for unit in units if unit[0] not in {0x06, 0x4E} or UUID in unit[:1100]]


WAYS = ["mkv", "mkv-live", "ts", "m2ts", "ps", "ps-bare", "annexb", "ffmpeg-ps"]


def convert(source: Path, folder: Path, way: str) -> Path:
    target = folder / f"as.{way}"
    if way == "mkv":
        return remux(source, target, "matroska")
    if way == "mkv-live":  # clusters of unknown size
        return remux(source, target, "matroska", live="1")
    if way == "ts":
        return remux(source, target, "mpegts")
    if way == "m2ts":
        return remux(source, target, "mpegts", mpegts_m2ts_mode="1")
    if way == "ffmpeg-ps":
        return remux(source, target, "vob", filtered=True)
    data = elementary(source) if way == "annexb" else program_stream(source, mapped=way == "ps", sound=way == "ps")
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module", params=["h264", "h265"])
def original(request: pytest.FixtureRequest, signed: Path, hevc: Path) -> Path:
    return signed if request.param == "h264" else hevc


@pytest.mark.parametrize("way", WAYS)
def test_the_same_units_in_the_same_pictures(tmp_path: Path, original: Path, way: str) -> None:
    path = convert(original, tmp_path, way)
    assert units_of(path) == units_of(original)
    ours, theirs = open_stream(path), open_stream(original)
    assert (
        np.unique(ours.nals.sample[ours.nals.vcl], return_counts=True)[1].tolist()
        == np.unique(theirs.nals.sample[theirs.nals.vcl], return_counts=True)[1].tolist()
    )
    assert ours.nals.leads.sum() == theirs.nals.leads.sum()
    assert not ours.nals.damaged.any()


@pytest.mark.parametrize("way", [way for way in WAYS if way not in {"annexb", "ffmpeg-ps"}])
def test_the_same_times(tmp_path: Path, original: Path, way: str) -> None:
    # FFmpeg puts several small pictures into one packet of a program stream, with one time.
    ours, theirs = frame_offsets(convert(original, tmp_path, way)).time, frame_offsets(original).time
    assert np.abs(ours - theirs).max() < 0.002


@pytest.mark.parametrize("way", WAYS)
def test_the_same_verdict_and_the_changed_frame_named(tmp_path: Path, original: Path, way: str, pki: kit.Pki) -> None:
    path = convert(original, tmp_path, way)
    answer = kit.judge_clip(path, pki)
    assert answer.verdict.axes["integrity"] == "pass"
    assert answer.verdict.axes["provenance"] == "pass"
    data = bytearray(path.read_bytes())
    victim = units_of(original)[17]
    at = data.find(victim[10:40]) + 12
    data[at] ^= 0x10
    path.write_bytes(data)
    broken = kit.judge_clip(path, pki)
    assert broken.verdict.axes["integrity"] == "fail"
    assert "video.gop.hash-mismatch" in kit.codes(broken)


@pytest.mark.parametrize("way", WAYS)
def test_a_manifest_of_another_container_proves_what_it_can(
    tmp_path: Path, signed: Path, way: str, pki: kit.Pki
) -> None:
    manifest = signed.with_name(signed.name + ".manifest.json")
    answer = kit.judge_clip(convert(signed, tmp_path, way), pki, manifest=manifest)
    assert answer.verdict.axes["completeness"] == "pass"
    assert answer.verdict.axes["presentation"] == "unknown"
    assert "fail" not in {item.outcome for item in answer.verdict.findings}
    if way in {"ts", "annexb"}:
        assert "video.parameter-sets.unproven" in kit.codes(answer)


def test_there_and_back_again(tmp_path: Path, signed: Path, pki: kit.Pki) -> None:
    manifest = signed.with_name(signed.name + ".manifest.json")
    back = remux(remux(signed, tmp_path / "a.mkv"), tmp_path / "b.mp4")
    answer = kit.judge_clip(back, pki, manifest=manifest)
    assert answer.verdict.axes["integrity"] == "pass"
    back = remux(remux(signed, tmp_path / "a.ts", "mpegts"), tmp_path / "c.mp4")
    assert kit.judge_clip(back, pki).verdict.axes["integrity"] == "pass"


def test_places_are_those_of_the_file(tmp_path: Path, signed: Path) -> None:
    for way in ("ps", "ts", "annexb", "mkv"):
        path = convert(signed, tmp_path, way)
        data = path.read_bytes()
        stream = open_stream(path)
        for index in np.flatnonzero(stream.nals.vcl)[::7].tolist():
            at = int(stream.nals.offset[index])
            assert data[stream.source.place(at)] == stream.source.data[at]
        frames = frame_offsets(path)
        assert (frames.offset < len(data)).all()


def test_a_lost_packet_is_damage(tmp_path: Path, signed: Path, pki: kit.Pki) -> None:
    data = convert(signed, tmp_path, "ts").read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    pid = open_stream(tmp_path / "as.ts").source
    assert pid.container == "ts"
    plain = [n for n, item in enumerate(packets) if item[1] & 0x5F == 1 and item[2] == 0 and item[3] & 0x30 == 0x10]
    lost = plain[len(plain) // 2]
    path = tmp_path / "lost.ts"
    path.write_bytes(b"".join(packets[:lost] + packets[lost + 1 :]))
    answer = kit.judge_clip(path, pki)
    assert "video.sample.damaged" in kit.codes(answer)
    assert answer.verdict.outcome == "fail"
    # A packet that is sent twice is none.
    path.write_bytes(b"".join(packets[: lost + 1] + packets[lost:]))
    assert kit.judge_clip(path, pki).verdict.axes["integrity"] == "pass"


def test_rubbish_between_packets_is_damage(tmp_path: Path, signed: Path, pki: kit.Pki) -> None:
    data = program_stream(signed)
    at = data.find(b"\x00\x00\x01\xba", len(data) // 2)
    path = tmp_path / "rubbish.ps"
    path.write_bytes(data[:at] + b"rubbish" * 9 + data[at:])
    assert "video.gop.hash-mismatch" not in kit.codes(kit.judge_clip(path, pki))
    cut = data.find(b"\x00\x00\x01\xe0", len(data) // 2) + 100
    path.write_bytes(data[:cut] + data[cut + 50 :])
    assert {"video.sample.damaged", "video.gop.hash-mismatch"} & kit.codes(kit.judge_clip(path, pki))


def test_an_unbounded_packet_lasts_to_the_next_pack(tmp_path: Path, signed: Path) -> None:
    data = bytearray(program_stream(signed, piece=1 << 15, sound=False))
    at = data.find(b"\x00\x00\x01\xe0", len(data) // 2)
    data[at + 4 : at + 6] = b"\0\0"
    path = tmp_path / "zero.ps"
    path.write_bytes(data)
    assert units_of(path) == units_of(signed)


@pytest.mark.parametrize("name", ["test_signed_h264.mp4", "test_signed_h265.mp4"])
@pytest.mark.parametrize("form", ["mpegts", "matroska"])
def test_seis_without_emulation_prevention_survive_in_other_containers(
    tmp_path: Path, vectors: Path, pki: kit.Pki, name: str, form: str
) -> None:
    path = remux(vectors / name, tmp_path / "as", form)
    answer = kit.judge_clip(path, pki)
    assert (answer.seis, answer.valid_seis) == (5, 5)
    assert answer.verdict.axes["integrity"] == "pass"


def shown(path: Path) -> list[tuple[int | None, bytes]]:
    """Decoded pictures with their times, as another program reads them.

    Between start codes the last SEI stands behind the last picture, and FFmpeg calls it a picture without slices.
    """
    import av

    av.logging.set_level(av.logging.PANIC)
    found: list[tuple[int | None, bytes]] = []
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))
        for number, packet in enumerate(packets):
            try:
                found += [(item.pts, item.to_ndarray().tobytes()) for item in packet.decode()]
            except av.error.InvalidDataError:
                assert number == len(packets) - 2
    return found


def others(path: Path) -> list[tuple[int | None, bytes]]:
    """Packets of every stream but the video."""
    import av

    with av.open(str(path)) as container:
        found = [item for item in container.demux() if item.stream.type != "video" and item.dts is not None]
        return [(item.pts, bytes(item)) for item in found]


@pytest.mark.parametrize("way", ["ts", "m2ts", "ps", "ps-bare", "annexb", "ffmpeg-ps"])
@pytest.mark.parametrize("mode", [Mode(), Mode(every=2, partial=5, certificate_sei=True)], ids=["plain", "mixed"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_it_is_signed_in_place(tmp_path: Path, pki: kit.Pki, way: str, mode: Mode, codec: str) -> None:
    clip = kit.make_clip(tmp_path / "clip.mp4", codec=codec, frames=40, sound=way in {"ts", "m2ts"}, size=(160, 96))
    path = convert(clip, tmp_path, way)
    done = kit.sign_clip(path, tmp_path / "out", pki.camera, mode=mode)
    answer = kit.judge_clip(tmp_path / "out", pki, manifest=done.manifest)
    assert kit.codes(answer) == set()
    assert answer.verdict.outcome is Outcome.PASS
    assert answer.proven == answer.slices == 40
    assert shown(tmp_path / "out") == shown(path)
    assert others(tmp_path / "out") == others(path)
    before = [unit for unit in units_of(path) if unit[0] not in {0x06, 0x4E}]
    assert [unit for unit in units_of(tmp_path / "out") if unit[0] not in {0x06, 0x4E}] == before
    stream = open_stream(tmp_path / "out")
    assert (stream.samples.dts == open_stream(path).samples.dts).all()
    if way == "annexb":  # it states no times, so nothing can be made of it
        return
    # Back in an MP4 file the signatures still hold.
    again = remux(tmp_path / "out", tmp_path / "again.mp4", "mp4")
    assert kit.judge_clip(again, pki).verdict.axes["integrity"] == "pass"


def test_packets_grow_past_their_length(tmp_path: Path, pki: kit.Pki) -> None:
    """PES packets nearly as long as can be: what goes into them goes on in further packets."""
    clip = kit.make_clip(tmp_path / "clip.mp4", frames=30, size=(320, 240), noise=230, options={"qp": "1"})
    path = tmp_path / "clip.ps"
    path.write_bytes(program_stream(clip, piece=65_500))
    assert max(len(unit) for unit in units_of(path)) > 60_000
    done = kit.sign_clip(path, tmp_path / "out.ps", pki.camera)
    assert kit.judge_clip(tmp_path / "out.ps", pki, manifest=done.manifest).verdict.outcome is Outcome.PASS
    assert shown(tmp_path / "out.ps") == shown(path)


def test_error_correction_is_not_made_wrong(tmp_path: Path, clip: Path, pki: kit.Pki) -> None:
    data = convert(clip, tmp_path, "ts").read_bytes()
    path = tmp_path / "with.ts"
    path.write_bytes(b"".join(data[at : at + 188] + bytes(16) for at in range(0, len(data), 188)))
    with pytest.raises(RefusedError) as caught:
        kit.sign_clip(path, tmp_path / "out.ts", pki.camera)
    assert caught.value.code == "video.sign.packets"
    assert not (tmp_path / "out.ts").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x01\xba" + bytes(200),
        b"\x00\x00\x01\xba" * 100,
        b"\x1a\x45\xdf\xa3" + bytes(200),
        b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" + b"\x16\x54\xae\x6b\x80",
        (b"\x47" + bytes(187)) * 8,
        b"\x00\x00\x00\x01" + bytes(100),
        b"GIF89a" * 20,
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "none"
    path.write_bytes(data)
    with pytest.raises(FormatError):
        open_stream(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("small")
    source = kit.make_clip(folder / "clip.mp4", frames=16)
    return {way: convert(source, folder, way).read_bytes() for way in ("mkv", "mkv-live", "ts", "ps", "annexb")}


@pytest.mark.parametrize("way", ["mkv", "mkv-live", "ts", "ps", "annexb"])
@settings(max_examples=80)
@given(data=st.data())
def test_mutations_never_crash(
    tmp_path_factory: pytest.TempPathFactory, small: dict[str, bytes], way: str, data: Any
) -> None:
    changed = bytearray(small[way])
    reach = st.integers(0, len(changed) - 1) | st.integers(0, 700)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(reach)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(reach) :]
    path = tmp_path_factory.getbasetemp() / f"changed.{way}"
    path.write_bytes(changed)
    try:
        source = open_source(path)
        stream = open_stream(path)
    except SecguardError:
        return
    nals = stream.nals
    assert (nals.offset >= 0).all()
    assert (nals.end <= len(source.data)).all()
    assert (nals.end > nals.offset).all()
