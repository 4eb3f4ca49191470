"""A run's folder: written whole, with captures and signed manifest; read again, and everything in it checked anew.

`plan.json` and the observations hold the run's secret, so that the folder is 0700 and its files are 0600.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import Axis, Clock, SecguardError, SystemClock, UsageError, Verdict
from secguard.core import judge as conclude_verdict
from secguard.core.files import atomic_write, fsync_directory, translate_os_error
from secguard.core.findings import finding
from secguard.core.limits import read_bounded
from secguard.core.verdict import Finding
from secguard.isolation.evidence.captures import captures
from secguard.isolation.evidence.handout import (
    JUDGE,
    PLAN,
    RESULT,
    SIGNER,
    check_regular,
    read_key,
    scan_name,
    signer_of,
)
from secguard.isolation.evidence.manifest import MANIFEST, RunManifest, open_manifest, seal_manifest
from secguard.isolation.judge.result import open_result
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.keys import public_pem
from secguard.trust import MALFORMED, Purpose, TrustPolicy

__all__ = ["AXES", "Checked", "check_folder", "is_run", "judged", "run_name", "save_run", "scan_name", "signer_of"]

AXES = (Axis.INTEGRITY, Axis.PROVENANCE)
_MAX_FILE = 1 << 30
_SLICE = 1 << 20
_MAX_LISTED = 4096

Recorded = Callable[[str], str | None]
"""The ledger's word: plan digest -> SHA-256 of the result that was recorded for it, None if there is none."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a folder is worth.

    Attributes:
        verdict: integrity (every byte is what was signed, and the result follows from plan and observations) and
            provenance (whose key it is).
        result: the run, judged anew; None if its documents are refused.
    """

    verdict: Verdict
    result: RunResult | None


def run_name(result: RunResult) -> str:
    """`20261123T081500Z-1a2b3c4d`: when the run was judged, and the start of its ID."""
    return scan_name(result.verdict.at, result.plan.run)


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run's."""
    return (folder / PLAN).is_file() or (folder / MANIFEST).is_file()


def save_run(result: RunResult, folder: Path, *, fresh: bool = False) -> None:
    """Write a run: its signed documents, the captures of both ends, and the signed manifest, last.

    Args:
        result: a finished run.
        folder: is made, private.
        fresh: the folder must be new: it appears with everything in it, or not at all.

    Raises:
        SystemPartError: it cannot be written.
        UsageError: `fresh`, and it is there already.
    """
    files = {**result.envelopes, **captures(result.plan, result.observations, result.columns)}
    if result.signer is not None:
        pem = public_pem(result.signer.public_key())
        if pem != files.get(SIGNER):
            files[JUDGE] = pem
        files[MANIFEST] = seal_manifest(result.plan.run, result.digest, files, result.signer)
    try:
        with _beside(folder) if fresh else contextlib.nullcontext(folder) as place:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name, data in files.items():
                atomic_write(place / name, data, mode=0o600)
            if fresh:
                if folder.exists():
                    raise UsageError("isolation.folder.exists", "this run was kept before", where=str(folder))
                place.rename(folder)
                fsync_directory(folder.parent)
    except OSError as error:
        raise translate_os_error(error, folder) from error


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A place to write a folder in before it gets its name; what runs left there that were killed is removed.

    Whoever writes shares the lock, so that runs do not wait for each other; whoever holds it alone may remove.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = folder.with_name(f".{folder.name}.tmp")
    lock = os.open(folder.with_name(".saving.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.parent.glob(".*.tmp"):
                shutil.rmtree(left, ignore_errors=True)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def check_folder(
    folder: Path,
    *,
    trusted: Sequence[PublicKeyTypes] = (),
    recorded: Recorded = lambda _plan: None,
    anchors: TrustPolicy | None = None,
    clock: Clock | None = None,
    require: Sequence[Axis] = (),
) -> Checked:
    """Check everything in a run's folder, and judge the run anew.

    Args:
        folder: as `save_run` wrote it.
        trusted: keys that may have signed; without them provenance is the ledger's word.
        recorded: what the ledger says of a plan.
        anchors: whose certificate of an operator, carried in the plan, vouches for the key that signed.
        clock: the time of the verdict.
        require: narrows the axes that decide.

    Raises:
        UsageError: no run's folder.
    """
    if not is_run(folder):
        raise UsageError(
            "isolation.folder.none", "not the folder of a scan", hint=f"it has no {MANIFEST}", where=str(folder)
        )
    at = (clock or SystemClock()).now()
    found: list[Finding] = []
    result: RunResult | None = None
    digest = ""
    key: PublicKeyTypes | None = None
    try:
        check_regular(folder)
        key = signer_of(folder)
        manifest = open_manifest(read_bounded(folder / MANIFEST), key)
        digest = manifest.plan
        found += _files(folder, manifest)
        if not any(item.outcome == "fail" for item in found):
            # What is not as it was signed is not judged.
            result = judged(folder)
            found += _same(folder, result, key)
    except SecguardError as error:
        found.append(finding("isolation.evidence.refused", Path(error.where).name, message=error.message))
        key = None
    examined = {Axis.INTEGRITY}
    if key is not None:
        vouched = recorded(digest)
        if vouched is not None and _digest_of(folder / RESULT) != vouched:
            found.append(finding("isolation.evidence.ledger", RESULT, plan=digest))
        elif trusted and key not in trusted:
            found.append(finding("isolation.evidence.other-key", SIGNER))
        elif not trusted and vouched is None:
            found += _chain(result, key, anchors, at)
        examined.add(Axis.PROVENANCE)
    verdict = conclude_verdict(str(folder), at, examined=examined, findings=found, default=AXES, require=require)
    return Checked(verdict, result)


def _files(folder: Path, manifest: RunManifest) -> list[Finding]:
    found = []
    for item in manifest.files:
        path = folder / item.name
        try:
            size, digest = _hash(path)
        except FileNotFoundError:
            found.append(finding("isolation.evidence.missing", item.name, file=item.name))
            continue
        except OSError as error:
            found.append(finding("isolation.evidence.refused", item.name, message=f"cannot read: {error.strerror}"))
            continue
        if (size, digest) != (item.size, item.sha256):
            found.append(finding("isolation.evidence.changed", item.name, file=item.name))
    listed = {item.name for item in manifest.files} | {MANIFEST}
    others = [path.name for path in sorted(folder.iterdir()) if path.name not in listed]
    return found + [finding("isolation.evidence.unlisted", name, file=name) for name in others[:_MAX_LISTED]]


def _hash(path: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_SLICE):
            size += len(piece)
            digest.update(piece)
            if size > _MAX_FILE:
                break
    return size, digest.hexdigest()


def judged(folder: Path, require: Sequence[Axis] = ()) -> RunResult:
    """Judge the run of a folder from its documents; `check_folder` says whether they are what was signed.

    Raises:
        SecguardError: they are refused.
    """
    key = signer_of(folder)
    manifest = open_manifest(read_bounded(folder / MANIFEST), key)
    names = [item.name for item in manifest.files if item.name.startswith("observations-")]
    reports = [read_bounded(folder / name) for name in names]
    return conclude(read_bounded(folder / PLAN), reports, [read_key(folder / SIGNER)], require=require)


def _same(folder: Path, result: RunResult, key: PublicKeyTypes) -> list[Finding]:
    """Whether the signed result is what follows from plan and observations."""
    said = open_result(read_bounded(folder / RESULT), [key])
    findings = sorted((item.code, item.where, item.outcome) for item in said.findings)
    anew = sorted((item.code, item.where, item.outcome.value) for item in result.verdict.findings)
    verdict = result.verdict.outcome.value
    signed = (findings, said.outcome, said.plan, said.matrix, said.cases.get("result"))
    if signed != (anew, verdict, result.digest, result.matrix, result.columns["result"]):
        return [finding("isolation.evidence.result", RESULT, said=said.outcome, anew=verdict)]
    return []


def _digest_of(path: Path) -> str:
    with contextlib.suppress(OSError):
        return _hash(path)[1]
    return ""


def _chain(result: RunResult | None, key: PublicKeyTypes, anchors: TrustPolicy | None, at: datetime) -> list[Finding]:
    """Whether the certificates in the plan lead from the key to a root that is believed."""
    unvouched = finding("isolation.evidence.unvouched", SIGNER)
    if anchors is None or result is None or not result.plan.chain:
        return [unvouched]
    try:
        chain = [x509.load_der_x509_certificate(b64decode(text, validate=True)) for text in result.plan.chain]
        if chain[0].public_key() != key:
            return [unvouched]
    except MALFORMED as error:
        return [finding("isolation.evidence.refused", PLAN, message=f"a damaged certificate: {str(error)[:80]}")]
    judged = anchors.judge_chain(chain, Purpose.OPERATOR, at)
    return [] if judged.believed and judged.unrevoked else [*judged.findings, unvouched]
