"""Where a passphrase comes from: a file, never an argument or the value of an environment variable."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from secguard.core.errors import UsageError
from secguard.core.files import atomic_write
from secguard.core.limits import read_bounded
from secguard.keys.files import check_private

__all__ = ["find_passphrase", "make_passphrase"]

_CREDENTIAL = "secguard-passphrase"
_MAX = 4096


def _read(path: Path, open_bits: int = 0o077) -> bytes:
    check_private(path, open_bits)
    value = read_bounded(path, _MAX).rstrip(b"\r\n")
    if not value:
        raise UsageError("keys.passphrase.empty", "the passphrase file is empty", where=str(path))
    return value


def find_passphrase(
    option: Path | None = None, *, fallback: Path | None = None, prompt: Callable[[], str] | None = None
) -> bytes | None:
    """Find the passphrase: option > `$CREDENTIALS_DIRECTORY` > `SECGUARD_PASSPHRASE_FILE` > fallback > prompt.

    Args:
        option: the path given with `--passphrase-file`.
        fallback: the workspace's own passphrase file, used if it exists.
        prompt: asks a person; None when nobody is there.

    Returns:
        The passphrase without its trailing newline, or None if there is no source.

    Raises:
        UsageError: a named file is missing or empty.
        RefusedError: a named file is readable by others.
    """
    if option is not None:
        return _read(option)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / _CREDENTIAL).exists():
        # systemd gives the service's user an access control entry, whose mask stat shows as the group's read bit.
        return _read(Path(directory) / _CREDENTIAL, 0o037)
    named = os.environ.get("SECGUARD_PASSPHRASE_FILE")
    if named:
        return _read(Path(named))
    if fallback is not None and fallback.exists():
        return _read(fallback)
    if prompt is not None:
        answer = prompt().encode()
        return answer or None
    return None


def make_passphrase(path: Path) -> bytes:
    """Write a fresh passphrase of 256 random bits into a file of mode 0600, and return it.

    Raises:
        SystemPartError: it cannot be written.
    """
    value = secrets.token_urlsafe(32).encode()
    atomic_write(path, value + b"\n", mode=0o600)
    return value
