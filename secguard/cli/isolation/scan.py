"""`secguard isolation judge | lab`: a verdict from what agents brought back, and a network made for the moment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from secguard.cli.isolation.folders import judge_folder, keep, not_kept
from secguard.core.errors import UsageError
from secguard.core.verdict import Axis

__all__ = ["judge_", "lab_"]


@command("isolation.judge", "judge")
@click.argument("plan_file", metavar="PLAN|FOLDER", type=click.Path(path_type=Path))
@click.argument("observations", nargs=-1, type=FILE)
@click.option("--trust", type=FILE, help="Public key (PEM) whose signature on the plan counts.")
@click.option("--keep", "keeping", is_flag=True, help="Keep the scan in the workspace: recorded, listed, tracked.")
@folder_option
@key_option
@passphrase_option
@require_option
@act_options
def judge_(
    ctx: Context,
    *,
    plan_file: Path,
    observations: Sequence[Path],
    trust: Path | None,
    keeping: bool,
    output: Path | None,
    key: str | None,
    passphrase_file: Path | None,
    require: tuple[Axis, ...],
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Judge a signed plan and the agents' signed observations, carried here as files.

    Takes PLAN and OBSERVATIONS, or the FOLDER of a scan: every file in that is checked first, as `verify` does. With
    --keep the workspace keeps a scan that was carried here like one that it ran itself; judge it with all that the
    agents brought back.
    """
    del yes
    from secguard.core.limits import read_bounded
    from secguard.isolation.evidence.folder import save_run
    from secguard.isolation.evidence.handout import read_key
    from secguard.isolation.runs.conclude import conclude
    from secguard.keys import Algorithm, generate

    if plan_file.is_dir():
        if keeping or output is not None:
            raise UsageError(
                "isolation.judge.kept", "a folder is kept already", hint="--keep and -o take PLAN OBSERVATIONS"
            )
        return show(judge_folder(ctx, plan_file, trust, require), ctx.lang)
    if trust is None or not observations:
        raise UsageError(
            "isolation.judge.missing",
            "a plan needs its observations and --trust KEY",
            hint="secguard isolation judge plan.json observations-*.json --trust plan.signer.pem",
        )
    new_folder(output)
    signer = None
    if keeping or output is not None:
        signer = signer_of(ctx, key, passphrase_file) or generate(Algorithm.ED25519)
    reports = [read_bounded(path) for path in observations]
    result = conclude(read_bounded(plan_file), reports, [read_key(trust)], signer=signer, require=require)
    kept: dict[str, Any] = {}
    if keeping:
        not_kept(ctx, result.plan.run)
        with acts(ctx, case, reason, policy=result.plan.policy) as act, act(result.digest) as closing:
            closing.update(result.summary())
        kept = keep(ctx, result, output)
    elif output is not None:
        save_run(result, output)
        kept = {"folder": output}
    return show(result, ctx.lang, **kept)


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

    tight passes (exit 0); leaky holds twenty-six planted mistakes, and each is named (exit 1). Needs no root where
    user namespaces are allowed.
    """
    del yes
    from secguard.core.limits import MAX_CONFIG, read_bounded
    from secguard.isolation.evidence.folder import save_run
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
        save_run(result, output)
    return show(result, ctx.lang, lab=kind)
