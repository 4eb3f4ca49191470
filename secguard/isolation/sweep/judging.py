"""Sweeps judged as columns: a result a probe, findings by pair of zones and kind, counts for the matrix.

The words are those of the case table (`secguard.isolation.judge.judge`); two are for hosts that no sensor covers:

| arrived | answered | covered | result |
|---|---|---|---|
| - | nothing, RST, ICMP error | no | unheard: silence proves nothing, and who refused is not known |
| - | SYN-ACK, an answer, an echo | no | answered: the host, or something in its name |

Health is proven round by round: an outage of ten seconds makes the probes of those seconds inconclusive, not the scan.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from secguard.core import Finding, finding
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.sweeps import rounds
from secguard.isolation.probes import headers
from secguard.isolation.sweep.grid import Grids
from secguard.isolation.sweep.names import name_probes, port_text
from secguard.isolation.sweep.seen import ANSWERS, CHANGED, HEALTHY, HINT, MAX_ATTEMPTS, Round, Swept, unpack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["WORDS", "Seen", "SweepJudgement", "SweepResult", "Tally", "judge_sweeps"]

WORDS = (
    "filtered",
    "rejected",
    "open",
    "closed",
    "one-way",
    "translated",
    "stray",
    "answered",
    "accepted",
    "unheard",
    "inconclusive",
)
"""Results; a probe's code is its position here."""
_CODE = {word: number for number, word in enumerate(WORDS)}
_REACHED = ("open", "closed", "one-way", "translated", "stray")
_FAILS = (*_REACHED, "answered")
_SHOWN = 12
_EVERY = (1 << MAX_ATTEMPTS) - 1


class Seen(Protocol):
    """What is asked of an agent's observations."""

    agent: int
    swept: Swept


@dataclass(slots=True)
class Tally:
    """What the sweeps add to a pair's cell of the matrix."""

    cases: int = 0
    failed: int = 0
    unknown: int = 0
    reached: int = 0
    kinds: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """One sweep: what it was, in words, and its results.

    Attributes:
        src: zone it came from.
        dst: zone it went to.
        target: the block as the policy names it.
        family: 4 or 6.
        protocol: `tcp`, `udp` or `icmp`.
        ports: as ranges.
        named: hosts of the block.
        probed: hosts that were probed.
        covered: whether a sensor hears them.
        counts: probes by result.
        codes: a result a probe, as positions in `WORDS`.
    """

    src: str
    dst: str
    target: str
    family: int
    protocol: str
    ports: str
    named: int
    probed: int
    covered: bool
    counts: dict[str, int]
    codes: "NDArray[np.uint8]"

    def row(self) -> dict[str, Any]:
        """All but the codes, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "codes"}


@dataclass(frozen=True, slots=True)
class SweepJudgement:
    """Everything said of the sweeps: results, findings, what the matrix counts, repeated arrivals by agent."""

    results: list[SweepResult]
    findings: list[Finding]
    tallies: dict[tuple[str, str], Tally]

    @property
    def unknown(self) -> int:
        """Probes of which nothing is known."""
        return sum(item.unknown for item in self.tallies.values())


class _Ends:
    """The observations, unpacked sweep by sweep."""

    def __init__(self, plan: Plan, seen: Sequence[Seen], apart: Callable[[int, int], int | None]) -> None:
        self.plan = plan
        self.apart = apart
        self.by_agent = {item.agent: item.swept for item in seen}
        self._columns = {agent: {item.sweep: item for item in swept.columns} for agent, swept in self.by_agent.items()}
        self._rounds = {agent: {item.number: item for item in swept.rounds} for agent, swept in self.by_agent.items()}
        self.rounds = rounds(plan.sweeps, plan.attempts, plan.rate)

    def column(self, agent: int, sweep: int, name: str, kind: str) -> "NDArray[Any] | None":
        item = self._columns.get(agent, {}).get(sweep)
        data = getattr(item, name) if item is not None else b""
        return unpack(data, self.plan.sweeps[sweep].size, kind) if data else None

    def unhealthy(self, agent: int, number: int, family: int) -> str:
        """Why an agent's silence in a round proves nothing; empty if it was healthy."""
        if agent not in self.by_agent:
            return "agent"
        item: Round | None = self._rounds[agent].get(number)
        if item is None:
            return "beacon"
        marks = item.marks.get(str(family), 0)
        if item.drops:
            return "drops"
        if marks & 5 != 5:
            return "next-hop"
        return "" if marks == HEALTHY else "beacon"


def judge_sweeps(
    plan: Plan,
    seen: Sequence[Seen],
    lost_canaries: set[tuple[str, str]],
    apart: Callable[[int, int], int | None] = lambda _src, _dst: None,
) -> SweepJudgement:
    """Judge all sweeps of a plan.

    Args:
        plan: the plan.
        seen: checked observations; a missing agent makes what depends on it inconclusive.
        lost_canaries: pairs of zones whose canaries did not arrive throughout.
        apart: which of two agents (sender, listener) has a clock that does not show that one heard the other; or None.
    """
    import numpy as np

    ends, grids = _Ends(plan, seen, apart), Grids(plan)
    results: list[SweepResult] = []
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    named: dict[tuple[str, str, str, str], _Group] = defaultdict(_Group)
    for index, sweep in enumerate(plan.sweeps):
        pair = plan.agents[sweep.src].zone, sweep.zone
        codes, reasons, places = _sweep(ends, grids, index, pair in lost_canaries)
        counts = {WORDS[code]: int(count) for code, count in enumerate(np.bincount(codes)) if count}
        results.append(_describe(plan, index, counts, codes))
        tally = tallies[pair]
        tally.cases += sweep.size
        tally.reached += sum(counts.get(word, 0) for word in _REACHED)
        tally.failed += sum(counts.get(word, 0) for word in _FAILS)
        tally.unknown += sum(counts.get(word, 0) for word in ("accepted", "unheard", "inconclusive"))
        for word in counts:
            if word in {"filtered", "rejected"}:
                continue
            hits = codes == _CODE[word]
            if word == "inconclusive":
                for reason, mask in reasons.items():
                    if (hits & mask).any():
                        code, _, detail = reason.partition(":")
                        named[(*pair, code, detail)].add(grids, index, hits & mask)
                continue
            detail = places.get(word, "")
            named[(*pair, _code(word, sweep.protocol), detail)].add(grids, index, hits)
    found = [_finding(key, group) for key, group in named.items()]
    for item in found:
        tallies[item.data["src"], item.data["dst"]].kinds.add(item.code.removeprefix("isolation."))
    found += _coverage(results) + [
        finding("isolation.token.replayed", plan.agents[agent].zone, zone=plan.agents[agent].zone, count=swept.repeated)
        for agent, swept in sorted(ends.by_agent.items())
        if swept.repeated
    ]
    return SweepJudgement(results, found, dict(tallies))


@dataclass(slots=True)
class _Group:
    """The probes of one finding."""

    cases: int = 0
    names: list[str] = field(default_factory=list)
    families: set[int] = field(default_factory=set)

    def add(self, grids: Grids, index: int, hits: "NDArray[np.bool_]") -> None:
        self.cases += int(hits.sum())
        self.families.add(grids.plan.sweeps[index].family)
        if len(self.names) <= _SHOWN:
            self.names += name_probes(grids[index], hits)


def _code(word: str, protocol: str) -> str:
    if protocol == "icmp" and word in {"open", "closed", "one-way"}:
        return "isolation.leak.icmp"
    return {
        "accepted": "isolation.case.accepted",
        "unheard": "isolation.coverage.one-sided",
    }.get(word, f"isolation.leak.{word}")


def _finding(key: tuple[str, str, str, str], group: _Group) -> Finding:
    src, dst, code, detail = key
    more = f" (+{len(group.names) - _SHOWN})" if len(group.names) > _SHOWN else ""
    return finding(
        code,
        f"{src} -> {dst}",
        src=src,
        dst=dst,
        cases=group.cases,
        probes="; ".join(group.names[:_SHOWN]) + more,
        families="/".join(f"IPv{family}" for family in sorted(group.families)),
        detail=detail,
    )


def _describe(plan: Plan, index: int, counts: dict[str, int], codes: "NDArray[np.uint8]") -> SweepResult:
    import ipaddress

    sweep = plan.sweeps[index]
    return SweepResult(
        src=plan.agents[sweep.src].zone,
        dst=sweep.zone,
        target=sweep.cidr,
        family=sweep.family,
        protocol=sweep.protocol,
        ports="" if sweep.protocol == "icmp" else port_text(list(sweep.ports), 50),
        named=ipaddress.ip_network(sweep.cidr).num_addresses,
        probed=sweep.hosts,
        covered=bool(sweep.hearing),
        counts=counts,
        codes=codes,
    )


def _coverage(results: Sequence[SweepResult]) -> list[Finding]:
    """How much of each target was probed, where it was not all of it."""
    probed: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for item in results:
        entry = probed[item.src, item.dst, item.target, item.protocol]
        entry[0] = item.named
        entry[1] += item.probed
        entry[2] += item.probed * item.covered
    found = []
    for (src, dst, target, protocol), (named, hosts, covered) in probed.items():
        # Network and broadcast address are no hosts.
        if hosts + 2 < named or covered < hosts:
            found.append(
                finding(
                    "isolation.coverage.swept",
                    f"{src} -> {dst}",
                    src=src,
                    dst=dst,
                    target=target,
                    protocol=protocol.upper(),
                    named=named,
                    probed=hosts,
                    covered=covered,
                )
            )
    return found


def _sweep(
    ends: _Ends, grids: Grids, index: int, canaries_lost: bool
) -> "tuple[NDArray[np.uint8], Mapping[str, NDArray[np.bool_]], dict[str, str]]":
    """Codes of one sweep, probes by the reason why they are inconclusive, and details by word."""
    import numpy as np

    plan, sweep = ends.plan, ends.plan.sweeps[index]
    size = sweep.size
    answers = ends.column(sweep.src, index, "answers", "u1")
    answers = np.zeros(size, np.uint8) if answers is None else answers
    here, away, where = np.zeros(size, np.uint16), np.zeros(size, np.bool_), ""
    for agent, info in enumerate(plan.agents):
        heard = ends.column(agent, index, "heard", "<u2")
        if heard is None or info.zone == plan.agents[sweep.src].zone:
            continue
        if info.zone == sweep.zone:
            here = here | heard
        else:
            away |= heard & (_EVERY | CHANGED) != 0
            where = info.zone
    arrived, changed, hint = here & _EVERY != 0, here & CHANGED != 0, here & HINT != 0

    def said(*words: str) -> "NDArray[np.bool_]":
        mask: NDArray[np.bool_] = answers & np.uint8(sum(ANSWERS[word] for word in words)) != 0
        return mask

    listening, refusing = said("syn-ack", "reply-open"), said("rst", "port-unreachable", "reply-closed")
    genuine = said("reply-open", "reply-closed")
    codes = np.full(size, _CODE["filtered"], np.uint8)
    codes[said("rst", "port-unreachable", "prohibited", "unreachable")] = _CODE["rejected"]
    reasons: dict[str, NDArray[np.bool_]] = {}
    if sweep.hearing:
        reasons = _reasons(ends, index, canaries_lost)
        for mask in reasons.values():
            codes[mask] = _CODE["inconclusive"]
        hinted = hint & ~arrived
        if hinted.any():
            codes[hinted] = _CODE["inconclusive"]
            reasons = {reason: mask & ~hinted for reason, mask in reasons.items()}
            reasons["isolation.case.hint"] = hinted
        codes[said("syn-ack", "echo")] = _CODE["accepted"]
    else:
        codes[:] = _CODE["unheard"]
        codes[said("syn-ack", "echo")] = _CODE["answered"]
    # Only the far agent can make these: it heard the probe, whatever became of its report.
    codes[genuine] = np.where(said("reply-open")[genuine], _CODE["open"], _CODE["closed"])
    codes[away & ~arrived] = _CODE["stray"]
    codes[changed & ~arrived] = _CODE["translated"]
    both = listening | said("echo")
    codes[arrived] = np.where(
        (refusing & ~listening)[arrived], _CODE["closed"], np.where(both[arrived], _CODE["open"], _CODE["one-way"])
    )
    places = {"stray": where} if where else {}
    if (codes == _CODE["translated"]).any():
        places["translated"] = _changed_ends(ends, grids, index)
    return codes, reasons, places


def _reasons(ends: _Ends, index: int, canaries_lost: bool) -> "dict[str, NDArray[np.bool_]]":
    """Probes whose silence proves nothing, by code and agent; each probe stands under its first reason."""
    import numpy as np

    plan, sweep = ends.plan, ends.plan.sweeps[index]
    found: dict[str, NDArray[np.bool_]] = {}
    free = np.ones(sweep.size, np.bool_)

    def blame(reason: str, agent: int, mask: "NDArray[np.bool_] | slice") -> None:
        key = f"isolation.health.{reason}:{plan.agents[agent].name}"
        entry = found.setdefault(key, np.zeros(sweep.size, np.bool_))
        if isinstance(mask, slice):
            entry[mask] |= free[mask]
        else:
            entry |= free & mask
        free[mask] = False

    for number, pieces in enumerate(ends.rounds):
        for piece in pieces.get(sweep.src, ()):
            if piece.sweep != index:
                continue
            span = slice(piece.first, piece.last)
            if reason := ends.unhealthy(sweep.src, number, sweep.family):
                blame(reason, sweep.src, span)
                continue
            ears = [(ends.unhealthy(agent, number, sweep.family), agent) for agent in sweep.hearing]
            if all(reason for reason, _ in ears):
                blame(*ears[0], span)
    left = ends.column(sweep.src, index, "left", "?")
    if left is None or not left.all():
        blame("egress", sweep.src, np.ones(sweep.size, np.bool_) if left is None else ~left)
    if canaries_lost:
        blame("canary", sweep.hearing[0], slice(0, sweep.size))
    clocks = [ends.apart(sweep.src, agent) for agent in sweep.hearing]
    if clocks and clocks[0] is not None and None not in clocks:
        blame("clock", clocks[0], slice(0, sweep.size))
    return found


def _changed_ends(ends: _Ends, grids: Grids, index: int) -> str:
    """Addresses that a translated probe of a sweep arrived with, from a kept packet."""
    import numpy as np

    sweep = ends.plan.sweeps[index]
    source = headers.packed(ends.plan.agents[sweep.src].address(sweep.family))
    for agent, swept in ends.by_agent.items():
        if ends.plan.agents[agent].zone != sweep.zone:
            continue
        for case, _, outgoing, text in swept.packets:
            if outgoing or not sweep.start <= case < sweep.start + sweep.size:
                continue
            header = headers.parse(bytes.fromhex(text))
            host = grids[index].hosts_of(np.array([case - sweep.start]))[0].tobytes()
            if header is not None and (header.source, header.destination) != (source, host):
                return f"{headers.text(header.source)} -> {headers.text(header.destination)}"
    return ""
