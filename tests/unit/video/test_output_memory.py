"""Writing a copy: pages that were given back do not come back with a hash that lags behind."""

import mmap
from pathlib import Path

import pytest

from secguard.core.progress import silent
from secguard.video.signing import output

_SIZE = 96 << 20


def _resident(path: Path) -> int:
    """Kilobytes of the mapped file that are in this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        word = line.split(maxsplit=1)[0]
        if "-" in word and not word.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and word == "Rss:":
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux: /proc/self/smaps")
def test_pages_given_back_stay_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_RELEASE", 1 << 20)
    source = tmp_path / "large.bin"
    with source.open("wb") as file:
        file.truncate(_SIZE)
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pending = output.write_edits(data, [(0, 0, b"more")], tmp_path / "copy.bin", silent)
        resident = _resident(source)
    assert pending.size == _SIZE + 4
    pending.discard()
    assert resident < 24 << 10
