"""Scheduled scans on the command line: `isolation status`, and the options of `isolation run` that are about them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.isolation.common import FILE
from secguard.core.verdict import Outcome

if TYPE_CHECKING:
    from secguard.isolation.schedule.scheduled import Scheduled
    from secguard.workspace.config import IsolationConfig

__all__ = ["not_due", "schedule_options", "scheduled", "settings", "status"]


def schedule_options(function: Any) -> Any:
    """Options of a scan that is run on a schedule, or watched."""
    for option in reversed(
        (
            click.option("--if-due", is_flag=True, help="Scan only if the schedule says so."),
            click.option("--every", metavar="24h", help="The schedule: 30m, 24h, 7d.  [default: isolation.every]"),
            click.option(
                "--on-finding",
                metavar="COMMAND",
                help="Run this when the outcome changes; it reads a summary.  [default: isolation.on_finding]",
            ),
            click.option("--webhook", metavar="URL", help="Post the same there.  [default: isolation.webhook]"),
            click.option("--webhook-ca", type=FILE, help="The only CA that is believed for it, PEM."),
            click.option("--webhook-secret", type=FILE, help="File (0600) with the key that signs what is posted."),
        )
    ):
        function = option(function)
    return function


def settings(ctx: Context) -> "tuple[IsolationConfig, Path | None]":
    """`[isolation]` of `secguard.toml`, and the workspace's folder; empty settings without one."""
    from secguard.workspace.config import IsolationConfig

    site = ctx.workspace_or_none()
    if site is None:
        return IsolationConfig(), None
    with site:
        return site.config.isolation, site.root


def scheduled(
    ctx: Context,
    policy: Path,
    *,
    every: str | None,
    on_finding: str | None,
    webhook: str | None,
    webhook_ca: Path | None,
    webhook_secret: Path | None,
) -> "Scheduled":
    """The policy's row of scans, by flags, then `secguard.toml`."""
    from secguard.core.clock import SystemClock
    from secguard.isolation.schedule.alerts import Alerts
    from secguard.isolation.schedule.book import Book
    from secguard.isolation.schedule.scheduled import Scheduled

    given, root = settings(ctx)

    def file(flag: Path | None, key: str) -> Path | None:
        return flag or (root / key if root is not None and key else None)

    alerts = Alerts(
        on_finding if on_finding is not None else given.on_finding,
        webhook if webhook is not None else given.webhook,
        file(webhook_ca, given.webhook_ca),
        file(webhook_secret, given.webhook_secret),
    )
    book = Book(root / "state" / "isolation" / "schedule") if root is not None else None
    place = policy.resolve()
    if root is not None and place.is_relative_to(root):
        place = place.relative_to(root)
    return Scheduled(str(place), every or given.every, alerts, SystemClock(), book)


def not_due(row: "Scheduled") -> Result:
    """What `run --if-due` says when there is nothing to do."""
    at, before = row.next(), row.before
    until = f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "now"
    return Result(
        data={"due": False, "policy": row.policy, "next": at, "last": before.started, "last_outcome": before.outcome},
        lines=[f"not due until {until}; the last scan: {before.outcome}"],
    )


@command("isolation.status", "status")
def status(ctx: Context) -> Result:
    """Say when each policy was scanned last, what came of it, when it is due, and whether a scan was missed.

    Exit 0 only if every last scan passed and none was missed; 1 if one found a violation.
    """
    from secguard.isolation.schedule.alerts import Alerts
    from secguard.isolation.schedule.book import Book
    from secguard.isolation.schedule.scheduled import Scheduled

    with ctx.workspace() as site:
        book = Book(site.state / "isolation" / "schedule")
        entries = {entry.policy: entry for entry in book.entries()}
        given = site.config.isolation
        every = {name: entry.every for name, entry in entries.items()}
        if given.policy:
            every[given.policy] = given.every or every.get(given.policy, "")
        rows, findings, table = [], [], []
        for name in sorted(every):
            row = Scheduled(name, every[name], Alerts(), site.clock, book)
            row.begin()
            found, at = row.standing()
            findings += found
            before = row.before
            rows.append(
                {
                    "policy": name,
                    "every": every[name] or None,
                    "last": before.started,
                    "outcome": before.outcome or None,
                    "next": at,
                    "missed": bool(found),
                    "failed": before.failed,
                    "error": before.error or None,
                }
            )
            last = f"{before.started:%Y-%m-%d %H:%M}" if before.started else "never"
            due = ("-" if not every[name] else f"{at:%Y-%m-%d %H:%M}" if at else "now") if not found else "missed"
            table.append((name, every[name] or "-", last, before.outcome or "-", due, before.error))
    if not rows:
        return Result(data={"policies": []}, lines=["no policy was scanned yet, and none is scheduled"])
    outcomes = {row["outcome"] for row in rows}
    outcome = Outcome.FAIL if "fail" in outcomes else Outcome.UNKNOWN
    if outcomes == {"pass"} and not findings:
        outcome = Outcome.PASS
    return Result(
        data={"policies": rows},
        outcome=outcome,
        findings=findings,
        tables=[Table("scans", ["policy", "every", "last (UTC)", "outcome", "due", "last failure"], table)],
    )
