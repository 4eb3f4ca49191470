"""Insert NAL units into a bare stream (Annex B of H.264 and H.265): each gets its start code."""

from collections.abc import Sequence

from secguard.video.signing.output import Edit, Insertion

__all__ = ["bare_edits", "coded"]


def coded(item: Insertion) -> tuple[int, bytes]:
    """Where in the stream the bytes go, and the unit with a start code.

    A unit takes over the start code of the one that it is put before, which gets a new one: so it begins at the very
    byte where that one did, in the same packet.
    """
    if item.behind:
        return item.offset, b"\0\0\0\1" + item.unit
    return item.offset, item.unit + b"\0\0\1"


def bare_edits(insertions: Sequence[Insertion]) -> list[Edit]:
    """The edits of a bare stream."""
    return [(at, at, data) for at, data in map(coded, insertions)]
