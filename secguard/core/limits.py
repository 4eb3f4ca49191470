"""Bounds on what is read from outside: fail with one clear error instead of filling the memory."""

from pathlib import Path

from secguard.core.errors import FormatError, SystemPartError, UsageError

__all__ = ["MAX_CONFIG", "MAX_DOCUMENT", "MAX_PEM", "read_bounded"]

MAX_CONFIG = 1 << 20
"""Bytes of a configuration, policy or profile file."""
MAX_PEM = 1 << 20
"""Bytes of a PEM file (chain or key)."""
MAX_DOCUMENT = 64 << 20
"""Bytes of a signed document (DSSE envelope, manifest)."""


def read_bounded(path: Path, limit: int = MAX_DOCUMENT) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Raises:
        UsageError: if there is no such file.
        SystemPartError: if it cannot be read.
        FormatError: if it is larger than `limit`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError("core.file.missing", "no such file", where=str(path)) from None
    except OSError as error:
        raise SystemPartError("core.file.unreadable", f"cannot read: {error.strerror}", where=str(path)) from error
    if len(data) > limit:
        raise FormatError("core.file.too-large", f"larger than {limit} bytes", where=str(path))
    return data
