"""The report on many recordings says first what their chains miss."""

from types import SimpleNamespace
from typing import Any, cast

from video_kit import NOW

from secguard.core import Axis, Outcome, finding, judge
from secguard.report.model import Findings, Table
from secguard.video.overview import make_overview


def test_a_missing_segment_stands_before_the_files() -> None:
    gone = finding("video.recording.missing", "part2.mp4", number=2, start="08:00", end="08:01")
    chain: Any = SimpleNamespace(
        verdict=judge("chain", NOW, examined=[Axis.COMPLETENESS], findings=[gone], default=[Axis.COMPLETENESS])
    )
    made = make_overview([], [("folder", chain)])
    assert made.outcome is Outcome.FAIL
    first, second = made.sections[:2]
    assert isinstance(first, Findings)
    assert isinstance(second, Table)
    told = {words.en: value for words, value in cast("Any", made.facts)}
    assert told["Chains with violations"] == 1
