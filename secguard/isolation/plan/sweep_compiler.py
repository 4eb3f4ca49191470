"""From a policy's targets to sweeps: what is excluded taken out, split by who hears it, each with a source port."""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from secguard.core.errors import UsageError
from secguard.isolation.plan.sweeps import MAX_PROBES, MAX_RANGES, MAX_SWEEPS, Sender, Sweep
from secguard.isolation.policy.policy import Flow, Policy
from secguard.isolation.policy.targets import Target, merge_ports, port_ranges

__all__ = ["compile_sweeps"]

Spans = list[tuple[int, int]]  # (first, last), ascending

_SOURCES = range(60_000, 65_536)  # the case table's source ports end below


@dataclass(frozen=True, slots=True)
class _Job:
    src: int
    zone: str
    target: Target
    protocol: str
    ports: Spans
    hearing: tuple[int, ...]
    spans: Spans
    sample: int


def compile_sweeps(policy: Policy, agents: Sequence[Sender], flows: Sequence[Flow], start: int) -> tuple[Sweep, ...]:
    """The sweeps of a policy.

    Args:
        policy: the checked policy.
        agents: the agents that take part; each sweeps the targets of every other zone.
        flows: the flows that are allowed today; their ports are left out: anything may answer there.
        start: case number of the first probe, after the case table's.

    Raises:
        UsageError: more probes, sweeps or ranges than a plan holds.
    """
    jobs = list(_jobs(policy, agents, flows))
    sources, spared = _sources(policy, jobs)
    used: Counter[tuple[int, str]] = Counter()
    found: list[Sweep] = []
    total = 0
    for job in jobs:
        network = ipaddress.ip_network(job.target.cidr)
        ports = _without(job.ports, ((port, port) for port in spared)) if job.protocol != "icmp" else job.ports
        if not ports:
            continue
        if len(job.spans) > MAX_RANGES or len(ports) > MAX_RANGES:
            raise UsageError("isolation.plan.too-large", f"{network} falls into more than {MAX_RANGES} ranges")
        kind = type(network.network_address)
        sweep = Sweep(
            start=start + total,
            protocol=job.protocol,  # type: ignore[arg-type] # one of `_asked`'s
            family=network.version,
            src=job.src,
            zone=job.zone,
            cidr=job.target.cidr,
            ranges=tuple((str(kind(first)), str(kind(last))) for first, last in job.spans),
            ports=tuple(ports),
            sport=sources[used[job.src, job.protocol]],
            sample=job.sample,
            hearing=job.hearing,
        )
        used[job.src, job.protocol] += 1
        total += sweep.size
        found.append(sweep)
        if total > MAX_PROBES:
            raise UsageError(
                "isolation.plan.too-large",
                f"the targets are more than {MAX_PROBES:,} probes",
                hint="add sample: N to wide targets, or name fewer ports",
                where=policy.where,
            )
    return tuple(found)


def _jobs(policy: Policy, agents: Sequence[Sender], flows: Sequence[Flow]) -> Iterator[_Job]:
    """Each target from each agent of another zone, by protocol and by who hears."""
    count = 0
    for zone in policy.zones:
        for target in zone.targets:
            network = ipaddress.ip_network(target.cidr)
            parts = _parts(policy, agents, zone.name, target)
            for src, agent in enumerate(agents):
                if agent.zone == zone.name or not agent.address(network.version):
                    continue
                allowed = [flow for flow in flows if (flow.src, flow.dst) == (agent.zone, zone.name)]
                for protocol, ports in _asked(target, allowed):
                    for hearing, spans, sample in parts:
                        yield _Job(src, zone.name, target, protocol, ports, hearing, spans, sample)
                        count += 1
                        if count > MAX_SWEEPS:
                            raise UsageError("isolation.plan.too-large", f"more than {MAX_SWEEPS} sweeps")


def _sources(policy: Policy, jobs: Sequence[_Job]) -> tuple[list[int], set[int]]:
    """Source ports for the sweeps of one agent and protocol, and those of them that must not be probed."""
    named = {port for flow in policy.flows for item in flow.ports for port in (item.port, item.end_port) if port}
    named |= {*policy.probes.tcp, *policy.probes.udp, *policy.probes.source_ports}
    asked = merge_ports(pair for target in {job.target.cidr: job for job in jobs}.values() for pair in target.ports)
    probed = {port for port in _SOURCES if port in named or any(first <= port <= last for first, last in asked)}
    need = max(Counter((job.src, job.protocol) for job in jobs).values(), default=0)
    if need > len(_SOURCES):
        raise UsageError("isolation.plan.too-large", f"more than {len(_SOURCES)} sweeps from one agent")
    free = [port for port in _SOURCES if port not in probed]
    sources = [*free, *sorted(probed)][:need]
    return sources, probed & set(sources)


def _asked(target: Target, allowed: Sequence[Flow]) -> Iterator[tuple[str, Spans]]:
    """Protocols and ports of a target, less what flows allow."""
    for protocol, items in (("tcp", target.tcp), ("udp", target.udp)):
        open_ = [
            (item.port, item.end_port or item.port)
            for flow in allowed
            for item in flow.ports
            if item.protocol == protocol.upper() and item.port
        ]
        if ports := _without(port_ranges(items), open_):
            yield protocol, ports
    if target.icmp and not any(item.protocol == "ICMP" for flow in allowed for item in flow.ports):
        yield "icmp", [(0, 0)]


def _without(spans: Iterable[tuple[int, int]], holes: Iterable[tuple[int, int]]) -> Spans:
    """Spans less holes."""
    left = list(spans)
    for low, high in holes:
        cut: Spans = []
        for first, last in left:
            if high < first or low > last:
                cut.append((first, last))
                continue
            cut += [(first, low - 1)] * (first < low) + [(high + 1, last)] * (last > high)
        left = cut
    return left


def _ends(cidr: str) -> tuple[int, int]:
    network = ipaddress.ip_network(cidr)
    return int(network.network_address), int(network.broadcast_address)


def _hosts(cidr: str) -> Spans:
    """Host addresses of a network: without network and broadcast address, or IPv6's subnet-router anycast address."""
    network = ipaddress.ip_network(cidr)
    first, last = _ends(cidr)
    if network.prefixlen < network.max_prefixlen - 1:
        first, last = first + 1, last - (network.version == 4)
    return [(first, last)]


def _parts(
    policy: Policy, agents: Sequence[Sender], zone: str, target: Target
) -> list[tuple[tuple[int, ...], Spans, int]]:
    """A target's hosts by the agents that hear them, and how many to take of each part."""
    version = ipaddress.ip_network(target.cidr).version
    spared = [*policy.limits.exclude, *(item for block in policy.zone(zone).ip_blocks for item in block.exceptions)]
    spans = _without(
        _hosts(target.cidr), (_ends(text) for text in spared if ipaddress.ip_network(text).version == version)
    )
    ears: list[tuple[int, tuple[int, int]]] = []
    specs = {spec.name: spec for spec in policy.zone(zone).agents}
    for index, agent in enumerate(agents):
        if agent.zone == zone:
            covers = (*agent.addresses, *(specs[agent.name].covers if agent.name in specs else ()))
            ears += [(index, _ends(text)) for text in covers if ipaddress.ip_network(text).version == version]
    cuts = sorted({cut for _, (low, high) in ears for cut in (low, high + 1)})
    parts: dict[tuple[int, ...], Spans] = {}
    for first, last in spans:
        inner = [cut for cut in cuts if first < cut <= last]
        for low, after in zip([first, *inner], [*inner, last + 1], strict=True):
            hearing = tuple(sorted({index for index, (a, b) in ears if a <= low <= b}))
            part = parts.setdefault(hearing, [])
            if part and part[-1][1] == low - 1:
                part[-1] = part[-1][0], after - 1
            else:
                part.append((low, after - 1))
    return _shares(parts, target.sample)


def _shares(parts: dict[tuple[int, ...], Spans], sample: int) -> list[tuple[tuple[int, ...], Spans, int]]:
    """A sample shared out among the parts by their size, at least one of each."""
    sizes = {hearing: sum(last - first + 1 for first, last in spans) for hearing, spans in parts.items()}
    total = sum(sizes.values())
    if not sample or sample >= total:
        return [(hearing, spans, 0) for hearing, spans in parts.items()]
    found: list[tuple[tuple[int, ...], Spans, int]] = []
    left = sample
    for hearing, spans in sorted(parts.items(), key=lambda item: sizes[item[0]]):
        last = len(found) == len(parts) - 1
        share = max(1, left if last else sample * sizes[hearing] // total)
        left -= share
        found.append((hearing, spans, min(share, sizes[hearing])))
    return found
