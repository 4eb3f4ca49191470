"""What a policy is made of: zones with blocks and agents, flows, exceptions, limits and probes. See `policy.py`."""

import ipaddress
from datetime import date
from typing import Annotated, Literal

import msgspec

from secguard.isolation.policy.targets import Published, Target
from secguard.isolation.probes.profiles import PROFILES

__all__ = [
    "MAX_EXCEPTIONS",
    "MAX_FLOWS",
    "MAX_ZONES",
    "PROFILES",
    "AgentSpec",
    "Block",
    "Exemption",
    "Flow",
    "Hostile",
    "Limits",
    "Name",
    "Policy",
    "PolicyDocument",
    "Port",
    "Probes",
    "Published",
    "Zone",
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_ZONES = 64
MAX_FLOWS = 2000
MAX_EXCEPTIONS = 200

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Text = Annotated[str, msgspec.Meta(max_length=200)]
Hostile = Literal["never", "own", "allowed"]


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address block of a zone, less its exceptions (NetworkPolicy's `ipBlock`)."""

    cidr: str
    exceptions: tuple[str, ...] = msgspec.field(default=(), name="except")

    def covers(self, address: Address) -> bool:
        """Whether the address lies in the block and in none of its exceptions."""
        return _inside(address, self.cidr) and not any(_inside(address, item) for item in self.exceptions)


class AgentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent: its name, what it can hear, and its addresses (found by itself when left out).

    Attributes:
        name: unique in the policy.
        sensor: `host` hears what reaches its own host, `mirror` what a mirror (SPAN) port copies to it.
        addresses: inside its zone, one a family.
        covers: blocks of its zone that its sensor hears besides its own addresses: behind a mirror port, routed
            through it, or local to it. Targets that no sensor covers are one-sided: their silence proves nothing.
        interface: the mirror port of a sensor without an address there: it only hears, and another agent of its zone
            sends.
    """

    name: Name
    sensor: Literal["host", "mirror"] = "host"
    addresses: tuple[str, ...] = ()
    covers: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()
    interface: Annotated[str, msgspec.Meta(pattern=r"^([^\s/:]{1,15})?$")] = ""


class Zone(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A zone.

    Attributes:
        label: what people call it.
        ipBlocks: its addresses.
        agents: one at least.
        targets: what is swept in it besides the agents' addresses.
        published: addresses in it behind which other zones' hosts may stand (port forwarding, NAT): the firewall's
            own, above all. What is sent to one and arrives in another zone is a leak.
    """

    name: Name = ""
    label: Text = ""
    ip_blocks: tuple[Block, ...] = msgspec.field(name="ipBlocks")
    agents: tuple[AgentSpec, ...]
    targets: Annotated[tuple[Target, ...], msgspec.Meta(max_length=256)] = ()
    published: Annotated[tuple[Published, ...], msgspec.Meta(max_length=64)] = ()

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

    Attributes:
        name: names the flow in findings; unique in the policy.
        src: the zone that sends.
        dst: the zone that receives.
        ports: protocols and ports.
        expect: `open`: answers come back; `one-way`: nothing may come back; `closed`: passes, but no service answers.
        canary: also sent before and after the scan: without it silence proves nothing.
        owner: who answers for it.
        expires: the last day on which it is allowed; after it, it is probed as denied.
    """

    name: Name
    src: str
    dst: str
    ports: Annotated[tuple[Port, ...], msgspec.Meta(min_length=1, max_length=200)]
    expect: Literal["open", "one-way", "closed"] = "open"
    canary: bool = False
    owner: Text = ""
    expires: date | None = None


class Exemption(Flow, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A flow that is allowed for a while, against the rule: `isolation lint` wants an owner and a last day.

    Attributes:
        reason: why it is needed.
        case: the number under which it was approved.
    """

    reason: Text = ""
    case: Text = ""


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
        22, 23, 80, 443, 445, 554, 3389, 5060, 8000, 9200, 34567, 37777, 49152,
    )  # fmt: skip
    udp: Annotated[tuple[Number, ...], msgspec.Meta(max_length=4096)] = (
        53,
        123,
        161,
        514,
        3702,
        5060,
        10000,
        30000,
        49152,
    )
    source_ports: Annotated[tuple[Number, ...], msgspec.Meta(max_length=32)] = msgspec.field(
        default=(20, 53, 67, 80, 88, 123, 443, 500), name="sourcePorts"
    )


class PolicyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A policy of network isolation: what may pass between zones. Everything else is denied, in both directions.

    Attributes:
        apiVersion: the version of this format.
        kind: what this file is.
        zones: zones by name.
        default: every ordered pair of zones that no flow names is denied.
        profiles: which probes are sent; all of this version if left out.
        hostile: where probes go that may crash a poor stack: `never`, to the agents' `own` addresses, or `allowed`
            wherever probes go.
        flows: what may pass.
        exceptions: what may pass for a while: flows with an owner and a last day.
        limits: bounds of a scan.
        probes: ports probed besides those that flows name.
    """

    apiVersion: Literal["secguard/v1alpha1"]  # noqa: N815 - Kubernetes' name
    kind: Literal["IsolationPolicy"]
    zones: Annotated[dict[Name, Zone], msgspec.Meta(min_length=2, max_length=MAX_ZONES)]
    default: Literal["deny"] = "deny"
    profiles: tuple[str, ...] = PROFILES
    hostile: Hostile = "own"
    flows: Annotated[tuple[Flow, ...], msgspec.Meta(max_length=MAX_FLOWS)] | None = None
    exceptions: Annotated[tuple[Exemption, ...], msgspec.Meta(max_length=MAX_EXCEPTIONS)] | None = None
    limits: Limits = Limits()
    probes: Probes = Probes()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A checked policy.

    Attributes:
        flows: what may pass; the exceptions come last.
        hostile: where hostile probes go.
        digest: SHA-256 of the file.
        where: its name.
        lines: the line of each flow, by name.
    """

    zones: tuple[Zone, ...]
    flows: tuple[Flow, ...]
    profiles: tuple[str, ...]
    hostile: Hostile = "own"
    limits: Limits
    probes: Probes
    digest: str
    where: str
    lines: dict[str, int] = {}

    def zone(self, name: str) -> Zone:
        """The zone of that name (KeyError if there is none)."""
        return next(zone for zone in self.zones if zone.name == name)


def _inside(address: Address, cidr: str) -> bool:
    network = ipaddress.ip_network(cidr)
    return network.version == address.version and address in network
