"""`secguard demo`: the main job end to end, with progress and a table of what was proven."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.core.progress import Progress
from secguard.core.verdict import Outcome

if TYPE_CHECKING:
    from secguard.report import Text
    from secguard.workspace.demo import Step

__all__ = ["demo"]

_NOT_RUN = {"en": "not run", "zh": "未运行"}


class _Teller:
    """Tells each step on stderr as it goes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._number = 0

    def begins(self, name: "Text") -> Progress:
        self._number += 1
        text = name.zh if self._context.lang == "zh" else name.en
        self._say(f"{self._number}. {text} ...")
        return self._context.progress("   ")

    def ended(self, step: "Step") -> None:
        evidence = step.evidence.zh if self._context.lang == "zh" else step.evidence.en
        mark = {Outcome.PASS: "✓", Outcome.FAIL: "✗"}.get(step.outcome or Outcome.UNKNOWN, "-")
        self._say(f"   {mark} {evidence} ({step.seconds:.1f} s)")

    def _say(self, text: str) -> None:
        if not self._context.quiet and not self._context.json:
            click.echo(text, err=True)


@command("demo")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="demo",
    show_default=True,
    help="Where the demo makes its fresh folder.",
)
@click.option("--video", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="An H.264 MP4 of yours.")
@click.option(
    "--events",
    type=click.IntRange(100, 1_000_000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="How many access events are imported.",
)
def demo(context: Context, folder: Path, video: Path | None, events: int) -> Result:
    """Run the main job end to end in a fresh workspace, and write one report of what was proven."""
    from secguard.workspace.demo import run_demo

    done = run_demo(folder, video=video, events=events, listener=_Teller(context))
    zh = context.lang == "zh"
    rows = [
        (
            step.name.zh if zh else step.name.en,
            step.outcome or _NOT_RUN[context.lang],
            step.evidence.zh if zh else step.evidence.en,
        )
        for step in done.steps
    ]
    columns = ("证明了什么", "结论", "证据") if zh else ("what was proven", "result", "evidence")
    return Result(
        outcome=None if done.outcome is Outcome.UNKNOWN else done.outcome,
        data={"steps": done.steps, "workspace": done.workspace, "report": done.report, "seconds": done.seconds},
        tables=[Table("", columns, rows)],
        lines=[f"workspace: {done.workspace}", f"report: {done.report}"],
    )
