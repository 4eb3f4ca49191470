"""What every reader of device lists hands up: rows with their place, problems, and what a file said of itself."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

__all__ = [
    "ASIDE",
    "MAX_FILE",
    "MAX_ROWS",
    "MAX_TEXT",
    "Message",
    "Problem",
    "Row",
    "Source",
    "no_collection",
    "told",
    "totals",
]

MAX_FILE = 256 << 20
"""Bytes of one list of devices; 100,000 devices of a catalog are about 70 MB."""
MAX_ROWS = 1_000_000
"""Devices of one list."""
MAX_TEXT = 4096
"""Characters of one cell or element; a longer one is a problem of its row."""


class Problem(msgspec.Struct, frozen=True):
    """Why a row cannot be taken.

    Attributes:
        where: `file:line`.
        field: the column or element; empty: the whole row or message.
        code: stable name, `identity.import.*` or `gbid.*`.
        reason: one sentence.
        hint: what to do.
        gbid: the device, as far as the row tells.
    """

    where: str
    field: str
    code: str
    reason: str
    hint: str = ""
    gbid: str = ""


@dataclass(slots=True)
class Row:
    """One device as a file tells it: texts by the field's name, and what could not even be read.

    Attributes:
        where: `file:line`.
        values: field -> text, stripped of nothing yet.
        bad: (field, reason) of texts that were cut or not decodable.
    """

    where: str
    values: dict[str, str]
    bad: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Message:
    """One message of a catalog: who answered which query, how many items it and the whole answer claim, and has.

    `sha256` is of its bytes: a message that was sent again is told from the next page by it.
    """

    where: str
    device: str = ""
    sn: str = ""
    total: int | None = None
    claimed: int | None = None
    items: int = 0
    sha256: bytes = b""


@dataclass(slots=True)
class Source:
    """A file as read.

    Attributes:
        name: its name.
        sha256: of its bytes, hex.
        size: bytes.
        format: `csv`, `json` or `catalog`.
        encoding: how its text was decoded.
        rows: the devices and directories, in order.
        problems: what could not be read at all.
        notes: what the reader decided or left out, for people.
        messages: of a catalog.
    """

    name: str
    sha256: str
    size: int
    format: str = ""
    encoding: str = ""
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)


ASIDE = frozenset({"presence", "parent", "parental", "civil", "group"})
"""Where a catalog files a device and whether it sees it now: no fields of the record."""


def told(row: Row) -> dict[str, str]:
    """What a row tells of the device itself: platforms list one device in several directories."""
    return {name: text for name, text in row.values.items() if name not in ASIDE}


def totals(messages: Iterable[Message]) -> dict[tuple[str, str], tuple[int, int]]:
    """Answer (device, SN) -> items that `SumNum` claims, and items there; a message that was sent again counts once."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    seen: set[tuple[str, str, bytes]] = set()
    for message in messages:
        key = message.device, message.sn
        if message.total is None or (*key, message.sha256) in seen:
            continue
        if message.sha256:
            seen.add((*key, message.sha256))
        total, items = found.get(key, (0, 0))
        found[key] = max(total, message.total), items + message.items
    return found


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause the cyclic collector: a million rows without cycles would be looked through again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
