"""A helper's side: `python -m secguard.audit.index.worker` answers tasks until its input ends; see `helpers`."""

import gc
import marshal
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from secguard.audit.index.differences import Difference, differences
from secguard.audit.index.following import batches
from secguard.audit.index.helpers import raised
from secguard.audit.index.rows import Row, rows_of
from secguard.audit.index.sqlite import SqliteIndex
from secguard.core import SecguardError
from secguard.ledger import Ledger

__all__ = ["main"]

_MAX_NAMED = 1000
"""Differences of one range that are handed over; the counts are complete."""


@lru_cache(maxsize=1)
def _ledger(root: str) -> Ledger:
    return Ledger.open(Path(root))


@lru_cache(maxsize=1)
def _index(path: str) -> SqliteIndex:
    index = SqliteIndex.open(Path(path))
    index.map_file()
    return index


def _rows(root: str, start: int, stop: int, ecs: bool, most: int) -> Iterator[tuple[int, int, list[tuple[Any, ...]]]]:
    for first, bodies in batches(_ledger(root), start, stop, most):
        yield first, first + len(bodies), list(map(tuple, rows_of(first, bodies, ecs=ecs)))


def _compare(root: str, path: str, start: int, stop: int) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
    counts = dict.fromkeys(("missing", "extra", "altered"), 0)
    named: list[Difference] = []
    for first, bodies in batches(_ledger(root), start, stop):
        expected = rows_of(first, bodies)
        actual = _index(path).plain_rows(first, first + len(bodies))
        if expected == actual:  # row by row, without looking closer
            continue
        found = differences(expected, list(map(Row._make, actual)))
        for item in found:
            counts[item.what] += 1
        named += found[: _MAX_NAMED - len(named)]
    return counts, [tuple(item) for item in named]


def _check(path: str, part: str) -> tuple[list[str], list[int]]:
    found = _index(path).check(part)
    return found.problems, found.seqs


_TASKS: dict[str, Callable[..., Any]] = {"rows": _rows, "compare": _compare, "check": _check}


def _answers(name: str, values: Sequence[Any]) -> Iterator[tuple[bool, Any]]:
    """Whether the task went well, and what it gave; what comes in parts ends with None."""
    try:
        answer = _TASKS[name](*values)
        if isinstance(answer, Iterator):
            for part in answer:
                yield True, part
            answer = None
        yield True, answer
    except SecguardError as error:
        yield False, raised(error)


def main() -> None:
    """Answer tasks until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.disable()  # rows hold no circles
    while True:
        try:
            name, *values = marshal.load(sys.stdin.buffer)  # noqa: S302 - our own parent's
        except EOFError:
            return
        try:
            for answer in _answers(name, values):
                marshal.dump(answer, sys.stdout.buffer)
                sys.stdout.buffer.flush()
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
