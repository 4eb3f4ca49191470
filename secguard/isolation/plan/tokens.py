"""Tokens: what a probe carries, so that its arrival cannot be forged, mistaken or replayed.

A payload is MAGIC (4) + the run's tag (8) + one AES-128 block (16) over `check (8) kind (1) case (4) seq (2) 0`.
The 9 fixed bytes of the block authenticate it (encode-then-encipher with a pseudorandom permutation: a guess succeeds
with 2^-72). The key comes from the plan's secret by HKDF-SHA256 (RFC 5869) with the run ID as salt, so a token of
another run never opens. The whole payload stays 28 bytes: it fits where the smallest fragment or quote does.
"""

import base64
import binascii
import contextlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MAGIC", "SIZE", "Kind", "Status", "Token", "TokenColumns", "Tokens", "label", "marked", "phase_of"]

MAGIC = b"\xa7sgI"
_TAG = 8
SIZE = len(MAGIC) + _TAG + 16
"""Bytes of a payload."""
_BLOCK = struct.Struct(">8sBIHB")
_MAX_FOUND = 4
_HINT_STEP = 0x9E3779B1
_HINT_BACK = pow(_HINT_STEP, -1, 1 << 32)
# A DNS label says the payload in base32; resolvers may change its case. Six characters hold 30 of the mark's 32 bits.
_LABEL_HEAD = base64.b32encode(MAGIC)[:6].lower()
_LABEL = -(-SIZE * 8 // 5)


class Kind(IntEnum):
    """What carries the token."""

    PROBE = 1
    REPLY_OPEN = 2
    REPLY_CLOSED = 3
    BEACON = 4


class Status(IntEnum):
    """What a found payload is worth."""

    GOOD = 0
    FORGED = 1
    FOREIGN = 2


class Token(msgspec.Struct, frozen=True):
    """A payload found in a packet; kind, case and seq mean something only when `status` is GOOD."""

    status: Status
    kind: int = 0
    case: int = 0
    seq: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """Opened payloads as columns; kind, case and seq count only where `status` is GOOD, and are 0 elsewhere."""

    status: "NDArray[np.uint8]"
    kind: "NDArray[np.uint8]"
    case: "NDArray[np.int64]"
    seq: "NDArray[np.int64]"


def phase_of(seq: int) -> int:
    """Phase a sequence number belongs to: 1 before, 2 during, 3 after; 0 application data after a handshake."""
    return seq >> 8 & 3


def label(payload: bytes) -> bytes:
    """A payload as a DNS label: base32 without padding, lower case (RFC 4648 section 6)."""
    return base64.b32encode(payload).rstrip(b"=").lower()


def marked(packet: bytes) -> bool:
    """Whether a packet may hold a payload, bare or as a DNS label."""
    return MAGIC in packet or _LABEL_HEAD in packet.lower()


class Tokens:
    """Makes and opens the tokens of one run."""

    def __init__(self, secret: bytes, run: bytes) -> None:
        material = HKDF(hashes.SHA256(), 16 + 8 + 4, run, b"secguard isolation run key v1").derive(secret)
        # One block at a time with 72 fixed bits inside: ECB is the bare permutation that this needs, not a mode.
        self._cipher = Cipher(algorithms.AES(material[:16]), modes.ECB())  # noqa: S305
        self._check = material[16:24]
        self._hint = int.from_bytes(material[24:28])
        self._head = MAGIC + run[:_TAG]

    def make(self, kind: Kind, cases: list[int], seqs: list[int]) -> list[bytes]:
        """Payloads for a batch of (case, seq)."""
        pack, check = _BLOCK.pack, self._check
        blocks = b"".join([pack(check, kind, case, seq, 0) for case, seq in zip(cases, seqs, strict=True)])
        sealed = self._cipher.encryptor().update(blocks)
        head = self._head
        return [head + sealed[i : i + 16] for i in range(0, len(sealed), 16)]

    def make_columns(self, kind: Kind, cases: "NDArray[Any]", seqs: "NDArray[Any] | int") -> "NDArray[np.uint8]":
        """Payloads for columns of (case, seq), as the rows of a (n, 28) matrix: what `make` makes of each."""
        import numpy as np

        blocks = np.zeros(len(cases), _block_type())
        blocks["check"] = np.frombuffer(self._check, "V8")
        blocks["kind"], blocks["case"], blocks["seq"] = kind, cases, seqs
        sealed = self._cipher.encryptor().update(blocks.tobytes())
        rows = np.empty((len(cases), SIZE), np.uint8)
        rows[:, :-16] = np.frombuffer(self._head, np.uint8)
        rows[:, -16:] = np.frombuffer(sealed, np.uint8).reshape(-1, 16)
        return rows

    def open_columns(self, payloads: "NDArray[np.uint8]") -> TokenColumns:
        """What each row of a (n, 28) matrix is worth: as `find` tells of one."""
        import numpy as np

        known = (payloads[:, :-16] == np.frombuffer(self._head, np.uint8)).all(axis=1)
        opened = np.frombuffer(self._cipher.decryptor().update(payloads[:, -16:].tobytes()), _block_type())
        good = known & (opened["check"] == np.frombuffer(self._check, "V8")) & (opened["zero"] == 0)
        status = np.where(good, Status.GOOD, np.where(known, Status.FORGED, Status.FOREIGN)).astype(np.uint8)
        return TokenColumns(
            status,
            np.where(good, opened["kind"], 0).astype(np.uint8),
            np.where(good, opened["case"], 0).astype(np.int64),
            np.where(good, opened["seq"], 0).astype(np.int64),
        )

    def hint_columns(self, cases: "NDArray[Any]") -> "NDArray[np.uint32]":
        """The `hint` of each case."""
        import numpy as np

        return np.uint32(self._hint) ^ np.asarray(cases).astype(np.uint32) * np.uint32(_HINT_STEP)

    def hint(self, case: int) -> int:
        """A 32-bit initial sequence number for a TCP probe without payload: a reason to look, never a proof."""
        return (self._hint ^ case * _HINT_STEP) & 0xFFFFFFFF

    def hinted(self, isn: int) -> int:
        """The case whose `hint` a sequence number is; any number is that of some case, in the plan or not."""
        return (isn ^ self._hint) * _HINT_BACK & 0xFFFFFFFF

    def find(self, packet: bytes) -> list[Token]:
        """Every payload in a packet, wherever it stands; at most four."""
        found: list[Token] = []
        at = packet.find(MAGIC)
        while at >= 0 and len(found) < _MAX_FOUND:
            # A quote in an ICMP error may end inside the payload: that is no token, and no forgery either.
            if at + SIZE <= len(packet):
                found.append(self._open(packet[at : at + SIZE], at))
            at = packet.find(MAGIC, at + 1)
        lower = packet.lower()
        at = lower.find(_LABEL_HEAD)
        while at >= 0 and len(found) < _MAX_FOUND:
            with contextlib.suppress(binascii.Error):
                payload = base64.b32decode(lower[at : at + _LABEL].upper() + b"===")
                if len(payload) == SIZE and payload.startswith(MAGIC):
                    found.append(self._open(payload, at))
            at = lower.find(_LABEL_HEAD, at + 1)
        return found

    def _open(self, payload: bytes, offset: int) -> Token:
        if not payload.startswith(self._head):
            return Token(Status.FOREIGN, offset=offset)
        check, kind, case, seq, zero = _BLOCK.unpack(self._cipher.decryptor().update(payload[-16:]))
        if check != self._check or zero:
            return Token(Status.FORGED, offset=offset)
        return Token(Status.GOOD, kind, case, seq, offset)


@cache
def _block_type() -> "np.dtype[Any]":
    """`_BLOCK` for columns."""
    import numpy as np

    return np.dtype([("check", "V8"), ("kind", "u1"), ("case", ">u4"), ("seq", ">u2"), ("zero", "u1")])
