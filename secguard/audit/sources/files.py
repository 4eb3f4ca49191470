"""The source that follows files."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from secguard.audit.sources.content import Chunk, Line
from secguard.audit.sources.feeds import Desk
from secguard.audit.sources.intake import Delivery
from secguard.audit.sources.reading import MAX_RECORD
from secguard.audit.sources.settings import FileSource
from secguard.audit.sources.tail import Tail, check_readable
from secguard.core import FormatError, SecguardError

__all__ = ["FileFeed"]

_SCAN = 0.25
_SAVE = 1.0
_LINES = 1024


class FileFeed:
    """Follows the files of a source.

    Args:
        desk: takes the lines.
        settings: which files.
        root: what relative paths begin at.
        state: keeps the positions.
    """

    def __init__(self, desk: Desk, settings: FileSource, root: Path, state: Path) -> None:
        self._desk = desk
        self._settings = settings
        self._patterns = [root / path for path in settings.paths]
        self._state = state
        self._tail: Tail | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._saved = 0.0
        self._problem = ""

    async def start(self) -> None:
        """Find the files.

        Raises:
            SecguardError: a folder is missing, or the positions are damaged.
        """
        check_readable(self._patterns)
        self._tail = Tail(self._patterns, self._state, MAX_RECORD, from_end=self._settings.start == "end")
        self._desk.meter.health.places = self._tail.paths
        self._task = asyncio.create_task(self._run(self._tail))

    def look(self, now: float) -> None:
        """Measure what is behind; say when the task has died."""
        del now
        health = self._desk.meter.health
        if self._tail is not None:
            health.behind, health.places = self._tail.behind, self._tail.paths
            health.problem = self._problem or self._tail.problem
        if self._task is not None and self._task.done() and not self._stopping.is_set():
            self._task.result()  # raises what ended it

    async def stop(self) -> None:
        """Read no more; the next run goes on where this one ends."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    def close(self) -> None:
        """Save the positions; after everything is settled."""
        if self._tail is not None:
            with contextlib.suppress(SecguardError):  # then lines are read again, and found to be there
                self._tail.close()

    async def _run(self, tail: Tail) -> None:
        while not self._stopping.is_set():
            try:
                tail.scan(time.monotonic())
                if time.monotonic() - self._saved > _SAVE:
                    tail.save()
                    self._saved = time.monotonic()
                self._problem = ""
            except SecguardError as error:
                # A generation that is not written down must not be read: it would get another name after a crash.
                self._problem = str(error)
                await self._pause(1.0)
                continue
            for gap in tail.gaps():
                self._desk.lost(0, gap.how, file=gap.path, generation=gap.generation, bytes=gap.bytes)
            until = time.monotonic() + _SCAN
            while not self._stopping.is_set() and (chunk := tail.read()) is not None:
                await self._hand_in(tail, chunk)
                if time.monotonic() > until:
                    break
            else:
                await self._pause(_SCAN)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _hand_in(self, tail: Tail, chunk: Chunk) -> None:
        """Queue a chunk's lines, some at a time; the place after them is the position once they are recorded."""
        for at in range(0, max(1, len(chunk.lines)), _LINES):
            after = chunk.lines[at + _LINES].offset if at + _LINES < len(chunk.lines) else chunk.end
            await self._hand_in_some(tail, chunk, chunk.lines[at : at + _LINES], after)

    async def _hand_in_some(self, tail: Tail, chunk: Chunk, lines: Sequence[Line], end: int) -> None:
        desk, generation = self._desk, chunk.generation
        delivery = Delivery()
        received = desk.clock.now()
        for number, line in enumerate(lines):
            derived = f"{desk.name}:{generation.name}:{line.offset}"
            place = {"file": generation.path, "generation": generation.name, "offset": line.offset}
            if line.data is None:
                desk.meter.heard(received, time.monotonic())
                error = FormatError("events.size", f"a line of {line.size} bytes; {MAX_RECORD} is the limit")
                desk.reject(
                    delivery,
                    error,
                    line.head,
                    received,
                    place=place,
                    derived=derived,
                    sha256=line.sha256,
                    size=line.size,
                )
            elif line.data.strip():
                desk.take(delivery, line.data, received, place=place, derived=derived, live=chunk.live)
            if number % 64 == 63:
                await asyncio.sleep(0)  # others have their turn
        delivery.done = lambda _: tail.settle(generation, end)
        desk.intake.put(delivery)
        await desk.intake.room()
