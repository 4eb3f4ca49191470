"""Where CAs are made: a site, also one that has no root yet; and the keys of CAs, in files or in a token."""

import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from secguard.core import Clock, RefusedError, UsageError
from secguard.events import Actor, Event, Receipt, Recorder, new_event_id
from secguard.gbid import Scope
from secguard.identity.authority import Authority
from secguard.identity.certificate import ROOT
from secguard.identity.config import IdentityConfig
from secguard.identity.issuing.deliver import make_folder, obtain_key
from secguard.identity.profiles import CaProfile, load_ca_profiles
from secguard.identity.records import CaStatus, Status
from secguard.identity.registry import Registry
from secguard.identity.site import relative_reference
from secguard.keys import Algorithm, Signer, key_id, load_signer
from secguard.keys.pkcs11uri import SCHEME, Pkcs11Uri
from secguard.store import atomic_write

__all__ = ["CA_PROFILE", "Setting", "kind_of", "make_key"]

CA_PROFILE = "ca"
"""Profile and purpose of the rows of CA certificates among the certificates of the root."""

_USED = {Status.ACTIVE, Status.SUPERSEDED, Status.REVOKED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A site, with or without CAs; the fields are those of `Authority`.

    Attributes:
        folder: `state/identity` of the workspace.
        certs: folder of the profiles and of the root certificate.
        registry: the open registry.
        config: what certificates of this site say.
        scope: the GB/T 28181 IDs of the site.
        origin: the ledger's name; CN of its key's certificate.
        operator: the operator's name; CN of his certificate.
        passphrase: encrypts and opens the keys in files.
        clock: gives validity and times of events.
        recorder: the ledger.
        actor: who acts.
        receipts: what the ledger answered.
    """

    folder: Path
    certs: Path
    registry: Registry
    config: IdentityConfig
    scope: Scope
    origin: str
    operator: str
    clock: Clock
    recorder: Recorder
    actor: Actor
    passphrase: bytes | None = None
    receipts: list[Receipt] = field(default_factory=list)

    @property
    def keys(self) -> Path:
        """Folder of the CAs' keys."""
        return self.folder / "keys"

    @property
    def pending(self) -> Path:
        """Folder of what waits for the root's signature."""
        return self.folder / "pending"

    @property
    def lock(self) -> Path:
        """The file that whoever changes something holds."""
        return self.folder / ".lock"

    @property
    def root_file(self) -> Path:
        """The public root certificate."""
        return self.certs / "root.pem"

    @property
    def root_crl(self) -> Path:
        """The root's revocation list, in DER."""
        return self.folder / "crl" / f"{ROOT}.crl"

    @property
    def ca_profiles(self) -> dict[str, CaProfile]:
        """The profiles of CAs, by name."""
        return load_ca_profiles(self.certs / "ca")

    def secret(self) -> bytes:
        """The passphrase for a new key, tried on a key that is there: one site has one passphrase.

        Raises:
            UsageError: there is none, or it is not the site's.
        """
        if not self.passphrase:
            raise UsageError(
                "keys.passphrase.missing", "no passphrase for the keys", hint="give --passphrase-file FILE"
            )
        for path in sorted(self.keys.glob("*.key.pem")):
            load_signer(f"file:{path}", self.passphrase)
            break
        return self.passphrase

    def signer(self, reference: str) -> Signer:
        """A key by the reference that the registry keeps.

        Raises:
            SecguardError: as `keys.load_signer`.
        """
        if reference.startswith(SCHEME):
            return load_signer(reference)
        return load_signer(f"file:{self.folder.resolve() / reference.removeprefix('file:')}", self.passphrase)

    def authority(self) -> Authority:
        """The site's CAs.

        Raises:
            UsageError: there are none yet.
        """
        return Authority(
            self.folder,
            certs=self.certs,
            registry=self.registry,
            config=self.config,
            clock=self.clock,
            recorder=self.recorder,
            actor=self.actor,
            passphrase=self.passphrase,
        )

    def event(self, kind: str, subject: str, event_id: str | None = None, **data: Any) -> Event:
        """An event of the acting person, now."""
        return Event(
            id=event_id or new_event_id(),
            kind=kind,
            time=self.clock.now(),
            actor=self.actor,
            subject=subject,
            data=data,
        )

    def record(self, *events: Event) -> None:
        """Record events; if this raises, nothing may be released."""
        self.receipts.extend(self.recorder.record(events))


def kind_of(name: str, profiles: dict[str, CaProfile]) -> str:
    """The profile of a CA by its name: `devices`, `devices-320116`.

    Raises:
        UsageError: `identity.ca.kind`: no profile of that name, or the root's.
    """
    found = [kind for kind in profiles if kind != ROOT and (name == kind or name.startswith(f"{kind}-"))]
    if not found:
        kinds = ", ".join(kind for kind in profiles if kind != ROOT)
        raise UsageError(
            "identity.ca.kind",
            f"no kind of CA fits {name[:60]!r}",
            hint=f"there are: {kinds}; a CA without a kind is replaced by some of these (identity ca add KIND)",
        )
    return max(found, key=len)


def make_key(setting: Setting, name: str, algorithm: Algorithm, place: str, *, several: bool) -> tuple[Signer, str]:
    """Make the key of a CA, or take up the one that an interrupted attempt left.

    Args:
        setting: the site.
        name: the CA.
        algorithm: kind of the key.
        place: empty: `keys/<name>.key.pem`; or a PKCS#11 URI that names a token.
        several: `object` of the URI begins the labels of several keys, instead of being the one key's.

    Returns:
        The key, and the reference that the registry keeps.

    Raises:
        UsageError: the passphrase or PIN is wrong, or the token cannot be used.
        RefusedError: the CA is there already: its key is never replaced.
        SystemPartError: a write, or the token, failed.
    """
    there = setting.registry.authorities().get(name)
    if there is not None and there.status != CaStatus.PENDING:
        raise RefusedError("identity.ca.exists", f"the CA {name} has its key", hint="secguard identity ca show")
    if not place:
        path = setting.keys / f"{name}.key.pem"
        secret = setting.secret()
        make_folder(setting.keys)
        left = key_id(load_signer(f"file:{path}", secret).public_key()) if path.exists() else ""
        used = {left} if left and any(row.status in _USED for row in setting.registry.with_key(left)) else set()
        signer, _ = obtain_key(path, algorithm, secret, used)
        return signer, relative_reference(setting.folder, path)
    from secguard.keys.pkcs11 import generate_in_token

    uri = Pkcs11Uri.parse(place)
    label = f"{uri.label or 'secguard'}-{name}" if several or not uri.label else uri.label
    # The name of the key is durable before the key is: an interrupted attempt leaves no second one in the token.
    make_folder(setting.pending)
    note = setting.pending / f"{name}.uri"
    kept = note.read_text("ascii").strip() if note.exists() else ""
    known = {record.key for record in setting.registry.authorities().values() if record.status != CaStatus.PENDING}
    old = Pkcs11Uri.parse(kept) if kept and kept not in known else None
    same = old is not None and (old.token, old.serial, old.label) == (uri.token, uri.serial, label)
    identifier = old.key_id if old is not None and same else secrets.token_bytes(16)
    fresh = replace(uri, label=label, key_id=identifier, module=uri.module_file)
    atomic_write(note, fresh.text.encode("ascii") + b"\n", mode=0o600)
    return generate_in_token(fresh, algorithm), fresh.text
