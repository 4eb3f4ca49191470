"""What no SEI signs, the manifest does: times, edit list, rotation, tracks, parameter sets, the manifest itself."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import video_kit as kit

from secguard.core import Axis, FormatError, Outcome
from secguard.keys import generate, seal
from secguard.video import PAYLOAD_TYPE, OpenedManifest, manifest_path
from secguard.video.containers.mp4 import open_movie


def _replaced(signed: Path, kind: bytes, body: bytes, target: Path) -> Path:
    """The signed file with one box of the same size exchanged."""
    data = bytearray(signed.read_bytes())
    movie = open_movie(signed)
    box = movie.video.tables[kind]
    assert len(body) == box.end - box.body
    data[box.body : box.end] = body
    target.write_bytes(data)
    return target


def test_faster_playback(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    movie = open_movie(signed)
    box = movie.video.tables[b"stts"]
    body = bytearray(movie.data[box.body : box.end])
    for at in range(12, len(body), 8):
        body[at : at + 4] = (int.from_bytes(body[at : at + 4], "big") // 4).to_bytes(4, "big")
    path = _replaced(signed, b"stts", bytes(body), tmp_path / "fast.mp4")
    alone = kit.judge_clip(path, pki)
    assert "video.presentation.contradicted" in kit.codes(alone), "the signed times say four seconds"
    assert alone.verdict.axes[Axis.PRESENTATION] is Outcome.FAIL
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert kit.places(answer, "video.presentation.retimed") == ["GOPs 1-5"]
    assert answer.verdict.axes[Axis.PRESENTATION] is Outcome.FAIL
    assert answer.verdict.axes[Axis.INTEGRITY] is answer.verdict.axes[Axis.COMPLETENESS] is Outcome.PASS


def test_one_gop_retimed_is_named(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    samples = kit.take_apart(signed)
    for at in (25, 26):
        samples[at] = replace(samples[at], delta=samples[at].delta * (3 if at == 25 else 1) // (1 if at == 25 else 2))
    path = kit.put_together(signed, samples, tmp_path / "retimed.mp4")
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert kit.places(answer, "video.presentation.retimed") == ["GOP 3"]
    alone = kit.judge_clip(path, pki)
    assert alone.verdict.axes[Axis.PRESENTATION] is Outcome.UNKNOWN, "so little, the signed times cannot tell"


def test_half_hidden_by_an_edit_list(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    data = bytearray(signed.read_bytes())
    at = data.find(b"elst") + 12
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") // 2).to_bytes(4, "big")
    path = tmp_path / "hidden.mp4"
    path.write_bytes(data)
    alone = kit.judge_clip(path, pki)
    (where,) = kit.places(alone, "video.presentation.hidden")
    assert where.startswith("frames 3")
    assert where.endswith("-60")
    assert alone.verdict.axes[Axis.PRESENTATION] is Outcome.UNKNOWN
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert kit.places(answer, "video.presentation.edit-list") == [where]
    assert answer.verdict.axes[Axis.PRESENTATION] is Outcome.FAIL


def test_an_edit_list_that_was_sealed_is_no_alarm(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    at = data.find(b"elst") + 12
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") // 2).to_bytes(4, "big")
    (tmp_path / "half.mp4").write_bytes(data)
    kit.sign_clip(tmp_path / "half.mp4", tmp_path / "signed.mp4", pki.camera)
    answer = kit.judge_clip(tmp_path / "signed.mp4", pki, manifest=manifest_path(tmp_path / "signed.mp4"))
    assert answer.verdict.outcome is Outcome.PASS


def test_tracks_taken_out(pki: kit.Pki, tmp_path: Path) -> None:
    source = kit.make_clip(tmp_path / "sound.mp4", sound=True)
    kit.sign_clip(source, tmp_path / "signed.mp4", pki.camera)
    data = bytearray((tmp_path / "signed.mp4").read_bytes())
    at = data.find(b"soun")
    data[at : at + 4] = b"text"
    (tmp_path / "silent.mp4").write_bytes(data)
    answer = kit.judge_clip(tmp_path / "silent.mp4", pki, manifest=manifest_path(tmp_path / "signed.mp4"))
    assert kit.codes(answer) == {"video.presentation.tracks"}


def test_older_manifests_tell_that_much(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    content = OpenedManifest.read(manifest_path(signed).read_bytes()).manifest
    older = msgspec.structs.replace(
        content, shown=None, config="", gops=msgspec.structs.replace(content.gops, times=(), sets=())
    )
    path = kit.flip(signed, tmp_path / "shown.mp4", signed.read_bytes().find(b"tkhd") + 50, bit=0x04)
    answer = kit.judge_clip(path, pki, manifest=older.seal(pki.camera.signer))
    assert kit.codes(answer) == {"video.presentation.changed"}
    assert kit.judge_clip(signed, pki, manifest=older.seal(pki.camera.signer)).verdict.outcome is Outcome.PASS


@pytest.mark.parametrize(
    "way",
    [
        (b"elst", 16, "video.presentation.edit-list"),
        (b"tkhd", 7 + 40, "video.presentation.display"),
        (b"mdhd", 16, "video.presentation.retimed"),
        (b"ctts", 16, "video.presentation.retimed"),
    ],
    ids=["edit list", "matrix", "timescale", "composition"],
)
def test_other_ways_to_show(signed: Path, pki: kit.Pki, tmp_path: Path, way: tuple[bytes, int, str]) -> None:
    kind, offset, code = way
    at = signed.read_bytes().find(kind) + 4 + offset - 4 + 3
    path = kit.flip(signed, tmp_path / "shown.mp4", at, bit=0x04)
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert code in kit.codes(answer)


def test_parameter_sets_in_the_index(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    config = open_movie(signed).video.config
    at = signed.read_bytes().find(config) + 12  # inside the SPS
    path = kit.flip(signed, tmp_path / "sps.mp4", at)
    assert kit.judge_clip(path, pki).verdict.outcome is Outcome.UNKNOWN
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert kit.codes(answer) == {"video.parameter-sets.changed"}
    assert [item.data["place"] for item in answer.verdict.findings] == ["index"]
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL


def test_parameter_sets_in_the_stream(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    samples = kit.take_apart(signed)
    config = open_movie(signed).video.config
    size = int.from_bytes(config[6:8], "big")
    sps = config[8 : 8 + size]
    samples[20] = samples[20].of([sps, *samples[20].nals])
    path = kit.put_together(signed, samples, tmp_path / "sps.mp4")
    answer = kit.judge_clip(path, pki, manifest=manifest_path(signed))
    assert kit.codes(answer) == {"video.parameter-sets.changed"}
    assert [(item.where, item.data["place"]) for item in answer.verdict.findings] == [("GOP 2", "stream")]


def test_second_video_track(clip: Path, pki: kit.Pki, tmp_path: Path) -> None:
    import av

    path = tmp_path / "two.mp4"
    with av.open(str(clip)) as source, av.open(str(path), "w") as sink:
        video = source.streams.video[0]
        first, second = sink.add_stream_from_template(video), sink.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is None:
                continue
            packet.stream = first
            sink.mux(packet)
        source.seek(0)
        for packet in source.demux(video):
            if packet.dts is None:
                continue
            packet.stream = second
            sink.mux(packet)
    kit.sign_clip(path, tmp_path / "signed.mp4", pki.camera)
    answer = kit.judge_clip(tmp_path / "signed.mp4", pki, manifest=manifest_path(tmp_path / "signed.mp4"))
    assert "video.track.extra" in kit.codes(answer)
    assert answer.verdict.axes[Axis.COVERAGE] is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS


def test_edited_manifest(signed: Path, pki: kit.Pki) -> None:
    envelope = json.loads(manifest_path(signed).read_bytes())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["frames"] += 1
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    answer = kit.judge_clip(signed, pki, manifest=json.dumps(envelope).encode())
    assert "video.manifest.signature" in kit.codes(answer)
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.FAIL
    assert answer.verdict.axes[Axis.PRESENTATION] is Outcome.UNKNOWN


def test_manifest_of_another_recording(signed: Path, pki: kit.Pki, tmp_path: Path) -> None:
    other = kit.make_clip(tmp_path / "other.mp4", seed=5, noise=40)
    kit.sign_clip(other, tmp_path / "signed.mp4", pki.camera)
    answer = kit.judge_clip(signed, pki, manifest=manifest_path(tmp_path / "signed.mp4"))
    assert kit.codes(answer) == {"video.manifest.mismatch", "video.presentation.unproven"}
    assert answer.verdict.axes[Axis.PRESENTATION] == "unknown", "another recording's manifest says nothing of this one"
    assert answer.verdict.outcome is Outcome.FAIL


def test_manifest_by_an_unknown_key(signed: Path, pki: kit.Pki) -> None:
    stranger = kit.make_pki()
    content = OpenedManifest.read(manifest_path(signed).read_bytes()).manifest
    from cryptography.hazmat.primitives.serialization import Encoding

    own = msgspec.structs.replace(content, chain=stranger.camera.chain[0].public_bytes(Encoding.PEM).decode())
    answer = kit.judge_clip(signed, pki, manifest=own.seal(stranger.camera.signer))
    assert "video.manifest.unbelieved" in kit.codes(answer)
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL
    narrowed = kit.judge_clip(signed, pki, manifest=own.seal(stranger.camera.signer), require=(Axis.COMPLETENESS,))
    assert narrowed.verdict.outcome is not Outcome.PASS


def test_manifest_of_another_device_of_ours(signed: Path, pki: kit.Pki) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    content = OpenedManifest.read(manifest_path(signed).read_bytes()).manifest
    own = msgspec.structs.replace(content, chain=pki.other.chain[0].public_bytes(Encoding.PEM).decode())
    answer = kit.judge_clip(signed, pki, manifest=own.seal(pki.other.signer))
    assert "video.device.mismatch" in kit.codes(answer)
    assert answer.verdict.axes[Axis.COMPLETENESS] is not Outcome.PASS


def test_wrong_device_and_unnamed_device(signed: Path, pki: kit.Pki, vectors: Path) -> None:
    from datetime import UTC, datetime

    from secguard.trust import TrustPolicy, read_certificates
    from secguard.video import Expectation, verify

    answer = kit.judge_clip(signed, pki, device=kit.OTHER)
    assert "video.device.mismatch" in kit.codes(answer)
    trust = TrustPolicy(read_certificates(vectors / "ca.pem"))
    then = datetime(2025, 6, 1, tzinfo=UTC)
    foreign = verify(vectors / "test_signed_h264.mp4", trust, then, Expectation(device=kit.CAMERA))
    assert "video.device.unnamed" in kit.codes(foreign)
    assert foreign.verdict.axes[Axis.PROVENANCE] is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b'{"v":1}', b"\xff\xfe", b"[" * 5000, b'{"v":2}'],
)
def test_bad_manifests(payload: bytes) -> None:
    for data in (payload, seal(payload, PAYLOAD_TYPE, generate()), seal(payload, "text/plain", generate())):
        with pytest.raises(FormatError):
            OpenedManifest.read(data, "m")


def test_hidden_by_an_edit_list_needs_the_manifest(signed: Path, pki: kit.Pki) -> None:
    answer = kit.judge_clip(signed, pki)
    assert {"video.completeness.unproven", "video.presentation.unproven"} <= kit.codes(answer)
    assert answer.verdict.outcome is Outcome.UNKNOWN
