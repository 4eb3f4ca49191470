"""Words of a text as the index keeps them: Latin words whole, Chinese as overlapping pairs.

A run of n Chinese characters becomes n words: each character with its successor, and the last one alone. So every
character starts exactly one word, and a search needs no dictionary: two characters are one word, more are a phrase of
pairs, and a single character is the beginning of a word. The same words feed SQLite (FTS5 with the tokenizer `ascii`,
which splits at spaces and keeps every other character as it is) and, later, Elasticsearch (analyzer `whitespace`).
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from operator import add
from typing import Any, NamedTuple

__all__ = [
    "GAP",
    "Phrase",
    "document",
    "document_of",
    "joined",
    "person_of",
    "phrase_of",
    "unfit",
    "without",
    "words_of",
]

GAP = "\u241f"
"""A word that no search can name; it stands between two fields, so that no phrase reaches across."""
_BETWEEN = f" {GAP} "

# Han with its extensions, kana, bopomofo and Hangul: scripts written without spaces, or searched inside words.
_CJK = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
# FTS5 cuts words at 32768 bytes; ours end at 128 characters, and the rest is the next word.
_RUN = re.compile(rf"([{_CJK}]+)|([^\W_{_CJK}]{{1,128}})")
_ASCII_RUN = re.compile(r"[a-z0-9]{1,128}")


class Phrase(NamedTuple):
    """Words that must follow each other; with `prefix`, the last one may go on."""

    words: tuple[str, ...]
    prefix: bool

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return " ".join(self.words)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def words_of(text: str) -> list[str]:
    """The words of a text, in order; width (NFKC) and case are folded."""
    if text.isascii():
        return _ASCII_RUN.findall(text.lower())
    found: list[str] = []
    for chinese, word in _RUN.findall(_fold(text)):
        if chinese:
            found.extend(map(add, chinese, chinese[1:]))
            found.append(chinese[-1])
        else:
            found.append(word)
    return found


def _joined(text: str) -> str:
    return " ".join(words_of(text))


# Names, cameras and reasons repeat: most fields of most events are found here, at a twentieth of the cost.
_remembered = lru_cache(maxsize=1 << 15)(_joined)
_SHORT = 64


def document_of(text: str) -> str:
    """The words of one field as one string."""
    if len(text) > _SHORT:
        return _joined(text)
    if text.isascii() and text.isalnum():  # a number, an ID: one word
        return text.lower()
    return _remembered(text)


@lru_cache(maxsize=1 << 14)
def person_of(*fields: str) -> str:
    """The words of the fields that say who acted: they repeat together."""
    return document(fields)


def document(values: Iterable[Any], before: str = "") -> str:
    """The words of several fields as one string, a gap between the fields.

    Args:
        values: the fields: texts, and what JSON holds beside; numbers are words, the values of objects and arrays are
            fields of their own, true, false and null say nothing.
        before: words of earlier fields, joined already.
    """
    fields = [before] if before else []
    _add_fields(values, fields)
    return _BETWEEN.join(fields)


def _add_fields(values: Iterable[Any], fields: list[str]) -> None:
    for value in values:
        kind = type(value)  # a decoder makes these very types, no subclasses
        if kind is str:
            text = value
        elif kind is int or kind is float:
            text = str(value)
        else:
            if kind is dict:
                _add_fields(value.values(), fields)
            elif kind is list:
                _add_fields(value, fields)
            continue
        if text.isascii() and len(text) <= _SHORT and text.isalnum():  # as in `document_of`, without the call
            fields.append(text.lower())
        elif found := _remembered(text) if len(text) <= _SHORT else _joined(text):
            fields.append(found)


def joined(before: str, after: str) -> str:
    """The words of earlier fields and of later ones as one string."""
    return f"{before}{_BETWEEN}{after}" if before and after else before or after


def without(text: str, before: str) -> str:
    """What `joined` was given after `before`; `unfit` if it was given no `before`."""
    if not before:
        return text
    if text == before:
        return ""
    after = text.removeprefix(before + _BETWEEN)
    return after if after and after != text else unfit(text)


def unfit(text: str) -> str:
    """A text that does not begin as it should, as something that no document is."""
    return f"{GAP} {text}"


def phrase_of(text: str, *, prefix: bool = False) -> Phrase | None:
    """What to look for to find `text`; None if it holds nothing that is indexed.

    A phrase that ends in Chinese also finds longer words (`摄像` finds `摄像机`); one that ends in a Latin word only
    with `prefix`.
    """
    runs = _RUN.findall(_fold(text))
    if not runs:
        return None
    words = words_of(text)
    last = runs[-1][0]
    if len(last) > 1:
        words.pop()  # the document's run may go on here, so its last character need not stand alone
    return Phrase(tuple(words), prefix or len(last) == 1)
