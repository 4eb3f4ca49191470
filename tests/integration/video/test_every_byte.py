"""Signed bytes of a small clip: any change is reported and names its GOP. Mutated files: never a traceback.

The nightly profile changes every bit of every byte, and mutates a million files.
"""

import os
import random
import time
from pathlib import Path

import pytest
import video_kit as kit

from secguard.core import SecguardError
from secguard.video import OpenedManifest, manifest_path
from secguard.video.containers.mp4 import open_movie
from secguard.video.nal import open_stream
from secguard.video.sei import parse

NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"
_SILENT = {"video.completeness.unproven", "video.presentation.unproven", "video.coverage.partial"}


def _owners(path: Path) -> dict[int, int]:
    """GOP of every signed byte: slices, and SEIs up to the end of their signature."""
    stream = open_stream(path)
    nals, data = stream.nals, stream.source.data
    found: dict[int, int] = {}
    gop = seis = 0
    for at in range(len(nals)):
        start, end = int(nals.offset[at]), int(nals.end[at])
        gop += bool(nals.leads[at])
        owner = gop
        if not nals.vcl[at]:
            unit = data[start:end]
            sei = parse(unit, nals.codec) if nals.sei[at] else None
            if sei is None:
                continue
            seis += 1
            owner = seis
            # Behind the signature comes padding, which nobody signs.
            inside = unit.rfind(sei.signature)
            end = start + inside + len(sei.signature) if inside >= 0 else end - 16
        found.update(dict.fromkeys(range(start, end), owner))
    return found


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_every_signed_byte(codec: str, tmp_path: Path, pki: kit.Pki) -> None:
    options = {"bf": "1", "slices": "2"} if codec == "libx264" else None
    source = kit.make_clip(tmp_path / "clip.mp4", codec=codec, frames=6, gop=3, size=(64, 64), noise=8, options=options)
    kit.sign_clip(source, tmp_path / "signed.mp4", pki.camera)
    owners = _owners(tmp_path / "signed.mp4")
    assert len(owners) > 2000
    data = bytearray((tmp_path / "signed.mp4").read_bytes())
    path = tmp_path / "changed.mp4"
    unseen: list[tuple[int, int, list[str]]] = []
    changes = [(at, 1 << bit) for at in owners for bit in range(8)]
    for at, bit in changes if NIGHTLY else changes[:: 8 * 7 - 1]:  # in CI every seventh byte, and each bit in turn
        gop = owners[at]
        data[at] ^= bit
        path.write_bytes(data)
        data[at] ^= bit
        answer = kit.judge_clip(path, pki)
        places = [item.where for item in answer.verdict.findings if item.code not in _SILENT and item.outcome != "pass"]
        if not any(place.startswith(f"GOP {gop}") for place in places):
            unseen.append((at, gop, places))
    assert unseen == []


@pytest.mark.slow
@pytest.mark.timeout(43200)
def test_mutations_end_in_a_verdict_or_one_error(signed: Path, hevc: Path, tmp_path: Path, pki: kit.Pki) -> None:
    """Mutated files and manifests, each within bounded time."""
    files, manifests = (600_000, 400_000) if NIGHTLY else (1_500, 4_000)
    random_ = random.Random(11)
    sources = [(signed.read_bytes(), _moov(signed)), (hevc.read_bytes(), _moov(hevc))]
    manifest = manifest_path(signed).read_bytes()
    path = tmp_path / "mutated.mp4"
    slowest, rounds = 0.0, 0
    for number in range(files):
        data, (low, high) = sources[number % 2]
        changed = bytearray(data)
        for _ in range(random_.randint(1, 6)):
            at = random_.randrange(low, high) if random_.random() < 0.7 else random_.randrange(len(changed))
            choice = random_.random()
            if choice < 0.7:
                changed[at] = random_.choice((0, 1, 3, 0x7F, 0x80, 0xFF, random_.randrange(256)))
            elif choice < 0.85:
                del changed[at : at + random_.randint(1, 40)]
            else:
                changed[at:at] = random_.randbytes(random_.randint(1, 20))
            high = min(high, len(changed))
            low = min(low, high - 1)
        path.write_bytes(changed)
        begin = time.perf_counter()
        try:
            kit.judge_clip(path, pki)
        except SecguardError:
            rounds += 1
        slowest = max(slowest, time.perf_counter() - begin)
    assert rounds > files // 12
    assert slowest < 20
    for _ in range(manifests):
        changed = bytearray(manifest)
        for _ in range(random_.randint(1, 4)):
            changed[random_.randrange(len(changed))] = random_.randrange(256)
        try:
            assert OpenedManifest.read(bytes(changed)).manifest.v == 1
        except SecguardError as error:
            assert error.code  # noqa: PT017 - either answer is fine, a traceback is not


def _moov(path: Path) -> tuple[int, int]:
    moov = open_movie(path).moov
    return moov.start, moov.end
