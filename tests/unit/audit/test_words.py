import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.audit.index.words import GAP, document, phrase_of, words_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("摄像机", ["摄像", "像机", "机"]),
        ("查", ["查"]),
        ("GB28181国标", ["gb28181", "国标", "标"]),
        ("前门，后门", ["前门", "门", "后门", "门"]),
        ("ＡＢＣ　１２", ["abc", "12"]),
        ("case-2026_118", ["case", "2026", "118"]),
        ("カメラ", ["カメ", "メラ", "ラ"]),
        ("𠀀𠀁", ["𠀀𠀁", "𠀁"]),
        ("Straße", ["strasse"]),
        ("!?-…", []),
        ("a" * 130, ["a" * 128, "aa"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words_of(text) == expected


@given(st.text())
def test_words_hold_no_separator_and_ascii_is_no_special_case(text: str) -> None:
    words = words_of(text)
    assert all(word and not any(c.isspace() or c in "\"*\0'" for c in word) for word in words)
    assert GAP not in words
    assert words_of(text + "，") == words  # the same through the path for text beyond ASCII


def test_a_document_keeps_its_fields_apart() -> None:
    assert document(["张三", "", "!", "Li Si"]) == f"张三 三 {GAP} li si"


@pytest.mark.parametrize(
    ("text", "words", "prefix"),
    [
        ("查", ("查",), True),
        ("录像", ("录像",), False),
        ("摄像机", ("摄像", "像机"), False),
        ("录像 video", ("录像", "像", "video"), False),
        ("video录", ("video", "录"), True),
    ],
)
def test_phrases(text: str, words: tuple[str, ...], prefix: bool) -> None:
    assert phrase_of(text) == (words, prefix)
    assert phrase_of(" - ") is None


_chinese = st.text(alphabet="查看录像机前门张三", min_size=1)


@given(_chinese, st.text(alphabet="查看录像机前门张三 ，a1", max_size=60))
def test_chinese_words_of_any_length_are_found_as_substrings(word: str, text: str) -> None:
    phrase = phrase_of(word)
    assert phrase is not None
    found = f" {phrase.text}{'' if phrase.prefix else ' '}" in f" {document([text])} "
    assert found == (word in text)
