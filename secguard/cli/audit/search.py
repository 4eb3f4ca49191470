"""`secguard audit search`: find events, count them, and write them to files."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.audit.output import check_output, write_hits
from secguard.cli.audit.zone import parse_zone
from secguard.cli.frame import Context, Result, Table, act_options, command
from secguard.core.errors import UsageError
from secguard.core.findings import describe
from secguard.core.verdict import Finding

if TYPE_CHECKING:
    from secguard.audit import Answer, Counts, Hit, Reach
    from secguard.report import Report

__all__ = ["search"]

_COLUMNS = (
    ("time", "时间"),
    ("kind", "操作"),
    ("actor", "用户"),
    ("subject", "对象"),
    ("case", "案件号"),
    ("outcome", "结果"),
    ("reason", "事由"),
)
_COUNTED = {
    **dict(_COLUMNS),
    "role": "角色",
    "org": "单位",
    "address": "地址",
    "approver": "批准人",
    "hour": "小时",
    "day": "日期",
    "month": "月份",
}
_BAR = 40


@command("audit.search", "search")
@click.argument("query", default="")
@click.option("--wait", is_flag=True, help="Index the ledger's newest events first.")
@click.option("--limit", type=int, default=50, show_default=True, help="Events of one page, at most 10000; or values.")
@click.option("--after", metavar="CURSOR", help="The page after this cursor (data.next of the page before).")
@click.option("--all", "every", is_flag=True, help="All events that match, in one stable view.")
@click.option("--count-by", metavar="FIELD", help="Count by the values of a field, the most frequent first.")
@click.option("--histogram", type=click.Choice(["hour", "day", "month"]), help="Count by time, in --zone.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all events that match to FILE.csv or FILE.jsonl; - is CSV to stdout.",
)
@click.option("--zone", default="Z", show_default=True, help="Zone of dates, such as +08:00.")
@act_options
def search(
    ctx: Context,
    *,
    query: str,
    wait: bool,
    limit: int,
    after: str | None,
    every: bool,
    count_by: str | None,
    histogram: "Any",
    output: Path | None,
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
    from secguard.audit import Asker, by_time, parse_field

    del yes  # nothing is asked
    counting = count_by is not None or histogram is not None
    if sum((every or output is not None, after is not None, count_by is not None, histogram is not None)) > 1:
        raise UsageError(
            "audit.search.options",
            "--after, --count-by, --histogram, and --all or --output do not go together",
            hint="ask one thing at a time",
        )
    if not 1 <= limit <= 10_000:
        raise UsageError("audit.search.limit", f"a page of {limit} events; 1 to 10000 is possible")
    if output is not None:
        check_output(output)
        if str(output) == "-" and ctx.json:
            raise UsageError("audit.search.options", "-o - and --json both write to stdout", hint="leave one out")
    local = parse_zone(zone)
    by = parse_field(count_by) if count_by is not None else by_time(histogram, local) if counting else None
    with ExitStack() as stack:
        ws = stack.enter_context(ctx.workspace())
        asker = Asker(
            ws.index,
            ws.ledger,
            ws.clock,
            ws.actor(),
            wait=wait,
            zone=local,
            case=case,
            reason=reason,
            progress=ctx.progress("indexing"),
        )
        origin = ws.ledger.origin
        if by is not None:
            return _counts(ctx, asker.count(query, by, limit=limit), origin, ws.clock.now())
        if every or output is not None:
            answer = asker.all(query)
            if output is not None:
                return _written(ctx, answer, output)
            if ctx.jsonl and ctx.report is None:
                return _streamed(ctx, answer, stack.pop_all())
            hits = list(answer.hits)
            return _events(ctx, answer, hits, None, origin, ws.clock.now())
        page = asker.page(query, limit=limit, after=after)
        return _events(ctx, page, page.hits, page.next, origin, ws.clock.now())


def _events(  # noqa: PLR0917 - what one answer says
    ctx: Context, reach: "Reach", hits: "Sequence[Hit]", following: str | None, origin: str, made: datetime
) -> Result:
    documents = [hit.document() for hit in hits]
    result = Result(
        data={**reach.facts(), "hits": documents, "next": following},
        outcome=reach.outcome,
        findings=reach.findings,
        tables=[Table("", ctx.heads(*_COLUMNS), _rows(hits))] if hits else (),
        lines=[_reach(reach, len(hits), following, ctx.lang)],
        report=lambda _: _search_report(reach, hits, origin, made),
    )
    result.jsonl = _with_reach(ctx, reach, iter(documents), len(documents), following)
    return result


def _with_reach(
    ctx: Context, reach: "Reach", documents: Iterator[dict[str, Any]], count: int, following: str | None
) -> Iterator[dict[str, Any]]:
    """Records for stdout; then stderr says how far they reach."""
    yield from documents
    _say(ctx, reach, count, following)


def _say(ctx: Context, reach: "Reach", count: int, following: str | None) -> None:
    if ctx.quiet:
        return
    for item in islice(reach.findings, 50):
        click.echo(f"{item.where}: {describe(item, ctx.lang)}" if item.where else describe(item, ctx.lang), err=True)
    click.echo(_reach(reach, count, following, ctx.lang), err=True)


def _streamed(ctx: Context, answer: "Answer", opened: ExitStack) -> Result:
    """All events as JSON lines, while they are read; the outcome is known at the end."""
    result = Result(outcome=answer.outcome)

    def lines() -> Iterator[dict[str, Any]]:
        count = 0
        with opened:
            for count, hit in enumerate(answer.hits, 1):  # noqa: B007 - the last number is needed
                yield hit.document()
            result.outcome = answer.outcome
            _say(ctx, answer, count, None)

    result.jsonl = lines()
    return result


def _written(ctx: Context, answer: "Answer", output: Path) -> Result:
    count = write_hits(output, answer.hits, ctx.lang)
    return Result(
        data={**answer.facts(), "file": str(output), "written": count},
        outcome=answer.outcome,
        findings=answer.findings,
        lines=[
            ctx.say(f"{output}: {count} events", f"{output}：{count} 条事件"),
            _reach(answer, count, None, ctx.lang),
        ],
    )


def _counts(ctx: Context, counts: "Counts", origin: str, made: datetime) -> Result:
    groups = [{"value": value, "count": count} for value, count in counts.groups]
    most = max((count for _, count in counts.groups), default=0)
    rows = [(value or "-", count, "█" * -(-count * _BAR // most) if most else "") for value, count in counts.groups]
    shown = sum(count for _, count in counts.groups)
    lines = [_reach(counts, shown, None, ctx.lang)]
    more = counts.distinct - len(counts.groups)
    if more > 0:
        lines.insert(0, ctx.say(f"{more} more values; --limit shows more", f"另有 {more} 个取值；用 --limit 显示更多"))
    result = Result(
        data={**counts.facts(), "by": counts.by, "distinct": counts.distinct, "groups": groups},
        outcome=counts.outcome,
        findings=counts.findings,
        tables=[Table("", (_by(counts, ctx.lang), ctx.say("events", "事件数"), ""), rows)] if rows else (),
        lines=lines,
        report=lambda _: _counts_report(counts, origin, made),
    )
    result.jsonl = _with_reach(ctx, counts, iter(groups), shown, None)
    return result


def _rows(hits: "Sequence[Hit]") -> "list[tuple[str | datetime, ...]]":
    return [
        (e.time, e.kind, e.actor.name, e.subject, e.case, e.outcome.value, e.reason)
        for e in (hit.event for hit in hits)
    ]


def _reach(reach: "Reach", shown: int, following: str | None, lang: str) -> str:
    if lang == "zh":
        signed = f"检查点覆盖 {reach.checkpoint['size']} 条" if reach.checkpoint else "尚无检查点"
        more = f"；下一页：--after {following}" if following else ""
        known = f"账本 {reach.size} 条事件中已索引 {reach.position} 条，{signed}"
        return f"匹配 {reach.total} 条事件，显示 {shown} 条；{known}{more}"
    signed = f"checkpoint at {reach.checkpoint['size']}" if reach.checkpoint else "no checkpoint yet"
    more = f"; next page: --after {following}" if following else ""
    known = f"index {reach.position} of {reach.size} events, {signed}"
    return f"{reach.total} events match, {shown} shown; {known}{more}"


def _by(counts: "Counts", lang: str) -> str:
    """What was counted by."""
    return _COUNTED.get(counts.by, counts.by) if lang == "zh" else counts.by


def _facts(reach: "Reach", origin: str) -> "list[tuple[Any, Any]]":
    from secguard.report import Code, Text

    checkpoint = reach.checkpoint
    return [
        (Text("ledger", "账本"), Code(origin)),
        (Text("events that match", "匹配事件数"), reach.total),
        (Text("events indexed", "已索引事件数"), reach.position),
        (Text("events in the ledger", "账本事件数"), reach.size),
        (Text("last checkpoint", "最近检查点"), checkpoint["size"] if checkpoint else None),
    ]


def _search_report(reach: "Reach", hits: "Sequence[Hit]", origin: str, made: datetime) -> "Report":
    from secguard.report import Code, Findings, Report, Text
    from secguard.report import Table as ReportTable

    rows = [(hit.index, *row) for hit, row in zip(hits, _rows(hits), strict=True)]
    heads = [Text("ledger index", "账本序号"), *(Text(en, zh) for en, zh in _COLUMNS)]
    return Report(
        Text("Access events", "访问事件"),
        [ReportTable(Text("Events", "事件"), heads, rows, total=reach.total), *_noted(Findings, reach.findings)],
        subject=Code(reach.query),
        outcome=reach.outcome,
        facts=_facts(reach, origin),
        made=made,
    )


def _counts_report(counts: "Counts", origin: str, made: datetime) -> "Report":
    from secguard.report import BarPlot, Code, Findings, Report, Text
    from secguard.report import Table as ReportTable

    heads = [Text(counts.by, _by(counts, "zh")), Text("events", "事件数")]
    bars = [(value or "-", count) for value, count in counts.groups[:60]]
    return Report(
        Text("Access events, counted", "访问事件统计"),
        [
            *([BarPlot(Text("Events", "事件数"), bars)] if bars else []),
            ReportTable(Text("Counts", "统计"), heads, counts.groups, total=counts.distinct),
            *_noted(Findings, counts.findings),
        ],
        subject=Code(counts.query),
        outcome=counts.outcome,
        facts=_facts(counts, origin),
        made=made,
    )


def _noted(make: Any, findings: Sequence[Finding]) -> list[Any]:
    return [make(findings)] if findings else []
