import re
from pathlib import Path

import pytest

from secguard.core import FormatError
from secguard.events import ALIASES, KINDS, SOURCE_KINDS, canonical_kind

DOCUMENT = Path(__file__).parents[3] / "docs" / "events.md"


def test_a_kind_is_noun_and_verb_with_a_meaning() -> None:
    for kind, meaning in KINDS.items():
        assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", kind)
        assert meaning


def test_aliases_lead_to_kinds_that_a_source_may_report() -> None:
    assert not ALIASES.keys() & KINDS.keys()
    assert set(ALIASES.values()) <= SOURCE_KINDS <= KINDS.keys()


def test_long_acts_have_both_ends() -> None:
    nouns = {kind.partition(".")[0] for kind in KINDS if kind.endswith(".started")}
    assert nouns
    for noun in nouns:
        assert {f"{noun}.finished", f"{noun}.failed"} <= KINDS.keys()


def test_words_are_mapped_or_refused_with_a_hint() -> None:
    assert canonical_kind("video.viewed") == "video.viewed"
    assert canonical_kind("camera.ptz") == "camera.controlled"
    with pytest.raises(FormatError) as near:
        canonical_kind("video.veiwed")
    assert "video.viewed" in near.value.hint
    with pytest.raises(FormatError) as far:
        canonical_kind("x" * 10_000)
    assert "docs/events.md" in far.value.hint
    assert len(far.value.message) < 100


def test_the_document_lists_exactly_the_kinds_and_aliases() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z.-]+)` \| ([^|]+?) \|", text, re.MULTILINE))
    assert {kind: meaning for kind, meaning in rows.items() if kind in KINDS} == KINDS
    assert {word: target.strip("`") for word, target in rows.items() if word in ALIASES} == ALIASES
    assert rows.keys() == KINDS.keys() | ALIASES.keys()
    marked = set(re.findall(r"^\| `([a-z.-]+)` \| [^|]+ \| yes \|", text, re.MULTILINE))
    assert marked == SOURCE_KINDS
