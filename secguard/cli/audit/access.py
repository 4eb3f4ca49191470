"""`secguard audit import`: events from JSON lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, act_options, command
from secguard.core.errors import SystemPartError
from secguard.core.verdict import Axis, Finding, Outcome

if TYPE_CHECKING:
    from secguard.report import Report

__all__ = ["import_"]

_COLUMNS = (
    ("file", "文件"),
    ("lines", "行数"),
    ("recorded", "新记录"),
    ("duplicates", "重复"),
    ("rejected", "搁置"),
)


@command("audit.import", "import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE.jsonl...")
@click.option(
    "--encoding", type=click.Choice(["utf-8", "gb18030"]), default="utf-8", show_default=True, help="Of the files."
)
@act_options
def import_(ctx: Context, *, files: tuple[Path, ...], encoding: str, case: str, reason: str, yes: bool) -> Result:
    """Import events from JSON lines: `id kind time actor{name} subject case reason outcome data` a line.

    Lines that cannot be read are put aside, recorded and named (exit 1); all others are imported. Importing a file
    again adds nothing.
    """
    from secguard.audit import catch_up, import_file
    from secguard.audit.sources.letters import DeadLetters

    del yes  # nothing is asked
    with ctx.workspace() as ws:
        ws.close_dangling(ctx.progress("indexing"))
        letters = DeadLetters(ws.state / "audit" / "dead")
        done = [
            import_file(
                path,
                ws.ledger,
                ws.clock,
                ws.actor(),
                encoding=encoding,
                case=case,
                reason=reason,
                progress=ctx.progress(f"importing {path.name}"),
                letters=letters,
            )
            for path in files
        ]
        behind = ""
        try:
            catch_up(ws.index, ws.ledger, ctx.progress("indexing"))
        except SystemPartError as error:  # what is in the ledger is in; the index follows when it can
            behind = ctx.say(f"not searchable yet: {error}", f"暂时无法检索：{error}")
        position, size = ws.index.position, ws.ledger.size
    findings = [item for one in done for item in one.findings()]
    counts = ("lines", "recorded", "duplicates", "rejected")
    table = [(one.file, one.lines, one.recorded, one.duplicates, one.rejected) for one in done]
    outcome = Outcome.FAIL if findings else Outcome.PASS
    return Result(
        data={
            "files": done,
            **{name: sum(getattr(one, name) for one in done) for name in counts},
            "position": position,
            "size": size,
        },
        outcome=outcome,
        axes={Axis.COMPLETENESS: outcome},
        findings=findings,
        tables=[Table("", ctx.heads(*_COLUMNS), table)],
        lines=[
            ctx.say(
                f"{one.file}: all {one.lines} events were in the ledger before; nothing was added",
                f"{one.file}：{one.lines} 条事件此前均已入账，本次没有新增",
            )
            for one in done
            if one.lines and one.duplicates == one.lines
        ]
        + ([behind] if behind else []),
        report=lambda _: _import_report(table, findings, outcome),
    )


def _import_report(table: "Sequence[tuple[str | int, ...]]", findings: Sequence[Finding], outcome: Outcome) -> "Report":
    from secguard.report import Findings, Report, Text
    from secguard.report import Table as ReportTable

    heads = [Text(en, zh) for en, zh in _COLUMNS]
    return Report(
        Text("Import of access events", "访问事件导入"),
        [ReportTable(Text("Files", "文件"), heads, table), Findings(findings)],
        outcome=outcome,
        axes={Axis.COMPLETENESS: outcome},
    )
