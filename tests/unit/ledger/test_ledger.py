"""The ledger as its users see it: record, read back, publish, prove; and refuse."""

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core.errors import FormatError, RefusedError, SecguardError, UsageError
from secguard.events import Actor, Event, new_event_id
from secguard.keys import Algorithm, KeySigner, generate
from secguard.ledger import (
    Ledger,
    NoteKey,
    check_receipt,
    check_receipts,
    open_checkpoint,
    parse_checkpoint,
    receipt_chain,
    receipt_crls,
    receipt_origin,
)
from secguard.ledger.bodies import commit
from secguard.ledger.merkle import leaf_hash, root_of, verify_consistency

ORIGIN = "log.example/320116"
SIGNER = generate(Algorithm.ED25519)
KEY = NoteKey(ORIGIN, SIGNER.public_key())
TIME = datetime(2026, 10, 1, 8, tzinfo=UTC)


def events(count: int, start: int = 0) -> list[Event]:
    actor = Actor(name="王芳")
    return [
        Event(
            id=f"event-{k}", kind="video.viewed", time=TIME, actor=actor, subject="32011500001320000001", data={"n": k}
        )
        for k in range(start, start + count)
    ]


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger.create(tmp_path / "state" / "ledger", ORIGIN, anchor=tmp_path / "anchor" / "checkpoint") as made:
        yield made


def test_record_and_read_back(ledger: Ledger) -> None:
    batch = events(300)
    receipts = ledger.record(batch)
    assert [item.index for item in receipts] == list(range(300))
    assert [item.event_id for item in receipts[:2]] == ["event-0", "event-1"]
    assert not any(item.duplicate for item in receipts)
    assert ledger.size == 300
    assert ledger.event(299) == batch[299]
    assert ledger.find("event-123") == 123
    assert ledger.find("nobody") is None
    bodies = [body for block in ledger.scan() for body in block.bodies]
    assert msgspec.json.decode(bodies[7], type=Event) == batch[7]
    assert [block.first for block in ledger.scan(5, 9)] == [5]
    assert ledger.record([]) == []


def test_retries_are_recorded_once(ledger: Ledger) -> None:
    first = ledger.record(events(3))
    again = ledger.record([*events(5), events(1, 4)[0]])
    assert [(item.index, item.duplicate) for item in again] == [
        (0, True), (1, True), (2, True), (3, False), (4, False), (4, True),
    ]  # fmt: skip
    assert again[0].leaf_hash == first[0].leaf_hash
    ledger.publish(SIGNER)
    ledger.record(events(600, 5))
    ledger.publish(SIGNER)  # now most IDs are in the tables, no longer in memory
    with Ledger.open(ledger.root) as other:
        assert all(item.duplicate for item in other.record(events(605)))
        assert other.size == 605
        assert other.find("event-17") == 17


def test_another_process_sees_and_continues(ledger: Ledger) -> None:
    with Ledger.open(ledger.root) as other:
        ledger.record(events(10))
        assert other.size == 10
        assert other.record(events(10, 10))[0].index == 10
        assert ledger.size == 20
        assert ledger.record(events(1, 20))[0].index == 20
        other.publish(SIGNER)
        assert ledger.event(3).id == "event-3"


def test_ingest_pipelines_and_keeps_order(ledger: Ledger) -> None:
    batches = [events(100, 100 * k) for k in range(12)]
    batches.append(events(50))  # all of them again
    seen = list(ledger.ingest(iter(batches)))
    assert [item.index for part in seen[:12] for item in part] == list(range(1200))
    assert all(item.duplicate for item in seen[12])
    hashes = [item.leaf_hash for part in seen[:12] for item in part]
    note = ledger.publish(SIGNER)
    assert open_checkpoint(note, [KEY]).root == root_of(b"".join(hashes))


def test_long_batches_are_split(ledger: Ledger) -> None:
    receipts = ledger.record(events(9000))
    assert len(receipts) == 9000
    assert [receipts[k].index for k in (0, 4096, 8999)] == [0, 4096, 8999]
    assert receipts[8999].leaf_hash != receipts[0].leaf_hash


def test_the_tree_is_that_of_the_bodies(ledger: Ledger) -> None:
    ledger.record(events(700))
    note = ledger.publish(SIGNER)
    hashes = b""
    for index in range(700):
        salt, body = ledger._reader.entry(index)
        assert body is not None
        hashes += leaf_hash(commit(salt, body))
    assert parse_checkpoint(note).root == root_of(hashes)
    salts = {ledger._reader.entry(index)[0] for index in range(700)}
    assert len(salts) == 700, "every event has a salt of its own"


@settings(max_examples=15)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_consistency_between_all_published_sizes(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    folder = tmp_path_factory.mktemp("log")
    with Ledger.create(folder / "ledger", ORIGIN, anchor=folder / "anchor") as log:
        roots: dict[int, bytes] = {}
        total = 0
        for step in steps:
            log.record(events(step, total))
            total += step
            signed = open_checkpoint(log.publish(SIGNER), [KEY])
            assert signed.size == total
            roots[total] = signed.root
        for old, before in roots.items():
            for new, after in roots.items():
                if 0 < old <= new:
                    verify_consistency(old, before, new, after, log.consistency(old, new))
        with pytest.raises(UsageError):
            log.consistency(0, total)
        with pytest.raises(UsageError):
            log.consistency(1, total + 1)


def test_receipts_offline(ledger: Ledger) -> None:
    batch = events(600)
    ledger.record(batch)
    with pytest.raises(RefusedError) as caught:
        ledger.receipt(5)
    assert caught.value.code == "ledger.receipt.unpublished"
    ledger.publish(SIGNER)
    for index in (0, 255, 256, 511, 512, 599):
        data = ledger.receipt(index, ["PEM 1", "PEM 2"], [b"crl"])
        assert receipt_chain(data) == ["PEM 1", "PEM 2"]
        assert receipt_crls(data) == [b"crl"]
        assert receipt_origin(data) == ORIGIN
        checked = check_receipt(data, [KEY])
        assert checked == (batch[index], index, 600)
    documents = [ledger.receipt(index) for index in range(20)]
    assert [item.index for item in check_receipts(documents, [KEY])] == list(range(20))
    with pytest.raises(UsageError):
        ledger.receipt(600)
    with pytest.raises(RefusedError) as caught:
        check_receipt(documents[0], [NoteKey(ORIGIN, generate(Algorithm.ED25519).public_key())])
    assert caught.value.code == "ledger.checkpoint.signature"


def test_every_changed_byte_of_a_receipt_is_refused(ledger: Ledger) -> None:
    batch = events(5)
    ledger.record(batch)
    ledger.publish(SIGNER)
    data = ledger.receipt(3)
    for at in range(len(data) - 1):  # the last byte is the newline of the file
        changed = bytearray(data)
        changed[at] ^= 1
        try:
            checked = check_receipt(bytes(changed), [KEY])
        except SecguardError:
            continue
        # JSON that says the same with other white space or escapes proves the same
        assert checked == (batch[3], 3, 5), at


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_hostile_receipts(data: bytes) -> None:
    for make in (data, b'{"schema":"secguard.ledger.receipt/1","proof":"' + data + b'"}'):
        with pytest.raises(FormatError):
            check_receipt(make, [KEY])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("proof", "c2sp.org/tlog-proof@v1\nindex 0\n" + "AAAA\n" * 70 + "\n"),
        ("proof", "c2sp.org/tlog-proof@v1\nindex 00\n\n"),
        ("proof", "c2sp.org/tlog-proof@v1\n\n"),
        ("proof", "x"),
        ("salt", "AAAA"),
        ("event", ""),
        ("schema", "other/1"),
        ("chain", ["x"] * 20),
    ],
)
def test_malformed_receipts(ledger: Ledger, field: str, value: object) -> None:
    ledger.record(events(1))
    ledger.publish(SIGNER)
    document = json.loads(ledger.receipt(0))
    document[field] = value
    with pytest.raises(FormatError):
        check_receipt(json.dumps(document).encode(), [KEY])


def test_what_cannot_be_encoded_is_refused_and_nothing_is_written(ledger: Ledger) -> None:
    good = events(2)
    huge = msgspec.structs.replace(good[1], id="huge", data={"x": "y" * 70_000})
    odd = msgspec.structs.replace(good[1], id="odd", data={"x": object()})
    half = msgspec.structs.replace(good[1], id="half", subject="\ud800")
    for bad in (huge, odd, half):
        with pytest.raises(FormatError):
            ledger.record([good[0], bad])
        assert ledger.size == 0
    assert ledger.record(good)[1].index == 1


def test_strange_ids(ledger: Ledger) -> None:
    names = ['quote"', "back\\slash", "新事件", "tab\t", "x" * 128, "\u2028", "{}"]
    batch = [msgspec.structs.replace(events(1)[0], id=name) for name in names]
    ledger.record(batch)
    ledger.record(events(300))
    ledger.publish(SIGNER)
    with Ledger.open(ledger.root) as other:
        assert [other.find(name) for name in names] == list(range(len(names)))
        assert all(item.duplicate for item in other.record(batch))


def test_create_refuses_what_is_there(tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    with Ledger.create(tmp_path / "a", ORIGIN, anchor=anchor) as log:
        log.record(events(1))
        log.publish(SIGNER)
    with pytest.raises(RefusedError) as caught:
        Ledger.create(tmp_path / "a", ORIGIN, anchor=anchor)
    assert caught.value.code == "ledger.exists"
    with pytest.raises(RefusedError) as caught:
        Ledger.create(tmp_path / "b", ORIGIN, anchor=anchor)
    assert caught.value.code == "ledger.anchor.taken"
    with pytest.raises(UsageError):
        Ledger.create(tmp_path / "c", "has space", anchor=tmp_path / "c.anchor")
    with pytest.raises(UsageError) as caught:
        Ledger.open(tmp_path / "nowhere")
    assert caught.value.code == "ledger.missing"


def test_only_ed25519_signs(ledger: Ledger) -> None:
    ledger.record(events(1))
    for algorithm in (Algorithm.P256, Algorithm.P384):
        with pytest.raises(UsageError):
            ledger.publish(generate(algorithm))
    assert ledger.checkpoint() is None


def test_publishing_again_says_the_same(ledger: Ledger) -> None:
    ledger.record(events(3))
    assert ledger.publish(SIGNER) == ledger.publish(SIGNER) == ledger.checkpoint() == ledger.anchor.read_bytes()


def test_an_empty_log_can_be_signed(ledger: Ledger) -> None:
    assert open_checkpoint(ledger.publish(SIGNER), [KEY]).size == 0
    ledger.record(events(1))
    assert open_checkpoint(ledger.publish(SIGNER), [KEY]).size == 1


def test_no_key_is_needed_to_append(ledger: Ledger) -> None:
    assert isinstance(SIGNER, KeySigner)
    assert ledger.record(events(1))[0].index == 0  # nobody gave a key


def test_new_ids_are_unique() -> None:
    assert len({new_event_id() for _ in range(1000)}) == 1000
