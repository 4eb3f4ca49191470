"""Bodies that are gone though nothing recorded their deletion, found by the heads of their files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from secguard.core import Finding, Outcome, finding
from secguard.core.errors import FormatError
from secguard.core.files import translate_os_error
from secguard.ledger.bodies import gone_bodies, unpack_bodies
from secguard.ledger.pruning import ranges_of
from secguard.ledger.tiles import BUNDLE, body_path
from secguard.ledger.verify.pruned import Pruned

__all__ = ["Missing", "find_missing"]


@dataclass(frozen=True, slots=True)
class Missing:
    """Bodies that no record of a deletion explains.

    Attributes:
        entries: their entries, as ranges [first, last].
        findings: `ledger.body.missing`, one a range and file.
    """

    entries: Sequence[tuple[int, int]] = ()
    findings: Sequence[Finding] = ()

    def holds(self, index: int) -> bool:
        """Whether the body of an entry is one of them."""
        return any(first <= index <= last for first, last in self.entries)


def find_missing(folder: Path, files: int, rest: Callable[[], Iterable[tuple[int, Sequence[bytes | None]]]]) -> Missing:
    """Look at all files of bodies; read events only where some are gone.

    Args:
        folder: the files of bodies.
        files: how many there should be.
        rest: the events that are in no file yet, with the index of the first of each batch.

    Raises:
        SystemPartError: a file that is there cannot be read.
    """
    gone: dict[int, str] = {}
    for number in range(files):
        path = folder / body_path(number)
        first = number * BUNDLE
        try:
            slots = gone_bodies(path)
        except FileNotFoundError:
            gone |= dict.fromkeys(range(first, first + BUNDLE), "the file is gone")
        except FormatError as error:
            gone |= dict.fromkeys(range(first, first + BUNDLE), error.message)
        except OSError as error:
            raise translate_os_error(error, path) from error
        else:
            gone |= {first + slot: "deleted, and no audit.pruned event says so" for slot in slots}
    if not gone:
        return Missing()
    pruned = Pruned(gone=list(gone))
    for first, events in (*_records(folder, files), *rest()):
        pruned.cite_all(first, events)
    left = sorted(item.data["index"] for item in pruned.judge() if item.outcome is Outcome.FAIL)
    findings = []
    for (number, reason), members in groupby(left, key=lambda index: (index // BUNDLE, gone[index])):
        for low, high in ranges_of(members):
            span = f"entry {low}" if low == high else f"entries {low}-{high}"
            findings.append(
                finding("ledger.body.missing", f"bodies/{body_path(number)}, {span}", reason=reason, index=low)
            )
    return Missing(ranges_of(left), findings)


def _records(folder: Path, files: int) -> Iterator[tuple[int, Sequence[bytes | None]]]:
    """Files with a record of a deletion."""
    for number in range(files):
        try:
            data = (folder / body_path(number)).read_bytes()
            if b'"audit.pruned"' in data:
                yield number * BUNDLE, unpack_bodies(data)[1]
        except (OSError, FormatError):
            continue  # it is one of those that are gone
