"""`secguard audit prune` and `hold`: what is deleted, and what must not be."""

from typing import TYPE_CHECKING

import click

from secguard.cli.audit.zone import parse_zone
from secguard.cli.frame import Context, Result, Table, act_options, command
from secguard.core.findings import finding
from secguard.core.verdict import Axis, Finding, Outcome

if TYPE_CHECKING:
    from secguard.audit.retention import Hold, Plan

__all__ = ["hold", "prune"]

_approver = click.option("--approver", default="", metavar="NAME", help="Who approved it, recorded.")
_zone = click.option("--zone", default="Z", show_default=True, help="Zone of dates in the query, such as +08:00.")


@command("audit.prune", "prune")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted; record and delete nothing.")
@_approver
@act_options
def prune(ctx: Context, *, dry_run: bool, approver: str, case: str, reason: str, yes: bool) -> Result:
    """Delete the events that are older than policies/retention.yaml allows, and that no hold keeps.

    The deletion is recorded first. Entries stay in the tree: all proofs, and the receipts of what remains, stay valid.
    A run that was broken off is finished by the next.
    """
    from secguard.audit.retention import load_policy, plan_prune
    from secguard.audit.retention import prune as delete
    from secguard.audit.retention.policy import MINIMUM_DAYS

    del yes  # a policy decides, not a question
    with ctx.workspace() as ws:
        policy = load_policy(ws.policies / "retention.yaml")
        findings: list[Finding] = []
        if policy.short is not None:
            findings.append(finding("audit.retention.short", days=policy.short, minimum=MINIMUM_DAYS))
        missing = ws.ledger.missing()
        if missing.findings:  # a hold may be among what is missing: nothing is deleted on such grounds
            return Result(
                data={"deleted": 0, "dry_run": dry_run},
                outcome=Outcome.FAIL,
                findings=[*findings, *missing.findings],
                lines=[
                    ctx.say(
                        "nothing was deleted: holds may be among what is missing",
                        "未做任何删除：缺失的事件中可能有封存记录",
                    )
                ],
            )
        bar = ctx.progress("retention")
        if dry_run:
            plan = plan_prune(ws.ledger, policy, ws.clock.now(), bar)
            data = {**_facts(plan), "policy": policy.digest, "deleted": 0, "dry_run": True}
            return _result(ctx, plan, data, findings)
        done = delete(
            ws.ledger,
            ws.index,
            policy,
            ws.clock,
            ws.actor(),
            state=ws.state / "index" / "retention.json",
            reason=reason,
            case=case,
            approver=approver,
            progress=bar,
        )
        if not done.findings:
            ws.catch_up(ctx.progress("indexing"))
    data = {
        **_facts(done.plan),
        "policy": policy.digest,
        "deleted": done.deleted,
        "rows": done.rows,
        "filled": done.filled,
        "records": list(done.records),
        "dry_run": False,
    }
    return _result(ctx, done.plan, data, [*findings, *done.findings])


def _facts(plan: "Plan") -> dict[str, object]:
    return {
        "size": plan.size,
        "expired": len(plan.expired),
        "unfinished": len(plan.unfinished),
        "held": sum(plan.held.values()),
        "holds": plan.held,
        "gone": plan.gone,
        "kinds": plan.kinds,
        "oldest": plan.oldest,
        "newest": plan.newest,
    }


def _result(ctx: Context, plan: "Plan", data: dict[str, object], findings: list[Finding]) -> Result:
    planned, held = len(plan.expired) + len(plan.unfinished), sum(plan.held.values())
    count = planned if data["dry_run"] else data["deleted"]  # fewer, if some were put on hold meanwhile
    en, zh = ("would be deleted", "将删除") if data["dry_run"] else ("deleted", "已删除")
    unknown = any(item.outcome is Outcome.UNKNOWN for item in findings)
    lines = [
        ctx.say(
            f"{count} of {plan.size} events {en}; {held} are kept by {len(plan.held)} holds",
            f"账本 {plan.size} 条事件中{zh} {count} 条；{held} 条到期事件因 {len(plan.held)} 项封存而保留",
        )
    ]
    if plan.unfinished:
        rest = len(plan.unfinished)
        lines.append(
            ctx.say(
                f"{rest} of them an earlier run had recorded and not finished",
                f"其中 {rest} 条为上次中断的清理：已登记、未删完",
            )
        )
    return Result(
        data=data,
        outcome=Outcome.UNKNOWN if unknown else Outcome.PASS,
        axes={Axis.COMPLETENESS: Outcome.UNKNOWN} if unknown else {},
        findings=findings,
        tables=[Table("", ctx.heads(("kind", "操作"), ("events", "事件数")), list(plan.kinds.items()))]
        if plan.kinds
        else (),
        lines=lines,
    )


@click.group()
def hold() -> None:
    """Keep events for a case, whatever their age."""


@command("audit.hold.add", "add")
@click.option("--query", default="", help="Which events, in the language of `audit search`.")
@click.option("--camera", default="", metavar="GBID", help="Events of this camera.")
@click.option("--period", default="", metavar="TIME", help="Events of 2026, 2026-10 or 2026-10-07.")
@click.option("--event", default="", metavar="ID", help="This event.")
@_zone
@_approver
@act_options
def add(
    ctx: Context,
    *,
    query: str,
    camera: str,
    period: str,
    event: str,
    zone: str,
    approver: str,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Put events on hold for a case (--case): those that meet all conditions, now and later.

    With --case alone: all events of that case number.
    """
    from secguard.audit.retention import add_hold
    from secguard.audit.retention.holds import hold_query

    del yes  # nothing is asked
    offset = parse_zone(zone).utcoffset(None)
    text = hold_query(query=query, case=case, camera=camera, period=period, event=event)
    with ctx.workspace() as ws:
        made = add_hold(
            ws.ledger,
            ws.clock,
            ws.actor(),
            text,
            case=case,
            reason=reason,
            approver=approver,
            zone=int(offset.total_seconds() // 60) if offset else 0,
        )
    line = ctx.say(
        f"{made.id}: {made.query} is kept for case {made.case}",
        f"{made.id}：符合 {made.query} 的事件已为案件 {made.case} 封存",
    )
    return Result(data={"hold": made}, lines=[line])


@command("audit.hold.release", "release")
@click.argument("name", metavar="HOLD")
@_approver
@act_options
def release(ctx: Context, *, name: str, approver: str, case: str, reason: str, yes: bool) -> Result:
    """End a hold (--reason is asked for): what has expired is deleted by the next `audit prune`."""
    from secguard.audit.retention import release_hold

    del yes, case  # the hold's own case is recorded
    with ctx.workspace() as ws:
        ended = release_hold(ws.ledger, ws.clock, ws.actor(), name, reason=reason, approver=approver)
    return Result(data={"hold": ended}, lines=[ctx.say(f"{ended.id}: released", f"{ended.id}：已解除封存")])


@command("audit.hold.list", "list")
@click.option("--all", "everything", is_flag=True, help="Also those that were released.")
def list_(ctx: Context, *, everything: bool) -> Result:
    """List the holds in force."""
    from secguard.audit.retention import read_holds

    with ctx.workspace() as ws:
        missing = ws.ledger.missing()
        holds = [one for one in read_holds(ws.ledger) if everything or one.released is None]
    columns = ctx.heads(
        ("hold", "封存编号"),
        ("case", "案件号"),
        ("query", "封存范围"),
        ("since", "起始时间"),
        ("by", "操作人"),
        ("approver", "批准人"),
        ("reason", "事由"),
        ("released", "解除时间"),
    )
    return Result(
        data={"holds": holds},
        tables=[Table("", columns, [_row(one) for one in holds])] if holds else (),
        outcome=Outcome.FAIL if missing.findings else None,
        findings=missing.findings,
        lines=[ctx.say(f"{len(holds)} holds", f"共 {len(holds)} 项封存")],
    )


def _row(one: "Hold") -> tuple[object, ...]:
    return (one.id, one.case, one.query, one.time, one.actor, one.approver, one.reason, one.released or "")


for _command in (add, release, list_):
    hold.add_command(_command)
