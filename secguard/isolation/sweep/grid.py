"""A sweep as numbers: which host and port each probe has, and which probe a host and port are."""

from typing import TYPE_CHECKING, Any

from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.sweeps import Sweep

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Grid", "Grids", "keys_of"]


def keys_of(addresses: "NDArray[np.uint8]") -> "NDArray[Any]":
    """Packed addresses, one a row, as values that sort and compare as the addresses do."""
    import numpy as np

    rows = np.ascontiguousarray(addresses)
    if rows.shape[1] == 4:
        return rows.view(">u4").ravel().astype(np.uint32)
    return rows.view("S16").ravel()


class Grid:
    """One sweep's hosts and ports."""

    def __init__(self, sweep: Sweep, secret: bytes, run: bytes) -> None:
        import numpy as np

        self.sweep = sweep
        self.addresses = sweep.addresses(secret, run)
        self.ports = sweep.port_column()
        self._keys = keys_of(self.addresses)
        self._port = np.full(1 << 16, -1, np.int32)
        self._port[self.ports] = np.arange(len(self.ports), dtype=np.int32)

    @property
    def size(self) -> int:
        """Probes."""
        return len(self.addresses) * len(self.ports)

    def find(self, addresses: "NDArray[np.uint8]", ports: "NDArray[Any] | int") -> "NDArray[np.int64]":
        """The number of the probe for each host (packed, one a row) and port; -1 where there is none."""
        import numpy as np

        keys = keys_of(addresses)
        host = np.searchsorted(self._keys, keys)
        host[host == len(self._keys)] = 0
        port = self._port[ports].astype(np.int64)
        known = (self._keys[host] == keys) & (port >= 0)
        return np.where(known, host * len(self.ports) + port, -1)

    def hosts_of(self, numbers: "NDArray[np.int64]") -> "NDArray[np.uint8]":
        """The packed address of each probe."""
        return self.addresses[numbers // len(self.ports)]

    def ports_of(self, numbers: "NDArray[np.int64]") -> "NDArray[np.uint16]":
        """The port of each probe."""
        return self.ports[numbers % len(self.ports)]


class Grids:
    """The grids of a plan, each made when it is first asked for."""

    def __init__(self, plan: Plan) -> None:
        import numpy as np

        self.plan = plan
        self._secret, self._run = bytes.fromhex(plan.secret), bytes.fromhex(plan.run)
        self._grids: dict[int, Grid] = {}
        self._starts = np.array([sweep.start for sweep in plan.sweeps], np.int64)
        self.end = plan.sweeps[-1].start + plan.sweeps[-1].size if plan.sweeps else len(plan.cases)

    def __getitem__(self, index: int) -> Grid:
        if index not in self._grids:
            self._grids[index] = Grid(self.plan.sweeps[index], self._secret, self._run)
        return self._grids[index]

    def sweep_of(self, cases: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """The sweep that each case number belongs to; -1 for cases of the table and beyond the last."""
        import numpy as np

        found = np.searchsorted(self._starts, cases, side="right") - 1
        return np.where(cases < self.end, found, -1)
