"""Every mode of signing: no false alarm on the intact file, and each tampering is named, H.264 and H.265."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import video_kit as kit
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secguard.core import Axis, Outcome, UsageError
from secguard.keys import Algorithm, KeySigner, generate
from secguard.video import frame_offsets
from secguard.video.inspection import inspect
from secguard.video.nal import open_stream
from secguard.video.sei import parse
from secguard.video.signing import Mode

X264, X265 = "libx264", "libx265"
QUIET = "log-level=none:pools=1"
SHAPES: dict[str, tuple[str, int, dict[str, str]]] = {
    "h264": (X264, 12, {}),
    "h264 one-frame GOPs": (X264, 1, {"g": "1"}),
    "h264 B-frames, AUD, sets in band": (X264, 9, {"bf": "3", "x264-params": "aud=1:repeat-headers=1:keyint=9"}),
    "h264 slices, open GOP": (X264, 12, {"slices": "4", "x264-params": "open-gop=1:keyint=12:bframes=2"}),
    "h265": (X265, 12, {}),
    "h265 open GOP: RASL and RADL": (X265, 12, {"x265-params": f"keyint=12:open-gop=1:bframes=4:{QUIET}"}),
    "h265 TSA": (X265, 12, {"x265-params": f"keyint=12:temporal-layers=1:bframes=3:b-adapt=0:{QUIET}"}),
    "h265 slices, AUD, sets in band": (X265, 10, {"x265-params": f"keyint=10:slices=2:aud=1:repeat-headers=1:{QUIET}"}),
}
FRAMES = 24
EXAMPLES = settings(max_examples=25 if os.environ.get("SECGUARD_TEST_PROFILE", "ci") == "ci" else 400)

modes = st.builds(
    Mode,
    hash_name=st.sampled_from(["sha256", "sha384", "sha512"]),
    every=st.integers(1, 5),
    partial=st.sampled_from([0, 0, 1, 5, 100]),
    max_slices=st.sampled_from([0, 0, 1, 3, 17]),
    low_bitrate=st.booleans(),
    certificate_sei=st.booleans(),
    prevent_first=st.booleans(),
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    return {
        name: kit.make_clip(folder / f"{n}.mp4", codec=codec, frames=FRAMES, gop=gop, options=options, size=(96, 64))
        for n, (name, (codec, gop, options)) in enumerate(SHAPES.items())
    }


def _again(folder: Path, name: str) -> Path:
    target = folder / name
    target.unlink(missing_ok=True)
    kit.manifest_path(target).unlink(missing_ok=True)
    return target


@settings(EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.sampled_from(list(SHAPES)), mode=modes)
def test_no_false_alarm(shapes: dict[str, Path], tmp_path: Path, pki: kit.Pki, shape: str, mode: Mode) -> None:
    target = _again(tmp_path, "signed.mp4")
    done = kit.sign_clip(shapes[shape], target, pki.camera, mode=mode)
    answer = kit.judge_clip(target, pki, manifest=done.manifest)
    assert kit.codes(answer) == set()
    assert answer.verdict.outcome is Outcome.PASS
    assert (answer.frames, answer.proven) == (FRAMES, answer.slices)
    alone = kit.judge_clip(target, pki)
    assert alone.verdict.axes[Axis.INTEGRITY] is Outcome.PASS
    assert set(alone.timeline.state) == {"intact"}


@settings(EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.sampled_from(list(SHAPES)), mode=modes, frame=st.integers(0, FRAMES - 1))
def test_a_changed_frame_is_named(
    *, shapes: dict[str, Path], tmp_path: Path, pki: kit.Pki, shape: str, mode: Mode, frame: int
) -> None:
    target = _again(tmp_path, "signed.mp4")
    kit.sign_clip(shapes[shape], target, pki.camera, mode=mode)
    frames = frame_offsets(target)
    nals = open_stream(target).nals
    slices = [i for i in range(len(nals)) if nals.vcl[i] and int(frames.offset[frame]) <= nals.offset[i]]
    path = kit.flip(target, tmp_path / "flipped.mp4", int(nals.end[slices[0]]) - 2)
    answer = kit.judge_clip(path, pki)
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
    wrong = [item for item in answer.verdict.findings if item.code == "video.gop.hash-mismatch"]
    assert any(item.data["first"] <= frame + 1 <= item.data["last"] for item in wrong)
    # Without lists, a changed first slice leaves the other parts of its GOP without the anchor they are hashed with.
    assert len({item.data["gop"] for item in wrong}) == 1
    if not mode.low_bitrate:
        assert [item.data["frames"] for item in wrong] == [1]


MODES = [
    Mode(every=2),
    Mode(every=3, prevent_first=False, certificate_sei=True),
    Mode(partial=5),
    Mode(certificate_sei=True),
    Mode(hash_name="sha512"),
]


def _strip(item: kit.Sample, pick: Any) -> kit.Sample:
    return item.of([nal for nal in item.nals if not pick(nal)])


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("codec", [X264, X265])
def test_tampering_is_named(tmp_path: Path, pki: kit.Pki, codec: str, mode: Mode) -> None:
    source = kit.make_clip(tmp_path / "clip.mp4", codec=codec, frames=72, gop=12, options={"bf": "0"})
    signed = tmp_path / "signed.mp4"
    done = kit.sign_clip(source, signed, pki.camera, mode=mode)
    made = kit.take_apart(signed)
    ours = bytes.fromhex("005bc93f2d715e95")

    def judged(samples: list[kit.Sample], *, sealed: bool = False) -> set[str]:
        path = kit.put_together(signed, samples, tmp_path / "edited.mp4")
        return kit.codes(kit.judge_clip(path, pki, manifest=done.manifest if sealed else None))

    def only_slices(item: kit.Sample) -> kit.Sample:
        return _strip(item, lambda nal: ours in nal[:40])

    seis = [item.of([nal for nal in item.nals if ours in nal[:40]]).data for item in made]
    kept = [index for index, data in enumerate(seis) if not data]
    victim = next(index for index in kept if index > 26)  # a P frame without a signature
    assert "video.frame.missing" in judged([*made[:victim], *made[victim + 1 :]])
    assert "video.frame.repeated" in judged([*made[:victim], made[victim], *made[victim:]])
    swapped = [*made]
    swapped[victim], swapped[victim + 1] = swapped[victim + 1], swapped[victim]
    assert "video.frame.moved" in judged(swapped)
    assert {"video.gop.missing"} <= judged([*made[:24], *made[36:]], sealed=True)
    assert judged([*made[:24], *made[36:]]) & {"video.gop.missing", "video.frame.missing", "video.sei.missing"}
    bare = [only_slices(item) for item in made]
    assert judged(bare) >= {"video.sei.none"}
    assert "video.sei.removed" in judged(bare, sealed=True)
    assert judged(made[:60], sealed=True) & {"video.tail.truncated"}
    assert judged([*made, *made[61:64]]) & {"video.frame.repeated", "video.frame.foreign", "video.tail.unsigned"}
    last = [*made[:-1], only_slices(made[-1])]
    assert "video.tail.unsigned" in judged(last) or "video.gop.unproven" in judged(last)


def test_unsigned_seis_between(tmp_path: Path, pki: kit.Pki, clip: Path) -> None:
    """Five GOPs, every second one signed: 1 and 3 are told by unsigned SEIs, and the last SEI is always signed."""
    kit.sign_clip(clip, tmp_path / "signed.mp4", pki.camera, mode=Mode(every=2))
    stream = open_stream(tmp_path / "signed.mp4")
    found = []
    for sample, start, end, mine in zip(
        stream.nals.sample.tolist(),
        stream.nals.offset.tolist(),
        stream.nals.end.tolist(),
        stream.nals.sei.tolist(),
        strict=True,
    ):
        sei = parse(bytes(stream.source.data[start:end]), "h264") if mine else None
        if sei is not None:
            found.append((sample, sei.counter, bool(sei.signature), sei.count))
    assert found == [(13, 1, False, 12), (24, 2, True, 13), (37, 3, False, 12), (48, 4, True, 13), (59, 5, True, 12)]


def test_an_unsigned_sei_that_was_changed_is_named(tmp_path: Path, pki: kit.Pki, clip: Path) -> None:
    kit.sign_clip(clip, tmp_path / "signed.mp4", pki.camera, mode=Mode(every=3))
    samples = kit.take_apart(tmp_path / "signed.mp4")
    assert b"secguard" in samples[13].nals[0]
    nal = bytearray(samples[13].nals[0])
    nal[-40] ^= 4  # in its hash list
    samples[13] = samples[13].of([bytes(nal), *samples[13].nals[1:]])
    path = kit.put_together(clip, samples, tmp_path / "edited.mp4")
    assert {"video.sei.unlisted", "video.sei.foreign"} <= kit.codes(kit.judge_clip(path, pki))


def test_an_end_cut_off_behind_an_unsigned_sei_accuses_nobody(tmp_path: Path, pki: kit.Pki, clip: Path) -> None:
    done = kit.sign_clip(clip, tmp_path / "signed.mp4", pki.camera, mode=Mode(every=3))
    samples = kit.take_apart(tmp_path / "signed.mp4")
    path = kit.put_together(clip, samples[:54], tmp_path / "cut.mp4")  # GOP 4 has an unsigned SEI, in frame 50
    answer = kit.judge_clip(path, pki)
    assert "video.tail.unsigned" in kit.codes(answer)
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.UNKNOWN
    assert "video.tail.truncated" in kit.codes(kit.judge_clip(path, pki, manifest=done.manifest))


def test_certificates_are_sent_once(tmp_path: Path, pki: kit.Pki, clip: Path) -> None:
    sizes = {}
    for name, mode in (("all", Mode()), ("once", Mode(certificate_sei=True)), ("low", Mode(low_bitrate=True))):
        kit.sign_clip(clip, tmp_path / f"{name}.mp4", pki.camera, mode=mode)
        data = (tmp_path / f"{name}.mp4").read_bytes()
        sizes[name] = (data.count(b"BEGIN CERTIFICATE"), len(data))
    assert sizes["all"][0] == sizes["low"][0] == 5
    assert sizes["once"][0] == 1
    assert sizes["once"][1] < sizes["all"][1]
    assert sizes["low"][1] < sizes["all"][1] - 60 * 32
    first = kit.take_apart(tmp_path / "once.mp4")[0].nals
    sei = next(found for nal in first if nal[0] & 31 == 6 and (found := parse(nal, "h264")) is not None)
    assert sei.certificate_only
    assert sei.hash_name == "sha256"


def test_vendor_and_parts_are_told(tmp_path: Path, pki: kit.Pki, clip: Path) -> None:
    mode = Mode(partial=5, firmware="1.2.3", serial="SN-7", manufacturer="某某")
    kit.sign_clip(clip, tmp_path / "signed.mp4", pki.camera, mode=mode)
    seis = inspect(tmp_path / "signed.mp4")["seis"]
    assert {row["serial"] for row in seis} == {"SN-7"}
    assert [row["slices"] for row in seis] == [5, 5, 2] * 5
    assert [row["partial"] for row in seis] == [True, True, False] * 5
    nal = next(nal for nal in kit.take_apart(tmp_path / "signed.mp4")[5].nals if b"SN-7" in nal)
    found = parse(nal, "h264")
    assert found is not None
    assert found.vendor == ("1.2.3", "SN-7", "某某")


@pytest.mark.parametrize("algorithm", [Algorithm.P384, Algorithm.RSA])
@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_other_keys(
    *, tmp_path: Path, pki: kit.Pki, clip: Path, monkeypatch: pytest.MonkeyPatch, algorithm: Algorithm, name: str
) -> None:
    monkeypatch.setattr(kit, "generate", lambda: generate(algorithm))
    who = kit.leaf(pki.key, pki.root, kit.CAMERA, 300)
    done = kit.sign_clip(clip, tmp_path / "signed.mp4", who, mode=Mode(hash_name=name))
    answer = kit.judge_clip(tmp_path / "signed.mp4", pki, manifest=done.manifest)
    assert answer.verdict.outcome is Outcome.PASS
    nals = open_stream(tmp_path / "signed.mp4").nals
    last = kit.flip(tmp_path / "signed.mp4", tmp_path / "flipped.mp4", int(nals.end[-1]) - 60)
    assert "video.sei.signature" in kit.codes(kit.judge_clip(last, pki))


def test_ed25519_is_refused(tmp_path: Path, pki: kit.Pki, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard signs a hash, with ECDSA or RSA; it gives no rule for EdDSA, which hashes by itself."""
    monkeypatch.setattr(kit, "generate", lambda: generate(Algorithm.ED25519))
    who = kit.leaf(pki.key, pki.root, kit.CAMERA, 300)
    with pytest.raises(UsageError) as caught:
        kit.sign_clip(clip, tmp_path / "signed.mp4", who)
    assert caught.value.code == "video.sign.algorithm"
    assert "ECDSA" in caught.value.hint


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        (Mode(hash_name="md5"), "video.sign.hash"),
        (Mode(every=0), "video.sign.mode"),
        (Mode(partial=-1), "video.sign.mode"),
        (Mode(max_slices=70_000), "video.sign.mode"),
        (Mode(serial="x" * 256), "video.sign.mode"),
    ],
)
def test_modes_out_of_range(tmp_path: Path, pki: kit.Pki, clip: Path, mode: Mode, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        kit.sign_clip(clip, tmp_path / "signed.mp4", pki.camera, mode=mode)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


HASHES = {"sha256": SHA256, "sha384": SHA384, "sha512": SHA512}
OIDS = {"sha256": "0609608648016503040201", "sha384": "0609608648016503040202", "sha512": "0609608648016503040203"}


def _foreign(samples: list[kit.Sample], who: kit.Identity, codec: str, name: str, salt: int) -> list[kit.Sample]:
    """A second encoder, written from the standard alone: one signed SEI behind each GOP, keys of all kinds."""
    head = b"\x06\x05" if codec == "h264" else b"\x4e\x01\x05"
    key = who.signer.private_key()
    room = key.key_size // 8 if isinstance(key, rsa.RSAPrivateKey) else 104

    def digest(data: bytes) -> bytes:
        return hashlib.new(name, data).digest()

    def tlv(tag: int, value: bytes) -> bytes:
        return bytes((tag,)) + len(value).to_bytes(2, "big") + value

    def signature(value: bytes) -> bytes:
        algorithm = utils.Prehashed(HASHES[name]())
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(value, padding.PSS(padding.MGF1(HASHES[name]()), salt), algorithm)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.sign(value, ec.ECDSA(algorithm))

    result, listed, link, counter = [], [], bytes(len(digest(b""))), 0
    anchor = b""
    chain = b"".join(item.public_bytes(Encoding.PEM) for item in who.chain[:1])
    for number, item in enumerate(samples):
        following = samples[number + 1] if number + 1 < len(samples) else None
        nals = list(item.nals)
        for nal in item.nals:
            kind = nal[0] & 31 if codec == "h264" else nal[0] >> 1 & 63
            if kind == 5 if codec == "h264" else 16 <= kind <= 21:
                anchor = digest(nal)
                listed.append(anchor)
            elif kind in {1, 2, 3, 4} if codec == "h264" else kind < 16:
                listed.append(digest(anchor + digest(nal)))
        if following is None or following.sync:
            counter += 1
            hashes = b"".join(listed)
            told = b"\x01\x18\x0c\x00\x00" + bytes(8) + counter.to_bytes(4, "big") + len(listed).to_bytes(2, "big")
            body = tlv(4, b"\x01\x0b" + bytes.fromhex(OIDS[name]) + bytes(3)) + tlv(6, b"\x01\x00" + chain)
            body += tlv(1, told + digest(hashes) + link) + tlv(2, b"\x01" + hashes)
            size = 17 + len(body) + 6 + room
            text = head + b"\xff" * (size // 255) + bytes((size % 255,))
            text += bytes.fromhex("005bc93f2d715e95ada4796f90877a6f") + b"\0" + body
            made = signature(digest(text))
            value = b"\x01" + len(made).to_bytes(2, "big") + made + b"\x01" * (room - len(made))
            nals.append(text + tlv(3, value) + b"\x80")
            link, listed = listed[0], []
        result.append(item.of(nals))
    return result


@pytest.mark.parametrize(("codec", "encoder"), [("h264", X264), ("h265", X265)])
@pytest.mark.parametrize(
    ("algorithm", "name", "salt"),
    [
        (Algorithm.P256, "sha512", 0),
        (Algorithm.P384, "sha384", 0),
        (Algorithm.RSA, "sha256", 32),
        (Algorithm.RSA, "sha256", 350),  # the longest that 3072 bits allow, as OpenSSL's default is
        (Algorithm.RSA, "sha512", 64),
    ],
)
def test_streams_of_others(
    *,
    tmp_path: Path,
    pki: kit.Pki,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    encoder: str,
    algorithm: Algorithm,
    name: str,
    salt: int,
) -> None:
    monkeypatch.setattr(kit, "generate", lambda: generate(algorithm))
    who = kit.leaf(pki.key, pki.root, kit.CAMERA, 300)
    assert isinstance(who.signer, KeySigner)
    source = kit.make_clip(tmp_path / "clip.mp4", codec=encoder, frames=24, options={"bf": "0"})
    made = _foreign(kit.take_apart(source), who, codec, name, salt)
    path = kit.put_together(source, made, tmp_path / "signed.mp4")
    answer = kit.judge_clip(path, pki)
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.PASS
    assert answer.proven == answer.slices == 24
    frames = frame_offsets(path)
    broken = kit.flip(path, tmp_path / "flipped.mp4", int(frames.offset[17] + frames.size[17] - 2))
    assert kit.places(kit.judge_clip(broken, pki), "video.gop.hash-mismatch") == ["GOP 2, frame 18"]
