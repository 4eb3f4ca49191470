"""`secguard isolation plan`: compile a policy into a signed plan, for agents that nobody gives orders to."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.isolation.common import FILE, chain_option, hostile_option, key_option, passphrase_option, signing
from secguard.core.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.isolation.plan.plan import AgentInfo, Plan
    from secguard.isolation.policy.policy import Policy

__all__ = ["plan"]


def _certificates(ctx: Context, given: Sequence[str], policy: "Policy") -> "dict[str, x509.Certificate]":
    """The agents' certificates: from `--agent-cert`, else those that the workspace has issued."""
    from secguard.isolation.agent.credentials import stands_for
    from secguard.trust import read_certificates

    names = [agent.name for zone in policy.zones for agent in zone.agents]
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name not in names:
            raise UsageError(
                "isolation.agent.certificate",
                f"not AGENT=PEM: {text[:80]!r}",
                hint=f"agents of the policy: {', '.join(names)[:200]}",
            )
        found[name] = read_certificates(Path(path))[0]
        if not stands_for(found[name], name):
            raise UsageError("isolation.agent.certificate", f"the certificate is not agent {name}'s", where=path)
    site = ctx.workspace_or_none()
    if site is not None:
        with site:
            for holder in site.registry.holders("isolation-agent") if site.root_certificate.exists() else ():
                record = site.registry.active(holder, "isolation-agent")
                for name in names:
                    if record is not None and name not in found and stands_for(record.x509(), name):
                        found[name] = record.x509()
    return found


def _agents(policy: "Policy", certificates: "dict[str, x509.Certificate]") -> "list[AgentInfo]":
    from secguard.isolation.agent.credentials import fingerprint
    from secguard.isolation.agent.keys import spki
    from secguard.isolation.plan.plan import AgentInfo

    found = []
    for zone in policy.zones:
        for agent in zone.agents:
            certificate = certificates.get(agent.name)
            key = spki(certificate.public_key()) if certificate else ""
            mark = fingerprint(certificate) if certificate else ""
            found.append(AgentInfo(agent.name, zone.name, agent.addresses, key, mark))
    return found


@command("isolation.plan", "plan")
@click.argument("policy", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Where to write the signed plan (private, 0600).")
@click.option("--valid", type=click.FloatRange(60, 31 * 86400), default=86400, show_default=True, help="Seconds.")
@click.option("--start", metavar="TIME", help="When the phases begin, for agents that run by the clock.")
@click.option(
    "--skew",
    type=click.FloatRange(1, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="With --start: how far the agents' clocks may be apart.",
)
@click.option(
    "--agent-cert",
    "certificates",
    multiple=True,
    metavar="AGENT=PEM",
    help="Certificate of an agent, which signs its observations.  [default: as the workspace has issued]",
)
@hostile_option
@key_option
@chain_option
@passphrase_option
def plan(
    ctx: Context,
    *,
    policy: Path,
    output: Path,
    valid: float,
    start: str | None,
    skew: float,
    certificates: Sequence[str],
    allow_hostile: bool,
    key: str | None,
    chain: Path | None,
    passphrase_file: Path | None,
) -> Result:
    """Compile a policy into a signed plan; every agent needs its addresses in the policy.

    In a workspace with an authority the operator signs it, and the agents' certificates are those that it has issued.
    Beside the plan, PLAN.signer.pem is the key that `agent --trust` and `judge --trust` take.
    """
    from collections import Counter

    import msgspec

    from secguard.core.clock import SystemClock, parse_time
    from secguard.core.files import atomic_write
    from secguard.isolation.agent.credentials import chain_text
    from secguard.isolation.plan.compiler import compile_plan
    from secguard.isolation.plan.plan import open_plan, seal_plan
    from secguard.isolation.plan.sweeps import estimate
    from secguard.isolation.plan.timeline import timeline
    from secguard.isolation.policy.policy import load_policy
    from secguard.keys import Algorithm, generate, public_pem

    checked = load_policy(policy)
    if allow_hostile:
        checked = msgspec.structs.replace(checked, hostile="allowed")
    agents = _agents(checked, _certificates(ctx, certificates, checked))
    found, authority = signing(ctx, key, passphrase_file, chain)
    signer = found or generate(Algorithm.ED25519)
    now = SystemClock().now()
    begins = parse_time(start) if start else None
    made = msgspec.structs.replace(
        compile_plan(checked, agents, now, valid=valid), start=begins, skew=skew, chain=chain_text(authority)
    )
    if begins is not None:
        made = msgspec.structs.replace(made, not_after=_until(begins, now, timeline(made, begins).end, made.not_after))
    envelope = seal_plan(made, signer)
    made, digest = open_plan(envelope, [signer.public_key()])
    atomic_write(output, envelope, mode=0o600)
    trust = output.with_name(f"{output.stem}.signer.pem")
    atomic_write(trust, public_pem(signer.public_key()))
    pairs = Counter(
        (made.agents[a].zone, made.agents[b].zone) for a, b in zip(made.cases.src, made.cases.dst, strict=True)
    )
    keyless = [agent.name for agent in made.agents if not agent.key]
    lines = [f"plan sha256:{digest}", f"valid until {made.not_after:%Y-%m-%d %H:%M:%S} UTC", f"its signer: {trust}"]
    if keyless:
        lines.append(f"no certificate, so it cannot run from a file: {', '.join(keyless)} (--agent-cert AGENT=PEM)")
    return Result(
        data={
            "plan": digest,
            "run": made.run,
            "cases": len(made.cases),
            "probes_of_sweeps": sum(sweep.size for sweep in made.sweeps),
            "seconds_of_sweeps": round(estimate(made.sweeps, made.attempts, made.rate), 1),
            "output": output,
            "signer": trust,
            "not_after": made.not_after,
            "start": made.start,
            "agents": {agent.name: agent.certificate for agent in made.agents},
        },
        tables=[
            Table("cases", ["from", "to", "cases"], [(*pair, count) for pair, count in pairs.items()]),
            *_sweeps(made),
            Table(
                "agents",
                ["agent", "zone", "certificate (SHA-256)"],
                [(agent.name, agent.zone, agent.certificate or "-") for agent in made.agents],
            ),
        ],
        lines=lines,
    )


def _sweeps(made: "Plan") -> list[Table]:
    """What is swept, and whether a sensor covers it."""
    rows = [
        (
            f"{made.agents[sweep.src].zone} -> {sweep.zone}",
            sweep.cidr,
            sweep.protocol,
            f"{sweep.hosts:,}" + ("" if sweep.hearing else " (no sensor)"),
            f"{sweep.size:,}",
        )
        for sweep in made.sweeps
    ]
    return [Table("sweeps", ["from -> to", "target", "protocol", "hosts", "probes"], rows)] if rows else []


def _until(begins: datetime, now: datetime, end: datetime, usual: datetime) -> datetime:
    """The end of the window of a plan that starts by the clock."""
    if begins < now or begins - now > timedelta(days=31):
        raise UsageError("isolation.plan.start", "the start is past, or more than 31 days away", hint="--start TIME")
    return max(usual, end + timedelta(seconds=60))
