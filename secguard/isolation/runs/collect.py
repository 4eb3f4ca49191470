"""Collecting: start one agent a zone, sign the plan for the addresses they found, bring back what they signed."""

from collections.abc import Callable, Mapping, Sequence

from secguard.core import Clock, Progress, SystemPartError, UsageError, silent
from secguard.isolation.agent.keys import spki
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, open_plan, seal_plan
from secguard.isolation.policy.policy import Policy
from secguard.isolation.runs.lead import STEPS, Collected, lead
from secguard.isolation.runs.process import AgentProcess, failure, gather
from secguard.keys import Signer

__all__ = ["collect"]

_START_TIMEOUT = 30.0


def collect(
    policy: Policy,
    namespaces: Mapping[str, str],
    *,
    signer: Signer,
    clock: Clock,
    progress: Progress = silent,
    start: Callable[[str], None] = lambda _digest: None,
    perform: Callable[[str, Mapping[str, int]], None] = lambda _when, _pids: None,
) -> Collected:
    """Probe between network namespaces by a policy, and bring back what the agents signed.

    Args:
        policy: the checked policy.
        namespaces: zone (or agent) -> path of its network namespace.
        signer: signs the plan.
        clock: the time of the plan.
        progress: called a step.
        start: called with the plan's digest before anything is sent; if it raises, nothing is.
        perform: called at `before`, `during`, `after` with the agents' process IDs by zone; a lab breaks things here.

    Raises:
        UsageError: namespaces or addresses that do not fit the policy.
        SystemPartError: agents cannot be started, or lack permissions.
    """
    agents: list[AgentProcess] = []
    try:
        for name, zone, path in _names(policy, namespaces):
            agents.append(AgentProcess(name, zone, path, spki(signer.public_key())))
        import scapy.layers.inet6  # noqa: F401 - while the agents start

        hellos = gather(agents, _START_TIMEOUT)
        progress(1, STEPS, "steps")
        infos = []
        for agent in agents:
            hello = hellos.get(agent.name)
            if hello is None:
                raise SystemPartError(
                    "isolation.agent.start", f"agent {agent.name} did not start: {agent.last_words()}"
                )
            if error := failure(hello):
                raise error
            addresses = _addresses(policy, agent.name, agent.zone, [str(text) for text in hello["addresses"]])
            infos.append(AgentInfo(agent.name, agent.zone, addresses, str(hello["key"])))
        envelope = seal_plan(compile_plan(policy, infos, clock.now()), signer)
        plan, digest = open_plan(envelope, [signer.public_key()])
        start(digest)
        return lead(plan, envelope, agents, progress=progress, perform=perform)
    finally:
        for agent in agents:
            agent.close()


def _names(policy: Policy, namespaces: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(agent, zone, namespace) for what the caller named: zones, or agents where a zone has several."""
    found = []
    left = dict(namespaces)
    for zone in policy.zones:
        for spec in zone.agents:
            path = left.pop(spec.name, None) or (left.pop(zone.name, None) if len(zone.agents) == 1 else None)
            if path is None:
                raise UsageError(
                    "isolation.namespace.none",
                    f"no network namespace for agent {spec.name} of zone {zone.name}",
                    hint=f"add --in-namespaces {zone.name if len(zone.agents) == 1 else spec.name}=PATH",
                )
            found.append((spec.name, zone.name, path))
    if left:
        raise UsageError("isolation.namespace.unknown", f"the policy has no zone or agent {', '.join(left)[:100]}")
    return found


def _addresses(policy: Policy, name: str, zone: str, found: Sequence[str]) -> tuple[str, ...]:
    """The addresses an agent probes with: as the policy says, else the first of each family inside its zone."""
    import ipaddress

    spec = next(item for item in policy.zone(zone).agents if item.name == name)
    if spec.addresses:
        return spec.addresses
    inside = [text for text in found if policy.zone(zone).covers(ipaddress.ip_address(text))]
    chosen = [next((text for text in inside if (":" in text) == six), "") for six in (False, True)]
    if not any(chosen):
        raise UsageError(
            "isolation.agent.no-address",
            f"agent {name} has no address in zone {zone}",
            hint=f"it has: {', '.join(found)[:120] or 'none'}",
        )
    return tuple(text for text in chosen if text)
