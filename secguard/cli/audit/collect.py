"""`secguard audit collect | token`: take events in from the configured sources."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.lazy import LazyGroup
from secguard.core.verdict import Axis, Verdict

if TYPE_CHECKING:
    from secguard.audit.sources.meter import Health
    from secguard.report import Report

__all__ = ["collect", "rejected", "token"]

_COLUMNS = (
    ("source", "来源"),
    ("kind", "类型"),
    ("received", "收到"),
    ("recorded", "新记录"),
    ("duplicates", "重复"),
    ("rejected", "搁置"),
    ("ignored", "忽略"),
    ("lost", "丢失"),
    ("turned away", "拒绝"),
    ("waiting", "待写"),
    ("behind (bytes)", "未读字节"),
    ("last record", "最后收到"),
    ("clock (s)", "时钟差（秒）"),
)


def _row(health: "Health") -> tuple[object, ...]:
    return (
        health.name,
        health.kind,
        health.received,
        health.recorded,
        health.duplicates,
        health.rejected,
        health.ignored,
        health.lost,
        health.refused,
        health.waiting,
        health.behind,
        health.last_received or "-",
        "-" if health.offset is None else health.offset,
    )


@command("audit.collect", "collect")
@click.option("--status", is_flag=True, help="Show what the running service says of each source, and judge it.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Opens the key of the site's server certificate (mode 0600).",
)
def collect(ctx: Context, *, status: bool, passphrase_file: Path | None) -> Result:
    """Take events in from all [audit.sources] until SIGTERM or SIGINT: files, syslog, HTTP.

    At the end what was taken in is recorded, positions are saved, and the exit code is 0. With --status: exit 0 if all
    is well, 1 if records were lost or put aside or a clock is off, 3 if a source is silent, clients were turned away in
    the last hour, or nothing collects.
    """
    return _status(ctx) if status else _run(ctx, passphrase_file)


def _run(ctx: Context, passphrase_file: Path | None) -> Result:
    import asyncio
    import signal

    from secguard.service.collecting import collect as run

    def ready(places: dict[str, list[str]]) -> None:
        if not ctx.quiet:
            for name, where in places.items():
                click.echo(f"{name}: {', '.join(where) or ctx.say('(no file yet)', '（尚无文件）')}", err=True)
            click.echo(ctx.say("collecting; stop with Ctrl-C", "正在采集；按 Ctrl-C 停止"), err=True)
            sys.stderr.flush()

    with ctx.workspace() as ws:

        async def main() -> "list[Health]":
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            return (await run(ws, stop, passphrase_file=passphrase_file, ready=ready)).sources

        sources = asyncio.run(main())
    return Result(
        data={"sources": sources},
        tables=[Table("", ctx.heads(*_COLUMNS), [_row(item) for item in sources])],
        lines=[ctx.say("stopped; all that was taken in is recorded", "已停止；已接收的记录均已入账")],
    )


def _status(ctx: Context) -> Result:
    from secguard.audit.sources.collector import judge_status, read_status
    from secguard.core.verdict import judge

    with ctx.workspace() as ws:
        state, names, now = ws.state / "audit", list(ws.config.audit.sources), ws.clock.now()
    said, findings = read_status(state), judge_status(state, names, now)
    axes = (Axis.COMPLETENESS, Axis.TIME)
    verdict = judge("sources", now, examined=axes, findings=findings, default=axes)
    rows = [_row(item) for item in said.sources] if said is not None else []
    return Result.of(
        verdict,
        data={"service": said},
        tables=[Table("", ctx.heads(*_COLUMNS), rows)] if rows else (),
        report=lambda _: _report(rows, verdict),
    )


def _report(rows: "list[tuple[object, ...]]", verdict: "Verdict") -> "Report":
    from secguard.report import Report, Text
    from secguard.report import Table as ReportTable

    table = ReportTable(
        Text("Sources", "来源"), [Text(en, zh) for en, zh in _COLUMNS], [tuple(map(str, row)) for row in rows]
    )
    return Report.of(verdict, Text("Sources of access events", "访问事件来源"), [table])


@command("audit.rejected", "rejected")
@click.option("--raw", "digest", metavar="SHA256", help="Print the raw bytes of this one; they may hold secrets.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="The newest so many.")
def rejected(ctx: Context, *, digest: str | None, limit: int) -> Result | None:
    """List records that were put aside and kept; the ledger holds reason and SHA-256 of each (`record.rejected`)."""
    from collections import deque

    from secguard.audit.sources.letters import DeadLetters
    from secguard.core.errors import UsageError

    with ctx.workspace() as ws:
        letters = DeadLetters(ws.state / "audit" / "dead")
        if digest is not None:
            found = next((item for item in letters.read() if item["sha256"] == digest.lower()), None)
            if found is None:
                raise UsageError("audit.rejected.none", "no raw bytes are kept of this record", where=digest[:64])
            ws.record("audit.searched", "dead letters", data={"raw_sha256": found["sha256"]})
            sys.stdout.buffer.write(found["raw"])
            return None
        kept = list(deque(letters.read(), maxlen=limit))
    rows = [(item["received"], item["source"], item["size"], item["sha256"]) for item in reversed(kept)]
    names = ("received", "source", "size", "sha256")
    return Result(
        data={"records": [dict(zip(names, row, strict=True)) for row in rows]},
        tables=[Table("", ctx.heads(*zip(names, ("接收时间", "来源", "字节数", "SHA-256"), strict=True)), rows)],
        lines=[
            ctx.say(
                f"{len(rows)} records; why: secguard audit search kind:record.rejected",
                f"{len(rows)} 条搁置记录；原因见：secguard audit search kind:record.rejected",
            )
        ],
    )


token = LazyGroup(name="token", help="Tokens with which platforms hand in events over HTTP.", no_args_is_help=True)


@command("audit.token", "add")
@click.argument("name")
@click.option("--source", required=True, metavar="NAME", help="The HTTP source of secguard.toml that it opens.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A new file for it (mode 0600)."
)
def _add(ctx: Context, *, name: str, source: str, out: Path) -> Result:
    """Make a token for the platform NAME; only its SHA-256 is kept here."""
    from secguard.audit.sources.tokens import Tokens
    from secguard.core.errors import UsageError

    with ctx.workspace() as ws:
        table = ws.config.audit.sources.get(source)
        if table is None or table.get("kind") != "http":
            raise UsageError("audit.token.source", f"no HTTP source {source[:40]!r}", hint="see [audit.sources.NAME]")
        made = Tokens(ws.state / "audit" / "tokens.json").allow(
            name, source, out, recorder=ws.ledger, clock=ws.clock, actor=ws.actor()
        )
    data = {"name": made.name, "source": made.source, "created": made.created, "out": out}
    return Result(
        data=data,
        lines=[
            ctx.say(
                f"{out}: token for {name}; send it as `Authorization: Bearer ...`",
                f"{out}：{name} 的令牌；请求头写 `Authorization: Bearer ...`",
            )
        ],
    )


@command("audit.token", "list")
def _list(ctx: Context) -> Result:
    """List the tokens."""
    from secguard.audit.sources.tokens import Tokens

    with ctx.workspace() as ws:
        tokens = Tokens(ws.state / "audit" / "tokens.json").all()
    rows = [(item.name, item.source, item.created) for item in tokens]
    names = ("name", "source", "created")
    heads = ctx.heads(*zip(names, ("名称", "来源", "创建时间"), strict=True))
    return Result(
        data={"tokens": [dict(zip(names, row, strict=True)) for row in rows]}, tables=[Table("", heads, rows)]
    )


@command("audit.token", "withdraw")
@click.argument("name")
def _withdraw(ctx: Context, *, name: str) -> Result:
    """Withdraw the token NAME; it counts no more from the next request on."""
    from secguard.audit.sources.tokens import Tokens

    with ctx.workspace() as ws:
        gone = Tokens(ws.state / "audit" / "tokens.json").withdraw(
            name, recorder=ws.ledger, clock=ws.clock, actor=ws.actor()
        )
    return Result(
        data={"name": gone.name, "source": gone.source},
        lines=[ctx.say(f"withdrawn: {gone.name}", f"已撤销：{gone.name}")],
    )


for _command in (_add, _list, _withdraw):
    token.add_command(_command)
