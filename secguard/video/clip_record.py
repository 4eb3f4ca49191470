"""The record of a clip: which GOPs of which recordings it holds, for which case, by whose hand.

A DSSE envelope (payload type `application/vnd.secguard.clip+json`) beside the clip, signed by an operator. It carries
the segment manifests of the recordings, each with its camera's signature, so that the clip is verified without them:
what the pictures are is proven by the camera's key, what they were cut for by the operator's.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cryptography import x509

from secguard.core import FormatError, UsageError, parse_time, rfc3339
from secguard.keys import Signer, seal, unseal
from secguard.video.manifest import Manifest, OpenedManifest

__all__ = ["CLIP_TYPE", "MAX_PARTS", "ClipPart", "ClipRecord", "OpenedClip", "clip_path", "wall_clock"]

CLIP_TYPE = "application/vnd.secguard.clip+json"
MAX_PARTS = 16
"""Segments that one clip is cut from."""

_MAX_CHAIN = 16
_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]
_Name = Annotated[str, msgspec.Meta(max_length=512)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]


class ClipPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was taken from one recording.

    Attributes:
        name: the file's name at the site.
        size, sha256: the file as it was cut.
        manifest: its segment manifest's envelope, as it is; empty if it has none.
        first, last: numbers of the first and the last GOP, from 1.
    """

    name: _Name
    size: _Count
    sha256: _Hex
    manifest: str = ""
    first: _Number
    last: _Number


class ClipRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Version 1 of the record.

    Attributes:
        id: names the clip; the event `clip.made` carries it.
        created: when it was cut, RFC 3339, as claimed by the operator.
        device: GB/T 28181 ID of the camera; empty if none is known.
        case, reason: what it was cut for.
        approver: who approved it; nothing but the operator's word says so (`approver_assurance`).
        operator: common name of the operator's certificate.
        requested_start, requested_end: wall clock that was asked for, RFC 3339; empty where no wall clock is known.
        start, end: wall clock of what is in it: whole GOPs.
        seconds: asked for, in seconds from the beginning of the first recording.
        container, codec, size, sha256, frames, gops: the clip.
        seis: signed SEIs of ONVIF Media Signing in it.
        leading: frames at its beginning that no decoder shows, since they refer to pictures before it.
        sound: what became of the sound.
        dropped: kinds of other tracks that were left out.
        parts: the recordings, in their order.
        chain: certificates of the operator in PEM, leaf first.
    """

    v: int = 1
    id: _Name
    created: _Name
    device: _Name = ""
    case: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    reason: _Text = ""
    approver: _Name = ""
    approver_assurance: Literal["claimed"] = "claimed"
    operator: _Name
    requested_start: _Name = ""
    requested_end: _Name = ""
    start: _Name = ""
    end: _Name = ""
    seconds: tuple[float, float]
    container: Literal["mp4"] = "mp4"
    codec: Literal["h264", "h265"]
    size: _Count
    sha256: _Hex
    frames: _Count
    gops: _Count
    seis: _Count
    leading: _Count = 0
    sound: Literal["kept", "dropped", "none"] = "none"
    dropped: tuple[_Name, ...] = ()
    parts: Annotated[tuple[ClipPart, ...], msgspec.Meta(min_length=1, max_length=MAX_PARTS)]
    chain: str

    def seal(self, signer: Signer) -> bytes:
        """The envelope, signed by the operator."""
        return seal(msgspec.json.encode(self), CLIP_TYPE, signer)

    def summary(self) -> dict[str, Any]:
        """What a person wants to know of it, as JSON values; without manifests and certificates."""
        left_out = {"v", "chain", "parts"}
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name not in left_out}
        parts = [
            {
                "name": part.name,
                "sha256": part.sha256,
                "sealed": bool(part.manifest),
                "first": part.first,
                "last": part.last,
            }
            for part in self.parts
        ]
        return values | {"recordings": parts}


def clip_path(clip: Path) -> Path:
    """Where the record of `clip` stands: `CLIP.mp4.clip.json`."""
    return clip.with_name(clip.name + ".clip.json")


@dataclass(frozen=True, slots=True)
class OpenedClip:
    """A record as read from its envelope.

    Attributes:
        record: its content; worth nothing unless `signed` is True and the chain is believed.
        chain: the operator's certificates, leaf first.
        signed: the leaf's key signed the envelope.
        sha256: hash of the envelope as given.
        manifests: the manifest of each part; None where there is none.
    """

    record: ClipRecord
    chain: tuple[x509.Certificate, ...]
    signed: bool
    sha256: bytes
    manifests: tuple[OpenedManifest | None, ...]

    @classmethod
    def read(cls, data: bytes, where: str = "") -> "OpenedClip":
        """Open an envelope.

        Raises:
            FormatError: it is no record of a clip, or a manifest in it is none; a wrong signature is no error.
        """
        try:
            payload, _ = unseal(data, CLIP_TYPE, ())
            record = msgspec.json.decode(payload, type=ClipRecord)
            _check(record)
            manifests = tuple(
                OpenedManifest.read(part.manifest.encode(), f"{where}, part {number}") if part.manifest else None
                for number, part in enumerate(record.parts, start=1)
            )
            chain = tuple(x509.load_pem_x509_certificates(record.chain.encode()))
            if len(chain) > _MAX_CHAIN:
                raise FormatError("video.clip.format", f"more than {_MAX_CHAIN} certificates")
            for item in chain:
                _ = (item.subject, item.issuer, item.public_key())
            _, key = unseal(data, CLIP_TYPE, [chain[0].public_key()])
        except FormatError as error:
            error.where = error.where or where
            raise
        except Exception as error:
            raise FormatError("video.clip.format", "not a record of a clip", where=where) from error
        return cls(record, chain, key is not None, hashlib.sha256(data).digest(), manifests)


def wall_clock(manifest: Manifest, first: int, last: int) -> tuple[str, str]:
    """When GOPs `first` to `last` (from 1) of a sealed recording were taken, RFC 3339; empty where it does not tell."""
    starts, count = manifest.starts, len(manifest.gops.sha256)
    if not manifest.start or not 0 < first <= last <= count:
        return "", ""
    try:
        origin = parse_time(manifest.start)
        times = [
            rfc3339(origin + timedelta(microseconds=starts[gop])) if gop < count else "" for gop in (first - 1, last)
        ]
    except (UsageError, OverflowError, IndexError):  # a manifest without starts, or of nonsense times
        times = ["", ""]
    return times[0] or (manifest.start if first == 1 else ""), times[1] or (manifest.end if last == count else "")


def _check(record: ClipRecord) -> None:
    if record.v != 1:
        raise FormatError("video.clip.version", f"version {record.v} of the record is not known")
    if any(part.last < part.first for part in record.parts):
        raise FormatError("video.clip.format", "a part of it ends before it begins")
    try:
        parse_time(record.created)
        for text in (record.requested_start, record.requested_end, record.start, record.end):
            if text:
                parse_time(text)
    except UsageError as error:
        raise FormatError("video.clip.format", f"a time in it is none: {error.message}") from error
