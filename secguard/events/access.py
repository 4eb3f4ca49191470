"""What `data` of an access event says: the fields that reports, searches and ECS documents rely on, by name and type.

A platform may add any further keys; they are kept as they are, within bounds.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec

from secguard.core.errors import FormatError
from secguard.events.kinds import ACCESS_KINDS

__all__ = ["MAX_KEYS", "Access", "AccessFile", "access_of", "check_access"]

MAX_KEYS = 256
"""Keys of `data`, those in inner objects not counted."""
_MAX_KEY = 128

_Name = Annotated[str, msgspec.Meta(max_length=256)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$")]


class AccessFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that an act made or handed over.

    Attributes:
        name: its name.
        sha256: its digest, in hex.
        bytes: its size.
    """

    name: _Name = ""
    sha256: _Sha256 | None = None
    bytes: _Count | None = None


class Access(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`data` of live view, playback, download, query, export, PTZ, login, share, configuration, key release, delete.

    Who, for which case, by whose approval, why and with what outcome are fields of the event itself.

    Attributes:
        camera: GB/T 28181 ID of the camera, where the event's subject is something else (a file, a folder).
        cameras: several of them.
        start: begin of the recorded time that was watched, taken or searched; with an offset.
        end: its end; with an offset.
        seconds: how long the act took.
        bytes: how much was handed out.
        hits: how many recordings a query found.
        files: what was made or handed out.
        session: the platform's or the SIP dialogue's name of the session.
        protocol: how the video went: `gb28181`, `rtsp`, `hls`, `webrtc`.
        stream: `main`, `sub`, or as the platform names it.
        client: program or device that the person used.
        recipient: with whom video was shared, or to whom it was handed.
        command: a PTZ or device command.
        setting: what was configured.
        before: its value before.
        after: its value after.
        key_id: name of the released key; never the key.
        query: what was searched for.
        expires: until when a share holds; with an offset.
    """

    camera: _Name = ""
    cameras: Annotated[list[_Name], msgspec.Meta(max_length=1000)] = []
    start: datetime | None = None
    end: datetime | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    bytes: _Count | None = None
    hits: _Count | None = None
    files: Annotated[list[AccessFile], msgspec.Meta(max_length=1000)] = []
    session: _Name = ""
    protocol: _Name = ""
    stream: _Name = ""
    client: _Name = ""
    recipient: _Name = ""
    command: _Name = ""
    setting: _Name = ""
    before: Any = None
    after: Any = None
    key_id: _Name = ""
    query: _Text = ""
    expires: datetime | None = None


_FIELDS = frozenset(Access.__struct_fields__)


def access_of(data: Mapping[str, Any]) -> Access:
    """The known fields of an event's `data`.

    Raises:
        FormatError: `events.data`: a known field has another type or is out of range; names the field.
    """
    try:
        return msgspec.convert(data, Access)
    except msgspec.ValidationError as error:
        raise FormatError("events.data", str(error).replace("`$.", "`data."), where="data") from error


def check_access(kind: str, data: Mapping[str, Any]) -> None:
    """Hold `data` of an event from outside to the vocabulary.

    Raises:
        FormatError: `events.data`: a known field is wrong, a time lacks its offset, the range ends before it begins;
            `events.data.keys`: too many keys, or one too long.
    """
    if not data:
        return
    if len(data) > MAX_KEYS or max(map(len, data)) > _MAX_KEY:
        raise FormatError("events.data.keys", f"more than {MAX_KEYS} keys, or one of over {_MAX_KEY} characters")
    if kind not in ACCESS_KINDS or _FIELDS.isdisjoint(data):
        return
    access = access_of(data)
    for name in ("start", "end", "expires"):
        value = getattr(access, name)
        if value is not None and value.tzinfo is None:
            raise FormatError(
                "events.data", f"data.{name} has no UTC offset", hint="append Z or +08:00", where=f"data.{name}"
            )
    if access.start is not None and access.end is not None and access.end < access.start:
        raise FormatError("events.data", "the range ends before it begins", where="data.end")
