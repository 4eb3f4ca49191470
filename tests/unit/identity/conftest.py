"""A site's authority over a recorder in memory that can be made to fail."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secguard.core import FixedClock, RefusedError
from secguard.events import Actor, Event, Receipt
from secguard.gbid import Scope
from secguard.identity import Authority, IdentityConfig, Registry, create_authority
from secguard.trust import TrustPolicy, read_crls

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
PROFILES = Path(__file__).parents[3] / "certs"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
CAMERA = "32011600001320000001"
PASSPHRASE = b"correct horse"
ORIGIN = "video.example/320116/0a1b2c3d"


@dataclass
class MemoryRecorder:
    """Keeps events, each ID once, as the ledger does."""

    events: dict[str, Event] = field(default_factory=dict)
    broken: bool = False

    def record(self, events: Sequence[Event]) -> Sequence[Receipt]:
        if self.broken:
            raise RefusedError("ledger.test", "the ledger refuses")
        for event in events:
            self.events.setdefault(event.id, event)
        return [Receipt(event.id, 0, bytes(32), ORIGIN) for event in events]

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.values()]


@dataclass
class Site:
    """A site and everything it is made of."""

    root: Path
    registry: Registry
    recorder: MemoryRecorder
    config: IdentityConfig = field(default_factory=IdentityConfig)
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))

    @property
    def state(self) -> Path:
        return self.root / "state" / "identity"

    @property
    def certs(self) -> Path:
        return self.root / "certs"

    def create(self, passphrase: bytes = PASSPHRASE, **values) -> Authority:
        return create_authority(
            self.state,
            **{
                "certs": self.certs,
                "registry": self.registry,
                "config": self.config,
                "scope": Scope(("320116",)),
                "origin": ORIGIN,
                "operator": "li.wei",
                "passphrase": passphrase,
                "clock": self.clock,
                "recorder": self.recorder,
                "actor": Actor(name="admin"),
                **values,
            },
        )

    def open(self, passphrase: bytes | None = PASSPHRASE, clock: FixedClock | None = None) -> Authority:
        return Authority(
            self.state,
            certs=self.certs,
            registry=self.registry,
            config=self.config,
            clock=clock or self.clock,
            recorder=self.recorder,
            actor=Actor(name="admin"),
            passphrase=passphrase,
        )

    def policy(self, authority: Authority) -> TrustPolicy:
        return TrustPolicy([authority.root], read_crls([authority.crl_folder]))

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}


def make_site(root: Path) -> Site:
    shutil.copytree(PROFILES, root / "certs", ignore=shutil.ignore_patterns("*.pem"))
    return Site(root, Registry.open(root / "state" / "identity" / "registry.db"), MemoryRecorder())


@pytest.fixture
def empty_site(tmp_path: Path):
    site = make_site(tmp_path / "site")
    yield site
    site.registry.close()


@pytest.fixture(scope="session")
def created(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with its authority, made once; each test gets a copy."""
    made = make_site(tmp_path_factory.mktemp("created") / "site")
    made.create()
    made.registry.close()
    return made


@pytest.fixture
def site(created: Site, tmp_path: Path):
    shutil.copytree(created.root, tmp_path / "site")
    registry = Registry.open(tmp_path / "site" / "state" / "identity" / "registry.db")
    yield Site(tmp_path / "site", registry, MemoryRecorder(dict(created.recorder.events)))
    registry.close()
