"""One run at one agent: the checked plan, the wire, the sensor, and what the parts of the agent share."""

import socket
import time

from secguard.core.errors import RefusedError
from secguard.isolation.agent.listening import mirror_port
from secguard.isolation.agent.sensor import Sensor
from secguard.isolation.plan.plan import Plan
from secguard.isolation.wire import wire
from secguard.keys import Signer

__all__ = ["Session"]


class Session:
    """One run's work; made when the plan has been checked.

    Attributes:
        plan: the checked plan; `digest` is the SHA-256 of its payload.
        me: this agent's position in the plan's agents; `info` is its entry.
        signer: signs the observations.
        sensor: what was heard; `wire` feeds it and sends.
        problems: what went wrong, in words.
        hop: destination -> next hop, for destinations that are routed.
        beacon_targets: by family, who is asked for beacons.
        open_ports: (protocol, family, port) on which something of this host listens.
    """

    def __init__(self, plan: Plan, digest: str, name: str, signer: Signer) -> None:
        """Take the checked `plan` for the agent `name`.

        Raises:
            UsageError: the plan has no such agent.
            RefusedError: its addresses are not on one interface of this host.
            SystemPartError: raw sockets are not allowed here.
        """
        self.plan = plan
        self.digest = digest
        self.me = self.plan.agent(name)
        self.signer = signer
        self.info = self.plan.agents[self.me]
        if self.info.interface:
            mine = [mirror_port(self.info.interface)]
        else:
            mine = [item for item in wire.interfaces() if set(item.addresses) & set(self.info.addresses)]
        missing = set(self.info.addresses) - {text for item in mine for text in item.addresses}
        if missing or len(mine) != 1:
            raise RefusedError(
                "isolation.agent.address",
                f"agent {name} needs its addresses on one interface: {', '.join(self.info.addresses)[:120]}",
            )
        self.tokens = self.plan.tokens()
        self.sensor = Sensor(self.plan, self.me)
        self.wire = wire.Wire(mine[0], self.sensor.hear, promiscuous=self.info.mirror)
        self.problems: list[str] = []
        self.started = time.time_ns()
        self.listeners: list[socket.socket] = []
        self.open_ports: set[tuple[str, int, int]] = set()
        self.hop: dict[str, str] = {}
        self.beacon_targets: dict[int, set[str]] = {4: set(), 6: set()}
        self.tried: set[int] = set()
        self.permitted: set[str] = set()
        self.connections: list[socket.socket] = []

    def stop(self) -> int:
        """End connections and listeners, and stop hearing; returns the frames lost."""
        for item in (*self.connections, *self.listeners):
            item.close()
        return self.wire.stop()

    def close(self) -> None:
        """Stop, and close the wire's sockets; after the report, which need not wait for it."""
        self.stop()
        self.wire.close()
