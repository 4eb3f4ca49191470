"""Hostile manifests and chains: bounded, one clear error or a verdict that is not pass, never a traceback."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import video_kit as kit
from seal_kit import seal_folder

from secguard.core import Axis, FormatError, Outcome, SecguardError
from secguard.keys import seal
from secguard.video import PAYLOAD_TYPE, OpenedManifest, manifest_path
from secguard.video.recording import judge_recording
from secguard.video.recording_chain import CHAIN_TYPE
from secguard.video.recording_files import CHAIN_NAME
from secguard.video.seal import describe

ROUNDS = 20_000 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 300
_WEIRD = [None, True, -1, 0, 1 << 70, 1e308, "", "\0", "x" * 10_000, [], {}, [[[]]], "9999-12-31T23:59:59Z", "Infinity"]


def _bytes(data: bytes, random: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or put in."""
    value = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(value) + 1)
        kind = random.randrange(4)
        if kind == 0 and at < len(value):
            value[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del value[at : at + random.randint(1, 40)]
        elif kind == 2:
            value[at:at] = value[at : at + random.randint(1, 200)]
        else:
            value[at:at] = random.choice([b"\n", b"\0", b"{", b"\xff\xfe", b'"', b"\\u0000"])
    return bytes(value)


def _values(payload: bytes, random: random.Random) -> bytes:
    """One value of a JSON document exchanged for a strange one, or its name."""
    document = json.loads(payload)
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = random.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and random.random() < 0.8:
            place = place[key]
            continue
        kind = random.randrange(3)
        if kind == 0 and isinstance(place, dict):
            place[f"{key}x"] = place.pop(key)
        elif kind == 1:
            del place[key]
        else:
            place[key] = random.choice(_WEIRD)
        break
    return json.dumps(document).encode()


def _payload(line: bytes) -> bytes:
    import base64

    return base64.b64decode(json.loads(line)["payload"])


Mutate = Callable[[bytes, str, kit.Identity, random.Random], bytes]


def _raw(line: bytes, _: str, __: kit.Identity, random: random.Random) -> bytes:
    return _bytes(line, random)


def _resigned(line: bytes, kind: str, who: kit.Identity, random: random.Random) -> bytes:
    """By the camera itself: whatever its key signs is parsed with the same care."""
    return seal(_values(_payload(line), random), kind, who.signer)


@pytest.mark.parametrize("mutate", [_raw, _resigned])
def test_manifests(signed: Path, pki: kit.Pki, mutate: Mutate) -> None:
    envelope = manifest_path(signed).read_bytes()
    chance = random.Random(5)
    read = 0
    for number in range(ROUNDS):
        mutated = mutate(envelope, PAYLOAD_TYPE, pki.camera, chance)
        try:
            opened = OpenedManifest.read(mutated, "m")
        except FormatError:
            continue
        read += 1
        if read % 10 == 0 or number < 20:
            try:
                answer = kit.judge_clip(signed, pki, manifest=mutated)
            except SecguardError:
                continue
            assert answer.verdict.outcome in set(Outcome)
            if not opened.signed:
                assert answer.verdict.axes[Axis.PRESENTATION] is not Outcome.PASS


@pytest.mark.parametrize("mutate", [_raw, _resigned])
def test_chains(clip: Path, pki: kit.Pki, tmp_path: Path, mutate: Mutate) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    for number in (1, 2, 3):
        shutil.copy(clip, folder / f"{number}.mp4")
        with (folder / f"{number}.mp4").open("ab") as file:
            file.write(b"\0\0\0\x0cfree%04d" % number)
    seal_folder(folder, pki.camera, start=kit.NOW, close=True, heartbeat=True)
    path = folder / CHAIN_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    chance = random.Random(6)
    for _ in range(ROUNDS // 3):
        number = chance.randrange(len(lines))
        mutated = mutate(lines[number], CHAIN_TYPE, pki.camera, chance)
        if mutated == lines[number]:
            continue
        path.write_bytes(b"".join([*lines[:number], mutated, *lines[number + 1 :]]))
        try:
            answer = judge_recording(folder, pki.trust, kit.NOW)
        except SecguardError:
            continue
        # The key ID is a hint that nobody signed; in the last line no other one vouches for it.
        if mutate is _raw and number + 1 < len(lines):
            assert answer.verdict.outcome is not Outcome.PASS, (number, mutated)
        try:
            seal_folder(folder, pki.camera)
        except SecguardError:
            continue


def test_hostile_recordings_are_sealed_as_they_are(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    """Sealing vouches for bytes, not for sense: a damaged file is sealed, if only as a whole."""
    from secguard.core import FixedClock

    data = clip.read_bytes()
    chance = random.Random(7)
    path = tmp_path / "clip.mp4"
    for _ in range(ROUNDS // 3):
        path.write_bytes(_bytes(data, chance))
        found = describe(path, kit.CAMERA, clock=FixedClock(kit.NOW))
        assert found.manifest.size == path.stat().st_size
        assert found.note or found.manifest.gops.sha256
