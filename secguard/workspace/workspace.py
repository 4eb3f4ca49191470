"""An open workspace: finds its folder, and hands out its parts, configured, each opened when first asked for."""

import contextlib
import os
import pwd
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from secguard.core.clock import Clock, SystemClock
from secguard.core.errors import SecguardError, UsageError
from secguard.core.progress import Progress, silent
from secguard.events import Actor, Assurance, Event, Receipt, Result, close_dangling, ending_id, new_event_id
from secguard.keys import find_passphrase
from secguard.workspace.config import Config, load_config
from secguard.workspace.indexes import open_index, standing_of_index
from secguard.workspace.site import CONFIG_NAME, open_ledger

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.audit import Index
    from secguard.evidence import KeptScans, Sealers
    from secguard.gbid import GbId, Scope
    from secguard.identity import Authority, IdentityConfig, Registry
    from secguard.identity.ca.setting import Setting
    from secguard.keys import Signer
    from secguard.ledger import Ledger, NoteKey
    from secguard.ledger.witness import Compared
    from secguard.trust import TrustPolicy
    from secguard.workspace.witnesses import Cosigned, Witnesses

__all__ = ["Workspace"]

_LONG_ACTS = ("import", "scan", "provision", "collect")
_LOOK_BACK = 1000
"""Started acts that `close_dangling` looks at, newest first: far more than can be open at once."""


class Workspace:
    """A site's folder; use it as a context manager, or `close` it.

    Attributes:
        root: the folder that holds `secguard.toml`.
        config: what the file says.
        clock: where the time comes from.
    """

    def __init__(self, root: Path, config: Config, clock: Clock | None = None) -> None:
        self.root = root
        self.config = config
        self.clock: Clock = clock or SystemClock()

    @classmethod
    def locate(cls, option: Path | None) -> Path | None:
        """The folder: `option` > `SECGUARD_WORKSPACE` > the nearest `secguard.toml` upwards; None without one."""
        named = option or (Path(os.environ["SECGUARD_WORKSPACE"]) if os.environ.get("SECGUARD_WORKSPACE") else None)
        if named is not None:
            return named if (named / CONFIG_NAME).is_file() else None
        here = Path.cwd()
        return next((folder for folder in (here, *here.parents) if (folder / CONFIG_NAME).is_file()), None)

    @classmethod
    def find(cls, option: Path | None = None, clock: Clock | None = None) -> Self:
        """Open the workspace that `locate` finds.

        Raises:
            UsageError: there is none, or its configuration is wrong.
        """
        root = cls.locate(option)
        if root is None:
            where = str(option or os.environ.get("SECGUARD_WORKSPACE") or Path.cwd())
            raise UsageError(
                "workspace.missing",
                "no workspace here",
                hint="make one with `secguard init DIR`, or name it with -w DIR",
                where=where,
            )
        root = root.resolve()
        return cls(root, load_config(root / CONFIG_NAME), clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        for part in ("index", "registry", "ledger"):
            if part in self.__dict__:
                self.__dict__.pop(part).close()

    @property
    def state(self) -> Path:
        """Folder of everything secguard writes."""
        return self.root / "state"

    @property
    def certs(self) -> Path:
        """Folder of certificate profiles and the public root."""
        return self.root / "certs"

    @property
    def policies(self) -> Path:
        """Folder of policies."""
        return self.root / "policies"

    @property
    def root_certificate(self) -> Path:
        """The public root certificate; `--root` of any verifier takes it."""
        return self.certs / "root.pem"

    @cached_property
    def ledger(self) -> "Ledger":
        """The site's log.

        Raises:
            RefusedError: it is missing or damaged.
        """
        return open_ledger(self.state, self.config.ledger, self.clock)

    @cached_property
    def registry(self) -> "Registry":
        """The register of devices and certificates."""
        from secguard.identity import Registry

        return Registry.open(self.state / "identity" / "registry.db")

    @cached_property
    def index(self) -> "Index":
        """The search index, which follows the log and can be rebuilt from it."""
        return open_index(self.root, self.config)

    @cached_property
    def identity_config(self) -> "IdentityConfig":
        """What certificates of this site say."""
        from secguard.identity import IdentityConfig

        section, site = self.config.identity, self.config.site
        return IdentityConfig(
            organization=site.name,
            country=section.country,
            domain=site.domain,
            edition=str(site.edition),
            crl_url=section.crl_url,
            crl_days=section.crl_days,
            crl_shards=section.crl_shards,
            ocsp_url=section.ocsp_url,
            ca_url=section.ca_url,
        )

    def passphrase(self, option: Path | None = None) -> bytes | None:
        """The passphrase of the site's keys, from the first source that has one."""
        return find_passphrase(option, fallback=self.state / "passphrase")

    def actor(self) -> Actor:
        """The operating system's user behind this process."""
        uid = os.getuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = f"uid:{uid}"
        return Actor(name=name, assurance=Assurance.OS_USER)

    def record(
        self,
        kind: str,
        subject: str,
        *,
        case: str = "",
        reason: str = "",
        approver: str = "",
        outcome: Result = Result.SUCCESS,
        data: dict[str, Any] | None = None,
    ) -> Receipt:
        """Record one act of this user; only after it returns may the act's result be released.

        Raises:
            SecguardError: the act is refused.
        """
        event = Event(
            id=new_event_id(),
            kind=kind,
            time=self.clock.now(),
            actor=self.actor(),
            subject=subject,
            case=case,
            approver=approver,
            reason=reason,
            outcome=outcome,
            data=data or {},
        )
        return self.ledger.record([event])[0]

    def authority(self, passphrase_file: Path | None = None, *, keyless: bool = False) -> "Authority":
        """The certificate authority, its keys opened when needed; without a passphrase if it is `keyless`.

        Raises:
            UsageError: there is none yet, or the passphrase is missing.
        """
        from secguard.identity import Authority

        if not self.root_certificate.exists():
            raise UsageError(
                "workspace.authority.none", "there is no authority yet", hint="run: secguard identity ca init"
            )
        return Authority(
            self.state / "identity",
            certs=self.certs,
            registry=self.registry,
            config=self.identity_config,
            clock=self.clock,
            recorder=self.ledger,
            actor=self.actor(),
            passphrase=None if keyless else self.passphrase(passphrase_file),
        )

    def identity_setting(self, passphrase_file: Path | None = None, *, operator: str = "") -> "Setting":
        """The site as the ceremonies of `identity.ca` take it, with or without CAs.

        Args:
            passphrase_file: encrypts and opens the keys.
            operator: the operator's name; by default this user's.
        """
        from secguard.gbid import Scope
        from secguard.identity.ca.setting import Setting

        return Setting(
            folder=self.state / "identity",
            certs=self.certs,
            registry=self.registry,
            config=self.identity_config,
            scope=Scope((self.config.site.area,)),
            origin=self.ledger.origin,
            operator=operator or self.actor().name,
            passphrase=self.passphrase(passphrase_file),
            clock=self.clock,
            recorder=self.ledger,
            actor=self.actor(),
        )

    def create_authority(
        self,
        passphrase: bytes,
        *,
        operator: str = "",
        name: str = "",
        root_only: bool = False,
        scope: "Scope | None" = None,
        key: str = "",
    ) -> "Authority":
        """Make root, issuing authorities, log key and an operator's key; see `identity.create_authority`.

        Args:
            passphrase: encrypts all keys.
            operator: the operator's name; by default this user's.
            name: start of the authorities' names; by default organisation and area.
            root_only: make the root only, to sign the requests of sites.
            scope: the GB/T 28181 IDs to be certified; by default those of the site's area.
            key: a PKCS#11 URI that names the token for the keys; by default they lie in files.

        Raises:
            SecguardError: there is an authority already, or something could not be written or recorded.
        """
        from secguard.gbid import Scope
        from secguard.identity import create_authority

        return create_authority(
            self.state / "identity",
            certs=self.certs,
            registry=self.registry,
            config=self.identity_config,
            scope=scope or Scope((self.config.site.area,)),
            origin=self.ledger.origin,
            operator=operator or self.actor().name,
            passphrase=passphrase,
            clock=self.clock,
            recorder=self.ledger,
            actor=self.actor(),
            name=name,
            root_only=root_only,
            key=key,
        )

    def media_signer(
        self, gbid: "GbId", passphrase_file: Path | None = None
    ) -> "tuple[Signer, list[x509.Certificate]]":
        """The key and the chain (leaf first) with which a device's video is signed."""
        return self.authority(passphrase_file).device_signer(gbid.value, "media-signing")

    def trust(self, root: Path | None = None, crls: Iterable[Path] = ()) -> "TrustPolicy":
        """What this site believes: `root` or its own root, its own CRLs, and `crls`."""
        from secguard.trust import TrustPolicy, read_certificates, read_crls

        return TrustPolicy(read_certificates(root or self.root_certificate), read_crls([*self.crl_paths(), *crls]))

    def crl_paths(self) -> list[Path]:
        """The site's current revocation lists."""
        return sorted((self.state / "identity" / "crl").glob("*.crl"))

    def log_chain(self) -> "list[x509.Certificate]":
        """The certificates of the log's key, leaf first, without the root; needs no passphrase.

        Raises:
            UsageError: there is no authority yet.
        """
        record = self.registry.active(self.ledger.origin, "log")
        if record is None:
            raise UsageError("workspace.log.none", "the log has no certificate", hint="run: secguard identity ca init")
        return [record.x509(), self.registry.authorities()[record.issuer].x509()]

    def log_keys(self) -> "tuple[NoteKey, ...]":
        """The log keys that the site's root certifies now; empty if none is believed."""
        return self.trust().log_keys([self.log_chain()], self.clock.now()).keys

    def publish(self, passphrase_file: Path | None = None) -> bytes:
        """Sign a checkpoint over everything recorded so far, and return it (C2SP signed note).

        Raises:
            RefusedError: the log is not a continuation of the anchored checkpoint.
        """
        signer, _ = self.authority(passphrase_file).log_signer()
        return self.ledger.publish(signer)

    def witnesses(self, root: Path | None = None) -> "Witnesses":
        """The witnesses that `[[ledger.witnesses]]` names, their keys judged by `root` or the site's own."""
        from secguard.workspace.witnesses import open_witnesses

        here = root is not None or self.root_certificate.exists()
        policy = self.trust(root) if self.config.ledger.witnesses and here else None
        return open_witnesses(self.root, self.config.ledger, policy, self.clock.now())

    def ask_witnesses(self, *, seconds: float = 10.0) -> "Cosigned":
        """Have the witnesses cosign the last checkpoint; see `workspace.witnesses.ask_witnesses`."""
        from secguard.workspace.witnesses import ask_witnesses

        return ask_witnesses(self, self.witnesses(), seconds=seconds)

    def compare_witnesses(self) -> "Compared":
        """Compare the log with what its witnesses remember of it; nothing is found where none is configured."""
        from secguard.ledger.witness import Compared, compare

        witnesses = self.witnesses()
        if not witnesses.peers:
            return Compared([], list(witnesses.findings))
        compared = compare(self.ledger, witnesses.peers, self.log_keys())
        return Compared(compared.seen, [*witnesses.findings, *compared.findings])

    def catch_up(self, progress: Progress = silent) -> int:
        """Index what the log has and the index lacks; returns the index's position."""
        from secguard.audit import catch_up

        return catch_up(self.index, self.ledger, progress)

    def close_dangling(self, progress: Progress = silent) -> int:
        """Record the end of imports, scans and provisioning that were killed; those that still run are left alone.

        The index finds them, so it is brought up to date first. Where it cannot be, nothing is closed: a broken index
        is told to whoever searches, and keeps nobody from recording.

        Returns:
            How many were closed.

        Raises:
            SecguardError: their end could not be recorded.
        """
        from secguard.audit.query.query import Equals, Or

        dangling: list[Event] = []
        try:
            self.catch_up(progress)
            for noun in _LONG_ACTS:
                started, *ends = (Equals("kind", f"{noun}.{verb}") for verb in ("started", "finished", "failed"))
                found = self.index.find(started, limit=_LOOK_BACK)
                if found.total > self.index.find(Or(tuple(ends)), limit=1).total:
                    events = [event for event in map(self.ledger.event, found.seqs) if event.kind == started.value]
                    dangling += [event for event in events if self.ledger.find(ending_id(event)) is None]
        except SecguardError:
            return 0
        return close_dangling(dangling, self.ledger, self.clock)

    def sealers(self, passphrase_file: Path | None = None, operator: str | None = None) -> "Sealers":
        """The keys that seal an evidence bundle: the log's, and an operator's.

        Args:
            passphrase_file: opens them.
            operator: whose key; by default this user's, or the site's operator where this user has none.
        """
        from secguard.evidence import Sealers

        authority = self.authority(passphrase_file)
        return Sealers(*self.operator_signer(passphrase_file, operator), *authority.log_signer(self.ledger.origin))

    def operator_signer(
        self, passphrase_file: Path | None = None, operator: str | None = None
    ) -> "tuple[Signer, list[x509.Certificate]]":
        """The key and chain (leaf first) of `operator`; by default this user's, or the site's where there is none."""
        own = self.actor().name
        name = operator or (own if self.registry.active(own, "operator") else None)
        return self.authority(passphrase_file).operator_signer(name)

    def kept_scans(self) -> "KeptScans":
        """Where isolation scans are kept, and how often they are to run: by the file, else as they were last run."""
        from secguard.evidence import KeptScans
        from secguard.isolation.schedule.book import Book, parse_every

        folder, every = self.state / "isolation", self.config.isolation.every
        if not every:
            with contextlib.suppress(SecguardError):  # a damaged book keeps nobody from handing out evidence
                known = {entry.every for entry in Book(folder / "schedule").entries() if entry.every}
                every = min(known, key=parse_every, default="")
        return KeptScans(folder, every)

    def _scan_standing(self) -> str:
        """The scheduled isolation scan in a line."""
        from secguard.core.findings import describe
        from secguard.isolation.schedule.alerts import Alerts
        from secguard.isolation.schedule.book import Book
        from secguard.isolation.schedule.scheduled import Scheduled

        given = self.config.isolation
        book = Book(self.state / "isolation" / "schedule")
        row = Scheduled(given.policy, given.every, Alerts(), self.clock, book)
        row.begin()
        found, _ = row.standing()
        last = row.before
        said = f"{last.outcome}, {last.started:%Y-%m-%d %H:%M} UTC" if last.started else "never run"
        return "; ".join([said, *map(describe, found)])

    def status(self) -> dict[str, Any]:
        """What the workspace holds; each value is JSON."""
        facts: dict[str, Any] = {
            "workspace": str(self.root),
            "site": f"{self.config.site.name} ({self.config.site.area})",
            "authority": self.root_certificate.exists(),
            "ledger origin": self.ledger.origin,
            "ledger size": self.ledger.size,
            "checkpoint": self.ledger.checkpoint() is not None,
            **standing_of_index(self),
            "devices": len(self.registry.devices()) if self.root_certificate.exists() else 0,
        }
        if self.root_certificate.exists():
            from secguard.identity.renewal_status import standing

            facts |= standing(self.registry, self.state / "identity" / "crl", self.clock.now())
        if self.config.audit.sources:
            from secguard.audit.sources.collector import judge_status
            from secguard.core.findings import describe

            problems = judge_status(self.state / "audit", list(self.config.audit.sources), self.clock.now())
            facts["sources"] = "; ".join(f"{item.where}: {describe(item)}" for item in problems) or "all well"
        if self.config.isolation.policy:
            facts["isolation scan"] = self._scan_standing()
        if self.config.ledger.witnesses and self.root_certificate.exists():
            from secguard.ledger.witness import cosignatures

            witnesses, note = self.witnesses(), self.ledger.checkpoint()
            given = cosignatures(note, witnesses.keys) if note is not None else []
            facts["last checkpoint cosigned by"] = f"{len(given)} of {len(self.config.ledger.witnesses)} witnesses"
        if self.ledger.notices:
            facts["repaired at start-up"] = "; ".join(self.ledger.notices)
        return facts
