"""The tamper table: what is done to a recording, and the codes that must name it, without and with its manifest.

docs/video.md shows the same table; a test compares the two.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import video_kit as kit
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from secguard.trust import TrustPolicy
from secguard.video.containers.mp4 import open_movie

Samples = list[kit.Sample]


def is_sei(nal: bytes) -> bool:
    """ONVIF's, or another one."""
    return nal[:2] == b"\x06\x05" or nal[:3] == b"\x4e\x01\x05"


def strip(sample: kit.Sample) -> kit.Sample:
    """Without the signature."""
    return sample.of([nal for nal in sample.nals if not (is_sei(nal) and b"secguard" in nal)])


@dataclass
class Case:
    """A recording of 60 frames in 5 GOPs of 12, another one of the same camera, and where to write."""

    signed: Path
    other: Path
    folder: Path
    pki: kit.Pki
    codec: str
    device: kit.GbId | None = None
    must_sign: bool = False
    at: datetime = kit.NOW
    trust: TrustPolicy | None = None

    @property
    def samples(self) -> Samples:
        return kit.take_apart(self.signed)

    def write(self, samples: Samples, extra: dict[int, tuple[bytes, bytes]] | None = None) -> Path:
        return kit.put_together(self.signed, samples, self.folder / "tampered.mp4", extra)

    def patch(self, kind: bytes, at: int, change: Callable[[bytes], bytes]) -> Path:
        """Four bytes of the first box of a kind exchanged."""
        data = bytearray(self.signed.read_bytes())
        place = data.find(kind) + 4 + at
        data[place : place + 4] = change(bytes(data[place : place + 4]))
        (self.folder / "tampered.mp4").write_bytes(data)
        return self.folder / "tampered.mp4"


Act = Callable[[Case], Path]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is done, as docs/video.md says it.
        act: does it.
        bare: what must be said without a manifest, besides what is open then anyway.
        sealed: what must be said with it.
        codecs: where it can be done.
        anywhere: it can be done in any container, with the same findings.
    """

    name: str
    act: Act
    bare: str
    sealed: str
    codecs: tuple[str, ...] = ("h264", "h265")
    anywhere: bool = False
    outcomes: tuple[str, str] = field(default=("fail", "fail"))

    @property
    def codes(self) -> tuple[set[str], set[str]]:
        return set(self.bare.split()), set(self.sealed.split())


def _edit(edit: Callable[[Samples], Samples]) -> Act:
    return lambda case: case.write(edit(case.samples))


def _changed(sample: kit.Sample) -> kit.Sample:
    """One bit of the last slice's last whole byte."""
    nals = sample.nals
    last = max(number for number, nal in enumerate(nals) if not is_sei(nal))
    nal = bytearray(nals[last])
    nal[-2] ^= 0x10
    nals[last] = bytes(nal)
    return sample.of(nals)


def _change(number: int) -> Act:
    return _edit(lambda s: [*s[:number], _changed(s[number]), *s[number + 1 :]])


def _sei_changed(case: Case) -> Path:
    samples = case.samples
    nals = samples[24].nals
    at = next(number for number, nal in enumerate(nals) if is_sei(nal) and b"secguard" in nal)
    nal = bytearray(nals[at])
    place = bytes(nal).rfind(b"-----END CERTIFICATE-----")
    nal[bytes(nal).find(b"\x02\x19\x0c\x00", place) + 8] ^= 1  # in the start time
    nals[at] = bytes(nal)
    samples[24] = samples[24].of(nals)
    return case.write(samples)


def _sets_in_band(case: Case) -> Path:
    """A parameter set of the index put into the stream, changed."""
    config = open_movie(case.signed).video.config
    if case.codec == "h264":
        size = int.from_bytes(config[6:8], "big")
        unit = bytearray(config[8 : 8 + size])
    else:
        size = int.from_bytes(config[26:28], "big")
        unit = bytearray(config[28 : 28 + size])
    unit[-2] ^= 1
    samples = case.samples
    samples[20] = samples[20].of([bytes(unit), *samples[20].nals])
    return case.write(samples)


def _sets_in_index(case: Case) -> Path:
    data = bytearray(case.signed.read_bytes())
    config = open_movie(case.signed).video.config
    at = data.find(config) + (12 if case.codec == "h264" else 36)
    data[at] ^= 1
    (case.folder / "tampered.mp4").write_bytes(data)
    return case.folder / "tampered.mp4"


def _foreign_gop(case: Case) -> Path:
    extra = [strip(item) for item in kit.take_apart(case.other)[:12]]
    return case.write([*case.samples[:24], *extra, *case.samples[24:]])


def _foreign_sei(case: Case) -> Path:
    source = case.write([strip(item) for item in case.samples])
    target = case.folder / "foreign.mp4"
    kit.sign_clip(source, target, case.pki.other)
    units = [nal for item in kit.take_apart(target) for nal in item.nals if is_sei(nal) and b"secguard" in nal]
    samples = case.samples
    samples[30] = samples[30].of([units[0], *samples[30].nals])
    return case.write(samples)


def _signed_again(case: Case) -> Path:
    source = case.write([strip(item) for item in case.samples])
    target = case.folder / "again.mp4"
    kit.sign_clip(source, target, case.pki.other)
    case.device = kit.CAMERA
    return target


def _faster(case: Case) -> Path:
    return case.write([replace(item, delta=item.delta // 4, shift=item.shift // 4) for item in case.samples])


def _half_hidden(case: Case) -> Path:
    return case.patch(b"elst", 8, lambda raw: (int.from_bytes(raw, "big") // 2).to_bytes(4, "big"))


def _rotated(case: Case) -> Path:
    return case.patch(b"tkhd", 40, lambda raw: bytes(4))


def _must_sign(case: Case) -> Path:
    case.must_sign = True
    return case.write([strip(item) for item in case.samples])


def _expired(case: Case) -> Path:
    case.at = kit.NOW + timedelta(days=400)
    return case.signed


def _revoked(case: Case) -> Path:
    pki = case.pki
    entry = (
        x509.RevokedCertificateBuilder()
        .serial_number(pki.camera.chain[0].serial_number)
        .revocation_date(kit.NOW - timedelta(days=10))
        .build()
    )
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(pki.root.subject)
        .last_update(kit.NOW - timedelta(days=1))
        .next_update(kit.NOW + timedelta(days=30))
        .add_revoked_certificate(entry)
        .add_extension(x509.CRLNumber(2), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(pki.key.public_key()), critical=False)
        .sign(pki.key.private_key(), hashes.SHA256())
    )
    case.trust = TrustPolicy([pki.root], [crl])
    return case.signed


def _cut_off(case: Case) -> Path:
    """The index stands in front; the file ends in the middle."""
    import av

    path = case.folder / "front.mp4"
    with av.open(str(case.signed)) as old, av.open(str(path), "w", options={"movflags": "faststart"}) as new:
        video = old.streams.video[0]
        stream = new.add_stream_from_template(video)
        for packet in old.demux(video):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    data = path.read_bytes()
    (case.folder / "tampered.mp4").write_bytes(data[: len(data) * 6 // 10])
    return case.folder / "tampered.mp4"


def _leading(case: Case) -> Path:
    """Slices of the kinds that the reference implementation does not hash: RASL, RADL, TSA, STSA."""
    samples = case.samples
    for number, item in enumerate(samples):
        if any(2 <= nal[0] >> 1 & 63 <= 9 for nal in item.nals):
            samples[number] = _changed(item)
            return case.write(samples)
    raise AssertionError("no such slice in the recording")


_MISMATCH, _MISSING = "video.gop.hash-mismatch", "video.frame.missing"
ROWS = [
    Row("a byte of a P slice changed", _change(29), _MISMATCH, _MISMATCH, anywhere=True),
    Row("a byte of an I slice changed", _change(24), _MISMATCH, _MISMATCH, anywhere=True),
    Row("P slice removed", _edit(lambda s: s[:16] + s[17:]), _MISSING, _MISSING, anywhere=True),
    Row(
        "I slice removed",
        _edit(lambda s: [*s[:24], s[24].of([n for n in s[24].nals if is_sei(n)] + s[25].nals), *s[26:]]),
        "video.frame.missing",
        "video.frame.missing",
    ),
    Row("P slice repeated", _edit(lambda s: s[:17] + s[16:]), "video.frame.repeated", "video.frame.repeated"),
    Row(
        "I slice repeated",
        _edit(lambda s: [*s[:25], strip(s[24]), *s[25:]]),
        "video.frame.repeated",
        "video.frame.repeated",
    ),
    Row(
        "two P slices swapped",
        _edit(lambda s: [*s[:16], s[17], s[16], *s[18:]]),
        "video.frame.moved",
        "video.frame.moved",
    ),
    Row(
        "I slice swapped with the next",
        _edit(lambda s: [*s[:24], s[25], s[24], *s[26:]]),
        "video.frame.moved",
        "video.frame.moved",
    ),
    Row(
        "GOP removed",
        _edit(lambda s: s[:24] + s[36:]),
        "video.gop.missing video.sei.missing",
        "video.gop.missing video.sei.missing",
        anywhere=True,
    ),
    Row("GOP repeated", _edit(lambda s: s[:36] + s[24:]), "video.gop.repeated", "video.gop.repeated"),
    Row("GOPs swapped", _edit(lambda s: s[:24] + s[36:48] + s[24:36] + s[48:]), "video.gop.moved", "video.gop.moved"),
    Row("GOP put in", _foreign_gop, "video.gop.foreign", "video.gop.foreign"),
    Row(
        "signature removed",
        _edit(lambda s: [*s[:24], strip(s[24]), *s[25:]]),
        "video.sei.missing video.gop.unproven",
        "video.sei.missing",
    ),
    Row("signed data of a signature changed", _sei_changed, "video.sei.signature", "video.sei.signature"),
    Row(
        "all signatures removed",
        _edit(lambda s: [strip(x) for x in s]),
        "video.sei.none",
        "video.sei.removed",
        anywhere=True,
        outcomes=("unknown", "fail"),
    ),
    Row("all signatures removed, its camera must sign", _must_sign, "video.sei.none", "video.sei.removed"),
    Row("foreign signature put in", _foreign_sei, "video.sei.foreign-key", "video.sei.foreign-key"),
    Row(
        "SPS or PPS changed in the stream",
        _sets_in_band,
        "video.presentation.unproven",
        "video.parameter-sets.changed",
        outcomes=("unknown", "fail"),
    ),
    Row(
        "SPS or PPS changed in the index (`avcC`, `hvcC`)",
        _sets_in_index,
        "video.presentation.unproven",
        "video.parameter-sets.changed",
        outcomes=("unknown", "fail"),
    ),
    Row(
        "begins with a later GOP",
        _edit(lambda s: s[12:]),
        "video.head.trimmed",
        "video.head.truncated",
        outcomes=("unknown", "fail"),
    ),
    Row("begins inside a GOP", _edit(lambda s: s[17:]), "video.head.cut", "video.head.cut video.head.truncated"),
    Row(
        "ends early at a GOP",
        _edit(lambda s: s[:36]),
        "video.tail.unsigned",
        "video.tail.truncated",
        anywhere=True,
        outcomes=("unknown", "fail"),
    ),
    Row(
        "ends early at a GOP, its signature kept",
        _edit(lambda s: [*s[:35], s[35].of([*s[35].nals, *[n for n in s[36].nals if is_sei(n)]])]),
        "video.completeness.unproven",
        "video.tail.truncated",
        outcomes=("unknown", "fail"),
    ),
    Row(
        "ends inside a GOP",
        _edit(lambda s: s[:41]),
        "video.tail.unsigned",
        "video.tail.truncated",
        outcomes=("unknown", "fail"),
    ),
    Row(
        "unsigned pictures appended",
        _edit(lambda s: s + [strip(x) for x in s[3:8]]),
        "video.tail.unsigned",
        "video.gop.unsealed",
        outcomes=("unknown", "fail"),
    ),
    Row(
        "two recordings of one camera spliced",
        lambda case: case.write(case.samples[:24] + kit.take_apart(case.other)[24:]),
        "video.gop.link",
        "video.gop.link video.gop.manifest-mismatch",
    ),
    Row(
        "signed again with another camera's key",
        _signed_again,
        "video.device.mismatch",
        "video.device.mismatch",
    ),
    Row("played four times as fast (`stts`)", _faster, "video.presentation.contradicted", "video.presentation.retimed"),
    Row(
        "half of it hidden by an edit list (`elst`)",
        _half_hidden,
        "video.presentation.hidden",
        "video.presentation.edit-list",
        outcomes=("unknown", "fail"),
    ),
    Row(
        "rotated, resized or switched off (`tkhd`)",
        _rotated,
        "video.presentation.unproven",
        "video.presentation.display",
        outcomes=("unknown", "fail"),
    ),
    Row("certificate expired at the judged time", _expired, "trust.certificate.expired", "trust.certificate.expired"),
    Row("certificate revoked", _revoked, "trust.certificate.revoked", "trust.certificate.revoked"),
    Row(
        "file cut off in the middle",
        _cut_off,
        "video.sample.missing video.sample.damaged",
        "video.sample.missing video.tail.truncated",
    ),
    Row(
        "RASL, RADL, TSA or STSA slices changed (H.265)",
        _leading,
        "video.gop.hash-mismatch",
        "video.gop.hash-mismatch",
        codecs=("open",),
    ),
]
