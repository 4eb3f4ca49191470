"""One frame around every command: common options, one result shape, one place for errors and exit codes.

A command function takes a `Context` and returns a `Result` (or None). The frame prints it: `--json` as one document
`{schema, outcome, exit, axes, findings, data, receipt}`, otherwise as a table for people. Exit codes: 0 pass, 1 a
violation, 2 usage, environment or internal error, 3 inconclusive, 130 interrupted.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.core.errors import SecguardError, UsageError
from secguard.core.progress import Progress, silent
from secguard.core.verdict import Axis, Finding, Outcome, Verdict

if TYPE_CHECKING:
    from secguard.report import Report
    from secguard.workspace import Workspace

__all__ = ["Context", "Result", "Table", "act_options", "command", "require_option"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people: a title, column heads, and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(slots=True)
class Result:
    """What a command hands to the frame.

    Attributes:
        data: the command's values; JSON-serialisable (Path, datetime, bytes and msgspec Structs are handled).
        outcome: pass, fail or unknown; None for a command that judges nothing.
        axes: outcome per axis of a verdict.
        findings: what was found.
        receipt: the ledger's receipt of the recorded act.
        tables: what people see, in order.
        lines: closing sentences for people.
        jsonl: records for `--jsonl`, printed one a line instead of the document.
        report: makes the `--report` document; called only when asked for.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None
    axes: Mapping[Axis, Outcome] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    receipt: Mapping[str, Any] | None = None
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    jsonl: Iterable[Mapping[str, Any]] | None = None
    report: "Callable[[str], Report] | None" = None

    @classmethod
    def of(cls, verdict: Verdict, **values: Any) -> "Result":
        """A result that shows a verdict; `values` are further attributes."""
        data = {"subject": verdict.subject, "at": verdict.at, "required": sorted(verdict.required)}
        if verdict.narrowed:
            data["narrowed"] = True
        values["data"] = {**data, **values.get("data", {})}
        return cls(outcome=verdict.outcome, axes=verdict.axes, findings=verdict.findings, **values)


@dataclass(slots=True)
class Context:
    """What the common options say; handed to every command."""

    schema: str
    workspace_option: Path | None = None
    json: bool = False
    jsonl: bool = False
    lang: str = "en"
    quiet: bool = False
    verbose: int = 0
    report: Path | None = None

    def workspace(self) -> "Workspace":
        """The workspace: `-w` > `SECGUARD_WORKSPACE` > walk up to `secguard.toml`.

        Raises:
            UsageError: there is none.
        """
        from secguard.workspace import Workspace

        return Workspace.find(self.workspace_option)

    def workspace_or_none(self) -> "Workspace | None":
        """The workspace, or None on a machine without one (a court); a named but missing one is an error."""
        from secguard.workspace import Workspace

        named = self.workspace_option is not None or os.environ.get("SECGUARD_WORKSPACE")
        if not named and Workspace.locate(None) is None:
            return None
        return Workspace.find(self.workspace_option)

    def say(self, en: str, zh: str) -> str:
        """The one of two texts that is in the language that was asked for."""
        return zh if self.lang == "zh" else en

    def heads(self, *columns: tuple[str, str]) -> list[str]:
        """Heads of a table, each given in English and Chinese."""
        return [self.say(*column) for column in columns]

    def progress(self, title: str) -> Progress:
        """A callback that draws a bar on a terminal's stderr, or says nothing (quiet, piped)."""
        if self.quiet or not sys.stderr.isatty():
            return silent
        from secguard.cli.render import bar

        return bar(title)


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option(
            "-w",
            "--workspace",
            "workspace_option",
            type=click.Path(path_type=Path, file_okay=False),
            help="The workspace folder.  [default: $SECGUARD_WORKSPACE, or the nearest secguard.toml upwards]",
        ),
        click.option("--json", "json_", is_flag=True, help="Print one JSON document to stdout."),
        click.option("--jsonl", is_flag=True, help="Print records as JSON lines to stdout."),
        click.option(
            "--report",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Also write a report: FILE.html, FILE.csv or FILE.xml (JUnit).",
        ),
        click.option(
            "--lang", type=click.Choice(["en", "zh"]), envvar="SECGUARD_LANG", default="en", help="Language of texts."
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option("-v", "--verbose", count=True, help="Log more to stderr; twice for debugging."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def command(
    schema: str, name: str | None = None, **attributes: Any
) -> Callable[[Callable[..., Result | None]], click.Command]:
    """Declare a command whose function takes a `Context` and its own options, and returns a `Result`.

    Args:
        schema: name of the JSON document, for example `video.verify`; `secguard.` and `/1` are added.
        name: the command's name (default: the function's).
        attributes: passed on to `click.command`.
    """

    def decorate(function: Callable[..., Result | None]) -> click.Command:
        @functools.wraps(function)
        def run(
            *,
            workspace_option: Path | None,
            json_: bool,
            jsonl: bool,
            report: Path | None,
            lang: str,
            quiet: bool,
            verbose: int,
            **options: Any,
        ) -> None:
            context = Context(
                f"secguard.{schema}/1", workspace_option, json_ or jsonl, jsonl, lang, quiet, verbose, report
            )
            from secguard.cli import render

            render.set_logging(verbose)
            if report is not None and report.suffix.lower() not in {".html", ".csv", ".xml"}:
                raise UsageError(
                    "cli.report.kind", "unknown kind of report", hint="end it in .html, .csv or .xml", where=str(report)
                )
            result = function(context, **options) or Result()
            sys.exit(render.show(context, result))

        declare: Callable[[Callable[..., Any]], click.Command] = click.command(name, **attributes)
        return declare(_common(run))

    return decorate


def act_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of an act that is recorded: `--case`, `--reason`, `--yes`."""
    function = click.option("--yes", is_flag=True, help="Do not ask; take the defaults.")(function)
    function = click.option("--reason", default="", help="Purpose of the act, recorded.")(function)
    return click.option("--case", default="", help="Case number that justifies the act, recorded.")(function)


def require_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--require AXIS`, repeatable: narrows the axes that decide; passed as a tuple of `Axis` named `require`."""

    def convert(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Axis, ...]:
        return tuple(Axis(value) for value in values)

    return click.option(
        "--require",
        multiple=True,
        type=click.Choice([axis.value for axis in Axis]),
        callback=convert,
        metavar="AXIS",
        help="Judge by this axis only (repeatable); the answer says so.",
    )(function)


def error_document(schema: str, error: SecguardError, code: int) -> dict[str, Any]:
    """The JSON frame of an error."""
    return {
        "schema": schema,
        "outcome": None,
        "exit": code,
        "axes": {},
        "findings": [],
        "data": {},
        "receipt": None,
        "error": {"code": error.code, "message": error.message, "hint": error.hint, "where": error.where},
    }
