"""What one agent saw of a plan's sweeps, packed: a bit or a byte a probe, deflated, inside its signed observations."""

import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.sweeps import rounds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from secguard.isolation.wire.ring import Block

__all__ = [
    "ANSWERS",
    "CHANGED",
    "HEALTHY",
    "HINT",
    "MAX_ATTEMPTS",
    "Kept",
    "Round",
    "Swept",
    "SweptColumns",
    "check_swept",
    "pack",
    "unpack",
]

MAX_ATTEMPTS = 12
"""Attempts of a probe whose arrivals are told apart: the low bits of `heard`."""
HINT = 1 << 13
"""A bare SYN whose sequence number looks like the probe's."""
CHANGED = 1 << 14
"""The probe's token, with other addresses or ports."""
ANSWERS = {
    "syn-ack": 1,
    "rst": 2,
    "port-unreachable": 4,
    "prohibited": 8,
    "unreachable": 16,
    "reply-open": 32,
    "reply-closed": 64,
    "echo": 128,
}
"""Bits of `answers`; `echo` also stands for a device's own answer to a UDP probe."""
HEALTHY = 15
"""Of a round: next hop and beacon answered at its beginning (1, 2) and at its end (4, 8)."""

_EACH = 8
_MAX_KEPT = 20_000
_HEAD = 512
_LEVEL = 1


class Round(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A round as one agent went through it.

    Attributes:
        number: position in `rounds` of the plan.
        began: nanoseconds since 1970.
        ended: likewise.
        sent: frames that the kernel took.
        refused: frames that it did not take.
        drops: frames that the sensor lost.
        marks: by family ("4", "6"): bits of `HEALTHY`.
    """

    number: int
    began: int
    ended: int = 0
    sent: int = 0
    refused: int = 0
    drops: int = 0
    marks: dict[str, int] = {}


class SweptColumns(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One sweep as one agent saw it; empty where it saw nothing.

    Attributes:
        sweep: position in the plan's sweeps.
        left: of the sender: a bit a probe, set where each attempt was seen leaving.
        answers: of the sender: a byte a probe, bits of `ANSWERS`.
        heard: of the others: two bytes a probe, a bit for each attempt that arrived, `HINT`, `CHANGED`.
    """

    sweep: int
    left: bytes = b""
    answers: bytes = b""
    heard: bytes = b""


class Swept(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What one agent saw of all sweeps.

    Attributes:
        rounds: those it went through.
        columns: by sweep.
        repeated: arrivals of what had arrived already.
        packets: kept packets: (case, nanoseconds, whether it left here, hex of the first bytes from layer 3 on).
    """

    rounds: list[Round] = []
    columns: list[SweptColumns] = []
    repeated: int = 0
    packets: list[tuple[int, int, bool, str]] = []


class Kept:
    """The first packets of each kind, as evidence."""

    def __init__(self) -> None:
        self.packets: list[tuple[int, int, bool, str]] = []
        self._count: dict[Any, int] = {}

    def keep(
        self,
        block: "Block",
        rows: "NDArray[np.int64]",
        cases: "NDArray[np.int64]",
        kind: Any,
        *,
        outgoing: bool = False,
    ) -> None:
        """Keep the first few packets of a kind."""
        have = self._count.get(kind, 0)
        wanted = min(_EACH - have, _MAX_KEPT - len(self.packets), len(rows))
        if wanted <= 0:
            return
        self._count[kind] = have + wanted
        _, start = block.network()
        for row, case in zip(rows[:wanted].tolist(), cases[:wanted].tolist(), strict=True):
            end = int(block.offset[row] + block.caplen[row])
            packet = block.memory[int(start[row]) : min(end, int(start[row]) + _HEAD)].tobytes()
            self.packets.append((case, int(block.time[row]), outgoing, packet.hex()))


def pack(column: "NDArray[Any]") -> bytes:
    """A column, deflated; of truth values one bit each."""
    import numpy as np

    data = (
        np.packbits(column) if column.dtype == np.bool_ else column.astype(column.dtype.newbyteorder("<"), copy=False)
    )
    return zlib.compress(data.tobytes(), _LEVEL)


def unpack(data: bytes, count: int, kind: str) -> "NDArray[Any]":
    """A column of `count` values of a NumPy kind ("?" one bit each, "u1", "<u2"); all zero if there are no data.

    Raises:
        ValueError: not such a column; never more is inflated than the column holds.
    """
    import numpy as np

    if not data:
        return np.zeros(count, kind)
    size = (count + 7) // 8 if kind == "?" else count * np.dtype(kind).itemsize
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, size + 1)
    except zlib.error:
        raise ValueError("a column that does not inflate") from None
    if len(plain) != size or not inflate.eof or inflate.unused_data:
        raise ValueError("a column of another length")
    if kind == "?":
        return np.unpackbits(np.frombuffer(plain, np.uint8), count=count).view(np.bool_)
    return np.frombuffer(plain, kind)


def check_swept(seen: Swept, plan: Plan, agent: int) -> None:
    """Refuse what does not fit the plan (ValueError)."""
    count = len(rounds(plan.sweeps, plan.attempts, plan.rate))
    numbers = [item.number for item in seen.rounds]
    if len(set(numbers)) != len(numbers) or any(not 0 <= number < count for number in numbers):
        raise ValueError("rounds that the plan does not have")
    if any(set(item.marks) - {"4", "6"} for item in seen.rounds):
        raise ValueError("marks of no address family")
    sweeps = [item.sweep for item in seen.columns]
    if len(set(sweeps)) != len(sweeps) or any(not 0 <= sweep < len(plan.sweeps) for sweep in sweeps):
        raise ValueError("columns of no sweep")
    for item in seen.columns:
        mine = plan.sweeps[item.sweep].src == agent
        if (item.heard and mine) or ((item.left or item.answers) and not mine):
            raise ValueError("columns of another agent's end")
        for data, kind in ((item.left, "?"), (item.answers, "u1"), (item.heard, "<u2")):
            unpack(data, plan.sweeps[item.sweep].size if data else 0, kind)
    if len(seen.packets) > _MAX_KEPT or any(len(row[-1]) > 2 * _HEAD for row in seen.packets):
        raise ValueError("too many packets, or one that is too long")
    end = plan.sweeps[-1].start + plan.sweeps[-1].size if plan.sweeps else 0
    if any(not len(plan.cases) <= row[0] < end for row in seen.packets):
        raise ValueError("keeps a packet of no sweep")
