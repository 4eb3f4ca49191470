"""How far the index on the server reaches: a small file beside the ledger, replaced in one step."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from secguard.core import FormatError
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.limits import MAX_CONFIG, read_bounded

__all__ = ["PositionFile", "State"]


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says.

    Attributes:
        origin: name of the log.
        epoch: ledger entries that one index on the server holds.
        position: number of events whose documents are in.
        generation: counts the times the index was built anew.
        indices: names on the server, with their UUIDs.
        refused: ledger indices of the events that the server did not take.
        v: version of this structure and of the documents.
    """

    origin: str
    epoch: int
    position: int = 0
    generation: int = 0
    indices: dict[str, str] = {}
    refused: list[int] = []
    v: int = 2


class PositionFile:
    """The file, and the lock that one writer holds."""

    def __init__(self, path: Path, empty: State) -> None:
        self._path = path
        self._empty = empty

    def read(self) -> State:
        """What it says now; nothing is indexed where there is none.

        Raises:
            FormatError: it is damaged, or written by another version.
        """
        if not self._path.exists():
            return self._empty
        try:
            state = msgspec.json.decode(read_bounded(self._path, MAX_CONFIG), type=State)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._unreadable("the file with the index's position is damaged") from error
        if (state.v, state.epoch) != (self._empty.v, self._empty.epoch) or min(state.position, state.generation) < 0:
            raise self._unreadable(
                "another version made the index",
                "install audit/elasticsearch/index-template.json on the server, then: secguard audit reindex",
            )
        return state

    def _unreadable(self, message: str, hint: str = "rebuild the index: secguard audit reindex") -> FormatError:
        return FormatError("audit.index.unreadable", message, hint=hint, where=str(self._path))

    def write(self, state: State) -> None:
        """Replace it, durably.

        Raises:
            SystemPartError: the write failed; the old state stands.
        """
        atomic_write(self._path, msgspec.json.encode(state) + b"\n")

    def remove(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[State]:
        """Keep other writers out, and say what the file says; the kernel lets go if this process ends."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._path.with_name(self._path.name + ".lock").open("w")
        except OSError as error:
            raise translate_os_error(error, self._path) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.read()
