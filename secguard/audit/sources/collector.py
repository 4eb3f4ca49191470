"""`audit collect`: all sources of a site as one service, with one committer, health in a file, and a graceful end.

Order at the end: sources take nothing more in and queue what they have; the committer records it; positions are saved;
`collect.finished` is recorded with what came of each source.
"""

import asyncio
import contextlib
import fcntl
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from loguru import logger

from secguard.audit.index.index import Log
from secguard.audit.sources.feeds import Desk
from secguard.audit.sources.files import FileFeed
from secguard.audit.sources.identities import Revoked
from secguard.audit.sources.ingest import HttpFeed, Opener
from secguard.audit.sources.intake import Committer
from secguard.audit.sources.letters import DeadLetters
from secguard.audit.sources.meter import Health, Meter, findings_of
from secguard.audit.sources.sequences import Sequences
from secguard.audit.sources.settings import FileSource, HttpSource, Source, SyslogSource
from secguard.audit.sources.sockets import SyslogFeed
from secguard.audit.sources.tokens import Tokens
from secguard.core import Clock, Finding, RefusedError, SecguardError, UsageError, finding
from secguard.core.clock import parse_time, rfc3339
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.limits import read_bounded
from secguard.events import Actor, Result, long_act, new_event_id

__all__ = ["Collector", "Contexts", "Status", "judge_status", "read_status"]

Contexts = Callable[[str, SyslogSource | HttpSource], "ssl.SSLContext | None"]
"""TLS of a source's server; None: plain."""

_TICK = 1.0
_RETRY = 5.0
_JUMP = 2.0
"""Seconds by which the clock may move against the monotonic one in a tick: stepping shows, slewing does not."""
_DRAIN_SECONDS = 20.0
_LATE = 15.0


class Status(msgspec.Struct, kw_only=True):
    """What the service says of itself, every second.

    Attributes:
        pid: its process.
        started: since when.
        act: ID of the `collect.started` event of this run.
        written: when this was written.
        problem: why the ledger does not record; empty: it does.
        letters: bytes of raw records that are kept aside.
        letters_full: no more of them are kept.
        sources: each of them.
    """

    version: int = 1
    pid: int
    started: str
    act: str = ""
    written: str
    problem: str = ""
    letters: int = 0
    letters_full: bool = False
    sources: list[Health] = []


def read_status(state: Path) -> Status | None:
    """What the service said last; None if it never ran here.

    Args:
        state: the folder `state/audit` of the site.
    """
    path = state / "collect.json"
    try:
        return msgspec.json.decode(read_bounded(path), type=Status)
    except (UsageError, msgspec.MsgspecError):  # it is written again every second
        return None


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise translate_os_error(error, path) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                "audit.collect.running",
                "events are collected by another process already",
                hint="stop it first; secguard audit collect --status shows it",
                where=str(path),
            ) from None
        yield
    finally:
        os.close(file)


def _is_running(state: Path) -> bool:
    try:
        file = os.open(state / "collect.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def judge_status(state: Path, sources: Sequence[str], now: datetime) -> list[Finding]:
    """What is wrong with collecting, as the service's last word has it.

    Args:
        state: the folder `state/audit` of the site.
        sources: names that are configured.
        now: current time.
    """
    status, running = read_status(state), _is_running(state)
    if not running or status is None:
        since = status.written if status is not None else "-"
        return [finding("audit.collect.down", "collect", since=since)] if sources else []
    found: list[Finding] = []
    age = (now - parse_time(status.written)).total_seconds()
    if age > _LATE:
        found.append(finding("audit.collect.stalled", "collect", problem=f"it has said nothing for {age:.0f} s"))
    if status.problem:
        found.append(finding("audit.collect.stalled", "collect", problem=status.problem))
    if status.letters_full:
        found.append(finding("audit.letters.full", "letters", bytes=status.letters))
    for health in status.sources:
        found += findings_of(health)
    missing = set(sources) - {health.name for health in status.sources}
    found += [finding("audit.source.failed", name, problem="not known to the running service") for name in missing]
    return found


class Collector:
    """Runs sources.

    Args:
        sources: by name.
        root: what relative paths of files begin at.
        state: the folder `state/audit` of the site.
        log: the ledger.
        clock: receipt times.
        actor: who collects.
        contexts: TLS of servers.
        opener: makes the door of HTTP sources.
        revoked: whether a client's certificate, in DER, counts no more; asked for sources that name no CA of their own.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        root: Path,
        state: Path,
        log: Log,
        clock: Clock,
        actor: Actor,
        contexts: Contexts,
        opener: Opener,
        revoked: Revoked = lambda _: False,
    ) -> None:
        self._sources = sources
        self._root = root
        self._state = state
        self._log = log
        self._clock = clock
        self._actor = actor
        self._contexts = contexts
        self._opener = opener
        self._revoked = revoked
        self._letters = DeadLetters(state / "dead")
        self._feeds: dict[str, FileFeed | SyslogFeed | HttpFeed] = {}
        self._desks: dict[str, Desk] = {}
        self._waiting: dict[str, float] = {}  # sources that did not start, and when to try again
        self._started = self._act = ""
        self._wall = 0.0
        self._mono = 0.0
        self.places: dict[str, list[str]] = {}

    async def run(self, stop: asyncio.Event, ready: Callable[[dict[str, list[str]]], None] = lambda _: None) -> Status:
        """Collect until told to stop; returns what came of it.

        Args:
            stop: ends it gracefully.
            ready: called once with the places of each source that has started.

        Raises:
            UsageError: there are no sources.
            RefusedError: another process collects.
            SecguardError: no source can be started; or not everything could be recorded at the end.
        """
        if not self._sources:
            raise UsageError(
                "audit.collect.none", "no sources are configured", hint="docs/collect.md shows [audit.sources.NAME]"
            )
        with _only_one(self._state / "collect.lock"):
            started = self._clock.now()
            self._started, self._act = rfc3339(started), new_event_id()
            act = long_act(
                self._log,
                self._clock,
                "collect",
                actor=self._actor,
                subject="sources",
                event_id=self._act,
                sources=sorted(self._sources),
            )
            with act as closing:
                status = await self._collect(stop, ready)
                closing["sources"] = {
                    item.name: {
                        name: getattr(item, name)
                        for name in ("received", "recorded", "duplicates", "rejected", "ignored", "lost", "refused")
                    }
                    for item in status.sources
                }
            return status

    async def _collect(self, stop: asyncio.Event, ready: Callable[[dict[str, list[str]]], None]) -> Status:
        committer = Committer(self._log, self._letters, self._clock, self._actor)
        before = read_status(self._state)
        for name, settings in self._sources.items():
            self._desks[name] = self._desk(name, settings, committer, before)
        committing = asyncio.create_task(committer.run())
        try:
            errors = [error for name in self._sources if (error := await self._start(name, committer)) is not None]
            if len(errors) == len(self._sources):
                raise errors[0]
            self.places = {name: list(desk.meter.health.places) for name, desk in self._desks.items()}
            self._watch_clock(before)
            self._write(committer)
            ready(self.places)
            while not stop.is_set():
                await self._tick(committer)
                if committing.done():
                    committing.result()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _TICK)
        finally:
            await self._end(committer, committing)
        return self._status(committer)

    def _desk(self, name: str, settings: Source, committer: Committer, before: Status | None) -> Desk:
        now = time.monotonic()
        old = next((item for item in before.sources if item.name == name), None) if before is not None else None
        kind = "file" if isinstance(settings, FileSource) else "http" if isinstance(settings, HttpSource) else "syslog"
        if old is not None and old.last_received:  # a restart does not end a silence
            now -= max(0.0, (self._clock.now() - parse_time(old.last_received)).total_seconds())
        meter = Meter(name, kind, settings.silent_after, settings.clock_tolerance, now)
        if old is not None:
            meter.health.last_received, meter.health.last_event = old.last_received, old.last_event
        return Desk(name, settings, committer.intake(meter, settings.queue_mb << 20), self._clock, self._actor)

    async def _start(self, name: str, committer: Committer) -> SecguardError | None:
        """Start a source; one that cannot be is tried again, so that the others do not wait for it."""
        settings, desk = self._sources[name], self._desks[name]
        feed: FileFeed | SyslogFeed | HttpFeed
        try:
            if isinstance(settings, FileSource):
                feed = FileFeed(desk, settings, self._root, self._state / "positions" / f"{name}.json")
            elif isinstance(settings, SyslogSource):
                numbers = None
                if settings.sequence:
                    state = self._state / "positions" / f"{name}.json"
                    numbers = Sequences(name, settings.sequence, state, desk.lost)
                    numbers.load(self._log)
                feed = SyslogFeed(desk, settings, self._contexts(name, settings), numbers)
                feed.revoked = feed.revoked if settings.ca else self._revoked
            else:
                tokens = Tokens(self._state / "tokens.json")
                context = self._contexts(name, settings)
                feed = HttpFeed(desk, settings, context, tokens=tokens, committer=committer, opener=self._opener)
                feed.revoked = feed.revoked if settings.ca else self._revoked
            await feed.start()
        except SecguardError as error:
            if desk.meter.health.problem != str(error):
                logger.error("source {}: {}", name, error)
            desk.meter.health.problem = str(error)
            self._waiting[name] = time.monotonic() + _RETRY
            return error
        desk.meter.health.problem = ""
        self._waiting.pop(name, None)
        self._feeds[name] = feed
        return None

    async def _tick(self, committer: Committer) -> None:
        now = time.monotonic()
        for name in [name for name, due in self._waiting.items() if now >= due]:
            await self._start(name, committer)
        for name, feed in self._feeds.items():
            feed.look(now)
            self._judge(self._desks[name], now)
            self._tell_turned_away(self._desks[name], now)
        self._watch_clock(None)
        self._write(committer)

    @staticmethod
    def _tell_turned_away(desk: Desk, now: float) -> None:
        if turned := desk.meter.turned_away(now):
            desk.note("source.lost", "clients were turned away", cause="refused", clients=turned)

    @staticmethod
    def _judge(desk: Desk, now: float) -> None:
        health = desk.meter.health
        for change in desk.meter.look(now):
            if change == "silent":
                logger.warning("source {} is silent", desk.name)
                desk.note("source.lost", "the source is silent", seconds=health.silent, cause="silent")
            elif change == "returned":
                desk.note("source.returned", "the source sends again", outcome=Result.SUCCESS)
            elif change == "drifted":
                logger.warning("the clock of source {} is off by {} s", desk.name, health.offset)
                desk.note("source.drifted", "the source's clock does not agree", seconds=health.offset)
            else:
                desk.note(
                    "source.drifted", "the source's clock agrees again", outcome=Result.SUCCESS, seconds=health.offset
                )

    def _watch_clock(self, before: Status | None) -> None:
        """Record a step of this machine's clock, also one while nothing ran; receipt times are only as good as it."""
        wall, mono = self._clock.now().timestamp(), time.monotonic()
        jump = 0.0
        if self._mono:
            jump = (wall - self._wall) - (mono - self._mono)
        elif before is not None:
            jump = min(0.0, wall - parse_time(before.written).timestamp())
        self._wall, self._mono = wall, mono
        if abs(jump) > _JUMP:
            logger.warning("this machine's clock was set by {:.1f} s", jump)
            desk = next(iter(self._desks.values()))
            desk.note("clock.jumped", "this machine's clock was set", seconds=round(jump, 3))

    def _status(self, committer: Committer) -> Status:
        used = self._letters.used
        return Status(
            pid=os.getpid(),
            started=self._started,
            act=self._act,
            written=rfc3339(self._clock.now()),
            problem=committer.problem,
            letters=used,
            letters_full=self._letters.full,
            sources=[desk.meter.shown() for desk in self._desks.values()],
        )

    def _write(self, committer: Committer) -> None:
        try:
            data = msgspec.json.encode(self._status(committer))
            atomic_write(self._state / "collect.json", data + b"\n", mode=0o640, durable=False)
        except SecguardError as error:  # a full disk must not end what waits for room
            logger.error("the status cannot be written: {}", error)

    async def _end(self, committer: Committer, committing: "asyncio.Task[None]") -> None:
        """Stop the sources, record what is queued, save the positions.

        Raises:
            SecguardError: the ledger did not record all of it in time.
        """
        await asyncio.gather(*(feed.stop() for feed in self._feeds.values()), return_exceptions=True)
        for desk in self._desks.values():
            self._tell_turned_away(desk, float("inf"))
        committer.stop()
        done, _ = await asyncio.wait([committing], timeout=_DRAIN_SECONDS)
        if not done:
            committing.cancel()
            await asyncio.wait([committing])
        for feed in self._feeds.values():
            feed.close()
        self._write(committer)
        left = sum(desk.meter.health.waiting for desk in self._desks.values())
        if left:
            raise RefusedError(
                "audit.collect.unrecorded",
                f"{left} events could not be recorded: {committer.problem or 'the ledger was too slow'}",
                hint="what files and HTTP clients hold is taken in by the next run; syslog is lost",
            )
