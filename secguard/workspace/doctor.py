"""What this machine can do: each part, whom it serves, and what to install where it is missing."""

import importlib.util
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import msgspec

__all__ = ["Check", "examine"]


class Check(msgspec.Struct, frozen=True):
    """One part of the machine.

    Attributes:
        part: its name.
        present: it is here and works.
        serves: what needs it.
        advice: what to do when it is missing; empty when present.
    """

    part: str
    present: bool
    serves: str
    advice: str


def _tool(name: str) -> bool:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _fts5() -> bool:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5(x)")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


def _namespaces() -> bool:
    if os.geteuid() == 0:
        return True
    limit = Path("/proc/sys/user/max_user_namespaces")
    blocked = Path("/proc/sys/kernel/unprivileged_userns_clone")
    return (
        limit.exists()
        and limit.read_text().strip() != "0"
        and (not blocked.exists() or blocked.read_text().strip() != "0")
    )


def examine() -> list[Check]:
    """Look at the machine; nothing is changed."""
    rows = [
        ("Python 3.11-3.13", (3, 11) <= sys.version_info[:2] <= (3, 13), "everything", "install python3.11 or newer"),
        ("SQLite with FTS5", _fts5(), "audit search", "install a Python whose sqlite3 has FTS5"),
        (
            "PyAV",
            importlib.util.find_spec("av") is not None,
            "the demo's clip, stills",
            "pip install 'secguard[media]'",
        ),
        ("ip (iproute2)", _tool("ip"), "isolation lab", "apt-get install iproute2"),
        ("nft (nftables)", _tool("nft"), "isolation lab", "apt-get install nftables"),
        ("unshare (util-linux)", _tool("unshare"), "isolation lab without root", "apt-get install util-linux"),
        ("network namespaces", _namespaces(), "isolation lab", "run as root, or enable user namespaces"),
    ]
    return [Check(part, present, serves, "" if present else advice) for part, present, serves, advice in rows]
