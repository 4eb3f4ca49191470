"""Observations as what is asked of each case: what arrived and how, what was answered, what silence proves."""

from collections import defaultdict
from collections.abc import Sequence

from secguard.isolation.agent.observations import UNSYNCHRONISED, Observations
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.tokens import phase_of
from secguard.isolation.probes.dissect import dissect

__all__ = ["Evidence"]


class Evidence:
    """Observations turned into what is asked of each case."""

    def __init__(self, plan: Plan, seen: Sequence[Observations]) -> None:
        self.plan = plan
        self.by_agent = {item.agent: item for item in seen}
        self._carried = {item.agent: [dissect(_bytes(text)) for _, _, text in item.packets] for item in seen}
        self.arrived: dict[int, list[tuple[Observations, int]]] = defaultdict(list)
        self.words: dict[int, set[str]] = defaultdict(set)
        self.hints: set[int] = set()
        self.repeated: dict[int, int] = defaultdict(int)
        cases = plan.cases
        for item in seen:
            for row, case in enumerate(item.arrivals.case):
                if cases.src[case] != item.agent:
                    self.arrived[case].append((item, row))
                    if item.arrivals.count[row] > 1:
                        self.repeated[item.agent] += item.arrivals.count[row] - 1
            for case, word in zip(item.answers.case, item.answers.word, strict=True):
                if cases.src[case] == item.agent:
                    self.words[case].add(word)
            self.hints.update(case for case in item.hints if cases.dst[case] == item.agent)
        self._health: dict[tuple[int, int], str] = {}
        self._apart: dict[tuple[int, int], int | None] = {}
        self.lost_canaries = self._canaries()
        self._acquainted = self._components()

    def carried(self, item: Observations, row: int) -> tuple[str, str, str]:
        """How an arrival was carried, and its outer addresses."""
        packet = item.arrivals.packet[row]
        return self._carried[item.agent][packet] if packet >= 0 else ("unknown", "", "")

    def _canaries(self) -> set[tuple[str, str]]:
        plan, cases = self.plan, self.plan.cases
        lost: set[tuple[str, str]] = set()
        for case, canary in enumerate(cases.canary):
            if not canary:
                continue
            heard = {phase_of(item.arrivals.seq[row]) for item, row in self.arrived.get(case, ())}
            if not {1, 2, 3} <= heard:
                lost.add((plan.agents[cases.src[case]].zone, plan.agents[cases.dst[case]].zone))
        return lost

    def _components(self) -> dict[int, int]:
        """Agents by groups: what one of a group sent another heard, so that they were awake at the same time."""
        group = {agent: agent for agent in range(len(self.plan.agents))}
        for case, rows in self.arrived.items():
            for item, _ in rows:
                one, other = group[self.plan.cases.src[case]], group[item.agent]
                if one != other:
                    group = {agent: one if number == other else number for agent, number in group.items()}
        return group

    def apart(self, src: int, dst: int) -> int | None:
        """The agent whose clock leaves open whether `dst` heard when `src` sent, in a run by the clock; else None."""
        if self.plan.controller or src not in self.by_agent or dst not in self.by_agent:
            return None
        sender, listener = self.by_agent[src], self.by_agent[dst]
        sent = [at for _, at, left, _ in sender.witnessed if left]
        first, last = (min(sent), max(sent)) if sent else (sender.started, sender.started)
        if first < listener.started or last > listener.ended:
            return dst
        if self._acquainted[src] != self._acquainted[dst]:
            for agent in (dst, src):
                if UNSYNCHRONISED in self.by_agent[agent].problems:
                    return agent
        return None

    def _agent(self, agent: int, family: int) -> str:
        """Why nothing can be concluded from an agent's silence; empty if it is healthy."""
        key = (agent, family)
        if key not in self._health:
            self._health[key] = self._examine(agent, family)
        return self._health[key]

    def _examine(self, agent: int, family: int) -> str:
        item = self.by_agent.get(agent)
        if item is None:
            return "agent"
        if item.drops:
            return "drops"
        beacons = item.beacons.get(str(family))
        if self.plan.agents[agent].interface:  # it asks no next hop: what it must hear is its neighbour
            return "" if beacons is not None and all(beacons.heard) else "beacon"
        if beacons is None or not all(beacons.neighbour):
            return "next-hop"
        if not all(beacons.heard):
            return "beacon"
        return ""

    def unhealthy(self, case: int) -> str:
        """Why silence of a case proves nothing; empty if it proves that the packets were stopped."""
        plan, cases = self.plan, self.plan.cases
        src, dst, family = cases.src[case], cases.dst[case], cases.family[case]
        for end in (src, dst):
            if reason := self._agent(end, family):
                return f"{reason}:{plan.agents[end].name}"
        if self.by_agent[src].egress[case] < plan.attempts:
            return f"egress:{plan.agents[src].name}"
        if (plan.agents[src].zone, plan.agents[dst].zone) in self.lost_canaries:
            return f"canary:{plan.agents[dst].name}"
        if (src, dst) not in self._apart:
            self._apart[src, dst] = self.apart(src, dst)
        agent = self._apart[src, dst]
        return "" if agent is None else f"clock:{plan.agents[agent].name}"

    def loss(self, agent: int) -> float:
        """Share of in-zone beacons that an agent did not hear back."""
        item = self.by_agent.get(agent)
        if item is None:
            return 1.0
        agents = self.plan.agents
        near = [agent]
        if agents[agent].interface:
            near = [other for other in self.by_agent if agents[other].zone == agents[agent].zone]
        sent = heard = 0
        for family, beacons in item.beacons.items():
            asked = [
                self.by_agent[other].beacons[family].sent for other in near if family in self.by_agent[other].beacons
            ]
            for phase, own in enumerate(beacons.heard):
                there = sum(column[phase] for column in asked)
                sent += there
                heard += min(there, own)
        return 1 - heard / sent if sent else 1.0


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
