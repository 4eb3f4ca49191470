"""A report as CSV (RFC 4180) for spreadsheets: UTF-8 with a byte order mark, and no cell that runs as a formula."""

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TextIO

from secguard.core.findings import describe, hint
from secguard.report.model import (
    BarPlot,
    Facts,
    Findings,
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
from secguard.report.words import AXES, LABELS, NOT_RUN, pick, plain

__all__ = ["csv_cell", "render_csv", "write_csv"]

# What spreadsheets take for the start of a formula or command, ASCII and full-width.
_TRIGGERS = frozenset("=+-@\t\r\n|%＝＋－＠")
_BLANKS = " \t\r\n\v\f\u00a0\u3000"

Rows = Iterable[Sequence[Value]]


def csv_cell(value: Value, lang: str = "en") -> str:
    """A cell's text; a text that a spreadsheet could run gets an apostrophe in front. Numbers stay numbers."""
    text = plain(value, lang)
    if isinstance(value, int | float) or not text:
        return text
    bare = text.lstrip(_BLANKS)
    if text[0] in _TRIGGERS or (bare and bare[0] in _TRIGGERS):
        return f"'{text}"
    return text


def write_csv(stream: TextIO, columns: Sequence[Words], rows: Rows, lang: str = "en") -> None:
    """Write one table: heads, then rows; the stream must have been opened with `newline=""`."""
    writer = csv.writer(stream)
    writer.writerow([csv_cell(column, lang) for column in columns])
    for row in rows:
        writer.writerow([csv_cell(cell, lang) for cell in row])


def render_csv(report: Report, lang: str = "en") -> str:
    """The report as CSV: a lone table as it is; otherwise block after block, each under its title."""
    stream = StringIO(newline="")
    sections = [item for item in report.sections if not (isinstance(item, Findings) and not item.findings)]
    if len(sections) == 1 and isinstance(sections[0], Table) and report.outcome is None:
        write_csv(stream, sections[0].columns, sections[0].rows, lang)
        return stream.getvalue()
    writer = csv.writer(stream)
    blocks = [_head(report), *(_block(item) for item in sections)]
    for index, (title, columns, rows) in enumerate(blocks):
        if index:
            writer.writerow([])
        if title:
            writer.writerow([csv_cell(title, lang)])
        write_csv(stream, columns, rows, lang)
    return stream.getvalue()


def _head(report: Report) -> tuple[Words, Sequence[Words], Rows]:
    rows: list[Sequence[Value]] = []
    if report.subject:
        rows.append((Text("Subject", "对象"), report.subject))
    if report.outcome is not None:
        rows.append((LABELS["outcome"], report.outcome))
    if report.summary:
        rows.append((LABELS["summary"], report.summary))
    rows.extend((AXES[axis], outcome) for axis, outcome in report.axes.items())
    rows.extend(report.facts)
    if report.at is not None:
        rows.append((LABELS["judged"], report.at))
    if report.made is not None:
        rows.append((LABELS["made"], report.made))
    return report.title, (LABELS["name"], LABELS["value"]), rows


def _block(item: Section) -> tuple[Words, Sequence[Words], Rows]:
    heads: Sequence[Words]
    name, value, outcome, detail = LABELS["name"], LABELS["value"], LABELS["outcome"], LABELS["detail"]
    match item:
        case Paragraph():
            return item.title, (LABELS["text"],), [(line,) for line in item.lines]
        case Pictures():
            return item.title, (name, detail), [(picture.caption, picture.note) for picture in item.items]
        case Facts():
            return item.title, (name, value), item.rows
        case Table():
            return item.title, item.columns, item.rows
        case Matrix():
            heads = (item.row_axis or LABELS["row"], item.column_axis or LABELS["column"], outcome, name, detail)
            cells = sorted(item.cells.items())
            return (
                item.title,
                heads,
                [
                    (
                        item.rows[r],
                        item.columns[c],
                        cell.outcome or LABELS["not-tested"],
                        cell.label,
                        _joined(cell.details),
                    )
                    for (r, c), cell in cells
                ],
            )
        case Timeline():
            heads = (name, LABELS["start"], LABELS["stop"], outcome, detail)
            return (
                item.title,
                heads,
                [
                    (bar.label, bar.start, bar.stop, bar.outcome or LABELS["not-examined"], bar.detail)
                    for bar in item.bars
                ],
            )
        case Findings():
            heads = (outcome, LABELS["axis"], LABELS["code"], LABELS["place"], LABELS["text"], LABELS["advice"])
            return (
                item.title,
                heads,
                [
                    (
                        found.outcome,
                        AXES[found.axis],
                        found.code,
                        found.where,
                        Text(describe(found, "en"), describe(found, "zh")),
                        Text(hint(found, "en"), hint(found, "zh")),
                    )
                    for found in item.findings
                ],
            )
        case BarPlot():
            return item.title, (name, item.unit or value), item.items
        case LinePlot():
            heads = (name, item.x_label or "x", item.y_label or "y")
            return item.title, heads, [(line.name, _x(item, x), y) for line in item.series for x, y in line.points]
        case Proven():
            heads = (LABELS["claim"], outcome, LABELS["evidence"])
            return item.title, heads, [(proof.claim, proof.outcome or NOT_RUN, proof.evidence) for proof in item.proofs]


def _x(plot: LinePlot, x: float) -> Value:
    if plot.x_names and x == int(x) and 0 <= x < len(plot.x_names):
        return plot.x_names[int(x)]
    return x


def _joined(lines: Sequence[Words]) -> Text:
    return Text("; ".join(pick(line, "en") for line in lines), "；".join(pick(line, "zh") for line in lines))
