"""`secguard audit report`: who watched, searched and took away what."""

from pathlib import Path

import click

from secguard.cli.audit.zone import parse_zone
from secguard.cli.frame import Context, Result, Table, act_options, command
from secguard.core.verdict import Outcome

__all__ = ["report"]


@command("audit.report", "report")
@click.option("--camera", default="", metavar="GBID", help="Accesses to this camera.")
@click.option("--actor", default="", metavar="NAME", help="Accesses by this person.")
@click.option("--period", default="", metavar="TIME", help="2026, 2026-10, 2026-10-07, or two of them: A..B.")
@click.option("--of-case", default="", metavar="NUMBER", help="Accesses for this case.")
@click.option("--query", default="", help="Further conditions, in the language of `audit search`.")
@click.option("--zone", default="Z", show_default=True, help="Zone of dates and days, such as +08:00.")
@click.option(
    "--register",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Also write the register of viewing and retrieving (查阅/调取登记表), to be printed.",
)
@act_options
def report(
    ctx: Context,
    *,
    camera: str,
    actor: str,
    period: str,
    of_case: str,
    query: str,
    zone: str,
    register: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Report who accessed which video, when, for which case, approved by whom (--report FILE.html or FILE.csv).

    The report itself is recorded before it is shown. Accesses without case number or approver are listed on their own.
    Exit code 0: nothing speaks against its completeness; 1: the index was altered; 3: it is behind the ledger.
    """
    from secguard.audit.reports import Scope, access_report, gather, render_register, volumes_of
    from secguard.audit.reports.accesses import rows_as_json
    from secguard.core.files import atomic_write

    del yes  # nothing is asked
    scope = Scope(camera, actor, period, of_case, query, parse_zone(zone))
    with ctx.workspace() as ws:
        found = gather(
            scope,
            ws.index,
            ws.ledger,
            ws.clock,
            ws.actor(),
            case=case,
            reason=reason,
            progress=ctx.progress("indexing"),
        )
        organisation = ws.config.site.name
    files: list[Path] = []
    if register is not None:
        volumes = range(1, volumes_of(found) + 1)
        files = [register if volume == 1 else register.with_stem(f"{register.stem}-{volume}") for volume in volumes]
        for volume, file in zip(volumes, files, strict=True):
            atomic_write(file, render_register(found, organisation, ctx.lang, volume).encode())
    outcomes = {item.outcome for item in found.findings}
    outcome = next((one for one in (Outcome.FAIL, Outcome.UNKNOWN) if one in outcomes), Outcome.PASS)
    people = [
        (name, *(counts[group] for group in ("watched", "searched", "taken", "deleted", "controlled", "missing")))
        for name, counts in list(found.by_actor().items())[:20]
    ]
    heads = ctx.heads(
        ("person", "人员"),
        ("watched", "观看"),
        ("searched", "检索"),
        ("taken", "调取"),
        ("deleted", "删除"),
        ("controlled", "控制"),
        ("no case or approver", "缺案件编号或批准人"),
    )
    return Result(
        data={
            "total": len(found.rows),
            "exceptions": len(found.exceptions),
            "kinds": dict(found.by_kind()),
            "days": {day.isoformat(): counts.total() for day, counts in found.by_day().items() if counts},
            "actors": {name: dict(counts) for name, counts in found.by_actor().items()},
            "size": found.size,
            "checkpoint": found.checkpoint,
            "pruned": found.pruned,
            "recorded": found.recorded,
            "register": files,
            "accesses": list(rows_as_json(found)) if ctx.json else [],
        },
        outcome=outcome,
        findings=found.findings,
        tables=[Table("", heads, people)] if people else (),
        lines=[
            ctx.say(
                f"{len(found.rows)} accesses, {len(found.exceptions)} without case number or approver",
                f"访问 {len(found.rows)} 次，其中 {len(found.exceptions)} 次缺案件编号或批准人",
            ),
            ctx.say(
                f"ledger: {found.size} events, {found.pruned} deleted by retention",
                f"账本共 {found.size} 条事件，其中 {found.pruned} 条已按留存策略删除",
            ),
            *(
                [
                    ctx.say(
                        f"register: {len(files)} volumes, {files[0]} to {files[-1]}",
                        f"登记表共 {len(files)} 册：{files[0]} 至 {files[-1]}",
                    )
                ]
                if len(files) > 1
                else []
            ),
        ],
        jsonl=rows_as_json(found),
        report=lambda _: access_report(found),
    )
