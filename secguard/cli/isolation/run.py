"""`secguard isolation run`: probe between agents, from both ends, and judge."""

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
from secguard.core.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.isolation.runs.remote import Caller

__all__ = ["caller_options", "run_"]


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


def _caller(
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


@command("isolation.run", "run")
@click.argument("policy", type=FILE)
@click.argument("more", nargs=-1, metavar="[ZONE=NAMESPACE]...")
@click.option(
    "--in-namespaces",
    "namespaces",
    multiple=True,
    metavar="ZONE=NAMESPACE...",
    help="Network namespace of each zone's agent: a path, a name of /run/netns, or a process ID.",
)
@caller_options
@hostile_option
@folder_option
@key_option
@chain_option
@passphrase_option
@act_options
def run_(
    ctx: Context,
    *,
    policy: Path,
    more: Sequence[str],
    namespaces: Sequence[str],
    remotes: Sequence[str],
    cert: Path | None,
    cert_key: str | None,
    roots: Sequence[Path],
    crls: Sequence[Path],
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
    """
    del yes
    import msgspec

    from secguard.isolation.policy.policy import load_policy
    from secguard.isolation.runs.runner import run

    checked = load_policy(policy)
    if allow_hostile:
        checked = msgspec.structs.replace(checked, hostile="allowed")
    places = dict([*map(_namespace, (*namespaces, *more)), *map(_remote, remotes)])
    new_folder(output)
    caller = None
    certificates: list[x509.Certificate] = []
    if remotes or chain:
        signer, certificates = signing(ctx, key, passphrase_file, chain)
    else:
        signer = signer_of(ctx, key, passphrase_file)
    if remotes:
        caller = _caller(ctx, cert=cert, cert_key=cert_key, roots=roots, crls=crls, passphrase_file=passphrase_file)
    with acts(ctx, case, reason, policy=checked.digest) as act:
        result = run(
            checked,
            places,
            signer=signer,
            chain=certificates,
            caller=caller,
            progress=ctx.progress("isolation"),
            act=act,
        )
    kept = keep(ctx, result, output)
    return show(result, ctx.lang, **({"folder": kept} if kept else {}))
