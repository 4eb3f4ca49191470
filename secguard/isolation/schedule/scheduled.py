"""A scan of a workspace in its row of scans: is it due, was one missed, what changed, who is told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from secguard.core import Clock, Finding, Outcome, SecguardError, Verdict, judge
from secguard.isolation.schedule.alerts import Alerts, Told, codes_of, reason_of, summary
from secguard.isolation.schedule.book import Book, Entry, is_due, missed, parse_every

__all__ = ["Scheduled", "with_finding"]


def with_finding(verdict: Verdict, extra: Finding | None) -> Verdict:
    """A verdict and one finding more."""
    if extra is None:
        return verdict
    examined = [axis for axis, outcome in verdict.axes.items() if outcome is Outcome.PASS]
    return judge(
        verdict.subject,
        verdict.at,
        examined=examined,
        findings=(*verdict.findings, extra),
        default=verdict.required | {extra.axis},
        require=verdict.required if verdict.narrowed else (),
    )


@dataclass
class Scheduled:
    """One policy's scans.

    Attributes:
        policy: the policy's path; the book's key.
        every: how often (`24h`); empty: no schedule, only alerts.
        alerts: who is told.
        clock: the time.
        book: where it is remembered; None without a workspace.
        told: what became of the alerts of this scan.
    """

    policy: str
    every: str
    alerts: Alerts
    clock: Clock
    book: Book | None = None
    told: list[Told] = field(default_factory=list)
    _before: Entry | None = None
    _began: datetime | None = None
    _missed: Finding | None = None

    def begin(self) -> None:
        """Look at what was before, and note that a scan begins.

        Raises:
            SecguardError: the book is damaged, or the alerts cannot work.
        """
        self.alerts.check()
        self._began = self.clock.now()
        entry = self.book.get(self.policy) if self.book else Entry(policy=self.policy)
        self._before = msgspec.structs.replace(entry, every=self.every or entry.every)
        if self.every:
            self._missed = missed(self._before, self._interval(), self._began)

    def _interval(self) -> timedelta:
        return parse_every(self.every)

    @property
    def before(self) -> Entry:
        """What was known when this scan began."""
        assert self._before is not None
        return self._before

    def due(self) -> bool:
        """Whether a scan is due now."""
        assert self._began is not None
        return is_due(self.before, self._interval(), self._began)

    def next(self) -> datetime | None:
        """When the next scan is due; None if it is due already."""
        return None if self.due() or self.before.started is None else self.before.started + self._interval()

    def settle(self, verdict: Verdict, run: str) -> Verdict:
        """Remember a verdict, tell whom it concerns, and give it back with what was missed.

        Raises:
            SystemPartError: the book cannot be written.
        """
        whole = with_finding(verdict, self._missed)
        codes = codes_of(whole)
        reason = reason_of(self.before, whole.outcome.value, codes)
        self._tell(reason, lambda: summary(self.policy, self.before, reason, self.clock.now(), verdict=whole, run=run))
        if self.book is not None:
            self.book.put(
                msgspec.structs.replace(
                    self.before,
                    started=self._began,
                    finished=self.clock.now(),
                    # What is remembered is the scan's own answer: a scan that was missed is told once.
                    outcome=verdict.outcome.value,
                    codes=codes_of(verdict),
                    run=run,
                    failed=None,
                    error="",
                )
            )
        return whole

    def fail(self, error: SecguardError) -> None:
        """Remember and tell that a scan came to no verdict.

        Raises:
            SystemPartError: the book cannot be written.
        """
        reason = reason_of(self.before, "error", ())
        self._tell(reason, lambda: summary(self.policy, self.before, reason, self.clock.now(), error=error))
        if self.book is not None:
            self.book.put(msgspec.structs.replace(self.before, failed=self._began, error=str(error)[:300]))

    def _tell(self, reason: str, document: Callable[[], dict[str, object]]) -> None:
        if self.alerts and reason:
            self.told = self.alerts.tell(document())

    def standing(self) -> tuple[list[Finding], datetime | None]:
        """What is to be said of the schedule now, and when the next scan is due."""
        found = [self._missed] if self._missed else []
        return found, self.next() if self.every else None
