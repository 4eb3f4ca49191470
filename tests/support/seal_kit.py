"""For tests of sealing: containers, acts, keys, and recordings of several files."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import video_kit as kit
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from secguard.core import FixedClock
from secguard.gbid import GbId
from secguard.keys import generate
from secguard.trust import Purpose
from secguard.trust.oids import oids_of
from secguard.video.recording_seal import Sealed, SealedFile, seal_files, seal_recording
from secguard.video.seal import Sealer

CLOCK = FixedClock(kit.NOW)


class Acts:
    """Stands for the ledger: keeps what was recorded."""

    def __init__(self) -> None:
        self.all: list[Mapping[str, Any]] = []

    def __call__(self, data: Mapping[str, Any]) -> None:
        self.all.append(dict(data))

    @property
    def kinds(self) -> list[str]:
        return [str(item["act"]) for item in self.all]


def sealer_of(who: kit.Identity, sealed: str = "recording") -> Sealer:
    return Sealer(who.signer, tuple(who.chain), sealed)  # type: ignore[arg-type]


def seal_one(
    path: Path,
    who: kit.Identity,
    record: Any = None,
    *,
    sealed: str = "recording",
    device: GbId | None = None,
    **options: Any,
) -> SealedFile:
    done = seal_files(
        [path],
        device=device or who.gbid,
        sealer=sealer_of(who, sealed),
        clock=CLOCK,
        record=record or Acts(),
        **options,
    )
    return done.files[0]


def seal_folder(
    folder: Path,
    who: kit.Identity,
    record: Any = None,
    *,
    sealed: str = "recording",
    device: GbId | None = None,
    clock: Any = CLOCK,
    **options: Any,
) -> Sealed:
    return seal_recording(
        folder,
        device=device or who.gbid,
        sealer=sealer_of(who, sealed),
        clock=clock,
        record=record or Acts(),
        **options,
    )


def operator(pki: kit.Pki, name: str = "auditor") -> kit.Identity:
    """A person's key, certified by the root."""
    own = generate()
    policy = x509.PolicyInformation(oids_of(Purpose.OPERATOR).policy, None)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(pki.root.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(kit.NOW - timedelta(days=30))
        .not_valid_after(kit.NOW + timedelta(days=300))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(kit._usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([oids_of(Purpose.OPERATOR).eku]), critical=False)
        .add_extension(x509.CertificatePolicies([policy]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(pki.key.public_key()), critical=False)
        .sign(pki.key.private_key(), hashes.SHA256())
    )
    return kit.Identity(own, [certificate, pki.root], kit.CAMERA)


def remux(source: Path, target: Path) -> Path:
    """The same pictures in the container that the name's end asks for."""
    import av
    from av.bitstream import BitStreamFilterContext

    kind = target.name.split(".", 1)[1]
    formats = {"ts": "mpegts", "ps": "vob", "h264": "h264", "mkv": "matroska", "mp4": "mp4", "fragmented.mp4": "mp4"}
    if kind == "mp4":
        target.write_bytes(source.read_bytes())
        return target
    options = {"movflags": "frag_keyframe+empty_moov"} if kind == "fragmented.mp4" else {}
    with av.open(str(source)) as read, av.open(str(target), "w", format=formats[kind], options=options) as write:
        video = read.streams.video[0]
        stream = write.add_stream_from_template(video)
        convert = BitStreamFilterContext("h264_mp4toannexb", video) if kind == "ps" else None
        for packet in read.demux(video):
            for item in (packet,) if convert is None else convert.filter(packet):
                if item.dts is not None:
                    item.stream = stream
                    write.mux(item)
    return target


__all__ = ["CLOCK", "Acts", "operator", "remux", "seal_folder", "seal_one", "sealer_of"]
