"""How processes of secguard start others: the same interpreter, this very package, nothing of the working directory."""

import os
import sys
from pathlib import Path

__all__ = ["environment", "python"]


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules; never a file of the working directory (these processes may be root)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The environment in which `python` finds this very secguard."""
    ours = str(Path(__file__).parents[3])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))}
