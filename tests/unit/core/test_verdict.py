"""The rules of a verdict: unknown never reads as pass."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import Axis, Finding, Outcome, judge

AT = datetime(2026, 10, 1, tzinfo=UTC)
axes = st.frozensets(st.sampled_from(Axis))
findings = st.lists(st.builds(Finding, st.just("x.y"), st.sampled_from(Axis), st.sampled_from(Outcome)), max_size=6)


@given(examined=axes, found=findings, default=axes, require=axes)
def test_pass_needs_every_required_axis_examined_and_clean(examined, found, default, require):
    verdict = judge("s", AT, examined=examined, findings=found, default=default, require=require)
    required = require or default
    wrong = {f.axis for f in found if f.outcome is Outcome.FAIL}
    unsure = {f.axis for f in found if f.outcome is Outcome.UNKNOWN}
    if required & wrong:
        assert verdict.outcome is Outcome.FAIL
    elif required and required <= examined and not required & unsure:
        assert verdict.outcome is Outcome.PASS
    else:
        assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.narrowed == bool(default - required)


def test_a_remark_does_not_make_an_unexamined_axis_pass():
    remark = Finding("x.y", Axis.TIME, Outcome.PASS)
    verdict = judge("s", AT, examined=(), findings=[remark], default=[Axis.TIME])
    assert verdict.axes[Axis.TIME] is Outcome.UNKNOWN


def test_nothing_required_is_not_a_pass():
    assert judge("s", AT, examined=Axis, default=()).outcome is Outcome.UNKNOWN


def test_a_naive_time_is_refused():
    with pytest.raises(ValueError, match="aware"):
        judge("s", datetime(2026, 1, 1), examined=(), default=())


def test_exit_codes():
    assert [o.exit_code for o in (Outcome.PASS, Outcome.FAIL, Outcome.UNKNOWN)] == [0, 1, 3]
