"""What is known of files that grow: generations of content, open files, files that are not read, lines."""

import fnmatch
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

__all__ = [
    "KEPT",
    "Chunk",
    "Gap",
    "Generation",
    "Line",
    "Open",
    "Saved",
    "Stranger",
    "beside",
    "digest_of",
    "inode_of",
    "line_of",
    "rotated_from",
]

KEPT = 64 << 10
"""Bytes of a line too long that are kept."""


class Generation(msgspec.Struct, kw_only=True):
    """The content of a file from its offset 0, wherever it lies by now.

    Attributes:
        name: its random name.
        path: where it was first found.
        inode: device and inode, `dev:inode`.
        head: SHA-256 of its first `head_size` bytes, in hex.
        head_size: at most 4096; grows with the file.
        offset: all before it is recorded.
        seen: the size that was seen last.
        rotated: it lies no more where it is written to.
    """

    name: str
    path: str
    inode: str
    head: str
    head_size: int
    offset: int = 0
    seen: int = 0
    rotated: bool = False


class Saved(msgspec.Struct, kw_only=True):
    """The file of positions."""

    version: int = 1
    generations: list[Generation] = []
    done: list[Generation] = []
    since: float = 0.0


class Line(NamedTuple):
    """A line: where it begins, its bytes (None if too long to keep), and what is known of one that is too long."""

    offset: int
    data: bytes | None
    size: int
    sha256: str
    head: bytes


class Chunk(NamedTuple):
    """Lines of one generation, the place after them, and whether they were written since the last read (`live`)."""

    generation: Generation
    lines: list[Line]
    end: int
    live: bool


class Gap(NamedTuple):
    """Content that is gone before it was read: of which file, how many bytes at least, and how."""

    path: str
    generation: str
    bytes: int
    how: str


@dataclass(slots=True, eq=False)
class Open:
    """A file that is read."""

    generation: Generation
    file: BinaryIO
    fresh: bool  # at the path that is written to, not rotated away
    at: int  # what is read; `generation.offset` follows when it is recorded
    packed: bool = False
    inode: str = ""  # of the file that is open: a copy's differs from the generation's
    idle_since: float = -1.0
    skip: "hashlib._Hash | None" = None  # a line too long to keep is under way
    skip_size: int = 0
    skip_head: bytes = b""
    quiet: bool = False  # rotated, and nothing more will come
    caught_up: bool = False


@dataclass(slots=True, eq=False)
class Stranger:
    """A file that is not read now."""

    path: Path
    fresh: bool
    status: os.stat_result
    file: BinaryIO
    head: bytes
    taken: bool = False

    @property
    def packed(self) -> bool:
        """Compressed."""
        return self.path.suffix == ".gz"

    def begins(self, generation: Generation) -> bool:
        """Whether it begins with the content of a generation."""
        size = generation.head_size
        return bool(size) and len(self.head) >= size and digest_of(self.head[:size]) == generation.head


def inode_of(status: os.stat_result) -> str:
    """Device and inode."""
    return f"{status.st_dev}:{status.st_ino}"


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def beside(path: Path, generation: Generation) -> bool:
    """Whether a file is named as what the other was rotated to: `a.log.1`, `a-20261101.log`; or as itself."""
    stem = Path(generation.path).name.partition(".")[0]
    return path.name.startswith(stem) and not path.name[len(stem) : len(stem) + 1].isalnum()


_BEHIND = re.compile(r"(?:[.\-_](?:\d[\dTZ+:]*|old|bak|prev|gz)(?=[.\-_]|$))+$", re.IGNORECASE)
"""Behind the name: `a.log.1`, `a.log-20261101.gz`, `a.log.old`."""
_DATED = re.compile(r"[.\-_]20\d\d(?:-[01]\d(?:-[0-3]\d)?|[01]\d[0-3]\d)[\dTZ:+]*(?:[.\-_][\dTZ:+]+)*(?=[.\-_]|$)")
"""Before the ending only a date, with what counts or times it: `a-20261101.log`; `a-1.log` is another log."""


def rotated_from(name: str, pattern: str) -> bool:
    """Whether a name is a followed one that was rotated: `a-error.log` and `a-1.log` are no rotated `a.log`."""
    ended = _BEHIND.sub("", name)
    return fnmatch.fnmatchcase(ended, pattern) or fnmatch.fnmatchcase(_DATED.sub("", ended, count=1), pattern)


def line_of(offset: int, raw: bytes, limit: int) -> Line:
    """A line of at most `limit` bytes, or what is known of a longer one."""
    # NULs at the begin are the hole that a writer leaves which goes on at its old offset after a truncation.
    data = raw.rstrip(b"\r").lstrip(b"\0")
    if len(data) > limit:
        return Line(offset, None, len(data), digest_of(data), data[:KEPT])
    return Line(offset, data, len(data), "", b"")
