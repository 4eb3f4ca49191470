"""Signed notes and checkpoints: published ones verify, ours verify, everything else is refused with one clear error."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core.errors import FormatError, RefusedError, SecguardError, UsageError
from secguard.keys import Algorithm, generate
from secguard.ledger import Checkpoint, NoteKey, open_checkpoint, parse_checkpoint
from secguard.ledger.bodies import leaf_hashes
from secguard.ledger.merkle import root_of
from secguard.ledger.note import format_checkpoint, sign_note

LOG = json.loads((Path(__file__).parents[2] / "vectors" / "ledger" / "tessera_log.json").read_text())
SIGNER = generate(Algorithm.ED25519)
KEY = NoteKey("log.example/1", SIGNER.public_key())
NOTE = sign_note(format_checkpoint(Checkpoint("log.example/1", 7, bytes(range(32)))), "log.example/1", SIGNER)


@pytest.mark.parametrize("size", range(16))
def test_published_log(size: int) -> None:
    key = NoteKey.parse(LOG["vkey"])
    assert key.vkey() == LOG["vkey"]
    signed = open_checkpoint(LOG["checkpoints"][str(size)].encode(), [key])
    assert (signed.origin, signed.size) == ("example.com/log/testdata", size)
    tile = base64.b64decode(LOG["tiles"].get(str(size), ""))
    assert root_of(tile) == signed.root
    entries, rest = [], base64.b64decode(LOG["bundles"].get(str(size), ""))
    while rest:
        length = int.from_bytes(rest[:2], "big")
        entries.append(rest[2 : 2 + length])
        rest = rest[2 + length :]
    assert leaf_hashes(entries) == tile


def test_round_trip() -> None:
    assert open_checkpoint(NOTE, [KEY]) == Checkpoint("log.example/1", 7, bytes(range(32)))
    assert NoteKey.parse(KEY.vkey()) == KEY
    stranger = NoteKey("log.example/1", generate(Algorithm.ED25519).public_key())
    with pytest.raises(RefusedError) as caught:
        open_checkpoint(NOTE, [stranger])
    assert caught.value.code == "ledger.checkpoint.signature"
    assert open_checkpoint(NOTE, [stranger, KEY]).size == 7


def test_a_key_of_another_name_does_not_speak_for_the_log() -> None:
    other = sign_note(format_checkpoint(Checkpoint("log.example/1", 7, bytes(32))), "someone.else", SIGNER)
    with pytest.raises(RefusedError):
        open_checkpoint(other, [NoteKey("someone.else", SIGNER.public_key())])


def test_every_changed_byte_is_refused() -> None:
    for at in range(len(NOTE)):
        for value in (NOTE[at] ^ 1, NOTE[at] ^ 0x80, 0x0A):
            if value == NOTE[at]:
                continue
            changed = NOTE[:at] + bytes([value]) + NOTE[at + 1 :]
            with pytest.raises(SecguardError):
                open_checkpoint(changed, [KEY])


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"log\n",
        b"log\n1\n\n",
        NOTE[:-1],
        NOTE + b"x",
        NOTE.replace(b"\n7\n", b"\n07\n"),
        NOTE.replace(b"\n7\n", b"\n-7\n"),
        NOTE.replace(b"\n7\n", "\n٧\n".encode()),
        NOTE.replace(b"\n7\n", b"\n" + b"9" * 30 + b"\n"),
        b"\xff" + NOTE,
        NOTE.replace(b"log", b"lo\x00g"),
        NOTE * 1000,
    ],
)
def test_malformed_checkpoints(note: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse_checkpoint(note, "state/ledger/public/checkpoint")
    assert caught.value.code == "ledger.checkpoint.format"
    assert caught.value.where == "state/ledger/public/checkpoint"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_never_crash(data: bytes) -> None:
    for make in (data, b"log.example/1\n7\n" + data, NOTE[:60] + data):
        with pytest.raises(SecguardError):
            open_checkpoint(make, [KEY])


def test_names_and_keys() -> None:
    for name in ("", "a b", "a+b", "a\nb", "x" * 300):
        with pytest.raises(UsageError):
            sign_note(b"x\n", name, SIGNER)
    with pytest.raises(UsageError, match="Ed25519"):
        sign_note(b"x\n", "log", generate(Algorithm.P256))
    for text in ("", "a+b", "a+00000000+AAAA", KEY.vkey()[:-4], KEY.vkey().replace("log.example/1", "log.example/2")):
        with pytest.raises(FormatError):
            NoteKey.parse(text)
