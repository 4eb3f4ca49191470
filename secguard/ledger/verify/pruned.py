"""Deleted bodies: which are gone, and which entries record their deletion."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from secguard.core import Finding, finding
from secguard.ledger.tiles import BUNDLE, body_path

__all__ = ["Pruned"]


class _Data(msgspec.Struct):
    """The part of an `audit.pruned` event's data that names deleted bodies: ranges [first, last]."""

    indexes: list[tuple[int, int]] = []
    policy: str = ""


class _Event(msgspec.Struct):
    kind: str
    data: _Data = msgspec.field(default_factory=_Data)


@dataclass(frozen=True, slots=True)
class _Record:
    """An `audit.pruned` event: where it stands, and what it says."""

    index: int
    policy: str
    ranges: list[tuple[int, int]]


@dataclass(slots=True)
class Pruned:
    """What a verification learns of deleted bodies.

    Attributes:
        gone: entries without a body.
        records: the deletions that the log records.
    """

    gone: list[int] = field(default_factory=list)
    records: list[_Record] = field(default_factory=list)

    def cite_all(self, first: int, events: Sequence[bytes | None]) -> None:
        """Take note of the deletions that events record; `first` is the index of the first of them."""
        for index, event in enumerate(events, first):
            if event is None or b'"audit.pruned"' not in event:
                continue
            try:
                record = msgspec.json.decode(event, type=_Event)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            if record.kind == "audit.pruned":
                self.records.append(_Record(index, record.data.policy, record.data.indexes))

    def judge(self) -> list[Finding]:
        """One finding a body that no record explains, and one remark a run whose records explain some.

        A record explains only what came before it.
        """
        found: list[Finding] = []
        explained: dict[int, int] = {}
        spans = sorted(
            (low, min(high, record.index - 1), at)
            for at, record in enumerate(self.records)
            for low, high in record.ranges
        )
        held: list[tuple[int, int, int]] = []
        place = 0
        for index in sorted(self.gone):
            while place < len(spans) and spans[place][0] <= index:
                held.append(spans[place])
                place += 1
            held = [span for span in held if span[1] >= index]
            if held:
                explained[held[0][2]] = explained.get(held[0][2], 0) + 1
                continue
            where = f"bodies/{body_path(index // BUNDLE)}, entry {index}"
            reason = "deleted, and no audit.pruned event says so"
            found.append(finding("ledger.body.missing", where, reason=reason, index=index))
        runs: list[tuple[int, int, str, int]] = []  # records of one run stand next to each other
        for at, count in sorted(explained.items()):
            record = self.records[at]
            if runs and (runs[-1][1], runs[-1][2]) == (record.index - 1, record.policy):
                first, _, policy, before = runs.pop()
                runs.append((first, record.index, policy, before + count))
            else:
                runs.append((record.index, record.index, record.policy, count))
        for first, last, policy, count in runs:
            stands = first if first == last else f"{first}-{last}"
            found.append(
                finding("ledger.body.pruned", f"entry {stands}", count=count, record=stands, policy=policy[:80] or "?")
            )
        return found
