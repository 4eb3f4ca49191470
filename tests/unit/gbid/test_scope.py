"""Scopes: text round trip, cover and containment against the plain definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import SecguardError, UsageError
from secguard.gbid import GbId, Scope

area = st.sampled_from(["32", "3201", "320116", "32011605", "11", "110101"])
types = st.sampled_from(["1", "13", "131", "132", "200"])
scopes = st.builds(
    Scope,
    areas=st.lists(area, max_size=3).map(tuple),
    types=st.lists(types, max_size=3).map(tuple),
    networks=st.lists(st.sampled_from("019"), max_size=3).map(tuple),
)
ids = st.builds(
    GbId.build,
    area=st.sampled_from(["32011605", "32011600", "32020000", "11010100", "44"]),
    type_code=st.sampled_from(["131", "132", "118", "200"]),
    network=st.sampled_from("0129"),
    serial=st.integers(0, 999_999),
)


@given(scopes)
def test_text_round_trip(scope: Scope) -> None:
    assert Scope.parse(scope.text) == scope


@given(scopes, ids)
def test_covers_by_definition(scope: Scope, gbid: GbId) -> None:
    expected = (
        (not scope.areas or any(gbid.centre[: len(a)] == a for a in scope.areas))
        and (not scope.types or any(gbid.type_code[: len(t)] == t for t in scope.types))
        and (not scope.networks or gbid.network in scope.networks)
    )
    assert scope.covers(gbid) is expected


@given(scopes, scopes, ids)
def test_what_is_within_covers_no_more(inner: Scope, outer: Scope, gbid: GbId) -> None:
    if inner.within(outer) and inner.covers(gbid):
        assert outer.covers(gbid)


@given(scopes)
def test_within_is_reflexive_and_any_is_the_top(scope: Scope) -> None:
    assert scope.within(scope)
    assert scope.within(Scope())
    assert Scope().within(scope) == (scope == Scope())


def test_equal_sets_are_equal() -> None:
    assert Scope(areas=("320116", "32", "3201")) == Scope(areas=("32",))
    assert Scope(types=("132", "131")) == Scope(types=("131", "132", "131"))


def test_another_district_is_out() -> None:
    scope = Scope.parse("area=320116 type=131,132 network=0")
    assert scope.covers(GbId.parse("32011600001320000001"))
    assert not scope.covers(GbId.parse("32011700001320000001"))
    assert not scope.covers(GbId.parse("32011600001180000001"))
    assert not scope.covers(GbId.parse("32011600001327000001"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "gbid.scope.format"),
        ("area", "gbid.scope.format"),
        ("area=32 area=33", "gbid.scope.format"),
        ("zone=32", "gbid.scope.format"),
        ("any area=32", "gbid.scope.format"),
        ("area=", "gbid.scope.value"),
        ("area=320", "gbid.scope.value"),
        ("area=３２", "gbid.scope.value"),
        ("type=1320", "gbid.scope.value"),
        ("network=10", "gbid.scope.value"),
        ("area=32\u00a0x", "gbid.scope.format"),
        ("area=32," * 2000, "gbid.scope.format"),
    ],
)
def test_parse_refuses(text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        Scope.parse(text)
    assert caught.value.code == code


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        scope = Scope.parse(text)
    except SecguardError:
        return
    assert Scope.parse(scope.text) == scope
