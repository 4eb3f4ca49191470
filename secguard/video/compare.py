"""Compare a recording with its segment manifest: what is missing, what was changed, how it is shown."""

import itertools

import numpy as np

from secguard.core import Axis, Finding, finding
from secguard.video.claims import Claims
from secguard.video.hashing import hash_range
from secguard.video.manifest import Gops, Manifest, digest_presentation, digest_sets
from secguard.video.match import common
from secguard.video.nal import Stream
from secguard.video.timeline import Pictures

__all__ = ["compare"]


def _gop_findings(gops: Gops, manifest: Manifest, pictures: Pictures) -> list[Finding]:
    """GOPs of the file against those of the manifest, in order; what the SEIs already told is not said again."""
    sealed = manifest.gops
    if gops.sha256 == sealed.sha256:
        return []
    places: dict[str, list[int]] = {}
    for number, value in enumerate(sealed.sha256):
        places.setdefault(value, []).append(number)
    pairs = common([places.get(value, ()) for value in gops.sha256])
    if not pairs and len(sealed.sha256) > 2:
        return [finding("video.manifest.mismatch", "", device=manifest.device)]
    timeline = pictures.timeline
    told = {
        first: number
        for number, (first, state) in enumerate(zip(timeline.first_frame, timeline.state, strict=True))
        if first and state in {"changed", "incomplete", "repeated", "foreign", "moved"}
    }
    missing_told = sum(1 for state in timeline.state if state == "missing")
    findings: list[Finding] = []
    heads = np.cumsum([0, *gops.frames]).tolist()
    total = len(sealed.sha256)
    ends = [(-1, -1), *pairs, (len(gops.sha256), total)]
    for (here, there), (next_here, next_there) in itertools.pairwise(ends):
        mine, theirs = list(range(here + 1, next_here)), list(range(there + 1, next_there))
        last = next_there == total
        for own, wanted in zip(mine, theirs, strict=False):
            cut = last and wanted == theirs[-1] and own == mine[-1] and gops.frames[own] < sealed.frames[wanted]
            where = f"GOP {wanted + 1}, frames {heads[own] + 1}-{heads[own + 1]}"
            if cut:
                lost = sealed.frames[wanted] - gops.frames[own]
                findings.append(finding("video.tail.truncated", f"GOP {wanted + 1}", gops=0, frames=lost))
            elif heads[own] + 1 not in told:
                findings.append(finding("video.gop.manifest-mismatch", where, gop=wanted + 1))
        gone = theirs[len(mine) :]
        if gone and last:
            frames = sum(sealed.frames[number] for number in gone)
            findings.append(finding("video.tail.truncated", f"GOP {gone[0] + 1}", gops=len(gone), frames=frames))
        elif gone and there < 0:
            frames = sum(sealed.frames[number] for number in gone)
            findings.append(finding("video.head.truncated", f"GOP {gone[-1] + 1}", gops=len(gone), frames=frames))
        else:
            for number in gone:
                if missing_told > 0:
                    missing_told -= 1
                else:
                    findings.append(finding("video.gop.missing", f"GOP {number + 1}", gop=number + 1))
        findings += [
            finding("video.gop.unsealed", f"frames {heads[number] + 1}-{heads[number + 1]}", frames=gops.frames[number])
            for number in mine[len(theirs) :]
            if heads[number] + 1 not in told
        ]
    return findings[:1000]


def compare(stream: Stream, gops: Gops, claims: Claims, pictures: Pictures, manifest: Manifest) -> list[Finding]:
    """What a believed manifest says against the file.

    Args:
        stream: the file.
        gops: its GOPs.
        claims: its SEIs.
        pictures: what they told.
        manifest: what was sealed.
    """
    movie, samples = stream.movie, stream.samples
    if manifest.codec != stream.track.codec:
        return [finding("video.manifest.mismatch", "", device=manifest.device)]
    findings = _gop_findings(gops, manifest, pictures)
    seis = sum(1 for claim in claims.claims if claim.sei.signature)
    told = {item.code for item in pictures.findings}
    whole = not any(
        item.code in {"video.tail.truncated", "video.head.truncated", "video.gop.missing"} for item in findings
    )
    if seis < manifest.seis and whole and not told & {"video.sei.missing", "video.sei.malformed", "video.gop.missing"}:
        findings.append(finding("video.sei.removed", "", expected=manifest.seis, found=seis))
    if digest_sets(stream).hex() != manifest.parameter_sets:
        findings.append(finding("video.parameter-sets.changed"))
    complete = len(samples) and not any(item.axis is Axis.COMPLETENESS for item in (*findings, *pictures.findings))
    if digest_presentation(stream).hex() != manifest.presentation:
        # A cut file has other sample times by necessity; that is said already, and nothing more is known.
        findings.append(finding("video.presentation.changed" if complete else "video.presentation.unproven"))
    if not findings and not any(item.outcome != "pass" for item in pictures.findings):
        same = len(movie.data) == manifest.size and hash_range(movie.data, 0, len(movie.data)).hex() == manifest.sha256
        if not same:
            findings.append(finding("video.file.differs"))
    return findings
