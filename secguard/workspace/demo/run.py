"""The demo's frame: a fresh workspace, the steps in order, each timed and shown, and one report at the end."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from secguard.core.clock import Clock, SystemClock
from secguard.core.errors import SecguardError
from secguard.core.progress import Progress, silent
from secguard.core.verdict import Outcome
from secguard.report import Text
from secguard.workspace.demo.report import write_demo_report
from secguard.workspace.demo.steps import STEPS, Shown, Stage
from secguard.workspace.site import create_site
from secguard.workspace.workspace import Workspace

__all__ = ["DemoResult", "Step", "run_demo"]


class Step(msgspec.Struct, frozen=True):
    """One thing that was to be proven.

    Attributes:
        name: what is claimed.
        outcome: pass: shown; fail: not so; None: the step did not run.
        evidence: what was seen.
        seconds: how long it took.
    """

    name: Text
    outcome: Outcome | None
    evidence: Text
    seconds: float


class DemoResult(msgspec.Struct, frozen=True):
    """What the demo did: its steps, the workspace it leaves, and the report."""

    steps: tuple[Step, ...]
    workspace: Path
    report: Path
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """Pass when every step that ran was shown; unknown when one could not run; else fail."""
        outcomes = [step.outcome for step in self.steps]
        if Outcome.FAIL in outcomes:
            return Outcome.FAIL
        return Outcome.UNKNOWN if None in outcomes else Outcome.PASS


class Listener(Protocol):
    """Told of each step before and after it runs."""

    def begins(self, name: Text) -> Progress:
        """A step begins; returns where its progress goes."""
        ...

    def ended(self, step: Step) -> None:
        """A step ended."""
        ...


class _Quiet:
    def begins(self, name: Text) -> Progress:
        del name
        return silent

    def ended(self, step: Step) -> None:
        del step


def _run(part: Callable[[Stage, Progress], Shown], stage: Stage, progress: Progress) -> Shown:
    try:
        return part(stage, progress)
    except SecguardError as error:
        text = f"{error}" + (f" ({error.hint})" if error.hint else "")
        return Shown(Outcome.FAIL, Text(text, text))


def run_demo(
    folder: Path,
    *,
    video: Path | None = None,
    events: int = 10_000,
    clock: Clock | None = None,
    listener: Listener | None = None,
) -> DemoResult:
    """Run the main job end to end in a fresh workspace below `folder`.

    Args:
        folder: gets a new folder named by the time; nothing else is touched.
        video: an H.264 MP4 of yours; by default a clip is made.
        events: access events to import.
        clock: where the time comes from.
        listener: is told of each step.

    Raises:
        SecguardError: the workspace could not be made.
    """
    clock, listener = clock or SystemClock(), listener or _Quiet()
    began = time.monotonic()
    here = _fresh(folder, clock.now())
    create_site(here / "workspace", area="320116", name="Demo City", anchor=here / "anchor")
    steps: list[Step] = []
    with Workspace.find(here / "workspace", clock) as workspace:
        stage = Stage(workspace, here, video, events)
        for name, part in STEPS:
            start = time.monotonic()
            shown = _run(part, stage, listener.begins(name))
            step = Step(name, shown.outcome, shown.evidence, time.monotonic() - start)
            steps.append(step)
            listener.ended(step)
        report = here / "report.html"
        seconds = time.monotonic() - began
        write_demo_report(report, [(s.name, s.outcome, s.evidence) for s in steps], stage, seconds)
    return DemoResult(tuple(steps), here / "workspace", report, seconds)


def _fresh(folder: Path, now: datetime) -> Path:
    stem = now.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        here = folder / f"{stem}{suffix}"
        try:
            here.mkdir(parents=True)
        except FileExistsError:
            continue
        return here.resolve()
    raise FileExistsError(folder)
