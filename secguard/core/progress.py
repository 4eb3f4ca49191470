"""Progress callbacks: rooms report, faces draw; at most ten calls a second."""

import time
from collections.abc import Callable

__all__ = ["Progress", "Throttle", "silent"]

Progress = Callable[[int, int | None, str], None]
"""`progress(done, total, unit)`; `total` is None while unknown."""


def silent(done: int, total: int | None, unit: str) -> None:
    """The default callback: says nothing."""
    del done, total, unit


class Throttle:
    """Passes a callback's calls on at most every `interval` seconds; the call with done == total always."""

    def __init__(self, callback: Progress, interval: float = 0.1) -> None:
        self._callback = callback
        self._interval = interval
        self._next = 0.0

    def __call__(self, done: int, total: int | None, unit: str) -> None:
        """Report `done` of `total` in `unit`."""
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + self._interval
            self._callback(done, total, unit)
