"""An interrupt inside a destructor is printed and forgotten by Python, and remembered by us."""

import signal
import subprocess
import sys

_SWALLOWED = """
import os, signal
from secguard.core.interrupts import raise_swallowed, watch_interrupts

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): pass

watch_interrupts()
raise_swallowed()
ends = Ends()
del ends
print("goes on", flush=True)
try:
    raise_swallowed()
except KeyboardInterrupt:
    print("and ends")
"""


def test_a_swallowed_interrupt_is_raised_by_who_waits() -> None:
    done = subprocess.run([sys.executable, "-c", _SWALLOWED], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["goes on", "and ends"], done.stderr


def test_an_ignored_interrupt_stays_ignored() -> None:
    code = (
        "import os, signal; from secguard.core.interrupts import watch_interrupts, raise_swallowed;"
        "watch_interrupts(); os.kill(os.getpid(), signal.SIGINT); raise_swallowed(); print('on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.stdout == "on\n", done.stderr
