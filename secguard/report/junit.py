"""A report as JUnit XML for CI systems: fail is a failure, inconclusive an error, what did not run is skipped."""

from collections.abc import Iterator
from typing import NamedTuple

from secguard.core.findings import describe, hint
from secguard.core.verdict import Outcome
from secguard.report.model import Findings, Matrix, Proven, Report, Timeline, Words
from secguard.report.words import AXES, LABELS, clean, pick, plain

__all__ = ["render_junit"]

_ROWS = 100


class _Case(NamedTuple):
    group: str
    name: str
    outcome: Outcome | None
    message: str = ""
    kind: str = ""


def _cases(report: Report, lang: str) -> Iterator[_Case]:
    for axis, outcome in report.axes.items():
        yield _Case(pick(LABELS["axes"], lang), pick(AXES[axis], lang), outcome, kind=f"axis.{axis.value}")
    for item in report.sections:
        title = pick(item.title, lang)
        if isinstance(item, Matrix):
            for (r, c), cell in sorted(item.cells.items()):
                name = f"{pick(item.rows[r], lang)} → {pick(item.columns[c], lang)}"
                for group in cell.groups:
                    rows = [" ".join(filter(None, (plain(value, lang) for value in row))) for row in group.rows[:_ROWS]]
                    text = _joined((group.label, *rows), lang)
                    yield _Case(title, f"{name} {pick(group.title, lang)}", group.outcome, text, "matrix")
                if cell.groups:
                    continue
                yield _Case(title, name, cell.outcome, _joined((cell.label, *cell.details), lang), "matrix")
        elif isinstance(item, Proven):
            for proof in item.proofs:
                yield _Case(title, pick(proof.claim, lang), proof.outcome, pick(proof.evidence, lang), "claim")
        elif isinstance(item, Timeline):
            for bar in item.bars:
                yield _Case(title, pick(bar.label, lang), bar.outcome, pick(bar.detail, lang), "timeline")
        elif isinstance(item, Findings):
            for found in item.findings:
                text = _joined((describe(found, lang), hint(found, lang)), lang)
                place = f" ({found.where})" if found.where else ""
                yield _Case(title, f"{found.code}{place}", found.outcome, text, found.code)
    if report.outcome is not None:
        yield _Case(pick(LABELS["verdict"], lang), pick(report.title, lang), report.outcome, pick(report.summary, lang))


def _joined(parts: tuple[Words, ...], lang: str) -> str:
    return "\n".join(text for text in (pick(part, lang) for part in parts) if text)


def render_junit(report: Report, lang: str = "en") -> str:
    """The report as JUnit XML 1.0 text; characters that XML cannot hold are written out as `<U+0000>`."""
    from xml.etree import ElementTree as ET

    cases = list(_cases(report, lang))
    counts = {
        "tests": len(cases),
        "failures": sum(case.outcome is Outcome.FAIL for case in cases),
        "errors": sum(case.outcome is Outcome.UNKNOWN for case in cases),
        "skipped": sum(case.outcome is None for case in cases),
    }
    numbers = {key: str(value) for key, value in counts.items()}
    root = ET.Element("testsuites", {"name": "secguard", **numbers})
    suite = ET.SubElement(root, "testsuite", {"name": clean(pick(report.title, lang)), **numbers})
    if report.made is not None:
        suite.set("timestamp", report.made.isoformat(timespec="seconds"))
    properties = list(report.facts)
    if report.at is not None:
        properties.append((LABELS["judged"], report.at))
    if report.subject:
        properties.insert(0, ("subject", report.subject))
    if properties:
        holder = ET.SubElement(suite, "properties")
        for name, value in properties:
            ET.SubElement(holder, "property", {"name": clean(pick(name, lang)), "value": plain(value, lang)})
    for case in cases:
        element = ET.SubElement(suite, "testcase", {"classname": clean(case.group), "name": clean(case.name)})
        message = clean(case.message)
        tag = {Outcome.FAIL: "failure", Outcome.UNKNOWN: "error", None: "skipped"}.get(case.outcome)
        if tag:
            child = ET.SubElement(element, tag, {"message": message.split("\n", 1)[0][:200]})
            if tag != "skipped":
                child.set("type", clean(case.kind or "verdict"))
                child.text = message
        elif message:
            ET.SubElement(element, "system-out").text = message
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
