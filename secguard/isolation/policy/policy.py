"""The policy: zones, the address blocks and agents in them, and the flows allowed between them. All else is denied."""

import hashlib
import ipaddress
from pathlib import Path
from typing import Any

import msgspec

from secguard.core.errors import FormatError
from secguard.core.limits import read_bounded
from secguard.core.yamltree import MAX_BYTES, load
from secguard.isolation.policy.model import (
    MAX_EXCEPTIONS,
    MAX_FLOWS,
    MAX_ZONES,
    PROFILES,
    AgentSpec,
    Block,
    Exemption,
    Flow,
    Hostile,
    Limits,
    Name,
    Policy,
    PolicyDocument,
    Port,
    Probes,
    Zone,
)
from secguard.isolation.policy.reader import Network, Reader
from secguard.isolation.policy.targets import check_published, check_target, within

__all__ = [
    "PROFILES",
    "AgentSpec",
    "Block",
    "Exemption",
    "Flow",
    "Limits",
    "Policy",
    "PolicyDocument",
    "Port",
    "Probes",
    "Zone",
    "load_policy",
    "read_policy",
]

_WIDEST = {4: 8, 6: 32}
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")


def _zone(reader: Reader, name: str, value: Any) -> Zone | None:
    path = ("zones", name)
    if isinstance(value, dict) and isinstance(value.get("agents"), list):
        named = [{"name": item} if isinstance(item, str) else item for item in value["agents"]]
        value = {**value, "agents": named}
    if isinstance(value, dict) and isinstance(value.get("published"), list):
        listed = [{"address": item} if isinstance(item, str) else item for item in value["published"]]
        value = {**value, "published": listed}
    if isinstance(value, dict) and "name" in value:
        reader.add("field", f"zones.{name}: the name stands before the colon", *path, "name")
        value = {key: item for key, item in value.items() if key != "name"}
    known = reader.read(name, Name, *path)
    zone = reader.read(value, Zone, *path)
    if zone is None or known is None:
        return None
    zone = msgspec.structs.replace(zone, name=name)
    if not zone.ip_blocks or not zone.agents:
        reader.add("zone", f"zone {name} needs at least one block and one agent", *path)
    elif all(agent.interface for agent in zone.agents):
        reader.add("zone", f"zone {name} needs an agent that sends: one without interface", *path)
    sound = True
    for number, block in enumerate(zone.ip_blocks):
        sound &= _block(reader, block, *path, "ipBlocks", number)
    if not sound:
        return None
    held: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    for number, agent in enumerate(zone.agents):
        if agent.interface and (agent.sensor != "mirror" or agent.addresses or not agent.covers):
            message = f"{agent.name}: interface is for sensor: mirror without addresses, and needs covers"
            reader.add("agent", message, *path, "agents", number)
        for text in agent.addresses:
            try:
                address = ipaddress.ip_address(text)
                inside = zone.covers(address)
            except ValueError as error:
                reader.add("address", str(error)[:120], *path, "agents", number)
                continue
            if not inside:
                reader.add("agent-outside", f"{text} is not in zone {name}", *path, "agents", number)
            if address in held:
                reader.add("address-twice", f"two agents have {text}", *path, "agents", number)
            held.add(address)
        for text in agent.covers:
            network = reader.network(text, *path, "agents", number)
            if network is not None and not within(network, (block.cidr for block in zone.ip_blocks)):
                reader.add("covers", f"{text} is in no block of zone {name}", *path, "agents", number)
    for number, target in enumerate(zone.targets):
        if problem := check_target(target, [block.cidr for block in zone.ip_blocks]):
            reader.add("target", problem, *path, "targets", number)
    taken = [text for agent in zone.agents for text in agent.addresses]
    for number, item in enumerate(zone.published):
        problem = check_published(item, taken)
        if not problem and not zone.covers(ipaddress.ip_address(item.address)):
            problem = f"{item.address} is not in zone {name}"
        if problem:
            reader.add("published", problem, *path, "published", number)
    return zone


def _block(reader: Reader, block: Block, *path: str | int) -> bool:
    """Whether the block and its exceptions are networks."""
    network = reader.network(block.cidr, *path, "cidr")
    if network is None:
        return False
    if network.prefixlen < _WIDEST[network.version]:
        hint = f"at most /{_WIDEST[network.version]}: a scan sends only to blocks that are certainly yours"
        reader.add("block-wide", f"{block.cidr} is too wide", *path, hint=hint)
    elif network.is_multicast or network.is_loopback or (network.version == 6 and network.overlaps(_MAPPED)):
        hint = "no packet between zones has such an address; write an IPv4 block as IPv4"
        reader.add("block-kind", f"{block.cidr} is multicast, loopback or IPv4-mapped", *path, hint=hint)
    sound = True
    for item in block.exceptions:
        other = reader.network(item, *path, "except")
        sound &= other is not None
        if other is not None and (
            other.version != network.version or not other.subnet_of(network)  # type: ignore[arg-type] # same version
        ):
            reader.add("except", f"{item} is not inside {block.cidr}", *path)
    return sound


def _check_zones(reader: Reader, zones: tuple[Zone, ...], count: int) -> None:
    if not 2 <= count <= MAX_ZONES:
        reader.add("zones", f"a policy has 2 to {MAX_ZONES} zones", "zones")
    names: set[str] = set()
    blocks: list[tuple[str, Network]] = []
    for zone in zones:
        for agent in zone.agents:
            if agent.name in names:
                reader.add("agent-twice", f"two agents are called {agent.name}", "zones", zone.name, "agents")
            names.add(agent.name)
        for number, block in enumerate(zone.ip_blocks):
            network = ipaddress.ip_network(block.cidr)
            for other, taken in blocks:
                if other != zone.name and network.version == taken.version and network.overlaps(taken):
                    message = f"{block.cidr} of {zone.name} overlaps {taken} of {other}"
                    reader.add("overlap", message, "zones", zone.name, "ipBlocks", number)
            blocks.append((zone.name, network))


def _flow(reader: Reader, value: Any, kind: type[Flow], known: list[str], *path: str | int) -> Flow | None:
    flow = reader.read(value, kind, *path)
    if flow is None:
        return None
    for key, end in (("src", flow.src), ("dst", flow.dst)):
        if end not in known:
            hint = f"zones: {', '.join(known)[:200]}"
            reader.add("zone-unknown", f"no zone {end[:60]!r}", *path, key, hint=hint)
    if flow.src == flow.dst:
        reader.add("flow", "a flow goes from one zone to another", *path)
    for index, port in enumerate(flow.ports):
        place = (*path, "ports", index)
        if port.protocol == "ICMP" and (port.port or port.end_port):
            reader.add("port", "ICMP has no ports", *place)
        if port.protocol != "ICMP" and port.port is None:
            reader.add("port", f"{port.protocol} needs a port", *place)
        elif port.end_port is not None and port.end_port < (port.port or 0):
            reader.add("port", "endPort is below port", *place)
    return flow


def _flows(reader: Reader, document: dict[str, Any], known: list[str]) -> tuple[tuple[Flow, ...], dict[str, int]]:
    """Flows, then exceptions; and the line of each by name."""
    found: list[Flow] = []
    lines: dict[str, int] = {}
    for key, kind, most in (("flows", Flow, MAX_FLOWS), ("exceptions", Exemption, MAX_EXCEPTIONS)):
        listed = document.get(key)
        if listed is None:
            continue
        if not isinstance(listed, list) or len(listed) > most:
            reader.add(key, f"{key} is a list of at most {most}", key)
            continue
        for number, value in enumerate(listed):
            flow = _flow(reader, value, kind, known, key, number)
            if flow is None:
                continue
            if any(other.name == flow.name for other in found):
                reader.add("flow-twice", f"two flows are called {flow.name}", key, number)
            found.append(flow)
            lines[flow.name] = reader.tree.line(key, number)
    return tuple(found), lines


def _head(reader: Reader, document: dict[str, Any]) -> None:
    known = [field.encode_name for field in msgspec.structs.fields(PolicyDocument)]
    for key in document:
        if key not in known:
            hint = f"keys: {', '.join(sorted(known))}"
            reader.add("key-unknown", f"unknown key {key[:40]!r}", key, hint=hint)
    for key, expected in (("apiVersion", "secguard/v1alpha1"), ("kind", "IsolationPolicy")):
        if document.get(key) != expected:
            reader.add("kind", f"{key} must be {expected}", key)
    if document.get("default", "deny") != "deny":
        reader.add("default", "the default can only be deny", "default")


def _profiles(reader: Reader, document: dict[str, Any]) -> tuple[str, ...]:
    profiles = reader.read(document.get("profiles", list(PROFILES)), tuple[str, ...], "profiles") or ()
    for number, profile in enumerate(profiles):
        if profile not in PROFILES:
            hint = f"this version has: {', '.join(PROFILES)}"
            reader.add("profile", f"no profile {profile[:40]!r}", "profiles", number, hint=hint)
    return profiles


def read_policy(source: Path | bytes, where: str = "policy") -> tuple[Policy | None, list[FormatError]]:
    """Read a policy and tell everything that is wrong in it.

    Args:
        source: a YAML file, or its bytes.
        where: name used in errors when bytes are given.

    Returns:
        The policy, None when anything is wrong; and what is wrong, by line (the first hundred).

    Raises:
        UsageError: no such file.
        FormatError: no YAML within bounds; nothing can be said about the rest.
    """
    if isinstance(source, Path):
        where, data = str(source), read_bounded(source, MAX_BYTES)
    else:
        data = source
    reader = Reader(load(data, where, "isolation.policy"), where)
    document = reader.tree.value
    if not isinstance(document, dict):
        raise reader.error("kind", "a policy is a mapping")
    _head(reader, document)
    raw = document.get("zones")
    if not isinstance(raw, dict):
        reader.add("zones", "zones is a mapping of names to zones", "zones")
        raw = {}
    zones = tuple(zone for name, value in raw.items() if (zone := _zone(reader, name, value)) is not None)
    _check_zones(reader, zones, len(raw))
    flows, lines = _flows(reader, document, list(raw))
    profiles = _profiles(reader, document)
    hostile: Hostile = (
        reader.read(document.get("hostile", "own"), Hostile, "hostile") or "own"  # type: ignore[arg-type] # a Literal is no class
    )
    limits = reader.read(document.get("limits", {}), Limits, "limits") or Limits()
    for number, text in enumerate(limits.exclude):
        reader.network(text, "limits", "exclude", number)
    probes = reader.read(document.get("probes", {}), Probes, "probes") or Probes()
    if reader.problems:
        return None, sorted(reader.problems, key=lambda item: int(item.where.rpartition(":")[2]))
    policy = Policy(
        zones=zones,
        flows=flows,
        profiles=profiles,
        hostile=hostile,
        limits=limits,
        probes=probes,
        digest=hashlib.sha256(data).hexdigest(),
        where=where,
        lines=lines,
    )
    return policy, []


def load_policy(source: Path | bytes, where: str = "policy") -> Policy:
    """Read and check a policy.

    Args:
        source: a YAML file, or its bytes.
        where: name used in errors when bytes are given.

    Raises:
        UsageError: no such file.
        FormatError: anything wrong in it; the first by line, and `where` is `file:line`.
    """
    policy, problems = read_policy(source, where)
    if policy is None:
        first, *more = problems
        if more:
            text = f"{first.message} (and {len(more)} more: secguard isolation lint)"
            raise FormatError(first.code, text, hint=first.hint, where=first.where)
        raise first
    return policy
