"""Messages out of a stream: octet counting (RFC 5425, RFC 6587 section 3.4.1) and lines (section 3.4.2), mixed at will.

A message that is too long is hashed and skipped, never kept; memory is bounded whatever arrives.
"""

import hashlib
import re
from typing import NamedTuple

__all__ = ["MAX_MESSAGE", "Frame", "Framer"]

MAX_MESSAGE = 256 << 10
"""Bytes of a message that is kept."""
_DIGITS = 7
_TRAILER = re.compile(rb"[\n\0]")


class Frame(NamedTuple):
    """A message, or what was skipped of it.

    Attributes:
        data: the message; of one that was too long, or cut off by the end of the stream, its begin.
        problem: why it is none; empty if it is one.
        size: its bytes.
        sha256: digest of all of them, in hex, where `data` is only their begin.
    """

    data: bytes
    problem: str = ""
    size: int = 0
    sha256: str = ""


class Framer:
    """Cuts a stream into messages; give it what arrives, in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = -1  # bytes of a counted message still to skip; -2: up to the next line feed
        self._hash = hashlib.sha256()
        self._head = b""
        self._size = 0
        self._why = ""
        self._searched = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The messages that are whole now."""
        self._buffer += data
        frames: list[Frame] = []
        at = 0
        while at < len(self._buffer):
            end = self._step(at, frames)
            if end == at:
                break
            at = end
        del self._buffer[:at]
        return frames

    def close(self) -> list[Frame]:
        """At the end of the stream: the last line, or what was cut off."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        if self._skip != -1:
            self._swallow(rest)
            return [self._skipped("cut off")]
        if not rest.strip(b"\r\n\0 "):
            return []
        if rest[:1].isdigit():
            return [Frame(rest, "cut off in a counted message", len(rest))]
        return [Frame(rest, "", len(rest))]

    def _step(self, at: int, frames: list[Frame]) -> int:
        """Take one message, or a part of one that is skipped; the place after it, or the same where it is not whole."""
        buffer = self._buffer
        if self._skip == -2:
            end = _end(buffer, at)
            self._swallow(buffer[at:] if end < 0 else buffer[at:end])
            if end < 0:
                return len(buffer)
            frames.append(self._skipped(self._why))
            return end + 1
        if self._skip >= 0:
            part = buffer[at : at + self._skip]
            self._swallow(part)
            self._skip -= len(part)
            if self._skip == 0:
                frames.append(self._skipped(self._why))
            return at + len(part)
        if buffer[at] in b"\r\n\0 ":  # between messages, and after counted ones from careless senders
            return at + 1
        if 0x31 <= buffer[at] <= 0x39:
            return self._counted(at, frames)
        return self._line(at, frames)

    def _counted(self, at: int, frames: list[Frame]) -> int:
        buffer = self._buffer
        space = buffer.find(b" ", at, at + _DIGITS + 1)
        if space < 0 and len(buffer) - at <= _DIGITS and bytes(buffer[at:]).isdigit():
            return at
        count = bytes(buffer[at:space]) if space > 0 else b""
        if not count.isdigit():
            return self._line(at, frames)
        length = int(count)
        if length > MAX_MESSAGE:
            self._begin(length, f"a message of {length} bytes; {MAX_MESSAGE} is the limit")
            return space + 1
        if len(buffer) < space + 1 + length:
            return at
        frames.append(Frame(bytes(buffer[space + 1 : space + 1 + length]), "", length))
        return space + 1 + length

    def _line(self, at: int, frames: list[Frame]) -> int:
        buffer = self._buffer
        end = _end(buffer, at + self._searched)
        if end < 0:
            if len(buffer) - at <= MAX_MESSAGE:
                self._searched = len(buffer) - at
                return at
            self._searched = 0
            self._begin(-2, f"a line of more than {MAX_MESSAGE} bytes")
            return self._step(at, frames)
        self._searched = 0
        line = bytes(buffer[at:end])
        if len(line) > MAX_MESSAGE:
            digest = hashlib.sha256(line).hexdigest()
            frames.append(Frame(line[:MAX_MESSAGE], f"a line of more than {MAX_MESSAGE} bytes", len(line), digest))
        else:
            frames.append(Frame(line, "", len(line)))
        return end + 1

    def _begin(self, skip: int, why: str) -> None:
        self._skip, self._why = skip, why
        self._hash, self._head, self._size = hashlib.sha256(), b"", 0

    def _swallow(self, data: bytes | bytearray) -> None:
        self._hash.update(data)
        self._size += len(data)
        if len(self._head) < MAX_MESSAGE:
            self._head += bytes(data[: MAX_MESSAGE - len(self._head)])

    def _skipped(self, why: str) -> Frame:
        frame = Frame(self._head, why, self._size, self._hash.hexdigest())
        self._skip, self._head = -1, b""
        return frame


def _end(buffer: bytearray, at: int) -> int:
    """The next line feed, or NUL, with which some senders end a message (RFC 6587, 3.4.2); -1: none yet."""
    found = _TRAILER.search(buffer, at)
    return found.start() if found else -1
