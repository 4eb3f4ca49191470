"""One authority at a time: issuing, revoking and publishing hold a lock on the site's folder."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secguard.core import SystemPartError
from secguard.core.files import translate_os_error

__all__ = ["exclusive"]


@contextmanager
def exclusive(path: Path, seconds: float = 30.0) -> Iterator[None]:
    """Hold an exclusive `flock` on a file (made if missing); the kernel releases it when the process ends.

    Raises:
        SystemPartError: another process holds it for longer than `seconds`, or the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise translate_os_error(error, path) from error
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SystemPartError(
                        "identity.lock.busy",
                        "another process is issuing or revoking",
                        hint="wait for it to end, and run again",
                        where=str(path),
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
