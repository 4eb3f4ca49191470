"""The book of scheduled scans: one small file a policy in the workspace, with what the last scan said and when."""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from secguard.core import Finding, FormatError, RefusedError, UsageError, finding, rfc3339
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.limits import MAX_CONFIG, read_bounded

__all__ = ["Book", "Entry", "is_due", "is_overdue", "missed", "parse_every"]

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_EVERY = re.compile(r"^([1-9][0-9]{0,4})([mhd])$")
# A timer fires with some jitter: a scan that is due within a tenth of the interval is due now.
_EARLY = 0.1
# A machine that was off for an hour is no missed scan.
_LATE = 0.5
_AHEAD = timedelta(minutes=5)
_MAX_CODES = 200


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the book knows of one policy.

    Attributes:
        policy: its path, as it was scanned.
        every: how often it is to be scanned (`24h`); empty if that is not known.
        started: when the last scan that came to a verdict began.
        finished: when it ended.
        outcome: its verdict; empty if there was none yet.
        codes: what it found, each code with the places it names; so that a change shows.
        run: its run ID.
        failed: when the last attempt failed that came to no verdict; None once one has.
        error: why.
    """

    policy: str
    every: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    outcome: str = ""
    codes: tuple[str, ...] = ()
    run: str = ""
    failed: datetime | None = None
    error: str = ""
    v: int = 1


def parse_every(text: str) -> timedelta:
    """The interval of `30m`, `24h` or `7d`.

    Raises:
        UsageError: it is none.
    """
    match = _EVERY.match(text)
    if match is None:
        raise UsageError("isolation.schedule.every", f"not an interval: {text[:20]!r}", hint="write 30m, 24h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def is_due(entry: Entry, every: timedelta, now: datetime) -> bool:
    """Whether a scan is due: the first one, or once the interval has passed; a start in the future counts for none."""
    if entry.started is None or entry.started > now + _AHEAD:
        return True
    return now - entry.started >= every * (1 - _EARLY)


def is_overdue(started: datetime, every: timedelta, now: datetime) -> bool:
    """Whether the scan after one that began at `started` is missing: late by half an interval, or more."""
    return (now - started) / every >= 1 + _LATE


def missed(entry: Entry, every: timedelta, now: datetime) -> Finding | None:
    """`isolation.schedule.missed` if a scan that was due did not run, or came to no verdict."""
    if entry.started is None:
        if entry.failed is None:
            return None
        return finding("isolation.schedule.missed", entry.policy, last="-", every=entry.every, count=1)
    if not is_overdue(entry.started, every, now):
        return None
    count = max(1, int((now - entry.started) / every))
    return finding(
        "isolation.schedule.missed", entry.policy, last=rfc3339(entry.started), every=entry.every, count=count
    )


class Book:
    """The entries of a workspace.

    Args:
        folder: `state/isolation/schedule`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, policy: str) -> Path:
        return self._folder / f"{hashlib.sha256(policy.encode()).hexdigest()[:16]}.json"

    def get(self, policy: str) -> Entry:
        """What is known of a policy; an empty entry if it was never scanned.

        Raises:
            FormatError: the entry is damaged.
        """
        path = self._path(policy)
        return self._read(path) if path.exists() else Entry(policy=policy)

    @staticmethod
    def _read(path: Path) -> Entry:
        try:
            return msgspec.json.decode(read_bounded(path, MAX_CONFIG), type=Entry)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise FormatError(
                "isolation.schedule.book",
                "the record of the last scan is damaged",
                hint="remove the file; the next scan writes it anew",
                where=str(path),
            ) from None

    def entries(self) -> Sequence[Entry]:
        """All entries, by policy.

        Raises:
            FormatError: one is damaged.
        """
        if not self._folder.is_dir():
            return []
        return sorted((self._read(path) for path in self._folder.glob("*.json")), key=lambda item: item.policy)

    def put(self, entry: Entry) -> None:
        """Write an entry.

        Raises:
            SystemPartError: it cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise translate_os_error(error, self._folder) from error
        kept = msgspec.structs.replace(entry, codes=entry.codes[:_MAX_CODES])
        atomic_write(self._path(entry.policy), msgspec.json.encode(kept), mode=0o600)

    @contextmanager
    def hold(self, policy: str) -> Iterator[None]:
        """Keep others from scanning by the same policy meanwhile.

        Raises:
            RefusedError: `isolation.schedule.busy`: a scan is under way.
            SystemPartError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._path(policy).with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise translate_os_error(error, self._folder) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RefusedError(
                    "isolation.schedule.busy", "a scan by this policy is under way", hint="wait until it has ended"
                ) from None
            yield
        finally:
            os.close(lock)
