"""Shared by all tests: an isolated machine state, and skips that count as failures where every part must be there."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy two-core machine must not turn a slow example into a failure; nightly runs search longer.
settings.register_profile("ci", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("SECGUARD_TEST_PROFILE", "ci"))

_KEEP = {"SECGUARD_TEST_NO_SKIP", "SECGUARD_TEST_PROFILE"}
_MEMORY = Path("/dev/shm")
_GIB = 1 << 30


def _roomy() -> bool:
    """Whether the tests' files fit into memory, and scripts among them may be run there."""
    try:
        free, flags = shutil.disk_usage(_MEMORY).free, os.statvfs(_MEMORY).f_flag
        words = Path("/proc/meminfo").read_text(encoding="ascii").split()
        unused = int(words[words.index("MemAvailable:") + 1]) << 10
    except (OSError, ValueError):
        return False
    return min(free, unused) >= 6 * _GIB and not flags & os.ST_NOEXEC and os.access(_MEMORY, os.W_OK)


# Every act is synced to disk before it counts, and the tests do thousands: in memory that costs nothing, and what
# `kill -9` leaves is the same. PYTEST_DEBUG_TEMPROOT (pytest's own) or --basetemp choose another place.
if "PYTEST_DEBUG_TEMPROOT" not in os.environ and _roomy():
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(_MEMORY)


# What a script runs in its background ignores Ctrl-C, and so does all that it starts; here it is sent to be obeyed.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker's share begins with long tests (xdist hands out equal runs of the list): short ones even the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        long = [item for item in items if item.nodeid.startswith("tests/integration/")]
        short = [item for item in items if not item.nodeid.startswith("tests/integration/")]
        shares = [
            (part, len(part) * n // workers, len(part) * (n + 1) // workers)
            for n in range(workers)
            for part in (long, short)
        ]
        items[:] = [item for part, start, end in shares for item in part[start:end]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With SECGUARD_TEST_NO_SKIP=1 (CI), a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("SECGUARD_TEST_NO_SKIP") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's workspace, anchors or passphrase."""
    for name in list(os.environ):
        if name.startswith("SECGUARD_") and name not in _KEEP:
            monkeypatch.delenv(name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))


@pytest.fixture
def secguard(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in a process: `secguard("video", "verify", file, cwd=...)`."""

    def run(*args: object, cwd: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [sys.executable, "-m", "secguard", *map(str, args)],
            cwd=cwd or tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            **options,
        )

    return run
