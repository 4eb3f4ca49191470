"""`secguard isolation resume`: go on with a run that was interrupted while it swept."""

from collections.abc import Sequence
from pathlib import Path

import click

from secguard.cli.frame import Context, Result, act_options, command
from secguard.cli.isolation.common import acts, key_option, new_folder, passphrase_option, show, signer_of
from secguard.cli.isolation.folders import keep
from secguard.cli.isolation.run import caller_of, caller_options, places_of

__all__ = ["resume_"]


@command("isolation.resume", "resume")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--in-namespaces",
    "namespaces",
    multiple=True,
    metavar="ZONE=NAMESPACE",
    help="Where an agent is now, if its network namespace is another one.",
)
@caller_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Where to write.  [default: as begun]"
)
@key_option
@passphrase_option
@act_options
def resume_(
    ctx: Context,
    *,
    folder: Path,
    namespaces: Sequence[str],
    remotes: Sequence[str],
    cert: Path | None,
    cert_key: str | None,
    roots: Sequence[Path],
    crls: Sequence[Path],
    output: Path | None,
    key: str | None,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Go on with an interrupted run: the folder OUTPUT.part that it left.

    The plan, the keys and what all agents have kept stay; only rounds of sweeps that are not whole are sent again.
    """
    del yes
    from secguard.isolation.runs.runner import resume_run
    from secguard.isolation.runs.state import RunState

    state = RunState.open(folder)
    state.places.update(places_of(namespaces, remotes))
    output = output or (Path(state.output) if state.output else None)
    new_folder(output)
    caller = None
    if any("://" in place for place in state.places.values()):
        caller = caller_of(ctx, cert=cert, cert_key=cert_key, roots=roots, crls=crls, passphrase_file=passphrase_file)
    with acts(ctx, case, reason) as act:
        signer = signer_of(ctx, key, passphrase_file)
        result = resume_run(state, signer=signer, caller=caller, progress=ctx.progress("isolation"), act=act)
    kept = keep(ctx, result, output, state)
    return show(result, ctx.lang, verdict=None, **kept)
