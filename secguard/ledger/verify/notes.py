"""The checkpoints of a log: the stored one and the anchored one."""

from collections.abc import Iterator, Sequence

from secguard.core.errors import FormatError, RefusedError, SecguardError
from secguard.ledger.anchor import Anchor
from secguard.ledger.layout import Config
from secguard.ledger.note import Checkpoint, NoteKey, open_checkpoint, parse_checkpoint
from secguard.ledger.publish import read_checkpoint
from secguard.ledger.verify.check import Check, Mark

__all__ = ["judge_notes"]


def judge_notes(check: Check, config: Config, keys: Sequence[NoteKey]) -> Iterator[Checkpoint]:
    """Judge the stored checkpoint and the anchored one; yield those that can be read."""
    layout = check.layout
    anchor = Anchor(layout.root / config.anchor, config.origin)
    raw: dict[str, bytes | None] = {}
    for name in ("checkpoint", "anchor"):
        try:
            raw[name] = note = read_checkpoint(layout) if name == "checkpoint" else anchor.read()
        except SecguardError as error:
            check.say_error(error, "ledger.checkpoint.damaged", name)
            continue
        if note is None:
            continue
        try:
            signed = open_checkpoint(note, keys, name) if keys else parse_checkpoint(note, name)
        except FormatError as error:
            check.say_error(error, "ledger.checkpoint.damaged", name)
            continue
        except RefusedError as error:
            check.say_error(error, "ledger.checkpoint.signature", name)
            signed = parse_checkpoint(note, name)
        if signed.origin != config.origin:
            check.say("ledger.checkpoint.foreign", name, origin=signed.origin, expected=config.origin)
            continue
        check.marks[signed.size].append(Mark(signed, name))
        yield signed
    local, far = raw.get("checkpoint"), raw.get("anchor")
    if local is not None and far is None and "anchor" in raw:
        check.say("ledger.anchor.missing", str(anchor.path))
    elif far is not None and local is None and "checkpoint" in raw:
        check.say("ledger.checkpoint.missing", check.name(layout.checkpoint))
    elif local is not None and far is not None and local != far:
        check.say("ledger.checkpoint.behind", check.name(layout.checkpoint), anchor=str(anchor.path))
