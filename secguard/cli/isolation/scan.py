"""`secguard isolation judge | lab`: a verdict from what agents brought back, and a network made for the moment."""

from collections.abc import Sequence
from pathlib import Path

import click

from secguard.cli.frame import Context, Result, act_options, command, require_option
from secguard.cli.isolation.common import (
    FILE,
    acts,
    folder_option,
    key_option,
    new_folder,
    passphrase_option,
    show,
    signer_of,
)
from secguard.cli.isolation.folders import judge_folder, keep, read_key
from secguard.core.errors import UsageError
from secguard.core.verdict import Axis

__all__ = ["judge_", "lab_"]


@command("isolation.judge", "judge")
@click.argument("plan_file", metavar="PLAN|FOLDER", type=click.Path(path_type=Path))
@click.argument("observations", nargs=-1, type=FILE)
@click.option("--trust", type=FILE, help="Public key (PEM) whose signature on the plan counts.")
@require_option
def judge_(
    ctx: Context, *, plan_file: Path, observations: Sequence[Path], trust: Path | None, require: tuple[Axis, ...]
) -> Result:
    """Judge a signed plan and the agents' signed observations, carried here as files.

    Takes PLAN and OBSERVATIONS, or the FOLDER of a scan: every file in that is checked first, as `verify` does.
    """
    from secguard.core.limits import read_bounded
    from secguard.isolation.runs.conclude import conclude

    if plan_file.is_dir():
        return show(judge_folder(ctx, plan_file, trust, require), ctx.lang)
    if trust is None or not observations:
        raise UsageError("isolation.judge.missing", "a plan needs its observations and --trust KEY")
    reports = [read_bounded(path) for path in observations]
    return show(conclude(read_bounded(plan_file), reports, [read_key(trust)], require=require), ctx.lang)


@command("isolation.lab", "lab")
@click.argument("kind", type=click.Choice(["tight", "leaky"]))
@click.option("--rules", type=FILE, help="Your own nft rules; the interfaces are called int, ext and dmz.")
@click.option("--profiles", metavar="NAME,...", default="", help="Send these profiles of probes only.  [default: all]")
@folder_option
@key_option
@passphrase_option
@act_options
def lab_(
    ctx: Context,
    *,
    kind: str,
    rules: Path | None,
    profiles: str,
    output: Path | None,
    key: str | None,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Scan a lab of three zones and a firewall, made of network namespaces for the moment.

    tight passes (exit 0); leaky holds twenty-five planted mistakes, and each is named (exit 1). Needs no root where
    user namespaces are allowed.
    """
    del yes
    from secguard.core.limits import MAX_CONFIG, read_bounded
    from secguard.isolation.lab.lab import run_lab

    new_folder(output)
    text = read_bounded(rules, MAX_CONFIG).decode("utf-8", "replace") if rules else None
    with acts(ctx, case, reason, lab=kind) as act:
        result = run_lab(
            kind,
            ctx.progress(f"lab {kind}"),
            signer=signer_of(ctx, key, passphrase_file),
            act=act,
            rules=text,
            rules_name=str(rules),
            profiles=[name.strip() for name in profiles.split(",")] if profiles else (),
        )
    if output is not None:
        keep(ctx, result, output)
    return show(result, ctx.lang, lab=kind)
