"""The manifest: every file of a run with its size and SHA-256, signed by the key that signed the plan."""

import hashlib
from collections.abc import Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import FormatError, RefusedError
from secguard.keys import Signer, as_sealed, seal, unseal

__all__ = ["MANIFEST", "MANIFEST_TYPE", "Listed", "RunManifest", "open_manifest", "seal_manifest"]

MANIFEST = "manifest.json"
MANIFEST_TYPE = "application/vnd.secguard.isolation.manifest+json"
_MAX_FILES = 4096


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file: its name in the folder, its size in bytes, its SHA-256 in lower-case hex."""

    name: str
    size: int
    sha256: str


class RunManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run left behind.

    Attributes:
        run: the run ID.
        plan: SHA-256 of the plan's payload.
        files: by name.
    """

    run: str
    plan: str
    files: tuple[Listed, ...]
    v: int = 1


def seal_manifest(run: str, plan: str, files: Mapping[str, bytes], signer: Signer) -> bytes:
    """The signed manifest of files that are still in memory."""
    listed = tuple(Listed(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in sorted(files.items()))
    return seal(msgspec.json.encode(RunManifest(run=run, plan=plan, files=listed)), MANIFEST_TYPE, signer)


def open_manifest(data: bytes, key: PublicKeyTypes) -> RunManifest:
    """Check a manifest.

    Raises:
        FormatError: not a manifest, or not exactly as it was written.
        RefusedError: not signed by `key`.
    """
    payload, signer = unseal(data, MANIFEST_TYPE, [key])
    if signer is None:
        raise RefusedError("isolation.manifest.signature", "the manifest is not signed by the key beside it")
    try:
        manifest = msgspec.json.decode(payload, type=RunManifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("isolation.manifest.format", f"not a manifest: {str(error)[:160]}") from None
    names = [item.name for item in manifest.files]
    if not as_sealed(data, key):
        raise FormatError("isolation.manifest.form", "the manifest is not as it was written")
    if manifest.v != 1 or len(names) > _MAX_FILES or len(set(names)) != len(names) or any(map(_strange, names)):
        raise FormatError("isolation.manifest.format", "not a manifest: strange names")
    return manifest


def _strange(name: str) -> bool:
    """Whether a name could lead out of the folder, or hides."""
    return not name or len(name) > 255 or "/" in name or "\0" in name or name.startswith(".")
