"""Write a report to a file whose suffix says the form."""

from pathlib import Path

from secguard.core.errors import UsageError
from secguard.core.files import atomic_write
from secguard.report.model import Report
from secguard.report.words import LANGUAGES

__all__ = ["SUFFIXES", "write_report"]

SUFFIXES = (".html", ".csv", ".xml")


def write_report(path: Path, report: Report, lang: str = "en") -> None:
    """Write the report in one step: `.html` (self-contained), `.csv` (formula-safe) or `.xml` (JUnit).

    Args:
        path: the file; its directory must exist.
        report: what to write.
        lang: `en`, `zh` or `both`.

    Raises:
        UsageError: another suffix or language.
        SystemPartError: the file cannot be written; an old one stays as it was.
    """
    if lang not in LANGUAGES:
        raise UsageError("report.language", f"unknown language {lang[:20]!r}", hint=f"one of {', '.join(LANGUAGES)}")
    match path.suffix.lower():
        case ".html":
            from secguard.report.html import render_html

            data = render_html(report, lang).encode()
        case ".csv":
            from secguard.report.tables import render_csv

            data = render_csv(report, lang).encode("utf-8-sig")
        case ".xml":
            from secguard.report.junit import render_junit

            data = render_junit(report, lang).encode()
        case _:
            raise UsageError(
                "report.kind", "unknown kind of report", hint=f"end it in {' or '.join(SUFFIXES)}", where=str(path)
            )
    atomic_write(path, data)
