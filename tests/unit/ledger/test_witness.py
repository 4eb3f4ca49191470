"""Witnesses: what they cosign, what they refuse, and that the deletion of a log's newest entries is found."""

import base64
import contextlib
import errno
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core import FixedClock, Outcome
from secguard.core.errors import FormatError, RefusedError, SecguardError, UsageError
from secguard.events import Actor, Event
from secguard.keys import Algorithm, KeySigner, generate
from secguard.ledger import Ledger, NoteKey, parse_checkpoint, verify_log
from secguard.ledger.merkle import root_of
from secguard.ledger.note import Checkpoint, format_checkpoint, sign_note
from secguard.ledger.witness import (
    Peer,
    Witness,
    WitnessHome,
    WitnessKey,
    add_cosignatures,
    ask,
    cosign,
    cosignatures,
    parse_verifier,
    read_cosigned,
)
from secguard.ledger.witness.request import format_request, parse_request

ORIGIN = "log.example/320116"
SIGNER = generate(Algorithm.ED25519)
KEY = NoteKey(ORIGIN, SIGNER.public_key())
W_SIGNER = generate(Algorithm.ED25519)
W_KEY = WitnessKey("witness.example/w1", W_SIGNER.public_key())
NOW = datetime(2026, 10, 1, 8, tzinfo=UTC)


def events(start: int, stop: int, text: str = "") -> list[Event]:
    actor = Actor(name="a")
    return [Event(id=f"e{k}{text}", kind="user.logged-in", time=NOW, actor=actor) for k in range(start, stop)]


@pytest.fixture
def log(tmp_path: Path):
    with Ledger.create(tmp_path / "site" / "log", ORIGIN, anchor=tmp_path / "site" / "anchor") as log:
        log.record(events(0, 300))
        log.publish(SIGNER)
        yield log


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness", W_KEY.name, W_SIGNER, [KEY], FixedClock(NOW))


def submit(witness: Witness, log: Ledger, old: int = 0, note: bytes | None = None):
    note = note or log.checkpoint()
    size = parse_checkpoint(note).size
    return witness.add_checkpoint(format_request(old, log.consistency(old, size) if 0 < old <= size else [], note))


# cosignatures


def test_a_cosignature_of_another_implementation_holds() -> None:
    """Made by torchwood 0.9.0 (Go), with the key 00 01 02 ... 1f."""
    note = (
        "log.example/320116\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n"
        "\u2014 witness.example/w1 "
        "519lMgAAAABrA/KkO4Wa3GBOapwrE4cSk8B3p+932FHD6pSRlsoOP6mzhAGzpL8UfSPLyUHE5NrWHxdQEzoE3AAOeW8nnv7zBTfvAA==\n"
    ).encode()
    key = WitnessKey.parse("witness.example/w1+e75f6532+BAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4")
    (given,) = cosignatures(note, [key])
    assert given.name == "witness.example/w1"
    signer = KeySigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    text, line = note.split(b"\n\n")
    assert cosign(text + b"\n", given.name, signer, int(given.time.timestamp())) == line
    assert key.vkey() == "witness.example/w1+e75f6532+BAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
    assert WitnessKey("witness.example/w1", signer.public_key()) == key


def test_verifier_keys() -> None:
    assert WitnessKey.parse(W_KEY.vkey()) == W_KEY
    assert parse_verifier(W_KEY.vkey()) == W_KEY
    assert parse_verifier(KEY.vkey()) == KEY
    for text in ("", "a+b", KEY.vkey(), W_KEY.vkey().replace("w1", "w2"), W_KEY.vkey()[:-5] + "AAAA="):
        with pytest.raises(FormatError) as caught:
            WitnessKey.parse(text)
        assert caught.value.code == "ledger.witness.key"


def test_cosignatures_are_of_one_key_one_text_and_one_time() -> None:
    text = format_checkpoint(Checkpoint(ORIGIN, 7, bytes(32)))
    note = sign_note(text, ORIGIN, SIGNER)
    early, late = (cosign(text, W_KEY.name, W_SIGNER, seconds) for seconds in (1_000, 2_000))
    assert cosignatures(note, [W_KEY]) == []
    (one,) = cosignatures(note + late + early, [W_KEY])
    assert one.time == datetime.fromtimestamp(2_000, UTC), "the latest of a witness counts"
    both = add_cosignatures(add_cosignatures(note, late, [W_KEY]), early, [W_KEY])
    assert both == note + early, "what it said last replaces what it said before"
    stranger = generate(Algorithm.ED25519)
    unknown = cosign(text, "stranger.example", stranger, 5)
    assert cosignatures(note + unknown + early, [W_KEY])[0].name == W_KEY.name, "unknown keys are ignored"
    with pytest.raises(RefusedError) as caught:
        add_cosignatures(note, unknown, [W_KEY])
    assert caught.value.code == "ledger.cosignature.none"
    other = cosign(format_checkpoint(Checkpoint(ORIGIN, 8, bytes(32))), W_KEY.name, W_SIGNER, 1_000)
    blob = base64.b64decode(early.split()[-1])
    shifted = blob[:11] + bytes([blob[11] ^ 1]) + blob[12:]
    zero = blob[:4] + bytes(8) + blob[12:]
    for bad in (other, *(f"\u2014 {W_KEY.name} {base64.b64encode(x).decode()}\n".encode() for x in (shifted, zero))):
        with pytest.raises(RefusedError) as caught:
            cosignatures(note + bad, [W_KEY])
        assert caught.value.code == "ledger.cosignature.invalid"
    smuggled = b"evil\n\n" + cosign(text + b"\nevil\n", W_KEY.name, W_SIGNER, 5)
    with pytest.raises(FormatError):
        add_cosignatures(note, smuggled, [W_KEY])
    with pytest.raises(UsageError):
        cosign(text, W_KEY.name, generate(Algorithm.P256), 5)


# requests


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    for body in (data, b"old 5\n" + data, b"old 0\n\n" + data):
        with contextlib.suppress(FormatError):
            assert format_request(*parse_request(body)) == body


@pytest.mark.parametrize(
    "head",
    [
        "old 00",
        "old 01",
        "old -1",
        "old +1",
        "old ",
        "old 1 ",
        "old 99999999999999999999",
        "Old 1",
        "size 1",
        "old 1\nAA==",
    ],
)
def test_malformed_requests(witness: Witness, log: Ledger, head: str) -> None:
    reply = witness.add_checkpoint(head.encode() + b"\n\n" + log.checkpoint())
    assert reply.status == 400


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=80), max_size=4), st.integers(0, 2**62))
def test_any_bytes_as_a_witnesses_answer(lines: list[bytes], size: int) -> None:
    note = sign_note(format_checkpoint(Checkpoint(ORIGIN, size, bytes(32))), ORIGIN, SIGNER)
    dash = "\u2014 ".encode()
    for answer in (
        b"\n".join(lines),
        b"".join(dash + W_KEY.name.encode() + b" " + base64.b64encode(x) + b"\n" for x in lines),
    ):
        with pytest.raises(SecguardError):
            add_cosignatures(note, answer, [W_KEY])


# the witness


def test_a_witness_follows_a_log(witness: Witness, log: Ledger, tmp_path: Path) -> None:
    first = submit(witness, log)
    assert (first.status, first.kind) == (200, "text/plain; charset=utf-8")
    (given,) = cosignatures(add_cosignatures(log.checkpoint(), first.body, [W_KEY]), [W_KEY])
    assert given.time == NOW
    assert submit(witness, log, 300).status == 200, "the same tree again: a fresh cosignature"
    log.record(events(300, 700))
    log.publish(SIGNER)
    behind = submit(witness, log)
    assert (behind.status, behind.body, behind.kind) == (409, b"300\n", "text/x.tlog.size")
    assert submit(witness, log, 300).status == 200
    again = Witness(tmp_path / "witness", W_KEY.name, W_SIGNER, [KEY], FixedClock(NOW))
    assert submit(again, log, 300).body == b"700\n", "it remembers after a restart"
    (path,) = (tmp_path / "witness" / "seen").glob("*.checkpoint")
    seen = read_cosigned(path, ORIGIN, [KEY], [W_KEY])
    assert (seen.witness, seen.checkpoint.size) == (W_KEY.name, 700)
    assert log.root_at(700) == seen.checkpoint.root
    assert not any((tmp_path / "witness" / "contradictions").iterdir())


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_witness_whose_answer_trickles_for_ever_is_silent(log: Ledger, begin: bytes) -> None:
    ended = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(begin)
            while not ended.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        try:
            threads.submit(trickle, server)
            peer = Peer(W_KEY, f"http://127.0.0.1:{server.getsockname()[1]}")
            note = log.checkpoint()
            assert note is not None
            answer = threads.submit(ask, peer, note, log.consistency, seconds=0.3).result(10)
        finally:
            ended.set()
    assert answer.finding is not None
    assert (answer.finding.code, answer.finding.data["reason"]) == (
        "ledger.witness.silent",
        f"the witness {W_KEY.name} cannot be asked: no answer in time",
    )


def test_statuses_of_the_standard(witness: Witness, log: Ledger, tmp_path: Path) -> None:
    note = log.checkpoint()
    text = note.split(b"\n\n")[0] + b"\n"
    other = generate(Algorithm.ED25519)
    assert (
        submit(witness, log, note=sign_note(text.replace(b"log.", b"lag."), "lag.example/320116", SIGNER)).status == 404
    )
    assert submit(witness, log, note=sign_note(text, ORIGIN, other)).status == 403, "an unknown key"
    assert submit(witness, log, note=sign_note(text, "someone.else", SIGNER)).status == 403, (
        "the key under another name"
    )
    broken = note.rstrip(b"\n")[:-4] + b"AAA=\n"
    assert submit(witness, log, note=broken).status == 403
    assert submit(witness, log, 301, note=note).status == 400, "old above new"
    assert witness.add_checkpoint(format_request(0, [bytes(32)], note)).status == 422, "a proof from nothing"
    empty = sign_note(format_checkpoint(Checkpoint(ORIGIN, 0, bytes(32))), ORIGIN, SIGNER)
    assert witness.add_checkpoint(format_request(0, [], empty)).status == 422, "an empty tree with another root"
    empty = sign_note(format_checkpoint(Checkpoint(ORIGIN, 0, root_of(b""))), ORIGIN, SIGNER)
    assert witness.add_checkpoint(format_request(0, [], empty)).status == 200
    assert submit(witness, log).status == 200
    fork = sign_note(format_checkpoint(Checkpoint(ORIGIN, 300, bytes(32))), ORIGIN, SIGNER)
    assert witness.add_checkpoint(format_request(300, [], fork)).status == 422, "same size, other root"
    fork = sign_note(format_checkpoint(Checkpoint(ORIGIN, 400, bytes(32))), ORIGIN, SIGNER)
    assert witness.add_checkpoint(format_request(300, [bytes(32)] * 9, fork)).status == 422
    shorter = sign_note(format_checkpoint(Checkpoint(ORIGIN, 200, log.root_at(200))), ORIGIN, SIGNER)
    assert submit(witness, log, 200, note=shorter).body == b"300\n"
    kept = list((tmp_path / "witness" / "contradictions").glob("*.request"))
    assert any(fork in path.read_bytes() for path in kept), (
        "the signed contradiction is kept: it proves the misbehaviour"
    )
    strange = note + cosign(text, "stranger.example", other, 7)
    assert submit(witness, log, 300, note=strange).status == 200
    assert b"stranger" not in next((tmp_path / "witness" / "seen").glob("*.checkpoint")).read_bytes()


def test_nothing_is_cosigned_that_is_not_kept(witness: Witness, log: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SecguardError("core.write.failed", "no space left")

    monkeypatch.setattr("secguard.ledger.anchor.atomic_write", full)
    with pytest.raises(SecguardError):
        submit(witness, log)


def test_nothing_is_cosigned_that_is_not_on_the_disk(
    witness: Witness, log: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("secguard.core.files.os.fsync", broken)
        with pytest.raises(SecguardError) as caught:
            submit(witness, log)
    assert caught.value.code == "core.write.failed"
    assert not list((tmp_path / "witness" / "seen").glob("*.checkpoint")), "nor is it remembered"
    assert submit(witness, log).status == 200


def test_racing_requests_never_take_the_memory_back(witness: Witness, log: Ledger, tmp_path: Path) -> None:
    notes = [log.checkpoint()]
    for stop in range(310, 400, 10):
        log.record(events(stop - 10, stop))
        notes.append(log.publish(SIGNER))
    assert submit(witness, log, note=notes[0]).status == 200
    barrier = threading.Barrier(8)

    def race(number: int) -> int:
        barrier.wait(30)
        return submit(witness, log, 300, note=notes[1 + number]).status

    with ThreadPoolExecutor(8) as threads:
        statuses = sorted(threads.map(race, range(8)))
    assert statuses == [200, *[409] * 7], "one wins; the others are told that they are late"
    (path,) = (tmp_path / "witness" / "seen").glob("*.checkpoint")
    assert parse_checkpoint(path.read_bytes()).size > 300


# the log's side


def test_cosignatures_are_kept_with_the_checkpoint(witness: Witness, log: Ledger) -> None:
    note = log.checkpoint()
    signed = add_cosignatures(note, submit(witness, log).body, [W_KEY])
    assert log.put_cosigned(note, signed)
    assert log.checkpoint() == log.anchor.read_bytes() == signed
    assert log.publish(SIGNER) == signed, "signing the same tree again loses no cosignature"
    assert verify_log(log.root, [KEY], at=NOW).outcome is Outcome.PASS
    log.record(events(300, 301))
    fresh = log.publish(SIGNER)
    assert cosignatures(fresh, [W_KEY]) == []
    assert not log.put_cosigned(signed, signed), "another checkpoint was published meanwhile"
    with pytest.raises(RefusedError):
        log.put_cosigned(fresh, signed)


@pytest.mark.parametrize("appended", [0, 150])
def test_the_newest_100_events_deleted_with_everything_rewritten(
    witness: Witness, log: Ledger, tmp_path: Path, appended: int
) -> None:
    """Who owns machine, log key and anchor makes a log that is perfect in itself: only the witness knows."""
    log.record(events(300, 400))
    log.publish(SIGNER)
    assert submit(witness, log).status == 200
    (path,) = (tmp_path / "witness" / "seen").glob("*.checkpoint")
    seen = read_cosigned(path, ORIGIN, [KEY], [W_KEY])
    bodies = [body for block in log.scan() for body in block.bodies]
    log.close()
    shutil.rmtree(tmp_path / "site")  # all local files rewritten: log, checkpoint, anchor, with the same events but 100
    from secguard.events import decode_stored

    with Ledger.create(tmp_path / "site" / "log", ORIGIN, anchor=tmp_path / "site" / "anchor") as forged:
        forged.record([decode_stored(body) for body in bodies[:300]])
        forged.record(events(1000, 1000 + appended))
        forged.publish(SIGNER)
    alone = verify_log(tmp_path / "site" / "log", [KEY], at=NOW)
    assert alone.outcome is Outcome.PASS, "nothing on this machine tells"
    verdict = verify_log(tmp_path / "site" / "log", [KEY], at=NOW, witnessed={seen.witness: seen.checkpoint})
    assert verdict.outcome is Outcome.FAIL
    (found,) = verdict.findings
    assert found.code == ("ledger.witness.fork" if appended else "ledger.witness.ahead")
    assert (found.where, found.data["size"]) == (W_KEY.name, 400)


def test_roots_of_any_size(log: Ledger) -> None:
    log.record(events(300, 330))
    hashes = [log.record(events(k, k + 1))[0].leaf_hash for k in range(330)]
    for size in (0, 1, 255, 256, 257, 299, 300, 301, 329, 330):
        assert log.root_at(size) == root_of(b"".join(hashes[:size])), size
    shutil.rmtree(log.root / "public" / "tile" / "0" / "001.p")
    assert log.root_at(300) == root_of(b"".join(hashes[:300])), "a missing tile is made good by the bodies"
    with pytest.raises(UsageError):
        log.root_at(331)


# a witness's folder


def test_a_witness_of_its_own(tmp_path: Path) -> None:
    home = WitnessHome.create(tmp_path / "w", 'witness.example/"w1"', b"secret")
    assert (tmp_path / "w" / "key.pem").stat().st_mode & 0o077 == 0
    assert b"ENCRYPTED" in (tmp_path / "w" / "key.pem").read_bytes()
    assert home.add_log(KEY)
    assert not home.add_log(KEY)
    again = WitnessHome.open(tmp_path / "w")
    assert (again.name, [key.vkey() for key in again.logs]) == (home.name, [KEY.vkey()])
    assert again.verifier(b"secret").name == home.name
    with pytest.raises(UsageError):
        again.signer(b"wrong")
    with pytest.raises(RefusedError) as caught:
        WitnessHome.create(tmp_path / "w", "x", None)
    assert caught.value.code == "ledger.witness.exists"
    with pytest.raises(UsageError) as missing:
        WitnessHome.open(tmp_path)
    assert missing.value.code == "ledger.witness.missing"
    (tmp_path / "w" / "witness.toml").write_text("name = 5")
    with pytest.raises(FormatError) as wrong:
        WitnessHome.open(tmp_path / "w")
    assert wrong.value.code == "ledger.witness.config"
