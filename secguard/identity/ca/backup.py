"""Saving everything that a site's CAs need to go on after the loss of their machine."""

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from secguard.core import Progress, RefusedError, UsageError, rfc3339, silent
from secguard.core.files import fsync_directory, translate_os_error
from secguard.identity.ca.archive import BackupFile, Manifest, hash_file, write_archive
from secguard.identity.ca.setting import Setting
from secguard.identity.lock import exclusive

__all__ = ["Saved", "backup"]


@dataclass(frozen=True, slots=True)
class Saved:
    """A backup that was made.

    Attributes:
        file: the archive, mode 0600.
        files: how many files it holds.
        size: its bytes.
        sha256: SHA-256 of its manifest, as the ledger has it.
        tokens: CAs whose keys are in a token, and so not in it.
    """

    file: Path
    files: int
    size: int
    sha256: str
    tokens: list[str]


def backup(setting: Setting, file: Path, *, config: Path, ledger_size: int, progress: Progress = silent) -> Saved:
    """Write keys (as they lie there: encrypted), registry, lists, root certificate, profiles and configuration.

    The passphrase is not in it: it authenticates the archive, and opens the keys.

    Args:
        setting: the site.
        file: the archive; must not exist.
        config: `secguard.toml` of the workspace.
        ledger_size: entries of the ledger before this act.
        progress: told of bytes.

    Raises:
        UsageError: there are no CAs; no passphrase, or not the site's.
        RefusedError: the file exists; recording failed, and nothing is left.
        SystemPartError: a write failed.
    """
    if os.path.lexists(file):
        raise RefusedError("identity.backup.exists", "a file is there already", hint="name another", where=str(file))
    known = setting.registry.authorities()
    if not known:
        raise UsageError("identity.ca.none", "this site has no CA yet", hint="run: secguard identity ca init")
    passphrase = setting.secret()
    mark = secrets.token_hex(6)
    snapshot = setting.folder / f".registry.{mark}.tmp"
    beside = file.with_name(f".{file.name}.{mark}.tmp")
    try:
        with exclusive(setting.lock):
            setting.registry.snapshot(snapshot)
            sources = dict(_sources(setting, snapshot, config))
            entries = tuple(BackupFile(path, *hash_file(source)) for path, source in sources.items())
            manifest = Manifest(
                version=1,
                created=rfc3339(setting.clock.now()),
                origin=setting.origin,
                ledger_size=ledger_size,
                salt=secrets.token_hex(16),
                files=entries,
            )
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                digest = write_archive(out, manifest, list(sources.values()), passphrase, progress)
                out.flush()
                os.fsync(out.fileno())
                size = out.tell()
        setting.record(
            setting.event("ca.saved", setting.origin, manifest_sha256=digest, files=len(entries), bytes=size)
        )
        os.link(beside, file)  # never over another file
        fsync_directory(file.parent)
    except FileExistsError as error:
        raise RefusedError("identity.backup.exists", "a file is there already", where=str(file)) from error
    except OSError as error:
        raise translate_os_error(error, file) from error
    finally:
        for path in (beside, snapshot):
            with contextlib.suppress(OSError):
                path.unlink()
    tokens = [name for name, record in known.items() if record.key.startswith("pkcs11:")]
    return Saved(file, len(entries), size, digest, tokens)


def _sources(setting: Setting, snapshot: Path, config: Path) -> list[tuple[str, Path]]:
    """Path in the backup -> file; no registry besides the snapshot, and nothing half-written (names with a dot)."""
    found = [("identity/registry.db", snapshot)]
    for base, folder in (("identity", setting.folder), ("certs", setting.certs)):
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            if any(part.startswith(".") for part in parts) or path.is_symlink() or not path.is_file():
                continue
            if base == "identity" and parts[0].startswith(("registry.db", "keys.unused.")):
                continue
            found.append(("/".join((base, *parts)), path))
    return [*found, ("secguard.toml", config)]
