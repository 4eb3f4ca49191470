"""Scans that are kept: `secguard isolation verify FOLDER`, `list`, and where `run` puts what it wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command, require_option
from secguard.core.errors import RefusedError, SecguardError, SystemPartError, UsageError
from secguard.core.verdict import Axis

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from secguard.isolation.runs.conclude import RunResult
    from secguard.isolation.runs.state import RunState
    from secguard.report import Report
    from secguard.workspace import Workspace

__all__ = ["find_run", "judge_folder", "keep", "kept_runs", "list_", "not_kept", "verify"]

_FILE = click.Path(path_type=Path, dir_okay=False)


def keep(ctx: Context, result: "RunResult", output: Path | None, state: "RunState | None" = None) -> dict[str, Path]:
    """Keep a run in the workspace (`state/isolation/<time>-<run>`), if one is open, and write it to `-o`.

    What it takes to go on with the run is removed once the run is kept somewhere.

    Returns:
        `folder`, where it is kept, and `copy`, where else; empty if nowhere.
    """
    from secguard.isolation.evidence.folder import run_name, save_run

    places: dict[str, Path] = {}
    site = ctx.workspace_or_none()
    if site is not None:
        with site:
            from secguard.cli.isolation.drift import update

            places["folder"] = site.state / "isolation" / run_name(result)
            save_run(result, places["folder"], fresh=True)
            if state is not None:
                state.end()
            update(site)
    if output is not None:
        try:
            save_run(result, output)
        except SecguardError as error:
            if places:
                raise SystemPartError(
                    error.code, error.message, hint=f"the scan is kept: {places['folder']}", where=error.where
                ) from error
            raise
        places["copy" if places else "folder"] = output
    if state is not None:
        state.end()
    return places


def not_kept(ctx: Context, run: str) -> None:
    """Refuse to keep a run twice.

    Raises:
        UsageError: there is no workspace.
        RefusedError: the workspace has it.
    """
    with ctx.workspace() as site:
        for folder in kept_runs(site):
            if folder.name.endswith(f"-{run[:8]}"):
                raise RefusedError(
                    "isolation.folder.exists",
                    "this run was kept before",
                    hint=f"secguard isolation judge {folder}",
                    where=str(folder),
                )


def recorded(site: "Workspace") -> "Callable[[str], str | None]":
    """What the workspace's ledger says of a plan: the SHA-256 of the result it recorded."""

    def look(plan: str) -> str | None:
        from secguard.audit.query.query import And, Equals

        site.catch_up()
        query = And((Equals("kind", "scan.finished"), Equals("subject", f"sha256:{plan}")))
        for seq in site.index.find(query, limit=10).seqs:
            event = site.ledger.event(seq)
            if event.kind == "scan.finished" and event.subject == f"sha256:{plan}":
                return str(event.data.get("result_sha256", "")) or None
        return None

    return look


def find_run(ctx: Context, name: str) -> Path:
    """A folder by its path, or a run kept in the workspace by its name, the start of it, or `last`.

    Raises:
        UsageError: there is none, or several.
    """
    from secguard.isolation.evidence.folder import is_run

    if is_run(Path(name)):
        return Path(name)
    site = ctx.workspace_or_none()
    kept = kept_runs(site) if site is not None else []
    if name == "last" and kept:
        return kept[-1]
    found = [folder for folder in kept if folder.name == name or name in (folder.name[-8:], folder.name[: len(name)])]
    if len(found) == 1:
        return found[0]
    raise UsageError(
        "isolation.folder.none",
        f"{len(found) or 'no'} scans are called {name[:80]!r}",
        hint="name a folder, or a scan of `secguard isolation list`",
    )


def judge_folder(ctx: Context, folder: Path, trust: Path | None, require: tuple[Axis, ...]) -> "RunResult":
    """Judge a run's folder again, once everything in it has been checked.

    Raises:
        RefusedError: something in it is not as it was signed, or another key signed it.
    """
    from secguard.core.findings import describe
    from secguard.core.verdict import Outcome
    from secguard.isolation.evidence.folder import check_folder, judged
    from secguard.isolation.evidence.handout import read_key

    checked = check_folder(folder, trusted=[read_key(trust)] if trust else [])
    wrong = [found for found in checked.verdict.findings if found.outcome is Outcome.FAIL]
    if wrong or checked.result is None:
        raise RefusedError(
            "isolation.folder.changed",
            "; ".join(describe(found, ctx.lang) for found in wrong[:3]),
            hint="secguard isolation verify FOLDER says more",
            where=str(folder),
        )
    return judged(folder, require) if require else checked.result


def kept_runs(site: "Workspace") -> list[Path]:
    """Folders of the runs in a workspace, oldest first."""
    from secguard.isolation.evidence.folder import is_run

    folder = site.state / "isolation"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_run(path))


@command("isolation.verify", "verify")
@click.argument("run", metavar="FOLDER")
@click.option("--trust", type=_FILE, multiple=True, help="Public key (PEM) of a controller that may have signed.")
@click.option("--root", type=_FILE, help="Root whose operators are believed.  [default: the workspace's]")
@click.option(
    "--crl", type=click.Path(path_type=Path), multiple=True, help="Revocation lists, besides the workspace's."
)
@click.option("--at", metavar="TIME", help="Judge certificates for this time.  [default: now]")
@require_option
def verify(
    ctx: Context,
    *,
    run: str,
    trust: "Sequence[Path]",
    root: Path | None,
    crl: "Sequence[Path]",
    at: str | None,
    require: tuple[Axis, ...],
) -> Result:
    """Check the evidence of a scan: every byte of its folder, and that its result follows from its observations.

    FOLDER is what `run -o` wrote, or a scan of `isolation list` by name, or `last`. Exit 0 says that the evidence is
    whole and whose it is, not that the zones are apart. Whose it is says the ledger of the workspace that recorded the
    scan, a key that you --trust, or the certificate of the operator who signed it.
    """
    from secguard.core.clock import FixedClock, SystemClock, parse_time
    from secguard.isolation.evidence.folder import check_folder
    from secguard.isolation.evidence.handout import read_key
    from secguard.trust import TrustPolicy, read_certificates, read_crls

    folder = find_run(ctx, run)
    keys = [read_key(path) for path in trust]
    clock = FixedClock(parse_time(at)) if at else SystemClock()
    site = ctx.workspace_or_none()
    if site is None:
        anchors = TrustPolicy(read_certificates(root), read_crls(crl)) if root else None
        checked = check_folder(folder, trusted=keys, anchors=anchors, clock=clock, require=require)
    else:
        with site:
            anchors = site.trust(root, crl) if root or site.root_certificate.exists() else None
            checked = check_folder(
                folder, trusted=keys, recorded=recorded(site), anchors=anchors, clock=clock, require=require
            )
    data: dict[str, Any] = {"folder": folder}
    lines = []
    again = checked.result
    if again is not None:
        data |= {"plan": again.digest, "run": again.plan.run, "scan": again.verdict.outcome.value}
        lines = [f"the scan itself: {again.verdict.outcome.value}, {len(again.plan.cases)} cases"]

    def report(_: str) -> "Report":
        from secguard.report import Code, Facts, Report, Section, Text, Value

        said: list[Section] = []
        if again is not None:
            rows: list[tuple[Text, Value]] = [
                (Text("Outcome of the scan", "扫描结论"), again.verdict.outcome),
                (Text("Judged anew at", "重新判定时间"), again.verdict.at),
                (Text("Plan (SHA-256)", "计划（SHA-256）"), Code(again.digest)),
                (Text("Policy (SHA-256)", "策略（SHA-256）"), Code(again.plan.policy)),
                (Text("Run", "批次"), Code(again.plan.run)),
                (Text("Cases", "用例"), len(again.plan.cases)),
            ]
            said.append(Facts(Text("The scan", "扫描"), rows))
        return Report.of(checked.verdict, Text("Evidence of a scan", "扫描证据核验"), said)

    return Result.of(checked.verdict, data=data, lines=lines, report=report)


@command("isolation.list", "list")
def list_(ctx: Context) -> Result:
    """List the scans that the workspace keeps, newest last."""
    from secguard.isolation.evidence.summary import summary_of

    with ctx.workspace() as site:
        rows = [summary_of(folder) for folder in kept_runs(site)]
    return Result(
        data={"scans": rows},
        tables=[
            Table(
                "scans",
                ["scan", "outcome", "cases", "violations", "inconclusive", "policy"],
                [(row.name, row.outcome, row.cases, row.failed, row.unknown, row.policy[:12]) for row in rows],
            )
        ],
        lines=[] if rows else ["no scan was kept yet"],
        jsonl=({"name": row.name, "outcome": row.outcome, "cases": row.cases} for row in rows),
    )
