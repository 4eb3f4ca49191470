"""What is wrong with a policy that can be read: exceptions nobody answers for, flows never probed or hidden."""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Any

from secguard.core import FormatError, Outcome
from secguard.core.findings import finding
from secguard.core.verdict import Finding
from secguard.isolation.policy.model import Exemption, Flow, Policy, Port, Zone

__all__ = ["SOON", "lint_policy", "unreadable", "worst"]

SOON = timedelta(days=30)
"""How long before its last day an exception is pointed out."""
_PROFILE_OF = {"TCP": {"l4", "source-port", "fragments"}, "UDP": {"l4", "source-port", "fragments"}, "ICMP": {"icmp"}}
Ranges = list[tuple[int, int]]


def unreadable(problems: Iterable[FormatError]) -> list[Finding]:
    """Problems of `read_policy` as findings, each at its line."""
    return [
        finding("isolation.lint.invalid", item.where, message=item.message, hint=item.hint, error=item.code)
        for item in problems
    ]


def lint_policy(policy: Policy, today: date) -> list[Finding]:
    """Everything worth saying about a policy, by line.

    Args:
        policy: a checked policy.
        today: what `expires` is compared with.

    Returns:
        Findings; those that fail should be corrected before a scan.
    """
    found = [item for flow in policy.flows for item in _one(policy, flow, today)]
    found += _pairs(policy)
    return sorted(found, key=lambda item: int(item.where.rpartition(":")[2]))


def _say(policy: Policy, flow: Flow, code: str, **data: Any) -> Finding:
    place = f"{policy.where}:{policy.lines.get(flow.name, 1)}"
    return finding(f"isolation.lint.{code}", place, flow=flow.name, src=flow.src, dst=flow.dst, **data)


def _one(policy: Policy, flow: Flow, today: date) -> Iterator[Finding]:
    if isinstance(flow, Exemption):
        if not flow.owner.strip():
            yield _say(policy, flow, "owner")
        if flow.expires is None:
            yield _say(policy, flow, "expiry")
    if flow.expires is not None and flow.expires < today:
        yield _say(policy, flow, "expired", expires=flow.expires.isoformat())
    elif flow.expires is not None and flow.expires - today <= SOON:
        yield _say(policy, flow, "expires-soon", expires=flow.expires.isoformat(), days=(flow.expires - today).days)
    ends = policy.zone(flow.src), policy.zone(flow.dst)
    if not set.intersection(*(_families(zone) for zone in ends)):
        yield _say(policy, flow, "family")
    for zone in ends:
        if _spared(policy, zone):
            yield _say(policy, flow, "excluded", zone=zone.name)
    for protocol in dict.fromkeys(port.protocol for port in flow.ports):
        if not _PROFILE_OF[protocol] & set(policy.profiles):
            yield _say(policy, flow, "profile", protocol=protocol)


def _families(zone: Zone) -> set[int]:
    """The address families that a zone's agents have; those of its blocks where addresses are found later."""
    listed = [text for agent in zone.agents for text in agent.addresses]
    if all(agent.addresses for agent in zone.agents):
        return {ipaddress.ip_address(text).version for text in listed}
    return {ipaddress.ip_network(block.cidr).version for block in zone.ip_blocks}


def _spared(policy: Policy, zone: Zone) -> bool:
    """Whether nothing of a zone may be sent to: `limits.exclude` covers its blocks."""
    spared = [ipaddress.ip_network(text) for text in policy.limits.exclude]
    blocks = [ipaddress.ip_network(block.cidr) for block in zone.ip_blocks]
    return all(
        any(
            network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type] # same version
            for other in spared
        )
        for network in blocks
    )


def _pairs(policy: Policy) -> Iterator[Finding]:
    """Flows whose ports an earlier flow of the same pair of zones has already: the first one decides."""
    for number, flow in enumerate(policy.flows):
        earlier = [item for item in policy.flows[:number] if (item.src, item.dst) == (flow.src, flow.dst)]
        rivals = [item for item in earlier if item.expect != flow.expect and _overlap(item.ports, flow.ports)]
        if rivals:
            other = rivals[0]
            yield _say(policy, flow, "conflict", other=other.name, expect=flow.expect, first=other.expect)
        elif earlier and _covered(flow.ports, [port for item in earlier for port in item.ports]):
            names = [item.name for item in earlier if _overlap(item.ports, flow.ports)]
            yield _say(policy, flow, "shadowed", other=", ".join(names))


def _range(port: Port) -> tuple[int, int]:
    return (port.port or 0, port.end_port or port.port or 0)


def _overlap(ports: Sequence[Port], others: Sequence[Port]) -> bool:
    return any(
        a.protocol == b.protocol and _range(a)[0] <= _range(b)[1] and _range(b)[0] <= _range(a)[1]
        for a in ports
        for b in others
    )


def _covered(ports: Sequence[Port], others: Sequence[Port]) -> bool:
    """Whether every port lies in one of the other ranges, or in several that touch."""
    for port in ports:
        first, last = _range(port)
        for low, high in sorted(_range(item) for item in others if item.protocol == port.protocol):
            if low <= first <= high:
                first = high + 1
        if first <= last:
            return False
    return True


def worst(found: Iterable[Finding]) -> Outcome:
    """What a lint says: fail when anything should be corrected."""
    return Outcome.FAIL if any(item.outcome is Outcome.FAIL for item in found) else Outcome.PASS
