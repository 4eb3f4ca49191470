"""A site's CAs as they stand: certificates, keys, and who acts; what issuing, revoking and publishing work on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from secguard.core import Clock, FormatError, RefusedError, UsageError
from secguard.events import Actor, Recorder, long_act
from secguard.gbid import GbId
from secguard.identity.acting import Acting
from secguard.identity.certificate import ROOT
from secguard.identity.config import IdentityConfig
from secguard.identity.profiles import CaProfile, Profile, load_ca_profiles, load_profiles
from secguard.identity.records import CaRecord, CaStatus, CertificateRecord
from secguard.identity.registry import Registry
from secguard.keys import Signer, key_id, load_signer
from secguard.trust import Purpose, scope_of, stated_purposes

if TYPE_CHECKING:
    from secguard.identity.issuing.template import Template

__all__ = ["Site", "no_certificate", "relative_reference"]

_MAX_CHOICES = 4096


class Site(Acting):
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
        super().__init__(clock, recorder, actor)
        self.folder = folder
        self.certs = certs
        self.registry = registry
        self.config = config
        self.passphrase = passphrase
        self._signers: dict[str, Signer] = {}
        self.templates: dict[tuple[object, ...], Template] = {}
        self._generation = (-1, -1)
        self._still = False
        self.cas: Mapping[str, CaRecord] = {}
        self.refresh()
        if ROOT not in self.cas:
            raise UsageError(
                "identity.ca.none", "this site has no CA yet", hint="run: secguard identity ca init", where=str(folder)
            )

    def refresh(self) -> None:
        """Read the CAs again: another process may have added one, or put one out of force."""
        self._generation = (self.registry.data_version(), self.registry.changes)
        self._chosen: dict[tuple[Purpose, str], str] = {}
        found = {n: ca for n, ca in self.registry.authorities().items() if ca.status != CaStatus.PENDING}
        if found != self.cas:
            self.cas = found
            self._signers = {name: signer for name, signer in self._signers.items() if name in found}
            self.__dict__.pop("certificates", None)

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        """The profiles of the workspace, by name."""
        return load_profiles(self.certs)

    @cached_property
    def ca_profiles(self) -> dict[str, CaProfile]:
        """The profiles of CAs, by name."""
        return load_ca_profiles(self.certs / "ca")

    @cached_property
    def certificates(self) -> Mapping[str, x509.Certificate]:
        """The certificates of the CAs, by name, also of those that issue no more."""
        return {name: record.x509() for name, record in self.cas.items()}

    @property
    def signing(self) -> list[str]:
        """Names of the CAs whose keys are here: those that publish lists."""
        return [name for name, record in self.cas.items() if record.key]

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

    @contextmanager
    def still(self) -> Iterator[None]:
        """While the caller holds the site's lock no other process changes the CAs: ask once, not for each order."""
        self._follow()
        self._still = True
        try:
            yield
        finally:
            self._still = False

    def _follow(self) -> None:
        if not self._still and (self.registry.data_version(), self.registry.changes) != self._generation:
            self.refresh()

    def issuer(self, purpose: Purpose, device: GbId | None = None) -> str:
        """The CA that certifies a purpose: of those whose scope covers the device the narrowest, then the latest.

        What a CA may do is read from its certificate, as a verifier will read it.

        Raises:
            UsageError: no CA of the site certifies the purpose.
            RefusedError: `identity.scope.exceeded`: none may certify this device.
        """
        self._follow()
        # All but the serial number decides: centre, industry, type, network.
        place = purpose, device.value[:14] if device is not None else ""
        if place not in self._chosen:
            chosen = self._choose(purpose, device)
            if len(self._chosen) >= _MAX_CHOICES:
                self._chosen.clear()
            self._chosen[place] = chosen
        return self._chosen[place]

    def _choose(self, purpose: Purpose, device: GbId | None) -> str:
        able = [
            name
            for name, record in self.cas.items()
            if record.status == CaStatus.CURRENT
            and name != ROOT
            and purpose in stated_purposes(self.certificates[name])
        ]
        if not able:
            raise UsageError(
                "identity.purpose.unissued",
                f"no CA of this site certifies the purpose {purpose}",
                hint="secguard identity ca show lists them",
            )
        fit = [name for name in able if device is None or self._covers(name, device)]
        if not fit or (device is not None and not self._covers(ROOT, device)):
            scope = scope_of(self.certificates[able[0] if not fit else ROOT])
            raise RefusedError(
                "identity.scope.exceeded",
                f"{device} lies outside the scope of this site's CA ({scope})",
                hint="its certificate must come from the CA of its own area",
                where=", ".join(able),
            )
        return max(fit, key=lambda name: (self._narrowness(name, device), self.cas[name].created, name))

    def _covers(self, name: str, device: GbId) -> bool:
        scope = scope_of(self.certificates[name])
        return scope is None or scope.covers(device)

    def _narrowness(self, name: str, device: GbId | None) -> tuple[int, bool, bool]:
        scope = scope_of(self.certificates[name])
        if scope is None or device is None:
            return 0, False, False
        area = max((len(area) for area in scope.areas if device.value.startswith(area)), default=0)
        return area, bool(scope.types), bool(scope.networks)

    def reference(self, path: Path) -> str:
        """How the registry keeps the place of a key file: relative inside the site's folder, so that it can move."""
        return relative_reference(self.folder, path)

    def locate(self, reference: str) -> str:
        """The place of a key that the registry keeps: `file:` with an absolute path, or `pkcs11:` as it is."""
        if reference.startswith("pkcs11:"):
            return reference
        return f"file:{self.folder.resolve() / reference.removeprefix('file:')}"

    def signer(self, name: str) -> Signer:
        """The key of a CA.

        Raises:
            UsageError: no or a wrong passphrase; `identity.key.offline`: the key is on another machine.
            RefusedError: the file is readable by others.
        """
        if not self.cas[name].key:
            raise UsageError(
                "identity.key.offline",
                f"the key of the CA {name} is not here",
                hint="run this in the workspace that made it",
            )
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

    @contextmanager
    def act(self, noun: str, subject: str, **data: Any) -> Iterator[dict[str, Any]]:
        """A long act of the acting person, recorded at its start and its end; see `secguard.events.long_act`."""
        with long_act(self._recorder, self.clock, noun, actor=self._actor, subject=subject, **data) as closing:
            yield closing


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
