"""Reconcile: compute every index row again from the ledger, compare both ways, and name what differs."""

import threading
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from secguard.audit.index.differences import Difference, differences
from secguard.audit.index.following import batches, catch_up, check_origin
from secguard.audit.index.helpers import MANY, in_any_order
from secguard.audit.index.index import Damage, Index, Log, body_of, missing_bodies
from secguard.audit.index.rows import Row, rows_of
from secguard.audit.index.soundness import MISCOUNTED, PARTS
from secguard.core import (
    Axis,
    Clock,
    Finding,
    Outcome,
    Progress,
    Throttle,
    Verdict,
    finding,
    judge,
    silent,
)
from secguard.events import Actor, Event, Result, decode_stored, new_event_id
from secguard.ledger.missing import Missing

if TYPE_CHECKING:
    from secguard.ledger.witness import Compared

__all__ = ["MAX_NAMED", "Reconciled", "compare", "reconcile"]

MAX_NAMED = 1000
"""Findings that are listed; the counts are complete."""
_RANGE = 4096
"""Events that a helper compares in one go."""


class Reconciled(msgspec.Struct, frozen=True):
    """What a comparison showed.

    Attributes:
        verdict: axes integrity (altered, extra, damaged) and completeness (missing, behind).
        size: events in the ledger.
        position: events the index claims to know.
        missing: rows the index lacks.
        extra: rows that no event in the ledger explains.
        altered: rows that differ from their event, or that its word lists do not hold.
        recorded: ledger index of the `audit.reconciled` event.
        witnesses: how many events each witness that answered has seen.
    """

    verdict: Verdict
    size: int
    position: int
    missing: int
    extra: int
    altered: int
    recorded: int
    witnesses: dict[str, int] = {}


class _Tally:
    def __init__(self, index: Index, log: Log, stop: int) -> None:
        self._log = log
        self._stop = stop
        self._refused = index.refused
        self.findings: list[Finding] = []
        self.counts = {"missing": 0, "extra": 0, "altered": 0}

    def note(self, found: Iterable[Difference]) -> None:
        for item in found:
            self.counts[item.what] += 1
            if len(self.findings) < MAX_NAMED:
                self.findings.append(self.finding(item))

    def excuse(self, gone: Missing, index: Index) -> None:
        """Rows of events whose bodies somebody deleted by hand are no forged ones: they are what is left of them."""
        for first, last in gone.entries:
            self.counts["extra"] -= len(index.rows(first, min(last + 1, self._stop)))
        rest = [item for item in self.findings if item.code != "audit.index.kept" or not gone.holds(item.data["index"])]
        self.findings = [*gone.findings[:MAX_NAMED], *rest]

    def finding(self, item: Difference) -> Finding:
        where = f"event {item.seq}"
        if item.what == "missing" and item.seq in self._refused:
            return finding("audit.index.refused", where, count=1, index=item.seq, id=item.id)
        if item.what == "extra" and 0 <= item.seq < self._stop and body_of(self._log, item.seq) is None:
            return finding("audit.index.kept", where, index=item.seq, id=item.id)
        return finding(f"audit.index.{item.what}", where, index=item.seq, id=item.id, columns=item.columns)


class _Checking:
    """The check of the index's structure, meanwhile: SQLite works without the interpreter's lock.

    A daemon thread: SQLite checks the full-text lists in one go, and an interrupted comparison must not wait for it.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._damage: Damage | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._damage = self._index.damage()
        except Exception as error:  # noqa: BLE001 - raised again where the result is asked for
            self._error = error

    def result(self) -> Damage:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._damage is not None
        return self._damage


def _compare_beside(tally: _Tally, root: str, path: str, stop: int, progress: Progress) -> Damage:
    """Have helpers compare ranges and check the structure, on all processors."""
    checks = [("check", path, part) for part in PARTS]  # the longest first
    ranges = [("compare", root, path, first, min(first + _RANGE, stop)) for first in range(0, stop, _RANGE)]
    damages: dict[str, Damage] = {}
    found: dict[int, list[Difference]] = {}
    done = 0
    with closing(in_any_order([*checks, *ranges])) as answers:
        for task, answer in answers:
            if task[0] == "check":
                damages[task[2]] = Damage(*answer)
                continue
            *_, first, after = task
            counts, named = answer
            for what, count in counts.items():
                tally.counts[what] += count
            found[first] = [Difference(*values) for values in named]
            done += after - first
            progress(done, stop, "events")
    tally.findings += [tally.finding(item) for _, items in sorted(found.items()) for item in items][:MAX_NAMED]
    parts = [damages[part] for part in PARTS]
    return Damage([text for one in parts for text in one.problems], [place for one in parts for place in one.seqs])


def _strays(index: Index, log: Log, position: int, size: int) -> list[Difference]:
    """Rows beyond the position that was compared to, but for those that another process has indexed meanwhile."""
    reach = index.position if position <= size else position
    rows = index.stray(min(max(reach, position), max(size, log.size)))
    # A file's rows and position move together; a server's documents are there before the position moves.
    still = index.file is not None and index.position == position
    return [Difference("extra", row.seq, row.id) for row in rows if still or not _explained(row, index, log, position)]


def _explained(row: Row, index: Index, log: Log, position: int) -> bool:
    body = body_of(log, row.seq) if position <= row.seq < log.size else None
    return body is not None and rows_of(row.seq, [body], ecs=index.ecs) == [row]


def compare(index: Index, log: Log, progress: Progress = silent) -> tuple[list[Finding], dict[str, int], int, int]:
    """Compare an index with its log; records nothing.

    Returns:
        The findings, the counts of missing, extra and altered rows, the index's position and the ledger's size.

    Raises:
        RefusedError: the index belongs to another log.
    """
    check_origin(index, log)
    progress = Throttle(progress)
    generation, position, size = index.generation, index.position, log.size
    stop = min(position, size)
    tally = _Tally(index, log, stop)
    root = getattr(log, "root", None)
    if stop >= MANY and index.file is not None and root is not None:
        damage = _compare_beside(tally, str(root), str(index.file), stop, progress)
    else:
        checking = _Checking(index)
        for first, bodies in batches(log, 0, stop):
            after = first + len(bodies)
            tally.note(differences(rows_of(first, bodies, ecs=index.ecs), index.rows(first, after)))
            progress(after, stop, "events")
        damage = checking.result()
    tally.note(_strays(index, log, position, size))
    gone = missing_bodies(log)
    now, wrong = index.position, tally.findings or damage.problems or damage.seqs
    if now < position or (wrong and index.generation != generation):  # what was not there says nothing
        findings = [*gone.findings[:MAX_NAMED], finding("audit.index.rebuilt", position=now, size=size)]
        return findings, dict.fromkeys(tally.counts, 0), now, size
    named = {item.data["index"] for item in tally.findings}
    for place in sorted(set(damage.seqs) - named):
        body = body_of(log, place) if 0 <= place < stop else None
        tally.note([Difference("altered", place, decode_stored(body).id if body else "", "word lists")])
    tally.excuse(gone, index)
    findings = tally.findings
    problems = (text for text in damage.problems if not (any(tally.counts.values()) and text.startswith(MISCOUNTED)))
    findings += [finding("audit.index.damaged", problem=problem) for problem in problems]
    if position < size:
        findings.append(finding("audit.index.behind", position=position, size=size, behind=size - position))
    if position > size:
        findings.append(finding("audit.index.ahead", position=position, size=size))
    return findings, tally.counts, position, size


def reconcile(
    index: Index,
    log: Log,
    clock: Clock,
    actor: Actor,
    progress: Progress = silent,
    *,
    witnessed: "Compared | None" = None,
) -> Reconciled:
    """Compare, judge, record `audit.reconciled`, and hand the result out.

    Args:
        index: is compared with the ledger, both ways.
        log: the ledger.
        clock: the time of the verdict.
        actor: who asks.
        progress: of the comparison.
        witnessed: how the ledger compares with what its witnesses remember (`secguard.ledger.witness.compare`).

    An index of the right rows that is behind is no alteration: the outcome is unknown, and the finding says how far.

    Raises:
        RefusedError: the comparison could not be recorded.
    """
    findings, counts, position, size = compare(index, log, progress)
    witnesses = {seen.witness: seen.checkpoint.size for seen in witnessed.seen} if witnessed else {}
    findings += witnessed.findings if witnessed else ()
    verdict = judge(
        f"index of {log.origin}",
        clock.now(),
        examined=(Axis.INTEGRITY, Axis.COMPLETENESS),
        findings=findings,
        default=(Axis.INTEGRITY, Axis.COMPLETENESS),
    )
    results = {Outcome.PASS: Result.SUCCESS, Outcome.FAIL: Result.FAILURE, Outcome.UNKNOWN: Result.UNKNOWN}
    event = Event(
        id=new_event_id(),
        kind="audit.reconciled",
        time=clock.now(),
        actor=actor,
        subject=log.origin,
        outcome=results[verdict.outcome],
        data={"position": position, "size": size, **counts, **({"witnesses": witnesses} if witnesses else {})},
    )
    recorded = log.record([event])[0].index
    if verdict.outcome is Outcome.PASS:
        catch_up(index, log)
    missing, extra, altered = (counts[name] for name in ("missing", "extra", "altered"))
    return Reconciled(verdict, size, position, missing, extra, altered, recorded, witnesses)
