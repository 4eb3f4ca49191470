"""Publishing: the only act that needs the log's key. It never signs a second history."""

from secguard.core.errors import RefusedError
from secguard.core.files import atomic_write
from secguard.core.limits import read_bounded
from secguard.keys import Signer
from secguard.ledger.anchor import Anchor
from secguard.ledger.integrate import integrate, integration_lock, load_state, write_partials
from secguard.ledger.journal import Journal
from secguard.ledger.layout import Config, Layout
from secguard.ledger.merkle import subtree
from secguard.ledger.note import MAX_NOTE, Checkpoint, format_checkpoint, parse_checkpoint, read_note, sign_note
from secguard.ledger.tiles import TileReader

__all__ = ["check_history", "publish", "put_cosigned", "read_checkpoint"]


def read_checkpoint(layout: Layout) -> bytes | None:
    """The checkpoint that was published last, as stored; None before the first.

    Raises:
        SystemPartError: it cannot be read.
        FormatError: it is larger than any checkpoint.
    """
    return read_bounded(layout.checkpoint, MAX_NOTE) if layout.checkpoint.exists() else None


def check_history(layout: Layout, config: Config, size: int) -> None:
    """Refuse to go on in a log that is older than what was signed of it.

    Raises:
        RefusedError: `ledger.checkpoint.rollback`: entries that a checkpoint covers are not here.
        FormatError: a stored checkpoint is damaged.
    """
    anchor = Anchor(layout.root / config.anchor, config.origin)
    for note, where in ((read_checkpoint(layout), layout.checkpoint), (anchor.read(), anchor.path)):
        if note is None:
            continue
        signed = parse_checkpoint(note, str(where))
        if signed.origin != config.origin:
            raise RefusedError(
                "ledger.checkpoint.foreign",
                f"the checkpoint is of another log, {signed.origin[:200]}",
                hint="give every log an anchor of its own",
                where=str(where),
            )
        if signed.size > size:
            raise RefusedError(
                "ledger.checkpoint.rollback",
                f"this log ends at {size}, but {signed.size} were signed: an old backup, or entries were removed",
                hint="restore the newest backup of the ledger's folder; do not write to this one",
                where=str(where),
            )


def publish(layout: Layout, config: Config, signer: Signer, name: str) -> bytes:
    """Integrate everything durable, and sign and store a checkpoint of it: first at the anchor, then here.

    Returns:
        The signed checkpoint.

    Raises:
        RefusedError: `ledger.checkpoint.fork`, `ledger.checkpoint.rollback`, `ledger.anchor.missing`,
            `ledger.anchor.changed`: signing would make a second history.
        FormatError: a stored checkpoint is damaged.
        UsageError: the key is no Ed25519 key.
        SystemPartError: the disk failed.
    """
    anchor = Anchor(layout.root / config.anchor, config.origin)
    with integration_lock(layout):
        state = load_state(layout)
        journal = Journal(layout.journal)
        try:
            journal.load(state.size)
            check_history(layout, config, journal.size)
            tail = integrate(layout, journal, state)
        finally:
            journal.close()
        root = write_partials(layout, state, tail)
        size = state.size + len(tail.bodies)
        anchored, local = anchor.read(), read_checkpoint(layout)
        if anchored is None and local is not None:
            raise RefusedError(
                "ledger.anchor.missing",
                "the anchor is gone, so nothing tells whether this log is the newest",
                hint=f"if it is, copy {layout.checkpoint} to the anchor's place",
                where=str(anchor.path),
            )
        nodes = TileReader(layout.public, size).node
        for note, where in ((anchored, anchor.path), (local, layout.checkpoint)):
            signed = parse_checkpoint(note, str(where)) if note is not None else None
            if signed is None or signed.size == 0:
                continue
            here = root if signed.size == size else subtree(nodes, 0, signed.size)
            if here != signed.root:
                raise RefusedError(
                    "ledger.checkpoint.fork",
                    f"the first {signed.size} entries are not those that were signed: this log has a second history",
                    hint="an old backup was restored and written to, or entries were changed: secguard ledger verify",
                    where=str(where),
                )
        note = sign_note(format_checkpoint(Checkpoint(config.origin, size, root)), name, signer)
        if anchored is not None and anchored.startswith(note):
            note = anchored  # the same tree, signed before: it keeps its cosignatures
        else:
            anchor.swap(anchored, note)
        atomic_write(layout.checkpoint, note)
    return note


def put_cosigned(layout: Layout, config: Config, old: bytes, new: bytes) -> bool:
    """Put the last checkpoint with cosignatures in the place of the same one without, at the anchor and here.

    Args:
        layout: the log's folder.
        config: its configuration.
        old: the checkpoint that was cosigned.
        new: the same with more signature lines.

    Returns:
        False if another checkpoint was published meanwhile; then nothing is changed.

    Raises:
        SystemPartError: it cannot be written.
        FormatError: one of the two is no checkpoint.
        RefusedError: the two are not of the same tree.
    """
    if read_note(old)[0] != read_note(new)[0]:
        raise RefusedError("ledger.checkpoint.foreign", "the cosigned checkpoint is another one")
    with integration_lock(layout):
        anchor = Anchor(layout.root / config.anchor, config.origin)
        if read_checkpoint(layout) != old or anchor.read() != old:
            return False
        if new != old:
            anchor.swap(old, new)
            atomic_write(layout.checkpoint, new)
    return True
