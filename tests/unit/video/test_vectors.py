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
