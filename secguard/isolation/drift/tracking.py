"""Leaks tracked from scan to scan: since when, until when, closed by whom and why, opened again when seen again.

A small SQLite file beside the kept scans. Acts are recorded in the ledger first (in one `turn`: `changes`, record,
`apply`): should the file be lost, the kept scans make it anew, but for what people closed, which the ledger tells.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Self

import msgspec

from secguard.core import FormatError, UsageError, rfc3339
from secguard.isolation.drift.leaks import cases_of, leaks_of, words_of
from secguard.isolation.judge.result import ScanResult
from secguard.store import open_sqlite, sqlite_failure, transaction

__all__ = ["Change", "Tracked", "Tracking"]

_SCHEMA = """\
CREATE TABLE leak (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE run (id TEXT PRIMARY KEY, at TEXT NOT NULL) STRICT;"""
_MAX_PROBES = 200
_ADDRESS = frozenset(".:")
_BY_SCAN = "scan"
_SWEPT = "swept"
"""Stands for what a sweep was seen with: hosts and ports, the address first."""


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """A leak and its history.

    Attributes:
        id: stays the same from scan to scan.
        src: source zone; empty for what is wrong in one zone.
        dst: destination zone, or the zone.
        kind: code of the finding without `isolation.`.
        detail: sets leaks of a kind apart.
        probes: what it was seen with last, in words.
        first_seen: time of the first scan that found it.
        last_seen: time of the last one.
        last_run: that scan's run ID.
        seen: how many scans found it.
        state: `open` or `closed`.
        closed_at: when it was closed last; None if never.
        closed_by: `scan`, or the user who closed it.
        case: case number under which it was closed.
        reason: why.
        reopened: how often it came back.
    """

    id: str
    src: str
    dst: str
    kind: str
    detail: str
    probes: list[str]
    first_seen: datetime
    last_seen: datetime
    last_run: str
    seen: int = 1
    state: str = "open"
    closed_at: datetime | None = None
    closed_by: str = ""
    case: str = ""
    reason: str = ""
    reopened: int = 0


class Change(msgspec.Struct, frozen=True):
    """What becomes of a leak: `opened`, `reopened`, `closed`, or `seen` (again, as before: no act)."""

    verb: str
    leak: Tracked


class Tracking:
    """The file; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Raises:
            SystemPartError: it cannot be opened.
            FormatError: it is no database.
        """
        self._path = path
        self._db = open_sqlite(path, _SCHEMA, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise sqlite_failure(error, self._path) from error

    def all(self) -> list[Tracked]:
        """Every leak ever seen, the open ones first, then by when they were last seen."""
        with self._guard(), closing(self._db.execute("SELECT body FROM leak")) as rows:
            found = [msgspec.json.decode(body, type=Tracked) for (body,) in rows]
        return sorted(found, key=lambda item: (item.state != "open", -item.last_seen.timestamp(), item.id))

    def runs(self) -> set[str]:
        """Run IDs of the scans that were taken in."""
        with self._guard():
            return {run for (run,) in self._db.execute("SELECT id FROM run").fetchall()}

    def find(self, name: str) -> Tracked:
        """A leak by its ID, or the start of it.

        Raises:
            UsageError: there is none, or several.
        """
        found = [item for item in self.all() if item.id == name] or [
            item for item in self.all() if item.id.startswith(name)
        ]
        if len(found) != 1:
            raise UsageError(
                "isolation.leak.unknown",
                f"{len(found) or 'no'} findings are called {name[:40]!r}",
                hint="secguard isolation findings lists them",
            )
        return found[0]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep other processes from changing the file until what was read here is stored: all of it, or nothing.

        Raises:
            SystemPartError: another process does not let go of the file, or it cannot be written.
        """
        if self._db.in_transaction:
            yield
        else:
            with self._guard(), transaction(self._db):
                yield

    def changes(self, result: ScanResult) -> list[Change]:
        """What a scan changes; nothing if it was taken in before.

        A leak is closed by a scan that sent again what it was seen with, left no case of the two zones without answer,
        and did not find it. Scans may come late, as two that end at once do: one from before another
        saw a leak, or found it gone, counts as seen, and neither opens nor closes it.
        """
        if result.run in self.runs():
            return []
        known = {item.id: item for item in self.all()}
        whole = {(cell.src, cell.dst) for cell in result.matrix if cell.cases and not cell.unknown}
        try:
            found = leaks_of(result)
            asked = _asked(result)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise FormatError("isolation.result.format", f"not a result: {str(error)[:120]}") from error
        made: list[Change] = []
        for name, leak in found.items():
            probes = list(leak.probes[:_MAX_PROBES])
            old = known.get(name)
            if old is None:
                new = Tracked(
                    id=name, src=leak.src, dst=leak.dst, kind=leak.kind, detail=leak.detail, probes=probes,
                    first_seen=result.at, last_seen=result.at, last_run=result.run,
                )  # fmt: skip
                made.append(Change("opened", new))
                continue
            ended = old.closed_at if old.closed_by == _BY_SCAN else None
            if result.at < max(old.last_seen, ended or old.last_seen):
                first = min(old.first_seen, result.at)
                made.append(Change("seen", msgspec.structs.replace(old, first_seen=first, seen=old.seen + 1)))
                continue
            again = old.state == "closed"
            now = msgspec.structs.replace(
                old, probes=probes, last_seen=result.at, last_run=result.run, seen=old.seen + 1, state="open",
                reopened=old.reopened + again,
            )  # fmt: skip
            made.append(Change("reopened" if again else "seen", now))
        for name, old in known.items():
            if name in found or old.state != "open" or result.at < old.last_seen:
                continue
            if (old.src, old.dst) in whole:
                words = {_SWEPT if _ADDRESS & set(word.split(" ")[0]) else word for word in old.probes}
                if not words <= asked.get((old.src, old.dst), set()):
                    continue  # a scan of fewer probes shows nothing of the others
                shut = msgspec.structs.replace(
                    old, state="closed", closed_at=result.at, closed_by=_BY_SCAN, case="", reason="not found again"
                )
                made.append(Change("closed", shut))
        return made

    def closing(self, name: str, *, by: str, at: datetime, case: str, reason: str) -> Change:
        """What closing a leak by hand changes.

        Raises:
            UsageError: there is no such leak, or it is closed already.
        """
        old = self.find(name)
        if old.state == "closed":
            raise UsageError("isolation.leak.closed", f"{old.id} was closed on {old.closed_at:%Y-%m-%d}")
        return Change(
            "closed",
            msgspec.structs.replace(old, state="closed", closed_at=at, closed_by=by, case=case, reason=reason),
        )

    def apply(self, changes: Sequence[Change], result: ScanResult | None = None) -> None:
        """Store changes, in one step; with the scan that they come from."""
        rows = [(change.leak.id, msgspec.json.encode(change.leak).decode()) for change in changes]
        with self.turn(), self._guard():
            self._db.executemany("INSERT OR REPLACE INTO leak VALUES (?, ?)", rows)
            if result is not None:
                self._db.execute("INSERT OR IGNORE INTO run VALUES (?, ?)", (result.run, rfc3339(result.at)))


def _asked(result: ScanResult) -> dict[tuple[str, str], set[str]]:
    """What a scan sent from zone to zone, in the words of leaks."""
    pairs: dict[tuple[str, str], set[str]] = {}
    for case in cases_of(result):
        pairs.setdefault((case[0], case[1]), set()).update(words_of([case]))
    for sweep in result.sweeps:
        pairs.setdefault((str(sweep["src"]), str(sweep["dst"])), set()).add(_SWEPT)
    return pairs
