"""For tests of evidence: a whole site in a folder, made by the real rooms, and bundles taken apart and signed anew."""

import io
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import isolation_kit
import msgspec
import video_kit as video
from cryptography import x509

from secguard.core import FixedClock, FormatError, Outcome
from secguard.events import Actor, Assurance, Event, long_act, new_event_id
from secguard.evidence import (
    BundleManifest,
    BundleVerdict,
    Exported,
    KeptScans,
    Sealers,
    archive,
    export,
    verify_bundle,
)
from secguard.evidence import verify as room
from secguard.evidence.archive import Source, read_archive, write_archive
from secguard.evidence.bundle import MANIFEST
from secguard.evidence.manifest import Listed, OpenedBundle
from secguard.gbid import Scope
from secguard.identity import Authority, IdentityConfig, Registry, Request, create_authority
from secguard.isolation.evidence.folder import run_name, save_run
from secguard.isolation.runs.conclude import RunResult
from secguard.keys import Signer
from secguard.ledger import Ledger
from secguard.trust import TrustPolicy, read_crls
from secguard.video import sign

START = datetime(2026, 10, 1, 8, 0, tzinfo=UTC)
CAMERA = video.CAMERA
OPERATOR = Actor(name="zhang.wei", assurance=Assurance.OS_USER)
CASE = "A-2026-42"
_PROFILES = Path(__file__).parents[2] / "certs"


@dataclass
class Ticking:
    """A clock that goes on by a second at each look."""

    at: datetime = START

    def now(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


@dataclass
class Site:
    """A site with one camera and one signed recording."""

    folder: Path
    clock: Ticking = field(default_factory=Ticking)

    def __post_init__(self) -> None:
        certs = self.folder / "certs"
        shutil.copytree(_PROFILES, certs, ignore=shutil.ignore_patterns("*.pem"))
        state = self.folder / "state"
        state.mkdir()
        self.ledger = Ledger.create(
            state / "ledger", "log.test/320116", anchor=self.folder / "anchor", clock=self.clock
        )
        self.registry = Registry.open(state / "identity" / "registry.db")
        self.authority: Authority = create_authority(
            state / "identity",
            certs=certs,
            registry=self.registry,
            config=IdentityConfig(organization="Test", domain="test.internal", crl_days=30),
            scope=Scope(("320116",)),
            origin=self.ledger.origin,
            operator=OPERATOR.name,
            passphrase=b"test",
            clock=self.clock,
            recorder=self.ledger,
            actor=OPERATOR,
        )
        self.authority.issue([Request(CAMERA.value, "camera")])
        self.plain = video.make_clip(self.folder / "plain.mp4", frames=4, gop=2, size=(32, 32), noise=8)
        self.signed = self.folder / "signed.mp4"
        self.sign(self.signed)

    def sign(self, target: Path, **changes: Any) -> None:
        signer, chain = self.authority.device_signer(CAMERA.value)
        with sign(
            self.plain, target, signer=signer, chain=chain, device=CAMERA, clock=FixedClock(self.clock.at)
        ) as done:
            self.record("video.signed", CAMERA.value, {**done.event_data(), **changes})

    def record(self, kind: str, subject: str, data: dict[str, Any], **values: Any) -> int:
        event = Event(
            id=new_event_id(),
            kind=kind,
            time=values.pop("time", self.clock.now()),
            actor=OPERATOR,
            subject=subject,
            data=data,
            **values,
        )
        return self.ledger.record([event])[0].index

    @property
    def scans(self) -> KeptScans:
        """Where its isolation scans are kept."""
        return KeptScans(self.folder / "state" / "isolation")

    def scan(
        self,
        leaks: Iterable[isolation_kit.Leak] = (),
        *,
        keep: bool = True,
        begun: dict[str, Any] | None = None,
        told: dict[str, Any] | None = None,
        run: RunResult | None = None,
        **values: Any,
    ) -> RunResult:
        """Scan its zones as `isolation run` does; `begun` and `told` are put into what the log is told."""
        run = run or isolation_kit.make_run(leaks, **({"at": self.clock.now()} | values))
        subject = f"sha256:{run.digest}"
        act = {"policy": run.plan.policy} | (begun or {})
        with long_act(self.ledger, self.clock, "scan", actor=OPERATOR, subject=subject, **act) as closing:
            closing.update(run.summary() | (told or {}))
        if keep:
            save_run(run, self.scans.folder / run_name(run), fresh=True)
        return run

    @property
    def root(self) -> x509.Certificate:
        return self.authority.root

    @property
    def trust(self) -> TrustPolicy:
        return TrustPolicy([self.root], read_crls([self.authority.crl_folder]))

    @property
    def sealers(self) -> Sealers:
        return Sealers(*self.authority.operator_signer(OPERATOR.name), *self.authority.log_signer(self.ledger.origin))

    def export(self, output: Path, source: Path | None = None, **values: Any) -> Exported:
        options: dict[str, Any] = {
            "ledger": self.ledger,
            "sealers": self.sealers,
            "trust": self.trust,
            "clock": self.clock,
            "actor": OPERATOR,
            "case": CASE,
            "reason": "调取",
        }
        return export(source or self.signed, output, **(options | values))

    def verify(self, bundle: Path, **values: Any) -> BundleVerdict:
        return verify_bundle(bundle, [self.root], **values)

    def close(self) -> None:
        self.ledger.close()
        self.registry.close()


def unpack(bundle: Path) -> dict[str, bytes]:
    return {item.name: item.data or b"" for item in read_archive(bundle, {})}


def pack(target: Path, files: dict[str, bytes]) -> Path:
    stream = io.BytesIO()
    write_archive(stream, [Source.of(name, data) for name, data in files.items()])
    target.write_bytes(stream.getvalue())
    return target


def manifest_of(files: dict[str, bytes]) -> BundleManifest:
    return OpenedBundle.read(files[MANIFEST], [], MANIFEST).manifest


def resealed(
    bundle: Path,
    target: Path,
    signer: Signer,
    change: Callable[[dict[str, bytes]], None] = lambda _: None,
    **fields: Any,
) -> Path:
    """A bundle as a dishonest operator would make it: files changed, listed again and signed with their own key."""
    files = unpack(bundle)
    manifest = manifest_of(files)
    change(files)
    listed = tuple(Source.of(name, data) for name, data in files.items() if name != MANIFEST)
    made = msgspec.structs.replace(
        manifest, **{"members": tuple(Listed(item.name, item.size, item.sha256) for item in listed), **fields}
    )
    files[MANIFEST] = made.seal(signer)
    return pack(target, files)


def change_seen(data: bytes) -> bool:
    """Whether the archive's own structure or the operator's list tells that a bundle was changed."""
    try:
        members = archive._read(io.BytesIO(data), len(data), {}, archive.silent, "")
    except FormatError as error:
        return error.code == "evidence.archive.structure"
    case = room._Case({item.name: item for item in members}, START)
    room._operator(case)
    return any(item.outcome is Outcome.FAIL for item in case.findings)


def codes(answer: BundleVerdict) -> set[str]:
    return {item.code for item in answer.verdict.findings if item.outcome != "pass"}


def places(answer: BundleVerdict, code: str) -> list[str]:
    return [item.where for item in answer.verdict.findings if item.code == code]
