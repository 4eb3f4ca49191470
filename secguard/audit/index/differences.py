"""What differs between the rows that events give and the rows that an index holds."""

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from secguard.audit.index.places import fields_of, rest_text
from secguard.audit.index.rows import COLUMNS, Row
from secguard.audit.index.words import unfit

__all__ = ["Difference", "differences"]


class Difference(NamedTuple):
    """One row that is not as it should be; `columns` names what was altered."""

    what: Literal["missing", "extra", "altered"]
    seq: int
    id: str
    columns: str = ""


def _fields(expected: str, actual: str) -> list[str]:
    """Names of the fields that differ, at most 10."""
    if expected == actual:
        return []
    here, there = (
        {name: rest_text(value) for name, value in fields_of(json.loads(text or "{}"))} for text in (expected, actual)
    )
    return sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))[:10]


def differences(expected: Sequence[Row], actual: Sequence[Row]) -> list[Difference]:
    """Compare rows of the same range, both in order of their ledger indices."""
    if expected == actual:
        return []
    found: list[Difference] = []
    there: dict[int, Row] = {}
    for row in actual:
        if row.seq in there:  # only a server can hold two
            found.append(Difference("extra", row.seq, row.id))
        else:
            there[row.seq] = row
    for row in expected:
        other = there.pop(row.seq, None)
        # Words without their event are left when somebody deletes the row alone: the event cannot be found any more.
        if other is None or (not other.id and row.id):
            found.append(Difference("missing", row.seq, row.id))
        elif other != row:
            columns = [name for name, a, b in zip(COLUMNS, row, other, strict=False) if a != b]
            if other.data == unfit(row.text):  # a server's text is right: it is another column that was changed
                columns.remove("data")
            columns += _fields(row.ecs, other.ecs)
            found.append(Difference("altered", row.seq, row.id, ", ".join(columns)))
    found += [Difference("extra", row.seq, row.id) for row in there.values()]
    return found
