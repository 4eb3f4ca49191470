"""The compiler: a policy and the agents' addresses become a plan. Pure, but for the run's fresh secret."""

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from secguard.core.errors import UsageError
from secguard.isolation.plan.case_compiler import Builder, add_pair, add_published, add_targets, ports_of
from secguard.isolation.plan.plan import AgentInfo, CaseTable, Plan
from secguard.isolation.plan.sweep_compiler import compile_sweeps
from secguard.isolation.plan.sweeps import KINDS as SWEEP_KINDS
from secguard.isolation.plan.sweeps import Sweep, estimate
from secguard.isolation.policy.policy import Flow, Policy
from secguard.isolation.probes.packets import Template, kinds

__all__ = ["compile_plan"]

_CLOCK_SKEW = timedelta(seconds=30)


def compile_plan(policy: Policy, agents: Sequence[AgentInfo], now: datetime, *, valid: float = 600) -> Plan:
    """Compile a policy for the given agents.

    Args:
        policy: the checked policy.
        agents: the agents that take part, with their addresses.
        now: start of the time window, aware.
        valid: seconds until the plan expires, on top of the scan's own estimated duration.

    Raises:
        UsageError: an agent outside its zone, a zone without agent, nothing to probe, or too many cases.
    """
    for agent in agents:
        zone = policy.zone(agent.zone)
        for text in agent.addresses:
            if not zone.covers(ipaddress.ip_address(text)):
                raise UsageError("isolation.agent.outside", f"{agent.name} has {text}, outside zone {zone.name}")
            if any(ipaddress.ip_address(text) in ipaddress.ip_network(item) for item in policy.limits.exclude):
                raise UsageError("isolation.agent.excluded", f"{agent.name} has {text}, which limits.exclude spares")
    today = now.astimezone(UTC).date()
    live = [flow for flow in policy.flows if flow.expires is None or flow.expires >= today]
    specs = {spec.name: spec for zone in policy.zones for spec in zone.agents}
    agents = [
        msgspec.structs.replace(
            item,
            covers=specs[item.name].covers,
            mirror=specs[item.name].sensor == "mirror",
            interface=specs[item.name].interface,
        )
        if item.name in specs
        else item
        for item in agents
    ]
    missing = [
        zone.name for zone in policy.zones if not any(item.zone == zone.name and not item.interface for item in agents)
    ]
    if missing:
        raise UsageError(
            "isolation.agent.missing", f"no agent in zone {', '.join(missing)[:200]}", hint="every zone needs one agent"
        )
    build = Builder(policy, agents, live, 20_000 + secrets.randbelow(39_000))
    uncovered: list[tuple[str, str, int]] = []
    for src, a in enumerate(agents):
        for dst, b in enumerate(agents):
            if a.zone == b.zone or a.interface:
                continue
            for family in (4, 6):
                if a.address(family) and (b.address(family) or b.interface):
                    if not b.interface:
                        add_pair(build, (family, src, dst))
                    add_targets(build, (family, src, dst))
                    add_published(build, (family, src, dst))
                elif _wants(policy, a.zone, family) and _wants(policy, b.zone, family):
                    uncovered.append((a.zone, b.zone, family))
    sweeps = compile_sweeps(policy, agents, live, len(build.table))
    if not len(build.table) and not sweeps:
        raise UsageError("isolation.plan.empty", "no two agents share an address family: nothing to probe")
    seconds = len(build.table) * policy.limits.attempts * 2 / policy.limits.rate + policy.limits.timeout
    seconds += estimate(sweeps, policy.limits.attempts, policy.limits.rate)
    sampled = {flow.name: (_count(flow)) for flow in live}
    return Plan(
        run=secrets.token_hex(16),
        policy=policy.digest,
        secret=secrets.token_hex(32),
        not_before=now - _CLOCK_SKEW,
        not_after=now + timedelta(seconds=seconds + valid),
        zones={zone.name: tuple(block.cidr for block in zone.ip_blocks) for zone in policy.zones},
        labels={zone.name: zone.label for zone in policy.zones if zone.label},
        exclude=(
            *policy.limits.exclude,
            *(item for zone in policy.zones for block in zone.ip_blocks for item in block.exceptions),
        ),
        agents=tuple(agents),
        cases=build.table,
        attempts=policy.limits.attempts,
        rate=policy.limits.rate,
        timeout=policy.limits.timeout,
        templates=_templates(build.table, sweeps),
        sampled={name: counts for name, counts in sampled.items() if counts[0] != counts[1]},
        uncovered=tuple(dict.fromkeys(uncovered)),
        expired=tuple(flow.name for flow in policy.flows if flow not in live),
        sweeps=sweeps,
        hostile=policy.hostile == "allowed",
        serves={
            str(ipaddress.ip_address(item.address)): item.serves
            for zone in policy.zones
            for item in zone.published
            if item.serves
        },
    )


def _templates(table: CaseTable, sweeps: Sequence[Sweep]) -> dict[str, Template]:
    from secguard.isolation.probes.templates import template  # scapy: about a second

    # Beacons are echoes, and the answer to a UDP probe is UDP, whatever the cases are.
    wanted = {(kind, family) for family in set(table.family) for kind in ("echo", "udp")}
    for profile, protocol, family in set(zip(table.profile, table.protocol, table.family, strict=True)):
        wanted.update((kind, family) for kind in kinds(profile, protocol))
    for sweep in sweeps:
        wanted.update((kind, sweep.family) for kind in ("echo", "udp", *SWEEP_KINDS[sweep.protocol]))
    return {f"{kind}/{family}": template(kind, family) for kind, family in sorted(wanted)}


def _wants(policy: Policy, zone: str, family: int) -> bool:
    return any(ipaddress.ip_network(block.cidr).version == family for block in policy.zone(zone).ip_blocks)


def _count(flow: Flow) -> tuple[int, int]:
    counts = [(named, len(probed)) for probed, named in (ports_of(flow, "TCP"), ports_of(flow, "UDP"))]
    return sum(named for named, _ in counts), sum(probed for _, probed in counts)
