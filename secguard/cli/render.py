"""How a result looks: one JSON document, or tables for people; data to stdout, everything else to stderr."""

import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from secguard.cli.frame import Context, Result, Table
from secguard.core.clock import rfc3339
from secguard.core.findings import describe, hint
from secguard.core.progress import Progress, Throttle
from secguard.core.verdict import Axis, Finding, Outcome

__all__ = ["bar", "finding_document", "plain", "set_logging", "show", "write_json"]

_STYLE = {Outcome.PASS: "bold green", Outcome.FAIL: "bold red", Outcome.UNKNOWN: "bold yellow"}
_WORD = {
    "en": {Outcome.PASS: "PASS", Outcome.FAIL: "FAIL", Outcome.UNKNOWN: "UNKNOWN"},
    "zh": {Outcome.PASS: "通过", Outcome.FAIL: "不通过", Outcome.UNKNOWN: "无法判定"},
}
_MAX_SHOWN = 50
_PIPED_WIDTH = 160  # where no terminal says how wide it is; IDs and digests stay on one line


def set_logging(verbose: int) -> None:
    """Send loguru to stderr: warnings by default, more with -v and -vv.

    Few commands log, and loguru costs as much as all else at start-up (it brings asyncio): it is not loaded for this,
    but reads these settings where a module that logs loads it.
    """
    level, form = ("WARNING", "INFO", "DEBUG")[min(verbose, 2)], "{time:HH:mm:ss} {level} {message}"
    os.environ.update(LOGURU_LEVEL=level, LOGURU_FORMAT=form, LOGURU_DIAGNOSE="no")
    if "loguru" in sys.modules:
        from loguru import logger

        logger.remove()
        logger.add(sys.stderr, level=level, format=form, diagnose=False)


def plain(value: Any) -> Any:
    """Turn paths, times, bytes, structs and sets into JSON values."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.to_builtins(value, builtin_types=(datetime, bytes)))
    return value


def write_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document and a newline to stdout."""
    sys.stdout.buffer.write(msgspec.json.encode(plain(document)) + b"\n")
    sys.stdout.buffer.flush()


def finding_document(item: Finding, lang: str) -> dict[str, Any]:
    """A finding as JSON documents show it."""
    return {
        "code": item.code,
        "axis": item.axis,
        "outcome": item.outcome,
        "where": item.where,
        "text": describe(item, lang),
        "hint": hint(item, lang),
        "data": item.data,
    }


def show(context: Context, result: Result) -> int:
    """Print a result, write its report, and return the exit code."""
    code = result.outcome.exit_code if result.outcome is not None else 0
    if context.report is not None:
        _write_report(context, result)
    if context.jsonl and result.jsonl is not None:
        for record in result.jsonl:
            sys.stdout.buffer.write(msgspec.json.encode(plain(record)) + b"\n")
        sys.stdout.buffer.flush()
        code = result.outcome.exit_code if result.outcome is not None else 0  # a long stream may say it at its end
    elif context.json:
        write_json(
            {
                "schema": context.schema,
                "outcome": result.outcome,
                "exit": code,
                "axes": result.axes,
                "findings": [finding_document(item, context.lang) for item in result.findings],
                "data": result.data,
                "receipt": result.receipt,
            }
        )
    elif not context.quiet:
        _show_people(context, result)
    return code


def _write_report(context: Context, result: Result) -> None:
    from secguard.core.errors import UsageError
    from secguard.report import write_report

    assert context.report is not None
    if result.report is None:
        raise UsageError("cli.report.none", "this command makes no report", hint="leave out --report")
    write_report(context.report, result.report(context.lang), context.lang)
    if not context.quiet:
        click.echo(context.say(f"report: {context.report}", f"报告：{context.report}"), err=True)


def _show_people(context: Context, result: Result) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    # On a terminal everything goes to stdout; piped, the tables move to stderr and stdout stays for data.
    piped = not sys.stdout.isatty()
    console = Console(stderr=piped, highlight=False, soft_wrap=piped, width=_PIPED_WIDTH if piped else None)
    for table in result.tables:
        _show_table(console, RichTable, table)
    words = _WORD["zh" if context.lang == "zh" else "en"]
    for item in result.findings[:_MAX_SHOWN]:
        where = f"{item.where}: " if item.where else ""
        text = escape(f"{where}{describe(item, context.lang)}")
        console.print(f"[{_STYLE[item.outcome]}]{words[item.outcome]}[/] {text} [dim]\\[{item.code}][/]")
        if advice := hint(item, context.lang):
            console.print(f"     [dim]{escape(advice)}[/]")
    if len(result.findings) > _MAX_SHOWN:
        more = len(result.findings) - _MAX_SHOWN
        console.print(context.say(f"... and {more} more; --json shows all", f"……另有 {more} 项；--json 显示全部"))
    for axis, outcome in result.axes.items():
        name = _axis_word(axis) if context.lang == "zh" else axis.value
        console.print(f"  {name}{' ' * (14 - cell_len(name))}[{_STYLE[outcome]}]{words[outcome]}[/]")
    for line in result.lines:
        console.print(escape(line))
    if result.outcome is not None:
        console.print(f"[{_STYLE[result.outcome]}]{words[result.outcome]}[/]")


def _axis_word(axis: Axis) -> str:
    from secguard.report.words import AXES

    return AXES[axis].zh


def _show_table(console: Any, make: Any, table: Table) -> None:
    view = make(title=table.title or None, title_justify="left", header_style="bold")
    for column in table.columns:
        view.add_column(column, overflow="fold")
    for row in table.rows:
        view.add_row(*(_cell(value) for value in row))
    console.print(view)


def _cell(value: object) -> Any:
    from rich.text import Text

    return Text(str(plain(value)), style=_STYLE[value] if isinstance(value, Outcome) else "")


def bar(title: str) -> Progress:
    """A progress bar on stderr; it closes itself at done == total."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total} {task.fields[unit]} {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bars.add_task(title, total=None, unit="", rate="")
    began = time.monotonic()

    def update(done: int, total: int | None, unit: str) -> None:
        if not bars.live.is_started:
            bars.start()
        seconds = time.monotonic() - began
        rate = f"{done / seconds:,.0f}/s" if seconds > 1 else ""
        bars.update(task, completed=done, total=total, unit=unit, rate=rate)
        if total is not None and done >= total:
            bars.stop()

    return Throttle(update)
