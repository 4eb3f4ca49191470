"""`secguard init | status | doctor | serve`: the workspace as a whole."""

import sys
from pathlib import Path

import click

from secguard.cli.frame import Context, Result, Table, command

__all__ = ["doctor", "init", "serve", "status"]


@command("init")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--area", metavar="CODE", help="Administrative area code, 2 to 8 digits (asked for otherwise).")
@click.option("--name", default="secguard", show_default=True, help="The organisation, in certificates and reports.")
@click.option("--domain", default="video.example", show_default=True, help="DNS domain under which devices are named.")
def init(context: Context, directory: Path, area: str | None, name: str, domain: str) -> Result:
    """Make a workspace folder: secguard.toml, policies/, certs/, audit/ and an empty state/."""
    from secguard.workspace.site import DEFAULT_AREA, create_site

    if area is None:
        asked = sys.stdin.isatty() and not context.quiet and not context.json
        area = click.prompt("Administrative area code", default=DEFAULT_AREA) if asked else DEFAULT_AREA
    path = create_site(directory, area=area, name=name, domain=domain)
    return Result(
        data={"workspace": directory.resolve(), "config": path.resolve(), "area": area},
        lines=[f"workspace: {directory}", f"next: secguard identity ca init -w {directory}"],
    )


@command("status")
def status(context: Context) -> Result:
    """Show what the workspace holds: certificates, ledger, index, and how far the index is behind."""
    facts = context.workspace().status()
    rows = [(key, value) for key, value in facts.items()]
    return Result(data=facts, tables=[Table("", ("what", "value"), rows)])


@command("doctor")
def doctor(context: Context) -> Result:
    """Check the machine: what works here, what is missing, and what to install."""
    from secguard.workspace.doctor import examine

    checks = examine()
    rows = [(check.part, "yes" if check.present else "no", check.serves, check.advice) for check in checks]
    return Result(
        data={"checks": checks}, tables=[Table("", ("part", "here", "serves", "advice"), rows)]
    )
