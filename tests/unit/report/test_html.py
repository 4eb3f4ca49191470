"""HTML: everything escaped, both languages, structure, contrast of the colours."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib.resources import files
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import Axis, Finding, Outcome, catalogue, judge
from secguard.report import (
    Bar,
    BarPlot,
    Cell,
    Code,
    Facts,
    Findings,
    LinePlot,
    Matrix,
    Paragraph,
    Proof,
    Proven,
    Report,
    Series,
    Table,
    Text,
    Timeline,
)
from secguard.report import html as module
from secguard.report.html import render_html
from secguard.report.svg import merge, ticks
from secguard.report.words import clean

NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
VOID = {"meta", "input", "br", "hr"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "div", "header", "h1", "h2", "h3", "p", "section", "main"),
    *("footer", "nav", "ol", "ul", "li", "a", "span", "small", "strong", "code", "dl", "dt", "dd", "table", "thead"),
    *("tbody", "tr", "th", "td", "details", "summary", "input", "label", "svg", "path", "circle", "rect", "line"),
    *("text", "tspan", "g", "defs", "pattern"),
}


class Check(HTMLParser):
    """Follows the open elements; fails on anything that escaping should have kept out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        assert not [name for name, _ in attrs if name.startswith("on")]
        for name, value in attrs:
            if name in {"href", "src"}:
                assert value
                assert value.startswith("#")
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def check(text: str) -> Check:
    parser = Check()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser


def full(words: str) -> Report:
    """A report that puts `words` into every place that takes a text."""
    found = Finding(next(iter(catalogue())), Axis.INTEGRITY, Outcome.FAIL, words, {"reason": words, "id": words})
    both = Text(words, words + "中")
    return Report(
        title=both,
        subject=Code(words),
        outcome=Outcome.FAIL,
        summary=both,
        axes={Axis.INTEGRITY: Outcome.FAIL, Axis.TIME: Outcome.UNKNOWN},
        required=frozenset({Axis.INTEGRITY}),
        narrowed=True,
        facts=[(both, Code(words)), (words, NOW)],
        made=NOW,
        sections=[
            Paragraph([both, words], title=words),
            Facts(both, [(both, words)]),
            Table(both, [both, words], [[words, Code(words)], [None, 3]], note=both, total=9),
            Matrix(
                both, [both], [both], {(0, 0): Cell(Outcome.UNKNOWN, both, [both])}, row_axis=both, column_axis=words
            ),
            Timeline(both, [Bar(both, 0, 2, Outcome.FAIL, both)], unit=both, note=both),
            Findings([found], both),
            BarPlot(both, [(both, 3.0)], unit=both),
            LinePlot(both, [Series(both, [(0, 1), (1, 2)])], both, both, [words, "b"]),
            Proven([Proof(both, None, both), Proof(words, Outcome.PASS)], both),
        ],
    )


@given(st.text(st.characters(), max_size=30), st.sampled_from(["en", "zh", "both"]))
def test_no_text_breaks_out(words: str, lang: str) -> None:
    parser = check(render_html(full(words), lang))
    assert clean(words).replace("\r", "") in "".join(parser.words).replace("\r", "")


@pytest.mark.parametrize(
    "words",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='alert(1)",
        "</style><script>alert(1)</script>",
        "</title><svg/onload=alert(1)>",
        "javascript:alert(1)",
        "&lt;b&gt; ]]> <!-- -->",
    ],
)
@pytest.mark.parametrize("lang", ["en", "zh", "both"])
def test_known_attacks_stay_text(words: str, lang: str) -> None:
    parser = check(render_html(full(words), lang))
    assert words in "".join(parser.words)


def test_hidden_characters_are_shown() -> None:
    assert clean("a\u202eb\x00c\ud800\ufeff") == "a<U+202E>b<U+0000>c<U+D800><U+FEFF>"
    assert clean("line\nnext\tcell 中文") == "line\nnext\tcell 中文"


def test_one_language_holds_no_other() -> None:
    report = Report(title=Text("Video", "视频"), sections=[Proven([Proof(Text("It is so", "确实如此"), Outcome.PASS)])])
    english, chinese, both = (render_html(report, lang) for lang in ("en", "zh", "both"))
    assert not re.search("[\u4e00-\u9fff]", english)
    assert 'lang="zh-CN"' in chinese
    assert "It is so" not in chinese
    assert "确实如此" in both
    assert "It is so" in both
    assert 'type="radio"' in both
    assert 'type="radio"' not in english


def test_structure_for_readers_of_all_kinds() -> None:
    parser = check(render_html(full("x"), "both"))
    tags = [tag for tag, _ in parser.seen]
    assert tags.count("h1") == 1
    assert "script" not in tags
    assert "main" in tags
    assert all(attrs.get("scope") in {"col", "row"} for tag, attrs in parser.seen if tag == "th")
    regions = [attrs for tag, attrs in parser.seen if attrs.get("role") in {"region", "img"}]
    assert regions
    assert all(attrs.get("aria-label") for attrs in regions)
    policy = [attrs["content"] for tag, attrs in parser.seen if attrs.get("http-equiv")]
    assert policy
    assert policy[0].startswith("default-src 'none'")
    ids = [attrs["id"] for _, attrs in parser.seen if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_outcome_is_said_in_words_and_shape() -> None:
    for outcome, word in ((Outcome.PASS, "Pass"), (Outcome.FAIL, "Fail"), (Outcome.UNKNOWN, "Inconclusive")):
        text = render_html(Report(title="t", outcome=outcome))
        assert word in "".join(check(text).words)
        assert f'class="icon {outcome.value}"' in text
    icons = {module.svg.icon(outcome) for outcome in (*Outcome, None)}
    assert len(icons) == 4


def test_report_of_a_verdict() -> None:
    code = next(iter(catalogue()))
    entry = catalogue()[code]
    found = Finding(code, entry.axis, Outcome.FAIL, "GOP 3")
    verdict = judge("clip.mp4", NOW, examined=[Axis.TIME], findings=[found], default=Axis, require=[entry.axis])
    text = render_html(Report.of(verdict, "Video", summary="s"))
    assert code in text
    assert "GOP 3" in text
    assert "Judged by these axes only" in text
    assert "Judged for 2026-11-23 01:30:00 UTC" in text


def test_long_tables_are_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 10)
    rows = [[f"row {index}"] for index in range(25)]
    text = render_html(Report(title="t", sections=[Table("r", ["c"], rows)]))
    assert "row 9<" in text
    assert "row 10<" not in text
    assert "10 of 25 rows" in text


def test_many_bars_are_joined_by_outcome() -> None:
    bars = [Bar(str(i), i, i + 1, Outcome.FAIL if i == 700 else Outcome.PASS) for i in range(2000)]
    joined = merge(bars)
    assert [(bar.outcome, count) for bar, count in joined] == [
        (Outcome.PASS, 700),
        (Outcome.FAIL, 1),
        (Outcome.PASS, 1299),
    ]
    assert (joined[0][0].start, joined[-1][0].stop) == (0, 2000)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    marks = ticks(low, low + span)
    assert 2 <= len(marks) <= 8
    slack = span * 1e-6
    assert all(low - slack <= mark <= low + span + slack for mark in marks)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_plots_refuse_what_they_cannot_show(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        render_html(Report(title="t", sections=[BarPlot("p", [("a", value)])]))


def test_empty_pictures_draw_nothing() -> None:
    report = Report(title="t", sections=[Timeline("a", []), LinePlot("b", []), BarPlot("c", []), Findings([])])
    assert "No findings." in "".join(check(render_html(report)).words)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(scheme: int) -> None:
    style = (files("secguard.report") / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", blocks[scheme]))
    pairs = [
        *product(("text", "muted", "accent", "pass", "fail", "unknown", "none"), ("bg", "panel")),
        *((name, f"{name}-bg") for name in ("pass", "fail", "unknown", "none")),
        *(("text", f"{name}-bg") for name in ("pass", "fail", "unknown")),
        *((f"s{index}", "bg") for index in range(4)),
    ]
    weak = {pair: _contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert not {pair: ratio for pair, ratio in weak.items() if ratio < 4.5}  # WCAG 2.2, 1.4.3 AA
