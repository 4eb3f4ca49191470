"""The register of devices as people work on it; every change is recorded before it is released."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from secguard.core import Clock, UsageError
from secguard.events import Actor, Recorder
from secguard.gbid import GbId
from secguard.identity.acting import Acting
from secguard.identity.inventory.policy import RegisterPolicy
from secguard.identity.records import DeviceRecord
from secguard.identity.registry import Registry

__all__ = ["Register", "unknown_device"]


class Register(Acting):
    """The register of a site; needs no CA and no key.

    Args:
        folder: `state/identity` of the workspace.
        registry: the open registry.
        clock: gives the times of changes.
        recorder: the ledger.
        actor: who acts.
        edition: of GB/T 28181, whose tables IDs are checked against.
        policy: what is to be registered.
    """

    def __init__(
        self,
        folder: Path,
        *,
        registry: Registry,
        clock: Clock,
        recorder: Recorder,
        actor: Actor,
        edition: str = "2022",
        policy: RegisterPolicy | None = None,
    ) -> None:
        super().__init__(clock, recorder, actor)
        self.folder = folder
        self.registry = registry
        self.edition = edition
        self.policy = policy or RegisterPolicy()
        self._prefixes: dict[str, tuple[UsageError, ...]] = {}

    @property
    def lock(self) -> Path:
        """The file that whoever changes something holds; the CAs hold the same."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder / ".lock"

    @cached_property
    def operator(self) -> str:
        """Who acts."""
        return self._actor.name

    def problems(self, gbid: str) -> tuple[UsageError, ...]:
        """What the tables say against an ID; looked up once for IDs that differ in their number only."""
        prefix = gbid[:14]
        if prefix not in self._prefixes:
            self._prefixes[prefix] = tuple(GbId(gbid).problems(self.edition))
        return self._prefixes[prefix]

    def device(self, gbid: str) -> DeviceRecord:
        """A device's record.

        Raises:
            UsageError: it is no ID, or not registered.
        """
        parsed = GbId.parse(gbid)
        record = self.registry.device(parsed.value)
        if record is None:
            raise unknown_device(parsed.value)
        return record


def unknown_device(gbid: str, near: Iterable[str] = ()) -> UsageError:
    """The error for a device that is not registered."""
    known = ", ".join(near)
    return UsageError(
        "identity.device.unknown",
        f"{gbid} is not registered",
        hint=f"did you mean {known}?" if known else "`secguard identity device list` shows all",
    )
