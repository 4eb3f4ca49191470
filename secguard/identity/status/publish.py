"""Publishing revocation lists: of each CA the full one, and the shards that its certificates point to.

Order of steps: events of revocations that the ledger lacks are recorded -> the list's number is committed -> signed ->
recorded -> its file is replaced -> the registry remembers it. A crash in between leaves a list that is due, and the
next run publishes it.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from secguard.core import Progress, SecguardError, rfc3339, silent
from secguard.core.files import translate_os_error
from secguard.events import Event
from secguard.identity.certificate import ROOT, crl_file
from secguard.identity.issuing.deliver import make_folder
from secguard.identity.lock import exclusive
from secguard.identity.registry.revocations import CrlState
from secguard.identity.site import Site
from secguard.identity.status.crl import build_crl, collect
from secguard.store import atomic_write
from secguard.trust import read_crls

__all__ = ["Published", "overdue", "publish", "publish_locked", "record_waiting"]

_ROOT_DAYS = 365
_EVENTS = 4096


@dataclass(frozen=True, slots=True)
class Published:
    """A list as it stands.

    Attributes:
        issuer: name of the CA.
        shard: number of the shard; -1: the full list.
        path: the file, DER.
        state: number, times, entries.
        new: it was published just now.
    """

    issuer: str
    shard: int
    path: Path
    state: CrlState
    new: bool


def record_waiting(site: Site) -> None:
    """Record the events of revocations that a crash, or a ledger that refused, kept back. The site's lock is held.

    Raises:
        RefusedError: recording failed.
    """
    while waiting := site.registry.outbox()[:_EVENTS]:
        site.record([msgspec.json.decode(data, type=Event) for _, data in waiting])
        with site.registry.transaction():
            site.registry.clear_outbox(name for name, _ in waiting)


def publish(site: Site, *, every: bool = False, progress: Progress = silent) -> list[Published]:
    """Sign and publish the lists that changed, are missing, or have lived half their time.

    A CA whose key cannot be opened does not keep the others' lists back.

    Args:
        site: the site's CAs.
        every: publish all lists, their entries encoded anew from the certificates.
        progress: told of lists.

    Returns:
        All lists of the site, also those that were brought from where their CA's key is.

    Raises:
        UsageError: a wrong passphrase.
        RefusedError: recording failed; the old lists stand. Or the registry is damaged.
        SystemPartError: a write failed.
    """
    with exclusive(site.lock):
        return publish_locked(site, every=every, progress=progress)


def publish_locked(
    site: Site, names: Collection[str] | None = None, *, every: bool = False, progress: Progress = silent
) -> list[Published]:
    """`publish` for a caller that holds the site's lock; `names` narrows it to some CAs."""
    record_waiting(site)
    chosen = [name for name in site.signing if names is None or name in names]
    due = {name: list(_due(site, name, every=every)) for name in chosen}
    total, done = sum(map(len, due.values())), 0
    failures: list[SecguardError] = []
    for name, shards in due.items():
        try:
            if shards:
                _publish(site, name, shards, anew=every)
        except SecguardError as error:
            failures.append(error)
        done += len(shards)
        progress(done, total, "lists")
    if failures:
        raise failures[0]
    found = []
    for name in chosen:
        states = site.registry.crl_states(name)
        for shard in _shards(site, name):
            path = _file(site, name, shard)
            found.append(Published(name, shard, path, states[shard], shard in due[name]))
    return found + [
        _brought(site, name) for name in site.cas if name not in site.signing and _file(site, name).exists()
    ]


def _file(site: Site, name: str, shard: int = -1) -> Path:
    return site.crl_folder / crl_file(name, shard)


def _brought(site: Site, name: str) -> Published:
    """A list that was brought from where the CA's key is."""
    path = _file(site, name)
    (crl,) = read_crls([path])
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        number = 0
    end = rfc3339(crl.next_update_utc) if crl.next_update_utc else ""
    return Published(
        name, -1, path, CrlState(number, rfc3339(crl.last_update_utc), end, len(crl), 0, "", ""), new=False
    )


def overdue(site: Site) -> list[str]:
    """Names of the files that should be published again; empty when all lists are as they should be."""
    return [crl_file(name, shard) for name in site.signing for shard in _due(site, name, every=False)]


def _shards(site: Site, name: str) -> list[int]:
    """The lists of a CA: the full one, those of the configuration, those that certificates name, and all there were."""
    if name == ROOT or not site.config.crl_url:  # a list that no certificate names has no distribution point
        return [-1]
    known = {shard for shard in site.registry.crl_states(name) if shard >= 0}
    return [-1, *sorted(known.union(range(site.config.crl_shards), site.registry.shards(name)))]


def _url(site: Site, name: str, shard: int) -> str:
    return f"{site.config.crl_url.rstrip('/')}/{crl_file(name, shard)}"


def _due(site: Site, name: str, *, every: bool) -> Iterator[int]:
    """The lists of a CA that are to be published."""
    now = site.clock.now()
    states = site.registry.crl_states(name)
    for shard in _shards(site, name):
        state = states.get(shard)
        if (
            every
            or state is None
            or (state.entries, state.last) != site.registry.revoked_count(name, shard)
            or not _young(state, now)
            or (shard >= 0 and _url(site, name, shard) not in state.urls.split())
            or not _stands(_file(site, name, shard), state.sha256)
        ):
            yield shard


def _young(state: CrlState, now: datetime) -> bool:
    """Tell whether a list has not lived half its time; one from the future was made by a wrong clock."""
    start, end = datetime.fromisoformat(state.this_update), datetime.fromisoformat(state.next_update)
    return start <= now < start + (end - start) / 2


def _stands(path: Path, sha256: str) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return False


def _publish(site: Site, name: str, shards: list[int], *, anew: bool) -> None:
    registry, signer = site.registry, site.signer(name)
    start = site.clock.now().replace(microsecond=0)
    end = start + timedelta(days=_ROOT_DAYS if name == ROOT else site.config.crl_days)
    states = registry.crl_states(name)
    with registry.transaction():
        number = registry.next_crl_number(name)
        entries = {shard: collect(registry, name, shard, anew=anew) for shard in shards}
    made: dict[int, tuple[bytes, CrlState]] = {}
    for shard, found in entries.items():
        urls: list[str] = []
        if shard >= 0:
            before = states[shard].urls.split() if shard in states else []
            urls = list(dict.fromkeys([_url(site, name, shard), *before]))
        data = build_crl(
            site.certificates[name],
            signer,
            found.der,
            number=number,
            this_update=start,
            next_update=end,
            urls=urls,
        )
        digest = hashlib.sha256(data).hexdigest()
        state = CrlState(number, rfc3339(start), rfc3339(end), found.count, found.last, digest, " ".join(urls))
        made[shard] = data, state
    site.record([_event(site, name, shard, state) for shard, (_, state) in made.items()])
    make_folder(site.crl_folder)
    for shard, (data, _) in made.items():
        _write(_file(site, name, shard), data)
    with registry.transaction():
        for shard, (_, state) in made.items():
            registry.set_crl_state(name, shard, state)


def _write(path: Path, data: bytes) -> None:
    atomic_write(path, data)
    try:  # what a killed run left
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise translate_os_error(error, path) from error


def _event(site: Site, name: str, shard: int, state: CrlState) -> Event:
    place: dict[str, Any] = {"shard": shard} if shard >= 0 else {}
    return site.event(
        "crl.published",
        name,
        number=state.number,
        revoked=state.entries,
        sha256=state.sha256,
        next_update=state.next_update,
        **place,
    )
