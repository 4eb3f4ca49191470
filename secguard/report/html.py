"""A report as one HTML file: inline style, no scripts, nothing loaded; one language, or both behind a switch.

Everything from outside passes `_Page.escape`; a policy in the head forbids scripts and loading besides.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from html import escape
from importlib.resources import files

from secguard import __version__
from secguard.core.findings import describe, hint
from secguard.core.verdict import Finding, Outcome
from secguard.report import svg
from secguard.report.model import (
    BarPlot,
    Cell,
    Code,
    Facts,
    Findings,
    Group,
    LinePlot,
    Matrix,
    Paragraph,
    Pictures,
    Proven,
    Report,
    Section,
    Table,
    Text,
    Timeline,
    Value,
    Words,
)
from secguard.report.words import AXES, LABELS, NOT_RUN, OUTCOMES, clean, number, pick, times

__all__ = ["MAX_ROWS", "render_html"]

MAX_ROWS = 5000
"""Rows of a table, bars of a timeline and findings that are written out; the rest is counted."""

_MANY_SECTIONS = 5
_LONG_CODE = 24
_WIDE_TEXT = 36
_SHORT_TEXT = 24
_TAGS = {"en": "en", "zh": "zh-CN"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_BRAND = (
    '<svg viewBox="0 0 18 20" aria-hidden="true" focusable="false"><path d="M9 1l7.5 2.8v5.7c0 4.7-3.2 8-7.5 9.5'
    '-4.3-1.5-7.5-4.8-7.5-9.5V3.8z"/><path d="M5.5 9.8l2.6 2.6 4.4-4.9"/></svg>'
)


@cache
def _style() -> str:
    return (files("secguard.report") / "style.css").read_text(encoding="utf-8")


def render_html(report: Report, lang: str = "en") -> str:
    """The report as HTML5 text.

    Args:
        report: what to show.
        lang: `en`, `zh`, or `both` (one file, a switch without scripts; English first).
    """
    return _Page(lang).document(report)


class _Page:
    def __init__(self, lang: str) -> None:
        self._lang = lang
        self._count = 0

    # --- texts ---------------------------------------------------------------------------------------------------

    @staticmethod
    def escape(text: str) -> str:
        return escape(clean(text), quote=True)

    def text(self, words: Words, tag: str = "span") -> str:
        """Words as HTML: one language, or both in spans of which the style shows one."""
        if isinstance(words, str):
            return self.escape(words)
        if self._lang != "both" or words.en == words.zh:
            return self.escape(pick(words, self._lang))
        return (
            f'<{tag} class="en" lang="en">{self.escape(words.en)}</{tag}>'
            f'<{tag} class="zh" lang="zh-CN">{self.escape(words.zh)}</{tag}>'
        )

    def svg_text(self, words: Words) -> str:
        return self.text(words, "tspan")

    def attribute(self, words: Words) -> str:
        """Words for places that hold no markup (attributes, titles)."""
        return self.escape(pick(words, self._lang))

    def label(self, key: str) -> str:
        return self.text(LABELS[key])

    def badge(self, outcome: Outcome | None, words: Words | None = None) -> str:
        shown = words or (OUTCOMES[outcome] if outcome is not None else NOT_RUN)
        return f'<span class="badge {svg.name(outcome)}">{svg.icon(outcome)}{self.text(shown)}</span>'

    def value(self, value: Value) -> str:
        if value is None or value == "":
            return '<span class="calm">–</span>'
        if isinstance(value, Outcome):
            return self.badge(value)
        if isinstance(value, Text) and value in (NOT_RUN, LABELS["not-examined"]):
            return self.badge(None, value)
        if isinstance(value, Code):
            kind = "code long" if len(value.value) > _LONG_CODE else "code"
            return f'<code class="{kind}">{self.escape(value.value)}</code>'
        if isinstance(value, datetime):
            return f'<span class="tight">{self.escape(times(value))}</span>'
        if isinstance(value, int | float):
            return self.escape(number(value))
        return self.text(value)

    # --- the document --------------------------------------------------------------------------------------------

    def document(self, report: Report) -> str:
        both = self._lang == "both"
        inputs = switch = ""
        if both:
            inputs = "".join(
                f'<input class="sr" type="radio" name="lang" id="lang-{key}" aria-label="{word}"{checked}>'
                for key, word, checked in (("en", "English", " checked"), ("zh", "中文", ""))
            )
            switch = (
                '<div class="switch"><label for="lang-en" lang="en">English</label>'
                '<label for="lang-zh" lang="zh-CN">中文</label></div>'
            )
        shown = [item for item in report.sections if not (isinstance(item, Table) and item.export)]
        sections = [self.section(index, item) for index, item in enumerate(shown)]
        tool = self.text(_format(LABELS["tool"], version=__version__))
        made = self.text(_format(LABELS["made-at"], time=times(report.made))) if report.made else ""
        if report.at is not None:
            made = self.text(_format(LABELS["judged-for"], time=times(report.at))) + made
        return (
            f'<!doctype html>\n<html lang="{_TAGS.get(self._lang, "en")}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n'
            f"<title>{self.attribute(report.title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n{inputs}"
            f'<div class="page">\n{svg.PATTERNS}\n<header class="lead">\n<div class="mast">'
            f'<div class="brand">{_BRAND}secguard</div>{switch}</div>\n{self.head(report)}</header>\n'
            f"{self.contents(shown)}<main>\n{''.join(sections)}</main>\n"
            f"<footer>{made}{tool}{self.label('offline')}</footer>\n</div>\n</body>\n</html>\n"
        )

    def head(self, report: Report) -> str:
        parts = [f"<h1>{self.text(report.title)}</h1>\n"]
        if report.subject:
            parts.append(f'<p class="subject">{self.value(report.subject)}</p>\n')
        if report.outcome is not None:
            summary = f"<p>{self.text(report.summary)}</p>" if report.summary else ""
            parts.append(
                f'<div class="verdict {report.outcome.value}">{svg.icon(report.outcome)}<div>'
                f'<h2><span class="sr">{self.label("verdict")}{self.label("colon")}</span>'
                f"{self.text(OUTCOMES[report.outcome])}</h2>"
                f"{summary}</div></div>\n"
            )
        elif report.summary:
            parts.append(f'<p class="summary">{self.text(report.summary)}</p>\n')
        if report.axes:
            parts.append(f'<ul class="axes" aria-label="{self.attribute(LABELS["axes"])}">')
            for axis, outcome in report.axes.items():
                aside = report.required and axis not in report.required
                note = f"<small>{self.label('not-deciding')}</small>" if aside else ""
                parts.append(f"<li><span>{self.text(AXES[axis])}</span>{self.badge(outcome)}{note}</li>")
            parts.append("</ul>\n")
        if report.narrowed:
            names = Text(*(", ".join(getattr(AXES[a], key) for a in sorted(report.required)) for key in ("en", "zh")))
            words = LABELS["narrowed"]
            both = Text(words.en.format(axes=names.en), words.zh.format(axes=names.zh))
            parts.append(f'<p class="note">{self.text(both)}</p>\n')
        if report.facts:
            parts.append(self.facts(report.facts))
        return "".join(parts)

    def contents(self, sections: Sequence[Section]) -> str:
        titled = [(index, item.title) for index, item in enumerate(sections) if item.title]
        if len(titled) < _MANY_SECTIONS:
            return ""
        links = "".join(f'<li><a href="#s{index}">{self.text(title)}</a></li>' for index, title in titled)
        return f'<nav aria-label="{self.attribute(LABELS["contents"])}"><ol>{links}</ol></nav>\n'

    def section(self, index: int, item: Section) -> str:
        draw: dict[type, Callable[..., str]] = {
            Paragraph: self.paragraph,
            Facts: lambda it: self.facts(it.rows),
            Table: self.table,
            Matrix: self.matrix,
            Timeline: self.timeline,
            Findings: self.findings,
            BarPlot: self.bar_plot,
            LinePlot: self.line_plot,
            Proven: self.proven,
            Pictures: self.pictures,
        }
        kind = type(item).__name__.lower()
        heading = f"<h2>{self.text(item.title)}</h2>\n" if item.title else ""
        note = getattr(item, "note", "")
        said = f'<p class="note">{self.text(note)}</p>\n' if note else ""
        return f'<section id="s{index}" class="{kind}">\n{heading}{said}{draw[type(item)](item)}</section>\n'

    # --- sections ------------------------------------------------------------------------------------------------

    def paragraph(self, item: Paragraph) -> str:
        return "".join(f"<p>{self.text(line)}</p>\n" for line in item.lines)

    def facts(self, rows: Sequence[tuple[Words, Value]]) -> str:
        body = "".join(f"<dt>{self.text(name)}</dt><dd>{self.value(value)}</dd>" for name, value in rows)
        return f"<dl>{body}</dl>\n"

    def grid(self, title: Words, columns: Sequence[Words], rows: Sequence[Sequence[Value]]) -> str:
        """A table in its own scrolling frame; columns of numbers are set flush right."""
        shown = rows[:MAX_ROWS]
        kinds = []
        for place in range(len(columns)):
            cells = [row[place] for row in shown if place < len(row) and row[place] is not None]
            if cells and all(isinstance(cell, int | float) for cell in cells):
                kinds.append(' class="num"')
            else:
                longest = max((len(pick(cell, "en")) for cell in cells if isinstance(cell, str | Text)), default=0)
                kinds.append(
                    ' class="wide"' if longest > _WIDE_TEXT else ' class="tight"' if longest <= _SHORT_TEXT else ""
                )
        heads = "".join(
            f'<th scope="col"{kind if "num" in kind else ""}>{self.text(column)}</th>'
            for column, kind in zip(columns, kinds, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td{kind}>{self.value(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
            + "</tr>"
            for row in shown
        )
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{self.attribute(title)}"><table>'
            f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>\n"
        )

    def table(self, item: Table) -> str:
        total = item.total if item.total is not None else len(item.rows)
        shown = min(len(item.rows), MAX_ROWS)
        return self.grid(item.title, item.columns, item.rows) + self.more(shown, total)

    def more(self, shown: int, total: int) -> str:
        if total <= shown:
            return ""
        words = _format(LABELS["more"], shown=number(shown), total=number(total))
        return f'<p class="note">{self.text(words)}</p>\n'

    def matrix(self, item: Matrix) -> str:
        self._count += 1
        prefix = f"m{self._count}"
        heads = "".join(f'<th scope="col">{self.text(column)}</th>' for column in item.columns)
        axes = [self.text(words) for words in (item.row_axis, item.column_axis) if words]
        corner = f'<td class="corner none"><div>{" → ".join(axes)}</div></td>'
        body = []
        for r, row in enumerate(item.rows):
            cells = "".join(self.cell(item.cells.get((r, c)), f"{prefix}-{r}-{c}") for c in range(len(item.columns)))
            body.append(f'<tr><th scope="row">{self.text(row)}</th>{cells}</tr>')
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{self.attribute(item.title)}"><table>'
            f"<thead><tr>{corner}{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>\n"
            f"{self.cases(item, prefix)}"
        )

    def cell(self, cell: Cell | None, anchor: str) -> str:
        if cell is None:
            return '<td class="none"><div>–</div></td>'
        label = f"<small>{self.text(cell.label)}</small>" if cell.label else ""
        word = LABELS["not-tested"] if cell.outcome is None else None
        inner = self.badge(cell.outcome, word) + label
        holder = f'<a href="#{anchor}">{inner}</a>' if cell.details or cell.groups else f"<div>{inner}</div>"
        return f'<td class="{svg.name(cell.outcome)}">{holder}</td>'

    def cases(self, item: Matrix, prefix: str) -> str:
        """What lies behind each cell: first what did not pass. Boxes above hide what one does not look for."""
        parts = []
        found = [entry for entry in sorted(item.cells.items()) if entry[1].details or entry[1].groups]
        for (r, c), cell in sorted(found, key=lambda entry: entry[1].outcome is Outcome.PASS):
            lines = "".join(f"<li>{self.text(line)}</li>" for line in cell.details[:MAX_ROWS])
            # What holds whole tables is opened by a click on its cell.
            state = " open" if cell.outcome is not Outcome.PASS and not cell.groups else ""
            word = LABELS["not-tested"] if cell.outcome is None else None
            # The mark lies inside: a browser that is sent to it opens what is around it.
            parts.append(
                f'<details class="{svg.name(cell.outcome)}"{state}>'
                f"<summary><strong>{self.text(item.rows[r])} → "
                f"{self.text(item.columns[c])}</strong>{self.badge(cell.outcome, word)}</summary>"
                f'<div class="at" id="{prefix}-{r}-{c}"></div>'
                f"<ul>{lines}</ul>{self.groups(cell.groups)}</details>"
            )
        if not parts:
            return ""
        kinds = [group.outcome for _, cell in found for group in cell.groups]
        boxes = self.boxes([*kinds, *(cell.outcome for _, cell in found)], prefix) if kinds else ""
        wide = " wide" if kinds else ""
        return f'{boxes}<div class="cases{wide}">{"".join(parts)}</div>\n'

    def boxes(self, outcomes: Sequence[Outcome | None], prefix: str) -> str:
        """Check boxes that hide, by style alone, what passed, failed or is inconclusive."""
        inputs, labels = [], []
        for outcome in (outcome for outcome in Outcome if outcome in outcomes):
            name = f"{prefix}-{outcome.value}"
            inputs.append(f'<input class="sr show-{outcome.value}" type="checkbox" id="{name}" checked>')
            labels.append(f'<label for="{name}">{self.badge(outcome)}</label>')
        return f'{"".join(inputs)}<div class="boxes">{self.label("show")}{"".join(labels)}</div>'

    def groups(self, groups: Sequence[Group]) -> str:
        """Groups of a cell; those that passed in one table, when they are several of the same columns."""
        passed = [group for group in groups if group.outcome is Outcome.PASS]
        if len(passed) > 1 and all(group.columns == passed[0].columns for group in passed):
            merged = Group(
                title=Text(f"{len(passed)} others", f"其余 {len(passed)} 项"),
                outcome=Outcome.PASS,
                columns=["", *passed[0].columns],
                rows=[[group.title, *row] for group in passed for row in group.rows],
            )
            groups = [*(group for group in groups if group.outcome is not Outcome.PASS), merged]
        return "".join(map(self.group, groups))

    def group(self, group: Group) -> str:
        state = " open" if group.outcome is not Outcome.PASS else ""
        label = f"<small>{self.text(group.label)}</small>" if group.label else ""
        grid = ""
        if group.rows:
            grid = self.grid(group.title, group.columns, group.rows)
            grid += self.more(min(len(group.rows), MAX_ROWS), len(group.rows))
        word = LABELS["not-tested"] if group.outcome is None else None
        return (
            f'<details class="group {svg.name(group.outcome)}"{state}><summary><span>{self.text(group.title)}</span>'
            f"{self.badge(group.outcome, word)}{label}</summary>{grid}</details>"
        )

    def timeline(self, item: Timeline) -> str:
        present = list(dict.fromkeys(svg.name(bar.outcome) for bar in item.bars))
        legend = "".join(
            f'<li><svg width="22" height="14" aria-hidden="true"><rect class="bar {key}" width="22" height="14"/>'
            f"</svg>{self.text(words)}</li>"
            for key, words in (
                *((outcome.value, words) for outcome, words in OUTCOMES.items()),
                ("none", LABELS["not-examined"]),
            )
            if key in present
        )
        rows = [
            (
                bar.label,
                round(float(bar.start), 3),
                round(float(bar.stop), 3),
                bar.outcome or LABELS["not-examined"],
                bar.detail,
            )
            for bar in item.bars[:MAX_ROWS]
        ]
        unit = pick(item.unit, "en")
        columns = [
            LABELS["name"],
            Text(f"Start ({unit})", f"起（{unit}）"),
            Text(f"Stop ({unit})", f"止（{unit}）"),
            LABELS["outcome"],
            LABELS["detail"],
        ]
        picture = svg.render_timeline(item, self.svg_text, self.attribute)
        return (
            f'<ul class="legend">{legend}</ul>{picture}<details class="bars"><summary>{self.label("bars")}</summary>'
            f"{self.grid(item.title, columns, rows)}{self.more(len(rows), len(item.bars))}</details>\n"
        )

    def pictures(self, item: Pictures) -> str:
        figures = []
        for picture in item.items:
            name = self.attribute(picture.caption)
            shown = (
                f'<img alt="{name}" src="data:image/jpeg;base64,{b64encode(picture.jpeg).decode("ascii")}">'
                if picture.jpeg
                else '<div class="blank"></div>'
            )
            note = f"<small>{self.text(picture.note)}</small>" if picture.note else ""
            figures.append(
                f'<figure class="{svg.name(picture.outcome)}">{shown}<figcaption>{svg.icon(picture.outcome)}'
                f"<span>{self.text(picture.caption)}{note}</span></figcaption></figure>"
            )
        return f'<div class="stills">{"".join(figures)}</div>\n'

    def findings(self, item: Findings) -> str:
        if not item.findings:
            return f'<p class="calm">{self.label("none")}</p>\n'
        order = {Outcome.FAIL: 0, Outcome.UNKNOWN: 1, Outcome.PASS: 2}
        chosen = sorted(item.findings, key=lambda found: order[found.outcome])[:MAX_ROWS]
        body = "".join(self.finding(found) for found in chosen)
        return f'<ul class="found">{body}</ul>\n{self.more(len(chosen), len(item.findings))}'

    def finding(self, found: Finding) -> str:
        what = Text(describe(found, "en"), describe(found, "zh"))
        advice = Text(hint(found, "en"), hint(found, "zh"))
        where = f"<span>{self.escape(found.where)}</span>" if found.where else ""
        tip = f'<p class="hint">{self.label("hint")}{self.text(advice)}</p>' if pick(advice, "en") else ""
        return (
            f'<li class="{found.outcome.value}"><div class="meta">{self.badge(found.outcome)}'
            f"<span>{self.text(AXES[found.axis])}</span>{where}<code>{self.escape(found.code)}</code></div>"
            f'<p class="what">{self.text(what)}</p>{tip}</li>'
        )

    def bar_plot(self, item: BarPlot) -> str:
        return svg.render_bars(item, self.text, self.attribute) + "\n"

    def line_plot(self, item: LinePlot) -> str:
        legend = "".join(
            f'<li><svg width="26" height="10" aria-hidden="true"><g class="series s{index % 4}">'
            f'<path class="line" d="M1 5h24"/></g></svg>{self.text(series.name)}</li>'
            for index, series in enumerate(item.series)
        )
        label = f'<p class="note">{self.text(item.y_label)}</p>' if item.y_label else ""
        picture = svg.render_lines(item, self.svg_text, self.attribute)
        return (
            f'<ul class="legend">{legend}</ul>{label}<div class="scroll plotbox" role="region" tabindex="0" '
            f'aria-label="{self.attribute(item.title)}">{picture}</div>\n'
        )

    def proven(self, item: Proven) -> str:
        columns = [LABELS["claim"], LABELS["outcome"], LABELS["evidence"]]
        rows = [(proof.claim, proof.outcome or NOT_RUN, proof.evidence) for proof in item.proofs]
        return self.grid(item.title, columns, rows)


def _format(words: Text, **values: str) -> Text:
    return Text(words.en.format(**values), words.zh.format(**values))
