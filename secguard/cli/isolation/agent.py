"""`secguard isolation agent`: one end of a scan, reached over HTTPS, or led by the clock with a plan in a file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, command
from secguard.cli.isolation.common import FILE, passphrase_option
from secguard.core.errors import UsageError

if TYPE_CHECKING:
    from secguard.isolation.agent.credentials import Trust

__all__ = ["agent"]


@dataclass(frozen=True)
class _Agent:
    """What both ways of leading an agent need to know."""

    name: str
    zone: str
    cert: Path | None
    key: str
    passphrase: bytes | None
    trust: "Trust"
    memory: Path
    namespace: str


@command("isolation.agent", "agent")
@click.option("--name", required=True, help="The agent's name, as in the policy.")
@click.option("--zone", default="", help="Where it stands: a plan that puts it elsewhere is refused.")
@click.option("--listen", metavar="HOST:PORT", help="Serve HTTPS there, on the management network.")
@click.option("--bundle", type=FILE, metavar="PLAN", help="Run this plan by the clock, and end.")
@click.option("-o", "--output", type=FILE, metavar="OBSERVATIONS", help="With --bundle: what to write, signed.")
@click.option("--start", metavar="TIME", help="With --bundle: when the phases begin.  [default: as the plan says]")
@click.option("--cert", type=FILE, help="The agent's certificate (isolation-agent profile) and its CA's, PEM.")
@click.option("--key", metavar="REF", required=True, help="Its private key, file:PATH: signs what the agent saw.")
@click.option(
    "--root", "--ca", "roots", type=FILE, multiple=True, help="Root certificate: of callers, and of plans' signers."
)
@click.option(
    "--crl",
    "crls",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Revocation lists: files or folders, read anew for each call. Without a fresh one nothing is believed.",
)
@click.option("--trust", "trusted", type=FILE, multiple=True, help="Public key (PEM) whose plans count without a root.")
@click.option("--in-namespace", "namespace", default="", metavar="PATH", help="Probe in this network namespace.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the runs are remembered.  [default: $STATE_DIRECTORY, or ~/.local/state/secguard/agent]",
)
@passphrase_option
def agent(
    ctx: Context,
    *,
    name: str,
    zone: str,
    listen: str | None,
    bundle: Path | None,
    output: Path | None,
    start: str | None,
    cert: Path | None,
    key: str,
    roots: Sequence[Path],
    crls: Sequence[Path],
    trusted: Sequence[Path],
    namespace: str,
    state: Path | None,
    passphrase_file: Path | None,
) -> Result | None:
    """Send and hear in one zone. Needs CAP_NET_RAW, not root.

    With --listen it serves HTTPS with mutual TLS until it is stopped; `isolation run --agent` calls it. With --bundle
    it takes a plan that was carried here, runs its phases by the clock, and writes signed OBSERVATIONS to be carried
    back to `isolation judge`. A plan runs once, and only from a signer that --root or --trust vouches for.
    """
    from secguard.isolation.agent.credentials import Trust, read_key
    from secguard.isolation.agent.memory import default_folder
    from secguard.keys import find_passphrase

    if (listen is None) == (bundle is None):
        raise UsageError("isolation.agent.mode", "how is it led?", hint="give --listen HOST:PORT, or --bundle PLAN")
    if not roots and not trusted:
        raise UsageError("isolation.agent.trust", "whose plans count?", hint="give --root CA.pem, or --trust KEY.pem")
    trust = Trust(tuple(map(read_key, trusted)), tuple(roots), tuple(crls))
    memory = state or default_folder()
    encrypted = b"ENCRYPTED" in _head(key)
    passphrase = find_passphrase(passphrase_file) if encrypted else None
    me = _Agent(name, zone, cert, key, passphrase, trust, memory, namespace)
    if bundle is None:
        assert listen is not None
        if output or start:
            raise UsageError("isolation.agent.mode", "--output and --start are for --bundle")
        _serve(ctx, me, listen)
        return None
    if output is None:
        raise UsageError("isolation.agent.output", "where do the observations go?", hint="give -o OBSERVATIONS")
    return _bundle(ctx, me, bundle, output, start)


def _head(key: str) -> bytes:
    """The first bytes of a key file: whether it wants a passphrase."""
    try:
        with Path(key.removeprefix("file:")).open("rb") as file:
            return file.read(64)
    except OSError:
        return b""  # opening the key says what is wrong


def _serve(ctx: Context, me: _Agent, listen: str) -> None:
    from secguard.isolation.agent.app import Door
    from secguard.service.isolation import Identity, serve_agent

    if me.cert is None:
        raise UsageError("isolation.agent.cert", "HTTPS needs a certificate", hint="give --cert CHAIN.pem")
    door = Door(me.name, b"", "", me.trust, me.memory, zone=me.zone, namespace=me.namespace)

    def ready(url: str) -> None:
        if not ctx.quiet:
            click.echo(f"agent {me.name} (process {os.getpid()}) serves {url}", err=True)

    serve_agent(door, Identity(me.cert, me.key, me.passphrase), listen, ready)


def _bundle(ctx: Context, me: _Agent, plan: Path, output: Path, start: str | None) -> Result:
    import hashlib

    from secguard.core.clock import SystemClock, parse_time, rfc3339
    from secguard.core.errors import RefusedError
    from secguard.core.files import atomic_write
    from secguard.core.limits import read_bounded
    from secguard.isolation.agent.bundle import open_bundle, run_bundle
    from secguard.isolation.agent.credentials import fingerprint
    from secguard.isolation.agent.desk import Self
    from secguard.isolation.wire.wire import enter_namespace
    from secguard.keys import load_signer
    from secguard.trust import read_certificates

    if output.exists():
        raise RefusedError(
            "isolation.output.exists", "a file is there already", hint="name a new one", where=str(output)
        )
    clock = SystemClock()
    mark = fingerprint(read_certificates(me.cert)[0]) if me.cert else ""
    own = Self(me.name, load_signer(me.key, me.passphrase), certificate=mark, zone=me.zone)
    checked = open_bundle(read_bounded(plan), own, me.trust, clock, parse_time(start) if start else None)
    if me.namespace:
        enter_namespace(me.namespace)
    if not ctx.quiet:
        times = checked.times
        text = f"agent {me.name}: hears from {rfc3339(times.ready)}, sends from {rfc3339(times.phases[0])}, "
        click.echo(f"{text}ends {rfc3339(times.end)}", err=True)
    envelope = run_bundle(checked, own, me.memory, clock, progress=ctx.progress(f"agent {me.name}"))
    atomic_write(output, envelope, mode=0o600)
    return Result(
        data={
            "run": checked.plan.run,
            "plan": checked.digest,
            "agent": me.name,
            "output": output,
            "sha256": hashlib.sha256(envelope).hexdigest(),
        },
        lines=[f"observations: {output}", "next: carry them to `secguard isolation judge PLAN OBSERVATIONS...`"],
    )
