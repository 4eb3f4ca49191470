"""Captures as pcapng (draft-ietf-opsawg-pcapng): packets from layer 3 on, nanoseconds, a comment and a direction each.

Written here because scapy needs a second and a half to start, and Wireshark reads what the draft says all the same.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["MAX_COMMENT", "Kept", "write_pcapng"]

MAX_COMMENT = 1000
"""Bytes of a comment; longer ones are cut."""
_LINKTYPE_RAW = 101
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_END, _COMMENT = 0, 1
_NAME, _DESCRIPTION, _RESOLUTION = 2, 3, 9
_FLAGS = 2
_APPLICATION = 4
_INBOUND, _OUTBOUND = 1, 2


class Kept(NamedTuple):
    """A packet: nanoseconds since 1970, whether it left, its bytes from layer 3 on, its whole length, a comment."""

    time: int
    left: bool
    data: bytes
    length: int
    comment: str


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    return _option(code, text.encode()[:MAX_COMMENT].decode(errors="ignore").encode())


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def write_pcapng(packets: Iterable[Kept], *, name: str, about: str, made_by: str, snaplen: int = 0) -> bytes:
    """One section with one interface.

    Args:
        packets: in the order in which they are written; Wireshark expects ascending times.
        name: of the interface.
        about: comment of the section, and description of the interface.
        made_by: the application.
        snaplen: most bytes kept of a packet, 0 for no limit.

    Returns:
        The file.
    """
    end = _option(_END, b"")
    head = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + _text(_COMMENT, about) + _text(_APPLICATION, made_by) + end
    interface = (
        struct.pack("<HHI", _LINKTYPE_RAW, 0, snaplen)
        + _text(_NAME, name)
        + _text(_DESCRIPTION, about)
        + _option(_RESOLUTION, b"\x09")
        + end
    )
    parts = [_block(_SECTION, head), _block(_INTERFACE, interface)]
    for packet in packets:
        time = packet.time & 0xFFFFFFFFFFFFFFFF
        body = struct.pack("<IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(packet.data), packet.length)
        body += packet.data + b"\0" * (-len(packet.data) % 4)
        if packet.comment:
            body += _text(_COMMENT, packet.comment)
        body += _option(_FLAGS, struct.pack("<I", _OUTBOUND if packet.left else _INBOUND)) + end
        parts.append(_block(_PACKET, body))
    return b"".join(parts)
