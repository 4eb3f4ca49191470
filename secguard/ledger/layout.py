"""The log's folder: what lies where, and its configuration."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from secguard.core.errors import FormatError, UsageError
from secguard.core.limits import MAX_CONFIG, read_bounded

__all__ = ["Config", "Layout", "read_config"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the log's folder. `public` alone may be served to strangers: it holds no body."""

    root: Path

    @property
    def config(self) -> Path:
        """`log.json`: origin and anchor."""
        return self.root / "log.json"

    @property
    def public(self) -> Path:
        """Checkpoint and tiles, as C2SP tlog-tiles lays them out."""
        return self.root / "public"

    @property
    def checkpoint(self) -> Path:
        """The last signed checkpoint."""
        return self.public / "checkpoint"

    @property
    def bodies(self) -> Path:
        """Salts and events."""
        return self.root / "bodies"

    @property
    def journal(self) -> Path:
        """What is durable and not yet in tiles."""
        return self.root / "journal"

    @property
    def ids(self) -> Path:
        """The index from event ID to leaf; can be rebuilt."""
        return self.root / "ids"

    @property
    def state(self) -> Path:
        """How far tiles and bodies go."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the one writer of the journal."""
        return self.root / "lock"

    @property
    def integrate_lock(self) -> Path:
        """Held by whoever makes tiles or publishes."""
        return self.root / "integrate.lock"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What never changes in a log's life: its name, and the folder of its anchor."""

    v: int
    origin: str
    anchor: str


def read_config(layout: Layout) -> Config:
    """Read `log.json`.

    Raises:
        UsageError: there is no log here.
        FormatError: the file is damaged.
    """
    if not layout.config.exists():
        raise UsageError(
            "ledger.missing", "there is no ledger here", hint="secguard init makes one", where=str(layout.root)
        )
    try:
        config = msgspec.json.decode(read_bounded(layout.config, MAX_CONFIG), type=Config)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(
            "ledger.config.format", f"not a ledger's configuration: {error}", where=str(layout.config)
        ) from error
    if config.v != 1:
        raise FormatError("ledger.config.version", f"version {config.v} is not known", where=str(layout.config))
    return config
