"""`secguard audit index | reconcile | reindex`: follow the ledger, compare with it, and build anew from it."""

from contextlib import closing
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.core.verdict import Outcome

if TYPE_CHECKING:
    from secguard.audit import Reconciled
    from secguard.report import Report
    from secguard.workspace import Workspace

__all__ = ["index", "reconcile", "reindex"]

_COUNTS = (
    ("size", "账本事件数"),
    ("position", "已索引事件数"),
    ("missing", "缺失行"),
    ("extra", "多余行"),
    ("altered", "被改动行"),
)


@command("audit.index", "index")
@click.option("--follow", is_flag=True, help="Go on until SIGTERM or SIGINT; outages are waited for.")
def index(ctx: Context, *, follow: bool) -> Result:
    """Bring the index up to date with the ledger, or follow the ledger with it.

    Where `secguard serve` runs, it follows already, in a process of its own: recording never waits for the index.
    """
    with ctx.workspace() as ws:
        if follow:
            _follow(ctx, ws)
            position, size = ws.index.position, ws.ledger.size
        else:
            position, size = ws.catch_up(ctx.progress("indexing")), ws.ledger.size
            position = ws.index.position
    return Result(
        data={"position": position, "size": size},
        lines=[ctx.say(f"index {position} of {size} events", f"账本 {size} 条事件中已索引 {position} 条")],
    )


def _follow(ctx: Context, workspace: "Workspace") -> None:
    import signal
    import threading

    from secguard.service.indexing import follow

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not ctx.quiet:
        origin = workspace.ledger.origin
        click.echo(
            ctx.say(f"following {origin}; stop with Ctrl-C", f"正在跟随 {origin} 建索引；按 Ctrl-C 停止"), err=True
        )
    follow(workspace, stop)


@command("audit.reconcile", "reconcile")
@click.option("--wait", is_flag=True, help="Index the ledger's newest events first.")
def reconcile(ctx: Context, *, wait: bool) -> Result:
    """Compare the index with the ledger, both ways, and the ledger with what its witnesses remember.

    Missing, extra and altered rows are named. Exit 0: all agree. 1: they do not. 3: the index is sound, but behind the
    ledger, or a witness does not answer.
    """
    from secguard.audit import reconcile as compare

    with ctx.workspace() as ws:
        if wait:
            ws.catch_up(ctx.progress("indexing"))
        done = compare(
            ws.index, ws.ledger, ws.clock, ws.actor(), ctx.progress("comparing"), witnessed=ws.compare_witnesses()
        )
    counts = {
        "size": done.size,
        "position": done.position,
        "missing": done.missing,
        "extra": done.extra,
        "altered": done.altered,
    }
    return Result.of(
        done.verdict,
        data={**counts, "recorded": done.recorded, "witnesses": done.witnesses},
        tables=[Table("", ctx.heads(*_COUNTS), [tuple(counts.values())])],
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
            *(
                (Text(f"witness {name} remembers", f"见证方 {name} 所记事件数"), size)
                for name, size in done.witnesses.items()
            ),
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
        missing = ws.ledger.missing()
    return Result(
        data={"events": count, "position": position, "size": size},
        outcome=Outcome.FAIL if missing.findings else Outcome.PASS,
        findings=missing.findings,
        lines=[ctx.say(f"{count} events indexed", f"已索引 {count} 条事件")],
    )
