"""The bundle manifest: what an operator hands out, signed: every file of the bundle with its size and SHA-256.

A DSSE envelope, payload type `application/vnd.secguard.bundle+json`. It lists all files but itself; its own bytes are
covered because it must be the one way to write this payload and signature down.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import FormatError
from secguard.keys import Envelope, Signer, key_id, seal, unseal

__all__ = ["PAYLOAD_TYPE", "BundleManifest", "InForce", "Listed", "ListedScan", "OpenedBundle", "Recording"]

PAYLOAD_TYPE = "application/vnd.secguard.bundle+json"

_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Size = Annotated[int, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(max_length=512)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle: its name in the archive, bytes, and SHA-256 in hex."""

    name: _Name
    size: _Size
    sha256: _Hex


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The exported recording.

    Attributes:
        name: the file's name at the site.
        size, sha256: the file.
        device: GB/T 28181 ID that its certificate names; empty if none does.
        manifest_sha256: its segment manifest; empty if there is none.
        clip_sha256: the record of the clip that it is; empty if it is none.
    """

    name: _Name
    size: _Size
    sha256: _Hex
    device: _Name = ""
    manifest_sha256: str = ""
    clip_sha256: str = ""


InForce = Literal["recording", "export"]
"""When a scan was the last one: when the recording ended, when it was exported."""


class ListedScan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An isolation scan of the site, as its log recorded it.

    Attributes:
        in_force: when it was the last one.
        started, finished: entries of `scan.started` and `scan.finished` in the log; the second names its files,
            `isolation/<entry>/`.
        recorded: when the log says that it ended, RFC 3339.
        outcome: its verdict.
        result_sha256: its signed result.
        kept: whether result, list of files and signer are in the bundle; the receipts always are.
    """

    in_force: Annotated[tuple[InForce, ...], msgspec.Meta(min_length=1, max_length=2)]
    started: _Size
    finished: _Size
    recorded: _Name
    outcome: Literal["pass", "fail", "unknown"]
    result_sha256: _Hex
    kept: bool


class BundleManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Version 1 of the manifest.

    Attributes:
        id: names the bundle; the custody event `evidence.exported` carries it.
        created: when it was exported, RFC 3339.
        case, reason: what the export was for.
        operator: common name of the operator's certificate.
        recording: what was exported.
        origin, log_size: the log, and how many entries its checkpoint signs.
        members: every other file, in the order of the archive.
        scans: the isolation scans that were in force; empty where the site knows none.
        scan_every: how often the site scans, by its own schedule (`24h`); empty without one.
    """

    v: int = 1
    id: _Name
    created: _Name
    case: _Name
    reason: _Text = ""
    operator: _Name
    recording: Recording
    origin: _Name
    log_size: _Size
    members: tuple[Listed, ...]
    scans: Annotated[tuple[ListedScan, ...], msgspec.Meta(max_length=2)] = ()
    scan_every: Annotated[str, msgspec.Meta(pattern="^([1-9][0-9]{0,4}[mhd])?$")] = ""

    def seal(self, signer: Signer) -> bytes:
        """The envelope, signed by the operator."""
        return seal(msgspec.json.encode(self), PAYLOAD_TYPE, signer)


@dataclass(frozen=True, slots=True)
class OpenedBundle:
    """A manifest as read.

    Attributes:
        manifest: its content; worth nothing unless `signed`.
        signed: one of the keys signed it.
        plain: the envelope is written the one way that `seal` writes it, so that no byte of it is unsigned.
    """

    manifest: BundleManifest
    signed: bool
    plain: bool

    @classmethod
    def read(cls, data: bytes, keys: Sequence[PublicKeyTypes], where: str) -> "OpenedBundle":
        """Open an envelope.

        Raises:
            FormatError: it is no bundle manifest; a wrong signature is no error, see `signed`.
        """
        try:
            payload, key = unseal(data, PAYLOAD_TYPE, keys)
            manifest = msgspec.json.decode(payload, type=BundleManifest)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise FormatError("evidence.manifest.format", "not a bundle manifest", where=where) from error
        except FormatError as error:
            error.where = error.where or where
            raise
        if manifest.v != 1:
            raise FormatError("evidence.manifest.version", f"version {manifest.v} is not known", where=where)
        return cls(manifest, key is not None, key is not None and _plain(data, key))


def _plain(data: bytes, key: PublicKeyTypes) -> bool:
    envelope = msgspec.json.decode(data, type=Envelope)
    return (
        msgspec.json.encode(envelope) + b"\n" == data
        and len(envelope.signatures) == 1
        and envelope.signatures[0].keyid == key_id(key)
        and _one_way(envelope.payload)
        and _one_way(envelope.signatures[0].sig)
    )


def _one_way(text: str) -> bool:
    """Base64 whose unused bits are zero (RFC 4648, section 3.5)."""
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except (binascii.Error, ValueError):
        return False
