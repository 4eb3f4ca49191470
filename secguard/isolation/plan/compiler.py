"""The compiler: a policy and the agents' addresses become a plan. Pure, but for the run's fresh secret."""

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from secguard.core.errors import UsageError
from secguard.isolation.plan.plan import MAX_CASES, AgentInfo, CaseTable, Plan
from secguard.isolation.plan.sweep_compiler import compile_sweeps
from secguard.isolation.plan.sweeps import KINDS as SWEEP_KINDS
from secguard.isolation.plan.sweeps import Sweep, estimate
from secguard.isolation.policy.policy import Flow, Policy
from secguard.isolation.probes.packets import Template, kinds

__all__ = ["compile_plan"]

_SAMPLE_ABOVE = 8
_CLOCK_SKEW = timedelta(seconds=30)
_TUNNELS = {4: ("gre", "ipip", "6in4"), 6: ("gre", "ip6ip6")}
_WANTED_DENIED = 3


def _ports(flow: Flow, protocol: str) -> tuple[set[int], int]:
    """The ports of a flow that are probed, and how many it names; a wide range by its edges, middle and neighbours."""
    probed: set[int] = set()
    named = 0
    for port in flow.ports:
        if port.protocol != protocol or port.port is None:
            continue
        first, last = port.port, port.end_port or port.port
        named += last - first + 1
        if last - first < _SAMPLE_ABOVE:
            probed.update(range(first, last + 1))
        else:
            probed.update((first, (first + last) // 2, last))
    return probed, named


def _neighbours(flow: Flow, protocol: str) -> set[int]:
    """The ports just outside a flow's ranges: a range that is one too wide is a common mistake."""
    edges = ((p.port - 1, p.end_port + 1) for p in flow.ports if p.protocol == protocol and p.port and p.end_port)
    return {port for pair in edges for port in pair if 1 <= port <= 65535}


def _flow_for(flows: Sequence[Flow], protocol: str, port: int) -> Flow | None:
    for flow in flows:
        for item in flow.ports:
            if item.protocol == protocol and (item.port is None or item.port <= port <= (item.end_port or item.port)):
                return flow
    return None


class _Builder:
    """Collects cases and gives each a 5-tuple that no other case has, in either direction."""

    def __init__(self, agents: Sequence[AgentInfo], first_port: int) -> None:
        self.table = CaseTable()
        self._taken: set[tuple[object, ...]] = set()
        self._next = first_port
        self._agents = agents

    def _free(self, here: tuple[int, int, str, int, int, int]) -> bool:
        src, dst, protocol, family, sport, dport = here
        if here in self._taken or (dst, src, protocol, family, dport, sport) in self._taken:
            return False
        self._taken.add(here)
        return True

    def add(
        self,
        profile: str,
        protocol: str,
        ends: tuple[int, int, int],
        dport: int,
        *,
        flow: Flow | None = None,
        sport: int = 0,
    ) -> None:
        """Add a case between two agents (`ends`: family, source, destination)."""
        family, src, dst = ends
        if sport:
            if not self._free((src, dst, protocol, family, sport, dport)):
                return
        else:
            while not sport or not self._free((src, dst, protocol, family, sport, dport)):
                sport = self._next
                self._next = sport + 1 if sport < 59_999 else 20_000
        values = (
            profile, protocol, family, src, dst, sport, dport,
            flow.expect if flow else "deny", flow.name if flow else "", bool(flow and flow.canary),
        )  # fmt: skip
        for column, value in zip(self.table.columns(), values, strict=True):
            column.append(value)
        if len(self.table) > MAX_CASES:
            raise UsageError("isolation.plan.too-large", f"more than {MAX_CASES} cases", hint="probe fewer ports")


def _pair(build: _Builder, policy: Policy, flows: Sequence[Flow], ends: tuple[int, int, int]) -> None:
    denied: dict[str, list[int]] = {}
    for protocol, usual in (("TCP", policy.probes.tcp), ("UDP", policy.probes.udp)):
        ports = set(usual)
        for flow in flows:
            ports |= _ports(flow, protocol)[0] | _neighbours(flow, protocol)
        denied[protocol] = [port for port in sorted(ports) if _flow_for(flows, protocol, port) is None]
        if "l4" in policy.profiles:
            for port in sorted(ports):
                build.add("l4", protocol.lower(), ends, port, flow=_flow_for(flows, protocol, port))
    if "icmp" in policy.profiles:
        build.add("icmp", "icmp", ends, 0, flow=_flow_for(flows, "ICMP", 0))
    if "source-port" in policy.profiles:
        for sport in policy.probes.source_ports:
            for protocol, ports_left in denied.items():
                for port in ports_left[:_WANTED_DENIED]:
                    build.add("source-port", protocol.lower(), ends, port, sport=sport)
    if "fragments" in policy.profiles and denied["UDP"]:
        build.add("fragments", "udp", ends, denied["UDP"][0])
    if "tunnels" in policy.profiles:
        for tunnel in _TUNNELS[ends[0]]:
            build.add("tunnels", tunnel, ends, (denied["UDP"] or [9])[0])


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
    missing = [zone.name for zone in policy.zones if not any(agent.zone == zone.name for agent in agents)]
    if missing:
        raise UsageError(
            "isolation.agent.missing", f"no agent in zone {', '.join(missing)[:200]}", hint="every zone needs one agent"
        )
    today = now.astimezone(UTC).date()
    live = [flow for flow in policy.flows if flow.expires is None or flow.expires >= today]
    build = _Builder(agents, 20_000 + secrets.randbelow(39_000))
    uncovered: list[tuple[str, str, int]] = []
    for src, a in enumerate(agents):
        for dst, b in enumerate(agents):
            if a.zone == b.zone:
                continue
            flows = [flow for flow in live if flow.src == a.zone and flow.dst == b.zone]
            for family in (4, 6):
                if a.address(family) and b.address(family):
                    _pair(build, policy, flows, (family, src, dst))
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
    counts = [(named, len(probed)) for probed, named in (_ports(flow, "TCP"), _ports(flow, "UDP"))]
    return sum(named for named, _ in counts), sum(probed for _, probed in counts)
