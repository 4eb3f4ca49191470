"""A log against what witnesses remember of it: whoever removes its newest entries cannot remove their memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from secguard.core import Finding, finding
from secguard.core.errors import FormatError, RefusedError, SystemPartError, UsageError
from secguard.core.limits import read_bounded
from secguard.ledger.note import MAX_NOTE, Checkpoint, NoteKey, open_checkpoint, parse_checkpoint
from secguard.ledger.witness.asking import Peer, ask, fetch_seen
from secguard.ledger.witness.cosignature import WitnessKey, cosignatures

__all__ = ["Compared", "Seen", "compare", "known_checkpoints", "read_cosigned"]


class _Log(Protocol):
    @property
    def origin(self) -> str: ...
    @property
    def size(self) -> int: ...
    def root_at(self, size: int) -> bytes: ...
    def checkpoint(self) -> bytes | None: ...
    def consistency(self, old: int, new: int) -> list[bytes]: ...


class Seen(NamedTuple):
    """A checkpoint that a witness cosigned: signatures of log and witness are verified."""

    witness: str
    checkpoint: Checkpoint
    note: bytes


class Compared(NamedTuple):
    """What came of a comparison.

    Attributes:
        seen: what the witnesses remember; one that does not answer is not in it.
        findings: `ledger.witness.ahead` and `.fork` (fail); `.silent` and `.none` (unknown).
    """

    seen: list[Seen]
    findings: list[Finding]


def known_checkpoints(peers: Sequence[Peer], log: _Log, keys: Sequence[NoteKey]) -> Compared:
    """Ask witnesses for the last checkpoint they cosigned of a log.

    One that does not serve what it has seen (the standard only recommends it) is asked to cosign the log's last
    checkpoint: it does so only if that continues what it remembers, and says if it remembers more.

    Args:
        peers: the witnesses.
        log: an open ledger.
        keys: the log's keys, which must have signed what is shown.
    """
    seen: list[Seen] = []
    findings: list[Finding] = []
    for peer in peers:
        name = peer.key.name
        try:
            note = fetch_seen(peer, log.origin, keys) if peer.url else None
        except (SystemPartError, FormatError, RefusedError) as error:
            findings.append(finding("ledger.witness.silent", name, reason=error.message))
            continue
        if note is not None:
            seen.append(Seen(name, parse_checkpoint(note), note))
            continue
        last = log.checkpoint() if peer.url else None
        answer = ask(peer, last, log.consistency) if last is not None else None
        if answer is not None and answer.finding is not None:
            findings.append(answer.finding)
        elif last is None or answer is None or not answer.size:
            findings.append(finding("ledger.witness.none", name))
        else:
            seen.append(Seen(name, parse_checkpoint(last), last + answer.lines))
    return Compared(seen, findings)


def compare(log: _Log, peers: Sequence[Peer], keys: Sequence[NoteKey]) -> Compared:
    """Compare a log's tree with what its witnesses remember. It reads tiles only: milliseconds.

    That bodies are what the tiles say is for `verify_log`.

    Args:
        log: an open ledger.
        peers: its witnesses.
        keys: the log's keys.
    """
    asked = known_checkpoints(peers, log, keys)
    findings = list(asked.findings)
    size = log.size
    for seen in asked.seen:
        signed = seen.checkpoint
        if signed.size > size:
            findings.append(finding("ledger.witness.ahead", seen.witness, size=signed.size, have=size))
            continue
        try:
            same = log.root_at(signed.size) == signed.root
        except (FormatError, UsageError) as error:
            findings.append(finding("ledger.witness.fork", seen.witness, size=signed.size, reason=error.message))
            continue
        if not same:
            findings.append(finding("ledger.witness.fork", seen.witness, size=signed.size))
    return Compared(asked.seen, findings)


def read_cosigned(path: Path, origin: str, keys: Sequence[NoteKey], witnesses: Sequence[WitnessKey]) -> Seen:
    """A cosigned checkpoint from a file, as a witness serves it.

    Args:
        path: the file.
        origin: the log that it must be of.
        keys: the log's keys.
        witnesses: keys of witnesses, one of which must have cosigned.

    Raises:
        UsageError: no such file.
        FormatError: it is no checkpoint.
        RefusedError: it is of another log, or not signed by the log, or by none of the witnesses.
    """
    note = read_bounded(path, MAX_NOTE)
    checkpoint = open_checkpoint(note, keys, str(path))
    if checkpoint.origin != origin:
        raise RefusedError("ledger.checkpoint.foreign", "the checkpoint is of another log", where=str(path))
    given = cosignatures(note, witnesses, str(path))
    if not given:
        raise RefusedError("ledger.cosignature.none", "no known witness has cosigned this checkpoint", where=str(path))
    return Seen(given[0].name, checkpoint, note)
