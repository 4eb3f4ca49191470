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
        bar = ctx.progress("retention")
        if dry_run:
            plan = plan_prune(ws.ledger, policy, ws.clock.now(), bar)
            data = {**_facts(plan), "policy": policy.digest, "deleted": 0, "dry_run": True}
            return _result(plan, data, findings, "would be deleted")
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
    return _result(done.plan, data, [*findings, *done.findings], "deleted")


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


def _result(plan: "Plan", data: dict[str, object], findings: list[Finding], verb: str) -> Result:
    count = len(plan.expired) + len(plan.unfinished)
    unknown = any(item.outcome is Outcome.UNKNOWN for item in findings)
    lines = [f"{count} of {plan.size} events {verb}; {sum(plan.held.values())} are kept by {len(plan.held)} holds"]
    if plan.unfinished:
        lines.append(f"{len(plan.unfinished)} of them an earlier run had recorded and not finished")
    return Result(
        data=data,
        outcome=Outcome.UNKNOWN if unknown else Outcome.PASS,
        axes={Axis.COMPLETENESS: Outcome.UNKNOWN} if unknown else {},
        findings=findings,
        tables=[Table("", ("kind", "events"), list(plan.kinds.items()))] if plan.kinds else (),
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
    return Result(data={"hold": made}, lines=[f"{made.id}: {made.query} is kept for case {made.case}"])


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
    return Result(data={"hold": ended}, lines=[f"{ended.id}: released"])


@command("audit.hold.list", "list")
@click.option("--all", "everything", is_flag=True, help="Also those that were released.")
def list_(ctx: Context, *, everything: bool) -> Result:
    """List the holds in force."""
    from secguard.audit.retention import read_holds

    with ctx.workspace() as ws:
        holds = [one for one in read_holds(ws.ledger) if everything or one.released is None]
    columns = ("hold", "case", "query", "since", "by", "approver", "reason", "released")
    return Result(
        data={"holds": holds},
        tables=[Table("", columns, [_row(one) for one in holds])] if holds else (),
        lines=[f"{len(holds)} holds"],
    )


def _row(one: "Hold") -> tuple[object, ...]:
    return (one.id, one.case, one.query, one.time, one.actor, one.approver, one.reason, one.released or "")


for _command in (add, release, list_):
    hold.add_command(_command)
