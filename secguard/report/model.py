"""What a report is made of: plain frozen data, filled by the rooms above and drawn by `html`, `tables` and `junit`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from secguard.core.verdict import Axis, Finding, Outcome, Verdict

__all__ = [
    "Bar",
    "BarPlot",
    "Cell",
    "Code",
    "Facts",
    "Findings",
    "Group",
    "LinePlot",
    "Matrix",
    "Paragraph",
    "Picture",
    "Pictures",
    "Proof",
    "Proven",
    "Report",
    "Section",
    "Series",
    "Table",
    "Text",
    "Timeline",
    "Value",
    "Words",
]


@dataclass(frozen=True, slots=True)
class Text:
    """The same words in English and Chinese."""

    en: str
    zh: str


@dataclass(frozen=True, slots=True)
class Code:
    """An identifier, digest, file name or command: set in a fixed pitch and breakable anywhere."""

    value: str


Words = str | Text
"""A text of one language (shown in every language), or of both."""

Value = Words | Code | Outcome | datetime | int | float | None
"""What a table cell or a fact may hold; None is shown as a dash, an outcome as its badge."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Prose, under its own heading when `title` is given; `lines` are separate paragraphs."""

    lines: Sequence[Words]
    title: Words = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and their values."""

    title: Words
    rows: Sequence[tuple[Words, Value]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column heads; on a narrow window it scrolls inside its own frame.

    Attributes:
        note: a sentence under the heading.
        total: how many rows there are when `rows` holds only the first of them.
        export: for CSV only: too long for people to read.
    """

    title: Words
    columns: Sequence[Words]
    rows: Sequence[Sequence[Value]]
    note: Words = ""
    total: int | None = None
    export: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """What was tested under one heading in a cell of a matrix, as rows of a table; a test case of its own in JUnit."""

    title: Words
    outcome: Outcome | None
    columns: Sequence[Words]
    rows: Sequence[Sequence[Value]]
    label: Words = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a matrix; `outcome` None means that it was not tested. Details and groups are listed below it."""

    outcome: Outcome | None
    label: Words = ""
    details: Sequence[Words] = ()
    groups: Sequence[Group] = ()


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows x columns of outcomes, for instance zones x zones; the details of each cell are listed below it.

    Attributes:
        rows: heads of the rows (`row_axis` names what they are).
        columns: heads of the columns.
        cells: by (row number, column number); a missing one is shown as a dash.
    """

    title: Words
    rows: Sequence[Words]
    columns: Sequence[Words]
    cells: Mapping[tuple[int, int], Cell]
    row_axis: Words = ""
    column_axis: Words = ""
    note: Words = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of a timeline, from `start` to `stop` in the timeline's unit; `outcome` None: not examined."""

    label: Words
    start: float
    stop: float
    outcome: Outcome | None
    detail: Words = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Bars along time, for instance one for each GOP of a video."""

    title: Words
    bars: Sequence[Bar]
    unit: Words = "s"
    note: Words = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """Findings of a verdict; their texts and hints come from the catalogue."""

    findings: Sequence[Finding]
    title: Words = field(default_factory=lambda: Text("Findings", "发现"))


@dataclass(frozen=True, slots=True)
class BarPlot:
    """Named quantities as horizontal bars from zero; negative and non-finite values are refused."""

    title: Words
    items: Sequence[tuple[Words, float]]
    unit: Words = ""
    note: Words = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot; points in ascending x."""

    name: Words
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class LinePlot:
    """Lines over a common x axis; `x_names` replaces the numbers 0, 1, 2, ... on it (days, hours)."""

    title: Words
    series: Sequence[Series]
    x_label: Words = ""
    y_label: Words = ""
    x_names: Sequence[str] = ()
    note: Words = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """A claim, whether it was shown, and by what; `outcome` None means that the step did not run."""

    claim: Words
    outcome: Outcome | None
    evidence: Words = ""


@dataclass(frozen=True, slots=True)
class Proven:
    """The table of what was proven."""

    proofs: Sequence[Proof]
    title: Words = field(default_factory=lambda: Text("What was proven", "已证明的事项"))


@dataclass(frozen=True, slots=True)
class Picture:
    """A still under its caption.

    Attributes:
        jpeg: the picture; empty if there is none to show, which `note` then explains.
        outcome: frames it.
    """

    caption: Words
    jpeg: bytes
    outcome: Outcome | None = None
    note: Words = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Stills, side by side."""

    title: Words
    items: Sequence[Picture]
    note: Words = ""


Section = Paragraph | Facts | Table | Matrix | Timeline | Findings | BarPlot | LinePlot | Proven | Pictures


@dataclass(frozen=True, slots=True)
class Report:
    """A document with a verdict at its head.

    Attributes:
        title: the heading.
        sections: the body, in order.
        subject: what it is about (a file, an ID, a case).
        outcome: the verdict's outcome; None for a report that judges nothing.
        summary: one sentence that says why.
        axes: outcome per axis.
        narrowed: the axes that decide were narrowed by the caller; the report says so.
        required: the axes that decide.
        facts: names and values right under the verdict.
        at: the time that was judged for, aware; None leaves it out.
        made: when it was made, aware; None leaves it out.
    """

    title: Words
    sections: Sequence[Section] = ()
    subject: Words | Code = ""
    outcome: Outcome | None = None
    summary: Words = ""
    axes: Mapping[Axis, Outcome] = field(default_factory=dict)
    required: frozenset[Axis] = frozenset()
    narrowed: bool = False
    facts: Sequence[tuple[Words, Value]] = ()
    at: datetime | None = None
    made: datetime | None = None

    @classmethod
    def of(cls, verdict: Verdict, title: Words, sections: Sequence[Section] = (), **values: Any) -> "Report":
        """A report on a verdict: its axes and outcome at the head, then `sections`, then its findings."""
        return cls(
            title=title,
            sections=(*sections, Findings(verdict.findings)),
            outcome=verdict.outcome,
            axes=verdict.axes,
            required=verdict.required,
            narrowed=verdict.narrowed,
            **{"subject": Code(verdict.subject), "at": verdict.at, **values},
        )
