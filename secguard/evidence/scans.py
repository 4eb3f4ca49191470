"""Isolation scans for a bundle: which were in force, and what of them is put in.

In force is the last scan that the log recorded before a time. What a folder holds decides nothing: where the result of
that very scan is not kept any more, the bundle says so, with the receipts that prove it.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509

from secguard.core import RefusedError, SecguardError, TimeSource, UsageError, parse_time, rfc3339
from secguard.events import Assurance, Event
from secguard.evidence.archive import Source
from secguard.evidence.custody import SCANNED, Custody
from secguard.evidence.manifest import InForce, ListedScan
from secguard.isolation.evidence.handout import RESULT, Handout, judged_at, read_handout
from secguard.ledger import Ledger
from secguard.trust import Purpose, TrustPolicy, chain_pem
from secguard.video import VideoVerdict

__all__ = ["PLACE", "STARTED", "FoundScan", "KeptScans", "ended_at", "in_force", "own_scan", "scan_members"]

PLACE = "isolation/"
STARTED = "scan.started"
_NEAR = 32
"""Kept folders, nearest in time first, among which a recorded result is looked for."""
_MAX_BACK = 1000
"""Scans that are passed over because they were labs, before one is given up."""
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class KeptScans:
    """Where a site keeps its scans.

    Attributes:
        folder: holds a folder a scan.
        every: how often it scans, by its schedule (`24h`); empty without one.
    """

    folder: Path
    every: str = ""


@dataclass(frozen=True, slots=True)
class FoundScan:
    """A scan that goes into a bundle: how it is listed, its acts, and its files."""

    listed: ListedScan
    acts: tuple[Custody, Custody]
    files: tuple[Source, ...]


def ended_at(video: VideoVerdict | None, signed: datetime | None, exported: datetime) -> datetime:
    """When a recording ended: by its manifest or clip record, else when it was signed; never after the export."""
    said = ""
    if video is not None and video.clip is not None:
        said = video.clip.record.end
    elif video is not None and video.manifest is not None:
        said = video.manifest.manifest.end
    with contextlib.suppress(UsageError):
        return min(parse_time(said), exported)
    return min(signed or exported, exported)


def scan_members(entry: int) -> tuple[str, str, str, str]:
    """Names of a scan's files in the bundle: result, list of files, signer, and the signer's certificates, if any."""
    folder = f"{PLACE}{entry:012}"
    return f"{folder}/{RESULT}", f"{folder}/manifest.json", f"{folder}/signer.pem", f"{folder}/chain.pem"


def in_force(
    ledger: Ledger,
    scans: Sequence[tuple[int, datetime]],
    kept: KeptScans,
    *,
    ended: datetime,
    exported: datetime,
    trust: TrustPolicy,
    operator: Sequence[x509.Certificate] = (),
) -> list[FoundScan]:
    """The last scans before a recording ended and before it is exported: two, one for both, or none.

    Args:
        ledger: the site's log.
        scans: (entry, time) of each `scan.finished` in it.
        kept: the site's scans.
        ended: when the recording ended.
        exported: when it is exported.
        trust: a signer's certificates are put in where these roots certify them; the log vouches either way.
        operator: the chain of the bundle's operator, which is in the bundle already.
    """
    last: dict[int, tuple[list[InForce], tuple[Custody, Custody]]] = {}
    times: tuple[tuple[InForce, datetime], ...] = (("recording", ended), ("export", exported))
    for name, until in times:
        acts = _last(ledger, scans, until)
        if acts is not None:
            last.setdefault(acts[1].index, ([], acts))[0].append(name)
    return [_found(acts, tuple(names), kept, trust, operator) for _, (names, acts) in sorted(last.items())]


def _last(ledger: Ledger, scans: Sequence[tuple[int, datetime]], until: datetime) -> tuple[Custody, Custody] | None:
    before = (entry for entry, time in reversed(scans) if time <= until)
    for _, entry in zip(range(_MAX_BACK), before, strict=False):
        if (acts := _acts(ledger, entry)) is not None:
            return acts
    return None


def _acts(ledger: Ledger, entry: int) -> tuple[Custody, Custody] | None:
    """Start and end of a scan of the site's own; None for a lab, or for what somebody claims elsewhere."""
    try:
        ended = ledger.event(entry)
        at = ledger.find(str(ended.data.get("act", "")))
        began = ledger.event(at) if at is not None else None
    except RefusedError:  # deleted by retention meanwhile
        return None
    if at is None or began is None or not own_scan(began, ended):
        return None
    return Custody(at, began), Custody(entry, ended)


def own_scan(began: Event, ended: Event) -> bool:
    """Whether two acts are start and end of one scan of a site's zones, recorded by the site itself, and of no lab."""
    return (
        (began.kind, ended.kind) == (STARTED, SCANNED)
        and ended.data.get("act") == began.id
        and began.subject == ended.subject
        and began.subject.startswith("sha256:")
        and "lab" not in began.data
        and Assurance.CLAIMED not in (began.actor.assurance, ended.actor.assurance)
        and _DIGEST.fullmatch(str(ended.data.get("result_sha256"))) is not None
    )


def _found(
    acts: tuple[Custody, Custody],
    names: tuple[InForce, ...],
    kept: KeptScans,
    trust: TrustPolicy,
    operator: Sequence[x509.Certificate],
) -> FoundScan:
    began, ended = acts
    digest = str(ended.event.data.get("result_sha256", ""))
    made = _handout(kept.folder, digest, ended.event.time)
    listed = ListedScan(
        in_force=names,
        started=began.index,
        finished=ended.index,
        recorded=rfc3339(ended.event.time),
        outcome=_outcome(ended.event),
        result_sha256=digest,
        kept=made is not None,
    )
    files: list[Source] = []
    if made is not None:
        *paths, chain = scan_members(ended.index)
        files = [Source.of(*pair) for pair in zip(paths, (made.result, made.files, made.signer), strict=True)]
        if _wanted(made.chain, ended.event.time, trust, operator):
            files.append(Source.of(chain, chain_pem(made.chain)))
    return FoundScan(listed, acts, tuple(files))


def _wanted(
    chain: Sequence[x509.Certificate], at: datetime, trust: TrustPolicy, operator: Sequence[x509.Certificate]
) -> bool:
    if not chain or list(chain) == list(operator):
        return False
    return trust.judge_chain(chain, Purpose.OPERATOR, at, source=TimeSource.LEDGER).believed


def _outcome(event: Event) -> Literal["pass", "fail", "unknown"]:
    said = event.data.get("outcome")
    return said if said in ("pass", "fail") else "unknown"


def _handout(folder: Path, digest: str, recorded: datetime) -> Handout | None:
    """The kept scan whose result has this SHA-256; None if it is not kept, or not as it was."""
    with contextlib.suppress(SecguardError, OSError):
        for place in _nearest(folder, recorded):
            path = place / RESULT
            if path.is_symlink() or not path.is_file():
                continue
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                    return read_handout(place)
    return None


def _nearest(folder: Path, recorded: datetime) -> list[Path]:
    """The folders of scans, those first that were judged closest to a time."""

    def dated() -> Iterator[tuple[timedelta, Path]]:
        for place in folder.iterdir():
            with contextlib.suppress(ValueError):
                yield abs(judged_at(place.name) - recorded), place

    return [place for _, place in sorted(dated())[:_NEAR]] if folder.is_dir() else []
