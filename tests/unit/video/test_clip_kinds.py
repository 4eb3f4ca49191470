"""Clips of what is in the field: open GOPs, ONVIF's own vectors, other signing modes, segments, imports, fragments."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import video_kit as kit
from clip_kit import GOP, START, judge, make

from secguard.core import Axis, FixedClock, Outcome, RefusedError
from secguard.trust import Purpose, TrustPolicy, read_certificates
from secguard.video import Expectation, OpenedManifest, manifest_path, verify
from secguard.video.clip import clip
from secguard.video.clip_record import OpenedClip, clip_path
from secguard.video.manifest import gop_samples
from secguard.video.nal import open_stream


@pytest.fixture(scope="session")
def operator(pki: kit.Pki) -> kit.Identity:
    return kit.leaf(pki.key, pki.root, kit.OTHER, 300, purpose=Purpose.OPERATOR)


def _decoded(path: Path) -> list[np.ndarray]:  # type: ignore[type-arg]
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def open_gop(tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Path:
    """H.265 with CRA pictures whose leading pictures refer to the GOP before."""
    folder = tmp_path_factory.mktemp("open")
    parameters = "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3:b-adapt=0:log-level=none:pools=1"
    source = kit.make_clip(folder / "p.mp4", codec="libx265", frames=60, options={"x265-params": parameters})
    assert (open_stream(source).nals.kind == 21).any(), "a CRA"
    kit.sign_clip(source, folder / "signed.mp4", pki.camera, start=START)
    return folder / "signed.mp4"


def test_an_open_gop(open_gop: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    samples = open_stream(open_gop).samples
    shown = samples.dts + samples.shift
    heads, _ = gop_samples(open_stream(open_gop))
    assert len(heads) >= 4
    key = float(shown[heads[2]] - shown.min()) / open_stream(open_gop).track.timescale
    # Where the range begins with the leading pictures, the GOP that they refer to is taken as well.
    path = tmp_path / "with.mp4"
    made = make(open_gop, path, operator, f"+{key - 0.01}", f"+{key + 0.5}")
    assert made.record.parts[0].first == 2
    answer = judge(path, pki)
    assert answer.verdict.outcome is Outcome.PASS, kit.codes(answer)
    # Behind them it is not needed: they stay, byte for byte, and no player shows them.
    path = tmp_path / "without.mp4"
    made = make(open_gop, path, operator, f"+{key + 0.01}", f"+{key + 0.5}")
    assert made.record.parts[0].first == 3
    assert made.record.leading > 0
    answer = judge(path, pki)
    assert answer.verdict.outcome is Outcome.PASS
    assert "video.clip.leading" in {item.code for item in answer.verdict.findings}
    whole, part = _decoded(open_gop), _decoded(path)
    assert len(part) >= made.record.frames - made.record.leading
    last = part[-1]
    assert any(np.array_equal(last, item) for item in whole)


@pytest.mark.parametrize("name", ["test_signed_h264.mp4", "test_signed_h265.mp4"])
def test_onvif_vectors(vectors: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path, name: str) -> None:
    """Signed by the reference: each SEI stands in the second frame of the next GOP, and there is no manifest."""
    path = tmp_path / "clip.mp4"
    seconds = [
        float(x)
        for x in open_stream(vectors / name).samples.dts[[62, 186]] / open_stream(vectors / name).track.timescale
    ]
    made = make(vectors / name, path, operator, f"+{seconds[0] + 0.01}", f"+{seconds[1] - 0.01}")
    assert (made.record.parts[0].first, made.record.parts[0].last) == (2, 3)
    trust = TrustPolicy([pki.root, *read_certificates(vectors / "ca.pem")], [pki.crl])
    expected = Expectation(clip=clip_path(path).read_bytes())
    answer = verify(path, trust, datetime(2025, 6, 1, tzinfo=UTC), expected)
    assert answer.proven == answer.slices, "the SEI that signs the last GOP came along"
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS, kit.codes(answer)
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.PASS
    assert "video.clip.unsealed" in kit.codes(answer)
    assert len(_decoded(path)) == made.record.frames
    whole = _decoded(vectors / name.replace("signed_", ""))  # its last sample holds no picture: a decoder complains
    assert all(np.array_equal(a, b) for a, b in zip(_decoded(path), whole[62:186], strict=True))


@pytest.mark.parametrize(
    "left", [{"every": 3}, {"low_bitrate": True}, {"certificate_sei": True}, {"every": 2, "low_bitrate": True}]
)
def test_other_signing_modes(
    clip: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path, left: dict[str, int]
) -> None:
    """The manifest proves what the signatures of a part cannot."""
    from secguard.video.hashing import hash_nals
    from secguard.video.manifest import digest_config, digest_presentation, digest_sets, gop_starts, gops_of

    source = kit.put_together(clip, kit.sign_samples(kit.take_apart(clip), pki.camera, **left), tmp_path / "s.mp4")  # type: ignore[arg-type]
    kit.sign_clip(clip, tmp_path / "model.mp4", pki.camera, start=START)
    model = OpenedManifest.read(manifest_path(tmp_path / "model.mp4").read_bytes()).manifest
    stream = open_stream(source)
    gops = gops_of(stream, hash_nals(stream.source.data, stream.nals, np.flatnonzero(stream.nals.vcl)))
    manifest = msgspec.structs.replace(
        model,
        gops=gops,
        starts=gop_starts(stream),
        config=digest_config(stream),
        parameter_sets=digest_sets(stream).hex(),
        presentation=digest_presentation(stream).hex(),
        start=model.start,
    )
    manifest_path(source).write_bytes(manifest.seal(pki.camera.signer))
    for begin, end in (("+0.9", "+1.5"), ("+0.9", "+2.3"), ("+0", "+1"), ("+2.5", "+4")):
        path = tmp_path / f"clip{begin}{end}.mp4"
        make(source, path, operator, begin, end)
        answer = judge(path, pki)
        assert answer.verdict.outcome is Outcome.PASS, (begin, end, kit.codes(answer))
        assert set(answer.timeline.state) <= {"intact", "sealed"}


@pytest.fixture
def segments(pki: kit.Pki, tmp_path: Path) -> list[Path]:
    """Two adjacent segments of one recording, linked by their manifests."""
    paths = []
    before = ""
    for number in (1, 2):
        source = kit.make_clip(tmp_path / f"p{number}.mp4", frames=36, gop=GOP, seed=number)
        path = tmp_path / f"s{number}.mp4"
        kit.sign_clip(source, path, pki.camera, start=START + timedelta(seconds=2.4 * (number - 1)))
        manifest = OpenedManifest.read(manifest_path(path).read_bytes()).manifest
        place = {"recording": "r-1", "sequence": number, "previous": before}
        manifest_path(path).write_bytes(msgspec.structs.replace(manifest, **place).seal(pki.camera.signer))
        before = OpenedManifest.read(manifest_path(path).read_bytes()).sha256.hex()
        paths.append(path)
    return paths


def test_over_two_segments(segments: list[Path], pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    options = {"signer": operator.signer, "chain": operator.chain, "clock": FixedClock(kit.NOW), "case": "A"}
    with clip(segments, path, begin="+1.7", end="2026-10-01T07:00:03.5Z", **options) as made:  # type: ignore[arg-type]
        pass
    assert [(part.first, part.last) for part in made.record.parts] == [(3, 3), (1, 2)]
    assert len(made.event_data()["source_2_sha256"]) == 64  # type: ignore[arg-type]
    answer = judge(path, pki)
    assert answer.verdict.outcome is Outcome.PASS, kit.codes(answer)
    assert answer.timeline.gop == [3, 1, 2]
    samples = kit.take_apart(path)
    short = kit.put_together(path, samples[:12] + samples[24:], tmp_path / "short.mp4")
    answer = judge(short, pki, clip_path(path))
    (place,) = kit.places(answer, "video.clip.gop-missing")
    assert place.startswith("segment 2, GOP 1, 2026-10-01T07:00:02.400000Z")
    # A record that leaves the border out, signed by a dishonest operator.
    record = OpenedClip.read(clip_path(path).read_bytes()).record
    first, second = record.parts
    parts = (first, msgspec.structs.replace(second, first=2))
    bad = msgspec.structs.replace(record, parts=parts, gops=2).seal(operator.signer)
    assert "video.clip.segments" in kit.codes(judge(short, pki, bad))
    with (
        pytest.raises(RefusedError, match="follow"),
        clip(segments[::-1], tmp_path / "x.mp4", begin="+0", end="+1", **options),  # type: ignore[arg-type]
    ):
        pass


def test_sealed_at_import(clip: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    """An unsigned recording that an operator sealed later: proven since then, and said so."""
    from secguard.trust import chain_pem

    kit.sign_clip(clip, tmp_path / "model.mp4", pki.camera, start=START)
    model = OpenedManifest.read(manifest_path(tmp_path / "model.mp4").read_bytes()).manifest
    source = tmp_path / "old.mp4"
    source.write_bytes(clip.read_bytes())
    manifest = msgspec.structs.replace(
        model, sealed="import", sealed_at="2026-10-01T07:30:00Z", chain=chain_pem(operator.chain[:1]).decode(), seis=0
    )
    manifest_path(source).write_bytes(manifest.seal(operator.signer))
    path = tmp_path / "clip.mp4"
    make(source, path, operator, "+0.9", "+2.3")
    answer = judge(path, pki)
    assert answer.verdict.outcome is Outcome.PASS, kit.codes(answer)
    assert "video.clip.imported" in {item.code for item in answer.verdict.findings}
    answer = judge(path, pki, must_sign=True)
    assert "video.sei.none" in kit.codes(answer), "the camera had the duty to sign"
    samples = kit.take_apart(path)
    answer = judge(kit.put_together(path, samples[12:], tmp_path / "short.mp4"), pki, clip_path(path))
    assert "video.clip.gop-missing" in kit.codes(answer)


def test_a_fragmented_recording(clip: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    import av

    kit.sign_clip(clip, tmp_path / "signed.mp4", pki.camera, start=START)
    source = tmp_path / "fragmented.mp4"
    with (
        av.open(str(tmp_path / "signed.mp4")) as given,
        av.open(
            str(source), "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        ) as made,
    ):
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    manifest_path(source).write_bytes(manifest_path(tmp_path / "signed.mp4").read_bytes())
    assert open_stream(source).source.fragmented  # type: ignore[attr-defined]
    path = tmp_path / "clip.mp4"
    make(source, path, operator, "+0.9", "+2.3")
    answer = judge(path, pki)
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.PASS, kit.codes(answer)
    assert answer.verdict.outcome is Outcome.PASS, kit.codes(answer)
    assert len(_decoded(path)) == 24


def test_an_old_manifest(signed: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    """Made before GOPs had times and parameter sets of their own."""
    source = tmp_path / "s.mp4"
    source.write_bytes(signed.read_bytes())
    manifest = OpenedManifest.read(manifest_path(signed).read_bytes()).manifest
    gops = msgspec.structs.replace(manifest.gops, times=(), sets=())
    manifest_path(source).write_bytes(
        msgspec.structs.replace(manifest, gops=gops, starts=(), config="").seal(pki.camera.signer)
    )
    path = tmp_path / "clip.mp4"
    make(source, path, operator, "+0.9", "+2.3")
    answer = judge(path, pki)
    assert {"video.clip.old-manifest", "video.presentation.unproven"} == kit.codes(answer)
    assert answer.verdict.outcome is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.COMPLETENESS] is Outcome.PASS


def test_a_revoked_operator(signed: Path, pki: kit.Pki, operator: kit.Identity, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    path = tmp_path / "clip.mp4"
    make(signed, path, operator, "+0.9", "+2.3")
    builder = x509.CertificateRevocationListBuilder().issuer_name(pki.root.subject)
    builder = builder.last_update(kit.NOW - timedelta(days=1)).next_update(kit.NOW + timedelta(days=30))
    builder = builder.add_extension(x509.CRLNumber(2), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(pki.key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    entry = x509.RevokedCertificateBuilder().serial_number(operator.chain[0].serial_number)
    entry = entry.revocation_date(kit.NOW - timedelta(days=2))
    crl = builder.add_revoked_certificate(entry.build()).sign(pki.key.private_key(), hashes.SHA256())
    answer = verify(path, TrustPolicy([pki.root], [crl]), kit.NOW, Expectation(clip=clip_path(path).read_bytes()))
    assert answer.verdict.axes[Axis.REVOCATION] is Outcome.FAIL
