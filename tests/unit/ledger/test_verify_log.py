"""Whatever is changed in a stored log is found, and the finding names file and entry."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from secguard.core import Axis, Outcome, catalogue, describe, hint
from secguard.core.errors import FormatError, RefusedError, SecguardError
from secguard.events import Actor, Event
from secguard.keys import Algorithm, generate
from secguard.ledger import Ledger, NoteKey, verify_log
from secguard.ledger.bodies import prune_bodies, unpack_bodies
from secguard.ledger.note import format_checkpoint, parse_checkpoint, sign_note
from secguard.ledger.tiles import unpack_bundle

ORIGIN = "log.example/320116"
SIGNER = generate(Algorithm.ED25519)
KEY = NoteKey(ORIGIN, SIGNER.public_key())
NOW = datetime(2026, 10, 1, tzinfo=UTC)
ANCHOR = "anchor/log.example%2F320116.checkpoint"


def events(count: int, start: int = 0, **more: object) -> list[Event]:
    actor = Actor(name="a")
    return [
        Event(id=f"e{k}", kind="user.logged-in", time=NOW, actor=actor, **more) for k in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with Ledger.create(folder / "log", ORIGIN, anchor=folder / "anchor") as log:
        log.record(events(300))
        log.publish(SIGNER)
        log.record(events(10, 300))
        log.publish(SIGNER)
        log.record(events(2, 310))
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "copy")
    return tmp_path / "copy"


def codes(folder: Path, keys: list[NoteKey] | None = None) -> set[str]:
    verdict = verify_log(folder / "log", [KEY] if keys is None else keys, at=NOW)
    for item in verdict.findings:
        assert describe(item)
        assert "<" not in describe(item) + describe(item, "zh") + hint(item), item
        assert item.where, item
    return {item.code for item in verdict.findings}


def test_an_intact_log_passes(folder: Path) -> None:
    verdict = verify_log(folder / "log", [KEY], at=NOW)
    assert verdict.outcome is Outcome.PASS
    assert verdict.findings == ()
    assert set(verdict.axes) == {Axis.INTEGRITY, Axis.COMPLETENESS, Axis.PROVENANCE}


SMALL = ["public/checkpoint", "public/tile/0/001.p/44", "public/tile/0/001.p/54", "public/tile/1/000.p/1",
         "public/tile/entries/001.p/44", "public/tile/entries/001.p/54"]  # fmt: skip


def test_what_is_stored_is_what_we_think(folder: Path) -> None:
    public = folder / "log" / "public"
    found = {str(p.relative_to(folder / "log")) for p in public.rglob("*") if p.is_file()}
    assert found == {*SMALL, "public/tile/0/000", "public/tile/entries/000"}


@pytest.mark.parametrize(
    ("name", "width", "code"),
    [
        ("public/tile/0/000", 32, "ledger.tile.mismatch"),
        ("public/tile/0/001.p/44", 32, "ledger.tile.mismatch"),
        ("public/tile/0/001.p/54", 32, "ledger.tile.mismatch"),
        ("public/tile/1/000.p/1", 32, "ledger.tile.mismatch"),
        ("public/tile/entries/000", 34, "ledger.bundle.mismatch"),
        ("public/tile/entries/001.p/44", 34, "ledger.bundle.mismatch"),
        ("public/tile/entries/001.p/54", 34, "ledger.bundle.mismatch"),
    ],
)
def test_every_byte_of_tiles_and_bundles(folder: Path, name: str, width: int, code: str) -> None:
    """Byte k of every entry is changed at once, for every k: each entry must be named each time."""
    path = folder / "log" / name
    original = path.read_bytes()
    count = len(original) // width
    for at in range(width):
        changed = bytearray(original)
        for slot in range(count):
            changed[slot * width + at] ^= 1 << (at + slot) % 8
        path.write_bytes(changed)
        verdict = verify_log(folder / "log", [KEY], at=NOW)
        assert verdict.outcome is Outcome.FAIL
        if width == 34 and at < 2:  # the entry's length
            assert {item.code for item in verdict.findings} == {"ledger.bundle.damaged"}
            continue
        assert {item.code for item in verdict.findings} == {code}, at
        assert len(verdict.findings) == count, at
        assert all(item.where.startswith(name + ", ") for item in verdict.findings)


def test_every_single_length_byte_of_a_bundle(folder: Path) -> None:
    path = folder / "log" / "public/tile/entries/000"
    original = path.read_bytes()
    for slot in range(256):
        for at in (slot * 34, slot * 34 + 1):
            path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
            with pytest.raises(FormatError):
                unpack_bundle(path.read_bytes(), 256)
    assert codes(folder) == {"ledger.bundle.damaged"}


def test_every_byte_of_bodies(folder: Path) -> None:
    """Salt and event: byte k of all 256 at once, each must be named; magic and lengths: one by one."""
    path = folder / "log" / "bodies" / "000"
    original = path.read_bytes()
    head, salts = 4 + 1024, 4 + 1024 + 4096
    lengths = [int.from_bytes(original[4 + 4 * k : 8 + 4 * k], "big") for k in range(256)]
    starts = [salts + sum(lengths[:k]) for k in range(256)]
    rounds = [[(k, head + 16 * k + offset) for k in range(256)] for offset in range(16)]
    rounds += [[(k, starts[k] + offset) for k in range(256) if offset < lengths[k]] for offset in range(max(lengths))]
    assert sum(map(len, rounds)) == len(original) - head
    for places in rounds:
        changed = bytearray(original)
        for slot, at in places:
            changed[at] ^= 1 << slot % 8
        path.write_bytes(changed)
        verdict = verify_log(folder / "log", [KEY], at=NOW)
        wanted = {("ledger.body.mismatch", f"bodies/000, entry {slot}") for slot, _ in places}
        assert {(item.code, item.where) for item in verdict.findings} == wanted
    for at in range(head):
        with pytest.raises(FormatError):
            unpack_bodies(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
    path.write_bytes(b"s" + original[1:])
    assert codes(folder) == {"ledger.body.damaged"}


def test_every_byte_of_the_checkpoint(folder: Path) -> None:
    path = folder / "log" / "public" / "checkpoint"
    original = path.read_bytes()
    for at in range(len(original)):
        path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        assert verify_log(folder / "log", [KEY], at=NOW).outcome is Outcome.FAIL, at


def test_the_anchor_too(folder: Path) -> None:
    path = folder / ANCHOR
    original = path.read_bytes()
    for at in range(0, len(original), 7):
        path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        assert verify_log(folder / "log", [KEY], at=NOW).outcome is not Outcome.PASS, at


def test_every_byte_of_the_journal(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "log", ORIGIN, anchor=tmp_path / "anchor") as log:
        log.record(events(2))
        log.record(events(1, 2))
        log.publish(SIGNER)
        log.record(events(1, 3))
    (path,) = (tmp_path / "log" / "journal").iterdir()
    original = path.read_bytes()
    covered = original.rindex(b"SGJ1")  # what no checkpoint covers may read as a torn write: unknown
    for at in range(len(original)):
        path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        outcome = verify_log(tmp_path / "log", [KEY], at=NOW).outcome
        assert outcome is (Outcome.FAIL if at < covered else Outcome.UNKNOWN), at


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_one_wrong_entry_is_named(folder: Path) -> None:
    log = folder / "log"
    _flip(log / "bodies" / "000", 4 + 1024 + 10)
    _flip(log / "public/tile/entries/000", 34 * 7 + 5)
    _flip(log / "public/tile/0/000", 32 * 9)
    verdict = verify_log(log, [KEY], at=NOW)
    assert [(item.code, item.where) for item in verdict.findings] == [
        ("ledger.body.mismatch", "bodies/000, entry 0"),
        ("ledger.bundle.mismatch", "public/tile/entries/000, entry 7"),
        ("ledger.tile.mismatch", "public/tile/0/000, leaf 9"),
    ]
    assert verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("bodies/000", "ledger.body.missing"),
        ("public/tile/entries/000", "ledger.bundle.missing"),
        ("public/tile/0/000", "ledger.tile.missing"),
        ("public/tile/0/001.p/54", "ledger.tile.missing"),
        ("public/tile/1/000.p/1", "ledger.tile.missing"),
        ("public/tile/entries/001.p/54", "ledger.bundle.missing"),
        ("public/checkpoint", "ledger.checkpoint.missing"),
        (f"../{ANCHOR}", "ledger.anchor.missing"),
    ],
)
def test_missing_files(folder: Path, name: str, code: str) -> None:
    (folder / "log" / name).unlink()
    assert code in codes(folder)
    assert verify_log(folder / "log", [KEY], at=NOW).outcome is not Outcome.PASS


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("bodies/000", "ledger.body.damaged"),
        ("public/tile/entries/000", "ledger.bundle.damaged"),
        ("public/tile/0/000", "ledger.tile.damaged"),
        ("public/tile/entries/001.p/44", "ledger.bundle.damaged"),
        ("public/checkpoint", "ledger.checkpoint.damaged"),
        (f"../{ANCHOR}", "ledger.checkpoint.damaged"),
        ("state.json", "ledger.state.damaged"),
    ],
)
def test_cut_files(folder: Path, name: str, code: str) -> None:
    path = folder / "log" / name
    path.write_bytes(path.read_bytes()[:-3])
    assert code in codes(folder)


def test_foreign_files(folder: Path) -> None:
    for name in ("public/notes.txt", "public/tile/0/002", "bodies/001", "public/tile/entries/000.p/999"):
        path = folder / "log" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x")
        assert codes(folder) == {"ledger.file.unexpected"}
        path.unlink()


def test_keys_and_signatures(folder: Path) -> None:
    stranger = NoteKey(ORIGIN, generate(Algorithm.ED25519).public_key())
    assert codes(folder, [stranger]) == {"ledger.checkpoint.signature"}
    assert codes(folder, []) == {"ledger.checkpoint.unverified"}
    assert verify_log(folder / "log", [], at=NOW).outcome is Outcome.UNKNOWN
    signed = parse_checkpoint((folder / ANCHOR).read_bytes())
    other = sign_note(format_checkpoint(type(signed)("other.log", signed.size, signed.root)), "other.log", SIGNER)
    (folder / ANCHOR).write_bytes(other)
    assert "ledger.checkpoint.foreign" in codes(folder, [KEY, NoteKey("other.log", SIGNER.public_key())])


def test_nothing_signed_yet(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "log", ORIGIN, anchor=tmp_path / "anchor") as log:
        log.record(events(3))
    assert codes(tmp_path) == {"ledger.checkpoint.none"}


def test_entries_and_tiles_changed_together(folder: Path, tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "log", ORIGIN, anchor=tmp_path / "anchor") as log:
        log.record(events(310, 1))
        log.publish(generate(Algorithm.ED25519))
    for name in ("checkpoint",):
        shutil.copy(folder / "log" / "public" / name, tmp_path / "log" / "public" / name)
    shutil.copy(folder / ANCHOR, tmp_path / ANCHOR)
    assert codes(tmp_path) == {"ledger.root.mismatch"}


def test_the_newest_entries_removed(folder: Path, template: Path, tmp_path: Path) -> None:
    (path,) = (folder / "log" / "journal").iterdir()
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"SGJ1", data.index(b'"id":"e299"'))])
    assert "ledger.checkpoint.rollback" in codes(folder)
    with Ledger.open(folder / "log") as log:
        with pytest.raises(RefusedError) as caught:
            log.record(events(1, 999))
        assert caught.value.code == "ledger.checkpoint.rollback"
        with pytest.raises(RefusedError) as caught:
            log.publish(SIGNER)
        assert caught.value.code == "ledger.checkpoint.rollback"


def test_a_restored_backup_refuses_to_sign_a_second_history(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "log", ORIGIN, anchor=tmp_path / "elsewhere") as log:
        anchor = log.anchor
        log.record(events(300))
        log.publish(SIGNER)
        log.close()
        shutil.copytree(tmp_path / "log", tmp_path / "backup")
    with Ledger.open(tmp_path / "log") as log:
        log.record(events(5, 300))
        log.publish(SIGNER)
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "backup").rename(tmp_path / "log")
    assert {"ledger.checkpoint.rollback", "ledger.checkpoint.behind"} <= codes(tmp_path)
    with Ledger.open(tmp_path / "log") as log, pytest.raises(RefusedError) as caught:
        log.publish(SIGNER)
    assert caught.value.code == "ledger.checkpoint.rollback"

    # whoever had the backup written to while the anchor was out of reach meets the fork, not a signature
    newest = anchor.read_bytes()
    shutil.copy(tmp_path / "log" / "public" / "checkpoint", anchor)
    with Ledger.open(tmp_path / "log") as log:
        log.record(events(50, 9000))
        anchor.write_bytes(newest)
        before = log.checkpoint()
        with pytest.raises(RefusedError) as caught:
            log.publish(SIGNER)
        assert caught.value.code == "ledger.checkpoint.fork"
        assert log.checkpoint() == before
        assert anchor.read_bytes() == newest
    assert "ledger.root.mismatch" in codes(tmp_path)


def test_a_lost_anchor_stops_publishing(folder: Path) -> None:
    (folder / ANCHOR).unlink()
    with Ledger.open(folder / "log") as log:
        log.record(events(1, 400))
        with pytest.raises(RefusedError) as caught:
            log.publish(SIGNER)
        assert caught.value.code == "ledger.anchor.missing"


def test_two_publishers_meet_at_the_anchor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secguard.ledger.anchor import Anchor

    with Ledger.open(folder / "log") as log:
        stale = log.anchor.read_bytes() + b"x"
        monkeypatch.setattr(Anchor, "read", lambda self, real=Anchor.read: real(self))
        with pytest.raises(RefusedError) as caught:
            Anchor(log.anchor.parent, ORIGIN).swap(stale, b"new")
        assert caught.value.code == "ledger.anchor.changed"


def test_a_corrupt_checkpoint_is_one_clear_error(folder: Path) -> None:
    (folder / "log" / "public" / "checkpoint").write_bytes(b"garbage\n")
    with Ledger.open(folder / "log") as log:
        for act in (lambda: log.publish(SIGNER), lambda: log.receipt(3), lambda: log.record(events(1, 999))):
            with pytest.raises(SecguardError) as caught:
                act()
            assert caught.value.code == "ledger.checkpoint.format"
            assert caught.value.where.endswith("public/checkpoint")
            assert caught.value.hint


def test_pruned_bodies(folder: Path) -> None:
    log = folder / "log"
    prune_bodies(log / "bodies" / "000", {10, 11, 12, 200})
    assert codes(folder) == {"ledger.body.missing"}
    with Ledger.open(log) as ledger:
        with pytest.raises(RefusedError) as caught:
            ledger.event(11)
        assert caught.value.code == "ledger.body.pruned"
        assert [body is None for body in next(ledger.scan(9, 14)).bodies] == [False, True, True, True, False]
        record = Event(
            id="prune", kind="audit.pruned", time=NOW, actor=Actor(name="a"), data={"indexes": [[10, 12], [200, 200]]}
        )
        ledger.record([record])
        ledger.publish(SIGNER)
        assert ledger.receipt(9)
        verdict = verify_log(log, [KEY], at=NOW)
        assert verdict.outcome is Outcome.PASS, "a deletion that the log records is no violation"
        (cited,) = verdict.findings
        assert (cited.code, cited.where, cited.data["count"]) == ("ledger.body.pruned", "entry 312", 4)
        prune_bodies(log / "bodies" / "000", {13})
        verdict = verify_log(log, [KEY], at=NOW)
        assert [item.where for item in verdict.findings] == ["bodies/000, entry 13", "entry 312"]
        assert verdict.outcome is Outcome.FAIL


def test_a_record_explains_no_deletion_of_what_came_after_it(folder: Path) -> None:
    with Ledger.open(folder / "log") as ledger:
        everything = {"indexes": [[0, 2**62]]}
        ledger.record([Event(id="p", kind="audit.pruned", time=NOW, actor=Actor(name="a"), data=everything)])
        ledger.record(events(300, 400))
        ledger.publish(SIGNER)
    prune_bodies(folder / "log" / "bodies" / "001", {54, 58})
    verdict = verify_log(folder / "log", [KEY], at=NOW)
    assert [item.where for item in verdict.findings] == ["bodies/001, entry 314", "entry 312"]


@pytest.mark.parametrize("width", [1, 8, 4096])
def test_damage_to_the_id_index_is_found(folder: Path, width: int) -> None:
    """It would let a known event be recorded a second time."""
    (table,) = (folder / "log" / "ids").glob("*.tab")
    original = table.read_bytes()
    full = [at for at in range(4096, len(original), 8) if original[at : at + 8] != bytes(8)]
    slots = [at for at in full if at >= len(original) - (2 << 14) * 8]
    assert len(slots) == 256
    bits = [] if width == 1 else full[: len(full) - len(slots)]  # a bit too many in the filter costs a look, no more
    for place in slots[::16] + bits[::16]:
        at = place + place // 128 % 8 if width == 1 else place
        changed = bytes(byte ^ 0x40 for byte in original[at : at + width]) if width == 1 else bytes(width)
        table.write_bytes(original[:at] + changed + original[at + width :])
        assert codes(folder) == {"ledger.ids.damaged"}
    table.write_bytes(original)
    assert codes(folder) == set()
    (folder / "log" / "ids" / "secret").unlink()
    with Ledger.open(folder / "log") as log:
        assert all(item.duplicate for item in log.record(events(310)))
        log.record(events(300, 500))
        log.publish(SIGNER)
    assert codes(folder) == set()


def test_bytes_that_are_no_text_are_findings_too(folder: Path) -> None:
    with Ledger.open(folder / "log") as log:
        log.record([Event(id="p", kind="audit.pruned", time=NOW, actor=Actor(name="a"), subject="here")])
        log.record(events(300, 400))
        log.publish(SIGNER)
    path = folder / "log" / "bodies" / "001"
    path.write_bytes(path.read_bytes().replace(b"here", b"\xff\xfere"))
    assert codes(folder) == {"ledger.body.mismatch"}
    config = folder / "log" / "log.json"
    config.write_bytes(config.read_bytes().replace(b"example", b"ex\xe5mple"))
    with pytest.raises(FormatError) as caught:
        verify_log(folder / "log", [KEY], at=NOW)
    assert caught.value.code == "ledger.config.format"


def test_every_code_has_a_test() -> None:
    folders = (Path(__file__).parent, Path(__file__).parents[2] / "integration" / "ledger")
    text = "".join(path.read_text() for folder in folders for path in sorted(folder.glob("test_*.py")))
    assert [code for code in catalogue() if code.startswith("ledger.") and f'"{code}"' not in text] == []


def test_encoded_events_stay_as_they_are(folder: Path) -> None:
    with Ledger.open(folder / "log") as log:
        assert msgspec.json.decode(next(log.scan(0, 1)).bodies[0])["id"] == "e0"
