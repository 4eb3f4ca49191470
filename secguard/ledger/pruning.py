"""Deleting bodies: what was recorded as deleted really goes, from body files and from the journal that made them."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from secguard.core.errors import FormatError, RefusedError
from secguard.core.files import translate_os_error
from secguard.core.progress import Progress, Throttle, silent
from secguard.ledger.bodies import LOST, prune_bodies
from secguard.ledger.integrate import integrate_once, integration_lock, load_state
from secguard.ledger.journal import Journal
from secguard.ledger.layout import Layout
from secguard.ledger.tiles import BUNDLE, body_path

__all__ = ["delete_bodies", "in_journal", "ranges_of", "settle_journal", "turn_journal"]


def ranges_of(indexes: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted indexes as ranges [first, last]."""
    found: list[tuple[int, int]] = []
    for index in indexes:
        if found and index == found[-1][1] + 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def in_journal(layout: Layout, indexes: Sequence[int]) -> bool:
    """Whether the journal still holds a copy of one of these entries (sorted)."""
    segments = Journal(layout.journal).segments()
    return bool(segments and indexes) and indexes[-1] >= segments[0]


def turn_journal(layout: Layout) -> None:
    """Have the writer begin a new segment with the next frame.

    Raises:
        SystemPartError: the mark cannot be made.
    """
    try:
        Journal(layout.journal).ask_to_turn()
    except OSError as error:
        raise translate_os_error(error, layout.journal) from error


def settle_journal(layout: Layout) -> int:
    """Make files of all full bundles, and let go of the journal's segments that they were made from.

    Returns:
        How many entries are in files now.

    Raises:
        SecguardError: see `integrate`.
    """
    return integrate_once(layout)[1]


def delete_bodies(layout: Layout, indexes: Sequence[int], progress: Progress = silent) -> int:
    """Delete the bodies of entries that lie in full bundles.

    Args:
        layout: the log's folder.
        indexes: sorted.
        progress: told the entries done.

    Returns:
        How many were still there.

    Raises:
        RefusedError: `ledger.prune.early`: an entry is in no full bundle yet.
        FormatError: a file of bodies is damaged.
        SystemPartError: it cannot be written; what was deleted until then is gone.
    """
    report, done, gone = Throttle(progress), 0, 0
    with integration_lock(layout):
        state = load_state(layout)
        if indexes and indexes[-1] >= state.size:
            raise RefusedError("ledger.prune.early", f"entry {indexes[-1]} is in no full bundle yet")
        for number, members in groupby(indexes, key=lambda index: index // BUNDLE):
            slots = {index % BUNDLE for index in members}
            path = layout.bodies / body_path(number)
            try:
                gone += prune_bodies(path, slots)
            except FileNotFoundError as error:
                raise FormatError(
                    "ledger.body.missing", "a file of bodies is missing", hint=LOST, where=str(path)
                ) from error
            except OSError as error:
                raise translate_os_error(error, path) from error
            done += len(slots)
            report(done, len(indexes), "events")
    return gone
