"""The captures of a run: one pcapng an agent, of what left it, reached it and answered, with case and verdict.

A pure function of plan, observations and results: whoever judges the run again gets the same bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from secguard.isolation.agent.observations import Observations
from secguard.isolation.evidence.pcapng import Kept, write_pcapng
from secguard.isolation.plan.plan import Plan
from secguard.isolation.sweep.grid import Grids
from secguard.isolation.sweep.names import probe_words

__all__ = ["captures", "case_words"]

_SNAPLEN = 2048


def case_words(columns: Mapping[str, Sequence[Any]], case: int) -> str:
    """A case in words: `a -> b IPv4 TCP 22 (l4), expected deny: closed, fail`."""
    protocol = str(columns["protocol"][case])
    name = protocol.upper()
    if protocol in {"tcp", "udp"}:
        name += f" {columns['sport'][case]}→{columns['dport'][case]}"
    flow = columns["flow"][case]
    said = columns["result"][case]
    detail = columns["detail"][case]
    return (
        f"{columns['src'][case]} -> {columns['dst'][case]} IPv{columns['family'][case]} {name}"
        f" ({columns['profile'][case]}), expected {columns['expect'][case]}{f' by {flow}' if flow else ''}:"
        f" {said}{f' ({detail})' if detail else ''}, {columns['outcome'][case]}"
    )


def _length(data: bytes) -> int:
    """The whole length of a packet of which the head was kept, by its own header."""
    stated = 0
    if len(data) >= 20 and data[0] >> 4 == 4:
        stated = int.from_bytes(data[2:4], "big")
    elif len(data) >= 40 and data[0] >> 4 == 6:
        stated = 40 + int.from_bytes(data[4:6], "big")
    return max(stated, len(data))


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def captures(
    plan: Plan, observations: Sequence[Observations], columns: Mapping[str, Sequence[Any]]
) -> dict[str, bytes]:
    """File name -> pcapng, one an agent that kept packets."""
    files: dict[str, bytes] = {}
    grids = Grids(plan) if plan.sweeps else None
    for item in observations:
        agent = plan.agents[item.agent]
        rows = [(at, False, text, case, "arrived") for case, at, text in item.packets]
        rows += [(at, left, text, case, "left" if left else "answer") for case, at, left, text in item.witnessed]
        rows += [(at, left, text, case, "left" if left else "heard") for case, at, left, text in item.swept.packets]
        kept = []
        for at, left, text, case, how in sorted(rows):
            data = _bytes(text)
            words = case_words(columns, case) if case < len(plan.cases) else probe_words(grids, case)
            kept.append(Kept(at, left, data, _length(data), f"case {case}, {how}: {words}"))
        if kept:
            files[f"capture-{agent.name}.pcapng"] = write_pcapng(
                kept,
                name=agent.name,
                about=f"run {plan.run}, agent {agent.name} in zone {agent.zone}",
                made_by="secguard",
                snaplen=_SNAPLEN,
            )
    return files
