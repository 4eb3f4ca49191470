"""The cases of one ordered pair of agents: which rows of the table of probes, to which ports, from which addresses."""

import ipaddress
from collections.abc import Iterator, Sequence

from secguard.core.errors import UsageError
from secguard.isolation.plan.plan import MAX_CASES, AgentInfo, CaseTable
from secguard.isolation.policy.policy import Flow, Policy
from secguard.isolation.policy.targets import port_ranges
from secguard.isolation.probes.profiles import PROBES, Probe, probe

__all__ = ["Builder", "add_pair", "add_published", "add_targets", "ports_of"]

_SAMPLE_ABOVE = 8
_WANTED_DENIED = 3
_MAX_SPOOFED = 3
_TRIED = 16
_STRIDE, _STRIDES = 997, 64
_SPECIAL = frozenset({"l4", "source-port", "icmp", "spoof", "pinhole", "outbound", "published"})
Ends = tuple[int, int, int]
"""Family, source agent, destination agent."""


def ports_of(flow: Flow, protocol: str) -> tuple[set[int], int]:
    """The ports of a flow that are probed, and how many it names; a wide range by its edges and middle."""
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


class Builder:
    """Collects cases and gives each a 5-tuple that no other case has, in either direction."""

    def __init__(self, policy: Policy, agents: Sequence[AgentInfo], flows: Sequence[Flow], first_port: int) -> None:
        """Take the checked `policy`, its `flows` that are not past their date, and the first port of the pool."""
        self.table = CaseTable()
        self.policy = policy
        self.agents = agents
        self.live = flows
        self._taken: set[tuple[object, ...]] = set()
        self._next = first_port

    def flows(self, src: int, dst: int) -> list[Flow]:
        """What may pass from one agent's zone to another's."""
        ends = self.agents[src].zone, self.agents[dst].zone
        return [flow for flow in self.live if (flow.src, flow.dst) == ends]

    def allowed_to(self, src: int, dst: int) -> Iterator[Flow]:
        """Flows into the zone of `dst` from zones other than that of `src`."""
        return (
            flow
            for flow in self.live
            if flow.dst == self.agents[dst].zone and flow.src not in {self.agents[src].zone, flow.dst}
        )

    def port(self) -> int:
        """The next port of the pool from which source ports are taken."""
        port = self._next
        self._next = port + 1 if port < 59_999 else 20_000
        return port

    def _free(self, protocol: str, source: str, target: str, sport: int, dport: int) -> bool:
        here = (protocol, source, target, sport, dport)
        if here in self._taken or (protocol, target, source, dport, sport) in self._taken:
            return False
        self._taken.add(here)
        return True

    def add(
        self,
        profile: str,
        protocol: str,
        ends: Ends,
        dport: int,
        *,
        flow: Flow | None = None,
        sport: int = 0,
        source: str = "",
        target: str = "",
        again: bool = False,
    ) -> int:
        """Add a case between two agents; returns its source port, 0 if another case has its 5-tuple already.

        Args:
            profile: row of the table of probes.
            protocol: its name there.
            ends: family, source and destination.
            dport: destination port.
            flow: what allows it.
            sport: source port; one of the pool if 0.
            source: address that it claims to come from.
            target: address that it goes to, if not the agent's own.
            again: the 5-tuple may be that of another case turned round: it comes back on it on purpose.
        """
        family, src, dst = ends
        row = probe(profile, protocol)
        carried = (row.transport if row else "") or protocol
        here, there = self.agents[src].address(family), target or self.agents[dst].address(family)
        if again:
            pass
        elif sport:
            if not self._free(carried, here, there, sport, dport):
                return 0
        else:
            while not sport or not self._free(carried, here, there, sport, dport):
                sport = self.port()
        canary = bool(flow and flow.canary and profile != "outbound")  # that one goes late, and once
        values = (
            profile, protocol, family, src, dst, sport, dport,
            flow.expect if flow else "deny", flow.name if flow else "", canary, source, target,
        )  # fmt: skip
        for column, value in zip(self.table.columns(), values, strict=True):
            column.append(value)
        if len(self.table) > MAX_CASES:
            raise UsageError(
                "isolation.plan.too-large", f"more than {MAX_CASES} cases", hint="probe fewer ports, or fewer profiles"
            )
        return sport

    def spare(self, zone: str, family: int) -> str:
        """An address of a zone that no agent has and nothing excludes, near the end of a block; empty if none."""
        taken = {text for agent in self.agents for text in agent.addresses}
        for block in self.policy.zone(zone).ip_blocks:
            network = ipaddress.ip_network(block.cidr)
            for back in range(4, 4 + _TRIED):
                if network.version != family or network.num_addresses <= back:
                    break
                address = network[-back]
                if str(address) not in taken and block.covers(address) and not self.spared(address):
                    return str(address)
        return ""

    def spared(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether the policy's limits exclude an address."""
        return any(address in ipaddress.ip_network(text) for text in self.policy.limits.exclude)


def _denied(build: Builder, flows: Sequence[Flow]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Ports to probe by protocol: all, and those that no flow allows.

    Besides those of the policy and of the pair's `flows` these are the ports of every other flow, be it past its date
    or between other zones: a rule that was left behind, or that names no interface, opens just these. They come last.
    """
    every: dict[str, list[int]] = {}
    for protocol, usual in (("tcp", build.policy.probes.tcp), ("udp", build.policy.probes.udp)):
        ports = set(usual)
        for flow in flows:
            ports |= ports_of(flow, protocol.upper())[0] | _neighbours(flow, protocol.upper())
        others = {port for flow in build.policy.flows for port in ports_of(flow, protocol.upper())[0]}
        every[protocol] = [*sorted(ports), *sorted(others - ports)]
    return every, {
        name: [port for port in ports if _flow_for(flows, name.upper(), port) is None] for name, ports in every.items()
    }


def _rows(build: Builder, family: int, *, hostile: bool) -> list[Probe]:
    wanted = build.policy.profiles
    return [
        row
        for row in PROBES
        if row.profile in wanted
        and row.profile not in _SPECIAL
        and family in row.families
        and (hostile or row.hazard == "safe")
    ]


def _add_rows(
    build: Builder, rows: Sequence[Probe], ends: Ends, denied: dict[str, list[int]], target: str = ""
) -> None:
    """Rows of the table whose cases need nothing but a port that is denied."""
    flows = build.flows(ends[1], ends[2])
    for row in rows:
        if row.port:
            # A port that a flow allows is what the flow is about: the plain probe tests it.
            if _flow_for(flows, row.transport.upper(), row.port) is None:
                build.add(row.profile, row.name, ends, row.port, target=target)
            continue
        ports = denied["tcp" if row.transport == "tcp" else "udp"]
        if ports or not row.transport:
            build.add(row.profile, row.name, ends, ports[0] if ports else 9, target=target)


def add_pair(build: Builder, ends: Ends) -> None:
    """Add all cases from one agent to another's own address."""
    policy = build.policy
    flows = build.flows(ends[1], ends[2])
    every, denied = _denied(build, flows)
    if "l4" in policy.profiles:
        for protocol, ports in every.items():
            for port in ports:
                build.add("l4", protocol, ends, port, flow=_flow_for(flows, protocol.upper(), port))
    if "icmp" in policy.profiles:
        build.add("icmp", "icmp", ends, 0, flow=_flow_for(flows, "ICMP", 0))
    if "source-port" in policy.profiles:
        _add_source_ports(build, ends, flows, denied)
    _add_rows(build, _rows(build, ends[0], hostile=policy.hostile != "never"), ends, denied)
    if "spoof" in policy.profiles:
        _add_spoofed(build, ends, flows, denied)
    if "pinhole" in policy.profiles:
        _add_pinholes(build, ends, flows, every)


def _add_source_ports(build: Builder, ends: Ends, flows: Sequence[Flow], denied: dict[str, list[int]]) -> None:
    """From ports that filters trust: the policy's, the destination's own (SIP, NTP), those that answers come from."""
    _, src, dst = ends
    back = (build.agents[dst].zone, build.agents[src].zone)
    for protocol, ports in denied.items():
        name = protocol.upper()
        named = set().union(*(ports_of(flow, name)[0] for flow in build.policy.flows if (flow.src, flow.dst) == back))
        # Two that nothing names, wherever the pool is in this run: every run asks the same, by another port.
        first = build.port()
        tried = [20_000 + (first + _STRIDE * step) % 40_000 for step in range(_STRIDES)]
        asked = {*ports, *named}
        high = [port for port in tried if port not in asked and _flow_for(flows, name, port) is None][:2]
        pairs = [
            (sport, port) for sport in build.policy.probes.source_ports for port in [*ports[:_WANTED_DENIED], *high[:1]]
        ]
        for sport, port in dict.fromkeys([*pairs, *((port, port) for port in ports)]):
            # Both ends may be asked for the same pair of ports: the second one waits until the first is through.
            if not build.add("source-port", protocol, ends, port, sport=sport):
                build.add("pinhole", f"{protocol}-twin", ends, port, sport=sport, again=True)
        # A router without state lets answers in by the port of the service; what it asks of flags is not much.
        for sport in sorted(named):
            for row, port in zip((protocol, "tcp-ack") if protocol == "tcp" else (protocol,), high, strict=False):
                build.add("source-port", row, ends, port, sport=sport)


def _add_spoofed(build: Builder, ends: Ends, flows: Sequence[Flow], denied: dict[str, list[int]]) -> None:
    family, src, dst = ends
    inside = build.spare(build.agents[dst].zone, family)
    for protocol, ports in denied.items():
        if inside and ports:
            build.add("spoof", f"{protocol}-inside", ends, ports[0], source=inside)
        tried: set[tuple[str, int]] = set()
        for flow in build.allowed_to(src, dst):
            source = build.spare(flow.src, family)
            for port in sorted(ports_of(flow, protocol.upper())[0]):
                if len(tried) < _MAX_SPOOFED and source and _flow_for(flows, protocol.upper(), port) is None:
                    if (source, port) not in tried:
                        build.add("spoof", f"{protocol}-zone", ends, port, source=source)
                    tried.add((source, port))


def _add_pinholes(build: Builder, ends: Ends, flows: Sequence[Flow], every: dict[str, list[int]]) -> None:
    """An outbound flow that is denied and one that is allowed, and what the other side sends to its source port."""
    family, src, dst = ends
    back = (family, dst, src)
    returning = build.flows(dst, src)

    def quiet(protocol: str) -> int:
        """A source port at which nothing may come in."""
        port = build.port()
        while _flow_for(returning, protocol, port) is not None:
            port = build.port()
        return port

    for protocol, ports in every.items():
        name = protocol.upper()
        if all(_flow_for(returning, name, port) for port in (20_000, 40_000, 59_999)):
            continue  # the way back is open anyway
        outbound: dict[bool, int] = {}
        for port in ports:
            outbound.setdefault(_flow_for(flows, name, port) is not None, port)
        for allowed, port in outbound.items():
            sport = build.add("outbound", protocol, ends, port, flow=_flow_for(flows, name, port), sport=quiet(name))
            if not sport:
                continue
            if not allowed:
                build.add("pinhole", f"{protocol}-back", back, sport, sport=port, again=True)
            build.add("pinhole", f"{protocol}-other", back, sport, sport=port % 65535 + 1)
        build.add("pinhole", f"{protocol}-cold", back, quiet(name))


def add_targets(build: Builder, ends: Ends) -> None:
    """Add cases to one address of each block of targets that the sensor at the destination hears besides its own."""
    policy, (family, _, dst) = build.policy, ends
    agent = build.agents[dst]
    _, denied = _denied(build, build.flows(ends[1], dst))
    for target in policy.zone(agent.zone).targets:
        block = ipaddress.ip_network(target.cidr)
        for text in agent.covers:
            covered = ipaddress.ip_network(text)
            if not block.version == covered.version == family or not block.overlaps(covered):
                continue
            inside = max(block, covered, key=lambda network: network.prefixlen)
            for step in range(min(_TRIED, inside.num_addresses)):
                address = inside[(step + 1) % inside.num_addresses]
                zone = policy.zone(agent.zone)
                if zone.covers(address) and not build.spared(address) and str(address) not in agent.addresses:
                    _add_target(build, ends, denied, str(address))
                    break
            break


def add_published(build: Builder, ends: Ends) -> None:
    """Add cases to every published address, for the chance that the agent's host stands behind it.

    Ports that may pass between the two zones anyway are left out, and those that may pass to the address itself.
    """
    family, src, dst = ends
    agents = build.agents
    if "published" not in build.policy.profiles:
        return
    _, denied = _denied(build, build.flows(src, dst))
    if agents[dst].interface and not any(ipaddress.ip_network(text).version == family for text in agents[dst].covers):
        return
    for zone in build.policy.zones:
        allowed = [flow for flow in build.live if (flow.src, flow.dst) == (agents[src].zone, zone.name)]
        for item in zone.published:
            address = ipaddress.ip_address(item.address)
            target = str(address)
            if address.version != family or build.spared(address) or any(target in agent.addresses for agent in agents):
                continue
            for protocol, own in (("tcp", item.tcp), ("udp", item.udp)):
                wanted = [*denied[protocol], *(port for a, b in port_ranges(own) for port in range(a, b + 1))]
                for port in dict.fromkeys(wanted):
                    if _flow_for([*allowed, *build.flows(src, dst)], protocol.upper(), port) is None:
                        build.add("published", protocol, ends, port, target=target)
            for row in PROBES if agents[dst].address(family) else ():
                if row.profile == "published" and not row.transport and family in row.families:
                    build.add("published", row.name, ends, 9, target=target)


def _add_target(build: Builder, ends: Ends, denied: dict[str, list[int]], target: str) -> None:
    policy = build.policy
    if "l4" in policy.profiles:
        for protocol, ports in denied.items():
            for port in ports[:_WANTED_DENIED]:
                build.add("l4", protocol, ends, port, target=target)
    if "icmp" in policy.profiles and _flow_for(build.flows(ends[1], ends[2]), "ICMP", 0) is None:
        build.add("icmp", "icmp", ends, 0, target=target)
    _add_rows(build, _rows(build, ends[0], hostile=policy.hostile == "allowed"), ends, denied, target)
