"""Certificates for many devices: from a list to a folder of files, in worker processes, to be stopped at any point.

A portion of the list goes through three hands. A worker makes the keys and puts them, encrypted, on the disk
(`parcel.prepare`); this process certifies them in one batch (`certify`: reserve, sign, store, record, activate); a
worker delivers (`parcel.deliver`). What is done is read from the deliveries, the registry and the ledger, so there are
no books that a crash could falsify: the next run over the same list finds each device delivered, or certified with its
key still kept, or not begun, and goes on from there.
"""

import hashlib
import io
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import RefusedError, SecguardError
from secguard.core.files import atomic_write
from secguard.core.progress import Progress, silent
from secguard.identity.issuing.certify import certify, open_issuers
from secguard.identity.issuing.crew import Crew
from secguard.identity.issuing.folder import JobFolder
from secguard.identity.issuing.listing import read_listing
from secguard.identity.issuing.order import Certified, Order
from secguard.identity.issuing.parcel import Made, Piece, Wanted, deliver, prepare, settle
from secguard.identity.issuing.wishes import Device, Refusal, Setting, wishes
from secguard.identity.records import Status
from secguard.identity.site import Site
from secguard.report.tables import write_csv

__all__ = ["PORTION", "SETTLE", "Provisioned", "Refusal", "Setting", "provision"]

PORTION = 250
"""Devices that are certified and delivered in one step."""
SETTLE = 20
"""Portions for which the disk is waited for at once."""
_ALONE = 50
"""Devices for which no worker process is started."""


@dataclass(slots=True)
class Provisioned:
    """What a run did.

    Attributes:
        devices: in the list.
        delivered: devices whose certificates were delivered now.
        again: devices that had been delivered by an earlier run.
        certificates: certificates that were delivered now.
        issued: of them, those that did not exist before.
        refused: what was not done, and why.
        seconds: time taken.
        error_file: where `refused` is written; None if there are none.
        passphrase_file: holds the passphrase of the delivered keys; None if it is the user's, or no key was made.
        notes: for people.
    """

    devices: int = 0
    delivered: int = 0
    again: int = 0
    certificates: int = 0
    issued: int = 0
    refused: list[Refusal] = field(default_factory=list)
    seconds: float = 0.0
    error_file: Path | None = None
    passphrase_file: Path | None = None
    notes: list[str] = field(default_factory=list)


def provision(site: Site, source: Path, setting: Setting, progress: Progress = silent) -> Provisioned:
    """Certify and deliver what a list names; running it again over the same list goes on where it stopped.

    Args:
        site: the site's CAs.
        source: the list; see `listing`.
        setting: how.
        progress: told the devices that are done.

    Raises:
        UsageError: no such file, an unknown profile or encoding, a wrong passphrase, nothing to resume.
        FormatError: the file is no list; nothing was made.
        RefusedError: the folder belongs to another list, another run works in it, or the ledger refuses.
        SystemPartError: a write failed, or a worker died; run again to go on.
        KeyboardInterrupt: stopped; run again to go on.
    """
    began = time.monotonic()
    listing = read_listing(source, setting.encoding)
    done = Provisioned()
    with site.still():
        devices, done.refused = wishes(site, listing, setting)
    done.devices = len({line.gbid for line in listing.lines})
    if listing.ignored:
        done.notes.append(f"columns that were not read: {', '.join(listing.ignored[:20])}")
    if setting.dry_run:
        done.seconds = time.monotonic() - began
        return done
    open_issuers(site, {issuer for device in devices for issuer in device.issuers})
    with JobFolder.open(setting, listing) as folder:
        made_keys = any(csr is None for device in devices for _, csr in device.wanted)
        if made_keys and setting.passphrase is None:
            done.passphrase_file = folder.passphrase_file
        facts = {"sha256": listing.sha256, "devices": done.devices, "format": setting.format}
        with site.act("provision", listing.name[:64] or "list", **facts) as closing:
            try:
                with site.registry.bulk():
                    _run(site, folder, devices, done, setting, progress)
            finally:
                closing |= {"delivered": done.delivered, "issued": done.issued, "refused": len(done.refused)}
        done.error_file = _write_refused(folder.refused_file, done.refused)
        folder.clear()
    done.seconds = time.monotonic() - began
    return done


def _run(  # noqa: PLR0917 - the parts of one run
    site: Site, folder: JobFolder, devices: Sequence[Device], done: Provisioned, setting: Setting, progress: Progress
) -> None:
    portions: dict[int, list[Device]] = {}
    for device in devices:
        portions.setdefault(device.number // PORTION, []).append(device)
    atomic_write(folder.path / "ca.pem", site.root.public_bytes(Encoding.PEM))
    size = setting.jobs if len(devices) > _ALONE and setting.jobs > 1 else 0
    finished = 0
    progress(0, len(devices), "devices")
    waiting, deliveries, unsettled = deque(portions), deque[tuple[int, list[Piece]]](), list[int]()
    crew = Crew(size, folder.kit(site))
    try:
        with _interrupts() as stopped:
            while waiting or deliveries or unsettled or crew.busy:
                while crew.ready:
                    if deliveries:
                        portion, pieces = deliveries.popleft()
                        crew.submit(("deliver", portion), deliver, portion, pieces)
                    elif waiting and len(portions) - len(waiting) < 2 * size + 2:
                        portion = waiting.popleft()
                        wanted = [Wanted(one.gbid, *want) for one in portions[portion] for want in one.wanted]
                        crew.submit(("prepare", portion), prepare, portion, wanted)
                    elif len(unsettled) >= SETTLE or (unsettled and not portions):
                        crew.submit(("settle", -1), settle, unsettled)
                        unsettled = []
                    else:
                        break
                for (step, portion), value in crew.results(seconds=0.2):
                    if stopped():
                        raise KeyboardInterrupt
                    pieces = _certify(site, portions[portion], value, done, setting) if step == "prepare" else []
                    if pieces:
                        deliveries.append((portion, pieces))
                    elif step != "settle":
                        unsettled.append(portion)
                        finished += len(portions.pop(portion))
                        progress(finished, len(devices), "devices")
                if stopped():
                    raise KeyboardInterrupt
    finally:
        crew.close()


@contextmanager
def _interrupts() -> Iterator["_Stopped"]:
    """Let SIGINT wait until a portion is through; the second one does not wait."""
    stopped = _Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.getsignal(signal.SIGINT)

    def note(_number: int, _frame: FrameType | None) -> None:
        stopped.value = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(slots=True)
class _Stopped:
    value: bool = False

    def __call__(self) -> bool:
        return self.value


def _certify(
    site: Site, devices: Sequence[Device], made: Sequence[Made | SecguardError], done: Provisioned, setting: Setting
) -> list[Piece]:
    """Certify a portion's keys; returns what is to be delivered."""
    places = [(device, *want) for device in devices for want in device.wanted]
    problems: dict[str, bool] = {}
    orders: list[Order] = []
    ordered: list[tuple[Device, str, bytes | None]] = []
    held = _active(site, devices) if any(isinstance(one, Made) and one.delivered for one in made) else {}
    for (device, profile, csr), one in zip(places, made, strict=True):
        if isinstance(one, SecguardError):
            done.refused.append(device.refusal(profile, one))
            problems[device.gbid] = True
        elif one.delivered:
            if held.get((device.gbid, profile)) != one.delivered:
                done.refused.append(device.refusal(profile, _another(device.gbid)))
                problems[device.gbid] = True
        else:
            orders.append(_order(site, device, profile, csr, one.spki, replace=setting.replace))
            ordered.append((device, profile, csr))
    pieces: list[Piece] = []
    for (device, profile, csr), answer in zip(ordered, certify(site, orders) if orders else [], strict=True):
        if isinstance(answer, Certified):
            done.issued += answer.new
            pieces.append(Piece(device.gbid, profile, answer.certificate, answer.record.issuer, csr is not None))
        else:
            done.refused.append(device.refusal(profile, answer))
            problems[device.gbid] = True
    site.receipts = site.receipts[-1:]
    now = {piece.gbid for piece in pieces}
    done.certificates += len(pieces)
    done.delivered += len(now)
    done.again += sum(device.gbid not in now and device.gbid not in problems for device in devices)
    return pieces


def _order(site: Site, device: Device, profile: str, csr: bytes | None, spki: bytes, *, replace: bool) -> Order:
    # The worker has checked the proof of possession; only a profile that takes names from it needs the request again.
    named = csr if csr is not None and site.profiles[profile].from_request else None
    return Order(
        device.gbid,
        profile,
        csr=named,
        spki=spki if named is None else b"",
        name=device.name,
        vendor_serial=device.vendor_serial,
        replace=replace,
    )


def _active(site: Site, devices: Sequence[Device]) -> dict[tuple[str, str], str]:
    """SHA-256 of the certificates in force, by device and profile."""
    return {
        (row.holder, row.profile): hashlib.sha256(row.certificate or b"").hexdigest()
        for row in site.registry.standing(device.gbid for device in devices)
        if row.status == Status.ACTIVE
    }


def _another(gbid: str) -> RefusedError:
    return RefusedError(
        "identity.provision.delivered",
        f"the certificate delivered to {gbid} is not the one in force",
        hint="it was revoked or renewed since; move its files away and run again",
    )


def _write_refused(path: Path, refused: Sequence[Refusal]) -> Path | None:
    """The error file: a line a refusal, safe to open in a spreadsheet."""
    if not refused:
        path.unlink(missing_ok=True)
        return None
    stream = io.StringIO(newline="")
    rows = sorted(refused, key=lambda one: (one.line, one.profile))
    columns = ("line", "gbid", "profile", "code", "reason", "hint")
    write_csv(stream, columns, [[getattr(row, column) for column in columns] for row in rows])
    atomic_write(path, b"\xef\xbb\xbf" + stream.getvalue().encode())
    return path
