"""Reconcile: compute every index row again from the ledger, compare both ways, and name what differs."""

import threading

import msgspec

from secguard.audit.index.index import Damage, Index, Log, batches, body_of, catch_up, check_origin
from secguard.audit.index.rows import COLUMNS, Row, rows_of
from secguard.core import Axis, Clock, Finding, Outcome, Progress, Throttle, Verdict, finding, judge, silent
from secguard.events import Actor, Event, Result, decode_stored, new_event_id

__all__ = ["MAX_NAMED", "Reconciled", "compare", "reconcile"]

MAX_NAMED = 1000
"""Findings that are listed; the counts are complete."""


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
    """

    verdict: Verdict
    size: int
    position: int
    missing: int
    extra: int
    altered: int
    recorded: int


class _Tally:
    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts = {"missing": 0, "extra": 0, "altered": 0}

    def note(self, what: str, row: Row, columns: str = "") -> None:
        self.counts[what] += 1
        if len(self.findings) < MAX_NAMED:
            code = f"audit.index.{what}"
            self.findings.append(finding(code, f"event {row.seq}", index=row.seq, id=row.id, columns=columns))


def _compare_batch(tally: _Tally, expected: list[Row], actual: list[Row]) -> None:
    if expected == actual:
        return
    there: dict[int, Row] = {}
    for row in actual:
        if row.seq in there:  # only a server can hold two
            tally.note("extra", row)
        else:
            there[row.seq] = row
    for row in expected:
        found = there.pop(row.seq, None)
        # Words without their event are left when somebody deletes the row alone: the event cannot be found any more.
        if found is None or (not found.id and row.id):
            tally.note("missing", row)
        elif found != row:
            columns = [name for name, a, b in zip(COLUMNS, row, found, strict=True) if a != b]
            tally.note("altered", row, ", ".join(columns))
    for row in there.values():
        tally.note("extra", row)


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


def compare(index: Index, log: Log, progress: Progress = silent) -> tuple[list[Finding], dict[str, int], int, int]:
    """Compare an index with its log; records nothing.

    Returns:
        The findings, the counts of missing, extra and altered rows, the index's position and the ledger's size.

    Raises:
        RefusedError: the index belongs to another log.
    """
    check_origin(index, log)
    tally = _Tally()
    progress = Throttle(progress)
    position, size = index.position, log.size
    stop = min(position, size)
    checking = _Checking(index)
    for first, bodies in batches(log, 0, stop):
        after = first + len(bodies)
        _compare_batch(tally, rows_of(first, bodies), index.rows(first, after))
        progress(after, stop, "events")
    damage = checking.result()
    for row in index.stray(stop):
        tally.note("extra", row)
    named = {item.data["index"] for item in tally.findings}
    for place in damage.seqs:
        if place not in named:
            body = body_of(log, place) if 0 <= place < stop else None
            tally.note("altered", Row.blank(place, decode_stored(body).id if body else ""), "word lists")
    findings = tally.findings
    findings += [finding("audit.index.damaged", problem=problem) for problem in damage.problems]
    if position < size:
        findings.append(finding("audit.index.behind", position=position, size=size, behind=size - position))
    if position > size:
        findings.append(finding("audit.index.ahead", position=position, size=size))
    return findings, tally.counts, position, size


def reconcile(index: Index, log: Log, clock: Clock, actor: Actor, progress: Progress = silent) -> Reconciled:
    """Compare, judge, record `audit.reconciled`, and hand the result out.

    An index of the right rows that is behind is no alteration: the outcome is unknown, and the finding says how far.

    Raises:
        RefusedError: the comparison could not be recorded.
    """
    findings, counts, position, size = compare(index, log, progress)
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
        data={"position": position, "size": size, **counts},
    )
    recorded = log.record([event])[0].index
    if verdict.outcome is Outcome.PASS:
        catch_up(index, log)
    return Reconciled(verdict, size, position, counts["missing"], counts["extra"], counts["altered"], recorded)
