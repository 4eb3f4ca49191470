"""Heard frames as columns of what sweeps ask of them: addresses, ports, flags, where a payload starts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from secguard.isolation.wire.ring import Block

__all__ = ["Columns", "columns", "rows_at"]

_TYPES = {4: 0x0800, 6: 0x86DD}
_HEAD = {4: 20, 6: 40}
_UPPER = 56  # enough for an ICMP error's quote: its own 8 bytes, an IPv6 header, 8 bytes of the probe


@dataclass(frozen=True, slots=True)
class Columns:
    """The frames of one family in a block that are whole, unfragmented packets.

    Attributes:
        family: 4 or 6.
        row: the frame's row in the block.
        start: where the upper layer starts in the block's memory.
        size: bytes of the upper layer that are there.
        protocol: number of the upper protocol.
        source: packed source addresses, one a row.
        destination: packed destination addresses.
        upper: the first bytes of the upper layer; beyond `size` they are somebody else's.
    """

    family: int
    row: "NDArray[np.int64]"
    start: "NDArray[np.int64]"
    size: "NDArray[np.int64]"
    protocol: "NDArray[np.uint8]"
    source: "NDArray[np.uint8]"
    destination: "NDArray[np.uint8]"
    upper: "NDArray[np.uint8]"

    def __len__(self) -> int:
        return len(self.row)

    def pick(self, rows: "NDArray[Any]") -> "Columns":
        """Some of the frames, by position or mask."""
        if len(rows) == len(self.row) and (rows.dtype != bool or rows.all()):
            return self  # positions ascend: as many as there are frames are all of them
        return Columns(
            self.family,
            self.row[rows],
            self.start[rows],
            self.size[rows],
            self.protocol[rows],
            self.source[rows],
            self.destination[rows],
            self.upper[rows],
        )

    def word(self, at: int) -> "NDArray[np.int64]":
        """The 16-bit number at an offset of the upper layer."""
        import numpy as np

        return self.upper[:, at].astype(np.int64) << 8 | self.upper[:, at + 1]


def rows_at(memory: "NDArray[np.uint8]", offsets: "NDArray[np.int64]", size: int) -> "NDArray[np.uint8]":
    """Copies of `size` bytes from each offset, as rows; what lies beyond the memory reads as zero."""
    import numpy as np

    if len(memory) < size or (len(offsets) and int(offsets.max()) > len(memory) - size):
        memory = np.concatenate([memory, np.zeros(size, np.uint8)])
        offsets = np.minimum(offsets, len(memory) - size)
    # One element of `size` bytes at every offset: the copy of a row is then a single move.
    view = np.ndarray((len(memory) - size + 1,), f"V{size}", memory, strides=(1,))
    rows: NDArray[np.uint8] = view[offsets].view(np.uint8).reshape(len(offsets), size)
    return rows


def columns(block: "Block", family: int, kind: "NDArray[Any]", start: "NDArray[np.int64]") -> Columns:
    """The packets of one family in a block.

    Args:
        block: what the ring handed over.
        family: 4 or 6.
        kind: EtherType of each frame (`Block.network`).
        start: where each frame's network layer starts (`Block.network`).
    """
    import numpy as np

    size = _HEAD[family]
    end = block.offset + block.caplen
    row = np.flatnonzero((kind == _TYPES[family]) & (start + size <= end))
    start, end = start[row], end[row]
    head = rows_at(block.memory, start, size)
    if family == 4:
        whole = (head[:, 0] >= 0x45) & (head[:, 0] < 0x50) & (head[:, 6] & 0x3F == 0) & (head[:, 7] == 0)
        upper, length = (head[:, 0] & 15).astype(np.int64) * 4, head[:, 2].astype(np.int64) << 8 | head[:, 3]
        protocol, ends = head[:, 9], (12, 16, 20)
    else:
        whole = head[:, 0] >> 4 == 6
        upper = np.full(len(head), 40, np.int64)
        length = (head[:, 4].astype(np.int64) << 8 | head[:, 5]) + 40
        protocol, ends = head[:, 6], (8, 24, 40)
    # The packet's own length counts: what stands behind it in a short frame is padding.
    size_there = np.minimum(end - start, length) - upper
    whole &= size_there >= 0
    if not whole.all():
        row, start, upper, size_there = row[whole], start[whole], upper[whole], size_there[whole]
        head, protocol = head[whole], protocol[whole]
    start = start + upper
    return Columns(
        family,
        row,
        start,
        size_there,
        protocol,
        head[:, ends[0] : ends[1]],
        head[:, ends[1] : ends[2]],
        rows_at(block.memory, start, _UPPER),
    )
