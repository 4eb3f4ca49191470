"""The files of a recording in a folder: which of them are segments, and in which order they were taken."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from secguard.core import SystemPartError, UsageError

__all__ = ["CHAIN_NAME", "MANIFEST_SUFFIX", "list_segments", "natural_key", "safe_name"]

CHAIN_NAME = "recording.chain.jsonl"
"""The chain beside the files of a recording."""
MANIFEST_SUFFIX = ".manifest.json"
"""Behind a segment's name: its manifest."""

_MAX_FILES = 1 << 20
_MAX_DEPTH = 16
_MAX_NAME = 1024
_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".m4s",
        ".mov",
        ".3gp",
        ".mkv",
        ".webm",
        ".ts",
        ".m2ts",
        ".mts",
        ".ps",
        ".mpg",
        ".mpeg",
        ".vob",
        ".avi",
        ".flv",
        ".wmv",
        ".asf",
        ".dav",
        ".g64",
        ".g64x",
        ".264",
        ".h264",
        ".avc",
        ".265",
        ".h265",
        ".hevc",
        ".svac",
        ".bit",
    ]
)
_HEADS = (b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"DHAV", b"IMKH")
_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts `seg9.mp4` before `seg10.mp4`, and folders with their files."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in _DIGITS.split(name) if part)


def safe_name(name: str) -> bool:
    """A relative name with `/` that stays below its folder and can be printed."""
    path = PurePosixPath(name)
    return (
        0 < len(name) <= _MAX_NAME
        and name.isprintable()
        and not path.is_absolute()
        and ".." not in path.parts
        and str(path) == name
        and name != "."
    )


def _is_recording(entry: "os.DirEntry[str]") -> bool:
    """By its name's end, else by its first bytes."""
    if Path(entry.name).suffix.lower() in _SUFFIXES:
        return True
    try:
        with Path(entry.path).open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] == b"ftyp" or head.startswith(_HEADS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError("core.file.missing", "no such folder", where=str(folder)) from None
    except OSError as error:
        raise SystemPartError("core.file.unreadable", f"cannot read: {error.strerror}", where=str(folder)) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith((MANIFEST_SUFFIX, CHAIN_NAME)):
            continue
        if entry.is_dir(follow_symlinks=False):
            # A folder with a chain of its own is another recording.
            if depth < _MAX_DEPTH and not Path(entry.path, CHAIN_NAME).exists():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", depth + 1)
        elif entry.is_file() and _is_recording(entry):
            yield prefix + entry.name


def list_segments(folder: Path, order: str = "name") -> list[str]:
    """Names of the recordings in a folder and its folders, relative, in the order in which they were taken.

    Hidden files, manifests, chains, and folders with a chain of their own are left out.

    Args:
        folder: where to look.
        order: `name`: numbers in names by their value; `time`: by the files' last change.

    Raises:
        UsageError: no such folder, or too many files in it.
        SystemPartError: it cannot be read.
    """
    names = []
    for name in _walk(folder, "", 0):
        names.append(name)
        if len(names) > _MAX_FILES:
            raise UsageError("video.recording.size", f"more than {_MAX_FILES} files", where=str(folder))
    names.sort(key=natural_key)
    if order == "time":
        names.sort(key=lambda name: (folder / name).stat().st_mtime_ns)
    return names
