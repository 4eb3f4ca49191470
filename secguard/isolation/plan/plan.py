"""The plan: a policy compiled into a case table, a run ID, a secret and a time window, signed as a DSSE envelope.

The table is columns, one entry a case; agents look their own cases up in it. A plan holds the run's secret: until its
window has passed it is kept as a private file (0600).
"""

import hashlib
import ipaddress
from collections.abc import Iterable
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.isolation.plan.sweeps import Sweep, check_sweeps
from secguard.isolation.plan.tokens import Tokens
from secguard.isolation.probes.packets import Template, kinds
from secguard.isolation.probes.profiles import probe, transport
from secguard.keys import Signer, as_sealed, seal, unseal

__all__ = ["MAX_CASES", "PLAN_TYPE", "AgentInfo", "CaseTable", "Plan", "open_plan", "seal_plan"]

PLAN_TYPE = "application/vnd.secguard.isolation.plan+json"
MAX_CASES = 200_000
_MAX_PACKETS = 0xFF  # attempts of one phase fit the low byte of a sequence number


class AgentInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent as the plan knows it.

    Attributes:
        name: as in the policy.
        zone: where it stands.
        addresses: one a family.
        key: its public key (SPKI, base64), which signs its observations; an agent without one cannot be judged.
        certificate: SHA-256 of its certificate (hex); empty where it has none.
        covers: blocks that its sensor hears besides its own addresses.
        mirror: whether its sensor is a mirror port, which hears its own probes a second time.
        interface: the mirror port of an agent that has no address there: it only hears, and never sends.
    """

    name: str
    zone: str
    addresses: tuple[str, ...]
    key: str = ""
    certificate: str = ""
    covers: tuple[str, ...] = ()
    mirror: bool = False
    interface: str = ""

    def hears(self, address: str) -> bool:
        """Whether packets to an address reach its sensor."""
        value = ipaddress.ip_address(address)
        return address in self.addresses or any(value in ipaddress.ip_network(text) for text in self.covers)

    def address(self, family: int) -> str:
        """Its address of family 4 or 6; empty if it has none."""
        return next((text for text in self.addresses if (6 if ":" in text else 4) == family), "")


class CaseTable(msgspec.Struct, forbid_unknown_fields=True):
    """The cases as columns; `src` and `dst` are positions in the plan's agents, ports are 0 where there are none.

    `profile` and `protocol` name a row of the table of probes. `source` is the address that a case claims to come from,
    `target` the address it is sent to, both empty where they are the agents' own.
    """

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
    source: list[str] = []
    target: list[str] = []

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
        templates: `kind/family` -> template of each kind of packet that the cases need.
        sampled: flows whose port ranges are probed in part: name -> (ports named, ports probed).
        uncovered: (source zone, destination zone, family) that the policy has but no agent can probe.
        expired: names of flows past their date, treated as denied.
        controller: public key (SPKI, base64) that signs the orders of this run; empty if it runs by the clock.
        start: when its phases begin, if it runs by the clock (`secguard.isolation.plan.timeline`).
        skew: seconds that the agents' clocks may be apart then; they hear so much earlier and later than they send.
        chain: certificates of the plan's signer (DER, base64), leaf first, without the root; a claim, to be judged.
        hostile: whether hostile probes may go to other addresses than the agents' own.
        sweeps: blocks of hosts times ports; their probes are numbered after the cases.
        labels: what people call the zones.
        serves: published address -> ports on which the device that has it answers itself.
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
    templates: dict[str, Template]
    sampled: dict[str, tuple[int, int]] = {}
    uncovered: tuple[tuple[str, str, int], ...] = ()
    expired: tuple[str, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    controller: str = ""
    start: datetime | None = None
    skew: float = 5.0
    chain: tuple[str, ...] = ()
    hostile: bool = False
    labels: dict[str, str] = {}
    serves: dict[str, tuple[int, ...]] = {}
    v: int = 1

    @property
    def relay_port(self) -> int:
        """The TCP port at which every agent listens for a proxy that was asked to connect to it; no case has it."""
        return 61_000 + int(self.run[:4], 16) % 4000

    def tokens(self) -> Tokens:
        """The run's tokens."""
        return Tokens(bytes.fromhex(self.secret), bytes.fromhex(self.run))

    def agent(self, name: str) -> int:
        """Position of an agent by name (UsageError if there is none)."""
        for index, agent in enumerate(self.agents):
            if agent.name == name:
                return index
        raise UsageError("isolation.agent.unknown", f"the plan has no agent {name[:60]!r}")

    def ends(self, case: int) -> tuple[str, str]:
        """The addresses that a case's packets bear: source, destination."""
        cases = self.cases
        family = cases.family[case]
        source = cases.source[case] or self.agents[cases.src[case]].address(family)
        return source, cases.target[case] or self.agents[cases.dst[case]].address(family)

    def inner(self, case: int) -> str:
        """Where the content of a case's tunnel goes, if the tunnel itself ends at a published address; else empty."""
        return "" if transport(self.cases.profile[case], self.cases.protocol[case]) else self._far(case)

    def wanted(self, case: int) -> str:
        """The address that a relay is asked for: the far agent's own, wherever the relay stands."""
        return self._far(case) or self.ends(case)[1]

    def _far(self, case: int) -> str:
        """The far agent's own address where a case goes to a published address; else empty."""
        cases = self.cases
        return self.agents[cases.dst[case]].address(cases.family[case]) if cases.profile[case] == "published" else ""

    def permits(self, address: str) -> bool:
        """Whether agents may send to an address: inside a zone's blocks and not excluded."""
        value = ipaddress.ip_address(address)

        def inside(blocks: Iterable[str]) -> bool:
            return any(value in network for network in map(ipaddress.ip_network, blocks))

        return any(inside(blocks) for blocks in self.zones.values()) and not inside(self.exclude)


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
        raise RefusedError(
            "isolation.plan.signature",
            "the plan is not signed by a trusted key",
            hint="it was edited, or --trust or --root is another's; beside a plan, PLAN.signer.pem is its signer",
        )
    if not as_sealed(data, key):
        raise FormatError("isolation.plan.form", "the plan is not as it was written", hint="get it again")
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


def _harmful(plan: Plan, case: int) -> bool:
    """Whether a case may harm a host and the plan does not allow that."""
    row = probe(plan.cases.profile[case], plan.cases.protocol[case])
    return not plan.hostile and row is not None and row.hazard == "hostile"


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
    if (
        not 1 <= plan.attempts <= _MAX_PACKETS // 4
        or plan.rate < 1
        or not 0 <= plan.timeout <= 60
        or not 0 <= plan.skew <= 3600
    ):
        raise ValueError("limits out of range")
    for agent in plan.agents:
        networks = [ipaddress.ip_network(text) for text in plan.zones.get(agent.zone, ())]
        if any(not any(ipaddress.ip_address(a) in network for network in networks) for a in agent.addresses):
            raise ValueError("an agent outside its zone")
    for name, form in plan.templates.items():
        kind, _, family = name.partition("/")
        if not kind or family not in {"4", "6"}:
            raise ValueError("a template without a kind")
        form.check(int(family))
    check_sweeps(plan.sweeps, count, plan.agents, plan.templates, (plan.zones, plan.exclude))
    elsewhere = {text: ipaddress.ip_address(text).version for text in {*cases.source, *cases.target} - {""}}
    if not all(plan.permits(text) for text in elsewhere):
        raise ValueError("an address outside the policy's blocks")
    for index in range(count):
        claimed = {elsewhere.get(text, 0) for text in (cases.source[index], cases.target[index])} - {0}
        if claimed - {cases.family[index]} or (cases.target[index] and _harmful(plan, index)):
            raise ValueError(f"case {index} goes where it must not")
        wanted = kinds(cases.profile[index], cases.protocol[index])
        if not wanted or any(f"{kind}/{cases.family[index]}" not in plan.templates for kind in wanted):
            raise ValueError(f"case {index} has no template")
        ends = (cases.src[index], cases.dst[index])
        if any(not 0 <= end < len(plan.agents) for end in ends) or cases.family[index] not in {4, 6}:
            raise ValueError(f"case {index} names no agent")
        needed = ends if not cases.target[index] else ends[:1]
        if any(not plan.agents[end].address(cases.family[index]) for end in needed):
            raise ValueError(f"case {index} has no address")
        if not 0 <= cases.sport[index] <= 65535 or not 0 <= cases.dport[index] <= 65535:
            raise ValueError(f"case {index} has no port")
