"""Making a workspace: the repository's own three folders, a `secguard.toml`, and an empty state."""

import os
import re
import secrets
import shutil
from pathlib import Path

import secguard
from secguard.core.clock import Clock
from secguard.core.errors import RefusedError, SystemPartError, UsageError
from secguard.core.files import atomic_write, fsync_directory, translate_os_error
from secguard.ledger import Ledger
from secguard.workspace.config import LedgerConfig, load_config

__all__ = ["CONFIG_NAME", "DEFAULT_AREA", "add_missing", "create_site", "open_ledger"]

CONFIG_NAME = "secguard.toml"
DEFAULT_AREA = "320116"
"""The example site's administrative area."""

_FOLDERS = ("policies", "certs", "audit")
_CONFIG = """\
# secguard workspace. Every key is explained in docs/configuration.md; an unknown key is refused.

[site]
name = "{name}"
area = "{area}"              # administrative area: device IDs of this site begin with it
domain = "{domain}"
edition = 2022               # GB/T 28181 edition of the type codes: 2016 or 2022

[ledger]
origin = "{origin}"
anchor = "{anchor}"                  # second store of the last checkpoint; best a folder on another disk

[identity]
country = "CN"
crl_url = ""                 # base URL where devices and verifiers find the CRLs
crl_days = 7
"""


def _source(folder: str) -> Path:
    package = Path(secguard.__file__).resolve().parent
    for candidate in (package / "workspace" / "site" / folder, package.parent / folder):
        if candidate.is_dir():
            return candidate
    raise SystemPartError(
        "workspace.site.incomplete", f"the installation lacks its folder {folder!r}", hint="install secguard again"
    )


def create_site(
    root: Path,
    *,
    area: str = DEFAULT_AREA,
    name: str = "secguard",
    domain: str = "video.internal",
    anchor: Path | None = None,
) -> Path:
    """Make a workspace folder; all or nothing.

    Args:
        root: the folder; it may exist when it is empty.
        area: administrative area code, 2, 4, 6 or 8 digits.
        name: the organisation.
        domain: DNS domain under which devices are named.
        anchor: second store of the last checkpoint (default: see `LedgerConfig.anchor`).

    Returns:
        The path of its `secguard.toml`.

    Raises:
        UsageError: a value is out of range.
        RefusedError: the folder holds something already.
        SystemPartError: it cannot be written.
    """
    if not re.fullmatch(r"\d{2}(\d{2}){0,3}", area, re.ASCII):
        raise UsageError(
            "workspace.area", f"not an area code: {area[:20]!r}", hint="2, 4, 6 or 8 digits, for example 320116"
        )
    if not 1 <= len(name) <= 64 or any(ord(c) < 32 or c in '"\\' for c in name):
        raise UsageError("workspace.name", "the name has a quote, a control character, or more than 64 characters")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?", domain):
        raise UsageError("workspace.domain", f"not a DNS domain: {domain[:40]!r}")
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise RefusedError("workspace.exists", "the folder is not empty", hint="name a new folder", where=str(root))
        sources = {folder: _source(folder) for folder in _FOLDERS}
        root.parent.mkdir(parents=True, exist_ok=True)
        # Build beside and rename, so that a full disk leaves no half a workspace.
        place = root.absolute()  # `.` has no name of its own
        beside = place.parent / f".{place.name or 'workspace'}.{secrets.token_hex(6)}.tmp"
        try:
            beside.mkdir(mode=0o755)
            for folder, source in sources.items():
                shutil.copytree(source, beside / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            (beside / "state").mkdir(mode=0o700)
            origin = f"{domain[-40:].lstrip('.-')}/{area}/{secrets.token_hex(4)}"  # a certificate's CN holds 64
            text = _CONFIG.format(name=name, area=area, domain=domain, origin=origin, anchor=anchor or "")
            atomic_write(beside / CONFIG_NAME, text.encode())
            if root.exists():  # keep the folder itself: it may be somebody's current directory
                for part in (*_FOLDERS, "state", CONFIG_NAME):
                    (beside / part).rename(root / part)
                beside.rmdir()
            else:
                beside.rename(root)
            fsync_directory(root.parent)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    except shutil.Error as error:
        raise SystemPartError("workspace.write", f"cannot copy: {error}", where=str(root)) from error
    except OSError as error:
        raise translate_os_error(error, root) from error
    path = root / CONFIG_NAME
    ledger = load_config(path).ledger
    Ledger.create(root / "state" / "ledger", ledger.origin, anchor=_anchor(ledger)).close()
    return path


def add_missing(root: Path) -> list[Path]:
    """Add the policies and profiles that this version ships and a workspace lacks; what is there is left alone.

    Args:
        root: a workspace, maybe made by an earlier version.

    Returns:
        What was added, relative to `root`, in order.

    Raises:
        UsageError: there is no workspace.
        SystemPartError: it cannot be written.
    """
    if not (root / CONFIG_NAME).is_file():
        raise UsageError(
            "workspace.none", f"no {CONFIG_NAME} here", hint="secguard init makes a workspace", where=str(root)
        )
    added = []
    for folder in _FOLDERS:
        source = _source(folder)
        for path in sorted(source.rglob("*")):
            inside = folder / path.relative_to(source)
            hidden = any(part == "__pycache__" or part.startswith(".") for part in inside.parts)
            if hidden or not path.is_file() or os.path.lexists(root / inside):
                continue
            try:
                (root / inside).parent.mkdir(parents=True, exist_ok=True)
                atomic_write(root / inside, path.read_bytes())
            except OSError as error:
                raise translate_os_error(error, root / inside) from error
            added.append(inside)
    return added


def _anchor(config: LedgerConfig) -> Path:
    if config.anchor:
        return Path(config.anchor)
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "secguard" / "anchors"


def open_ledger(state: Path, config: LedgerConfig, clock: Clock) -> Ledger:
    """Open the log of a workspace; a missing one is never made anew in silence.

    Raises:
        RefusedError: the log is missing, or has another origin than the configuration says.
    """
    root = state / "ledger"
    if not root.is_dir():
        raise RefusedError(
            "workspace.ledger.missing",
            "the ledger is missing",
            hint="restore it from a backup; a workspace without its ledger proves nothing",
            where=str(root),
        )
    ledger = Ledger.open(root, clock=clock)
    if ledger.origin != config.origin:
        ledger.close()
        raise RefusedError(
            "workspace.ledger.origin",
            f"the ledger is of {ledger.origin!r}, the configuration says {config.origin!r}",
            where=str(root),
        )
    return ledger
