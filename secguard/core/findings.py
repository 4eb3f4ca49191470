"""The findings catalogue: one entry a code, with its axis, usual outcome, English and Chinese text, and a hint.

The entries live in `catalogue/<room>.toml`; the first part of a code names the file. A code is never reused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from secguard.core.verdict import Axis, Finding, Outcome

__all__ = ["CatalogueEntry", "catalogue", "describe", "finding", "hint"]


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What the catalogue knows of a code; texts are `str.format` templates over `Finding.data`."""

    axis: Axis
    outcome: Outcome
    en: str
    zh: str
    hint_en: str
    hint_zh: str


@cache
def _room(name: str) -> dict[str, CatalogueEntry]:
    import tomllib  # only when a finding is made

    source = files("secguard.core") / "catalogue" / f"{name}.toml"
    table = tomllib.loads(source.read_text(encoding="utf-8"))
    return {
        code: CatalogueEntry(**{**entry, "axis": Axis(entry["axis"]), "outcome": Outcome(entry["outcome"])})
        for code, entry in table.items()
    }


@cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """All entries of all rooms, by code, sorted."""
    names = sorted(p.name.removesuffix(".toml") for p in (files("secguard.core") / "catalogue").iterdir())
    return dict(sorted((code, entry) for name in names for code, entry in _room(name).items()))


def finding(code: str, where: str = "", *, outcome: Outcome | None = None, **data: Any) -> Finding:
    """Make a finding from its catalogue entry.

    Args:
        code: a code of the catalogue.
        where: place in the subject.
        outcome: replaces the entry's usual outcome.
        data: values for the entry's texts; JSON-serialisable. `{"en": ..., "zh": ...}` is a word in both languages.

    Raises:
        KeyError: if the code is not in the catalogue (a programming error).
    """
    entry = _room(code.partition(".")[0])[code]
    return Finding(code, entry.axis, outcome or entry.outcome, where, data)


class _Lenient(dict[str, Any]):
    """Values for a text: one that has words for both languages gives those of the text's own."""

    def __init__(self, data: Mapping[str, Any], lang: str) -> None:
        super().__init__(
            (key, value[lang] if isinstance(value, dict) and value.keys() == {"en", "zh"} else value)
            for key, value in data.items()
        )

    def __missing__(self, key: str) -> str:
        return f"<{key}>"


def describe(item: Finding, lang: str = "en") -> str:
    """The finding's sentence in `en` or `zh`."""
    entry = _room(item.code.partition(".")[0])[item.code]
    return (entry.zh if lang == "zh" else entry.en).format_map(_Lenient(item.data, "zh" if lang == "zh" else "en"))


def hint(item: Finding, lang: str = "en") -> str:
    """What to do about the finding, in `en` or `zh`; may be empty."""
    entry = _room(item.code.partition(".")[0])[item.code]
    return (entry.hint_zh if lang == "zh" else entry.hint_en).format_map(
        _Lenient(item.data, "zh" if lang == "zh" else "en")
    )
