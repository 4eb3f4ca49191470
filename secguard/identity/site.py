"""A site's CAs as they stand: certificates, keys, and who acts; what issuing, revoking and publishing work on."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509

from secguard.core import Clock, FormatError, UsageError
from secguard.events import Actor, Event, Receipt, Recorder, new_event_id
from secguard.identity.build import ROOT
from secguard.identity.config import IdentityConfig
from secguard.identity.profiles import Profile, load_profiles
from secguard.identity.records import CaRecord, CertificateRecord
from secguard.identity.registry import Registry
from secguard.keys import Signer, key_id, load_signer

__all__ = ["Site", "no_certificate", "relative_reference"]


class Site:
    """A site's CAs; made by `create_authority`.

    Args:
        folder: `state/identity` of the workspace.
        certs: folder of the profiles and of the root certificate.
        registry: the open registry.
        config: the site.
        clock: gives validity and times of events.
        recorder: the ledger.
        actor: who acts.
        passphrase: opens the keys; None is enough for what needs no key.

    Raises:
        UsageError: `identity.ca.none`: there are no CAs yet.
    """

    def __init__(
        self,
        folder: Path,
        *,
        certs: Path,
        registry: Registry,
        config: IdentityConfig,
        clock: Clock,
        recorder: Recorder,
        actor: Actor,
        passphrase: bytes | None = None,
    ) -> None:
        self.folder = folder
        self.certs = certs
        self.registry = registry
        self.config = config
        self.clock = clock
        self.passphrase = passphrase
        self._recorder = recorder
        self._actor = actor
        self._signers: dict[str, Signer] = {}
        self.receipts: list[Receipt] = []
        self.cas: Mapping[str, CaRecord] = registry.authorities()
        if ROOT not in self.cas:
            raise UsageError(
                "identity.ca.none", "this site has no CA yet", hint="run: secguard identity ca init", where=str(folder)
            )

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        """The profiles of the workspace, by name."""
        return load_profiles(self.certs)

    @cached_property
    def certificates(self) -> Mapping[str, x509.Certificate]:
        """The certificates of the CAs, by name."""
        return {name: record.x509() for name, record in self.cas.items()}

    @property
    def root(self) -> x509.Certificate:
        """The root certificate."""
        return self.certificates[ROOT]

    @property
    def crl_folder(self) -> Path:
        """Where lists are published, `<ca>.crl` in DER."""
        return self.folder / "crl"

    @property
    def lock(self) -> Path:
        """The file that whoever changes something holds."""
        return self.folder / ".lock"

    def reference(self, path: Path) -> str:
        """How the registry keeps the place of a key file: relative inside the site's folder, so that it can move."""
        return relative_reference(self.folder, path)

    def locate(self, reference: str) -> str:
        """The place of a key that the registry keeps, as `file:` with an absolute path."""
        return f"file:{self.folder.resolve() / reference.removeprefix('file:')}"

    def signer(self, name: str) -> Signer:
        """The key of a CA.

        Raises:
            UsageError: no or a wrong passphrase.
            RefusedError: the file is readable by others.
        """
        if name not in self._signers:
            self._signers[name] = load_signer(self.locate(self.cas[name].key), self.passphrase)
        return self._signers[name]

    def holder_signer(self, holder: str, profile: str) -> tuple[Signer, list[x509.Certificate]]:
        """The key of a holder's active certificate, and its chain without the root.

        Raises:
            UsageError: there is no active certificate, its key is in the device, or the passphrase is wrong.
            RefusedError: the key file is readable by others.
            FormatError: the key file holds another key.
        """
        record = self.registry.active(holder, profile)
        if record is None:
            raise no_certificate(holder, profile)
        if not record.key:
            raise UsageError("identity.key.elsewhere", f"the key of {holder} ({profile}) is in the device itself")
        reference = self.locate(record.key)
        signer = load_signer(reference, self.passphrase)
        if key_id(signer.public_key()) != record.spki:
            raise FormatError(
                "identity.key.other",
                f"this is not the certified key of {holder} ({profile})",
                hint="put the right file back, or revoke the certificate and issue a new one",
                where=reference.removeprefix("file:"),
            )
        return signer, self.chain(record)

    def chain(self, record: CertificateRecord) -> list[x509.Certificate]:
        """A certificate with its issuing CA's, without the root."""
        return [record.x509(), self.certificates[record.issuer]]

    def event(self, kind: str, subject: str, event_id: str | None = None, *, case: str = "", **data: Any) -> Event:
        """An event of the acting person, now."""
        return Event(
            id=event_id or new_event_id(),
            kind=kind,
            time=self.clock.now(),
            actor=self._actor,
            subject=subject,
            case=case,
            data=data,
        )

    def record(self, events: Sequence[Event]) -> None:
        """Record events and keep their receipts; if this raises, nothing may be released."""
        self.receipts += self._recorder.record(events)


def relative_reference(folder: Path, path: Path) -> str:
    """A `file:` reference, relative to `folder` for a file below it, else absolute."""
    absolute, base = path.resolve(), folder.resolve()
    return f"file:{absolute.relative_to(base) if absolute.is_relative_to(base) else absolute}"


def no_certificate(holder: str, profile: str) -> UsageError:
    """The error for a holder without an active certificate."""
    return UsageError(
        "identity.certificate.none",
        f"{holder[:64]} has no active {profile} certificate",
        hint=f"run: secguard identity issue {holder[:64]} --profile {profile}",
    )
