"""Hash the NAL units of a track, once, front to back (ONVIF Media Signing 26.06, "Signing a GOP").

The first slice of a GOP gives the anchor H(I); every other slice gives H(anchor || H(slice)). The plain hashes are
kept beside the linked ones: they let a verifier judge each slice under the anchor that was signed, so a changed first
slice does not make every other slice of its GOP look changed.
"""

import contextlib
import hashlib
import mmap
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from secguard.core import Progress, silent
from secguard.video.nal import Nals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]
    Bools = NDArray[np.bool_]

__all__ = ["Hashed", "hash_nals", "hash_range"]

_RELEASE = 32 << 20  # bytes after which pages already hashed are given back, so that memory stays flat
_BATCH = 1024
_POPULATE_READ = 22  # MADV_POPULATE_READ


@dataclass(frozen=True, slots=True)
class Hashed:
    """The hashable NAL units of a track in decoding order.

    Attributes:
        name: hash algorithm.
        width: bytes of a hash.
        nal: index into the track's `Nals`.
        plain: H(nal), concatenated.
        linked: what a hash list holds: H(I), or H(anchor || H(nal)); concatenated.
        leads: the unit begins a GOP.
        own: the unit is an unsigned SEI of ONVIF's.
    """

    name: str
    width: int
    nal: "Int64s"
    plain: bytes
    linked: bytes
    leads: "Bools"
    own: "Bools"

    def __len__(self) -> int:
        return len(self.nal)

    def with_own(self, digests: Mapping[int, bytes]) -> "Hashed":
        """The same with other hashes of unsigned SEIs, by NAL unit."""
        plain, linked = bytearray(self.plain), bytearray(self.linked)
        for at in np.flatnonzero(self.own).tolist():
            digest = digests.get(int(self.nal[at]), b"")
            if len(digest) == self.width:
                place = slice(at * self.width, (at + 1) * self.width)
                plain[place] = linked[place] = digest
        return replace(self, plain=bytes(plain), linked=bytes(linked)) if self.own.any() else self


def hash_nals(
    data: mmap.mmap,
    nals: Nals,
    chosen: "Int64s",
    own: "Bools | None" = None,
    *,
    name: str = "sha256",
    progress: Progress = silent,
) -> Hashed:
    """Hash NAL units.

    Args:
        data: the mapped file.
        nals: its NAL units.
        chosen: indexes of the units to hash, in order.
        own: True where a chosen unit is an unsigned SEI of ONVIF's: hashed without the anchor.
        name: hash algorithm.
        progress: called with bytes done.
    """
    make: Callable[..., hashlib._Hash] = getattr(hashlib, name)
    width = make().digest_size
    anchored = make(bytes(width)).copy  # a started hash copied costs less than one started anew
    starts, ends = nals.offset[chosen], nals.end[chosen]
    leads = nals.leads[chosen]
    # 1: anchor, 2: hashed alone, 0: linked
    role = leads.astype(np.int8)
    own = np.zeros(len(chosen), dtype=np.bool_) if own is None else own
    role[own] = 2
    plain: list[bytes] = []
    linked: list[bytes] = []
    total, done, released = int((ends - starts).sum()), 0, 0
    with memoryview(data) as view:
        for low, high in _batches(ends - starts):
            _populate(data, int(starts[low]), int(ends[min(high, len(chosen)) - 1]))
            columns = zip(starts[low:high].tolist(), ends[low:high].tolist(), role[low:high].tolist(), strict=True)
            first: list[bytes] = []
            second: list[bytes] = []
            for start, end, kind in columns:
                digest = make(view[start:end]).digest()
                first.append(digest)
                if kind == 0:
                    linking = anchored()
                    linking.update(digest)
                    second.append(linking.digest())
                else:
                    second.append(digest)
                    if kind == 1:
                        anchored = make(digest).copy
            plain.append(b"".join(first))
            linked.append(b"".join(second))
            done += int((ends[low:high] - starts[low:high]).sum())
            if done - released >= _RELEASE // 2:
                released = done
                data.madvise(mmap.MADV_DONTNEED)
            progress(done, total, "bytes")
    return Hashed(name, width, chosen, b"".join(plain), b"".join(linked), leads, own)


def _populate(data: mmap.mmap, start: int, end: int) -> None:
    """Map a range's pages at once instead of at 16 faults a megabyte, where the system can (Linux 5.14)."""
    page = start - start % mmap.PAGESIZE
    if not 0 < end - page <= 2 * _RELEASE:
        return
    with contextlib.suppress(OSError):
        data.madvise(_POPULATE_READ, page, end - page)


def _batches(sizes: "Int64s") -> list[tuple[int, int]]:
    """Ranges of units: at most `_BATCH`, and about `_RELEASE` bytes, so that large slices do not fill the memory."""
    sums = np.cumsum(sizes)
    found, low = [], 0
    while low < len(sizes):
        before = int(sums[low - 1]) if low else 0
        fit = int(np.searchsorted(sums, before + _RELEASE, side="right"))
        high = min(max(fit, low + 1), low + _BATCH, len(sizes))
        found.append((low, high))
        low = high
    return found


def hash_range(data: mmap.mmap, start: int, end: int, *, stop: threading.Event | None = None) -> bytes:
    """SHA-256 over a range of the file; of its beginning only, once `stop` is set."""
    digest = hashlib.sha256()
    with memoryview(data) as view:
        for low in range(start, end, _RELEASE):
            if stop is not None and stop.is_set():
                break
            high = min(low + _RELEASE, end)
            digest.update(view[low:high])
            page = low - low % mmap.PAGESIZE
            data.madvise(mmap.MADV_DONTNEED, page, high - page)
    return digest.digest()
