"""A file larger than memory should be: verifying it keeps memory flat."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import video_kit as kit

from secguard.video.containers.mp4 import open_movie
from secguard.video.splice import _rebuild

NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"
_SAMPLE = 64 << 10
_SCRIPT = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from secguard.trust import TrustPolicy, read_certificates
from secguard.video import verify
answer = verify(Path(sys.argv[1]), TrustPolicy(read_certificates(Path(sys.argv[2]))), datetime.now(UTC))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss counts the parent's
print(answer.frames, int(peak.split()[1]) // 1024)
"""


def _large(seed: Path, target: Path, megabytes: int) -> int:
    """A recording of that many megabytes, written piece by piece; returns its frames."""
    movie = open_movie(seed)
    tables = movie.video.tables
    head = movie.data[movie.boxes[0].start : movie.boxes[0].end]
    count = (megabytes << 20) // _SAMPLE
    replaced = {
        tables[b"stsz"].start: (b"stsz", bytes(4) + _SAMPLE.to_bytes(4, "big") + count.to_bytes(4, "big")),
        tables[b"stco"].start: (b"stco", kit._table([len(head) + 16])),
        tables[b"stsc"].start: (b"stsc", kit._table([1], [count], [1])),
        tables[b"stts"].start: (b"stts", kit._table([count], [512])),
    }
    for kind, body in ((b"stss", kit._table(range(1, count + 1, 50))), (b"ctts", kit._table([count], [0], version=1))):
        if kind in tables:
            replaced[tables[kind].start] = (kind, body)
    filler = os.urandom(_SAMPLE - 6)
    with target.open("wb") as file:
        file.write(head + (1).to_bytes(4, "big") + b"mdat" + (16 + count * _SAMPLE).to_bytes(8, "big"))
        for number in range(count):
            first = b"\x65\x9a" if number % 50 == 0 else b"\x41\x9a"
            file.write((_SAMPLE - 4).to_bytes(4, "big") + first + filler)
        file.write(_rebuild(movie, movie.moov, replaced))
    return count


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_stays_flat(tmp_path: Path, vectors: Path) -> None:
    seed = kit.make_clip(tmp_path / "seed.mp4", frames=4, options={"bf": "0"})
    frames = _large(seed, tmp_path / "large.mp4", 2048 if NIGHTLY else 256)
    words = [sys.executable, "-c", _SCRIPT, str(tmp_path / "large.mp4"), str(vectors / "ca.pem")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found, peak = map(int, done.stdout.split())
    assert found == frames
    assert peak < 200
    (tmp_path / "large.mp4").unlink()
