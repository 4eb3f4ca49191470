"""What differs between the rows that events give and the rows that an index holds."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from secguard.audit.index.rows import COLUMNS, Row

__all__ = ["Difference", "differences"]


class Difference(NamedTuple):
    """One row that is not as it should be; `columns` names what was altered."""

    what: Literal["missing", "extra", "altered"]
    seq: int
    id: str
    columns: str = ""


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
            columns = [name for name, a, b in zip(COLUMNS, row, other, strict=True) if a != b]
            found.append(Difference("altered", row.seq, row.id, ", ".join(columns)))
    found += [Difference("extra", row.seq, row.id) for row in there.values()]
    return found
