"""The columns of the manifest, sample times and parameter sets of each GOP: they tell where, in a part as well."""

import base64
import dataclasses
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import video_kit as kit

from secguard.core import Axis, FormatError, Outcome
from secguard.keys import seal
from secguard.video import PAYLOAD_TYPE, Manifest, OpenedManifest, manifest_path
from secguard.video.hashing import hash_nals
from secguard.video.manifest import Gops, gops_of
from secguard.video.nal import open_stream


def _gops(path: Path) -> Gops:
    stream = open_stream(path)
    return gops_of(stream, hash_nals(stream.source.data, stream.nals, np.flatnonzero(stream.nals.vcl)))


def _manifest(path: Path) -> Manifest:
    return OpenedManifest.read(manifest_path(path).read_bytes()).manifest


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Path:
    """A recording with parameter sets before every GOP, as cameras send it."""
    folder = tmp_path_factory.mktemp("repeated")
    plain = kit.make_clip(folder / "plain.mp4")
    config = open_stream(plain).track.config
    size = int.from_bytes(config[6:8], "big")
    sps = config[8 : 8 + size]
    samples = [item.of([sps, *item.nals]) if item.sync else item for item in kit.take_apart(plain)]
    source = kit.put_together(plain, samples, folder / "clip.mp4")
    kit.sign_clip(source, folder / "signed.mp4", pki.camera)
    return folder / "signed.mp4"


def test_a_part_has_the_columns_of_the_whole(signed: Path, repeated: Path, tmp_path: Path) -> None:
    for number, path in enumerate((signed, repeated)):
        whole, told = _gops(path), _manifest(path)
        assert told.gops == whole
        assert len(whole.times) == len(whole.sets) == 5
        assert all(whole.sets) == (path == repeated)
        assert told.config
        samples = kit.take_apart(path)
        part = _gops(kit.put_together(path, samples[24:48], tmp_path / f"part{number}.mp4"))
        assert part == Gops(*(column[2:4] for column in msgspec.structs.astuple(whole)))


def test_the_same_times_in_another_timescale(signed: Path) -> None:
    stream = open_stream(signed)
    samples, track = stream.samples, stream.track
    finer = dataclasses.replace(samples, delta=samples.delta * 6, shift=samples.shift * 6)
    other = dataclasses.replace(stream, samples=finer, track=dataclasses.replace(track, timescale=track.timescale * 6))
    hashed = hash_nals(stream.source.data, stream.nals, np.flatnonzero(stream.nals.vcl))
    assert gops_of(other, hashed) == gops_of(stream, hashed)
    slower = dataclasses.replace(stream, track=dataclasses.replace(track, timescale=track.timescale // 2))
    assert not set(gops_of(slower, hashed).times) & set(gops_of(stream, hashed).times)


def test_the_retimed_gop_is_named(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    samples = kit.take_apart(signed)
    fast = [dataclasses.replace(s, delta=s.delta // 4) if 24 <= n < 48 else s for n, s in enumerate(samples)]
    answer = kit.judge_clip(kit.put_together(signed, fast, tmp_path / "fast.mp4"), pki, manifest=manifest_path(signed))
    assert kit.places(answer, "video.presentation.retimed") == ["GOPs 3-4"]
    # What is left of a cut file is told apart by its GOPs.
    cut = kit.put_together(signed, fast[12:], tmp_path / "cut.mp4")
    answer = kit.judge_clip(cut, pki, manifest=manifest_path(signed))
    assert kit.places(answer, "video.presentation.retimed") == ["GOPs 3-4"]
    assert "video.head.truncated" in kit.codes(answer)
    cut = kit.put_together(signed, samples[12:], tmp_path / "only-cut.mp4")
    answer = kit.judge_clip(cut, pki, manifest=manifest_path(signed))
    assert "video.presentation.retimed" not in kit.codes(answer)
    assert answer.verdict.axes[Axis.PRESENTATION] is Outcome.UNKNOWN


def test_the_gop_with_other_parameter_sets_is_named(repeated: Path, pki: kit.Pki, tmp_path: Path) -> None:
    samples = kit.take_apart(repeated)
    nals = samples[36].nals
    at = next(number for number, nal in enumerate(nals) if nal[0] & 31 == 7)
    nals[at] = nals[at][:-2] + bytes((nals[at][-2] ^ 4,)) + nals[at][-1:]
    edited = [*samples[:36], samples[36].of(nals), *samples[37:]]
    answer = kit.judge_clip(
        kit.put_together(repeated, edited, tmp_path / "sps.mp4"), pki, manifest=manifest_path(repeated)
    )
    assert kit.places(answer, "video.parameter-sets.changed") == ["GOP 4"]
    for name, part, changed in (("cut", edited[12:], True), ("only-cut", samples[12:], False)):
        path = kit.put_together(repeated, part, tmp_path / f"{name}.mp4")
        answer = kit.judge_clip(path, pki, manifest=manifest_path(repeated))
        assert ("video.parameter-sets.changed" in kit.codes(answer)) is changed
        assert "video.parameter-sets.cut" not in kit.codes(answer), "every GOP repeats them"


def test_parameter_sets_of_the_part_that_is_gone(pki: kit.Pki, tmp_path: Path) -> None:
    plain = kit.make_clip(tmp_path / "plain.mp4")
    config = open_stream(plain).track.config
    sps = config[8 : 8 + int.from_bytes(config[6:8], "big")]
    samples = kit.take_apart(plain)
    samples[0] = samples[0].of([sps, *samples[0].nals])
    source = kit.put_together(plain, samples, tmp_path / "clip.mp4")
    signed = kit.sign_clip(source, tmp_path / "signed.mp4", pki.camera).output
    path = kit.put_together(signed, kit.take_apart(signed)[12:], tmp_path / "cut.mp4")
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert "video.parameter-sets.cut" in kit.codes(answer)
    assert answer.verdict.axes[Axis.INTEGRITY] is not Outcome.PASS


def _old(path: Path, who: kit.Identity) -> bytes:
    """The manifest as it was written before the columns existed."""
    envelope = json.loads(manifest_path(path).read_bytes())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    for name in ("recording", "config"):
        del payload[name]
    for name in ("times", "sets"):
        del payload["gops"][name]
    return seal(json.dumps(payload).encode(), PAYLOAD_TYPE, who.signer)


def test_an_old_manifest_still_verifies(signed: Path, repeated: Path, pki: kit.Pki, tmp_path: Path) -> None:
    for path in (signed, repeated):
        answer = kit.judge_clip(path, pki, manifest=_old(path, pki.camera))
        assert answer.verdict.outcome is Outcome.PASS
        assert kit.codes(answer) == set()
    samples = kit.take_apart(signed)
    fast = kit.put_together(
        signed, [dataclasses.replace(item, delta=item.delta // 4) for item in samples], tmp_path / "fast.mp4"
    )
    answer = kit.judge_clip(fast, pki, manifest=_old(signed, pki.camera))
    assert kit.places(answer, "video.presentation.changed") == [""]


def test_columns_of_other_lengths_are_refused(signed: Path, pki: kit.Pki) -> None:
    content = _manifest(signed)
    for name in ("times", "sets", "frames"):
        gops = msgspec.structs.replace(content.gops, **{name: getattr(content.gops, name)[1:]})
        with pytest.raises(FormatError, match="differ in length"):
            OpenedManifest.read(msgspec.structs.replace(content, gops=gops).seal(pki.camera.signer))
