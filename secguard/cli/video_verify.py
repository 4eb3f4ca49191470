"""`secguard video verify`: one recording or thousands, over worker processes; each verdict is recorded."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, command, require_option
from secguard.cli.video_answers import Chain, one_result, print_answer, print_chain, several_results
from secguard.core.clock import SystemClock, TimeSource, parse_time, rfc3339
from secguard.core.errors import RefusedError, UsageError
from secguard.core.findings import finding
from secguard.core.verdict import Axis, Outcome

if TYPE_CHECKING:
    from secguard.events import Receipt
    from secguard.gbid import GbId
    from secguard.trust import TrustPolicy
    from secguard.video.workers import Answer, Job
    from secguard.workspace import Workspace

__all__ = ["verify"]

_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)
_MANIFEST = ".manifest.json"
_CHAIN = ".chain.jsonl"
_CHAIN_NAME = "recording.chain.jsonl"
_CLIP = ".clip.json"
_MAX_ROWS = 20
_MAX_FINDINGS = 1000
_WORST = (Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS)


@command("video.verify", "verify")
@click.argument("paths", type=_PATH, nargs=-1, required=True, metavar="PATH...")
@click.option("--root", type=_FILE, help="Root certificate(s), PEM.  [default: the workspace's]")
@click.option("--crl", type=_PATH, multiple=True, help="Revocation list, PEM or DER (repeatable).")
@click.option(
    "--at",
    "moment",
    metavar="TIME",
    help="Judge certificates for this time.  [default: now; for an expired one, when this site's ledger recorded it]",
)
@click.option("--manifest", type=_FILE, help="Segment manifest.  [default: FILE.manifest.json, if it is there]")
@click.option("--clip", type=_FILE, help="Record of the clip that FILE is.  [default: FILE.clip.json, if it is there]")
@click.option("--device", metavar="GBID", help="The camera that the recordings must come from.")
@click.option("--must-sign", is_flag=True, help="It has the duty to sign.  [default: as the workspace's register says]")
@click.option("--jobs", type=click.IntRange(1, 256), help="Worker processes.  [default: one a processor]")
@require_option
def verify(
    ctx: Context,
    *,
    paths: tuple[Path, ...],
    moment: str | None,
    manifest: Path | None,
    clip: Path | None,
    device: str | None,
    must_sign: bool,
    jobs: int | None,
    require: tuple[Axis, ...],
    **roots: Any,
) -> Result:
    """Judge recordings: unchanged, complete, shown as they were taken, whose, not revoked.

    A PATH is a recording, a clip, a folder of them, a manifest, or the chain of a recording (NAME.chain.jsonl).

    Exit code 0: all of it is proven; 1: something is wrong; 3: something could not be proven.
    """
    from secguard.gbid import GbId
    from secguard.video.workers import judge_files

    homes = [home for path in paths for home in _chained(path)]
    files = list(dict.fromkeys(item for path in paths for item in _expand(path)))
    if manifest is not None and len(files) != 1:
        raise UsageError("video.verify.manifest", f"one manifest cannot belong to {len(files)} recordings")
    if clip is not None and len(files) != 1:
        raise UsageError("video.verify.clip", f"one record of a clip cannot belong to {len(files)} files")
    single = len(files) == 1 and len(paths) == 1 and not paths[0].is_dir() and not paths[0].name.endswith(_CHAIN)
    ws = ctx.workspace_or_none()
    try:
        trust = _trust(ws, roots["root"], roots["crl"])
        at: datetime = parse_time(moment) if moment else SystemClock().now()
        wanted = GbId.parse(device) if device else None
        work = [_with_clip(_job(ws, file, at, manifest, wanted, must_sign, require), clip) for file in files]
        if homes:  # a chain is judged by the files' hashes
            work = [replace(job, hashed=True) for job in work]
        title = f"verifying {paths[0].name}" if single else f"verifying {len(files)} files"
        verifier = _Verifier(ctx, ws, trust, judged_now=moment is None)
        found: list[Answer | None] = [None] * len(work)
        answers = judge_files(
            work, trust, processes=min(jobs or os.cpu_count() or 1, len(work)), progress=ctx.progress(title)
        )
        for raw in answers:
            answer = verifier.settle(raw)
            if single and answer.error is not None:
                raise answer.error
            receipt = verifier.record(answer)
            if ctx.jsonl:
                print_answer(ctx, answer, receipt)
            found[answer.number] = answer
        done = [answer for answer in found if answer is not None]
        chains = [_judge_chain(home, done, trust, at, wanted, require) for home in homes]
        if ctx.jsonl:
            for chain in chains:
                print_chain(ctx, chain)
    finally:
        if ws is not None:
            ws.close()
    if single and not chains:
        return one_result(done[0], verifier.receipts.get(0), streamed=ctx.jsonl)
    return several_results(done, verifier.receipts, chains, streamed=ctx.jsonl)


def _expand(path: Path) -> Iterator[Path]:
    """The recordings that a path stands for."""
    from secguard.video.recording_files import list_segments

    if path.is_dir():
        inside = list(dict.fromkeys((path, *_chained(path))))
        found = [home / name for home in inside for name in list_segments(home)]
        if not found and len(inside) == 1 and not (path / _CHAIN_NAME).is_file():
            raise UsageError("video.verify.empty", "no recording in this folder", where=str(path))
        yield from found
    elif path.name.endswith(_CHAIN):
        yield from (path.parent / name for name in list_segments(path.parent))
    elif path.name.endswith(_MANIFEST):
        yield path.with_name(path.name.removesuffix(_MANIFEST))
    elif path.name.endswith(_CLIP):
        yield path.with_name(path.name.removesuffix(_CLIP))
    else:
        yield path


def _chained(path: Path) -> list[Path]:
    """Folders of a path in which the chain of a recording lies."""
    if path.is_dir():
        return sorted(item.parent for item in path.rglob(_CHAIN_NAME))
    return [path.parent] if path.name == _CHAIN_NAME else []


def _trust(ws: "Workspace | None", root: Path | None, crls: tuple[Path, ...]) -> "TrustPolicy":
    from secguard.trust import TrustPolicy, read_certificates, read_crls

    if ws is not None:
        return ws.trust(root, crls)
    if root is None:
        raise UsageError("video.verify.root", "no root certificate to believe", hint="give --root CA.pem")
    return TrustPolicy(read_certificates(root), read_crls(crls))


def _job(  # noqa: PLR0917 - what the command was told
    ws: "Workspace | None",
    file: Path,
    at: datetime,
    manifest: Path | None,
    device: "GbId | None",
    must_sign: bool,
    require: tuple[Axis, ...],
) -> "Job":
    """What is known of one recording from elsewhere: its manifest, its camera, and that camera's duty to sign."""
    from secguard.core.limits import read_bounded
    from secguard.video import Expectation, manifest_path
    from secguard.video.workers import Job

    beside = manifest_path(file)
    if manifest is None and beside.is_file():
        manifest = beside
    envelope = read_bounded(manifest) if manifest is not None else None
    expected = Expectation(
        device=device,
        must_sign=must_sign or _duty(ws, device, envelope),
        manifest=envelope,
        manifest_name=str(manifest),
    )
    return Job(file, at, expected, require, hashed=ws is not None)


def _with_clip(job: "Job", record: Path | None) -> "Job":
    """The record of the clip that the file is, if it is one."""
    from secguard.core.limits import read_bounded
    from secguard.video.clip_record import clip_path

    beside = clip_path(job.path)
    if record is None and beside.is_file():
        record = beside
    if record is None:
        return job
    return replace(job, expectation=replace(job.expectation, clip=read_bounded(record), clip_name=str(record)))


def _duty(ws: "Workspace | None", device: "GbId | None", envelope: bytes | None) -> bool:
    """The register says that the camera must sign; without `--device`, the camera that the manifest names."""
    from secguard.core.errors import FormatError
    from secguard.video import OpenedManifest

    if ws is None or not (ws.state / "identity" / "registry.db").is_file():
        return False
    named = device.value if device is not None else ""
    if not named and envelope is not None:
        try:
            named = OpenedManifest.read(envelope).manifest.device
        except FormatError:  # said when the recording is judged
            return False
    record = ws.registry.device(named) if named else None
    return record is not None and record.must_sign


class _Verifier:
    """Settles the time that counts, and records each act before its result is shown."""

    def __init__(self, ctx: Context, ws: "Workspace | None", trust: "TrustPolicy", *, judged_now: bool) -> None:
        self.ctx, self.ws, self.trust, self.judged_now = ctx, ws, trust, judged_now
        self.receipts: dict[int, Receipt] = {}

    def settle(self, answer: "Answer") -> "Answer":
        """An expired certificate is judged again for the time at which this site's ledger recorded the signing."""
        from secguard.video.workers import judge_files

        verdict = answer.verdict
        if verdict is None or self.ws is None or not self.judged_now or not answer.sha256:
            return answer
        if "trust.certificate.expired" not in {item.code for item in verdict.verdict.findings}:
            return answer
        known = self.recorded(answer.sha256)
        if known is None:
            return answer
        job = replace(answer.job, at=known, source=TimeSource.LEDGER, hashed=False)
        again = next(iter(judge_files([job], self.trust)))
        if again.verdict is None:
            return answer
        whole = again.verdict.verdict
        remark = finding("video.time.ledger", time=rfc3339(known))
        settled = replace(again.verdict, verdict=replace(whole, findings=(*whole.findings, remark)))
        return replace(answer, verdict=settled, job=job)

    def recorded(self, sha256: str) -> datetime | None:
        """When this site's ledger first recorded that a file was signed or sealed."""
        from secguard.evidence.custody import custody_of

        assert self.ws is not None
        try:
            for item in custody_of(self.ws.ledger, sha256):
                data = item.event.data
                if item.event.kind in {"video.signed", "video.sealed"} and sha256 in {
                    data.get("output_sha256"),
                    data.get("sha256"),
                }:
                    return item.event.time
        except RefusedError:
            return None
        return None

    def record(self, answer: "Answer") -> "Receipt | None":
        """Into the custody story of the file, by its hash."""
        if self.ws is None or answer.verdict is None:
            return None
        verdict = answer.verdict
        envelope = answer.job.expectation.manifest
        receipt = self.ws.record(
            "video.verified",
            verdict.device.value if verdict.device else "",
            data={
                "file": answer.job.path.name,
                "sha256": answer.sha256,
                "manifest_sha256": _sha256(envelope) if envelope is not None else "",
                "outcome": verdict.verdict.outcome.value,
                "at": rfc3339(verdict.verdict.at),
            },
        )
        self.receipts[answer.number] = receipt
        return receipt


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _judge_chain(  # noqa: PLR0917 - what the command was told
    home: Path,
    answers: "Sequence[Answer]",
    trust: "TrustPolicy",
    at: datetime,
    device: "GbId | None",
    require: tuple[Axis, ...],
) -> Chain:
    """A recording's chain against its files, which have been judged and hashed already."""
    from secguard.video.recording import judge_recording

    facts, verdicts = {}, {}
    for item in answers:
        if item.job.path.is_relative_to(home) and item.verdict is not None and item.sha256:
            name = item.job.path.relative_to(home).as_posix()
            facts[name] = (item.job.path.stat().st_size, item.sha256)
            verdicts[name] = item.verdict
    answer = judge_recording(home, trust, at, device=device, require=require, facts=facts, verdicts=verdicts)
    proven = {home / item.file for item in answer.segments if item.state == "intact" and item.file}
    return Chain(home, answer, frozenset(proven))
