"""Clips: cut, verified from their record alone, and whatever is done to one named."""

import dataclasses
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import video_kit as kit
from clip_kit import GOP, START, judge, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secguard.core import Axis, FixedClock, FormatError, Outcome, RefusedError, UsageError
from secguard.trust import Purpose
from secguard.video import manifest_path
from secguard.video.clip import clip
from secguard.video.clip_record import ClipRecord, OpenedClip, clip_path
from secguard.video.nal import open_stream

Edit = Callable[[list[kit.Sample]], list[kit.Sample]]


@pytest.fixture(scope="session")
def operator(pki: kit.Pki) -> kit.Identity:
    return kit.leaf(pki.key, pki.root, kit.OTHER, 300, purpose=Purpose.OPERATOR)


def _recording(folder: Path, pki: kit.Pki, codec: str) -> Path:
    name = {"h264": "libx264", "h265": "libx265"}[codec]
    options = {"bf": "2"} if codec == "h264" else None
    source = kit.make_clip(folder / "plain.mp4", codec=name, frames=72, gop=GOP, options=options, sound=True)
    kit.sign_clip(source, folder / "signed.mp4", pki.camera, start=START)
    return folder / "signed.mp4"


@pytest.fixture(scope="session", params=["h264", "h265"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Path:
    """72 frames in 6 GOPs of 0.8 s, with sound."""
    return _recording(tmp_path_factory.mktemp(request.param), pki, request.param)


@pytest.fixture(scope="session")
def other(recording: Path, tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Path:
    """Another recording of the same camera."""
    folder = tmp_path_factory.mktemp("other")
    codec = "libx264" if open_stream(recording).track.codec == "h264" else "libx265"
    source = kit.make_clip(folder / "plain.mp4", codec=codec, frames=48, gop=GOP, seed=9)
    kit.sign_clip(source, folder / "signed.mp4", pki.camera, start=START)
    return folder / "signed.mp4"


def cut_gops(folder: Path, recording: Path, operator: kit.Identity) -> Path:
    """GOPs 2 to 5 of the recording."""
    path = folder / "clip.mp4"
    made = make(recording, path, operator, "+0.9", "+3.9", reason="hit-and-run", approver="Li")
    assert (made.record.parts[0].first, made.record.parts[0].last) == (2, 5)
    return path


def test_a_clip_is_complete_for_its_range(
    recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path
) -> None:
    path = cut_gops(tmp_path, recording, operator)
    answer = judge(path, pki)
    assert kit.codes(answer) == set()
    assert answer.verdict.outcome is Outcome.PASS
    assert set(answer.verdict.axes.values()) == {Outcome.PASS}
    assert answer.timeline.gop == [2, 3, 4, 5]
    assert answer.timeline.state == ["intact"] * 4
    assert answer.proven == answer.slices, "the SEI that signs the last GOP came along"
    assert answer.device == kit.CAMERA
    assert answer.clip is not None
    record = answer.clip.record
    assert (record.case, record.reason, record.approver) == ("A-2026-42", "hit-and-run", "Li")
    assert record.approver_assurance == "claimed"
    assert record.requested_start == "2026-10-01T07:00:00.900000Z"
    assert (record.start, record.end) == ("2026-10-01T07:00:00.800000Z", "2026-10-01T07:00:04Z")
    assert (record.gops, record.frames, record.sound) == (4, 48, "kept")
    assert open_stream(path).track.edits == ()


def _frames(path: Path, kind: str = "video") -> list[np.ndarray]:  # type: ignore[type-arg]
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(**{kind: 0})]


def test_it_plays_and_shows_the_same_pixels(
    recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path
) -> None:
    path = cut_gops(tmp_path, recording, operator)
    whole, part = _frames(recording), _frames(path)
    assert len(part) == 48
    assert all(np.array_equal(a, b) for a, b in zip(whole[12:60], part, strict=True))
    heard, kept = _frames(recording, "audio"), _frames(path, "audio")
    assert 0 < len(kept) < len(heard)
    # The same packets, so the same sound but for the first ones, in which a decoder starts up.
    at = next(n for n in range(len(heard)) if np.allclose(heard[n], kept[3], atol=1e-4)) - 3
    assert abs(at * 1024 / 8000 - 0.8) < 0.3


def test_sound_is_left_out_when_asked(recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    made = make(recording, path, operator, "+0.9", "+3.9", sound=False)
    assert made.record.sound == "dropped"
    assert [item.handler for item in open_stream(path).source.tracks] == ["vide"]
    assert judge(path, pki).verdict.outcome is Outcome.PASS


@pytest.mark.parametrize("gone", [2, 3, 5], ids=["head", "middle", "tail"])
def test_a_dropped_gop_is_named(
    recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path, gone: int
) -> None:
    path = cut_gops(tmp_path, recording, operator)
    samples = kit.take_apart(path)
    at = (gone - 2) * GOP
    short = kit.put_together(path, samples[:at] + samples[at + GOP :], tmp_path / "short.mp4")
    answer = judge(short, pki, clip_path(path))
    begin, end = (START + timedelta(seconds=0.8 * n) for n in (gone - 1, gone))
    times = [item.isoformat().replace("+00:00", "Z") for item in (begin, end)]
    assert kit.places(answer, "video.clip.gop-missing") == [f"GOP {gone}, {times[0]} - {times[1]}"]
    assert answer.verdict.outcome is Outcome.FAIL
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.FAIL
    assert answer.verdict.axes[Axis.PRESENTATION] is Outcome.PASS
    row = answer.timeline.gop.index(gone)
    assert answer.timeline.gop == [2, 3, 4, 5]
    assert answer.timeline.state[row] == "missing"
    assert all(state in {"intact", "sealed"} for n, state in enumerate(answer.timeline.state) if n != row)
    assert kit.codes(answer) <= {"video.clip.gop-missing", "video.coverage.partial"}


def _swap(s: list[kit.Sample]) -> list[kit.Sample]:
    return s[:12] + s[24:36] + s[12:24] + s[36:]


def _again(s: list[kit.Sample]) -> list[kit.Sample]:
    return s[:24] + s[12:24] + s[24:]


def _fast(s: list[kit.Sample]) -> list[kit.Sample]:
    return [dataclasses.replace(item, delta=item.delta // 4) if 12 <= n < 24 else item for n, item in enumerate(s)]


def _flip(s: list[kit.Sample]) -> list[kit.Sample]:
    data = bytearray(s[14].data)
    data[-3] ^= 1
    return [*s[:14], dataclasses.replace(s[14], data=bytes(data)), *s[15:]]


def _frame(s: list[kit.Sample]) -> list[kit.Sample]:
    return s[:16] + s[17:]


@pytest.mark.parametrize(
    "case",
    [
        (_swap, "video.gop.moved", "GOP 3"),
        (_again, "video.gop.repeated", "GOP 3"),
        (_fast, "video.presentation.changed", "GOP 3"),
        (_flip, "video.gop.manifest-mismatch", "GOP 3"),
        (_flip, "video.gop.hash-mismatch", ""),
        (_frame, "video.gop.manifest-mismatch", "GOP 3"),
        (_frame, "video.frame.missing", ""),
    ],
)
def test_what_is_done_to_it_is_named(
    recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path, case: tuple[Edit, str, str]
) -> None:
    edit, code, place = case
    path = cut_gops(tmp_path, recording, operator)
    bad = kit.put_together(path, edit(kit.take_apart(path)), tmp_path / "bad.mp4")
    answer = judge(bad, pki, clip_path(path))
    assert answer.verdict.outcome is Outcome.FAIL
    found = kit.places(answer, code)
    assert found, kit.codes(answer)
    if place:
        assert [where[:5] for where in found] == [place] or edit is _swap
    missing = "video.clip.gop-missing" in kit.codes(answer)
    assert not missing, "nothing is missing"


def test_pictures_from_elsewhere_are_named(
    recording: Path, other: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path
) -> None:
    path = cut_gops(tmp_path, recording, operator)
    samples, whole = kit.take_apart(path), kit.take_apart(recording)
    # From the same recording, beyond the range; and from another one.
    bad = kit.put_together(path, samples[:24] + whole[:12] + samples[24:], tmp_path / "outside.mp4")
    answer = judge(bad, pki, clip_path(path))
    assert kit.places(answer, "video.clip.gop-outside") == ["frames 25-36"]
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
    foreign = kit.take_apart(other)[12:24]
    bad = kit.put_together(path, samples[:24] + foreign + samples[24:], tmp_path / "foreign.mp4")
    answer = judge(bad, pki, clip_path(path))
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
    assert {"video.gop.unsealed", "video.frame.foreign", "video.gop.foreign"} & kit.codes(answer)
    assert "video.clip.gop-missing" not in kit.codes(answer)
    # In the place of a GOP: one is changed, none is missing.
    bad = kit.put_together(path, samples[:24] + foreign + samples[36:], tmp_path / "replaced.mp4")
    answer = judge(bad, pki, clip_path(path))
    assert any(where.startswith("GOP 4,") for where in kit.places(answer, "video.gop.manifest-mismatch"))


def test_an_edit_list_put_in_is_named(recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    path = cut_gops(tmp_path, recording, operator)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4
    data[at + 52] ^= 1  # matrix
    bad = tmp_path / "turned.mp4"
    bad.write_bytes(data)
    answer = judge(bad, pki, clip_path(path))
    assert "video.presentation.changed" in kit.codes(answer)
    assert answer.verdict.axes[Axis.PRESENTATION] is Outcome.FAIL
    data = bytearray(path.read_bytes())
    data[data.find(b"tkhd") + 4 + 88] ^= 2  # width
    bad.write_bytes(data)
    assert "video.presentation.changed" in kit.codes(judge(bad, pki, clip_path(path)))
    track = open_stream(path).track
    box = b"\0\0\0\x24edts\0\0\0\x1celst\0\0\0\0\0\0\0\1" + (10).to_bytes(4, "big") + bytes(4) + b"\0\1\0\0"
    moov = path.read_bytes().find(b"moov") - 4
    head = path.read_bytes().find(b"mdia") - 4
    whole = path.read_bytes()
    trak = whole.find(b"trak") - 4
    grown = bytearray(whole[:head] + box + whole[head:])
    for place in (moov, trak):
        size = int.from_bytes(grown[place : place + 4], "big") + len(box)
        grown[place : place + 4] = size.to_bytes(4, "big")
    listed = tmp_path / "listed.mp4"
    listed.write_bytes(grown)
    fixed = kit.put_together(listed, kit.take_apart(path), tmp_path / "edited.mp4")
    assert open_stream(fixed).track.edits != track.edits
    assert "video.presentation.changed" in kit.codes(judge(fixed, pki, clip_path(path)))


def test_other_parameter_sets_are_named(recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    path = cut_gops(tmp_path, recording, operator)
    config = open_stream(path).track.config
    data = path.read_bytes()
    at = data.find(config) + len(config) - 4
    bad = kit.flip(path, tmp_path / "sets.mp4", at)
    answer = judge(bad, pki, clip_path(path))
    assert kit.places(answer, "video.parameter-sets.changed") == ["decoder configuration"]
    sps = config[8 : 8 + int.from_bytes(config[6:8], "big")]
    if open_stream(path).track.codec == "h264":
        samples = kit.take_apart(path)
        samples[24] = samples[24].of([sps, *samples[24].nals])
        answer = judge(kit.put_together(path, samples, tmp_path / "band.mp4"), pki, clip_path(path))
        assert [where[:5] for where in kit.places(answer, "video.parameter-sets.changed")] == ["GOP 4"]


def test_signatures_taken_out_of_a_clip_are_named(
    recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path
) -> None:
    path = cut_gops(tmp_path, recording, operator)
    bare = [item.of([nal for nal in item.nals if b"secguard" not in nal]) for item in kit.take_apart(path)]
    answer = judge(kit.put_together(path, bare, tmp_path / "bare.mp4"), pki, clip_path(path))
    assert kit.codes(answer) == {"video.sei.removed", "video.coverage.partial"}
    assert answer.timeline.state == ["sealed"] * 4
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS


def _edited(path: Path, who: kit.Identity | None = None, **fields: object) -> bytes:
    """The record with other values: signed anew by `who`, or with the old signature."""
    envelope = json.loads(clip_path(path).read_bytes())
    import base64

    record = msgspec.json.decode(base64.b64decode(envelope["payload"]), type=ClipRecord)
    record = msgspec.structs.replace(record, **fields)
    if who is not None:
        return record.seal(who.signer)
    envelope["payload"] = base64.b64encode(msgspec.json.encode(record)).decode()
    return json.dumps(envelope).encode()


def test_a_dishonest_record_is_named(
    recording: Path, other: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path
) -> None:
    path = cut_gops(tmp_path, recording, operator)
    record = OpenedClip.read(clip_path(path).read_bytes()).record
    part = record.parts[0]
    answer = judge(path, pki, _edited(path, case="B-1"))
    assert kit.codes(answer) == {"video.clip.signature"}
    assert answer.verdict.outcome is Outcome.FAIL
    # A wider range, signed by the operator: the GOPs that it claims are not there.
    wide = (msgspec.structs.replace(part, first=1),)
    answer = judge(path, pki, _edited(path, operator, parts=wide))
    assert kit.places(answer, "video.clip.gop-missing")[0].startswith("GOP 1,")
    assert "video.clip.range" in kit.codes(answer)
    for fields in (
        {"end": "2026-10-01T07:00:04.800000Z"},
        {"requested_end": "2026-10-01T07:00:09Z"},
        {"gops": 5},
        {"parts": (msgspec.structs.replace(part, last=9),)},
    ):
        answer = judge(path, pki, _edited(path, operator, **fields))
        assert "video.clip.range" in kit.codes(answer), fields
        assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.FAIL
    # A narrower one: what it leaves out is no longer of the clip.
    narrow = (msgspec.structs.replace(part, last=4),)
    answer = judge(path, pki, _edited(path, operator, parts=narrow, gops=3, end="2026-10-01T07:00:03.200000Z"))
    assert "video.clip.gop-outside" in kit.codes(answer)
    # Signed by a key that is not an operator's; by nobody's whom the root knows; with another camera named.
    answer = judge(path, pki, _edited(path, pki.camera, chain=_pem(pki.camera)))
    assert "video.clip.unbelieved" in kit.codes(answer)
    assert answer.verdict.axes[Axis.COMPLETENESS] is not Outcome.PASS
    strange = kit.make_pki()
    stranger = kit.leaf(strange.key, strange.root, kit.OTHER, 3, purpose=Purpose.OPERATOR)
    answer = judge(path, pki, _edited(path, stranger, chain=_pem(stranger)))
    assert "video.clip.unbelieved" in kit.codes(answer)
    assert answer.verdict.outcome is not Outcome.PASS
    answer = judge(path, pki, _edited(path, operator, device=kit.OTHER.value))
    assert "video.device.mismatch" in kit.codes(answer)
    # A manifest edited; a manifest of one's own making.
    manifest = json.loads(part.manifest)
    manifest["signatures"][0]["sig"] = manifest["signatures"][0]["sig"][:-8] + "AAAAAAA="
    forged = (msgspec.structs.replace(part, manifest=json.dumps(manifest)),)
    answer = judge(path, pki, _edited(path, operator, parts=forged))
    assert "video.manifest.signature" in kit.codes(answer)
    # The record of another clip.
    far = tmp_path / "far.mp4"
    make(other, far, operator, "+0", "+2.4")
    answer = judge(path, pki, clip_path(far))
    assert {"video.clip.mismatch"} <= kit.codes(answer)
    assert answer.verdict.outcome is Outcome.FAIL
    # The wrong camera.
    answer = judge(path, pki, device=kit.OTHER)
    assert "video.device.mismatch" in kit.codes(answer)


def _pem(who: kit.Identity) -> str:
    from secguard.trust import chain_pem

    return chain_pem(who.chain[:1]).decode()


def test_records_that_cannot_be_read(recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    path = cut_gops(tmp_path, recording, operator)
    record = OpenedClip.read(clip_path(path).read_bytes()).record
    part = record.parts[0]
    for fields in (
        {"v": 2},
        {"start": "yesterday"},
        {"parts": (msgspec.structs.replace(part, first=5, last=2),)},
        {"parts": (msgspec.structs.replace(part, manifest="{}"),)},
        {"parts": ()},
        {"chain": ""},
    ):
        with pytest.raises(FormatError):
            OpenedClip.read(_edited(path, operator, **fields))
    for data in (b"", b"{}", b"[]", manifest_path(recording).read_bytes()):
        with pytest.raises(FormatError):
            OpenedClip.read(data)


def test_without_a_manifest_completeness_is_unknown(
    recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.mp4"
    alone.write_bytes(recording.read_bytes())
    path = tmp_path / "clip.mp4"
    made = make(alone, path, operator, "2026-10-01T07:00:00.900Z", "+3.9")  # the signatures tell the time
    assert made.record.device == kit.CAMERA.value
    answer = judge(path, pki)
    assert "video.clip.unsealed" in kit.codes(answer)
    assert answer.verdict.outcome is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.UNKNOWN


def test_refused(recording: Path, other: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for begin, end, error in (
        ("+2", "+1", RefusedError),
        ("+1", "+1", RefusedError),
        ("+1", "+99", RefusedError),
        ("+nan", "+2", UsageError),
        ("+x", "+2", UsageError),
        ("noon", "+2", UsageError),
        ("2026-10-01T06:00:00Z", "+2", RefusedError),
    ):
        with pytest.raises(error):
            make(recording, path, operator, begin, end)
    with pytest.raises(UsageError, match="case"):
        make(recording, path, operator, "+0", "+2", case=" ")
    with pytest.raises(UsageError, match="certify"):
        make(recording, path, dataclasses.replace(operator, chain=pki.camera.chain), "+0", "+2")
    with pytest.raises(RefusedError, match=r"another|lists"):
        make(recording, path, operator, "+0", "+2", manifests=[manifest_path(other)])
    options = {"signer": operator.signer, "chain": operator.chain, "clock": FixedClock(kit.NOW), "case": "A"}
    with (
        pytest.raises(RefusedError, match="follow"),
        clip([other, recording], path, begin="+0", end="+2", **options),  # type: ignore[arg-type]
    ):
        pass
    with pytest.raises(RefusedError, match="cut from MP4"):
        make(_annexb(tmp_path), path, operator, "+0", "+1")
    assert not list(tmp_path.glob("*clip.mp4*"))
    cut_gops(tmp_path, recording, operator)
    with pytest.raises(RefusedError, match="exists"):
        make(recording, path, operator, "+0", "+2")


def _annexb(folder: Path) -> Path:
    source = kit.make_clip(folder / "p.mp4", frames=4, gop=2)
    config = open_stream(source).track.config
    sps = config[8 : 8 + int.from_bytes(config[6:8], "big")]
    path = folder / "p.h264"
    path.write_bytes(b"".join(b"\0\0\0\1" + nal for item in kit.take_apart(source) for nal in [sps, *item.nals]))
    return path


def test_nothing_is_left_when_the_act_is_refused(recording: Path, operator: kit.Identity, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    options = {"signer": operator.signer, "chain": operator.chain, "clock": FixedClock(kit.NOW), "case": "A"}
    with (
        pytest.raises(RuntimeError, match="ledger"),
        clip([recording], path, begin="+0", end="+2", **options),  # type: ignore[arg-type]
    ):
        raise RuntimeError("ledger")
    assert list(tmp_path.iterdir()) == []


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_range_and_any_gop(
    data: st.DataObject, recording: Path, pki: kit.Pki, operator: kit.Identity, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    low = data.draw(st.integers(0, 4600), "low")
    high = data.draw(st.integers(low + 1, 4800), "high")
    path = folder / "clip.mp4"
    made = make(recording, path, operator, f"+{low / 1000}", f"+{high / 1000}")
    part = made.record.parts[0]
    assert part.first == low // 800 + 1
    assert part.last == -(-high // 800)
    answer = judge(path, pki)
    assert answer.verdict.outcome is Outcome.PASS, kit.codes(answer)
    if made.record.gops > 1:
        gone = data.draw(st.integers(0, made.record.gops - 1), "gone")
        samples = kit.take_apart(path)
        rest = samples[: gone * GOP] + samples[(gone + 1) * GOP :]
        answer = judge(kit.put_together(path, rest, folder / "short.mp4"), pki, clip_path(path))
        places = kit.places(answer, "video.clip.gop-missing")
        assert [where.split(",")[0] for where in places] == [f"GOP {part.first + gone}"]
        assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.FAIL
