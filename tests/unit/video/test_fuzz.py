"""Mutated bytes for every parser: one clear error or an answer; never a traceback, a hang, or much memory.

CI reads 20,000 mutated inputs; the nightly profile a million.
"""

import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import seal_kit
import video_kit as kit

from secguard.core import SecguardError
from secguard.video import OpenedManifest, manifest_path
from secguard.video.containers.mp4 import open_movie
from secguard.video.nal import add_prevention, open_stream, strip_prevention
from secguard.video.sei import parse

NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"
_TIMES = 50 if NIGHTLY else 1
# Mutated inputs a kind: 20,000 in all, a million nightly.
COUNTS = {"mp4": 900, "fragmented.mp4": 500, "mkv": 500, "ts": 250, "ps": 250, "h264": 600}
SEIS, MANIFESTS, UNITS = 9000, 5000, 3000
_SECONDS = 10  # for one input
_MEGABYTES = 400


def _mutate(data: bytes, random_: random.Random, low: int = 0, high: int = 0) -> bytes:
    """Some bytes changed, taken out, or put in; most of them between `low` and `high`."""
    changed = bytearray(data)
    for _ in range(random_.randint(1, 5)):
        inside = high > low and random_.random() < 0.7
        at = random_.randrange(low, min(high, len(changed))) if inside and low < len(changed) else 0
        at = at or random_.randrange(max(len(changed), 1))
        kind = random_.random()
        if kind < 0.7 and changed:
            changed[at % len(changed)] = random_.choice((0, 1, 3, 0x7F, 0x80, 0xFF, random_.randrange(256)))
        elif kind < 0.85:
            del changed[at : at + random_.randint(1, 40)]
        else:
            changed[at:at] = random_.randbytes(random_.randint(1, 20))
    return bytes(changed)


def _bounded(act: Callable[[], object]) -> str:
    """The code of the error that an input ends in; anything else than a `SecguardError` fails the test."""
    begin = time.perf_counter()
    code = ""
    try:
        act()
    except SecguardError as error:
        code = error.code
        assert code.startswith(("video.", "core.", "keys.", "trust."))
    assert time.perf_counter() - begin < _SECONDS
    return code


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    source = kit.make_clip(folder / "in.mp4", frames=6, gop=3, size=(32, 32), noise=4)
    kit.sign_clip(source, folder / "tiny.mp4", pki.camera)
    return folder / "tiny.mp4"


@pytest.mark.timeout(7200 if NIGHTLY else 120)
@pytest.mark.parametrize("kind", list(COUNTS))
def test_containers(kind: str, tiny: Path, pki: kit.Pki, tmp_path: Path) -> None:
    source = tmp_path / f"whole.{kind}"
    if kind == "mp4":
        source.write_bytes(tiny.read_bytes())
    else:
        seal_kit.remux(tiny, source)
    data, random_ = source.read_bytes(), random.Random(kind)
    low, high = 0, min(len(data), 4096)
    if kind == "mp4":
        moov = open_movie(source).moov
        low, high = moov.start, moov.end
    path, ends = tmp_path / "mutated", set()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of whatever this process tested until now
    for number in range(COUNTS[kind] * _TIMES):
        path.write_bytes(_mutate(data, random_, low, high))
        if number % 8 == 0:
            ends.add(_bounded(lambda: kit.judge_clip(path, pki, manifest=manifest_path(tiny))))
        else:
            ends.add(_bounded(lambda: open_stream(path)))
    assert "" in ends
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MEGABYTES << 10


def test_seis(tiny: Path) -> None:
    stream = open_stream(tiny)
    nals, data = stream.nals, stream.source.data
    units = [data[int(nals.offset[at]) : int(nals.end[at])] for at in range(len(nals)) if nals.sei[at]]
    units = [unit for unit in units if parse(unit, "h264") is not None]
    random_ = random.Random(5)
    ends = {
        _bounded(lambda unit=unit: parse(_mutate(unit, random_, 20, 200), "h264"))
        for unit in units
        for _ in range(SEIS * _TIMES // len(units))
    }
    assert ends == {"", "video.sei.format"}


def test_manifests(tiny: Path) -> None:
    envelope, random_ = manifest_path(tiny).read_bytes(), random.Random(6)
    ends = {_bounded(lambda: OpenedManifest.read(_mutate(envelope, random_), "m")) for _ in range(MANIFESTS * _TIMES)}
    assert "video.manifest.format" in ends


def test_units() -> None:
    random_ = random.Random(7)
    for _ in range(UNITS * _TIMES):
        unit = bytes(random_.choice((0, 0, 0, 1, 2, 3, 255)) for _ in range(random_.randrange(80)))
        assert strip_prevention(add_prevention(unit)) == unit
        assert len(strip_prevention(unit)) <= len(unit)


def test_the_counts_are_those_that_are_promised() -> None:
    assert sum(COUNTS.values()) + SEIS + MANIFESTS + UNITS == 20_000
    assert 50 * 20_000 == 1_000_000
