"""Hosts and ports in words: what a finding names, as ranges, and never more than a line or two."""

import ipaddress
from typing import TYPE_CHECKING

from secguard.isolation.sweep.grid import Grid, Grids

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["name_probes", "port_text", "probe_words"]

_GROUPS = 6
_RANGES = 5


def port_text(ranges: list[tuple[int, int]], shown: int = _RANGES) -> str:
    """`554, 8000-8010 (+3)`: ranges of ports, the first few, and how many more there are."""
    words = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:shown]]
    more = f" (+{len(ranges) - shown})" if len(ranges) > shown else ""
    return ", ".join(words) + more


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, last) of those that follow each other."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def _host_text(addresses: "NDArray[np.uint8]") -> str:
    """`10.1.1.1-254, 10.1.3.7 (+12 hosts)`."""
    size = addresses.shape[1]
    values = [int.from_bytes(row.tobytes()) for row in addresses[: 1 << 16]]
    runs = _runs(values)
    kind = ipaddress.IPv4Address if size == 4 else ipaddress.IPv6Address
    words = []
    for first, last in runs[:_RANGES]:
        begin, end = str(kind(first)), str(kind(last))
        if first == last:
            words.append(begin)
        elif size == 4 and first >> 8 == last >> 8:
            words.append(f"{begin}-{last & 0xFF}")
        else:
            words.append(f"{begin}-{end}")
    left = len(addresses) - sum(last - first + 1 for first, last in runs[:_RANGES])
    return ", ".join(words) + (f" (+{left} hosts)" if left else "")


def name_probes(grid: Grid, hits: "NDArray[np.bool_]") -> list[str]:
    """Probes of a sweep, hosts with the same ports together: `10.1.1.1-254 TCP 554, 8000-8010`; largest groups first.

    Args:
        grid: the sweep's.
        hits: a truth value a probe.
    """
    import numpy as np

    width = len(grid.ports)
    table = np.packbits(hits.reshape(-1, width), axis=1)
    rows = np.flatnonzero(table.any(axis=1))
    if not len(rows):
        return []
    patterns, group = np.unique(table[rows].view(f"V{table.shape[1]}").ravel(), return_inverse=True)
    order = np.argsort(-np.bincount(group), kind="stable")
    named = []
    for index in order[:_GROUPS]:
        bits = np.unpackbits(patterns[index : index + 1].view(np.uint8), count=width)
        hosts = _host_text(grid.addresses[rows[group == index]])
        protocol = grid.sweep.protocol.upper()
        ports = "" if protocol == "ICMP" else " " + port_text(_runs(grid.ports[np.flatnonzero(bits)].tolist()))
        named.append(f"{hosts} {protocol}{ports}")
    left = int(np.isin(group, order[_GROUPS:]).sum())
    return [*named, f"(+{left} hosts)"] if left else named


def probe_words(grids: Grids | None, case: int) -> str:
    """One probe of a sweep in words: `ext -> int, IPv4 tcp 10.1.1.7 80`; empty if there is none of that number."""
    import numpy as np

    index = int(grids.sweep_of(np.array([case]))[0]) if grids is not None else -1
    if grids is None or index < 0:
        return ""
    sweep, grid = grids.plan.sweeps[index], grids[index]
    number = np.array([case - sweep.start])
    host = ipaddress.ip_address(grid.hosts_of(number)[0].tobytes())
    port = "" if sweep.protocol == "icmp" else f" {int(grid.ports_of(number)[0])}"
    return f"{grids.plan.agents[sweep.src].zone} -> {sweep.zone}, IPv{sweep.family} {sweep.protocol} {host}{port}"
