"""The part of provisioning that needs no CA key and no registry, and so runs in worker processes.

`prepare` makes a portion's keys and puts them, encrypted, into one file that is on the disk before any of them is
certified. `deliver` turns keys and certificates into files that appear whole. `settle` waits once, for many portions,
until the deliveries are on the disk, and only then drops the kept keys; so a device costs no wait of its own, and after
a power cut whatever had not settled is delivered again from kept keys and registered certificates.
"""

import base64
import contextlib
import ctypes
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)

from secguard.core import FormatError, SecguardError
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.limits import MAX_DOCUMENT, MAX_PEM, read_bounded
from secguard.identity.issuing.protect import KeyCipher
from secguard.identity.issuing.request import read_csr
from secguard.identity.profiles import Profile
from secguard.keys import generate

__all__ = ["FORMATS", "HIDDEN", "UNIT", "Kit", "Made", "Piece", "Wanted", "deliver", "prepare", "settle"]

FORMATS = ("pem", "p12")
HIDDEN = ".provision"
"""The job's own folder inside the folder of the deliveries."""
UNIT = 8
"""Deliveries lie in a folder for each centre: as many first digits of the ID."""
_PEM_LINE = 64


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """One certificate that a device is to have; `csr` is its request, or None if a key is to be made."""

    gbid: str
    profile: str
    csr: bytes | None = None


class Made(msgspec.Struct, frozen=True, array_like=True):
    """What came of it: the key to be certified (SubjectPublicKeyInfo), or what was delivered before (SHA-256)."""

    spki: bytes = b""
    delivered: str = ""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A certificate that is in force, and to be delivered."""

    gbid: str
    profile: str
    certificate: bytes
    issuer: str
    csr: bool


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """One key of a portion, encrypted."""

    gbid: str
    profile: str
    spki: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Kit:
    """What a worker is given once.

    Attributes:
        folder: where the deliveries go.
        cipher: encrypts the keys.
        passphrase: of PKCS#12 files.
        format: one of `FORMATS`.
        profiles: by name.
        issuers: certificates of the issuing CAs by name, DER.
        root: the root certificate, DER.
    """

    folder: Path
    cipher: KeyCipher
    passphrase: bytes
    format: str
    profiles: Mapping[str, Profile]
    issuers: Mapping[str, bytes]
    root: bytes

    def spool(self, portion: int) -> Path:
        """Where the keys of a portion lie until they are delivered."""
        return self.folder / HIDDEN / f"keys-{portion:06}"


def prepare(kit: Kit, portion: int, wanted: list[Wanted]) -> list[Made | SecguardError]:
    """Make the keys of a portion, or take up those that an interrupted run left; on the disk when this returns.

    Raises:
        SystemPartError: a write failed.
    """
    kept = {(item.gbid, item.profile): item for item in _read_spool(kit, portion)}
    before = len(kept)
    answers: list[Made | SecguardError] = []
    for item in wanted:
        try:
            answers.append(_prepare(kit, item, kept))
        except SecguardError as error:
            answers.append(error)
    if len(kept) > before:
        atomic_write(kit.spool(portion), msgspec.msgpack.encode(list(kept.values())), mode=0o600)
    return answers


def _prepare(kit: Kit, item: Wanted, kept: dict[tuple[str, str], _Kept]) -> Made:
    place = item.gbid, item.profile
    if place not in kept:
        delivered = _delivered(f"{kit.folder}/{item.gbid[:UNIT]}/{item.gbid}.{item.profile}.pem")
        if delivered:
            return Made(delivered=delivered)
    profile = kit.profiles[item.profile]
    if item.csr is not None:
        public = read_csr(item.csr, profile, item.gbid)
        return Made(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if place not in kept:
        key = generate(profile.key).private_key()
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        kept[place] = _Kept(item.gbid, item.profile, spki, kit.cipher.seal(key))
    return Made(kept[place].spki)


def _delivered(path: str) -> str:
    """SHA-256 of the certificate that a delivery holds; empty if there is none, or a power cut left it incomplete."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path costs as much as the call
            data = file.read(MAX_PEM)
        return x509.load_pem_x509_certificate(data).fingerprint(hashes.SHA256()).hex()
    except (OSError, ValueError):
        return ""


def _read_spool(kit: Kit, portion: int) -> list[_Kept]:
    path = kit.spool(portion)
    if not path.exists():
        return []
    try:
        return msgspec.msgpack.decode(read_bounded(path, MAX_DOCUMENT), type=list[_Kept])
    except msgspec.MsgspecError as error:
        raise FormatError(
            "identity.provision.spool", "the keys of an interrupted run cannot be read", where=str(path)
        ) from error


def deliver(kit: Kit, portion: int, pieces: list[Piece]) -> None:
    """Put certificates and keys where they are fetched from; each file appears whole or not at all.

    Raises:
        SystemPartError: a write failed; what is missing is delivered by the next run.
        FormatError: the portion's keys are gone or damaged.
    """
    kept = {(item.gbid, item.profile): item for item in _read_spool(kit, portion)}
    staging = kit.folder / HIDDEN / f"out-{portion:06}"
    units = {piece.gbid[:UNIT] for piece in pieces}
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        for unit in units:
            (kit.folder / unit).mkdir(mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as stack:
            source = _opened(stack, staging)
            targets = {unit: _opened(stack, kit.folder / unit) for unit in units}
            issuers = {name: _pem("CERTIFICATE", data) for name, data in kit.issuers.items()}
            for piece in pieces:
                for name, data, mode in _files(kit, piece, kept, issuers):
                    _write(name, data, mode, source)
                    os.rename(name, name, src_dir_fd=source, dst_dir_fd=targets[piece.gbid[:UNIT]])
        staging.rmdir()
    except OSError as error:
        raise translate_os_error(error, kit.folder) from error


def settle(kit: Kit, portions: list[int]) -> None:
    """Wait until deliveries are on the disk, then drop the keys that were kept for them.

    Raises:
        SystemPartError: the disk reports an error.
    """
    try:
        _sync(kit.folder)
        for portion in portions:
            kit.spool(portion).unlink(missing_ok=True)
    except OSError as error:
        raise translate_os_error(error, kit.folder) from error


def _opened(stack: contextlib.ExitStack, folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _files(
    kit: Kit, piece: Piece, kept: Mapping[tuple[str, str], _Kept], issuers: Mapping[str, bytes]
) -> list[tuple[str, bytes, int]]:
    """The files of one certificate: name, content, mode. The PEM is the last: its presence says that all are there."""
    stem = f"{piece.gbid}.{piece.profile}"
    chain = _pem("CERTIFICATE", piece.certificate) + issuers[piece.issuer]
    if piece.csr:
        return [(f"{stem}.pem", chain, 0o644)]
    key = kept.get((piece.gbid, piece.profile))
    if key is None:
        raise FormatError("identity.provision.spool", f"the key of {piece.gbid} is gone", where=str(kit.folder))
    if kit.format == "p12":
        return [
            (f"{stem}.p12", _pkcs12(kit, stem, key, piece.certificate, kit.issuers[piece.issuer]), 0o600),
            (f"{stem}.pem", chain, 0o644),
        ]
    return [(f"{stem}.pem", _pem("ENCRYPTED PRIVATE KEY", key.sealed) + chain, 0o600)]


def _pkcs12(kit: Kit, stem: str, key: _Kept, certificate: bytes, issuer: bytes) -> bytes:
    """PKCS#12 (RFC 7292) with the chain up to the root; PBES2 with AES-256-CBC, MAC with SHA-256."""
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(kit.cipher.rounds)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(kit.passphrase)
    )
    private = kit.cipher.open(key.sealed)
    others = [x509.load_der_x509_certificate(data) for data in (issuer, kit.root)]
    leaf = x509.load_der_x509_certificate(certificate)
    return pkcs12.serialize_key_and_certificates(stem.encode(), private, leaf, others, encryption)  # type: ignore[arg-type] # keys.Algorithm holds only kinds that PKCS#12 takes


def _pem(label: str, data: bytes) -> bytes:
    text = base64.b64encode(data)
    lines = [text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE)]
    return b"\n".join([f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----\n".encode()])


def _write(name: str, data: bytes, mode: int, folder: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Wait until everything on the folder's file system is on the disk: syncfs(2), or sync(2) where there is none."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
