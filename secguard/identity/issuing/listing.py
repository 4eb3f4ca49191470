"""The list of devices that are to be provisioned: CSV or JSON lines, bounded, every line with its number.

A file that is not what it should be is refused as a whole, before anything is made; a line that is wrong only loses
itself, and is named with its number.
"""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from secguard.core import FormatError, SecguardError, UsageError
from secguard.core.limits import read_bounded
from secguard.identity.inventory.fields import field_named, unguard
from secguard.identity.inventory.text import decoded, find_encoding

__all__ = ["Line", "Listing", "read_listing"]

MAX_FILE = 256 << 20
"""Bytes of a list."""
MAX_LINES = 1_000_000
"""Devices of a list."""
_MAX_LINE = 64 << 10
_MAX_CELL = 1024
_MAX_CSR = 32 << 10
_MAX_COLUMNS = 200
_OURS = {"profile": "profile", "证书模板": "profile", "模板": "profile", "csr": "csr", "证书请求": "csr"}
_TAKEN = {"gbid", "name", "vendor_serial"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the list.

    Attributes:
        number: of the file's line where it begins, from 1.
        gbid: the device's ID, unchecked.
        profile: name of the profile; empty: as the job says.
        name: what people call the device.
        vendor_serial: the maker's serial number.
        csr: a request in PEM, or the name of its file; empty: a key is made.
    """

    number: int
    gbid: str
    profile: str = ""
    name: str = ""
    vendor_serial: str = ""
    csr: str = ""


@dataclass(slots=True)
class Listing:
    """A list as read.

    Attributes:
        name: the file's name.
        sha256: of its bytes, in hex.
        lines: what can be worked on.
        wrong: (line number, ID as far as it is known, why) of what cannot.
        ignored: columns that say nothing to provisioning.
    """

    name: str
    sha256: str
    lines: list[Line] = field(default_factory=list)
    wrong: list[tuple[int, str, SecguardError]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_listing(path: Path, encoding: str = "") -> Listing:
    """Read a list: JSON lines if its first character is a brace, else CSV whose first line names the columns.

    Args:
        path: the file.
        encoding: `utf-8`, `gb18030` or `utf-16`; empty: found out. A byte order mark decides over it.

    Raises:
        UsageError: no such file, an unknown encoding.
        FormatError: it is too large, or no such list; nothing of it is used.
    """
    data = read_bounded(path, MAX_FILE)
    listing = Listing(path.name, hashlib.sha256(data).hexdigest())
    text = "".join(decoded(data, find_encoding(data, asked=encoding)))
    if not text.strip():
        raise FormatError("identity.list.empty", "the list is empty", where=str(path))
    (_read_json if text.lstrip("\ufeff \t\r\n").startswith("{") else _read_csv)(text, listing)
    if not listing.lines and not listing.wrong:
        raise FormatError("identity.list.empty", "the list names no device", hint="add lines to it", where=str(path))
    return listing


def _add(listing: Listing, number: int, values: dict[str, str]) -> None:
    if len(listing.lines) + len(listing.wrong) >= MAX_LINES:
        raise FormatError(
            "identity.list.long", f"more than {MAX_LINES} devices", hint="split the file", where=listing.name
        )
    gbid = values.get("gbid", "").strip()
    for name, value in values.items():
        limit = _MAX_CSR if name == "csr" else _MAX_CELL
        if len(value) > limit:
            _wrong(listing, number, gbid, f"{name} has {len(value)} characters, more than {limit}")
            return
        if "\ufffd" in value or "\0" in value:
            _wrong(listing, number, gbid, f"{name} is not text in the file's encoding", hint="give --encoding")
            return
    if not gbid:
        _wrong(listing, number, "", "the line names no device", hint="fill in the column gbid")
        return
    listing.lines.append(Line(number, gbid, **{k: v.strip() for k, v in values.items() if k != "gbid"}))


def _wrong(listing: Listing, number: int, gbid: str, reason: str, hint: str = "") -> None:
    listing.wrong.append((number, gbid[:40], UsageError("identity.list.line", reason, hint=hint or "correct the line")))


def _physical(text: str, name: str) -> Iterator[str]:
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if len(line) > _MAX_LINE:
            raise FormatError(
                "identity.list.line-length", f"a line of more than {_MAX_LINE} characters", where=f"{name}:{number}"
            )
        yield line


def _read_csv(text: str, listing: Listing) -> None:
    lines = _physical(text.lstrip("\ufeff"), listing.name)
    head = text.lstrip("\ufeff").partition("\n")[0]
    reader = csv.reader(lines, delimiter=max(",\t;", key=head.count), strict=True)
    columns: dict[int, str] = {}
    width, start = 0, 1
    try:
        for cells in reader:
            number, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns, width = _columns(cells, listing, number), len(cells)
            elif len(cells) > width and any(cell.strip() for cell in cells[width:]):
                reason = f"{len(cells)} cells under {width} heads"
                _wrong(listing, number, cells[0], reason, "a cell with a comma needs quotation marks")
            else:
                _add(listing, number, {n: unguard(cells[i]) for i, n in columns.items() if i < len(cells)})
    except csv.Error as error:
        raise FormatError(
            "identity.list.csv",
            f"not CSV: {error}",
            hint="a quotation mark inside a cell is written twice, and every quoted cell must end; nothing was issued",
            where=f"{listing.name}:{start}",
        ) from error


def _columns(cells: list[str], listing: Listing, number: int) -> dict[int, str]:
    where = f"{listing.name}:{number}"
    if len(cells) > _MAX_COLUMNS:
        raise FormatError("identity.list.columns", f"more than {_MAX_COLUMNS} columns", where=where)
    found: dict[int, str] = {}
    for index, cell in enumerate(cells):
        name = _named(cell)
        if not name:
            if cell.strip():
                listing.ignored.append(cell.strip()[:40])
        elif name in found.values():
            raise FormatError("identity.list.columns", f"two columns mean {name}", hint="keep one", where=where)
        else:
            found[index] = name
    if "gbid" not in found.values():
        raise FormatError(
            "identity.list.head",
            "no column holds the devices' IDs",
            hint="the first line names the columns: gbid (or 设备编码), profile, name, vendor_serial, csr",
            where=where,
        )
    return found


def _named(cell: str) -> str:
    """What a head means here; empty for what provisioning does not need."""
    own = _OURS.get(cell.strip().casefold(), "")
    if own:
        return own
    name = field_named(cell)
    return name if name in _TAKEN else ""


def _read_json(text: str, listing: Listing) -> None:
    decoder = msgspec.json.Decoder(dict[str, str | int | float | bool | None])
    for number, line in enumerate(_physical(text.lstrip("\ufeff"), listing.name), 1):
        if not line.strip():
            continue
        try:
            value = decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise FormatError(
                "identity.list.json",
                f"not an object of texts: {str(error)[:100]}",
                hint="one JSON object a line; nothing was issued",
                where=f"{listing.name}:{number}",
            ) from error
        named = [(_named(key[:100]), item) for key, item in value.items()]
        for key in value:
            if not _named(key[:100]) and key[:40] not in listing.ignored and len(listing.ignored) < _MAX_COLUMNS:
                listing.ignored.append(key[:40])
        if len({name for name, _ in named if name}) < sum(bool(name) for name, _ in named):
            _wrong(listing, number, "", "two keys mean the same", hint="keep one of them")
            continue
        _add(listing, number, {name: "" if item is None else str(item) for name, item in named if name})
