"""Renewing in bulk: what is chosen, what can be renewed here, and the renewing itself, in batches.

A certificate is due after two thirds of its life. Those that end on one day were often issued on one day; so that they
do not stay together for ever, each has its own moment within the sixth of its life after that (`due_at`), which only
its holder's name decides. A run that is broken off is taken up by the next: what was renewed is no longer due, and what
was renewed but not delivered is delivered.
"""

import difflib
import hashlib
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from secguard.core import Progress, SecguardError, Throttle, UsageError, rfc3339, silent
from secguard.gbid import GbId
from secguard.identity.certificate import Validity
from secguard.identity.issuing.certify import certify_locked
from secguard.identity.issuing.deliver import Bundle, file_name, make_folder
from secguard.identity.issuing.order import Order
from secguard.identity.lock import exclusive
from secguard.identity.profiles import Holder
from secguard.identity.records import CertificateRecord, Status
from secguard.identity.registry import Registry
from secguard.identity.site import Site
from secguard.trust import chain_pem

__all__ = ["Chosen", "Renewals", "check_area", "check_profile", "choose", "due_at", "renew_chosen"]

_BATCH = 200
_GAIN = timedelta(days=1)
"""A renewal that gains less is none: its issuing CA ends first."""
_LATELY = timedelta(days=7)
_KEY_SUFFIX = ".key.pem"
_AREA = re.compile(r"[0-9]{2,8}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """An active certificate that is to be renewed, without its bytes: there may be a hundred thousand of them.

    Attributes:
        holder: see `CertificateRecord`, as the rest.
        profile: its profile.
        issuer: its CA.
        serial: its serial number.
        not_after: its end, RFC 3339.
        key: reference of the key; empty if the device keeps it.
    """

    holder: str
    profile: str
    issuer: str
    serial: str
    not_after: str
    key: str


@dataclass(slots=True)
class Renewals:
    """What became of a run.

    Attributes:
        renewed: certified and delivered.
        delivered: certified by an earlier run that was broken off, delivered now.
        in_device: their key is in the device, which renews by EST.
        held_back: a renewal would not last longer, because the issuing CA ends.
        failed: what could not be renewed, and why.
    """

    renewed: list[CertificateRecord] = field(default_factory=list)
    delivered: list[CertificateRecord] = field(default_factory=list)
    in_device: list[Chosen] = field(default_factory=list)
    held_back: list[Chosen] = field(default_factory=list)
    failed: list[tuple[Chosen, SecguardError]] = field(default_factory=list)


def check_profile(profile: str, known: Collection[str], registry: Registry) -> None:
    """Check the profile that was asked for; empty means all.

    Raises:
        UsageError: `identity.profile.unknown`: neither a profile nor a certificate has this name. A timer with a
            misspelt name would else renew nothing, for ever, and say that all is well.
    """
    if not profile or profile in known or any(row.profile == profile for row in registry.certificates()):
        return
    near = difflib.get_close_matches(profile, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"
    raise UsageError("identity.profile.unknown", f"no profile {profile[:40]!r}", hint=hint)


def check_area(area: str) -> str:
    """Check the start of device IDs.

    Raises:
        UsageError: it is none.
    """
    if area and not _AREA.fullmatch(area):
        raise UsageError("identity.area.format", f"{area[:20]!r} is no area code", hint="2 to 8 digits, such as 320116")
    return area


def due_at(record: CertificateRecord) -> datetime:
    """When a certificate is due for renewal: between two thirds and five sixths of its life, by its holder's name."""
    start, end = datetime.fromisoformat(record.not_before), datetime.fromisoformat(record.not_after)
    digest = hashlib.sha256(f"{record.holder}\n{record.profile}".encode()).digest()
    share = int.from_bytes(digest[:4]) / (1 << 32)
    return start + (end - start) * (2 / 3 + share / 6)


def choose(
    registry: Registry, now: datetime, *, days: int | None = None, profile: str = "", area: str = ""
) -> list[Chosen]:
    """Active certificates that end within `days`, or are due (None), soonest first; those that have ended too.

    Args:
        registry: the registry.
        now: the time, aware.
        days: within so many days; None: by `due_at`.
        profile: only this profile.
        area: only devices whose ID begins so.
    """
    # Nobody's certificate lives longer than ten years (`Profile.days`); two thirds of that lie behind it when due.
    before = now + timedelta(days=days if days is not None else 3660)
    return [
        _chosen(item)
        for item in registry.expiring(before, bare=True)
        if profile in {"", item.profile}
        and (not area or (item.device or "").startswith(area))
        and (days is not None or due_at(item) <= now)
    ]


def renew_chosen(
    site: Site, chosen: Sequence[Chosen], *, folder: Path | None = None, jobs: int = 4, progress: Progress = silent
) -> Renewals:
    """Certify the keys of certificates again and deliver them, all whose key is here, batch by batch.

    Args:
        site: the site's CAs.
        chosen: from `choose`.
        folder: where certificates over keys in devices go, a folder each, for somebody to put them there; None: such
            devices renew by themselves.
        jobs: threads that write files.
        progress: called with the number of certificates done.

    Raises:
        UsageError: no or a wrong passphrase.
        RefusedError: the ledger refuses.
        SystemPartError: the registry cannot be written, or another process holds the lock for too long.
    """
    at = site.clock.now()
    done = Renewals()
    here: list[Chosen] = []
    for item in chosen:
        if not item.key or (item.key.startswith("file:") and not _key_file(site, item.key).exists()):
            if folder is None:
                done.in_device.append(item)
            elif _gains(site, item, at, done):
                here.append(item)
        elif not item.key.startswith("file:"):
            error = UsageError(
                "identity.key.token", "its key is in a token", hint=f"secguard identity renew {item.holder}"
            )
            done.failed.append((item, error))
        elif _gains(site, item, at, done):
            here.append(item)
    tick = Throttle(progress)
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        _complete(site, done, pool, folder)
        for start in range(0, len(here), _BATCH):
            batch = here[start : start + _BATCH]
            with exclusive(site.lock):
                _renew_batch(site, batch, done, pool, folder)
            tick(start + len(batch), len(here), "certificates")
    return done


def _gains(site: Site, item: Chosen, now: datetime, done: Renewals) -> bool:
    """Tell whether a renewal would last longer; keep it otherwise, or what forbids it."""
    try:
        issuer = _issuer(site, item)
        days = site.profiles[item.profile].days
    except KeyError:
        error: SecguardError = UsageError(
            "identity.profile.unknown", f"no profile {item.profile!r}", where=str(site.certs)
        )
        done.failed.append((item, error))
        return False
    except SecguardError as failure:
        done.failed.append((item, failure))
        return False
    validity = Validity.starting(now, days, within=site.certificates[issuer])
    if (
        validity.not_after < datetime.fromisoformat(item.not_after) + _GAIN
        and validity.not_after < now + timedelta(days=days) - _GAIN
    ):
        done.held_back.append(item)
        return False
    return True


def _issuer(site: Site, item: Chosen) -> str:
    profile = site.profiles[item.profile]
    gbid = GbId.parse(item.holder) if profile.holder is Holder.DEVICE else None
    return site.issuer(profile.purpose, gbid)


def _renew_batch(
    site: Site, batch: Sequence[Chosen], done: Renewals, pool: ThreadPoolExecutor, folder: Path | None
) -> None:
    """Renew a batch; the site's lock is held, so nobody else renews the same."""
    items, orders = [], []
    for item in batch:
        active = site.registry.active(item.holder, item.profile)
        if active is None or active.serial != item.serial:
            continue  # renewed or revoked since it was chosen
        items.append(item)
        orders.append(Order(item.holder, item.profile, public=active.x509().public_key(), key=active.key, renewal=True))
    fresh = []
    for item, answer in zip(items, certify_locked(site, orders), strict=True):
        if isinstance(answer, SecguardError):
            done.failed.append((item, answer))
        else:
            fresh.append((item, answer.record))
    for (item, record), error in zip(fresh, pool.map(lambda pair: _deliver(site, pair[1], folder), fresh), strict=True):
        if error is not None:
            done.failed.append((item, error))
        else:
            done.renewed.append(record)


def _complete(site: Site, done: Renewals, pool: ThreadPoolExecutor, folder: Path | None) -> None:
    """Deliver what an earlier run certified and did not deliver: the files beside the key are another certificate's.

    Of a key in its device, a certificate that was renewed lately and is not in the folder counts as not delivered.
    """
    lately = rfc3339(site.clock.now() - _LATELY)
    stale = []
    with exclusive(site.lock):
        for record in site.registry.expiring(datetime.max.replace(tzinfo=UTC)):
            bundle = _bundle(site, record, folder)
            if bundle is None:
                continue
            if not bundle.chain.exists():
                at_device = folder is not None and bundle.folder.parent == folder
                if at_device and record.not_before > lately and _renewed(site, record):
                    stale.append(record)
                continue
            if bundle.chain.read_bytes() != chain_pem([record.x509(), site.certificates[record.issuer]]):
                stale.append(record)
        for record, error in zip(stale, pool.map(lambda item: _deliver(site, item, folder), stale), strict=True):
            if error is None:
                done.delivered.append(record)
            else:
                done.failed.append((_chosen(record), error))


def _key_file(site: Site, reference: str) -> Path:
    return Path(site.locate(reference).removeprefix("file:"))


def _renewed(site: Site, record: CertificateRecord) -> bool:
    return any(row.status == Status.SUPERSEDED for row in site.registry.with_key(record.spki))


def _bundle(site: Site, record: CertificateRecord, folder: Path | None) -> Bundle | None:
    """Where the files of a certificate go: beside its key, or below `folder` for a key in its device; None: nowhere."""
    path = _key_file(site, record.key) if record.key.startswith("file:") else None
    if path is not None and path.exists():
        return Bundle(path.parent, path.name.removesuffix(_KEY_SUFFIX)) if path.name.endswith(_KEY_SUFFIX) else None
    if folder is None or record.key.startswith("pkcs11:"):
        return None
    name = file_name(record.holder)
    return Bundle(folder / name, f"{name}.{record.profile}")


def _chosen(item: CertificateRecord) -> Chosen:
    return Chosen(item.holder, item.profile, item.issuer, item.serial, item.not_after, item.key)


def _deliver(site: Site, record: CertificateRecord, folder: Path | None) -> SecguardError | None:
    bundle = _bundle(site, record, folder)
    if bundle is None:
        return UsageError("identity.key.name", f"its key's file does not end in {_KEY_SUFFIX}", where=record.key)
    try:
        make_folder(bundle.folder)
        bundle.write(record.x509(), site.certificates[record.issuer], site.root)
    except SecguardError as error:
        return error
    return None
