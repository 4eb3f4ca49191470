"""`secguard isolation run`: probe between agents, from both ends, and judge."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, act_options, command
from secguard.cli.isolation.common import (
    FILE,
    acts,
    chain_option,
    folder_option,
    hostile_option,
    key_option,
    new_folder,
    passphrase_option,
    show,
    signer_of,
    signing,
)
from secguard.cli.isolation.folders import keep
from secguard.cli.isolation.resumable import resumable
from secguard.cli.isolation.schedule import not_due, schedule_options, scheduled, settings
from secguard.core.errors import SecguardError, UsageError

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.isolation.runs.remote import Caller
    from secguard.isolation.schedule.scheduled import Scheduled

__all__ = ["caller_of", "caller_options", "places_of", "run_"]


def _namespace(text: str) -> tuple[str, str]:
    zone, equals, place = text.partition("=")
    if not equals or not zone or not place:
        raise UsageError("isolation.namespace.format", f"not ZONE=NAMESPACE: {text[:60]!r}", hint="int=/run/netns/int")
    if "/" in place:
        return zone, place
    return zone, f"/proc/{place}/ns/net" if place.isdigit() else f"/run/netns/{place}"


def _remote(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not equals or not name or not url.startswith("https://"):
        raise UsageError(
            "isolation.agent.url", f"not AGENT=https://HOST:PORT: {text[:80]!r}", hint="a-video=https://10.0.0.5:8470"
        )
    return name, url


def places_of(namespaces: Sequence[str], remotes: Sequence[str]) -> dict[str, str]:
    """Zone or agent -> namespace or URL, from `ZONE=NAMESPACE` and `AGENT=URL`."""
    return dict([*map(_namespace, namespaces), *map(_remote, remotes)])


def caller_of(
    ctx: Context,
    *,
    cert: Path | None,
    cert_key: str | None,
    roots: Sequence[Path],
    crls: Sequence[Path],
    passphrase_file: Path | None,
) -> "Caller":
    """How this controller shows itself to agents, and whom it believes: by default what the workspace has."""
    from secguard.isolation.agent.credentials import Trust
    from secguard.isolation.agent.peer import private_pem
    from secguard.isolation.runs.remote import Caller
    from secguard.trust import chain_pem, read_certificates

    if cert is None or cert_key is None:
        raise UsageError(
            "isolation.agent.caller",
            "agents on other machines want a certificate",
            hint="secguard identity issue HOST --profile isolation-agent -o DIR; then --cert CHAIN.pem --cert-key FILE",
        )
    site = ctx.workspace_or_none()
    if site is not None:
        with site:
            roots = roots or [site.root_certificate]
            crls = [*site.crl_paths(), *crls]
    signer = signer_of(ctx, cert_key, passphrase_file)
    assert signer is not None
    return Caller(chain_pem(read_certificates(cert)), private_pem(signer), Trust((), tuple(roots), tuple(crls)))


def caller_options(function: Any) -> Any:
    """Options of a controller that calls agents over HTTPS."""
    for option in reversed(
        (
            click.option(
                "--agent",
                "remotes",
                multiple=True,
                metavar="AGENT=URL",
                help="An agent that serves HTTPS: https://host:port, on the management network.",
            ),
            click.option("--cert", type=FILE, help="This controller's certificate and its CA's, PEM."),
            click.option("--cert-key", metavar="REF", help="Its private key, file:PATH."),
            click.option(
                "--root", "roots", type=FILE, multiple=True, help="Root of the agents' certificates.  [default: own]"
            ),
            click.option(
                "--crl",
                "crls",
                type=click.Path(path_type=Path),
                multiple=True,
                help="Revocation lists, besides the workspace's.",
            ),
        )
    ):
        function = option(function)
    return function


def _complain(row: "Scheduled") -> None:
    """Say on stderr which alert did not arrive: nothing else will."""
    for told in row.told:
        if not told.delivered:
            click.echo(f"alert not delivered ({told.hook}): {told.text}", err=True)


def _with_alerts(result: Result, row: "Scheduled") -> Result:
    if row.told:
        result.data = {
            **result.data,
            "alerts": [{"hook": told.hook, "delivered": told.delivered, "text": told.text} for told in row.told],
        }
        result.lines = [
            *result.lines,
            *(f"alert delivered ({told.hook}): {told.text}" for told in row.told if told.delivered),
        ]
    return result


@command("isolation.run", "run")
@click.argument("policy", type=FILE, required=False)
@click.argument("more", nargs=-1, metavar="[ZONE=NAMESPACE]...")
@click.option(
    "--in-namespaces",
    "namespaces",
    multiple=True,
    metavar="ZONE=NAMESPACE...",
    help="Network namespace of each zone's agent: a path, a name of /run/netns, or a process ID.",
)
@caller_options
@schedule_options
@hostile_option
@folder_option
@key_option
@chain_option
@passphrase_option
@act_options
def run_(
    ctx: Context,
    *,
    policy: Path | None,
    more: Sequence[str],
    namespaces: Sequence[str],
    remotes: Sequence[str],
    cert: Path | None,
    cert_key: str | None,
    roots: Sequence[Path],
    crls: Sequence[Path],
    if_due: bool,
    every: str | None,
    on_finding: str | None,
    webhook: str | None,
    webhook_ca: Path | None,
    webhook_secret: Path | None,
    allow_hostile: bool,
    output: Path | None,
    key: str | None,
    chain: Path | None,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Probe between agents by a policy, from both ends, and judge.

    Agents are processes in network namespaces of this machine (--in-namespaces), or serve HTTPS elsewhere (--agent).
    What a flag leaves out, [isolation] of secguard.toml says. With --if-due nothing happens unless a scan is due.
    """
    del yes
    import msgspec

    from secguard.isolation.policy.policy import load_policy
    from secguard.isolation.runs.runner import run

    given, root = settings(ctx)
    if policy is None:
        if not given.policy or root is None:
            raise UsageError("isolation.run.policy", "by which policy?", hint="name one, or set isolation.policy")
        policy = root / given.policy
    places = places_of((*namespaces, *more), remotes)
    if not places:
        places = dict(given.agents)
    row = scheduled(
        ctx,
        policy,
        every=every,
        on_finding=on_finding,
        webhook=webhook,
        webhook_ca=webhook_ca,
        webhook_secret=webhook_secret,
    )
    if if_due and (not row.every or row.book is None):
        raise UsageError(
            "isolation.schedule.none",
            "there is no schedule",
            hint="give --every 24h in a workspace, or set isolation.every",
        )
    with row.book.hold(row.policy) if row.book and (if_due or row.every) else contextlib.nullcontext():
        row.begin()
        if if_due and not row.due():
            return not_due(row)
        try:
            checked = load_policy(policy)
            if allow_hostile:
                checked = msgspec.structs.replace(checked, hostile="allowed")
            new_folder(output)
            remote = any("://" in place for place in places.values())
            certificates: list[x509.Certificate] = []
            if remote or chain:
                signer, certificates = signing(ctx, key, passphrase_file, chain)
            else:
                signer = signer_of(ctx, key, passphrase_file)
            caller = None
            if remote:
                caller = caller_of(
                    ctx,
                    cert=cert or (root / given.cert if root and given.cert else None),
                    cert_key=cert_key or (str(root / given.cert_key) if root and given.cert_key else None),
                    roots=roots,
                    crls=crls,
                    passphrase_file=passphrase_file,
                )
            state = resumable(ctx, checked, places, signer, output)
            with acts(ctx, case, reason, policy=checked.digest) as act:
                result = run(
                    checked,
                    places,
                    signer=signer,
                    chain=certificates,
                    caller=caller,
                    progress=ctx.progress("isolation"),
                    act=act,
                    state=state,
                )
            kept = keep(ctx, result, output, state)
        except SecguardError as error:
            row.fail(error)
            _complain(row)
            raise
        verdict = row.settle(result.verdict, result.plan.run)
        _complain(row)
    shown = show(result, ctx.lang, verdict=verdict, **kept)
    return _with_alerts(shown, row)
