"""Collecting: reach one agent a zone, sign the plan for the addresses they found, bring back what they signed."""

import ipaddress
from collections.abc import Callable, Mapping, Sequence

import msgspec
from cryptography import x509

from secguard.core import Clock, Progress, RefusedError, UsageError, silent
from secguard.isolation.agent.control import Controller
from secguard.isolation.agent.credentials import chain_text
from secguard.isolation.agent.keys import spki
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, open_plan, seal_plan
from secguard.isolation.policy.policy import Policy
from secguard.isolation.runs.lead import STEPS, Collected, lead
from secguard.isolation.runs.process import AgentProcess, Link, gather, missing
from secguard.isolation.runs.remote import Caller, RemoteAgent
from secguard.isolation.runs.state import RunState
from secguard.keys import Algorithm, Signer, generate

__all__ = ["collect", "resume"]

_START_TIMEOUT = 30.0
_VALID = 600.0  # seconds that a plan is valid beyond its estimated duration
_RESUMABLE = 86400.0


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
    state: RunState | None = None,
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
        state: where a long run writes down what it takes to go on after a kill (`resume`).

    Raises:
        UsageError: places or addresses that do not fit the policy.
        SecguardError: agents cannot be started or reached, lack permissions, or are not who they should be.
    """
    agents: list[Link] = []
    try:
        for name, zone, place in _names(policy, places):
            agents.append(_reach(name, zone, place, spki(signer.public_key()), caller, state))
        import numpy as np  # noqa: F401 - while the agents start
        import scapy.layers.inet6  # noqa: F401 - likewise

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
        controller = Controller(state.key("controller") if state else generate(Algorithm.ED25519))
        made = msgspec.structs.replace(
            compile_plan(policy, infos, clock.now(), valid=_RESUMABLE if state else _VALID),
            controller=spki(controller.signer.public_key()),
            chain=chain_text(chain),
        )
        envelope = seal_plan(made, signer)
        plan, digest = open_plan(envelope, [signer.public_key()])
        if state is not None and plan.sweeps:
            state.save(envelope)
        start(digest)
        return lead(plan, digest, envelope, agents, controller, progress=progress, perform=perform)
    finally:
        for agent in agents:
            agent.close()


def resume(
    state: RunState,
    *,
    clock: Clock,
    caller: Caller | None = None,
    progress: Progress = silent,
    start: Callable[[str], None] = lambda _digest: None,
) -> Collected:
    """Go on with an interrupted run: the same plan, the same keys; rounds of sweeps that all agents kept stay.

    Args:
        state: what the run wrote down.
        clock: the time.
        caller: how this controller shows itself to agents on other machines.
        progress: called a step.
        start: called with the plan's digest before anything is sent.

    Raises:
        RefusedError: the plan's window has passed, or an agent is not the one that began.
        SecguardError: agents cannot be started or reached.
    """
    plan, digest = open_plan(state.plan, [state.signer], clock.now())
    agents: list[Link] = []
    try:
        for info in plan.agents:
            place = state.places.get(info.name) or state.places.get(info.zone, "")
            agents.append(_reach(info.name, info.zone, place, state.trust, caller, state))
        hellos = gather(agents, _START_TIMEOUT)
        for agent, info in zip(agents, plan.agents, strict=True):
            if agent.name not in hellos:
                raise missing(agent)
            if error := hellos[agent.name].answer.failure():
                raise error
            if hellos[agent.name].answer.key != info.key:
                raise RefusedError("isolation.resume.agent", f"agent {info.name} has another key than when it began")
        progress(1, STEPS, "steps")
        start(digest)
        controller = Controller(state.key("controller"))
        return lead(plan, digest, state.plan, agents, controller, progress=progress, perform=lambda _when, _pids: None)
    finally:
        for agent in agents:
            agent.close()


def _reach(name: str, zone: str, place: str, trust: str, caller: Caller | None, state: RunState | None) -> Link:  # noqa: PLR0917 - what every way of reaching one needs
    if "://" not in place:
        if state is None:
            return AgentProcess(name, zone, place, trust)
        return AgentProcess(name, zone, place, trust, key=state.pem(f"agent {name}"), state=state.journals)
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
    if spec.addresses or spec.interface:
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
