"""Where a scan that sweeps keeps what it takes to go on after a kill."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context

if TYPE_CHECKING:
    from secguard.isolation.policy.policy import Policy
    from secguard.isolation.runs.state import RunState
    from secguard.keys import Signer

__all__ = ["resumable"]


def resumable(
    ctx: Context, policy: "Policy", places: Mapping[str, str], signer: "Signer | None", output: Path | None
) -> "RunState | None":
    """Where a run that sweeps writes what it takes to go on: beside its output, or in the workspace; else nowhere."""
    from secguard.isolation.agent.keys import spki
    from secguard.isolation.runs.state import RunState

    if not any(zone.targets for zone in policy.zones):
        return None
    folder = output.with_name(f"{output.name}.part") if output is not None else None
    if folder is None:
        site = ctx.workspace_or_none()
        if site is None:
            return None
        with site:
            folder = site.state / "isolation" / f".part-{policy.digest[:12]}"
    state = RunState.begin(folder.absolute(), dict(places), str(output.absolute()) if output else "")
    state.trust = spki((signer or state.key("signer")).public_key())
    if not ctx.quiet:
        click.echo(f"if it is interrupted: secguard isolation resume {state.folder}", err=True)
    return state
