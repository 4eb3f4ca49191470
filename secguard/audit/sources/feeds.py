"""What a source does while it runs: make deliveries of records, count them, and stop without losing any."""

import ipaddress
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from secguard.audit.sources.intake import Delivery, Intake, Settled
from secguard.audit.sources.letters import MAX_KEPT, Letter
from secguard.audit.sources.meter import Meter
from secguard.audit.sources.reading import RESERVED, Ignored, Read, Reader, rejection, sha256_of
from secguard.audit.sources.settings import Source
from secguard.core import Clock, FormatError
from secguard.events import Actor, Event, Result, new_event_id

__all__ = ["Desk", "Feed", "Peers"]


class Feed(Protocol):
    """A running source."""

    async def start(self) -> None:
        """Listen, or open the files.

        Raises:
            SecguardError: it cannot.
        """
        ...

    def look(self, now: float) -> None:
        """Called every second: measure what is behind, lost, gone."""
        ...

    async def stop(self) -> None:
        """Take nothing more in; what was taken in is queued when this returns."""
        ...


class Peers:
    """Who may send."""

    def __init__(self, networks: list[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._known: dict[str, bool] = {}

    def admits(self, address: str) -> bool:
        """Whether an address may send."""
        if not self._networks:
            return True
        known = self._known.get(address)
        if known is None:
            if len(self._known) > 65536:
                self._known.clear()
            try:
                one = ipaddress.ip_address(address.partition("%")[0])
                mapped = getattr(one, "ipv4_mapped", None)
                known = any((mapped or one) in network for network in self._networks)
            except ValueError:
                known = False
            self._known[address] = known
        return known


class Desk:
    """Turns the records of one source into deliveries.

    Args:
        name: the source.
        settings: its table.
        intake: its queue.
        clock: receipt times.
        actor: who collects.
    """

    def __init__(self, name: str, settings: Source, intake: Intake, clock: Clock, actor: Actor) -> None:
        self.name = name
        self.settings = settings
        self.intake = intake
        self.clock = clock
        self.actor = actor
        self._reader = Reader(name, settings)

    @property
    def meter(self) -> Meter:
        """The source's counts."""
        return self.intake.meter

    def take(
        self,
        delivery: Delivery,
        raw: bytes,
        received: datetime,
        *,
        place: Mapping[str, Any],
        derived: str = "",
        peer: str = "",
        certificate: str = "",
        live: bool = True,
    ) -> tuple[Read | FormatError | None, Mapping[str, Any]]:
        """Add a record to a delivery: as an event, or as what was put aside.

        Args:
            delivery: takes it.
            raw: as it came.
            received: when.
            place: says in a rejection where it stood.
            derived: an ID from its place.
            peer: address of the sender.
            certificate: name in its certificate.
            live: it came as it happened.

        Returns:
            What was read, the error of what was put aside, or None for what is not wanted; and the record.
        """
        now = time.monotonic()
        self.meter.heard(received, now)
        try:
            read, record = self._reader.read(raw, received, derived=derived, peer=peer, certificate=certificate)
        except Ignored:
            self.meter.health.ignored += 1
            return None, {}
        except FormatError as error:
            self.reject(delivery, error, raw, received, place=place, derived=derived)
            return error, {}
        delivery.add(read.event, read.size, own=read.own)
        if read.timed:
            self.meter.timed(read.event.time, received, now, live=live)
        return read, record

    def reject(
        self,
        delivery: Delivery,
        error: FormatError,
        raw: bytes,
        received: datetime,
        *,
        place: Mapping[str, Any],
        derived: str = "",
        sha256: str = "",
        size: int = 0,
    ) -> None:
        """Put a record aside: a rejection for the ledger, and its raw bytes for the dead letters."""
        sha256 = sha256 or sha256_of(raw)
        size = size or len(raw)
        name = sha256_of(f"{derived} {sha256}".encode())[:32] if derived else new_event_id()
        event = rejection(
            error,
            event_id=f"{RESERVED}rejected:{name}",
            time=received,
            actor=self.actor,
            subject=self.name,
            data={**place, "raw_sha256": sha256, "bytes": size},
        )
        self.meter.health.rejected += 1
        delivery.add(event, 600, own=False)
        delivery.letters.append(Letter(sha256, self.name, raw[:MAX_KEPT], size))
        delivery.size += min(size, MAX_KEPT)

    def note(self, kind: str, reason: str, *, outcome: Result = Result.FAILURE, **data: Any) -> None:
        """Record something about the source itself: a loss, silence, a clock."""
        delivery = Delivery()
        event = Event(
            id=new_event_id(),
            kind=kind,
            time=self.clock.now(),
            actor=self.actor,
            subject=self.name,
            reason=reason[:4096],
            outcome=outcome,
            data=data,
        )
        delivery.add(event, 400, own=False)

        def forget(settled: Settled) -> None:
            self.meter.health.recorded -= settled.recorded  # it is not the source's own

        delivery.done = forget
        self.intake.put(delivery)

    def lost(self, count: int, how: str, **data: Any) -> None:
        """Count and record what was lost; `count` is at least so many, 0 where nobody knows."""
        self.meter.health.lost += max(1, count)
        self.note("source.lost", how, count=count, **data)
