"""An interrupt that Python swallowed is not lost.

Where a KeyboardInterrupt comes up inside a destructor or a callback of the import system, CPython prints it and goes
on. Who waits long asks here from time to time.
"""

import signal
from types import FrameType

__all__ = ["raise_swallowed", "watch_interrupts"]

_interrupted = False


def watch_interrupts() -> None:
    """Remember SIGINT from here on, besides raising KeyboardInterrupt; left alone where it is ignored (nohup, `&`)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def raise_swallowed() -> None:
    """Raise what was swallowed.

    Raises:
        KeyboardInterrupt: there was an interrupt.
    """
    if _interrupted:
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _interrupted  # noqa: PLW0603 - a signal handler has no other place to leave a word
    _interrupted = True
    raise KeyboardInterrupt
