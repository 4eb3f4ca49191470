"""Every finding code is complete in both languages, and some test produces it."""

import string
from pathlib import Path

import pytest

from secguard.core import catalogue, describe, finding, hint

TESTS = Path(__file__).parents[2]
CODES = list(catalogue())


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@pytest.mark.parametrize("code", CODES)
def test_entry(code):
    entry = catalogue()[code]
    assert code.count(".") >= 2, "a code is room.noun.problem"
    assert entry.en
    assert entry.zh
    assert bool(entry.hint_en) == bool(entry.hint_zh)
    assert any("\u4e00" <= c <= "\u9fff" for c in entry.zh)
    assert fields(entry.en) == fields(entry.zh), "both languages tell the same values"
    item = finding(code)
    for lang in ("en", "zh"):
        assert describe(item, lang)
        hint(item, lang)


def test_a_test_produces_each_code():
    text = "\n".join(p.read_text(encoding="utf-8") for p in TESTS.rglob("*.py") if p != Path(__file__))
    missing = [code for code in CODES if code not in text]
    assert not missing
