"""IDs: round trips, positions in errors, the tables of both editions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import SecguardError, UsageError
from secguard.gbid import EDITIONS, GbId, tables

CAMERA = "32011600001320000001"
digits = st.text("0123456789", min_size=20, max_size=20)


def test_fields_of_a_camera() -> None:
    gbid = GbId.parse(f" {CAMERA}\n")
    assert (gbid.centre, gbid.area, gbid.industry, gbid.type_code) == ("32011600", "320116", "00", "132")
    assert (gbid.network, gbid.serial, str(gbid)) == ("0", "000001", CAMERA)
    assert GbId.parse("32011605001320000001").area == "32011605"


@given(digits)
def test_parse_and_build_round_trip(text: str) -> None:
    gbid = GbId.parse(text)
    built = GbId.build(
        area=gbid.centre,
        industry=gbid.industry,
        type_code=gbid.type_code,
        network=gbid.network,
        serial=int(gbid.serial),
    )
    assert built == gbid
    assert gbid.value == text
    assert "".join(part.digits for part in gbid.explain()) == text


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused_with_a_hint(text: str) -> None:
    problem = None
    try:
        gbid = GbId.parse(text)
    except SecguardError as error:
        problem = error
    if problem is None:
        assert gbid.value == text.strip()
    else:
        assert problem.code in {"gbid.length", "gbid.digit"}
        assert problem.hint
        assert problem.where


@given(digits, st.integers(0, 19), st.characters().filter(lambda c: not c.isspace() and c not in "0123456789"))
def test_a_wrong_character_is_named_by_its_position(text: str, index: int, character: str) -> None:
    with pytest.raises(UsageError) as caught:
        GbId.parse(text[:index] + character + text[index + 1 :])
    assert caught.value.code == "gbid.digit"
    assert caught.value.where.endswith(f"position {index + 1}")


@pytest.mark.parametrize("text", ["", "3201160000132000000", CAMERA + "1"])
def test_length(text: str) -> None:
    with pytest.raises(UsageError, match="20 digits") as caught:
        GbId.parse(text)
    assert caught.value.code == "gbid.length"


def test_fullwidth_digits_are_no_digits() -> None:
    with pytest.raises(UsageError):
        GbId.parse("３２０１１６００００１３２０００００００１"[:20])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"area": "32011"}, "gbid.area"),
        ({"serial": 1_000_000}, "gbid.serial"),
        ({"serial": -1}, "gbid.serial"),
        ({"type_code": "13"}, "gbid.type"),
        ({"industry": "000"}, "gbid.industry"),
        ({"network": ""}, "gbid.network"),
        ({"type_code": "1x2"}, "gbid.digit"),
    ],
)
def test_build_refuses(changes: dict[str, object], code: str) -> None:
    values = {"area": "320116", "type_code": "132", "serial": 1, **changes}
    with pytest.raises(UsageError) as caught:
        GbId.build(**values)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_build_fills_the_area() -> None:
    assert GbId.build(area="32", type_code="200", serial=1).value == "32000000002000000001"


@pytest.mark.parametrize(
    ("text", "edition", "code", "where"),
    [
        ("99011600001320000001", "2022", "gbid.province", "positions 1-2"),
        ("32011600001100000001", "2022", "gbid.type", "positions 11-13"),
        ("32011600001190000001", "2022", "gbid.type", "positions 11-13"),
        ("32011600001329000001", "2022", "gbid.network", "position 14"),
        ("32011600001329000001", "2016", "gbid.network", "position 14"),
        (CAMERA, "2011", "gbid.edition", ""),
    ],
)
def test_validate_names_the_position(text: str, edition: str, code: str, where: str) -> None:
    with pytest.raises(UsageError) as caught:
        GbId.parse(text).validate(edition)
    assert (caught.value.code, caught.value.where) == (code, where)
    assert caught.value.hint


def test_problems_lists_all() -> None:
    codes = [problem.code for problem in GbId.parse("99011600001009000001").problems()]
    assert codes == ["gbid.province", "gbid.type", "gbid.network"]
    assert GbId.parse(CAMERA).validate() == GbId.parse(CAMERA)


def test_editions_differ_where_the_standard_does() -> None:
    old, new = (tables(edition) for edition in EDITIONS)
    assert old.networks["2"].zh == "监控报警专网"
    assert new.networks["2"].zh == "行业专网"
    checkpoint = old.meaning(old.types, "121")
    assert checkpoint is not None
    assert checkpoint.zh == "扩展的前端主设备"
    assert new.types["121"].en == "Video checkpoint"
    assert old.industries["43"] != new.industries["43"]


@pytest.mark.parametrize("edition", EDITIONS)
def test_tables_are_well_formed(edition: str) -> None:
    known = tables(edition)
    for table, width in ((known.types, 3), (known.industries, 2), (known.networks, 1)):
        for key, meaning in table.items():
            ends = key.split("-")
            assert all(len(end) == width and end.isdigit() for end in ends), key
            assert ends == sorted(ends)
            assert meaning.en
            assert meaning.zh
    ranges = [key.split("-") for key in known.types if "-" in key]
    singles = [key for key in known.types if "-" not in key]
    assert not [code for code in singles for first, last in ranges if first <= code <= last]


def test_explain_speaks_two_languages() -> None:
    english = {part.name: part for part in GbId.parse(CAMERA).explain()}
    assert english["Type"].meaning == "Network camera (IPC)"
    assert (english["Network"].first, english["Network"].last) == (14, 14)
    chinese = [part.meaning for part in GbId.parse(CAMERA).explain(lang="zh")]
    assert chinese == ["江苏省", "社会治安路面接入", "网络摄像机（IPC）", "公安视频传输网", ""]
