"""The index from event ID to entry, held against the bodies."""

from secguard.core.errors import FormatError, SecguardError
from secguard.ledger.bodies import unpack_bodies
from secguard.ledger.ids import IdIndex
from secguard.ledger.integrate import event_ids
from secguard.ledger.tiles import BUNDLE, body_path
from secguard.ledger.verify.check import Check

__all__ = ["check_ids"]

_SAMPLE = 128
"""Bundles of a large log whose IDs are looked up."""


def check_ids(check: Check, size: int) -> None:
    """The index from event ID to entry: whole, and right for all bundles of a small log, for 128 of a large one.

    What cannot be opened is built again by whoever needs it, and is no finding.
    """
    folder = check.layout.ids
    try:
        index = IdIndex(folder)
    except (FormatError, OSError):
        return
    try:
        if not index.covers(size) or (folder / "building").exists():
            return
        if not index.complete(size):
            check.say("ledger.ids.damaged", check.name(folder))
            return
        for number in range(0, size // BUNDLE, max(1, size // BUNDLE // _SAMPLE)):
            path = check.layout.bodies / body_path(number)
            try:
                bodies = unpack_bodies(path.read_bytes())[1]
                names = event_ids([b"{}" if body is None else body for body in bodies])
            except (SecguardError, UnicodeDecodeError, OSError):
                continue  # named where bodies are verified
            found = set(index.candidates(names))
            for at, body in enumerate(bodies):
                if body is not None and (at, number * BUNDLE + at) not in found:
                    check.say("ledger.ids.damaged", f"{check.name(folder)}, entry {number * BUNDLE + at}")
                    return
    finally:
        index.close()
