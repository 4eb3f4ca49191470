"""Collecting: reach one agent a zone, sign the plan for the addresses they found, bring back what they signed."""

import ipaddress
from collections.abc import Callable, Mapping, Sequence

import msgspec
from cryptography import x509

from secguard.core import Clock, Progress, UsageError, silent
from secguard.isolation.agent.control import Controller
from secguard.isolation.agent.credentials import chain_text
from secguard.isolation.agent.keys import spki
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, open_plan, seal_plan
from secguard.isolation.policy.policy import Policy
from secguard.isolation.runs.lead import STEPS, Collected, lead
from secguard.isolation.runs.process import AgentProcess, Link, gather, missing
from secguard.isolation.runs.remote import Caller, RemoteAgent
from secguard.keys import Algorithm, Signer, generate

__all__ = ["collect"]

_START_TIMEOUT = 30.0


def collect(
    policy: Policy,
    places: Mapping[str, str],
    *,
    signer: Signer,
    clock: Clock,
    chain: Sequence[x509.Certificate] = (),
    caller: Caller | None = None,
    progress: Progress = silent,
    start: Callable[[str], None] = lambda _digest: None,
    perform: Callable[[str, Mapping[str, int]], None] = lambda _when, _pids: None,
) -> Collected:
    """Probe between agents by a policy, and bring back what they signed.

    Args:
        policy: the checked policy.
        places: zone (or agent) -> path of its network namespace, or `https://host:port` of its agent.
        signer: signs the plan.
        clock: the time of the plan.
        chain: certificates of the signer, leaf first; agents on other machines judge them.
        caller: how this controller shows itself to agents on other machines.
        progress: called a step.
        start: called with the plan's digest before anything is sent; if it raises, nothing is.
        perform: called at `before`, `during`, `after` with the agents' process IDs by zone; a lab breaks things here.

    Raises:
        UsageError: places or addresses that do not fit the policy.
        SecguardError: agents cannot be started or reached, lack permissions, or are not who they should be.
    """
    agents: list[Link] = []
    try:
        for name, zone, place in _names(policy, places):
            agents.append(_reach(name, zone, place, signer, caller))
        import scapy.layers.inet6  # noqa: F401 - while the agents start

        hellos = gather(agents, _START_TIMEOUT)
        progress(1, STEPS, "steps")
        infos = []
        for agent in agents:
            if agent.name not in hellos:
                raise missing(agent)
            hello = hellos[agent.name].answer
            if error := hello.failure():
                raise error
            addresses = _addresses(policy, agent.name, agent.zone, hello.addresses)
            infos.append(AgentInfo(agent.name, agent.zone, addresses, hello.key, hello.certificate))
        controller = Controller(generate(Algorithm.ED25519))
        made = msgspec.structs.replace(
            compile_plan(policy, infos, clock.now()),
            controller=spki(controller.signer.public_key()),
            chain=chain_text(chain),
        )
        envelope = seal_plan(made, signer)
        plan, digest = open_plan(envelope, [signer.public_key()])
        start(digest)
        return lead(plan, digest, envelope, agents, controller, progress=progress, perform=perform)
    finally:
        for agent in agents:
            agent.close()


def _reach(name: str, zone: str, place: str, signer: Signer, caller: Caller | None) -> Link:
    if "://" not in place:
        return AgentProcess(name, zone, place, spki(signer.public_key()))
    if caller is None:
        raise UsageError(
            "isolation.agent.caller",
            f"agent {name} is reached over HTTPS, which needs a certificate",
            hint="give --cert, --cert-key and --root",
        )
    return RemoteAgent(name, zone, place, caller)


def _names(policy: Policy, places: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(agent, zone, place) for what the caller named: zones, or agents where a zone has several."""
    found = []
    left = dict(places)
    for zone in policy.zones:
        for spec in zone.agents:
            place = left.pop(spec.name, None) or (left.pop(zone.name, None) if len(zone.agents) == 1 else None)
            if place is None:
                raise UsageError(
                    "isolation.namespace.none",
                    f"no network namespace for agent {spec.name} of zone {zone.name}, and no address",
                    hint=f"add --in-namespaces {zone.name if len(zone.agents) == 1 else spec.name}=PATH, or "
                    f"--agent {spec.name}=https://HOST:PORT",
                )
            found.append((spec.name, zone.name, place))
    if left:
        raise UsageError("isolation.namespace.unknown", f"the policy has no zone or agent {', '.join(left)[:100]}")
    return found


def _addresses(policy: Policy, name: str, zone: str, found: Sequence[str]) -> tuple[str, ...]:
    """The addresses an agent probes with: as the policy says, else the first of each family inside its zone."""
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
