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
_LANES_FROM = 100_000  # frames a second from which a second lane is worth its thread
_LANES_BATCHES = 4
_QUEUE_WAIT = 0.1  # how long a full queue is waited for before what is left of a batch counts as refused
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
        refused: frames that it refused, by errno.
        seconds: time it took.
    """

    offered: int
    sent: int
    seconds: float
    refused: dict[int, int] = field(default_factory=dict)

    @property
    def tried(self) -> int:
        """Frames dealt with, counted from the first on; fewer than `offered` only after a stop."""
        return self.sent + sum(self.refused.values())


class Sender:
    """Sends frames on one interface. For one thread, which may call `send` again from within `meanwhile`."""

    def __init__(self, interface: str, *, lanes: int = 1) -> None:
        """Open it.

        Args:
            interface: its name.
            lanes: threads, each with a socket of its own, that share the work of a high rate (`_LANES_FROM`): one core
                fills a fast link only in part. Frames of neighbouring batches may then overtake each other.

        Raises:
            SystemPartError: no such interface, or not permitted (CAP_NET_RAW).
        """
        self._lanes: list[socket.socket] = []
        try:
            for _ in range(lanes):
                self._lanes.append(open_raw())
                bind(self._lanes[-1], interface, 0)
                _enlarge(self._lanes[-1])
        except BaseException:
            self.close()
            raise
        self._lock = threading.Lock()
        self._tokens = 0.0
        self._at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        for lane in self._lanes:
            lane.close()

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
            ValueError: the matrix is none, a length does not fit, or the rate is not above zero.
        """
        if rate is not None and not rate > 0:
            raise ValueError("a rate is a number above zero")
        bases, sizes, owner = _addresses(frames, lengths)
        job = _Job(bases, sizes, rate, stop)
        began = time.monotonic()
        helpers: list[threading.Thread] = []
        if len(bases) >= _LANES_BATCHES * BATCH and (rate is None or rate >= _LANES_FROM):
            helpers = [
                threading.Thread(target=self._work, args=(lane, job), name="sender", daemon=True)
                for lane in self._lanes[1:]
            ]
        for helper in helpers:
            helper.start()
        try:
            self._work(self._lanes[0], job, meanwhile)
        finally:
            job.over = True
            for helper in helpers:
                helper.join()
        del owner
        return Sent(len(bases), job.sent, time.monotonic() - began, job.refused)

    def _work(self, lane: socket.socket, job: "_Job", meanwhile: Callable[[], None] | None = None) -> None:
        """Take part after part of a job until there is none left."""
        table = _Table(min(len(job.bases), BATCH))
        while True:
            with self._lock:
                start, size, nap = self._claim(job)
            if meanwhile is not None and (start or nap):
                meanwhile()
            if size:
                table.load(job.bases[start : start + size], job.sizes[start : start + size])
                sent, refused = _push(lane, table.headers, size, job.stop)
                with self._lock:
                    job.sent += sent
                    for code, count in refused.items():
                        job.refused[code] = job.refused.get(code, 0) + count
            elif not nap:
                return
            elif job.stop is None:
                time.sleep(nap)
            else:
                job.stop.wait(nap)

    def _claim(self, job: "_Job") -> tuple[int, int, float]:
        """The next part of a job: (first frame, frames, 0) or (next frame, 0, seconds to wait); zeros at its end."""
        left = len(job.bases) - job.next
        if left <= 0 or job.over or (job.stop is not None and job.stop.is_set()):
            return 0, 0, 0.0
        size = min(left, BATCH)
        if job.rate is not None:
            now = time.monotonic()
            self._tokens = min(max(1.0, job.rate * _BURST), self._tokens + (now - self._at) * job.rate)
            self._at = now
            # A few frames at a time would cost a wake-up each: wait for a slice of them.
            wanted = min(left, max(1.0, job.rate * _SLICE))
            if self._tokens < wanted:
                return job.next, 0, min(_NAP, (wanted - self._tokens) / job.rate)
            size = min(size, int(self._tokens))
            self._tokens -= size
        start = job.next
        job.next += size
        return start, size, 0.0


@dataclass(slots=True)
class _Job:
    """Frames on their way: every frame before `next` is some lane's, and dealt with when the lanes have ended."""

    bases: "NDArray[np.uint64]"
    sizes: "NDArray[np.uint64]"
    rate: float | None
    stop: threading.Event | None
    next: int = 0
    sent: int = 0
    over: bool = False
    refused: dict[int, int] = field(default_factory=dict)


def _enlarge(handle: socket.socket) -> None:
    try:
        handle.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
    except PermissionError:  # without CAP_NET_ADMIN the system's maximum has to do
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def _push(lane: socket.socket, headers: int, size: int, stop: threading.Event | None) -> tuple[int, dict[int, int]]:
    """Hand loaded frames to the kernel: how many it took, and how many it refused, by errno."""
    sent = done = 0
    waited = 0.0
    patience = _QUEUE_WAIT
    refused: dict[int, int] = {}
    while done < size:
        got = libc.sendmmsg(
            lane.fileno(),
            ctypes.c_void_p(headers + done * _HEADER),
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
        full = error in {errno.EAGAIN, errno.ENOBUFS}
        stopped = stop is not None and stop.is_set()
        if full and waited < (patience if error == errno.ENOBUFS else _QUEUE_WAIT) and not stopped:
            began = time.monotonic()
            if error == errno.EAGAIN:
                room = select.poll()
                room.register(lane, select.POLLOUT)
                room.poll(_QUEUE_WAIT * 500)
            else:
                time.sleep(_QUEUE_NAP)
            waited += time.monotonic() - began
            continue
        # A buffer that stays full refuses all that is left, so that a stop and a dead link end soon. ENOBUFS is also
        # what an egress filter says of one frame: the next one may pass, and this batch need not wait again.
        count = 1 if error != errno.EAGAIN else size - done
        patience = 0.0
        refused[error] = refused.get(error, 0) + count
        done += count
    return sent, refused


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
