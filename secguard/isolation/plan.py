"""The plan: a policy compiled into a case table, a run ID, a secret and a time window, signed as a DSSE envelope.

The table is columns, one entry a case; agents look their own cases up in it. A plan holds the run's secret: until its
window has passed it is kept as a private file (0600).
"""

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.isolation.policy import Flow, Policy
from secguard.isolation.tokens import Tokens
from secguard.keys import Signer, seal, unseal

__all__ = ["MAX_CASES", "PLAN_TYPE", "AgentInfo", "CaseTable", "Plan", "compile_plan", "open_plan", "seal_plan"]

PLAN_TYPE = "application/vnd.secguard.isolation.plan+json"
MAX_CASES = 200_000
_MAX_PACKETS = 0xFF  # attempts of one phase fit the low byte of a sequence number
_SAMPLE_ABOVE = 8
_CLOCK_SKEW = timedelta(seconds=30)
_TUNNELS = {4: ("gre", "ipip", "6in4"), 6: ("gre", "ip6ip6")}
_WANTED_DENIED = 3


class AgentInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent as the plan knows it: zone, one address a family, and its public key (SPKI, base64; may be empty)."""

    name: str
    zone: str
    addresses: tuple[str, ...]
    key: str = ""

    def address(self, family: int) -> str:
        """Its address of family 4 or 6; empty if it has none."""
        return next((text for text in self.addresses if (6 if ":" in text else 4) == family), "")


class CaseTable(msgspec.Struct, forbid_unknown_fields=True):
    """The cases as columns; `src` and `dst` are positions in the plan's agents, ports are 0 where there are none."""

    profile: list[str] = []
    protocol: list[str] = []
    family: list[int] = []
    src: list[int] = []
    dst: list[int] = []
    sport: list[int] = []
    dport: list[int] = []
    expect: list[str] = []
    flow: list[str] = []
    canary: list[bool] = []

    def __len__(self) -> int:
        return len(self.profile)

    def columns(self) -> list[list[object]]:
        """All columns, in the order of the fields."""
        return [getattr(self, name) for name in self.__struct_fields__]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What agents carry out.

    Attributes:
        run: run ID, 16 bytes in hex.
        policy: SHA-256 of the policy file.
        secret: 32 bytes in hex; the run key derives from it.
        not_before: start of the time window.
        not_after: its end; agents refuse to run outside.
        zones: the blocks of each zone; agents never send elsewhere.
        exclude: blocks never sent to.
        sampled: flows whose port ranges are probed in part: name -> (ports named, ports probed).
        uncovered: (source zone, destination zone, family) that the policy has but no agent can probe.
        expired: names of flows past their date, treated as denied.
    """

    run: str
    policy: str
    secret: str
    not_before: datetime
    not_after: datetime
    zones: dict[str, tuple[str, ...]]
    exclude: tuple[str, ...]
    agents: tuple[AgentInfo, ...]
    cases: CaseTable
    attempts: int
    rate: int
    timeout: float
    sampled: dict[str, tuple[int, int]] = {}
    uncovered: tuple[tuple[str, str, int], ...] = ()
    expired: tuple[str, ...] = ()
    v: int = 1

    def tokens(self) -> Tokens:
        """The run's tokens."""
        return Tokens(bytes.fromhex(self.secret), bytes.fromhex(self.run))

    def agent(self, name: str) -> int:
        """Position of an agent by name (UsageError if there is none)."""
        for index, agent in enumerate(self.agents):
            if agent.name == name:
                return index
        raise UsageError("isolation.agent.unknown", f"the plan has no agent {name[:60]!r}")

    def permits(self, address: str) -> bool:
        """Whether agents may send to an address: inside a zone's blocks and not excluded."""
        value = ipaddress.ip_address(address)

        def inside(blocks: Iterable[str]) -> bool:
            return any(value in network for network in map(ipaddress.ip_network, blocks))

        return any(inside(blocks) for blocks in self.zones.values()) and not inside(self.exclude)


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
    if not len(build.table):
        raise UsageError("isolation.plan.empty", "no two agents share an address family: nothing to probe")
    seconds = len(build.table) * policy.limits.attempts * 2 / policy.limits.rate + policy.limits.timeout
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
        sampled={name: counts for name, counts in sampled.items() if counts[0] != counts[1]},
        uncovered=tuple(dict.fromkeys(uncovered)),
        expired=tuple(flow.name for flow in policy.flows if flow not in live),
    )


def _wants(policy: Policy, zone: str, family: int) -> bool:
    return any(ipaddress.ip_network(block.cidr).version == family for block in policy.zone(zone).ip_blocks)


def _count(flow: Flow) -> tuple[int, int]:
    counts = [(named, len(probed)) for probed, named in (_ports(flow, "TCP"), _ports(flow, "UDP"))]
    return sum(named for named, _ in counts), sum(probed for _, probed in counts)


def seal_plan(plan: Plan, signer: Signer) -> bytes:
    """The signed plan."""
    return seal(msgspec.json.encode(plan), PLAN_TYPE, signer)


def open_plan(data: bytes, keys: Iterable[PublicKeyTypes], now: datetime | None = None) -> tuple[Plan, str]:
    """Check a signed plan.

    Args:
        data: the envelope.
        keys: whose signature counts.
        now: refuse outside the plan's window; None to read an old plan.

    Returns:
        The plan and the SHA-256 of its payload.

    Raises:
        FormatError: not a plan.
        RefusedError: not signed by one of `keys`, or outside its window.
    """
    payload, key = unseal(data, PLAN_TYPE, keys)
    if key is None:
        raise RefusedError("isolation.plan.signature", "the plan is not signed by a trusted key")
    try:
        plan = msgspec.json.decode(payload, type=Plan)
        _check(plan)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("isolation.plan.format", f"not a plan: {str(error)[:160]}") from None
    if now is not None and not plan.not_before <= now <= plan.not_after:
        raise RefusedError(
            "isolation.plan.window",
            f"the plan is for {plan.not_before:%Y-%m-%d %H:%M:%S} to {plan.not_after:%Y-%m-%d %H:%M:%S} UTC",
            hint="make a new plan, and check this machine's clock",
        )
    return plan, hashlib.sha256(payload).hexdigest()


def _check(plan: Plan) -> None:
    cases, count = plan.cases, len(plan.cases)
    if plan.v != 1:
        raise ValueError("unknown version")
    if len(bytes.fromhex(plan.run)) != 16 or len(bytes.fromhex(plan.secret)) != 32:
        raise ValueError("run or secret has a wrong length")
    if plan.not_before.tzinfo is None or plan.not_after.tzinfo is None:
        raise ValueError("a time without offset")
    if count > MAX_CASES or any(len(column) != count for column in cases.columns()):
        raise ValueError("columns of different or too great length")
    if not 1 <= plan.attempts <= _MAX_PACKETS // 4 or plan.rate < 1 or not 0 <= plan.timeout <= 60:
        raise ValueError("limits out of range")
    for agent in plan.agents:
        networks = [ipaddress.ip_network(text) for text in plan.zones.get(agent.zone, ())]
        if any(not any(ipaddress.ip_address(a) in network for network in networks) for a in agent.addresses):
            raise ValueError("an agent outside its zone")
    for index in range(count):
        ends = (cases.src[index], cases.dst[index])
        if any(not 0 <= end < len(plan.agents) for end in ends) or cases.family[index] not in {4, 6}:
            raise ValueError(f"case {index} names no agent")
        if any(not plan.agents[end].address(cases.family[index]) for end in ends):
            raise ValueError(f"case {index} has no address")
        if not 0 <= cases.sport[index] <= 65535 or not 0 <= cases.dport[index] <= 65535:
            raise ValueError(f"case {index} has no port")
