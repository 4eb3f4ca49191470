"""`secguard audit`: import, search, reconcile and rebuild; each command is one call of `secguard.audit`."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, act_options, command
from secguard.core.errors import UsageError
from secguard.core.verdict import Axis, Finding, Outcome

if TYPE_CHECKING:
    from secguard.audit import Page, Reconciled
    from secguard.report import Report

__all__ = ["import_", "reconcile", "reindex", "search"]

_COLUMNS = (
    ("time", "时间"),
    ("kind", "操作"),
    ("actor", "用户"),
    ("subject", "对象"),
    ("case", "案件号"),
    ("outcome", "结果"),
    ("reason", "事由"),
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

    del yes  # nothing is asked
    with ctx.workspace() as ws:
        ws.close_dangling(ctx.progress("indexing"))
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
            )
            for path in files
        ]
        catch_up(ws.index, ws.ledger, ctx.progress("indexing"))
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
        tables=[Table("", ("file", *counts), table)],
        lines=[
            f"{one.file}: all {one.lines} events were in the ledger before; nothing was added"
            for one in done
            if one.lines and one.duplicates == one.lines
        ],
        report=lambda _: _import_report(table, findings, outcome),
    )


def _import_report(table: "Sequence[tuple[str | int, ...]]", findings: Sequence[Finding], outcome: Outcome) -> "Report":
    from secguard.report import Findings, Report, Text
    from secguard.report import Table as ReportTable

    heads = (
        Text("file", "文件"),
        Text("lines", "行数"),
        Text("recorded", "新记录"),
        Text("duplicates", "重复"),
        Text("rejected", "搁置"),
    )
    return Report(
        Text("Import of access events", "访问事件导入"),
        [ReportTable(Text("Files", "文件"), heads, table), Findings(findings)],
        outcome=outcome,
        axes={Axis.COMPLETENESS: outcome},
    )


def _zone(text: str) -> timezone:
    if text in {"Z", "UTC"}:
        return UTC
    try:
        sign, (hours, minutes) = text[0], map(int, text[1:].split(":"))
        if sign not in "+-" or not 0 <= hours <= 14 or not 0 <= minutes < 60:
            raise ValueError(text)
    except ValueError:
        raise UsageError("audit.search.zone", f"not a zone: {text[:20]!r}", hint="write +08:00 or Z") from None
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if sign == "-" else offset)


@command("audit.search", "search")
@click.argument("query", default="")
@click.option("--wait", is_flag=True, help="Index the ledger's newest events first.")
@click.option("--limit", type=int, default=50, show_default=True, help="Events of one page, at most 10000.")
@click.option("--after", metavar="CURSOR", help="The page after this cursor (data.next of the page before).")
@click.option("--zone", default="Z", show_default=True, help="Zone of dates in the query, such as +08:00.")
@act_options
def search(
    ctx: Context,
    *,
    query: str,
    wait: bool,
    limit: int,
    after: str | None,
    zone: str,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Find events: `张三 AND kind:video.downloaded AND time:[2026-10-01 TO 2026-10-31]`.

    Words (Chinese of any length), field:value with * and ?, ranges, AND, OR, NOT, parentheses, "quoted phrases".
    Fields: id kind actor role org address subject case approver outcome reason time seq. The question is recorded
    before it is answered. Exit 3: the index is behind the ledger (--wait catches up).
    """
    from secguard.audit import search as answer

    del yes  # nothing is asked
    with ctx.workspace() as ws:
        page = answer(
            query,
            ws.index,
            ws.ledger,
            ws.clock,
            ws.actor(),
            limit=limit,
            after=after,
            wait=wait,
            zone=_zone(zone),
            case=case,
            reason=reason,
            progress=ctx.progress("indexing"),
        )
        made, origin = ws.clock.now(), ws.ledger.origin
    hits = [hit.document() for hit in page.hits]
    outcome = page.outcome
    return Result(
        data={
            "query": page.query,
            "total": page.total,
            "hits": hits,
            "next": page.next,
            "position": page.position,
            "size": page.size,
            "checkpoint": page.checkpoint,
            "recorded": page.recorded,
        },
        outcome=outcome,
        findings=page.findings,
        tables=[Table("", [column[0 if ctx.lang == "en" else 1] for column in _COLUMNS], _rows(page))] if hits else (),
        lines=[_reach(page, ctx.lang)],
        jsonl=hits,
        report=lambda _: _search_report(page, origin, made),
    )


def _rows(page: "Page") -> "list[tuple[str | datetime, ...]]":
    return [
        (e.time, e.kind, e.actor.name, e.subject, e.case, e.outcome.value, e.reason)
        for e in (hit.event for hit in page.hits)
    ]


def _reach(page: "Page", lang: str) -> str:
    shown = len(page.hits)
    if lang == "zh":
        signed = f"检查点覆盖 {page.checkpoint['size']} 条" if page.checkpoint else "尚无检查点"
        more = f"；下一页：--after {page.next}" if page.next else ""
        reach = f"账本 {page.size} 条事件中已索引 {page.position} 条，{signed}"
        return f"匹配 {page.total} 条事件，显示 {shown} 条；{reach}{more}"
    signed = f"checkpoint at {page.checkpoint['size']}" if page.checkpoint else "no checkpoint yet"
    more = f"; next page: --after {page.next}" if page.next else ""
    reach = f"index {page.position} of {page.size} events, {signed}"
    return f"{page.total} events match, {shown} shown; {reach}{more}"


def _search_report(page: "Page", origin: str, made: "datetime") -> "Report":
    from secguard.report import Code, Findings, Report, Text
    from secguard.report import Table as ReportTable

    checkpoint = page.checkpoint
    rows = [(hit.index, *row) for hit, row in zip(page.hits, _rows(page), strict=True)]
    heads = [Text("ledger index", "账本序号"), *(Text(en, zh) for en, zh in _COLUMNS)]
    return Report(
        Text("Access events", "访问事件"),
        [
            ReportTable(Text("Events", "事件"), heads, rows, total=page.total),
            *([Findings(page.findings)] if page.findings else []),
        ],
        subject=Code(page.query),
        outcome=page.outcome,
        facts=[
            (Text("ledger", "账本"), Code(origin)),
            (Text("events that match", "匹配事件数"), page.total),
            (Text("events indexed", "已索引事件数"), page.position),
            (Text("events in the ledger", "账本事件数"), page.size),
            (Text("last checkpoint", "最近检查点"), checkpoint["size"] if checkpoint else None),
        ],
        made=made,
    )


@command("audit.reconcile", "reconcile")
def reconcile(ctx: Context) -> Result:
    """Compare the index with the ledger, both ways: missing, extra and altered rows are named.

    Exit 0: they agree. 1: they do not. 3: the index is sound, but behind the ledger.
    """
    from secguard.audit import reconcile as compare

    with ctx.workspace() as ws:
        done = compare(ws.index, ws.ledger, ws.clock, ws.actor(), ctx.progress("comparing"))
    counts = {
        "size": done.size,
        "position": done.position,
        "missing": done.missing,
        "extra": done.extra,
        "altered": done.altered,
    }
    return Result.of(
        done.verdict,
        data={**counts, "recorded": done.recorded},
        tables=[Table("", tuple(counts), [tuple(counts.values())])],
        report=lambda _: _reconcile_report(done),
    )


def _reconcile_report(done: "Reconciled") -> "Report":
    from secguard.report import Report, Text

    return Report.of(
        done.verdict,
        Text("Index against ledger", "索引与账本对账"),
        facts=[
            (Text("events in the ledger", "账本事件数"), done.size),
            (Text("events indexed", "已索引事件数"), done.position),
            (Text("rows missing", "缺失行"), done.missing),
            (Text("rows without an event", "多余行"), done.extra),
            (Text("rows altered", "被改动行"), done.altered),
        ],
    )


@command("audit.reindex", "reindex")
def reindex(ctx: Context) -> Result:
    """Build the index anew from the ledger. Broken off, it goes on with the next `search --wait`."""
    from secguard.audit import reindex as rebuild
    from secguard.workspace.indexes import open_index

    with ctx.workspace() as ws, closing(open_index(ws.root, ws.config, rebuild=True)) as index:
        count = rebuild(index, ws.ledger, ctx.progress("indexing"))
        position, size = index.position, ws.ledger.size
    return Result(
        data={"events": count, "position": position, "size": size},
        outcome=Outcome.PASS,
        lines=[f"{count} events indexed"],
    )
