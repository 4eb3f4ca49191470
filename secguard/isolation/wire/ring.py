"""The receive ring: the kernel writes frames into memory shared with it (TPACKET_V3), and we read them as columns.

The kernel hands over a block of the ring when it is full, or some milliseconds after its first frame: so blocks times
milliseconds is how long we may be busy elsewhere on a quiet link, and the ring's bytes are it on a busy one. Blocks
that wait side by side are read as one; nothing is copied, and nothing is done frame by frame. What the kernel had to
drop because every block was still ours is counted. The ring's memory is no socket buffer and needs no CAP_NET_ADMIN, so
that an agent with CAP_NET_RAW alone hears as well as root does.
Layout: packet(7), linux/if_packet.h, Documentation/networking/packet_mmap.rst.
"""

import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from secguard.core.errors import SystemPartError
from secguard.isolation.wire.raw import ETH_P_ALL, SOL_PACKET, bind, open_raw

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Block", "Marks", "Ring", "Statistics"]

_PACKET_ADD_MEMBERSHIP, _PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 1, 5, 6, 10
_PACKET_IGNORE_OUTGOING = 23
_PACKET_MR_PROMISC = 1
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_REQUEST = struct.Struct("7I")  # struct tpacket_req3
_STATISTICS = struct.Struct("3I")  # struct tpacket_stats_v3
_FILTER = struct.Struct("HBBI")  # struct sock_filter
_MAX_FILTER = 4096
_USER = 1  # TP_STATUS_USER: the block is ours
_VLAN_VALID, _TPID_VALID = 0x10, 0x40
_PACKET_OUTGOING = 4
_FRAME_HEAD = 68  # sizeof(struct tpacket3_hdr) + sizeof(struct sockaddr_ll)
_TAGS = (0x8100, 0x88A8, 0x9100)
_MAX_TAGS = 4
_SPAN = 1 << 20  # bytes of blocks read as one: enough for columns to pay off, little enough to give back soon


@dataclass(frozen=True, slots=True)
class Statistics:
    """Since the ring was opened: frames that came by, those lost for want of a free block, and how often that began."""

    packets: int = 0
    drops: int = 0
    freezes: int = 0


@dataclass(frozen=True, slots=True)
class Marks:
    """Where a mark stands: the frame's row in the block, and the offset in the block's memory."""

    row: "NDArray[np.int64]"
    offset: "NDArray[np.int64]"


@dataclass(frozen=True, slots=True)
class Block:
    """The frames that waited, as columns.

    Everything here is a copy but `memory`, which belongs to the ring: it holds until the next `Ring.read` or `close`.

    Attributes:
        memory: the ring's bytes where they stand, read-only.
        offset: where each frame (its Ethernet header) starts in `memory`.
        caplen: bytes of it that are there.
        length: bytes that it had on the wire.
        time: nanoseconds since 1970, from the kernel.
        outgoing: whether this host sent it.
        vlan: tag (TCI) that the kernel or the card took off the frame, -1 for none.
        tpid: that tag's EtherType, 0 for none.
    """

    memory: "NDArray[np.uint8]"
    offset: "NDArray[np.int64]"
    caplen: "NDArray[np.int64]"
    length: "NDArray[np.int64]"
    time: "NDArray[np.int64]"
    outgoing: "NDArray[np.bool_]"
    vlan: "NDArray[np.int32]"
    tpid: "NDArray[np.uint16]"

    def __len__(self) -> int:
        return len(self.offset)

    def frame(self, row: int) -> bytes:
        """A copy of one frame."""
        at = int(self.offset[row])
        return self.memory[at : at + int(self.caplen[row])].tobytes()

    def find(self, mark: bytes, size: int, limit: int = 4) -> Marks:
        """Every place where `mark` begins `size` bytes that lie inside one frame; at most `limit` in a frame."""
        import numpy as np

        memory, last = self.memory, len(mark) - 1
        at = np.flatnonzero(memory[: len(memory) - last] == mark[0])
        for step in range(1, len(mark)):
            at = at[memory[at + step] == mark[step]]
        row = np.searchsorted(self.offset, at, side="right") - 1
        at, row = at[row >= 0], row[row >= 0]
        inside = at + size <= self.offset[row] + self.caplen[row]
        at, row = at[inside], row[inside]
        # Rows ascend, so a mark's rank in its frame is its distance from the frame's first.
        rank = np.arange(len(row)) - np.searchsorted(row, row, side="left")
        few = rank < limit
        return Marks(row[few], at[few])

    def take(self, offset: "NDArray[np.int64]", size: int) -> "NDArray[np.uint8]":
        """Copies of `size` bytes from each offset, as rows; what would lie beyond the block reads as zero."""
        import numpy as np

        places = offset[:, None] + np.arange(size)
        if len(offset) and int(offset.max()) + size > len(self.memory):
            beyond = places >= len(self.memory)
            return np.where(beyond, np.uint8(0), self.memory[np.where(beyond, 0, places)])
        rows: NDArray[np.uint8] = self.memory[places]
        return rows

    def network(self) -> "tuple[NDArray[np.uint16], NDArray[np.int64]]":
        """EtherType (0 where it is cut off) and start in `memory` of each network layer, past up to four tags."""
        import numpy as np

        end = self.offset + self.caplen
        at = self.offset + 12
        kind = self._word(at, end)
        for _ in range(_MAX_TAGS):
            tagged = np.isin(kind, _TAGS)
            if not tagged.any():
                break
            at = np.where(tagged, at + 4, at)
            kind = self._word(at, end)
        return kind, at + 2

    def _word(self, at: "NDArray[np.int64]", end: "NDArray[np.int64]") -> "NDArray[np.uint16]":
        import numpy as np

        whole = at + 2 <= end
        at = np.where(whole, at, 0)
        return np.where(whole, self.memory[at].astype(np.uint16) << 8 | self.memory[at + 1], 0).astype(np.uint16)


class Ring:
    """Hears one interface from the moment it is opened. For one thread, but for `statistics`, `wake` and `error`."""

    def __init__(
        self,
        interface: str,
        *,
        megabytes: int = 64,
        block: int = 1 << 17,
        patience: int = 10,
        outgoing: bool = True,
        promiscuous: bool = False,
        program: Sequence[tuple[int, int, int, int]] = (),
    ) -> None:
        """Open it.

        Args:
            interface: its name.
            megabytes: memory of the ring.
            block: bytes of a block, a power of two from one page on; a longer frame is cut to it.
            patience: milliseconds after which a block that is not full is handed over.
            outgoing: whether to hear what this host sends.
            promiscuous: whether to hear what is for others (a mirror port).
            program: a classic BPF filter, as (code, jt, jf, k); what it returns is how many bytes of a frame are kept.

        Raises:
            SystemPartError: no such interface, no memory, or not permitted (CAP_NET_RAW).
            ValueError: block or filter cannot be.
        """
        if block < mmap.PAGESIZE or block & (block - 1) or patience < 1 or len(program) > _MAX_FILTER:
            raise ValueError("a block is a power of two of at least a page, and patience a millisecond or more")
        self.error = ""
        self.handed = 0
        """Frames handed over so far: all that came by, less drops, once a `read` came back empty."""
        self._size = block
        self._patience = patience
        self._span = max(1, _SPAN // block)
        self._next = 0
        self._held = 0
        self._totals = Statistics()
        self._lock = threading.Lock()
        self._closed = False
        self._socket = open_raw()
        try:
            self._map = self._allocate(max(2, (megabytes << 20) // block))
            try:
                if not outgoing:
                    self._socket.setsockopt(SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
                if program:
                    self._attach(program)
                bind(self._socket, interface, ETH_P_ALL)
                if promiscuous:
                    index = socket.if_nametoindex(interface)
                    request = struct.pack("iHH8s", index, _PACKET_MR_PROMISC, 0, b"")
                    self._socket.setsockopt(SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
                self._view()
            except BaseException:
                self._map.close()
                raise
        except BaseException:
            self._socket.close()
            raise
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._waker, select.POLLIN)

    def _allocate(self, blocks: int) -> mmap.mmap:
        self._blocks = blocks
        self._socket.setsockopt(SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        frame = mmap.PAGESIZE  # of no meaning in version 3, but checked
        request = _REQUEST.pack(self._size, blocks, frame, self._size // frame * blocks, self._patience, 0, 0)
        try:
            self._socket.setsockopt(SOL_PACKET, _PACKET_RX_RING, request)
            return mmap.mmap(self._socket.fileno(), self._size * blocks, mmap.MAP_SHARED)
        except OSError as error:
            raise SystemPartError(
                "isolation.ring.memory",
                f"cannot make a receive ring of {self._size * blocks >> 20} MB: {os.strerror(error.errno or 0)}",
            ) from None

    def _attach(self, program: Sequence[tuple[int, int, int, int]]) -> None:
        code = b"".join(_FILTER.pack(*item) for item in program)
        held = ctypes.create_string_buffer(code, len(code))
        try:
            # struct sock_fprog: a count, and a pointer to the instructions.
            self._socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(held))
            )
        except OSError as error:
            raise ValueError(f"the kernel refuses the filter: {os.strerror(error.errno or 0)}") from None

    def _view(self) -> None:
        import numpy as np

        self._bytes = np.frombuffer(self._map, np.uint8)
        self._words = np.frombuffer(self._map, np.uint32)
        self._halves = np.frombuffer(self._map, np.uint16)
        self._status = self._words.reshape(self._blocks, -1)[:, 2]
        self._bytes.flags.writeable = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the last block back and close; columns stay, a block's memory does not."""
        if self._closed:
            return
        self.statistics()
        with self._lock:
            self._closed = True
            self._socket.close()
            os.close(self._waker)
        # Views of a block that someone still holds keep the mapping alive, and nothing else does.
        del self._bytes, self._words, self._halves, self._status, self._map

    def fileno(self) -> int:
        """The socket's descriptor: readable when a block is there."""
        return self._socket.fileno()

    def read(self, timeout: float) -> Block | None:
        """What has come, or None after `timeout` seconds without a frame, or when woken; gives the frames before back.

        A link that goes down says so once in `error`; the ring hears again when it comes back.
        """
        self._release()
        end = time.monotonic() + timeout
        while True:
            self._held = self._ready()
            if self._held:
                return self._block()
            left = end - time.monotonic()
            for descriptor, events in self._poll.poll(max(0.0, left) * 1000):
                if descriptor == self._waker:
                    os.eventfd_read(self._waker)
                    left = 0.0
                elif events & ~select.POLLIN:
                    self._failed()
            if left <= 0 and not self._ready():
                return None

    def wake(self) -> None:
        """Have the `read` that another thread waits in, or its next one, come back at once."""
        os.eventfd_write(self._waker, 1)

    def _ready(self) -> int:
        """How many blocks side by side are ours."""
        # Taking the lock also is the barrier that processors which reorder loads need before a block is read.
        with self._lock:
            ours = self._status[self._next : self._next + self._span] & _USER
        return len(ours) if ours.all() else int(ours.argmin())

    def _release(self) -> None:
        if self._held:
            with self._lock:
                self._status[self._next : self._next + self._held] = 0
            self._next = (self._next + self._held) % self._blocks
            self._held = 0

    def _failed(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.error = os.strerror(code)
        if code != errno.ENETDOWN:
            time.sleep(0.01)  # nothing that we know of: do not spin

    def _block(self) -> Block:
        import numpy as np

        first, size = self._next * self._size, self._held * self._size
        memory = self._bytes[first : first + size]
        words, halves = self._words[first // 4 : (first + size) // 4], self._halves[first // 2 : (first + size) // 2]
        starts = np.concatenate([_walk(words, at) for at in range(0, size, self._size)])
        self.handed += len(starts)
        word = starts >> 2
        status = words[word + 5]
        tagged = status & _VLAN_VALID != 0
        return Block(
            memory,
            starts + halves[(starts >> 1) + 12],
            words[word + 3].astype(np.int64),
            words[word + 4].astype(np.int64),
            words[word + 1].astype(np.int64) * 1_000_000_000 + words[word + 2],
            memory[starts + 58] == _PACKET_OUTGOING,
            np.where(tagged, words[word + 8].astype(np.int32), -1),
            np.where(tagged & (status & _TPID_VALID != 0), halves[(starts >> 1) + 18], 0).astype(np.uint16),
        )

    def statistics(self) -> Statistics:
        """What came by and what was lost, so far."""
        with self._lock:
            if not self._closed:
                found = _STATISTICS.unpack(self._socket.getsockopt(SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
                old = self._totals
                self._totals = Statistics(old.packets + found[0], old.drops + found[1], old.freezes + found[2])
            return self._totals


def _walk(words: "NDArray[np.uint32]", block: int) -> "NDArray[np.int64]":
    """Offsets of the frame headers of the block at an offset: each says how far the next one is."""
    import numpy as np

    # struct tpacket_block_desc: frames, and where the first one is.
    count, first = int(words[block // 4 + 3]), block + int(words[block // 4 + 4])
    if count > 1:
        # Frames of one length, as bulk probes are, stand at equal distances: a guess that is checked at once.
        step = int(words[first >> 2])
        if first + (count - 1) * step + _FRAME_HEAD <= len(words) * 4:
            guess = first + np.arange(count, dtype=np.int64) * step
            if (words[guess[:-1] >> 2] == step).all():
                return guess
    starts = np.empty(count, np.int64)
    view, at = words.data, first
    for row in range(count):
        starts[row] = at
        at += view[at >> 2]
    return starts
