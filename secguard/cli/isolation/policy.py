"""`secguard isolation lint`: what is wrong with a policy, line by line."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command

if TYPE_CHECKING:
    from secguard.core.verdict import Finding
    from secguard.report import Report

__all__ = ["lint"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@command("isolation.lint", "lint")
@click.argument("policy", type=_FILE)
def lint(ctx: Context, policy: Path) -> Result:
    """Check a policy: everything that is wrong in it, each problem with its line (exit 1).

    Looks for what cannot be read, and for what can but should not stand: exceptions that ran out, or without an owner
    or a last day; flows that are never probed, that an earlier one hides, or that contradict it.
    """
    del ctx
    from datetime import UTC, datetime

    from secguard.core.verdict import Outcome
    from secguard.isolation.policy.lint import lint_policy, unreadable, worst
    from secguard.isolation.policy.model import Exemption
    from secguard.isolation.policy.policy import read_policy

    def report(outcome: Outcome, found: "list[Finding]") -> "Report":
        from secguard.report import Code, Findings, Report, Text

        return Report(
            Text("Isolation policy", "隔离策略检查"),
            [Findings(found)],
            subject=Code(str(policy)),
            outcome=outcome,
            made=datetime.now(UTC),
        )

    checked, problems = read_policy(policy)
    if checked is None:
        wrong = unreadable(problems)
        return Result(
            outcome=Outcome.FAIL, findings=wrong, data={"policy": None}, report=lambda _: report(Outcome.FAIL, wrong)
        )
    found = lint_policy(checked, datetime.now(UTC).date())
    zones = [
        (zone.name, zone.label, ", ".join(b.cidr for b in zone.ip_blocks), ", ".join(a.name for a in zone.agents))
        for zone in checked.zones
    ]
    flows = [
        (
            flow.name,
            f"{flow.src} -> {flow.dst}",
            flow.expect,
            "canary" if flow.canary else "exception" if isinstance(flow, Exemption) else "",
            flow.owner,
            str(flow.expires or ""),
        )
        for flow in checked.flows
    ]
    outcome = worst(found)
    return Result(
        outcome=outcome,
        findings=found,
        data={
            "policy": checked.digest,
            "zones": [row[0] for row in zones],
            "flows": [flow.name for flow in checked.flows if not isinstance(flow, Exemption)],
            "exceptions": [
                {"name": flow.name, "owner": flow.owner, "expires": flow.expires, "reason": flow.reason}
                for flow in checked.flows
                if isinstance(flow, Exemption)
            ],
        },
        tables=[
            Table("zones", ["zone", "label", "blocks", "agents"], zones),
            Table("allowed flows", ["flow", "from -> to", "expect", "", "owner", "expires"], flows),
        ],
        report=lambda _: report(outcome, found),
        lines=["everything else is denied; the policy is well-formed"] if outcome is Outcome.PASS else [],
    )
