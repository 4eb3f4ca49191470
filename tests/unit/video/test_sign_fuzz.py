"""Signing hostile files: an error, or a file that verifies; never a traceback, nor a signature that accuses itself."""

import os
from pathlib import Path

import pytest
import video_kit as kit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secguard.core import SecguardError
from secguard.video.signing import Mode

EXAMPLES = settings(max_examples=60 if os.environ.get("SECGUARD_TEST_PROFILE", "ci") == "ci" else 5000)
KINDS = ("mp4", "fragmented", "ts", "m2ts", "ps", "annexb")


class Files(dict[str, bytes]):
    """Small files by kind; hypothesis shall not print them."""

    def __repr__(self) -> str:
        return "Files"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("small")
    clip = kit.make_clip(folder / "clip.mp4", frames=14, gop=5, size=(64, 64), noise=8)
    ways: dict[str, tuple[str, str, dict[str, str]]] = {
        "fragmented": ("mp4", "mp4", {"movflags": "frag_keyframe+empty_moov"}),
        "ts": ("mp4", "mpegts", {}),
        "m2ts": ("mp4", "mpegts", {"mpegts_m2ts_mode": "1"}),
        "ps": ("ts", "vob", {}),
        "annexb": ("mp4", "h264", {}),
    }
    files = {"mp4": clip}
    for kind, (source, form, options) in ways.items():
        files[kind] = _remux(files[source], folder / kind, form, options)
    return Files({kind: path.read_bytes() for kind, path in files.items()})


def _remux(source: Path, target: Path, form: str, options: dict[str, str]) -> Path:
    import av

    av.logging.set_level(av.logging.PANIC)
    with av.open(str(source)) as old, av.open(str(target), "w", format=form, options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


@settings(EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    kind=st.sampled_from(KINDS),
    edits=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 0x47, 0x7F, 0x80, 0xE0, 0xFF])), max_size=6),
    cut=st.floats(0, 1) | st.just(1.0),
    mode=st.sampled_from([Mode(), Mode(every=2, partial=2), Mode(low_bitrate=True, certificate_sei=True)]),
)
def test_a_changed_file(
    *,
    small: Files,
    tmp_path: Path,
    pki: kit.Pki,
    kind: str,
    edits: list[tuple[float, int]],
    cut: float,
    mode: Mode,
) -> None:
    data = bytearray(small[kind])
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data[: int(cut * len(data))])
    target.unlink(missing_ok=True)
    kit.manifest_path(target).unlink(missing_ok=True)
    try:
        done = kit.sign_clip(source, target, pki.camera, mode=mode)
    except SecguardError:
        assert not target.exists()
        assert not list(tmp_path.glob(".*.tmp"))
        return
    answer = kit.judge_clip(target, pki, manifest=done.manifest)
    wrong = {item.code for item in answer.verdict.findings if item.outcome == "fail"}
    assert not wrong
    assert answer.valid_seis == answer.seis
