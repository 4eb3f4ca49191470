"""The offline root answers: it reads requests, shows them, and signs what lies within its scope and its profiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import RefusedError, UsageError
from secguard.core.limits import MAX_PEM, read_bounded
from secguard.gbid import Scope
from secguard.identity.ca.asking import CaRequest, check_key, read_request
from secguard.identity.ca.certify import certify_ca, check_scope
from secguard.identity.ca.setting import Setting
from secguard.identity.certificate import ROOT
from secguard.identity.issuing.deliver import make_folder
from secguard.identity.lock import exclusive
from secguard.identity.records import CertificateRecord
from secguard.identity.status.publish import publish_locked
from secguard.keys import key_id
from secguard.store import atomic_write
from secguard.trust import chain_pem

__all__ = ["Asked", "read_requests", "sign_requests"]

_MAX_FILES = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that was read, and what would be granted.

    Attributes:
        file: the request.
        ask: what it asks for.
        scope: what would be granted.
        key: the CA's public key.
    """

    file: Path
    ask: CaRequest
    scope: Scope
    key: PublicKeyTypes

    @property
    def key_sha256(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, hex: to be compared with what the site says."""
        return key_id(self.key)


def read_requests(setting: Setting, place: Path, narrow: Scope | None = None) -> list[Asked]:
    """Read the requests of a folder (`*.csr`), or one file; all are checked before anything is signed.

    Args:
        setting: the root's site.
        place: the folder or file.
        narrow: grant this scope instead of the one that is asked for.

    Raises:
        UsageError: no requests; there is no root here.
        FormatError: one is not a request.
        RefusedError: one asks for a kind the root has no profile for, for another kind of key, or beyond its scope; two
            ask for the same key or name.
    """
    site = setting.authority()
    if not site.cas[ROOT].key:
        raise UsageError(
            "identity.key.offline", "the root's key is not here", hint="sign on the machine where the root was made"
        )
    # Names that begin with a dot are of the machine that wrote the stick (macOS: `._devices.csr`).
    files = sorted(path for path in place.glob("*.csr") if path.name[0] != ".") if place.is_dir() else [place]
    if not files or len(files) > _MAX_FILES:
        raise UsageError(
            "identity.ca.requests",
            f"{len(files)} requests; 1 to {_MAX_FILES} can be signed at a time",
            hint="they are made by: secguard identity ca request -o DIR",
            where=str(place),
        )
    found = []
    for path in files:
        ask, key = read_request(read_bounded(path, MAX_PEM), str(path))
        profile = site.ca_profiles.get(ask.kind)
        if profile is None or ask.kind == ROOT:
            raise RefusedError(
                "identity.ca.kind",
                f"the root has no profile for CAs of the kind {ask.kind}",
                hint=f"put certs/ca/{ask.kind}.yaml there if it is to certify them",
                where=str(path),
            )
        check_key(ask, key, profile)
        check_scope(ask, narrow or ask.scope, site.root)
        found.append(Asked(path, ask, narrow or ask.scope, key))
    for what in ({item.key_sha256 for item in found}, {item.ask.name for item in found}):
        if len(what) != len(found):
            raise RefusedError("identity.ca.requests", "two requests are for the same name or key", where=str(place))
    return found


def sign_requests(setting: Setting, asked: Sequence[Asked], folder: Path) -> list[CertificateRecord]:
    """Sign, record, and write certificates (`<name>.pem`), `root.pem` and a fresh `root.crl` into a folder.

    Asking again gives the same certificates.

    Raises:
        UsageError: the passphrase or PIN is missing or wrong.
        RefusedError: a key is certified otherwise, or revoked; recording failed.
        SystemPartError: a write failed.
    """
    site = setting.authority()
    make_folder(folder)
    with exclusive(setting.lock):
        site.signer(ROOT)
        rows = [certify_ca(site, item.ask, item.scope, item.key) for item in asked]
        publish_locked(site, [ROOT], every=True)
    setting.receipts.extend(site.receipts)
    for item, row in zip(asked, rows, strict=True):
        atomic_write(folder / f"{item.ask.name}.pem", chain_pem([row.x509()]))
    atomic_write(folder / f"{ROOT}.crl", read_bounded(setting.root_crl))
    atomic_write(folder / f"{ROOT}.pem", chain_pem([site.root]))
    return rows
