"""Receipts: in the process, a lazy column of them; on paper, one self-contained document that anyone checks offline.

The document holds a C2SP tlog-proof (inclusion proof and checkpoint), the event's bytes, its salt, and the certificates
of the log's key. The proof without the body says nothing about the event: the leaf is a salted commitment.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import NamedTuple, overload

import msgspec

from secguard.core.errors import FormatError, RefusedError
from secguard.events import Event, Receipt, decode_stored
from secguard.ledger.bodies import SALT_SIZE, commit
from secguard.ledger.merkle import MAX_PROOF, leaf_hash, verify_inclusion
from secguard.ledger.note import MAX_NOTE, Checkpoint, NoteKey, open_checkpoint, parse_checkpoint

__all__ = [
    "MAX_RECEIPT",
    "CheckedReceipt",
    "Receipts",
    "check_receipt",
    "check_receipts",
    "format_proof",
    "format_receipt",
    "parse_proof",
    "receipt_chain",
    "receipt_checkpoint",
    "receipt_crls",
    "receipt_origin",
    "receipt_witnesses",
]

MAX_RECEIPT = 16 << 20
"""Bytes of a receipt document."""
SCHEMA = "secguard.ledger.receipt/1"
_PROOF = "c2sp.org/tlog-proof@v1"
_MAX_CHAIN = 10
_MAX_WITNESSES = 64


class Receipts(Sequence[Receipt]):
    """What `record` returns: columns that become `Receipt` objects, with their leaf hashes, only when looked at."""

    def __init__(
        self,
        origin: str,
        event_ids: Sequence[str],
        indexes: Sequence[int],
        duplicates: Sequence[bool],
        leaf: Callable[[int], bytes],
    ) -> None:
        self.origin = origin
        self.event_ids = event_ids
        self.indexes = indexes
        self.duplicates = duplicates
        self._leaf = leaf
        self._first = 0
        self._salts = b""
        self._bodies: Sequence[bytes] = ()

    def hold(self, first: int, salts: bytes, bodies: Sequence[bytes]) -> None:
        """Keep the new entries' salts and bodies, to hash them when asked."""
        self._first, self._salts, self._bodies = first, salts, bodies

    @classmethod
    def joined(cls, origin: str, parts: Sequence["Receipts"]) -> "Receipts":
        """Several batches as one."""
        hashes = {index: part for part in parts for index in part.indexes}
        return cls(
            origin,
            [name for part in parts for name in part.event_ids],
            [index for part in parts for index in part.indexes],
            [flag for part in parts for flag in part.duplicates],
            lambda index: hashes[index].leaf_hash(index),
        )

    def leaf_hash(self, index: int) -> bytes:
        """The leaf hash of an entry of this batch."""
        at = index - self._first
        if not 0 <= at < len(self._bodies):
            return self._leaf(index)
        return leaf_hash(commit(self._salts[at * SALT_SIZE : (at + 1) * SALT_SIZE], self._bodies[at]))

    def __len__(self) -> int:
        return len(self.event_ids)

    @overload
    def __getitem__(self, at: int) -> Receipt: ...
    @overload
    def __getitem__(self, at: slice) -> list[Receipt]: ...
    def __getitem__(self, at: int | slice) -> Receipt | list[Receipt]:
        """The receipt of the event at this position of the batch."""
        if isinstance(at, slice):
            return [self[k] for k in range(*at.indices(len(self)))]
        index = self.indexes[at]
        return Receipt(self.event_ids[at], index, self.leaf_hash(index), self.origin, self.duplicates[at])


class CheckedReceipt(NamedTuple):
    """What a receipt proves: this event is entry `index` of the log whose signed checkpoint has `size` entries."""

    event: Event
    index: int  # type: ignore[assignment] # a leaf's index; nobody searches this tuple
    size: int


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    schema: str
    proof: str
    salt: str
    event: str
    chain: list[str] = []
    crls: list[str] = []
    witnesses: list[list[str]] = []


def format_proof(index: int, hashes: Sequence[bytes], checkpoint: bytes) -> bytes:
    """A C2SP tlog-proof: its name, index, hashes, a blank line, the checkpoint."""
    lines = [_PROOF, f"index {index}", *(base64.b64encode(item).decode() for item in hashes), "", ""]
    return "\n".join(lines).encode() + checkpoint


def _bad(reason: str, where: str) -> FormatError:
    return FormatError("ledger.receipt.format", f"not a receipt: {reason}", where=where)


def parse_proof(data: bytes, where: str = "") -> tuple[int, list[bytes], bytes]:
    """Read a C2SP tlog-proof into index, hashes and checkpoint (whose signature is not looked at).

    Raises:
        FormatError: `ledger.receipt.format`.
    """
    if len(data) > MAX_NOTE + 8192:
        raise _bad("the proof is too long", where)
    head, found, checkpoint = data.partition(b"\n\n")
    lines = head.split(b"\n")
    if not found or lines[0] != _PROOF.encode():
        raise _bad("the proof does not start as a tlog-proof", where)
    if len(lines) > 1 and lines[1].startswith(b"extra "):
        del lines[1]
    number = lines[1].removeprefix(b"index ") if len(lines) > 1 and lines[1].startswith(b"index ") else b""
    if not number.isdigit() or len(number) > 19 or str(int(number)).encode() != number:
        raise _bad("the proof has no index", where)
    if len(lines) - 2 > MAX_PROOF:
        raise _bad("the proof has too many hashes", where)
    hashes = []
    for line in lines[2:]:
        value = _unbase64(line.decode("latin-1"), "a hash of the proof", where)
        if len(value) != 32:
            raise _bad("a hash of the proof has not 32 bytes", where)
        hashes.append(value)
    return int(number), hashes, checkpoint


def _unbase64(text: str, what: str, where: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if not value or base64.b64encode(value).decode() != text:
        raise _bad(f"{what} is not base64", where)
    return value


def format_receipt(
    proof: bytes,
    salt: bytes,
    body: bytes,
    chain: Sequence[str],
    *,
    crls: Sequence[bytes] = (),
    witnesses: Sequence[Sequence[str]] = (),
) -> bytes:
    """The receipt document: one line of JSON and a newline."""
    document = _Document(
        SCHEMA,
        proof.decode(),
        base64.b64encode(salt).decode(),
        base64.b64encode(body).decode(),
        list(chain),
        [base64.b64encode(item).decode() for item in crls],
        [list(item) for item in witnesses],
    )
    return msgspec.json.encode(document) + b"\n"


def _parse(data: bytes, where: str) -> _Document:
    if len(data) > MAX_RECEIPT:
        raise _bad(f"longer than {MAX_RECEIPT} bytes", where)
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _bad(str(error), where) from None
    if document.schema != SCHEMA:
        raise _bad(f"its schema is {document.schema[:60]!r}", where)
    lists = (document.chain, document.crls, *document.witnesses)
    if any(len(item) > _MAX_CHAIN for item in lists) or len(document.witnesses) > _MAX_WITNESSES:
        raise _bad("it carries too many certificates or revocation lists", where)
    return document


def receipt_chain(data: bytes, where: str = "receipt") -> list[str]:
    """The PEM certificates that a receipt carries, leaf first; NOT verified.

    Raises:
        FormatError: `ledger.receipt.format`.
    """
    return list(_parse(data, where).chain)


def receipt_witnesses(data: bytes, where: str = "receipt") -> list[list[str]]:
    """The certificates of witnesses that a receipt carries, PEM, one chain a witness, leaf first; NOT verified.

    Raises:
        FormatError: `ledger.receipt.format`.
    """
    return [list(chain) for chain in _parse(data, where).witnesses]


def receipt_checkpoint(data: bytes, where: str = "receipt") -> bytes:
    """The checkpoint of a receipt, with the cosignatures on it; NOT verified.

    Raises:
        FormatError: `ledger.receipt.format`.
    """
    return parse_proof(_parse(data, where).proof.encode(), where)[2]


def receipt_crls(data: bytes, where: str = "receipt") -> list[bytes]:
    """The revocation lists that a receipt carries, DER or PEM; NOT verified.

    Raises:
        FormatError: `ledger.receipt.format`.
    """
    return [_unbase64(item, "a revocation list", where) for item in _parse(data, where).crls]


def receipt_origin(data: bytes, where: str = "receipt") -> str:
    """The log that a receipt claims to come from; NOT verified.

    Raises:
        FormatError: `ledger.receipt.format` or `ledger.checkpoint.format`.
    """
    _, _, note = parse_proof(_parse(data, where).proof.encode(), where)
    return parse_checkpoint(note, where).origin


def check_receipts(
    documents: Sequence[bytes], keys: Sequence[NoteKey], where: Sequence[str] | None = None
) -> list[CheckedReceipt]:
    """Check receipts completely offline; a checkpoint that several share is verified once.

    Args:
        documents: what `Ledger.receipt` wrote.
        keys: the keys that the caller believes to be the log's.
        where: names for error messages.

    Raises:
        FormatError: a document is no receipt.
        RefusedError: `ledger.checkpoint.signature`, `ledger.inclusion.invalid`: it proves nothing.
    """
    notes: dict[bytes, Checkpoint] = {}
    checked = []
    for number, data in enumerate(documents):
        name = where[number] if where else "receipt"
        document = _parse(data, name)
        index, hashes, note = parse_proof(document.proof.encode(), name)
        if note not in notes:
            notes[note] = open_checkpoint(note, keys, name)
        checkpoint = notes[note]
        salt = _unbase64(document.salt, "the salt", name)
        body = _unbase64(document.event, "the event", name)
        if len(salt) != SALT_SIZE:
            raise _bad("the salt has not 16 bytes", name)
        try:
            verify_inclusion(leaf_hash(commit(salt, body)), index, checkpoint.size, hashes, checkpoint.root)
        except RefusedError as error:
            raise RefusedError(
                error.code,
                "the event is not in the log that the checkpoint signs: event, salt, index or proof was changed",
                where=name,
            ) from error
        checked.append(CheckedReceipt(decode_stored(body), index, checkpoint.size))
    return checked


def check_receipt(data: bytes, keys: Sequence[NoteKey], where: str = "receipt") -> CheckedReceipt:
    """Check one receipt completely offline; see `check_receipts`."""
    return check_receipts([data], keys, [where])[0]
