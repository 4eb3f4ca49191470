"""Cut a clip out of a recording: whole GOPs, nothing encoded again, bound to the camera's manifest and to a case.

Choose the GOPs (`clip_range`), write them (`clip_cut`), and say in a signed record what they are (`clip_record`); the
caller records the act, then both files get their names. `clip_verify` proves a clip from its record alone.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Clock, FormatError, Progress, RefusedError, UsageError, rfc3339, silent
from secguard.core.files import atomic_write
from secguard.core.limits import MAX_DOCUMENT, read_bounded
from secguard.events import new_event_id
from secguard.keys import Signer, key_id
from secguard.trust import common_name, gbid_of
from secguard.video.clip_cut import Cut, check_source, cut
from secguard.video.clip_range import Chosen, Part, Recorded, choose
from secguard.video.clip_record import MAX_PARTS, ClipPart, ClipRecord, clip_path, wall_clock
from secguard.video.hashing import hash_nals, hash_range
from secguard.video.manifest import OpenedManifest
from secguard.video.nal import Stream, open_stream
from secguard.video.sei import Sei, parse
from secguard.video.sign import manifest_path

__all__ = ["Made", "clip"]

_EPOCH_1904 = 2_082_844_800
_MAX_SEI = 1 << 18
_AHEAD = 3  # GOPs behind the clip in which the signatures of its last GOP are looked for


@dataclass(frozen=True, slots=True)
class Made:
    """What `clip` made, before or after its release.

    Attributes:
        output, record_path: the files' final names.
        record: the signed record's content.
        record_sha256: hash of its envelope, hex.
        size: bytes of the clip.
        manifests: parts with a manifest.
    """

    output: Path
    record_path: Path
    record: ClipRecord
    record_sha256: str
    size: int
    manifests: int

    def event_data(self) -> dict[str, str | int]:
        """The values of the `clip.made` event."""
        record = self.record
        first, *others = record.parts
        sources = {f"source_{number}_sha256": part.sha256 for number, part in enumerate(others, start=2)}
        return {
            "clip": record.id,
            "clip_sha256": record.sha256,
            "record_sha256": self.record_sha256,
            "source_sha256": first.sha256,
            **sources,
            "start": record.start,
            "end": record.end,
            "gops": record.gops,
        }


def _check(target: Path, case: str, signer: Signer, chain: Sequence[x509.Certificate], count: int) -> None:
    if not case.strip():
        raise UsageError("video.clip.case", "a clip needs a case number", hint="give --case NUMBER")
    if not 0 < count <= MAX_PARTS:
        raise UsageError("video.clip.segments", f"a clip is cut from 1 to {MAX_PARTS} recordings")
    if not target.parent.is_dir():
        raise UsageError("video.clip.folder", "no such folder", where=str(target.parent))
    for path in (target, clip_path(target)):
        if path.exists():
            raise RefusedError("video.clip.exists", "the output exists", hint="choose another name", where=str(path))
    if manifest_path(target).exists():
        where = str(manifest_path(target))
        raise RefusedError(
            "video.clip.exists", "a manifest of this name exists", hint="choose another name", where=where
        )
    if not chain or key_id(chain[0].public_key()) != key_id(signer.public_key()):
        raise UsageError("video.clip.certificate", "the operator's chain does not certify the key", hint="leaf first")


def _manifest(path: Path, given: Path | None, stream: Stream) -> tuple[OpenedManifest | None, bytes]:
    """The recording's manifest, by name or beside it; one that is not this recording's is refused."""
    beside = given if given is not None else manifest_path(path)
    if given is None and not beside.is_file():
        return None, b""
    envelope = read_bounded(beside, MAX_DOCUMENT)
    opened = OpenedManifest.read(envelope, str(beside))
    manifest = opened.manifest
    problem = ""
    if not opened.signed:
        problem = "the manifest's signature is wrong"
    elif manifest.codec != stream.track.codec:
        problem = "the manifest describes another recording"
    if problem:
        raise RefusedError(
            "video.clip.manifest", problem, hint="see what was done: secguard video verify", where=str(beside)
        )
    return opened, envelope


def _linked(recordings: Sequence[Recorded]) -> None:
    """Several recordings must be adjacent segments of one, by what their camera signed."""
    for number, (before, here) in enumerate(itertools.pairwise(recordings), start=2):
        where = str(here.stream.source.path)
        adjacent = False
        if before.opened is not None and here.opened is not None:
            one, two = before.opened, here.opened
            adjacent = (
                bool(two.manifest.recording)
                and one.manifest.recording == two.manifest.recording
                and two.manifest.previous == one.sha256.hex()
            )
        if not adjacent or before.start is None or here.start is None:
            raise RefusedError(
                "video.clip.segments",
                f"recording {number} does not follow the one before it in one sealed recording",
                hint="give adjacent segments of one recording, in order, or cut a clip from each",
                where=where,
            )


def _read_sei(stream: Stream, index: int) -> Sei | None:
    start, end = int(stream.nals.offset[index]), int(stream.nals.end[index])
    if end - start > _MAX_SEI:
        return None
    try:
        return parse(bytes(stream.source.data[start:end]), stream.track.codec)
    except FormatError:
        return None


def _behind(part: Part) -> list[bytes]:
    """The SEIs behind the last GOP that sign it: a signer writes them when the next GOP has begun."""
    recorded, stream = part.recorded, part.recorded.stream
    nals = stream.nals
    if part.last + 1 == len(recorded.first):
        return []
    low, stop = part.samples[1], int(recorded.stop[min(part.last + _AHEAD, len(recorded.stop) - 1)])
    candidates = np.flatnonzero(nals.sei & (nals.sample >= low) & (nals.sample < stop)).tolist()
    rows = [(index, sei) for index in candidates if (sei := _read_sei(stream, index)) is not None and sei.gop_hash]
    names = {sei.hash_name for _, sei in rows if sei.hash_name} or {"sha256"}
    name = min(names)
    mine = (nals.sample >= int(recorded.first[part.last])) & (nals.sample < low)
    hashed = hash_nals(stream.source.data, nals, np.flatnonzero(nals.vcl & mine), name=name)
    own = {hashed.linked[at * hashed.width : (at + 1) * hashed.width] for at in range(len(hashed))}
    whole = hashlib.new(name, hashed.linked).digest()
    taken = []
    for index, sei in rows:
        width = len(sei.gop_hash)
        listed = (sei.hashes[at : at + width] for at in range(0, len(sei.hashes), width))
        if sei.signature and (any(item in own for item in listed) if sei.hashes else sei.gop_hash == whole):
            unit = bytes(stream.source.data[int(nals.offset[index]) : int(nals.end[index])])
            if len(unit) < 1 << 8 * stream.track.length_size:
                taken.append(unit)
    return taken


def _certificates(chosen: Chosen) -> list[bytes]:
    """The SEI that brings the certificates, where it stands once at the recording's beginning and the clip has none."""
    part = chosen.parts[0]
    stream, (low, high) = part.recorded.stream, part.samples
    nals = stream.nals
    for index in np.flatnonzero(nals.sei).tolist():
        if int(nals.sample[index]) >= high:
            break
        sei = _read_sei(stream, index)
        if sei is None or not sei.chain:
            continue
        if int(nals.sample[index]) >= low or not sei.certificate_only:
            break
        return [bytes(stream.source.data[int(nals.offset[index]) : int(nals.end[index])])]
    return []


def _signatures(chosen: Chosen, behind: int) -> int:
    """Signed SEIs that cover pictures, in the clip."""
    count = behind
    for part in chosen.parts:
        nals = part.recorded.stream.nals
        low, high = part.samples
        for index in np.flatnonzero(nals.sei & (nals.sample >= low) & (nals.sample < high)).tolist():
            sei = _read_sei(part.recorded.stream, index)
            count += sei is not None and bool(sei.signature) and bool(sei.gop_hash)
    return count


def _device(recordings: Sequence[Recorded]) -> str:
    for item in recordings:
        if item.opened is not None:
            return item.opened.manifest.device
    from secguard.video.claims import read_claims

    chain = read_claims(recordings[0].stream).chain
    named = gbid_of(chain[0], trust_cn=True) if chain else None
    return named.value if named is not None else ""


@contextmanager
def clip(
    sources: Sequence[Path],
    target: Path,
    *,
    begin: str,
    end: str,
    signer: Signer,
    chain: Sequence[x509.Certificate],
    clock: Clock,
    case: str,
    reason: str = "",
    approver: str = "",
    manifests: Sequence[Path] = (),
    sound: bool = True,
    progress: Progress = silent,
) -> Iterator[Made]:
    """Cut a clip; the block decides its fate.

    The clip is complete under a temporary name when the block begins, so that the act can be recorded; clip and record
    get their names when it ends, and the clip is removed when it raises.

    Args:
        sources: the recording; or adjacent segments of one, in order.
        target: the clip, an MP4 file; `clip_path(target)` gets the record.
        begin: `+SECONDS` after the first frame of the first, or a wall clock time.
        end: the same.
        signer: the operator's key.
        chain: its certificates, leaf first.
        clock: tells when it was cut.
        case: case number; must not be empty.
        reason: purpose.
        approver: who approved it, as the operator says.
        manifests: the recordings' manifests, in their order; default: those beside them, where there are any.
        sound: take the sound along.
        progress: called with bytes done.

    Yields:
        The record and its hashes.

    Raises:
        UsageError: no case, no such file, a time that cannot be read, or a key that its chain does not certify.
        RefusedError: the output exists, the range is not within the recordings, or they do not follow each other.
        FormatError: a recording or a manifest cannot be read.
        SystemPartError: the disk is full; nothing is left behind.
    """
    _check(target, case, signer, chain, len(sources))
    if manifests and len(manifests) != len(sources):
        raise UsageError("video.clip.manifest", "one manifest a recording is needed", hint="give --manifest for each")
    recordings: list[Recorded] = []
    for path, given in itertools.zip_longest(sources, manifests):
        stream = open_stream(path)
        check_source(stream.source)
        recordings.append(Recorded.of(stream, *_manifest(path, given, stream)))
        opened = recordings[-1].opened
        if opened is not None and len(recordings[-1].first) != len(opened.manifest.gops.sha256):
            raise RefusedError(
                "video.clip.manifest",
                "the recording has not the GOPs that its manifest lists",
                hint=f"see what was done to it: secguard video verify {path.name}",
                where=str(path),
            )
    if len(recordings) > 1:
        _linked(recordings)
    chosen = choose(recordings, begin, end)
    behind = _behind(chosen.parts[-1])
    made = int(chosen.start.timestamp()) + chosen.begin // 1_000_000 + _EPOCH_1904 if chosen.start is not None else 0
    done = cut(chosen, [*behind, *_certificates(chosen)], target, sound=sound, made=max(made, 0), progress=progress)
    try:
        record = _record(chosen, done, behind, chain, clock.now(), case=case, reason=reason, approver=approver)
        envelope = record.seal(signer)
        if len(envelope) > MAX_DOCUMENT:
            raise RefusedError(
                "video.clip.too-large",
                f"the record has more than {MAX_DOCUMENT} bytes",
                hint="cut it from fewer segments",
            )
        count = sum(1 for part in record.parts if part.manifest)
        yield Made(target, clip_path(target), record, hashlib.sha256(envelope).hexdigest(), done.pending.size, count)
        # The record first: a clip without it verifies as unknown, a record without its clip harms nobody.
        atomic_write(clip_path(target), envelope)
        try:
            done.pending.release()
        except BaseException:
            clip_path(target).unlink(missing_ok=True)
            raise
    finally:
        done.pending.discard()


def _record(
    chosen: Chosen,
    done: Cut,
    behind: Sequence[bytes],
    chain: Sequence[x509.Certificate],
    now: datetime,
    *,
    case: str,
    reason: str,
    approver: str,
) -> ClipRecord:
    parts, frames = [], 0
    start, end = chosen.clock(chosen.begin), chosen.clock(chosen.end)
    sealed = [part.recorded.opened for part in chosen.parts]
    if sealed[0] is not None and sealed[-1] is not None:  # in the words in which a verifier reads it
        first, last = chosen.parts[0].first + 1, chosen.parts[-1].last + 1
        start = wall_clock(sealed[0].manifest, first, len(sealed[0].manifest.gops.sha256))[0] or start
        end = wall_clock(sealed[-1].manifest, 1, last)[1] or end
    for part in chosen.parts:
        stream = part.recorded.stream
        data = stream.source.data
        low, high = part.samples
        nals = stream.nals
        frames += len(np.unique(nals.sample[nals.vcl & (nals.sample >= low) & (nals.sample < high)]))
        parts.append(
            ClipPart(
                name=stream.source.path.name,
                size=len(data),
                sha256=hash_range(data, 0, len(data)).hex(),
                manifest=part.recorded.envelope.decode(),
                first=part.first + 1,
                last=part.last + 1,
            )
        )
    pem = b"".join(item.public_bytes(Encoding.PEM) for item in chain if item.issuer != item.subject or item is chain[0])
    return ClipRecord(
        id=new_event_id(),
        created=rfc3339(now.astimezone(UTC)),
        device=_device([part.recorded for part in chosen.parts]),
        case=case,
        reason=reason,
        approver=approver,
        operator=common_name(chain[0]) or "",
        requested_start=chosen.clock(chosen.low),
        requested_end=chosen.clock(chosen.high),
        start=start,
        end=end,
        seconds=(chosen.low / 1e6, chosen.high / 1e6),
        codec="h264" if chosen.parts[0].recorded.stream.track.codec == "h264" else "h265",
        size=done.pending.size,
        sha256=done.pending.sha256.hex(),
        frames=frames,
        gops=sum(part.gops for part in chosen.parts),
        seis=_signatures(chosen, len(behind)),
        leading=chosen.leading,
        sound=done.sound,
        dropped=done.dropped,
        parts=tuple(parts),
        chain=pem.decode("ascii"),
    )
