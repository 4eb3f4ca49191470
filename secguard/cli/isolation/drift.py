"""`secguard isolation diff | baseline | findings | close`: what changed between scans, and what is still open."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, act_options, command
from secguard.cli.isolation.folders import find_run, kept_runs
from secguard.core.errors import SecguardError, UsageError
from secguard.core.limits import MAX_CONFIG, read_bounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secguard.isolation.drift.tracking import Change, Tracking
    from secguard.isolation.judge.result import ScanResult
    from secguard.report import Report
    from secguard.workspace import Workspace

__all__ = ["baseline", "close", "diff", "findings", "tracking", "update"]

_BASELINE = "baseline"
_NAMED, _MARKED = "named", "baseline"
_WHY = {
    _NAMED: ("", ""),
    _MARKED: ("the baseline", "基线"),
    "same-policy": ("the scan before by the same policy", "同一策略的上一次扫描"),
    "same-zones": (
        "the scan before between the same zones, by another policy file",
        "相同区域的上一次扫描，策略文件不同",
    ),
}


def tracking(site: "Workspace") -> "Tracking":
    """The workspace's file of tracked findings."""
    from secguard.isolation.drift.tracking import Tracking

    return Tracking(site.state / "isolation" / "findings.db")


def update(site: "Workspace") -> "Sequence[Change]":
    """Take kept scans that were not yet taken into the tracked findings, each recorded first; returns what changed."""
    from secguard.isolation.evidence.summary import read_result

    acts: list[Change] = []
    with tracking(site) as file:
        known = {run[:8] for run in file.runs()}
        for folder in kept_runs(site):
            if folder.name[-8:] in known:
                continue
            try:
                result = read_result(folder)
            except SecguardError:
                continue  # a damaged folder keeps no later scan from being taken in; `list` and `verify` show it
            with file.turn():
                changes = file.changes(result)
                new = [change for change in changes if change.verb != "seen"]
                _record(site, new, result.run)
                file.apply(changes, result)
            acts += new
    return acts


def _record(site: "Workspace", changes: "Sequence[Change]", run: str, *, case: str = "", reason: str = "") -> None:
    from secguard.events import Event, new_event_id

    events = [
        Event(
            # A scan that is taken in twice says the same thing once.
            id=f"secguard:finding:{run}:{change.leak.id}:{change.verb}" if run else new_event_id(),
            kind=f"finding.{change.verb}",
            time=site.clock.now(),
            actor=site.actor(),
            subject=change.leak.id,
            case=case,
            reason=reason,
            data={"src": change.leak.src, "dst": change.leak.dst, "finding": f"isolation.{change.leak.kind}"}
            | ({"run": run} if run else {}),
        )
        for change in changes
    ]
    if events:
        site.ledger.record(events)


def _baselines(site: "Workspace") -> list[Path]:
    """The scans that were made baselines, one a policy, the latest first."""
    from secguard.isolation.evidence.folder import is_run

    path = site.state / "isolation" / _BASELINE
    if not path.is_file():
        return []
    names = read_bounded(path, MAX_CONFIG).decode("utf-8", "replace").split()
    folders = [path.parent / name for name in reversed(names)]
    return [folder for folder in folders if folder.parent == path.parent and is_run(folder)]


def _both(ctx: Context, old: str | None, new: str | None) -> tuple[Path, Path, str]:
    """The two scans, and why the earlier one: `OLD NEW`, `NEW` against the baseline, or the last against it."""
    from secguard.isolation.drift.earlier import earlier_of
    from secguard.isolation.evidence.folder import scan_name
    from secguard.isolation.evidence.summary import read_result

    if old is not None and new is not None:
        return find_run(ctx, old), find_run(ctx, new), _NAMED
    with ctx.workspace() as site:
        runs = kept_runs(site)
        if old is None and not runs:
            raise UsageError(
                "isolation.baseline.none", "no scan was kept yet", hint="secguard isolation run POLICY ..."
            )
        later = find_run(ctx, old or "last")
        marked = _baselines(site)
    result = read_result(later)
    if found := earlier_of(result, marked):
        return found[0], later, _MARKED
    name = scan_name(result.at, result.run)
    if found := earlier_of(result, (folder for folder in reversed(runs) if folder.name < name)):
        return found[0], later, found[1]
    raise UsageError(
        "isolation.baseline.none",
        f"no scan before {later.name} was by the same policy, or between the same zones",
        hint="name two scans of `secguard isolation list`: diff OLD NEW",
    )


def _same(folder: Path, result: "ScanResult") -> bool:
    """Whether a scan takes the place of a baseline; a damaged one vanishes."""
    from secguard.isolation.drift.earlier import akin
    from secguard.isolation.evidence.summary import read_result

    try:
        return akin(read_result(folder), result)
    except SecguardError:
        return True


@command("isolation.diff", "diff")
@click.argument("old", required=False, metavar="[OLD]")
@click.argument("new", required=False, metavar="[NEW]")
def diff(ctx: Context, *, old: str | None, new: str | None) -> Result:
    """Compare two scans: new leaks, closed ones, and what can no longer be said.

    Each is a folder, or a scan of `isolation list` by name. With one name, that scan is compared with the baseline;
    with none, the last one. Without a baseline of its policy, the scan before it by the same policy is taken. Exit 1
    when something became worse, 0 when all is the same or better, 3 when something cannot be compared.
    """
    from secguard.core.clock import SystemClock
    from secguard.isolation.drift.compare import compare
    from secguard.isolation.evidence.summary import read_result

    before, after, why = _both(ctx, old, new)
    earlier, later = read_result(before), read_result(after)
    drift = compare(earlier, later, SystemClock().now())
    said = _WHY[why][ctx.lang == "zh"]

    def report(_: str) -> "Report":
        from secguard.report import Code, Facts, Report, Text, Value

        rows: list[tuple[Text, Value]] = [
            (Text("Compared with", "对比基准"), Code(before.name)),
            (Text("Why that one", "选取依据"), Text(*_WHY[why]) if why != _NAMED else Text("named", "由用户指定")),
            (Text("Judged at", "基线判定时间"), earlier.at),
            (Text("Compared scan", "对比扫描"), Code(after.name)),
            (Text("Judged at", "对比判定时间"), later.at),
            (Text("New leaks", "新增泄漏"), len(drift.new)),
            (Text("Closed leaks", "已消除泄漏"), len(drift.closed)),
            (Text("As before", "保持不变"), len(drift.same)),
            (Text("Cases compared", "已比较用例"), drift.compared),
        ]
        return Report.of(drift.verdict, Text("Drift of isolation", "隔离变化"), [Facts(Text("Scans", "扫描"), rows)])

    return Result.of(
        drift.verdict,
        data={
            "chosen": why,
            "old": {"scan": before.name, "run": earlier.run, "at": earlier.at, "policy": earlier.policy},
            "new": {"scan": after.name, "run": later.run, "at": later.at, "policy": later.policy},
            "new_leaks": drift.new,
            "closed_leaks": drift.closed,
            "same_leaks": drift.same,
            "compared": drift.compared,
        },
        report=report,
        lines=[
            f"{after.name} against {before.name}{f' ({said})' if said else ''}; {drift.compared} cases compared",
            f"{len(drift.new)} new, {len(drift.closed)} closed, {len(drift.same)} as before",
        ],
    )


@command("isolation.baseline", "baseline")
@click.argument("run", required=False, metavar="[SCAN]")
@act_options
def baseline(ctx: Context, *, run: str | None, case: str, reason: str, yes: bool) -> Result:
    """Make a kept scan the baseline of its policy, which `diff` compares with; without SCAN, say which one it is."""
    del yes
    from secguard.core.files import atomic_write
    from secguard.isolation.evidence.summary import read_result

    with ctx.workspace() as site:
        marked = _baselines(site)
        if run is None:
            names = [folder.name for folder in marked]
            return Result(
                data={"baseline": names[0] if names else None, "baselines": names},
                lines=names or ["no baseline; the scan before by the same policy is taken"],
            )
        folder = find_run(ctx, run)
        if folder not in kept_runs(site):
            raise UsageError("isolation.baseline.kept", "only a scan that the workspace keeps", where=str(folder))
        result = read_result(folder)
        receipt = site.record(
            "baseline.set",
            f"sha256:{result.plan}",
            case=case,
            reason=reason,
            data={"scan": folder.name, "outcome": result.outcome},
        )
        others = [other.name for other in reversed(marked) if other != folder and not _same(other, result)]
        atomic_write(folder.parent / _BASELINE, "\n".join([*others, folder.name, ""]).encode(), mode=0o600)
    return Result(
        data={"baseline": folder.name, "recorded": receipt.index}, lines=[f"baseline: {folder.name} ({result.outcome})"]
    )


@command("isolation.findings", "findings")
@click.option("--all", "every", is_flag=True, help="Closed ones too.")
def findings(ctx: Context, *, every: bool) -> Result:
    """List what scans found and nothing closed yet: since when, how often, through which ports."""
    from secguard.isolation.judge.kinds import kind_words

    with ctx.workspace() as site, tracking(site) as file:
        found = [item for item in file.all() if every or item.state == "open"]
    rows = [
        (
            item.id,
            item.state + (f" (again, {item.reopened})" if item.reopened and item.state == "open" else ""),
            f"{item.src} -> {item.dst}" if item.src else item.dst,
            " ".join(filter(None, (getattr(kind_words(item.kind), ctx.lang), item.detail))),
            ", ".join(item.probes[:6]) + ("..." if len(item.probes) > 6 else ""),
            f"{item.first_seen:%Y-%m-%d}",
            f"{item.last_seen:%Y-%m-%d}",
            " ".join(filter(None, (item.closed_by, item.case))) if item.state == "closed" else "",
        )
        for item in found
    ]

    def report(_: str) -> "Report":
        from secguard.report import Code, Report, Text
        from secguard.report import Table as Sheet

        columns = (
            Text("Finding", "编号"),
            Text("State", "状态"),
            Text("From -> to", "方向"),
            Text("Kind", "类型"),
            Text("Probes", "探测"),
            Text("First seen", "首次发现"),
            Text("Last seen", "最近发现"),
            Text("Scans", "次数"),
            Text("Closed by", "关闭人"),
            Text("Case", "案号"),
            Text("Reason", "原因"),
        )
        states = {"open": Text("open", "未消除"), "closed": Text("closed", "已关闭")}
        sheet = [
            (
                Code(item.id),
                states[item.state],
                f"{item.src} -> {item.dst}" if item.src else item.dst,
                kind_words(item.kind),
                ", ".join(item.probes),
                item.first_seen,
                item.last_seen,
                item.seen,
                item.closed_by,
                item.case,
                item.reason,
            )
            for item in found
        ]
        return Report(Text("Findings of isolation scans", "隔离扫描发现跟踪"), [Sheet("", columns, sheet)])

    heads = ["finding", "state", "from -> to", "kind", "probes", "first seen", "last seen", "closed by"]
    return Result(
        data={"findings": found},
        report=report,
        tables=[Table("findings", heads, rows)],
        lines=[] if rows else ["nothing is open"],
        jsonl=({"id": item.id, "state": item.state, "src": item.src, "dst": item.dst} for item in found),
    )


@command("isolation.close", "close")
@click.argument("finding")
@act_options
def close(ctx: Context, *, finding: str, case: str, reason: str, yes: bool) -> Result:
    """Close a finding under a case number; the next scan that sees it opens it again."""
    del yes
    if not case or not reason:
        raise UsageError(
            "isolation.close.case", "closing needs a case number and a reason", hint="add --case C-17 --reason '...'"
        )
    with ctx.workspace() as site, tracking(site) as file, file.turn():
        change = file.closing(finding, by=site.actor().name, at=site.clock.now(), case=case, reason=reason)
        _record(site, [change], "", case=case, reason=reason)
        file.apply([change])
    return Result(data={"finding": change.leak}, lines=[f"{change.leak.id} closed under {case}"])
