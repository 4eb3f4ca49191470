"""A witness: remembers the last checkpoint of each log it knows, and cosigns only what continues it.

What it remembers is on the disk before its cosignature leaves. Two requests at once cannot take it back: the memory of
a log is replaced by compare-and-swap.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from secguard.core.clock import Clock
from secguard.core.errors import FormatError, RefusedError
from secguard.core.files import atomic_write
from secguard.keys import Signer
from secguard.ledger.anchor import Anchor
from secguard.ledger.merkle import root_of, verify_consistency
from secguard.ledger.note import Checkpoint, NoteKey, open_checkpoint, parse_checkpoint, read_note
from secguard.ledger.witness.cosignature import cosign
from secguard.ledger.witness.request import Submission, parse_request

__all__ = ["Reply", "Witness"]

_SIZE = "text/x.tlog.size"
_TEXT = "text/plain; charset=utf-8"
_MAX_EVIDENCE = 1000


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered over HTTP: status, body, and why (for the witness's own log)."""

    status: int
    body: bytes = b""
    kind: str = _TEXT
    reason: str = ""


class Witness:
    """One witness; any number of threads and processes may answer for it.

    Args:
        folder: its memory, made if missing: `seen/` the last checkpoint of each log, `contradictions/` requests that
            were signed by a log and do not continue what it signed before.
        name: under which it cosigns.
        signer: its Ed25519 key, used for nothing else.
        logs: the keys of the logs it knows, each named as its log's origin.
        clock: the time of cosignatures.
    """

    def __init__(self, folder: Path, name: str, signer: Signer, logs: Iterable[NoteKey], clock: Clock) -> None:
        self.name = name
        self._signer = signer
        self._clock = clock
        self._seen, self._evidence = folder / "seen", folder / "contradictions"
        for one in (self._seen, self._evidence):
            one.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._logs: dict[str, list[NoteKey]] = defaultdict(list)
        for key in logs:
            self._logs[key.name].append(key)
        self._hashes = {hashlib.sha256(origin.encode()).hexdigest(): origin for origin in self._logs}

    @property
    def origins(self) -> list[str]:
        """The logs it knows."""
        return sorted(self._logs)

    def seen(self, origin_hash: str) -> bytes | None:
        """The last cosigned checkpoint of a log, by the SHA-256 of its origin in hex; None if there is none.

        Raises:
            SystemPartError: it cannot be read.
        """
        origin = self._hashes.get(origin_hash)
        return Anchor(self._seen, origin).read() if origin is not None else None

    def add_checkpoint(self, body: bytes) -> Reply:
        """Answer an `add-checkpoint` request.

        Raises:
            SecguardError: its own memory cannot be read or written: nothing was cosigned.
        """
        try:
            asked = parse_request(body)
            checkpoint = parse_checkpoint(asked.note, "request")
        except FormatError as error:
            return _refusal(400, error.message)
        keys = self._logs.get(checkpoint.origin)
        if keys is None:
            return _refusal(404, f"the log {checkpoint.origin[:200]!r} is not known here")
        try:
            open_checkpoint(asked.note, keys, "request")
        except RefusedError as error:
            return _refusal(403, error.message)
        if asked.old > checkpoint.size:
            return _refusal(400, f"old size {asked.old} is above the checkpoint's {checkpoint.size}")
        anchor = Anchor(self._seen, checkpoint.origin)
        stored = anchor.read()
        last = parse_checkpoint(stored, "memory") if stored is not None else None
        known = last.size if last is not None else 0
        if asked.old != known:
            return Reply(409, f"{known}\n".encode(), _SIZE, f"old size {asked.old}, the last one cosigned is {known}")
        try:
            _check_continues(asked, checkpoint, last)
        except RefusedError as error:
            self._keep_evidence(body)
            return _refusal(422, error.message)
        text, _ = read_note(asked.note, "request")
        line = cosign(text, self.name, self._signer, int(self._clock.now().timestamp()))
        try:
            anchor.swap(stored, _signed_by(asked.note, keys) + line)
        except RefusedError:  # another request was faster
            stored = anchor.read()
            known = parse_checkpoint(stored, "memory").size if stored is not None else 0
            return Reply(409, f"{known}\n".encode(), _SIZE, "another request was faster")
        return Reply(200, line, reason=f"{checkpoint.origin} at {checkpoint.size}")

    def _keep_evidence(self, body: bytes) -> None:
        """A signed checkpoint that does not continue the last one proves that its log misbehaved: it is kept."""
        path = self._evidence / f"{hashlib.sha256(body).hexdigest()}.request"
        if not path.exists() and sum(1 for _ in self._evidence.iterdir()) < _MAX_EVIDENCE:
            atomic_write(path, body, mode=0o640)


def _refusal(status: int, reason: str) -> Reply:
    return Reply(status, reason.encode() + b"\n", reason=reason)


def _check_continues(asked: Submission, checkpoint: Checkpoint, last: Checkpoint | None) -> None:
    if checkpoint.size == 0 and checkpoint.root != root_of(b""):
        raise RefusedError("ledger.consistency.invalid", "the root of an empty tree is another")
    if asked.old == 0 or last is None:
        if asked.proof:
            raise RefusedError("ledger.consistency.invalid", "from an empty tree there is nothing to prove")
        return
    verify_consistency(last.size, last.root, checkpoint.size, checkpoint.root, asked.proof)


def _signed_by(note: bytes, keys: Iterable[NoteKey]) -> bytes:
    """The checkpoint with the signatures of these keys only."""
    text, _ = read_note(note)
    names = {(key.name, key.key_id) for key in keys}
    lines = note[len(text) + 1 :].splitlines(keepends=True)
    signatures = read_note(note)[1]
    kept = [line for line, (name, data) in zip(lines, signatures, strict=True) if (name, data[:4]) in names]
    return text + b"\n" + b"".join(kept)
