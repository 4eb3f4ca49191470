"""The signed files of the reference implementation: every SEI right, and what they cannot prove stays unknown."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from secguard.core import Axis, Outcome
from secguard.trust import TrustPolicy, read_certificates
from secguard.video import verify

THEN = datetime(2025, 6, 1, tzinfo=UTC)
TODAY = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(("name", "nals", "frames"), [("h264", 261, 256), ("h265", 307, 302)])
def test_five_of_five(vectors: Path, name: str, nals: int, frames: int) -> None:
    trust = TrustPolicy(read_certificates(vectors / "ca.pem"))
    answer = verify(vectors / f"test_signed_{name}.mp4", trust, THEN)
    assert (answer.seis, answer.valid_seis, answer.nals, answer.frames) == (5, 5, nals, frames)
    assert answer.nal_status == "." * nals
    assert answer.proven == answer.slices == frames
    assert answer.timeline.state == ["intact"] * 5
    assert answer.timeline.counter == [1, 2, 3, 4, 5]
    axes = answer.verdict.axes
    assert axes[Axis.INTEGRITY] is axes[Axis.PROVENANCE] is axes[Axis.COVERAGE] is Outcome.PASS
    assert axes[Axis.COMPLETENESS] is axes[Axis.PRESENTATION] is axes[Axis.REVOCATION] is Outcome.UNKNOWN
    assert answer.verdict.outcome is Outcome.UNKNOWN
    codes = {item.code for item in answer.verdict.findings}
    assert {"video.sei.stale", "video.completeness.unproven", "video.presentation.unproven"} <= codes


@pytest.mark.parametrize("name", ["h264", "h265"])
def test_provenance_depends_on_the_time(vectors: Path, name: str) -> None:
    trust = TrustPolicy(read_certificates(vectors / "ca.pem"))
    path = vectors / f"test_signed_{name}.mp4"
    today = verify(path, trust, TODAY)
    assert today.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL
    assert today.verdict.outcome is Outcome.FAIL
    narrowed = verify(path, trust, THEN, require=(Axis.INTEGRITY, Axis.PROVENANCE))
    assert narrowed.verdict.outcome is Outcome.PASS
    assert narrowed.verdict.narrowed


@pytest.mark.parametrize("name", ["h264", "h265"])
def test_unsigned_originals_are_unknown(vectors: Path, name: str) -> None:
    trust = TrustPolicy(read_certificates(vectors / "ca.pem"))
    answer = verify(vectors / f"test_{name}.mp4", trust, THEN)
    assert answer.verdict.outcome is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.UNKNOWN
    assert next(item.code for item in answer.verdict.findings) == "video.sei.none"
    assert set(answer.nal_status) <= {"U", "_"}
    assert "U" in answer.nal_status


@pytest.mark.parametrize("name", ["h264", "h265"])
def test_from_mp4_to_mkv_and_back(vectors: Path, tmp_path: Path, name: str) -> None:
    trust = TrustPolicy(read_certificates(vectors / "ca.pem"))
    mkv = remux(vectors / f"test_signed_{name}.mp4", tmp_path / "there.mkv")
    back = remux(mkv, tmp_path / "back.mp4")
    for path in (mkv, back):
        answer = verify(path, trust, THEN)
        assert (answer.seis, answer.valid_seis) == (5, 5)
        assert answer.timeline.state == ["intact"] * 5
        assert answer.verdict.axes[Axis.INTEGRITY] is answer.verdict.axes[Axis.PROVENANCE] is Outcome.PASS
        assert answer.verdict.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("name", ["h264", "h265"])
def test_to_ts_and_back(vectors: Path, tmp_path: Path, name: str) -> None:
    """These SEIs carry no emulation prevention: TS keeps their bytes, and the way back may cut them at a start code."""
    trust = TrustPolicy(read_certificates(vectors / "ca.pem"))
    there = remux(vectors / f"test_signed_{name}.mp4", tmp_path / "there.ts")
    answer = verify(there, trust, THEN)
    assert (answer.seis, answer.valid_seis) == (5, 5), "kept whole by the size that each states"
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS
    back = verify(remux(there, tmp_path / "back.mp4"), trust, THEN)
    if back.valid_seis < 5:  # explained: the first SEI says itself that a part of it is gone; the others still prove
        (told,) = [item for item in back.verdict.findings if item.code == "video.sei.malformed"]
        assert "claims a payload of" in told.data["reason"]
        assert back.valid_seis == 4
        assert back.timeline.state[2:] == ["intact"] * 3
        assert back.verdict.outcome is Outcome.FAIL
    else:
        assert back.verdict.axes[Axis.INTEGRITY] is Outcome.PASS


def remux(source: Path, target: Path) -> Path:
    """The same packets in another container; the last sample of the vectors has the time of the one before it."""
    import av

    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        video = old.streams.video[0]
        stream = new.add_stream_from_template(video)
        last = -(1 << 62)
        for packet in old.demux(video):
            if packet.dts is not None:
                packet.dts = last = max(packet.dts, last + 1)
                packet.pts = max(packet.pts, packet.dts)
                packet.stream = stream
                new.mux(packet)
    return target
