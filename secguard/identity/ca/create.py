"""Making a site's CAs: a root and an issuing CA for each profile of `certs/ca`; then the first certificates."""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Clock, RefusedError, SecguardError, UsageError, rfc3339
from secguard.core.files import fsync_directory, translate_os_error
from secguard.events import Actor, Event, Recorder, new_event_id
from secguard.gbid import Scope
from secguard.identity.authority import Authority
from secguard.identity.ca.certify import ca_row
from secguard.identity.ca.first import LOG_PROFILE, OPERATOR_PROFILE, first_certificates
from secguard.identity.ca.setting import Setting, make_key
from secguard.identity.certificate import ROOT, Validity, build_ca
from secguard.identity.config import IdentityConfig
from secguard.identity.issuing.deliver import make_folder
from secguard.identity.issuing.issue import new_serial
from secguard.identity.issuing.request import check_holder
from secguard.identity.lock import exclusive
from secguard.identity.profiles import CaProfile, load_ca_profiles, load_profiles
from secguard.identity.records import CaRecord, CertificateRecord, Status
from secguard.identity.registry import Registry
from secguard.identity.site import relative_reference
from secguard.keys import Signer, generate, key_id, save_private_key
from secguard.trust import common_name, title

__all__ = ["create_authority"]


def create_authority(
    folder: Path,
    *,
    certs: Path,
    registry: Registry,
    config: IdentityConfig,
    scope: Scope,
    origin: str,
    operator: str,
    passphrase: bytes,
    clock: Clock,
    recorder: Recorder,
    actor: Actor,
    name: str = "",
    root_only: bool = False,
    key: str = "",
) -> Authority:
    """Make root, issuing CAs, the ledger's key, an operator's key and the first revocation lists.

    Everything is made beside and comes into force in one commit; what a crash left of an earlier attempt is completed.

    Args:
        folder: `state/identity`; its `keys/` gets the keys, mode 0600, encrypted.
        certs: the profiles; gets `root.pem`, the one public file that verifiers need.
        registry: the open registry.
        config: the site.
        scope: the GB/T 28181 IDs that the CAs may certify.
        origin: the ledger's name; CN of its key's certificate.
        operator: the operator's name.
        passphrase: encrypts all keys.
        clock: gives validity and times of events.
        recorder: the ledger.
        actor: who acts.
        name: start of the CAs' names; empty: organisation and area.
        root_only: make the root and its list only: it signs the requests of sites (`secguard.identity.ca.sign`).
        key: a PKCS#11 URI that names the token for the CAs' keys; empty: encrypted files.

    Raises:
        UsageError: a name does not fit into a certificate; the profiles are missing; the passphrase is empty, or wrong
            when an interrupted attempt is completed.
        RefusedError: `identity.ca.exists`: the site has its CAs; or recording failed.
        SystemPartError: a write failed.
    """
    if not passphrase and not (root_only and key):
        raise UsageError("keys.passphrase.missing", "no passphrase for the keys", hint="give --passphrase-file FILE")
    setting = Setting(
        folder=folder,
        certs=certs,
        registry=registry,
        config=config,
        scope=scope,
        origin=origin,
        operator=operator,
        clock=clock,
        recorder=recorder,
        actor=actor,
        passphrase=passphrase,
    )
    profiles, ca_profiles = load_profiles(certs), load_ca_profiles(certs / "ca")
    if root_only:
        ca_profiles = {ROOT: ca_profiles[ROOT]}
    for profile, holder in ((LOG_PROFILE, origin), (OPERATOR_PROFILE, operator)):
        if profile not in profiles:
            raise UsageError("identity.profile.unknown", f"no profile {profile!r}", where=str(certs))
        check_holder(holder, profiles[profile], config.edition)
    keys = folder / "keys"
    root_file = certs / "root.pem"
    make_folder(folder)
    with exclusive(folder / ".lock"):
        known = registry.authorities()
        if ROOT in known and root_file.exists() and (folder / "crl" / f"{ROOT}.crl").exists():
            raise RefusedError(
                "identity.ca.exists", "this site has its CAs already", hint="see: secguard identity ca show"
            )
        if ROOT not in known:
            if known:
                raise RefusedError(
                    "identity.ca.pending",
                    f"{len(known)} keys of this site wait for an offline root: {', '.join(known)}",
                    hint="install the root's answer (ca install DIR), or drop each: identity ca retire NAME",
                )
            if root_file.exists():
                raise RefusedError(
                    "identity.root.exists",
                    "there is a root certificate, but the registry knows no CA",
                    hint="restore state/identity from its backup, or move the file away to begin anew",
                    where=str(root_file),
                )
            made = _make(setting, ca_profiles, name, key)
            if not key:
                _install(keys, made, passphrase)
            try:
                recorder.record([_event(made, clock, actor)])
                with registry.transaction():
                    for item in made:
                        data = item.certificate.public_bytes(Encoding.DER)
                        place = item.reference or relative_reference(folder, _key_file(keys, item.name))
                        registry.add_authority(CaRecord(item.name, data, place, created=rfc3339(clock.now())))
                        if item.name != ROOT:
                            registry.reserve(_row(item))
            except SecguardError:
                if not key:
                    shutil.rmtree(keys)  # they certify nothing
                raise
            for item in made:
                (setting.pending / f"{item.name}.uri").unlink(missing_ok=True)
    authority = setting.authority()
    make_folder(keys)
    first_certificates(authority, setting)
    return authority


class _Made(NamedTuple):
    """A CA in memory; `reference` names its key in a token, and is empty while the key is in memory."""

    name: str
    signer: Signer
    certificate: x509.Certificate
    reference: str


def _row(item: _Made) -> CertificateRecord:
    certificate = item.certificate
    return ca_row(
        common_name(certificate),
        f"{certificate.serial_number:032x}",
        Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc),
        item.signer.public_key(),
        status=Status.ACTIVE,
        certificate=certificate.public_bytes(Encoding.DER),
    )


def _key(setting: Setting, profile: CaProfile, name: str, place: str) -> tuple[Signer, str]:
    return make_key(setting, name, profile.key, place, several=True) if place else (generate(profile.key), "")


def _make(setting: Setting, profiles: Mapping[str, CaProfile], name: str, place: str) -> list[_Made]:
    """The CAs, the root first. A part of the root's key ID keeps the names of two sites apart."""
    now, config, scope = setting.clock.now(), setting.config, setting.scope
    profile = profiles[ROOT]
    root, reference = _key(setting, profile, ROOT, place)
    start = name or " ".join([config.organization, *scope.areas[:1]])
    mark = key_id(root.public_key())[:8]
    certificate = build_ca(
        profile,
        f"{start} root CA {mark}",
        config,
        root.public_key(),
        serial=int(new_serial(), 16),
        validity=Validity.starting(now, profile.days),
        scope=scope,
        issuer=None,
        signer=root,
    )
    made = [_Made(ROOT, root, certificate, reference)]
    for ca, below in profiles.items():
        if ca == ROOT:
            continue
        key, reference = _key(setting, below, ca, place)
        issued = build_ca(
            below,
            f"{start} {ca} CA {mark}",
            config,
            key.public_key(),
            serial=int(new_serial(), 16),
            validity=Validity.starting(now, below.days, within=certificate),
            scope=scope,
            issuer=certificate,
            signer=root,
        )
        made.append(_Made(ca, key, issued, reference))
    return made


def _key_file(keys: Path, ca: str) -> Path:
    return keys / f"{ca}.key.pem"


def _install(keys: Path, made: Sequence[_Made], passphrase: bytes) -> None:
    """Put the encrypted keys in place in one step; keys of an attempt that never came into force are moved aside."""
    mark = secrets.token_hex(4)
    beside = keys.with_name(f".keys.{mark}.tmp")
    make_folder(beside)
    try:
        for item in made:
            save_private_key(_key_file(beside, item.name), item.signer, passphrase)
        if keys.exists():
            keys.rename(keys.with_name(f"keys.unused.{mark}"))
        beside.rename(keys)
        fsync_directory(keys.parent)
    except OSError as error:
        raise translate_os_error(error, keys) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _event(made: Sequence[_Made], clock: Clock, actor: Actor) -> Event:
    fingerprints = {item.name: item.certificate.fingerprint(hashes.SHA256()).hex() for item in made}
    return Event(
        id=new_event_id(),
        kind="ca.created",
        time=clock.now(),
        actor=actor,
        subject=title(made[0].certificate),
        data={"certificate_sha256": fingerprints},
    )
