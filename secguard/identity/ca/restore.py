"""Restoring a backup, so that nothing that was revoked comes back, and no list number is used twice.

A backup is older than what it replaces. Numbers of lists therefore begin anew far above any that may have been
published: at the milliseconds since 1970. Serial numbers are random. What the ledger has recorded since the backup is
applied: revocations again; and a certificate that the restored registry lacks gets a row without its bytes, so that it
can be revoked, and stays so if it was.
"""

import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from secguard.core import Clock, FormatError, Progress, RefusedError, parse_time, rfc3339, silent
from secguard.core.files import fsync_directory, translate_os_error
from secguard.core.limits import MAX_CONFIG, read_bounded
from secguard.events import Actor, Event, Recorder, new_event_id
from secguard.identity.ca.archive import Manifest, check_manifest, read_files
from secguard.identity.ca.setting import CA_PROFILE
from secguard.identity.certificate import ROOT, shard_of
from secguard.identity.issuing.deliver import make_folder
from secguard.identity.lock import exclusive
from secguard.identity.records import CaStatus, CertificateRecord, Status
from secguard.identity.registry import Registry
from secguard.store import atomic_write
from secguard.trust import Purpose

__all__ = ["Place", "Restored", "restore"]

_SKEW = timedelta(minutes=5)
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_KEPT = "restored"
"""Folder in `state/identity` for files that the workspace has otherwise."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a backup is restored to.

    Attributes:
        folder: `state/identity`; nothing of value may be there.
        certs: folder of the profiles and of the root certificate.
        config: `secguard.toml` of the workspace.
        clock: says what is now.
        recorder: the ledger.
        actor: who acts.
        origin: name of the ledger.
        since: gives the ledger's events from an entry on.
        shards: number of sharded lists of an issuing CA.
    """

    folder: Path
    certs: Path
    config: Path
    clock: Clock
    recorder: Recorder
    actor: Actor
    origin: str
    since: Callable[[int], Iterable[Event]]
    shards: int = 0


@dataclass(slots=True)
class Restored:
    """What was restored.

    Attributes:
        created: RFC 3339 time of the backup.
        origin: name of the ledger at that time.
        files: how many files.
        same_ledger: the ledger is the one of that time, so what it has recorded since was applied.
        revoked: serial numbers that were revoked after the backup, and are again.
        unknown: serial numbers of certificates issued after the backup: their bytes are lost.
        retired: CAs that were retired after the backup, and are again.
        differing: files that the workspace has otherwise; those of the backup lie in `state/identity/restored`.
    """

    created: str
    origin: str
    files: int
    same_ledger: bool = False
    revoked: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


def restore(file: Path, place: Place, passphrase: bytes, progress: Progress = silent) -> Restored:
    """Restore a backup, whole or not at all.

    Args:
        file: the archive.
        place: where to.
        passphrase: the one it was made with.
        progress: told of bytes.

    Raises:
        FormatError: not a backup, or damaged.
        RefusedError: another passphrase, or it was changed; the site has CAs already, or another root; the clock is
            before the backup; recording failed.
        SystemPartError: a write failed.
    """
    make_folder(place.folder.parent)
    with exclusive(place.folder.with_name(".identity.lock")):
        _check_empty(place.folder)
        beside = place.folder.with_name(f".identity.{secrets.token_hex(6)}.tmp")
        try:
            beside.mkdir(mode=0o700)
            with file.open("rb") as source:
                manifest = check_manifest(source, passphrase, str(file))
                now = place.clock.now()
                if parse_time(manifest.created) > now + _SKEW:
                    raise RefusedError(
                        "identity.backup.future",
                        f"the backup was made at {manifest.created}; it is {rfc3339(now)} here",
                        hint="set the clock right: numbers of revocation lists depend on it",
                    )
                total, done = sum(item.size for item in manifest.files), 0
                for item, chunks in read_files(source, manifest, str(file)):
                    _extract(beside / item.path, chunks)
                    done += item.size
                    progress(done, total, "bytes")
            result = Restored(manifest.created, manifest.origin, len(manifest.files))
            outside = _compare(place, beside, manifest, result)
            _bring_up_to_date(place, beside / "identity" / "registry.db", manifest, result)
            place.recorder.record([_event(place, result)])
            for target, path in outside:
                atomic_write(target, path.read_bytes())
            old = beside / "replaced"
            if place.folder.exists():
                place.folder.rename(old)
            (beside / "identity").rename(place.folder)
            fsync_directory(place.folder.parent)
        except FileNotFoundError as error:
            raise FormatError("identity.backup.format", "no such backup", where=str(error.filename or file)) from error
        except OSError as error:
            raise translate_os_error(error, error.filename or place.folder) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return result


def _check_empty(folder: Path) -> None:
    """Refuse to replace anything of value: keys, or a registry with rows."""
    reason = "keys" if any((folder / "keys").glob("*")) else ""
    database = folder / "registry.db"
    if not reason and database.exists():
        try:
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
                for table in ("authorities", "certificates", "devices"):
                    if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608 - our own names
                        reason = f"a registry with {table}"
        except sqlite3.Error:
            reason = "a registry that cannot be read"
    if reason:
        raise RefusedError(
            "identity.restore.exists",
            f"this site has {reason} already: nothing is overwritten",
            hint=f"move it away first: mv {folder} {folder}.old",
            where=str(folder),
        )


def _extract(path: Path, chunks: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
        for chunk in chunks:
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())


def _compare(place: Place, beside: Path, manifest: Manifest, result: Restored) -> list[tuple[Path, Path]]:
    """What goes outside `state/identity`: what is missing there; what is there otherwise is kept for comparison."""
    missing = []
    for item in manifest.files:
        if item.path.startswith("identity/"):
            continue
        path = beside / item.path
        target = place.config if item.path == "secguard.toml" else place.certs / item.path.removeprefix("certs/")
        if not target.exists():
            missing.append((target, path))
        elif read_bounded(target, MAX_CONFIG) != path.read_bytes():
            if item.path == f"certs/{ROOT}.pem":
                raise RefusedError(
                    "identity.root.exists",
                    "there is another root certificate here",
                    hint="move it away first",
                    where=str(target),
                )
            result.differing.append(item.path)
            kept = beside / "identity" / _KEPT / item.path
            kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.rename(kept)
    for target, _ in missing:
        target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _bring_up_to_date(place: Place, database: Path, manifest: Manifest, result: Restored) -> None:
    """Numbers above all that were used; and what the ledger has recorded since."""
    floor = int(place.clock.now().timestamp() * 1000)
    with Registry.open(database) as registry:
        cas = registry.authorities()
        if ROOT not in cas and not any(record.status == CaStatus.PENDING for record in cas.values()):
            raise FormatError("identity.backup.format", "the backup's registry knows no CA", where=str(database))
        with registry.transaction():
            for name, record in cas.items():
                if record.key:  # the number of an offline root's list is not ours to give
                    registry.raise_crl_number(name, floor)
        result.same_ledger = manifest.origin == place.origin
        if result.same_ledger:
            for event in place.since(manifest.ledger_size):
                _apply(registry, event, result, place.shards)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _apply(registry: Registry, event: Event, result: Restored, shards: int) -> None:
    data = event.data
    issuer, serial = str(data.get("issuer", "")), str(data.get("serial", ""))
    if event.kind in {"certificate.issued", "certificate.renewed", "ca.certified"}:
        row = _lost(event, shards)
        if row is None or registry.certificate(row.issuer, row.serial) is not None:
            return
        result.unknown.append(row.serial)
        if row.issuer in registry.authorities():
            with registry.transaction():
                registry.reserve(row)
    elif event.kind == "certificate.revoked":
        row = registry.certificate(issuer, serial)
        if row is None or row.status in {Status.REVOKED, Status.RESERVED, Status.VOID}:
            return
        since = data.get("invalid_since")
        entry = (row, str(data.get("crl_reason", "unspecified")), str(since) if since else None, event.id)
        at = datetime.fromisoformat(str(data["since"])) if "since" in data else event.time
        with registry.transaction():
            registry.revoke([entry], at, registry.next_revocation())
        result.revoked.append(serial)
    elif event.kind == "ca.retired":
        record = registry.authorities().get(event.subject)
        if record is not None and record.status in {CaStatus.CURRENT, CaStatus.RETIRING}:
            with registry.transaction():
                registry.set_authority(msgspec.structs.replace(record, status=CaStatus.RETIRED))
            result.retired.append(event.subject)


def _lost(event: Event, shards: int) -> CertificateRecord | None:
    """What the ledger says of a certificate, as a row that can be revoked but never delivered."""
    data = event.data
    serial = str(data.get("serial", ""))
    if not _SERIAL.fullmatch(serial) or "not_after" not in data:
        return None
    ca = event.kind == "ca.certified"
    purpose = CA_PROFILE if ca else str(data.get("purpose", ""))
    sharded = shards if not ca and purpose != Purpose.OCSP else 0
    return CertificateRecord(
        issuer=ROOT if ca else str(data.get("issuer", "")),
        serial=serial,
        holder=event.subject,
        device=None,
        profile=CA_PROFILE if ca else str(data.get("profile", "")),
        purpose=purpose,
        status=Status.SUPERSEDED,
        not_before=rfc3339(event.time),
        not_after=str(data["not_after"]),
        spki=str(data.get("key_sha256", "")),
        key="",
        event=event.id,
        certificate=b"",
        shard=shard_of(int(serial, 16), sharded),
    )


def _event(place: Place, result: Restored) -> Event:
    return Event(
        id=new_event_id(),
        kind="ca.restored",
        time=place.clock.now(),
        actor=place.actor,
        subject=result.origin,
        data={
            "backup_of": result.created,
            "files": result.files,
            "revoked_since": len(result.revoked),
            "unknown_since": len(result.unknown),
        },
    )
