"""The policy: zones, the address blocks and agents in them, and the flows allowed between them. All else is denied."""

import hashlib
import ipaddress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from secguard.core.errors import FormatError
from secguard.core.limits import read_bounded
from secguard.core.yamltree import MAX_BYTES, Tree, load

__all__ = ["PROFILES", "AgentSpec", "Block", "Flow", "Limits", "Policy", "Port", "Probes", "Zone", "load_policy"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PROFILES = ("l4", "icmp", "source-port", "fragments", "tunnels")
"""Probe profiles of this version; all are safe for the hosts they reach."""
_HINT = "correct this line; docs/isolation.md shows a whole policy"
_WIDEST = {4: 8, 6: 32}
_MAX_ZONES = 64
_MAX_FLOWS = 2000

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Text = Annotated[str, msgspec.Meta(max_length=200)]
_T = TypeVar("_T")


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address block of a zone, less its exceptions (NetworkPolicy's `ipBlock`)."""

    cidr: str
    exceptions: tuple[str, ...] = msgspec.field(default=(), name="except")

    def covers(self, address: Address) -> bool:
        """Whether the address lies in the block and in none of its exceptions."""
        return _inside(address, self.cidr) and not any(_inside(address, item) for item in self.exceptions)


class AgentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent: its name, what it can hear, and its addresses (found by itself when left out).

    `sensor: host` hears what reaches its own host; a mirror port is reserved.
    """

    name: Name
    sensor: Literal["host"] = "host"
    addresses: tuple[str, ...] = ()


class Zone(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A zone: a label for people, its blocks and its agents."""

    name: Name = ""
    label: Text = ""
    ip_blocks: tuple[Block, ...] = msgspec.field(name="ipBlocks")
    agents: tuple[AgentSpec, ...]

    def covers(self, address: Address) -> bool:
        """Whether the address belongs to the zone."""
        return any(block.covers(address) for block in self.ip_blocks)


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A protocol and a port or a range of ports; ICMP has none."""

    protocol: Literal["TCP", "UDP", "ICMP"]
    port: Number | None = None
    end_port: Number | None = msgspec.field(default=None, name="endPort")


class Flow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Traffic that may pass from one zone to another, and how.

    `open`: answers come back; `one-way`: nothing may come back; `closed`: passes, but no service answers.
    A canary is also sent before and after the scan: without it silence proves nothing. Past `expires` it is denied.
    """

    name: Name
    src: str
    dst: str
    ports: Annotated[tuple[Port, ...], msgspec.Meta(min_length=1, max_length=200)]
    expect: Literal["open", "one-way", "closed"] = "open"
    canary: bool = False
    owner: Text = ""
    expires: date | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of a scan: packets a second and agent, attempts a case, seconds for stragglers, addresses to spare."""

    rate: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = msgspec.field(default=1000, name="ratePps")
    attempts: Annotated[int, msgspec.Meta(ge=2, le=10)] = 3
    timeout: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = msgspec.field(default=2.0, name="timeoutSeconds")
    exclude: tuple[str, ...] = ()


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ports probed between every two zones besides those that the flows name.

    The defaults are what video networks run: GB/T 28181 SIP, RTSP, vendors' device ports, databases, remote access.
    """

    tcp: Annotated[tuple[Number, ...], msgspec.Meta(max_length=4096)] = (
        22, 23, 80, 443, 445, 554, 3389, 5060, 8000, 9200, 34567, 37777,
    )  # fmt: skip
    udp: Annotated[tuple[Number, ...], msgspec.Meta(max_length=4096)] = (53, 123, 161, 514, 3702, 5060, 30000)
    source_ports: Annotated[tuple[Number, ...], msgspec.Meta(max_length=32)] = msgspec.field(
        default=(20, 53), name="sourcePorts"
    )


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A checked policy; `digest` is the SHA-256 of the file."""

    zones: tuple[Zone, ...]
    flows: tuple[Flow, ...]
    profiles: tuple[str, ...]
    limits: Limits
    probes: Probes
    digest: str
    where: str

    def zone(self, name: str) -> Zone:
        """The zone of that name (KeyError if there is none)."""
        return next(zone for zone in self.zones if zone.name == name)


def _inside(address: Address, cidr: str) -> bool:
    network = ipaddress.ip_network(cidr)
    return network.version == address.version and address in network


class _Reader:
    def __init__(self, tree: Tree, where: str) -> None:
        self.tree = tree
        self.where = where

    def error(self, code: str, message: str, *path: str | int, hint: str = "") -> FormatError:
        return FormatError(
            f"isolation.policy.{code}", message, hint=hint or _HINT, where=f"{self.where}:{self.tree.line(*path)}"
        )

    def read(self, value: Any, kind: type[_T], *path: str | int) -> _T:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            text, _, inner = str(error).partition(" - at `")
            names = inner.removeprefix("$").rstrip("`").replace("[", ".").replace("]", "").split(".")
            steps: list[str | int] = [int(part) if part.isdigit() else part for part in names if part]
            name = ".".join(map(str, [*path, *steps]))
            raise self.error("field", f"{name}: {text[:160]}", *path, *steps) from None

    def network(self, text: str, *path: str | int) -> Network:
        try:
            return ipaddress.ip_network(text)
        except ValueError as error:
            raise self.error("address", str(error)[:120], *path, hint="write 10.1.0.0/24 or fd00:1::/64") from None


def _zone(reader: _Reader, name: str, value: Any) -> Zone:
    path = ("zones", name)
    if isinstance(value, dict) and isinstance(value.get("agents"), list):
        named = [{"name": item} if isinstance(item, str) else item for item in value["agents"]]
        value = {**value, "agents": named}
    if isinstance(value, dict) and "name" in value:
        raise reader.error("field", f"zones.{name}: the name stands before the colon", *path)
    zone = msgspec.structs.replace(reader.read(value, Zone, *path), name=reader.read(name, Name, *path))
    if not zone.ip_blocks or not zone.agents:
        raise reader.error("zone", f"zone {name} needs at least one block and one agent", *path)
    for number, block in enumerate(zone.ip_blocks):
        network = reader.network(block.cidr, *path, "ipBlocks", number, "cidr")
        if network.prefixlen < _WIDEST[network.version]:
            hint = f"at most /{_WIDEST[network.version]}: a scan sends only to blocks that are certainly yours"
            raise reader.error("block-wide", f"{block.cidr} is too wide", *path, "ipBlocks", number, hint=hint)
        for item in block.exceptions:
            other = reader.network(item, *path, "ipBlocks", number, "except")
            if other.version != network.version or not other.subnet_of(network):  # type: ignore[arg-type]
                raise reader.error("except", f"{item} is not inside {block.cidr}", *path, "ipBlocks", number)
    for number, agent in enumerate(zone.agents):
        for text in agent.addresses:
            try:
                inside = zone.covers(ipaddress.ip_address(text))
            except ValueError as error:
                raise reader.error("address", str(error)[:120], *path, "agents", number) from None
            if not inside:
                raise reader.error("agent-outside", f"{text} is not in zone {name}", *path, "agents", number)
    return zone


def _check_zones(reader: _Reader, zones: tuple[Zone, ...]) -> None:
    if not 2 <= len(zones) <= _MAX_ZONES:
        raise reader.error("zones", f"a policy has 2 to {_MAX_ZONES} zones", "zones")
    names: set[str] = set()
    blocks: list[tuple[str, Network]] = []
    for zone in zones:
        for agent in zone.agents:
            if agent.name in names:
                raise reader.error("agent-twice", f"two agents are called {agent.name}", "zones", zone.name, "agents")
            names.add(agent.name)
        for block in zone.ip_blocks:
            network = ipaddress.ip_network(block.cidr)
            for other, taken in blocks:
                if other != zone.name and network.version == taken.version and network.overlaps(taken):
                    message = f"{block.cidr} of {zone.name} overlaps {taken} of {other}"
                    raise reader.error("overlap", message, "zones", zone.name, "ipBlocks")
            blocks.append((zone.name, network))


def _flow(reader: _Reader, number: int, value: Any, zones: tuple[Zone, ...]) -> Flow:
    path = ("flows", number)
    flow = reader.read(value, Flow, *path)
    known = [zone.name for zone in zones]
    for end in (flow.src, flow.dst):
        if end not in known:
            raise reader.error("zone-unknown", f"no zone {end[:60]!r}", *path, hint=f"zones: {', '.join(known)[:200]}")
    if flow.src == flow.dst:
        raise reader.error("flow", "a flow goes from one zone to another", *path)
    for index, port in enumerate(flow.ports):
        place = (*path, "ports", index)
        if port.protocol == "ICMP" and (port.port or port.end_port):
            raise reader.error("port", "ICMP has no ports", *place)
        if port.protocol != "ICMP" and port.port is None:
            raise reader.error("port", f"{port.protocol} needs a port", *place)
        if port.end_port is not None and port.end_port < (port.port or 0):
            raise reader.error("port", "endPort is below port", *place)
    return flow


def load_policy(source: Path | bytes, where: str = "policy") -> Policy:
    """Read and check a policy.

    Args:
        source: a YAML file, or its bytes.
        where: name used in errors when bytes are given.

    Raises:
        UsageError: no such file.
        FormatError: anything wrong in it; `where` is `file:line`.
    """
    if isinstance(source, Path):
        where, data = str(source), read_bounded(source, MAX_BYTES)
    else:
        data = source
    reader = _Reader(load(data, where, "isolation.policy"), where)
    document = reader.tree.value
    if not isinstance(document, dict):
        raise reader.error("kind", "a policy is a mapping")
    known = {"apiVersion", "kind", "zones", "default", "profiles", "flows", "limits", "probes"}
    for key in document:
        if key not in known:
            raise reader.error(
                "key-unknown", f"unknown key {key[:40]!r}", key, hint=f"keys: {', '.join(sorted(known))}"
            )
    for key, expected in (("apiVersion", "secguard/v1alpha1"), ("kind", "IsolationPolicy")):
        if document.get(key) != expected:
            raise reader.error("kind", f"{key} must be {expected}", key)
    if document.get("default", "deny") != "deny":
        raise reader.error("default", "the default can only be deny", "default")
    raw = document.get("zones")
    if not isinstance(raw, dict):
        raise reader.error("zones", "zones is a mapping of names to zones", "zones")
    zones = tuple(_zone(reader, name, value) for name, value in raw.items())
    _check_zones(reader, zones)
    listed = document.get("flows") or []
    if not isinstance(listed, list) or len(listed) > _MAX_FLOWS:
        raise reader.error("flows", f"flows is a list of at most {_MAX_FLOWS}", "flows")
    flows = tuple(_flow(reader, number, value, zones) for number, value in enumerate(listed))
    for number, flow in enumerate(flows):
        if any(other.name == flow.name for other in flows[:number]):
            raise reader.error("flow-twice", f"two flows are called {flow.name}", "flows", number)
    profiles = reader.read(document.get("profiles", list(PROFILES)), tuple[str, ...], "profiles")
    for number, profile in enumerate(profiles):
        if profile not in PROFILES:
            hint = f"this version has: {', '.join(PROFILES)}"
            raise reader.error("profile", f"no profile {profile[:40]!r}", "profiles", number, hint=hint)
    limits = reader.read(document.get("limits", {}), Limits, "limits")
    for number, text in enumerate(limits.exclude):
        reader.network(text, "limits", "exclude", number)
    return Policy(
        zones=zones,
        flows=flows,
        profiles=profiles,
        limits=limits,
        probes=reader.read(document.get("probes", {}), Probes, "probes"),
        digest=hashlib.sha256(data).hexdigest(),
        where=where,
    )
