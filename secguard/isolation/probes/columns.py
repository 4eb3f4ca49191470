"""Columns of packets: one template filled in for many probes, byte for byte what `packets.fill` makes of each."""

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secguard.isolation.plan.tokens import SIZE
from secguard.isolation.probes.packets import Template

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["checksums", "fill_columns"]


def fill_columns(
    form: Template,
    count: int,
    ends: "Mapping[int, tuple[NDArray[np.uint8] | bytes, NDArray[np.uint8] | bytes]]",
    tokens: "NDArray[np.uint8] | None",
    *,
    sport: "NDArray[Any] | int" = 0,
    dport: "NDArray[Any] | int" = 0,
    isn: "NDArray[Any] | int" = 0,
    ident: "NDArray[Any] | int" = 0,
    link: "NDArray[np.uint8] | bytes" = b"",
) -> "NDArray[np.uint8]":
    """Finished packets as the rows of a matrix.

    Args:
        form: the template.
        count: packets.
        ends: packed (sources, destinations) by address length, 4 and/or 16; each a (count, length) matrix, or one
            address for all. A missing inner family stays as built.
        tokens: the payloads, (count, 28); None only where the template has no place for one.
        sport: source port (or ICMP identifier): a column, or one for all.
        dport: destination port, likewise.
        isn: TCP sequence number, likewise.
        ident: IP identification, likewise.
        link: link-layer header that each row begins with: one for all, or a (count, length) matrix.

    Raises:
        ValueError: a column of another length.
    """
    import numpy as np

    head = np.frombuffer(link, np.uint8) if isinstance(link, bytes) else link
    front = head.shape[-1]
    rows = np.empty((count, front + len(form.data)), np.uint8)
    rows[:, :front] = head
    data = rows[:, front:]
    data[:] = np.frombuffer(form.data, np.uint8)
    for side, places in enumerate((form.sources, form.destinations)):
        for at, size in places:
            if size in ends:
                end = ends[size][side]
                data[:, at : at + size] = np.frombuffer(end, np.uint8) if isinstance(end, bytes) else end
    numbers = [(form.sport, 2, sport), (form.dport, 2, dport), (form.isn, 4, isn)]
    for at, size, value in [*numbers, *((at, 2, ident) for at in form.idents)]:
        if at >= 0:
            data[:, at : at + size] = _big(value, size)
    if form.token >= 0:
        if tokens is None or tokens.shape != (count, SIZE):
            raise ValueError("a token for each packet")
        data[:, form.token : form.token + SIZE] = tokens
    for where, start, stop, protocol, source in form.sums:
        total = _words(data[:, start:stop])
        if protocol:
            # The address length tells the pseudo-header (RFC 9293 3.1, RFC 8200 8.1); both sum to the same form.
            size = next(length for at, length in form.sources if at == source)
            rest = np.frombuffer(struct.pack(">HH", protocol, stop - start), np.uint16)
            total += _words(data[:, source : source + 2 * size]) + np.uint32(rest.astype(np.uint32).sum())
        value = _fold(total)
        if protocol == 17:
            value[value == 0] = 0xFFFF
        data[:, where : where + 2] = value.view(np.uint8).reshape(count, 2)
    return rows


def checksums(rows: "NDArray[np.uint8]") -> "NDArray[np.uint16]":
    """The Internet checksum (RFC 1071) of each row of bytes."""
    import numpy as np

    folded = _fold(_words(rows))
    return folded.view(np.uint8).reshape(-1, 2).astype(np.uint16) @ np.array([256, 1], np.uint16)


def _big(value: "NDArray[Any] | int", size: int) -> "NDArray[np.uint8]":
    """Numbers as rows of big-endian bytes; one number as one row."""
    import numpy as np

    numbers = np.asarray(value).astype(f">u{size}", order="C")
    return numbers.view(np.uint8).reshape(-1, size) if numbers.ndim else np.frombuffer(numbers.tobytes(), np.uint8)


def _words(part: "NDArray[np.uint8]") -> "NDArray[np.uint32]":
    """The sum of each row's 16-bit words in the machine's byte order, which cancels out (RFC 1071 section 2 (B))."""
    import numpy as np

    count, size = part.shape
    even = np.zeros((count, size + 1 & ~1), np.uint8)
    even[:, :size] = part
    total: NDArray[np.uint32] = even.view(np.uint16).sum(axis=1, dtype=np.uint32)
    return total


def _fold(total: "NDArray[np.uint32]") -> "NDArray[np.uint16]":
    import numpy as np

    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF).astype(np.uint16)
