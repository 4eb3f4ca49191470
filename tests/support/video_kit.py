"""For tests of the video room: clips, a small PKI, and an MP4 file taken apart and put together again."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from secguard.core import FixedClock
from secguard.gbid import GbId
from secguard.keys import KeySigner, generate
from secguard.trust import Purpose, TrustPolicy
from secguard.trust.names import permanent_identifier
from secguard.trust.oids import oids_of
from secguard.video import Expectation, Signed, VideoVerdict, manifest_path, sign, verify
from secguard.video.containers.mp4 import open_movie
from secguard.video.sei import UUID
from secguard.video.splice import _rebuild

NOW = datetime(2026, 10, 1, 8, 0, tzinfo=UTC)
CAMERA = GbId.parse("32011600001310000001")
OTHER = GbId.parse("32011600001310000002")


@dataclass(frozen=True)
class Identity:
    signer: KeySigner
    chain: list[x509.Certificate]
    gbid: GbId


@dataclass(frozen=True)
class Pki:
    root: x509.Certificate
    crl: x509.CertificateRevocationList
    camera: Identity
    other: Identity
    key: KeySigner

    @property
    def trust(self) -> TrustPolicy:
        return TrustPolicy([self.root], [self.crl])


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(**on: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


def leaf(
    key: KeySigner, issuer: x509.Certificate, gbid: GbId, serial: int, *, purpose: Purpose = Purpose.MEDIA_SIGNING
) -> Identity:
    own = generate()
    policy = x509.PolicyInformation(oids_of(purpose).policy, None)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(gbid.value))
        .issuer_name(issuer.subject)
        .public_key(own.public_key())
        .serial_number(serial)
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=300))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([oids_of(purpose).eku]), critical=False)
        .add_extension(x509.CertificatePolicies([policy]), critical=False)
        .add_extension(x509.SubjectAlternativeName([permanent_identifier(gbid)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key.private_key(), hashes.SHA256())
    )
    return Identity(own, [certificate, issuer], gbid)


def make_pki() -> Pki:
    key = generate()
    root = (
        x509.CertificateBuilder()
        .subject_name(_name("Test Root"))
        .issuer_name(_name("Test Root"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=100))
        .not_valid_after(NOW + timedelta(days=3000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key.private_key(), hashes.SHA256())
    )
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.subject)
        .last_update(NOW - timedelta(days=1))
        .next_update(NOW + timedelta(days=30))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key.private_key(), hashes.SHA256())
    )
    return Pki(root, crl, leaf(key, root, CAMERA, 100), leaf(key, root, OTHER, 101), key)


def make_clip(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 60,
    gop: int = 12,
    size: tuple[int, int] = (96, 64),
    options: dict[str, str] | None = None,
    sound: bool = False,
    seed: int = 1,
    noise: int = 24,
) -> Path:
    import av

    width, height = size
    av.logging.set_level(av.logging.ERROR)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=15)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        defaults = {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "threads": "1"}
        if codec == "libx265":
            defaults = {"x265-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:log-level=none:pools=1"}
        stream.options = defaults | (options or {})
        audio: Any = container.add_stream("aac", rate=8000) if sound else None
        random = np.random.default_rng(seed)
        for number in range(frames):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:, :, 0] = (np.arange(width)[None, :] * 2 + number * 5) % 256
            picture[8:24, (number * 3) % (width - 16) : (number * 3) % (width - 16) + 16] = 255
            picture[-noise:, :noise] = random.integers(0, 255, (noise, noise, 3))
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
            if audio is not None and number % 2 == 0:
                tone = np.sin(np.arange(1024) / 5 + number).astype(np.float32).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                frame.sample_rate = 8000
                frame.pts = number // 2 * 1024
                for packet in audio.encode(frame):
                    container.mux(packet)
        for item in (stream, audio):
            if item is not None:
                for packet in item.encode():
                    container.mux(packet)
    return path


def sign_clip(source: Path, target: Path, who: Identity, **options: Any) -> Signed:
    with sign(
        source, target, signer=who.signer, chain=who.chain, device=who.gbid, clock=FixedClock(NOW), **options
    ) as done:
        pass
    return done


def judge_clip(path: Path, pki: Pki, *, manifest: Path | bytes | None = None, **options: Any) -> VideoVerdict:
    data = manifest.read_bytes() if isinstance(manifest, Path) else manifest
    expected = Expectation(manifest=data, device=options.pop("device", None), must_sign=options.pop("must_sign", False))
    return verify(path, pki.trust, options.pop("at", NOW), expected, **options)


def codes(answer: VideoVerdict) -> set[str]:
    return {item.code for item in answer.verdict.findings if item.outcome != "pass"}


def places(answer: VideoVerdict, code: str) -> list[str]:
    return [item.where for item in answer.verdict.findings if item.code == code]


@dataclass(frozen=True)
class Sample:
    data: bytes
    delta: int
    shift: int
    sync: bool

    @property
    def nals(self) -> list[bytes]:
        found, at = [], 0
        while at + 4 <= len(self.data):
            size = int.from_bytes(self.data[at : at + 4], "big")
            found.append(self.data[at + 4 : at + 4 + size])
            at += 4 + size
        return found

    def of(self, nals: Iterable[bytes]) -> "Sample":
        return replace(self, data=b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals))


def take_apart(path: Path) -> list[Sample]:
    movie = open_movie(path)
    samples = movie.samples(movie.video)
    return [
        Sample(movie.data[offset : offset + size], delta, shift, sync)
        for offset, size, delta, shift, sync in zip(
            samples.offset.tolist(),
            samples.size.tolist(),
            samples.delta.tolist(),
            samples.shift.tolist(),
            samples.sync.tolist(),
            strict=True,
        )
    ]


def _table(*columns: Sequence[int], version: int = 0) -> bytes:
    rows = list(zip(*columns, strict=True))
    body = b"".join((value & 0xFFFFFFFF).to_bytes(4, "big") for row in rows for value in row)
    return bytes((version, 0, 0, 0)) + len(rows).to_bytes(4, "big") + body


def put_together(
    original: Path, samples: list[Sample], target: Path, extra: dict[int, tuple[bytes, bytes]] | None = None
) -> Path:
    """Write the samples as one chunk of a file whose index is that of `original`, tables exchanged."""
    movie = open_movie(original)
    tables = movie.video.tables
    head = movie.data[movie.boxes[0].start : movie.boxes[0].end]
    media = b"".join(item.data for item in samples)
    sizes = bytes(8) + len(samples).to_bytes(4, "big") + b"".join(len(s.data).to_bytes(4, "big") for s in samples)
    count = len(samples)
    replaced = {
        tables[b"stsz"].start: (b"stsz", sizes),
        tables[b"stco"].start: (b"stco", _table([len(head) + 8])),
        tables[b"stsc"].start: (b"stsc", _table([1], [count], [1])),
        tables[b"stts"].start: (b"stts", _table([1] * count, [s.delta for s in samples])),
    }
    if b"ctts" in tables:
        replaced[tables[b"ctts"].start] = (b"ctts", _table([1] * count, [s.shift for s in samples], version=1))
    if b"stss" in tables:
        replaced[tables[b"stss"].start] = (b"stss", _table([n + 1 for n, s in enumerate(samples) if s.sync]))
    replaced |= extra or {}
    target.write_bytes(
        head + (len(media) + 8).to_bytes(4, "big") + b"mdat" + media + _rebuild(movie, movie.moov, replaced)
    )
    return target


def flip(path: Path, target: Path, offset: int, bit: int = 0x10) -> Path:
    data = bytearray(path.read_bytes())
    data[offset] ^= bit
    target.write_bytes(data)
    return target


def _tlv(tag: int, value: bytes) -> bytes:
    return bytes((tag,)) + len(value).to_bytes(2, "big") + value


def sign_samples(
    samples: list[Sample],
    who: Identity,
    *,
    codec: str = "h264",
    every: int = 1,
    low_bitrate: bool = False,
    left_out: Sequence[int] = (),
    certificate_sei: bool = False,
    stale_end: bool = False,
) -> list[Sample]:
    """A second, plain signer with the modes of the reference: SEIs without emulation prevention, some unsigned."""
    head = b"\x06\x05" if codec == "h264" else b"\x4e\x01\x05"
    pem = who.chain[0].public_bytes(serialization.Encoding.PEM)
    crypto = _tlv(4, b"\x01\x0b" + bytes.fromhex("0609608648016503040201") + bytes(3))
    hashed: list[bytes] = []
    link, counter, anchor = bytes(32), 0, bytes(32)
    pending: list[bytes] = []
    ended: list[tuple[bytes, int]] = []

    def sei(body: bytes, flags: int, signed: bool) -> bytes:
        size = 17 + len(body) + (3 + 3 + 72 if signed else 0)
        text = head + b"\xff" * (size // 255) + bytes((size % 255,)) + UUID + bytes((flags,)) + body
        if not signed:
            return text + b"\x80"
        signature = who.signer.sign(text, "sha256")
        value = b"\x01" + len(signature).to_bytes(2, "big") + signature + b"\x01" * (72 - len(signature))
        return text + _tlv(3, value) + b"\x80"

    def close(last: bool) -> bytes:
        nonlocal link, counter
        counter += 1
        signed = last or counter % every == 0
        listed = b"".join(hashed)
        gop_hash = hashlib.sha256(b"stale" if last and stale_end else listed).digest()
        count = len(hashed)
        if last and stale_end and low_bitrate:  # the reference's own end: all of the SEI before but its number
            gop_hash, count = ended[-1]
        ended.append((gop_hash, count))
        general = b"\x01" + bytes((24, 12, 0, 0)) + bytes(8) + counter.to_bytes(4, "big")
        general += count.to_bytes(2, "big") + gop_hash + link
        body = b"" if certificate_sei else crypto + _tlv(6, b"\x01\x00" + pem)
        body += _tlv(1, general) + (b"" if low_bitrate else _tlv(2, b"\x01" + listed))
        link = hashed[0]
        hashed.clear()
        made = sei(body, 0, signed)
        if not signed:
            pending.append(hashlib.sha256(made).digest())
        return made

    result = []
    for number, item in enumerate(samples):
        nals: list[bytes] = []
        for nal in item.nals:
            kind = nal[0] & 31 if codec == "h264" else nal[0] >> 1 & 63
            irap, vcl = (kind == 5, 1 <= kind <= 5) if codec == "h264" else (16 <= kind <= 21, kind < 22)
            after = nal[1 if codec == "h264" else 2]
            if irap and after & 0x80:
                if hashed:
                    nals.append(close(last=False))
                    hashed += pending
                    pending.clear()
                anchor = hashlib.sha256(nal).digest()
                hashed.append(anchor)
                # An unsigned SEI stands before the slice, so its hash comes first.
                if len(hashed) > 1:
                    hashed[:] = [*hashed[:-1], anchor]
            elif vcl and kind not in left_out:
                hashed.append(hashlib.sha256(anchor + hashlib.sha256(nal).digest()).digest())
            nals.append(nal)
        if number == len(samples) - 1:
            nals.append(close(last=True))
        if number == 0 and certificate_sei:
            nals.insert(0, sei(crypto + _tlv(6, b"\x01\x00" + pem), 0x80, signed=True))
        result.append(item.of(nals))
    return result


__all__ = [
    "CAMERA",
    "NOW",
    "OTHER",
    "Identity",
    "Pki",
    "Sample",
    "codes",
    "flip",
    "judge_clip",
    "leaf",
    "make_clip",
    "make_pki",
    "manifest_path",
    "places",
    "put_together",
    "sign_clip",
    "sign_samples",
    "take_apart",
]
