"""`secguard init | status | doctor | serve`: the workspace as a whole."""

import sys
from pathlib import Path

import click

from secguard.cli.frame import Context, Result, Table, command

__all__ = ["completion", "doctor", "init", "serve", "status"]


@command("init")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--area", metavar="CODE", help="Administrative area code, 2 to 8 digits (asked for otherwise).")
@click.option("--name", default="secguard", show_default=True, help="The organisation, in certificates and reports.")
@click.option("--domain", default="video.internal", show_default=True, help="DNS domain under which devices are named.")
@click.option(
    "--add-missing", is_flag=True, help="Only add to a workspace the policies and profiles that it lacks (upgrade)."
)
def init(context: Context, directory: Path, area: str | None, name: str, domain: str, *, add_missing: bool) -> Result:
    """Make a workspace folder: secguard.toml, policies/, certs/, audit/ and an empty state/."""
    from secguard.workspace import site
    from secguard.workspace.site import DEFAULT_AREA, create_site

    if add_missing:
        added = site.add_missing(directory)
        return Result(
            data={"workspace": directory.resolve(), "added": added},
            lines=[*(f"added: {path}" for path in added), f"{directory}: {len(added)} files added, none changed"],
        )
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
    return Result(data={"checks": checks}, tables=[Table("", ("part", "here", "serves", "advice"), rows)])


@command("serve")
@click.option(
    "--publish-every",
    type=click.FloatRange(0.5, 86400),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How often a checkpoint is signed.",
)
@click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False), help="Opens the keys (mode 0600).")
@click.option(
    "--est", metavar="HOST:PORT", help="Serve enrolment (EST) over TLS there; port 0: a free one.  [default: serve.est]"
)
@click.option(
    "--status", metavar="HOST:PORT", help="Serve revocation lists and OCSP over HTTP there.  [default: serve.status]"
)
@click.option(
    "--ledger", metavar="HOST:PORT", help="Serve the log's checkpoint and tiles there.  [default: serve.ledger]"
)
def serve(
    context: Context,
    *,
    publish_every: float,
    passphrase_file: Path | None,
    est: str | None,
    status: str | None,
    ledger: str | None,
) -> Result:
    """Run the site's process until SIGTERM or SIGINT: sequence the log, follow it with the index, publish checkpoints.

    With --est or --status (or their keys under [serve]) it also serves enrolment, revocation lists and OCSP.
    """
    import signal
    import threading

    from secguard.service import Places, run_service

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with context.workspace() as workspace:
        if not context.quiet:
            click.echo(f"serving {workspace.ledger.origin}; stop with Ctrl-C", err=True)
        section = workspace.config.serve
        places = Places(
            est=section.est if est is None else est,
            status=section.status if status is None else status,
            ledger=section.ledger if ledger is None else ledger,
        )

        def announce(urls: dict[str, str]) -> None:
            for name, url in urls.items():
                click.echo(f"{name}: {url}", err=True)

        run_service(
            workspace,
            stop,
            publish_every=publish_every,
            passphrase_file=passphrase_file,
            places=places,
            announce=announce,
        )
        return Result(data={"ledger_size": workspace.ledger.size}, lines=["stopped"])


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL, for example: eval "$(secguard completion bash)"."""
    from click.shell_completion import get_completion_class

    from secguard.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "secguard", "_SECGUARD_COMPLETE").source())
