"""Following files: nothing twice, nothing left out, whatever rotation does."""

import gzip
import os
import random
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from secguard.audit.sources import tail as module
from secguard.audit.sources.content import Chunk, Gap, rotated_from
from secguard.audit.sources.tail import Tail
from secguard.core import FormatError

LIMIT = 256 << 10


class Follower:
    """Reads as the source does, and settles at once, unless told to crash."""

    def __init__(self, path: Path, pattern: str = "a.log") -> None:
        self.pattern, self.state = path / pattern, path / "state" / "a.json"
        self.now = 0.0
        self.lines: list[bytes] = []
        self.keys: list[tuple[str, int]] = []
        self.gaps: list[Gap] = []
        self.tail = Tail([self.pattern], self.state, LIMIT)

    def turn(self, *, settle: bool = True, seconds: float = 1.0) -> list[Chunk]:
        self.now += seconds
        self.tail.scan(self.now)
        self.gaps += self.tail.gaps()
        chunks = []
        while (chunk := self.tail.read()) is not None:
            chunks.append(chunk)
            for line in chunk.lines:
                self.keys.append((chunk.generation.name, line.offset))
                self.lines.append(line.data if line.data is not None else b"#" + line.sha256.encode())
            if settle:
                self.tail.settle(chunk.generation, chunk.end)
        return chunks

    def restart(self, *, save: bool = True) -> None:
        if not save:
            self.tail._dirty = False
        self.tail.close()
        self.tail = Tail([self.pattern], self.state, LIMIT)

    @property
    def once(self) -> list[bytes]:
        """The lines as the ledger takes them: by place, each once."""
        return list(dict(zip(self.keys, self.lines, strict=True)).values())


@pytest.fixture
def follow(tmp_path: Path) -> Generator[Callable[..., Follower]]:
    followers: list[Follower] = []

    def make(path: Path = tmp_path, pattern: str = "a.log") -> Follower:
        followers.append(Follower(path, pattern))
        return followers[-1]

    yield make
    for follower in followers:
        follower.tail.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "a.log"


def append(path: Path, *lines: str) -> None:
    with path.open("ab") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def test_lines_come_once_and_a_half_line_waits(follow: Callable[..., Follower], tmp_path: Path, log: Path) -> None:
    follower = follow()
    follower.turn()
    append(log, "one", "two")
    with log.open("ab") as file:
        file.write("half \u5f20".encode()[:-1])
    follower.turn()
    assert follower.lines == [b"one", b"two"]
    with log.open("ab") as file:
        file.write("\u5f20".encode()[-1:] + b"\r\n\n")
    follower.turn()
    assert follower.lines[2:] == ["half \u5f20".encode(), b""]
    assert not follower.gaps
    assert follower.state.stat().st_mode & 0o777 == 0o600


def test_a_restart_goes_on_and_a_crash_reads_again_under_the_same_names(
    follow: Callable[..., Follower], tmp_path: Path, log: Path
) -> None:
    append(log, *(f"line {n}" for n in range(10)))
    follower = follow()
    follower.turn()
    follower.restart()
    append(log, "more")
    follower.turn()
    assert follower.lines == [*(b"line %d" % n for n in range(10)), b"more"]
    append(log, "crash")
    follower.turn(settle=False)
    follower.restart(save=False)
    follower.turn()
    assert follower.lines.count(b"crash") == 2
    assert follower.once == [*(b"line %d" % n for n in range(10)), b"more", b"crash"]


def test_rotation_by_renaming(follow: Callable[..., Follower], tmp_path: Path, log: Path) -> None:
    append(log, "1", "2")
    follower = follow()
    follower.turn()
    append(log, "3")
    log.rename(tmp_path / "a.log.1")
    append(log, "4")
    append(tmp_path / "a.log.1", "late")  # the writer has it open still
    follower.turn()
    assert sorted(follower.lines) == [b"1", b"2", b"3", b"4", b"late"]
    with (tmp_path / "a.log.1").open("ab") as file:
        file.write(b"no line feed at the end")
    for _ in range(5):
        follower.turn(seconds=6)
    assert max(follower.lines) == b"no line feed at the end"
    assert len(follower.lines) == 6
    assert follower.tail.paths == [str(log)]
    assert not follower.gaps


@pytest.mark.parametrize("packed", [False, True])
def test_rotation_while_nothing_runs(follow: Callable[..., Follower], tmp_path: Path, log: Path, packed: bool) -> None:
    append(log, "1", "2")
    follower = follow()
    follower.turn()
    follower.tail.close()
    append(log, "3")
    old = tmp_path / "a.log.1"
    log.rename(old)
    if packed:
        (tmp_path / "a.log.1.gz").write_bytes(gzip.compress(old.read_bytes()))
        old.unlink()
    append(log, "4")
    follower.restart(save=False)
    follower.turn()
    follower.turn()
    assert sorted(follower.lines) == [b"1", b"2", b"3", b"4"]
    assert not follower.gaps


@pytest.mark.parametrize("packed", [False, True])
def test_rotation_by_copy_and_truncate(
    follow: Callable[..., Follower], tmp_path: Path, log: Path, packed: bool
) -> None:
    append(log, "1", "2")
    follower = follow()
    follower.turn()
    append(log, "3 not read before the copy is made")
    if packed:
        (tmp_path / "a.log.1.gz").write_bytes(gzip.compress(log.read_bytes()))
    else:
        shutil.copy(log, tmp_path / "a.log.1")
    follower_names = {name for name, _ in follower.keys}
    os.truncate(log, 0)
    append(log, "4")
    follower.turn()
    assert sorted(follower.lines) == [b"1", b"2", b"3 not read before the copy is made", b"4"]
    assert len({name for name, _ in follower.keys} - follower_names) == 1
    assert not follower.gaps
    # The hole that a writer leaves which goes on at its old offset.
    os.truncate(log, 0)
    with log.open("r+b") as file:
        file.seek(100_000)
        file.write(b"5 after a hole\n")
    follower.turn()
    assert follower.lines[-1] == b"5 after a hole"


def test_a_copy_that_the_pattern_takes_in_too_is_read_once(
    follow: Callable[..., Follower], tmp_path: Path, log: Path
) -> None:
    append(log, "1", "2")
    follower = follow(pattern="a.log*")
    follower.turn()
    shutil.copy(log, tmp_path / "a.log.1")
    follower.turn()
    os.truncate(log, 0)
    append(log, "3")
    for _ in range(3):
        follower.turn(seconds=20)
    assert sorted(follower.once) == [b"1", b"2", b"3"]


def test_what_is_gone_is_said(follow: Callable[..., Follower], tmp_path: Path, log: Path) -> None:
    append(log, "1", "2")
    follower = follow()
    follower.turn()
    append(log, "3", "4")
    follower.tail.scan(5)
    os.truncate(log, 0)
    follower.turn()
    (gap,) = follower.gaps
    assert (gap.path, gap.bytes, gap.how) == (str(log), 4, "the file was truncated")
    append(log, "5")
    follower.turn()
    follower.tail.close()
    log.unlink()
    follower.restart(save=False)
    follower.turn()
    assert [gap.how for gap in follower.gaps] == ["the file was truncated", "the file is gone"]


def test_a_file_written_anew_and_renamed_over_goes_on(
    follow: Callable[..., Follower], tmp_path: Path, log: Path
) -> None:
    append(log, "1", "2")
    follower = follow()
    follower.turn()
    beside = tmp_path / "tmp"
    beside.write_bytes(log.read_bytes() + b"3\n")
    beside.replace(log)
    follower.turn()
    follower.turn()
    assert follower.once == [b"1", b"2", b"3"]


def test_two_files_that_begin_alike_are_two(follow: Callable[..., Follower], tmp_path: Path) -> None:
    follower = follow(pattern="*.log")
    for name in ("cam1.log", "cam10.log"):
        append(tmp_path / name, "# header")
    follower.turn()
    append(tmp_path / "cam10.log", "x")
    follower.turn()
    assert follower.lines == [b"# header", b"# header", b"x"]


def test_another_log_beside_is_no_rotated_one(follow: Callable[..., Follower], tmp_path: Path, log: Path) -> None:
    append(log, "one")
    for name in ("a-error.log", "a.err", "a.log.swp", "ab.log"):
        append(tmp_path / name, "other")
    follower = follow()
    follower.turn()
    for name in ("a-error.log", "a.err", "a.log.swp", "ab.log", "a-error.log.1"):
        append(tmp_path / name, "other again")
    append(tmp_path / "a.log.2026-11-23_08-00-00.1", "rotated before it was seen")
    follower.turn()
    assert follower.lines == [b"one", b"rotated before it was seen"]


@pytest.mark.parametrize(
    ("name", "pattern", "is_rotated"),
    [
        ("a.log.1.gz", "a.log", True),
        ("a-20261101.log", "a.log", True),
        ("a.2026-11-23_08-00-00_123456.log", "a.log", True),
        ("a.log.old", "a.log", True),
        ("cam-1.log.2", "cam-1.log", True),
        ("cam-1-20261101.log", "cam-1.log", True),
        ("op-2.log.1", "op-*.log", True),
        ("op-error.log.1", "op.log", False),
        ("op-error.log", "op.log", False),
        ("op.err", "op.log", False),
        ("op-1.log", "op.log", False),
        ("op.2.log", "op.log", False),
        ("op-1.log.1", "op.log", False),
        ("op-old.log", "op.log", False),
        ("op-32011600001310000001.log", "op.log", False),
        ("op-2026-11.log.gz", "op.log", True),
        ("op-2026-11-23-1.log", "op.log", True),
        ("op.log-20261123T080000Z.gz", "op.log", True),
        ("messages-20261101", "messages", True),
    ],
)
def test_names_of_rotated_files(name: str, pattern: str, is_rotated: bool) -> None:
    assert rotated_from(name, pattern) is is_rotated


def test_a_line_too_long_is_hashed_and_passed_over(follow: Callable[..., Follower], tmp_path: Path, log: Path) -> None:
    import hashlib

    long = b"x" * (900 << 10)
    log.write_bytes(b"1\n" + long + b"\n2\n" + b"y" * (LIMIT + 1) + b"\n3\n")
    follower = follow()
    follower.turn(settle=True)
    digests = [hashlib.sha256(item).hexdigest().encode() for item in (long, b"y" * (LIMIT + 1))]
    assert follower.lines == [b"1", b"#" + digests[0], b"2", b"#" + digests[1], b"3"]
    assert [offset for _, offset in follower.keys][:3] == [0, 2, len(long) + 3]


def test_begin_at_the_end_only_the_first_time(follow: Callable[..., Follower], tmp_path: Path, log: Path) -> None:
    append(log, "old")
    state = tmp_path / "state" / "b.json"
    tail = Tail([log], state, LIMIT, from_end=True)
    assert tail.read() is None
    append(log, "new")
    chunk = tail.read()
    assert chunk is not None
    assert [line.data for line in chunk.lines] == [b"new"]
    tail.close()
    append(tmp_path / "a.log", "newer")
    tail = Tail([log], state, LIMIT, from_end=True)
    chunk = tail.read()
    assert chunk is not None
    assert b"newer" in [line.data for line in chunk.lines]
    tail.close()


def test_damaged_positions_are_refused(follow: Callable[..., Follower], tmp_path: Path, log: Path) -> None:
    state = tmp_path / "s.json"
    state.write_text("{")
    with pytest.raises(FormatError) as caught:
        Tail([log], state, LIMIT)
    assert caught.value.code == "audit.source.state"


def test_any_order_of_writing_rotating_and_crashing(
    follow: Callable[..., Follower], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random histories; every line that was written comes exactly once, as the ledger counts."""
    rounds = 150 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 12
    monkeypatch.setattr(module, "_CHUNK", 512)
    for seed in range(rounds):
        rng = random.Random(seed)
        place = tmp_path / str(seed)
        place.mkdir()
        log = place / "a.log"
        follower = follow(place)
        written: list[bytes] = []
        moved = 0
        for step in range(60):
            match rng.randrange(8):
                case 0 | 1 | 2 | 3:
                    lines = [f"{seed}-{step}-{n}-" + "z" * rng.randrange(200) for n in range(rng.randrange(1, 9))]
                    append(log, *lines)
                    written += [line.encode() for line in lines]
                case 4:
                    follower.turn(settle=rng.random() < 0.5, seconds=rng.choice([0.25, 20]))
                case 5:
                    follower.restart(save=rng.random() < 0.5)
                case 6 if log.exists():
                    moved += 1
                    log.rename(place / f"a.log.{moved}")
                case 7 if log.exists():
                    moved += 1
                    shutil.copy(log, place / f"a.log.{moved}")
                    os.truncate(log, 0)
                    follower.turn(settle=rng.random() < 0.5)
        follower.turn()
        follower.turn()
        assert sorted(follower.once) == sorted(written), seed
        assert not [gap for gap in follower.gaps if gap.bytes], seed
        follower.tail.close()
