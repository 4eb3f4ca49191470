"""Bulk sending: a matrix of finished frames leaves through one packet socket, a thousand frames a system call.

The pace is a token bucket over the clock that holds at most five milliseconds: a late wake-up makes the scan slower,
and never makes a burst. The bucket belongs to the `Sender`, so that many small batches keep the rate as one large one
does. Frames pass the interface's queueing discipline as any other traffic does, which also shows them to the sensor of
the same host: it proves what really left.
"""

import ctypes
import errno
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from secguard.isolation.wire.raw import bind, libc, open_raw

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BATCH", "Sender", "Sent"]

BATCH = 1024
"""Frames a system call: the kernel takes no more (UIO_MAXIOV)."""

_BURST = 0.005  # seconds of the rate that may leave at once
_SLICE = 0.001  # seconds of the rate worth waking up for
_NAP = 0.05  # longest sleep: how soon a stop is seen where nothing can wake us
_QUEUE_WAIT = 0.1  # how long a full queue of the interface is waited for before its frames count as refused
_QUEUE_NAP = 0.0005
_SO_SNDBUFFORCE = 32
_SEND_BUFFER = 4 << 20
_HEADER = 64  # sizeof(struct mmsghdr) on 64-bit Linux
_IOVEC = 16


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch.

    Attributes:
        offered: frames that were to go.
        sent: frames that the kernel took.
        refused: frames that it refused, by errno; the rest (`offered - sent - sum(refused)`) was not tried: stopped.
        seconds: time it took.
    """

    offered: int
    sent: int
    seconds: float
    refused: dict[int, int] = field(default_factory=dict)

    @property
    def tried(self) -> int:
        """Frames dealt with, from the first on; fewer than `offered` only after a stop."""
        return self.sent + sum(self.refused.values())


class Sender:
    """Sends frames on one interface. For one thread, which may call `send` again from within `meanwhile`."""

    def __init__(self, interface: str) -> None:
        """Open it for an interface by name.

        Raises:
            SystemPartError: no such interface, or not permitted (CAP_NET_RAW).
        """
        self._socket = open_raw()
        try:
            bind(self._socket, interface, 0)
            self._enlarge()
        except BaseException:
            self._socket.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)
        self._tokens = 0.0
        self._at = time.monotonic()

    def _enlarge(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        except PermissionError:  # without CAP_NET_ADMIN the system's maximum has to do
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(
        self,
        frames: "NDArray[np.uint8] | Sequence[bytes]",
        rate: float | None = None,
        *,
        lengths: "NDArray[Any] | None" = None,
        stop: threading.Event | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Sent:
        """Send frames in order.

        Args:
            frames: whole Ethernet frames: a uint8 matrix, one a row, or a sequence of bytes.
            rate: frames a second; None for as fast as the kernel takes them.
            lengths: bytes of each row that count, where they differ.
            stop: ends the sending within 100 ms when it is set.
            meanwhile: called about each millisecond while there is something left to send.

        Raises:
            ValueError: the matrix is none, or a length does not fit.
        """
        bases, sizes, owner = _addresses(frames, lengths)
        if rate is not None and not rate > 0:
            raise ValueError("a rate is a number above zero")
        count, done, sent = len(bases), 0, 0
        refused: dict[int, int] = {}
        began = time.monotonic()
        table = _Table(min(count, BATCH))
        while done < count and not (stop is not None and stop.is_set()):
            room = BATCH if rate is None else self._take(rate, count - done, stop, meanwhile)
            if not room:
                continue
            if rate is None and meanwhile is not None and done:
                meanwhile()
            size = min(room, count - done)
            table.load(bases[done : done + size], sizes[done : done + size])
            went = self._push(table, size, refused, stop)
            sent += went[0]
            done += went[1]
            if rate is not None:
                self._tokens -= went[1]
        del owner
        return Sent(count, sent, time.monotonic() - began, refused)

    def _take(self, rate: float, left: int, stop: threading.Event | None, meanwhile: Callable[[], None] | None) -> int:
        """Frames that may leave now; 0 after a nap, if too few to be worth a call."""
        now = time.monotonic()
        depth = max(1.0, rate * _BURST)
        self._tokens = min(depth, self._tokens + (now - self._at) * rate)
        self._at = now
        wanted = min(left, max(1.0, rate * _SLICE))
        if self._tokens >= wanted:
            return min(int(self._tokens), BATCH)
        if meanwhile is not None:
            meanwhile()
        nap = min(_NAP, (wanted - self._tokens) / rate)
        if stop is None:
            time.sleep(nap)
        else:
            stop.wait(nap)
        return 0

    def _push(
        self, table: "_Table", size: int, refused: dict[int, int], stop: threading.Event | None
    ) -> tuple[int, int]:
        """Hand `size` loaded frames to the kernel: (taken, dealt with)."""
        sent = done = 0
        waited = 0.0
        while done < size:
            got = libc.sendmmsg(
                self._socket.fileno(),
                ctypes.c_void_p(table.headers + done * _HEADER),
                ctypes.c_uint(size - done),
                socket.MSG_DONTWAIT,
            )
            if got > 0:
                sent += got
                done += got
                waited = 0.0
                continue
            error = ctypes.get_errno()
            if error == errno.EINTR:
                continue
            # EAGAIN: our own buffer is full; ENOBUFS: the interface's queue is. Both drain by themselves.
            if error in {errno.EAGAIN, errno.ENOBUFS} and waited < _QUEUE_WAIT:
                if stop is not None and stop.is_set():
                    break
                began = time.monotonic()
                if error == errno.EAGAIN:
                    self._poll.poll(_QUEUE_WAIT * 500)
                else:
                    time.sleep(_QUEUE_NAP)
                waited += time.monotonic() - began
                continue
            refused[error] = refused.get(error, 0) + 1
            done += 1
        return sent, done


class _Table:
    """The kernel's view of a batch: `struct mmsghdr` and `struct iovec` of each frame, rewritten column by column."""

    def __init__(self, size: int) -> None:
        import numpy as np

        self._iovecs = np.zeros((max(size, 1), 2), np.uint64)
        rows = np.zeros((max(size, 1), _HEADER // 8), np.uint64)
        # struct msghdr: name, namelen, iov, iovlen, control, controllen, flags; then mmsghdr's msg_len.
        rows[:, 2] = np.uint64(self._iovecs.ctypes.data) + np.arange(len(rows), dtype=np.uint64) * np.uint64(_IOVEC)
        rows[:, 3] = 1
        self._rows = rows
        self.headers = int(rows.ctypes.data)

    def load(self, bases: "NDArray[np.uint64]", sizes: "NDArray[np.uint64]") -> None:
        self._iovecs[: len(bases), 0] = bases
        self._iovecs[: len(bases), 1] = sizes


def _addresses(
    frames: "NDArray[np.uint8] | Sequence[bytes]", lengths: "NDArray[Any] | None"
) -> "tuple[NDArray[np.uint64], NDArray[np.uint64], object]":
    """Where each frame lies in memory, how long it is, and what keeps that memory alive."""
    import numpy as np

    if not isinstance(frames, np.ndarray):
        if lengths is not None:
            raise ValueError("lengths belong to a matrix")
        joined = np.frombuffer(b"".join(frames), np.uint8)
        sizes = np.fromiter((len(item) for item in frames), np.uint64, len(frames))
        starts = np.cumsum(sizes, dtype=np.uint64) - sizes
        return starts + np.uint64(joined.ctypes.data if joined.size else 0), sizes, joined
    if frames.ndim != 2 or frames.dtype != np.uint8:
        raise ValueError("frames are a matrix of bytes, one frame a row")
    if frames.size and (frames.strides[1] != 1 or frames.strides[0] < 0):
        frames = np.ascontiguousarray(frames)
    count, width = frames.shape
    bases = np.arange(count, dtype=np.uint64) * np.uint64(frames.strides[0]) + np.uint64(frames.ctypes.data)
    if lengths is None:
        return bases, np.full(count, width, np.uint64), frames
    sizes = np.asarray(lengths)
    if sizes.shape != (count,) or (count and not 0 <= int(sizes.min()) <= int(sizes.max()) <= width):
        raise ValueError("a length for each row, none longer than the row")
    return bases, sizes.astype(np.uint64), frames
