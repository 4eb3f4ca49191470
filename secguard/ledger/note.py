"""Signed notes (C2SP signed-note) with Ed25519 keys, and checkpoints in them (C2SP tlog-checkpoint)."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.keys import Algorithm, Signer

__all__ = [
    "Checkpoint",
    "NoteKey",
    "VerifierKey",
    "check_name",
    "format_checkpoint",
    "open_checkpoint",
    "parse_checkpoint",
    "read_note",
    "sign_note",
]

MAX_NOTE = 64 << 10
"""Bytes of a note, signatures included."""
_MAX_SIGNATURES = 100
_DASH = "\u2014 "


def check_name(name: str) -> str:
    """Return a key's or log's name if it may stand in a note: not empty, no space, no plus, one line.

    Raises:
        UsageError: it may not.
    """
    if not name or len(name) > 200 or "+" in name or any(c.isspace() or not c.isprintable() for c in name):
        raise UsageError(
            "ledger.origin.format",
            f"{name[:40]!r} cannot name a log",
            hint="a host name and a path, for example audit.example.org/320116",
        )
    return name


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """An Ed25519 public key and the name it signs under; the kind says which type of signature it makes."""

    kind: ClassVar[bytes]
    _code: ClassVar[str]
    _what: ClassVar[str]
    _hint: ClassVar[str] = ""

    name: str
    public_key: Ed25519PublicKey

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the key."""
        return self.public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name || LF || kind || key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + self.kind + self.raw).digest()[:4]

    def vkey(self) -> str:
        """The key as one line of text: `name+id+base64(kind || key)`."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self.kind + self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `vkey` writes.

        Raises:
            FormatError: it is no Ed25519 verifier key of this kind, or its ID does not match.
        """
        try:
            name, number, blob = text.strip().split("+", 2)
            data = base64.b64decode(blob, validate=True)
            if data[:1] != cls.kind:
                raise ValueError("not a key of this kind")
            key = cls(check_name(name), Ed25519PublicKey.from_public_bytes(data[1:]))
        except (ValueError, UsageError) as error:
            raise FormatError(cls._code, f"not {cls._what} verifier key: {text[:60]!r}", hint=cls._hint) from error
        if key.key_id.hex() != number:
            raise FormatError(cls._code, "the verifier key's ID does not belong to its name and key")
        return key


@dataclass(frozen=True, slots=True)
class NoteKey(VerifierKey):
    """A log's public key and the name it signs under (type 0x01)."""

    kind = b"\x01"
    _code = "ledger.key.format"
    _what = "a note"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says.

    Attributes:
        origin: the log's name.
        size: number of leaves.
        root: root hash, 32 bytes.
    """

    origin: str
    size: int
    root: bytes


def _bad(reason: str, where: str) -> FormatError:
    return FormatError(
        "ledger.checkpoint.format",
        f"not a checkpoint: {reason}",
        hint="secguard ledger verify shows what of the log still holds",
        where=where,
    )


def _split(note: bytes, where: str) -> tuple[str, list[str]]:
    if len(note) > MAX_NOTE:
        raise _bad(f"longer than {MAX_NOTE} bytes", where)
    try:
        text = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"not UTF-8 at byte {error.start}", where) from None
    if any((c < " " and c != "\n") or c == "\x7f" for c in text):
        raise _bad("it holds control characters", where)
    body, found, tail = text.rpartition("\n\n")
    if not found or not tail.endswith("\n"):
        raise _bad("there is no signature block", where)
    lines = tail[:-1].split("\n")
    if len(lines) > _MAX_SIGNATURES or any(not line.startswith(_DASH) for line in lines):
        raise _bad("a signature line is malformed", where)
    return body + "\n", lines


def _signature(line: str, where: str) -> tuple[str, bytes]:
    name, found, blob = line.removeprefix(_DASH).partition(" ")
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not found or not name or len(data) < 5 or base64.b64encode(data).decode() != blob:
        raise _bad("a signature line is malformed", where)
    return name, data


def read_note(note: bytes, where: str = "note") -> tuple[bytes, list[tuple[str, bytes]]]:
    """A note's text, and its signatures as (key name, key ID and signature); NOT verified.

    Raises:
        FormatError: `ledger.checkpoint.format`.
    """
    text, lines = _split(note, where)
    return text.encode(), [_signature(line, where) for line in lines]


def parse_checkpoint(note: bytes, where: str = "checkpoint") -> Checkpoint:
    """Read a checkpoint WITHOUT judging its signatures (C2SP tlog-checkpoint).

    Raises:
        FormatError: `ledger.checkpoint.format`.
    """
    text, signatures = _split(note, where)
    for line in signatures:
        _signature(line, where)
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not lines[0]:
        raise _bad("origin, size and root are not all there", where)
    origin, size, root = lines[:3]
    if not (size.isascii() and size.isdigit()) or len(size) > 19 or str(int(size)) != size:
        raise _bad("the size is no number", where)
    try:
        value = base64.b64decode(root, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != 32 or base64.b64encode(value).decode() != root:
        raise _bad("the root is not base64 of 32 bytes", where)
    if any(not line for line in lines[3:]):
        raise _bad("an extension line is empty", where)
    return Checkpoint(origin, int(size), value)


def open_checkpoint(note: bytes, keys: Sequence[NoteKey], where: str = "checkpoint") -> Checkpoint:
    """Read a checkpoint and check that one of `keys`, named as its origin, signed it.

    Raises:
        FormatError: `ledger.checkpoint.format`.
        RefusedError: `ledger.checkpoint.signature`: no signature, or a wrong one, of a known key.
    """
    checkpoint = parse_checkpoint(note, where)
    text, signatures = _split(note, where)
    good = False
    for line in signatures:
        name, data = _signature(line, where)
        for key in keys:
            if key.name != name or key.key_id != data[:4]:
                continue
            try:
                key.public_key.verify(data[4:], text.encode())
            except InvalidSignature:
                raise RefusedError(
                    "ledger.checkpoint.signature", f"the signature of {name} is wrong", where=where
                ) from None
            good = good or name == checkpoint.origin
    if not good:
        raise RefusedError(
            "ledger.checkpoint.signature",
            f"no known key of {checkpoint.origin[:200]} signed this checkpoint",
            hint="the log's certificate names its key",
            where=where,
        )
    return checkpoint


def format_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The note text of a checkpoint: origin, size, root; three lines."""
    root = base64.b64encode(checkpoint.root).decode()
    return f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n".encode()


def sign_note(text: bytes, name: str, signer: Signer) -> bytes:
    """Sign a note's text with an Ed25519 key; returns text, blank line and signature line.

    Raises:
        UsageError: the key is of another kind.
    """
    public = signer.public_key()
    if signer.algorithm is not Algorithm.ED25519 or not isinstance(public, Ed25519PublicKey):
        raise UsageError("ledger.key.kind", f"a log signs with Ed25519, this key is {signer.algorithm}")
    key = NoteKey(check_name(name), public)
    blob = base64.b64encode(key.key_id + signer.sign(text)).decode()
    return text + f"\n{_DASH}{name} {blob}\n".encode()
