"""What a report shows: the accesses of a camera, a person or a period, read from the ledger and recorded as asked for.

The index finds; every event is read from the ledger and held against the question. What is recorded before anything is
shown: who asked for the report, about what, and how many events it has.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo

import msgspec

from secguard.audit.index.following import catch_up, check_origin
from secguard.audit.index.index import Index, Log, body_of, missing_bodies
from secguard.audit.index.rows import row_of
from secguard.audit.query.parser import parse
from secguard.audit.query.query import And, Equals, Node, Range, matches
from secguard.audit.search.answer import checkpoint_of, unreadable
from secguard.core import Clock, Finding, Progress, finding, silent
from secguard.core.errors import FormatError, UsageError
from secguard.events import Actor, Event, Result, decode_stored, new_event_id
from secguard.events.access import access_of

__all__ = ["CLASSES", "Access", "Accesses", "Scope", "gather", "rows_as_json"]

CLASSES: dict[str, tuple[str, ...]] = {
    "watched": ("video.viewed", "video.played"),
    "searched": ("video.queried",),
    "taken": (
        "video.downloaded",
        "video.exported",
        "video.shared",
        "clip.made",
        "evidence.exported",
        "key.released",
    ),
    "deleted": ("video.deleted",),
    "controlled": ("camera.controlled",),
}
"""Kinds of act by what they mean for the person on the picture."""
_CLASS_OF = {kind: name for name, kinds in CLASSES.items() for kind in kinds}
_JUSTIFIED = frozenset({"watched", "searched", "taken", "deleted"})
_PAGE = 1000
_PERIODS = "write 2026, 2026-10, 2026-10-07, or two of them: 2026-01..2026-06-30, the earlier one first"
_MAX_FINDINGS = 1000
MAX_ACCESSES = 200_000
"""Accesses of one report; a longer one is refused: a shorter period makes several."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a report is about; all that is given must fit.

    Attributes:
        camera: GB/T 28181 ID.
        actor: the person's name at the source.
        period: `2026`, `2026-10`, `2026-10-07`, or two of them as `A..B`.
        case: case number.
        query: further conditions, in the language of `audit search`.
        zone: of dates and days.
    """

    camera: str = ""
    actor: str = ""
    period: str = ""
    case: str = ""
    query: str = ""
    zone: tzinfo = UTC

    def text(self) -> str:
        """The question, in the language of `audit search`.

        Raises:
            UsageError: nothing is asked for.
        """
        return " AND ".join(self._parts())

    def node(self, now: datetime) -> Node:
        """The question, read part by part: no part reaches into its neighbours.

        Raises:
            UsageError: nothing is asked for, or a part is not valid.
        """
        parse(self.query, now=now, zone=self.zone)  # without its parentheses: it must be whole
        texts = self._parts()
        parts = tuple(parse(part, now=now, zone=self.zone) for part in texts)
        for part in (node for text, node in zip(texts, parts, strict=True) if text.startswith("time:")):
            if isinstance(part, Range) and part.low is not None and part.high is not None and part.low >= part.high:
                raise UsageError("audit.report.period", f"a period without a day: {self.period[:60]}", hint=_PERIODS)
        return And(parts)

    def _parts(self) -> list[str]:
        parts = []
        if self.camera:
            parts.append(f"(subject:{_quoted(self.camera)} OR {_quoted(self.camera)})")
        parts += [f"{name}:{_quoted(value)}" for name, value in (("actor", self.actor), ("case", self.case)) if value]
        if self.period:
            parts.append(_time(self.period))
        if self.query.strip():
            parts.append(f"({self.query})")
        if not parts:
            raise UsageError(
                "audit.report.scope",
                "a report on nothing",
                hint="give --camera, --actor, --period, --of-case or --query",
            )
        return [*parts, f"kind:({' OR '.join(_CLASS_OF)})"]


def _time(period: str) -> str:
    """A period as a term. Each end is one word, so that nothing else can be asked with it."""
    start, dots, end = (part.strip() for part in period.strip().partition(".."))
    if any(not re.fullmatch(r"[^\s()\[\]{}\"]+", part) for part in ((start, end) if dots else (start,))):
        raise UsageError("audit.report.period", f"not a period: {period[:60]!r}", hint=_PERIODS)
    return f"time:[{start} TO {end}]" if dots else f"time:{start}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class Access:
    """One access.

    Attributes:
        index: its place in the ledger.
        event: as recorded.
        group: key of `CLASSES`.
        cameras: the cameras it was to.
        start: begin of the recorded time that was watched or taken; None if the source does not say.
        end: its end.
        recipient: who got it.
        files: names of what was handed out.
        missing: what justifies it and is not there: `case`, `approver`.
    """

    index: int
    event: Event
    group: str
    cameras: tuple[str, ...]
    start: datetime | None
    end: datetime | None
    recipient: str
    files: tuple[str, ...]
    missing: tuple[str, ...]


def _access(index: int, event: Event) -> Access:
    group = _CLASS_OF[event.kind]
    cameras: tuple[str, ...] = (event.subject,) if event.subject else ()
    start, end, recipient, files = None, None, "", tuple[str, ...]()
    try:
        data = access_of(event.data)
    except FormatError:
        pass  # recorded before the vocabulary was held to it, or by another room
    else:
        named = tuple(dict.fromkeys(name for name in (data.camera, *data.cameras) if name))
        cameras = named or cameras
        start, end, recipient = data.start, data.end, data.recipient
        files = tuple(file.name or (file.sha256 or "")[:16] for file in data.files)
    asked = group in _JUSTIFIED and event.outcome is Result.SUCCESS
    lacking = tuple(name for name in ("case", "approver") if asked and not getattr(event, name).strip())
    return Access(index, event, group, cameras, start, end, recipient, files, lacking)


@dataclass(frozen=True, slots=True)
class Accesses:
    """A report's contents.

    Attributes:
        scope: what was asked.
        rows: all accesses, oldest first.
        size: events in the ledger.
        checkpoint: origin, size and root of the last signed checkpoint; None before the first.
        pruned: events deleted by policy, in the whole ledger, as its records count them.
        findings: why the report may not be complete.
        recorded: ledger index of the `audit.reported` event.
        made: when.
    """

    scope: Scope
    rows: Sequence[Access]
    size: int
    checkpoint: dict[str, str | int] | None
    pruned: int
    findings: Sequence[Finding]
    recorded: int
    made: datetime

    @property
    def exceptions(self) -> list[Access]:
        """Accesses without a case number or an approver."""
        return [row for row in self.rows if row.missing]

    def by_kind(self) -> list[tuple[str, int]]:
        """Accesses by kind, the most frequent first."""
        return Counter(row.event.kind for row in self.rows).most_common()

    def by_actor(self) -> dict[str, Counter[str]]:
        """By person: how many accesses of each class, and `missing`; the busiest first."""
        found: dict[str, Counter[str]] = {}
        for row in self.rows:
            counts = found.setdefault(row.event.actor.name, Counter())
            counts[row.group] += 1
            counts["missing"] += bool(row.missing)
        total = {name: sum(counts[group] for group in CLASSES) for name, counts in found.items()}
        return dict(sorted(found.items(), key=lambda item: (-total[item[0]], item[0])))

    def by_camera(self) -> list[tuple[str, int]]:
        """Accesses by camera, the most frequent first."""
        return Counter(camera for row in self.rows for camera in row.cameras).most_common()

    def by_day(self) -> dict[date, Counter[str]]:
        """Accesses of each class by day, in the scope's zone, in order; days without any between others are in it."""
        found: dict[date, Counter[str]] = {}
        for row in self.rows:
            found.setdefault(row.event.time.astimezone(self.scope.zone).date(), Counter())[row.group] += 1
        if not found:
            return {}
        first, last = min(found), max(found)
        if last.toordinal() - first.toordinal() <= _LONGEST:
            for number in range(first.toordinal(), last.toordinal()):
                found.setdefault(date.fromordinal(number), Counter())
        return dict(sorted(found.items()))


_LONGEST = 800
"""Days up to which those without an access are shown."""


def _pruned(index: Index, log: Log) -> int:
    """How many events the ledger's records say were deleted."""
    count = 0
    for page in index.walk(Equals("kind", "audit.pruned"), size=_PAGE):
        for seq in page.seqs:
            body = body_of(log, seq)
            value = decode_stored(body).data.get("count") if body is not None else None
            count += value if isinstance(value, int) else 0
    return count


def gather(
    scope: Scope,
    index: Index,
    log: Log,
    clock: Clock,
    actor: Actor,
    *,
    case: str = "",
    reason: str = "",
    progress: Progress = silent,
) -> Accesses:
    """Find the accesses, and record that they were asked for.

    Args:
        scope: which.
        index: finds; brought up to date first.
        log: answers, and records the report.
        clock: now.
        actor: who asks.
        case: case number of the report itself.
        reason: its purpose.
        progress: of indexing.

    Raises:
        UsageError: nothing is asked for, a query is not valid, or there are more than 200,000 accesses.
        RefusedError: the index belongs to another log, or the report could not be recorded.
    """
    text = scope.text()
    node = scope.node(clock.now())
    check_origin(index, log)
    catch_up(index, log, progress)
    size, missing = log.size, missing_bodies(log)
    findings = list(missing.findings[:_MAX_FINDINGS])
    rows: list[Access] = []
    position = size
    for page in index.walk(node, size=_PAGE):
        position = min(position, page.position)
        if page.total > MAX_ACCESSES:
            raise UsageError(
                "audit.report.length",
                f"{page.total} accesses; a report has at most {MAX_ACCESSES}",
                hint="make several of shorter periods",
            )
        for seq in sorted(page.seqs):
            body = body_of(log, seq) if 0 <= seq < size else None
            if body is None and 0 <= seq < size:
                findings += () if missing.holds(seq) else [unreadable(seq, missing)]  # those stand there already
                continue
            if body is None or not matches(node, row_of(seq, body)):
                why = "a report found it that it does not match"
                name = decode_stored(body).id if body else ""
                findings.append(finding("audit.index.altered", f"event {seq}", index=seq, id=name, columns=why))
                continue
            access = _access(seq, decode_stored(body))
            if not scope.camera or scope.camera in (access.event.subject, *access.cameras):
                rows.append(access)
    if position < size:
        behind = size - position
        findings.append(finding("audit.index.behind", position=position, size=size, behind=behind))
    rows.sort(key=lambda row: (row.event.time, row.index))
    pruned, checkpoint = _pruned(index, log), checkpoint_of(log)
    event = Event(
        id=new_event_id(),
        kind="audit.reported",
        time=clock.now(),
        actor=actor,
        subject=scope.camera,
        case=case,
        reason=reason,
        data={"query": text, "total": len(rows), "size": size, "exceptions": sum(bool(row.missing) for row in rows)},
    )
    recorded = log.record([event])[0].index
    catch_up(index, log)
    return Accesses(scope, rows, size, checkpoint, pruned, tuple(findings), recorded, clock.now())


def rows_as_json(found: Accesses) -> Iterator[dict[str, object]]:
    """The accesses as JSON values, for machines."""
    for row in found.rows:
        yield {
            "ledger_index": row.index,
            "class": row.group,
            "cameras": list(row.cameras),
            "start": row.start,
            "end": row.end,
            "recipient": row.recipient,
            "files": list(row.files),
            "missing": list(row.missing),
            **msgspec.to_builtins(row.event),
        }
