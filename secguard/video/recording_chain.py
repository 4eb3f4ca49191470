"""The chain of a recording: a file of signed records beside the segments, which binds them to each other.

`recording.chain.jsonl` holds one DSSE envelope a line (payload type `application/vnd.secguard.recording+json`): `open`,
then a `segment` for each file, `heartbeat`s that say that there was nothing new, and `close`. Each names its number and
the SHA-256 of the line before it, so a line that is missing, edited, moved or put in is found, and with it the file.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import FormatError, SystemPartError, UsageError
from secguard.keys import unseal

__all__ = ["CHAIN_TYPE", "MAX_LINE", "MAX_LINES", "Line", "Record", "Segment", "read_lines"]

CHAIN_TYPE = "application/vnd.secguard.recording+json"
MAX_LINE = 1 << 18
"""Bytes of a line."""
MAX_LINES = 1 << 20
"""Lines of a chain: a year of segments and heartbeats, one of each a minute."""

_MAX_CHAIN = 16
_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_HexOrNone = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Text = Annotated[str, msgspec.Meta(max_length=64)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_Id = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One file of the recording.

    Attributes:
        number: of the segment in the recording, from 1.
        name: of the file, relative to the recording's folder, with `/`.
        size, sha256: the whole file.
        manifest: SHA-256 of its manifest's envelope.
        start, end, time_source: wall clock, as in the manifest.
        gops, frames, seis, first_counter, last_counter: as in the manifest.
    """

    number: Annotated[int, msgspec.Meta(ge=1)]
    name: _Name
    size: _Count
    sha256: _Hex
    manifest: _Hex
    start: _Text
    end: _Text
    time_source: _Text = "claimed"
    gops: _Count = 0
    frames: _Count = 0
    seis: _Count = 0
    first_counter: _Count = 0
    last_counter: _Count = 0


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One line of the chain.

    Attributes:
        v: version of the format.
        kind: what the line says.
        recording: ID of the recording.
        device: GB/T 28181 ID of its camera.
        sequence: number of the line, from 1.
        previous: SHA-256 of the line before, without its line end; empty in the first.
        time: when the line was written, RFC 3339, as claimed by the signer.
        chain: certificates of the signer in PEM, leaf first; where it is empty, those of the lines before count.
        sealed: with `chain`: what the signer is, see `Manifest.sealed`.
        heartbeat: in `open`: at least every so many seconds a line is promised; 0: no promise.
        max_gap: in `open`: the segments follow each other with at most so many seconds between; -1: no promise.
        whole: in `open`: the recording is all that lies in its folder.
        segment: in `segment`: the file.
        until: in `heartbeat` and `close`: up to this time there was nothing else.
        segments: in `heartbeat` and `close`: segments so far.
    """

    v: int
    kind: Literal["open", "segment", "heartbeat", "close"]
    recording: _Id
    device: Annotated[str, msgspec.Meta(pattern="^[0-9]{20}$")]
    sequence: Annotated[int, msgspec.Meta(ge=1, le=MAX_LINES)]
    previous: _HexOrNone = ""
    time: _Text
    chain: Annotated[str, msgspec.Meta(max_length=MAX_LINE)] = ""
    sealed: Literal["recording", "import"] = "recording"
    heartbeat: _Count = 0
    max_gap: Annotated[float, msgspec.Meta(ge=-1)] = -1.0
    whole: bool = False
    segment: Segment | None = None
    until: _Text = ""
    segments: _Count = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line as read.

    Attributes:
        number: its place in the file, from 1.
        sha256: hash of its bytes without the line end, hex.
        record: what it says; None if it is no record. Worth nothing until `signed_by` a believed key.
        data: its bytes, without the line end.
        torn: it has no line end: writing it was interrupted.
    """

    number: int
    sha256: str
    record: Record | None
    data: bytes
    torn: bool = False

    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The chain that the line brings.

        Raises:
            FormatError: it cannot be read.
        """
        text = self.record.chain if self.record is not None else ""
        try:
            found = tuple(x509.load_pem_x509_certificates(text.encode()))
            for item in found:
                _ = (item.subject, item.issuer, item.public_key())
        except Exception as error:
            raise FormatError(
                "video.recording.format", "unreadable certificates", where=f"line {self.number}"
            ) from error
        if len(found) > _MAX_CHAIN:
            raise FormatError("video.recording.format", f"more than {_MAX_CHAIN} certificates")
        return found

    def signed_by(self, key: PublicKeyTypes) -> bool:
        """The key signed the line."""
        try:
            return unseal(self.data, CHAIN_TYPE, [key])[1] is not None
        except (FormatError, UsageError):
            return False


def _record(data: bytes) -> Record | None:
    try:
        payload, _ = unseal(data, CHAIN_TYPE, ())
        record = msgspec.json.decode(payload, type=Record)
    except (FormatError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    whole = (record.kind == "segment") == (record.segment is not None)
    return record if record.v == 1 and whole else None


def _parse(number: int, data: bytes) -> Line:
    torn = not data.endswith(b"\n")
    body = data if torn else data[:-1]
    return Line(number, hashlib.sha256(body).hexdigest(), _record(body), body, torn)


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a chain, one at a time; those that are no records have none.

    Raises:
        UsageError: no such file.
        SystemPartError: it cannot be read.
        FormatError: a line is too long, or there are too many.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while data := file.readline(MAX_LINE + 1):
                number += 1
                if len(data) > MAX_LINE:
                    where = f"{path}, line {number}"
                    raise FormatError("video.recording.format", f"a line of more than {MAX_LINE} bytes", where=where)
                if number > MAX_LINES:
                    raise FormatError("video.recording.format", f"more than {MAX_LINES} lines", where=str(path))
                yield _parse(number, data)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError("core.file.missing", "no such file", where=str(path)) from None
    except OSError as error:
        raise SystemPartError("core.file.unreadable", f"cannot read: {error.strerror}", where=str(path)) from error
