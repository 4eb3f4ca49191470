"""What a crash, a torn write or a damaged disk leaves is repaired and said, or refused with a reason."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secguard.core import Outcome
from secguard.core.errors import FormatError, RefusedError
from secguard.events import Actor, Event
from secguard.keys import Algorithm, generate
from secguard.ledger import Ledger, NoteKey, open_checkpoint, verify_log
from secguard.ledger.bodies import prune_bodies

CHILD = Path(__file__).with_name("acks.py")
NOW = datetime(2026, 10, 1, tzinfo=UTC)
ORIGIN = "log.example/1"
SIGNER = generate(Algorithm.ED25519)
KEY = NoteKey(ORIGIN, SIGNER.public_key())


def events(count: int, start: int = 0) -> list[Event]:
    actor = Actor(name="a")
    return [Event(id=f"e{k}", kind="user.logged-in", time=NOW, actor=actor) for k in range(start, start + count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Ledger.create(tmp_path / "log", ORIGIN, anchor=tmp_path / "anchor").close()
    return tmp_path / "log"


def codes(root: Path) -> set[str]:
    return {item.code for item in verify_log(root, [KEY], at=NOW).findings}


def test_killed_in_a_loop(root: Path, tmp_path: Path) -> None:
    """kill -9 at random moments; events of up to 97 a batch, integration every 700 entries, checkpoints in between."""
    acked: list[int] = []
    first = 0
    luck = random.Random(7)
    for round_ in range(40 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 4):
        out = (tmp_path / "out").open("wb")
        command = [sys.executable, str(CHILD), str(root), "forever", str(first), "0", "97"]
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while (tmp_path / "out").stat().st_size < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(luck.random() * 0.25)
        child.send_signal(signal.SIGKILL)
        _, problem = child.communicate()
        out.close()
        lines = (tmp_path / "out").read_text().split("\n")
        assert not any(line.startswith("error") for line in lines), (lines[-3:], problem)
        acked += [int(line.split()[1]) for line in lines if line.startswith("ack ")]
        first = acked[-1] + 1
        with Ledger.open(root) as log:
            size = log.size
            for number in (acked[0], acked[-1], *luck.sample(acked, min(20, len(acked)))):
                count = 1 + number * 37 % 97
                assert log.find(f"{number}-0") is not None
                assert log.find(f"{number}-{count - 1}") is not None
            assert size >= sum(1 + number * 37 % 97 for number in acked)
            if round_ % 3 == 1:
                open_checkpoint(log.publish(SIGNER), [KEY])
                assert codes(root) == set()
    assert acked == sorted(set(acked))


@pytest.mark.parametrize("through", ["lock", "socket"])
def test_two_writers_at_once(root: Path, through: str) -> None:
    """Processes record at the same time; nothing is lost, doubled or interleaved wrongly."""
    children = []
    if through == "socket":
        children.append(
            subprocess.Popen([sys.executable, str(CHILD), str(root), "socket", "900", "40", "8"], stdout=-1)
        )
    for k in range(3):
        command = [sys.executable, str(CHILD), str(root), "record", str(100 * k), "40", "8"]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    outputs = [child.communicate(timeout=100)[0].decode() for child in children]
    assert all(child.returncode == 0 for child in children)
    assert all(text.count("ack ") == 40 and "error" not in text for text in outputs), outputs
    with Ledger.open(root) as log:
        assert log.size == 320 * len(children)
        bodies = [body for block in log.scan() for body in block.bodies]
        assert len(set(bodies)) == len(bodies)
        for k in range(3):
            assert log.event(log.find(f"{100 * k}-0") + 7).id == f"{100 * k}-7", "a batch stays together"
        log.publish(SIGNER)
    assert codes(root) == set()


def journal(root: Path) -> Path:
    return max((root / "journal").iterdir())


def test_a_torn_tail_is_cut_off_and_said(root: Path) -> None:
    with Ledger.open(root) as log:
        log.record(events(3))
        whole = journal(root).stat().st_size
        log.record(events(3, 3))
    data = journal(root).read_bytes()
    for cut in [*range(whole + 1, whole + 60), len(data) - 1]:
        journal(root).write_bytes(data[:cut])
        assert "ledger.journal.torn" in codes(root)
        with Ledger.open(root) as log:
            assert log.size == 3
            assert log.record(events(1, 9))[0].index == 3
            assert len(log.notices) == 1
            assert f"cut {cut - whole} bytes" in log.notices[0]
            assert log.event(3).id == "e9"
    for tail in (bytes(4096), b"SGJ1" * 50, os.urandom(300), data[whole:-1] + bytes(500)):
        journal(root).write_bytes(data[:whole] + tail)
        with Ledger.open(root) as log:
            assert log.record(events(1, 9))[0].index == 3
            assert log.notices


def test_damage_in_the_middle_is_refused(root: Path) -> None:
    with Ledger.open(root) as log:
        for k in range(5):
            log.record(events(3, 3 * k))
    data = bytearray(journal(root).read_bytes())
    data[data.index(b'"e4"')] ^= 1
    journal(root).write_bytes(data)
    with Ledger.open(root) as log:
        with pytest.raises(RefusedError) as caught:
            log.record(events(1, 99))
        assert caught.value.code == "ledger.journal.damaged"
        assert "byte" in caught.value.where
    assert journal(root).read_bytes() == data, "a refusal changes nothing"


def test_segments_rotate_and_retire(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secguard.ledger.journal.SEGMENT_BYTES", 20_000)
    with Ledger.open(root) as log, Ledger.open(root) as reader:
        for k in range(40):
            log.record(events(50, 50 * k))
            assert reader.size == 50 * (k + 1)
        assert len(list((root / "journal").iterdir())) > 3
        assert codes(root) == {"ledger.checkpoint.none"}
        log.publish(SIGNER)
        assert len(list((root / "journal").iterdir())) <= 2, "the tail is not in a full bundle yet"
        assert reader.event(3).id == "e3"
        assert reader.event(1999).id == "e1999"
        assert [body for block in reader.scan(0, 2000) for body in block.bodies][777].startswith(b'{"id":"e777"')
        assert reader.find("e5") == 5
        assert log.record(events(50, 1980))[20].index == 2000
        assert codes(root) == set()
    min((root / "journal").iterdir()).unlink()
    with pytest.raises(RefusedError) as caught:
        Ledger.open(root)
    assert caught.value.code == "ledger.journal.gap"
    assert "ledger.journal.damaged" in codes(root)


def test_a_journal_that_is_gone(root: Path) -> None:
    with Ledger.open(root) as log:
        log.record(events(300))
        log.publish(SIGNER)
    journal(root).unlink()
    with Ledger.open(root) as log:
        with pytest.raises(RefusedError) as caught:
            log.record(events(1, 999))
        assert caught.value.code == "ledger.checkpoint.rollback"
    assert "ledger.checkpoint.rollback" in codes(root)


def test_work_broken_off_is_done_again(root: Path) -> None:
    """Tiles written and not yet counted, as after a power cut: garbage there must not matter."""
    with Ledger.open(root) as log:
        log.record(events(700))
        before = (root / "state.json").read_bytes()
        shutil.copytree(root / "journal", root / "journal.old")
        log.publish(SIGNER)
    shutil.rmtree(root / "journal")
    (root / "journal.old").rename(root / "journal")
    (root / "state.json").write_bytes(before)
    (root / "bodies" / "001").write_bytes(b"half")
    (root / "public/tile/0/000").write_bytes(b"half")
    with Ledger.open(root) as log:
        assert log.size == 700
        assert all(item.duplicate for item in log.record(events(700)))
        log.record(events(10, 700))
        log.publish(SIGNER)
        assert log.find("e3") == 3
    assert codes(root) == set()


def test_the_id_index_can_be_thrown_away(root: Path) -> None:
    with Ledger.open(root) as log:
        for k in range(60):
            log.record(events(10, 10 * k))
        log.publish(SIGNER)
    shutil.rmtree(root / "ids")
    with Ledger.open(root) as log:
        assert log.find("e17") == 17
        assert all(item.duplicate for item in log.record(events(600)))
    for path in (root / "ids").glob("*.tab"):
        path.write_bytes(b"junk")
    with Ledger.open(root) as log:
        assert log.find("e599") == 599
        assert log.record(events(1, 3))[0].duplicate
    prune_bodies(root / "bodies" / "000", {5})
    (root / "ids" / "building").touch()  # as if a rebuild had been broken off
    with Ledger.open(root) as log:
        assert (log.find("e4"), log.find("e5"), log.find("e6")) == (4, None, 6)


def test_a_damaged_state_or_configuration_is_one_clear_error(root: Path) -> None:
    state, config = (root / "state.json").read_bytes(), (root / "log.json").read_bytes()
    for at in range(0, len(state), 3):
        (root / "state.json").write_bytes(state[:at] + b"#" + state[at + 1 :])
        with pytest.raises(FormatError) as caught:
            Ledger.open(root)
        assert caught.value.code == "ledger.state.damaged"
    (root / "state.json").write_bytes(state)
    for broken in (b"", b"{}", config.replace(b'"v":1', b'"v":2'), config[:-4]):
        (root / "log.json").write_bytes(broken)
        with pytest.raises(FormatError):
            Ledger.open(root)


@pytest.mark.parametrize("size", [255, 256, 257, 65536, 70000])
def test_sizes(root: Path, size: int) -> None:
    from secguard.ledger.merkle import root_of
    from secguard.ledger.tiles import needed_tiles, tile_path

    hashes = []
    batches = (events(min(4096, size - at), at) for at in range(0, size, 4096))
    with Ledger.open(root) as log:
        for part in log.ingest(batches):
            hashes += [item.leaf_hash for item in part]
        signed = open_checkpoint(log.publish(SIGNER), [KEY])
        assert signed.size == size == len(hashes)
        assert signed.root == root_of(b"".join(hashes))
        stored = {
            str(path.relative_to(root / "public"))
            for path in (root / "public" / "tile").rglob("*")
            if path.is_file() and "entries" not in path.parts
        }
        assert stored == {tile_path(*place) for place in needed_tiles(size)}
        for index in {0, 1, size // 2, size - 1}:
            assert log.find(f"e{index}") == index
            assert log.receipt(index)
        verdict = verify_log(root, [KEY], at=NOW)
        assert verdict.outcome is Outcome.PASS, verdict.findings[:3]


def test_verifying_a_log_that_grows_meanwhile_raises_no_alarm(root: Path, tmp_path: Path) -> None:
    """Integrators turn segments into tiles, and delete them, between any two looks of the verifier."""
    command = [sys.executable, str(CHILD), str(root), "forever", "0", "0", "97"]
    with (tmp_path / "out").open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while (tmp_path / "out").stat().st_size < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        alarms: set[str] = set()
        sizes = set()
        until = time.monotonic() + (60 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 4)
        while time.monotonic() < until:
            verdict = verify_log(root, [KEY], at=NOW)
            sizes.add(verdict.subject)
            alarms |= {str(item) for item in verdict.findings if item.outcome is Outcome.FAIL}
        assert not alarms
        assert len(sizes) > 1
    finally:
        child.kill()
        child.wait()
