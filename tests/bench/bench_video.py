"""Video: verify and sign against SHA-256 over the same bytes, one core, for large and small slices.

The recordings are synthetic H.264 of random bytes: hashing does not care, and no encoder stands in the way.
"""

import argparse
import hashlib
import json
import mmap
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import video_kit as kit

from secguard.core import FixedClock
from secguard.video import Expectation, frame_offsets, manifest_path, sign, verify
from secguard.video.hashing import hash_nals
from secguard.video.insertions import Times, insertions
from secguard.video.nal import open_stream
from secguard.video.seal import describe
from secguard.video.workers import Job, judge_files

# slice bytes, slices a frame, goals of verify and sign
SHAPES = {"16 kB slices": (16 << 10, 1, 0.6, 0.5), "1.5 kB slices": (1500, 10, 0.25, None)}


def _synthesize(seed: Path, target: Path, size: int, slice_bytes: int, slices: int) -> None:
    """A recording of `size` bytes: GOPs of 50 frames of `slices` slices each."""
    samples = kit.take_apart(seed)
    shape = samples[0]
    random = np.random.default_rng(3)
    noise = random.integers(1, 256, slice_bytes + (1 << 16), dtype=np.uint8).tobytes()
    made = []
    length = slice_bytes.to_bytes(4, "big")
    for frame in range(size // slice_bytes // slices):
        kind = b"\x65" if frame % 50 == 0 else b"\x41"
        data = bytearray()
        for part in range(slices):
            number = frame * slices + part
            first = b"\x9a" if part == 0 else b"\x1a"  # first_mb_in_slice
            data += length + kind + first + noise[number % 65536 : number % 65536 + slice_bytes - 2]
        made.append(kit.Sample(bytes(data), shape.delta, 0, sync=frame % 50 == 0))
    kit.put_together(seed, made, target)


def _best(acts: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Shortest time of each act; the acts take turns, so that a busy machine slows all of them."""
    best = dict.fromkeys(acts, float("inf"))
    for _ in range(rounds):
        for name, act in acts.items():
            begin = time.perf_counter()
            act()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def _bare(path: Path) -> None:
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with memoryview(data) as view:
        hashlib.sha256(view).digest()


def _seis(path: Path, who: kit.Identity) -> None:
    """The part of signing that ONVIF Media Signing asks for: no manifest, no file hashes, no copy."""
    stream = open_stream(path)
    hashed = hash_nals(stream.source.data, stream.nals, np.flatnonzero(stream.nals.vcl))
    times = Times.of(stream, kit.NOW, FixedClock(kit.NOW))
    pem = who.chain[0].public_bytes(Encoding.PEM)
    assert list(insertions(stream, hashed, times, signer=who.signer, chain=pem, serial=who.gbid.value))


def _on_all_cores(act: Callable[[], object]) -> None:
    """The input is hashed beside the slices, and the output beside the copying."""
    if not hasattr(os, "sched_setaffinity"):
        act()
        return
    one = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        act()
    finally:
        os.sched_setaffinity(0, one)


def _directory(pki: kit.Pki, megabytes: int, rounds: int) -> list[dict[str, object]]:
    """Eight files by one worker process and by two, each on cores of its own; needs two cores."""
    if len(os.sched_getaffinity(0)) < 2:
        return []
    with tempfile.TemporaryDirectory() as folder:
        seed = kit.make_clip(Path(folder) / "seed.mp4", frames=4, options={"bf": "0"})
        source = Path(folder) / "in.mp4"
        _synthesize(seed, source, megabytes << 20, 16 << 10, 1)
        jobs = []
        for number in range(8):
            target = Path(folder) / f"out{number}.mp4"
            kit.sign_clip(source, target, pki.camera)
            jobs.append(Job(target, kit.NOW))
        size = sum(job.path.stat().st_size for job in jobs)
        found = _best(
            {
                f"verify eight files, {count} worker process(es)": lambda count=count: list(
                    judge_files(jobs, pki.trust, processes=count)
                )
                for count in (1, 2)
            },
            rounds,
        )
    one, two = found.values()
    names = list(found)
    return [
        {"what": names[0], "value": round(size / one / 1e6), "unit": "MB/s", "ratio": 1.0, "goal": None},
        {"what": names[1], "value": round(size / two / 1e6), "unit": "MB/s", "ratio": round(one / two, 3), "goal": 1.7},
    ]


def run(megabytes: int, rounds: int) -> list[dict[str, object]]:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pki = kit.make_pki()
    who = pki.camera
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        seed = kit.make_clip(Path(folder) / "seed.mp4", frames=4, options={"bf": "0"})
        for name, (slice_bytes, slices, verify_goal, sign_goal) in SHAPES.items():
            source, target = Path(folder) / f"in-{slice_bytes}.mp4", Path(folder) / f"out-{slice_bytes}.mp4"
            _synthesize(seed, source, megabytes << 20, slice_bytes, slices)
            size = source.stat().st_size

            def act(source: Path = source, target: Path = target) -> None:
                for item in (target, manifest_path(target)):
                    item.unlink(missing_ok=True)
                with sign(
                    source, target, signer=who.signer, chain=who.chain, device=who.gbid, clock=FixedClock(kit.NOW)
                ):
                    pass

            act()
            expected = Expectation(manifest=manifest_path(target).read_bytes())
            answer = verify(target, pki.trust, kit.NOW, expected)
            assert answer.verdict.outcome == "pass", answer.verdict.findings
            found = _best(
                {
                    "SHA-256 over the file": lambda source=source: _bare(source),
                    "verify": lambda target=target: verify(target, pki.trust, kit.NOW),
                    "verify with manifest, which hashes the whole file too": lambda target=target, expected=expected: (
                        verify(target, pki.trust, kit.NOW, expected)
                    ),
                    "sign: hash every slice, sign every GOP": lambda source=source: _seis(source, who),
                    "sign: the whole act, one core (hashes input, slices, output: at most 0.33)": act,
                    "sign: the whole act, all cores": lambda act=act: _on_all_cores(act),
                    "seal: hash every slice and the whole file (one core: at most 0.5)": lambda source=source: describe(
                        source, who.gbid, clock=FixedClock(kit.NOW)
                    ),
                    "index and NAL units only": lambda target=target: frame_offsets(target),
                },
                rounds,
            )
            goals = {"verify": verify_goal, "sign: hash every slice, sign every GOP": sign_goal}
            bare = found["SHA-256 over the file"]
            for what, seconds in found.items():
                rows.append(
                    {
                        "what": f"{what}, {name}",
                        "value": round(size / seconds / 1e6),
                        "unit": "MB/s",
                        "ratio": round(bare / seconds, 3),
                        "goal": goals.get(what),
                    }
                )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    rows.append({"what": "peak memory of this run", "value": peak, "unit": "MB", "ratio": None, "goal": None})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [*_directory(kit.make_pki(), max(options.megabytes // 4, 8), options.rounds)]
    rows += run(options.megabytes, options.rounds)
    if options.json:
        print(json.dumps(rows))
        return
    for item in rows:
        print(f"{item['what']:<95} {item['value']:>6} {item['unit']}  {item['ratio'] or ''}  {item['goal'] or ''}")


if __name__ == "__main__":
    main()
