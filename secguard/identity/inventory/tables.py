"""Lists of devices as CSV and as JSON (an array, or one object a line), read in pieces and bounded."""

import csv
import difflib
import io
import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from secguard.identity.inventory.fields import CHINESE, FIELDS, field_named, unguard
from secguard.identity.inventory.rows import MAX_ROWS, MAX_TEXT, Problem, Row, Source
from secguard.identity.inventory.text import Encoding, decoded

__all__ = ["read_csv", "read_json"]

_MAX_COLUMNS = 200
_MAX_LINE = 1 << 20
"""Characters of a line; the csv module bounds a cell by itself (131,072)."""
_MAX_STRANGE = 1000
_NEAR = 0.85
_MAX_RECORD = 1 << 18
"""Characters of one JSON record; the buffer holds a few of them."""


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    """Physical lines of a text that comes in pieces; LF, CR LF and CR end a line."""
    rest = ""
    for piece in pieces:
        text, rest = rest + piece, ""
        if text.endswith("\r"):  # it may be half of \r\n
            text, rest = text[:-1], "\r"
        lines = io.StringIO(text, newline="").readlines()
        if lines and not lines[-1].endswith(("\n", "\r")):
            rest = lines.pop() + rest
        if len(rest) > _MAX_LINE:
            raise csv.Error(f"a line of more than {_MAX_LINE} characters")
        yield from lines
    if rest:
        yield rest


def _head(cells: list[str], source: Source, where: str) -> dict[int, str] | None:
    """Column number -> field; None after a problem that leaves nothing to read."""
    found: dict[int, str] = {}
    ignored: list[str] = []
    wrong = False
    if len(cells) > _MAX_COLUMNS:
        source.problems.append(
            Problem(where, "", "identity.import.columns", f"{len(cells)} columns; {_MAX_COLUMNS} are the limit")
        )
        return None
    for index, cell in enumerate(cells):
        name = field_named(cell)
        if name and name in found.values():
            source.problems.append(
                Problem(where, cell[:40], "identity.import.column", f"two columns mean {name}", "keep one of them")
            )
            wrong = True
        elif name:
            found[index] = name
        elif cell.strip():
            near = difflib.get_close_matches(cell.strip().casefold(), [*FIELDS, *CHINESE.values()], 1, _NEAR)
            if near:
                source.problems.append(
                    Problem(
                        where,
                        cell[:40],
                        "identity.import.column",
                        f"unknown column {cell[:40]!r}",
                        f"did you mean {near[0]}?",
                    )
                )
                wrong = True
            else:
                ignored.append(cell.strip()[:40])
    if "gbid" not in found.values():
        source.problems.append(
            Problem(
                where,
                "",
                "identity.import.head",
                "no column holds the devices' IDs",
                "the first line names the columns: gbid (or 设备编码), name, vendor_serial, mac, ...",
            )
        )
        return None
    if ignored:
        source.notes.append(f"columns that were not read: {', '.join(ignored[:20])}")
    return None if wrong else found


def read_csv(data: bytes, encoding: Encoding, source: Source) -> None:
    """Read CSV (RFC 4180; also with semicolons or tabs) into `source`; the first line names the columns."""
    lines = _lines(decoded(data, encoding))
    columns: dict[int, str] | None = None
    start, skipped, width = 1, 0, 0
    try:
        first = ""
        for first in lines:
            if first.strip(" \t\r\n,;\ufeff") and not first.startswith("sep="):
                break
            skipped += 1
        else:
            source.problems.append(Problem(source.name, "", "identity.import.empty", "the file is empty"))
            return
        delimiter = max(",\t;", key=first.count)
        reader = csv.reader(chain([first.lstrip("\ufeff")], lines), delimiter=delimiter, strict=True)
        start = skipped + 1
        for cells in reader:
            where, start = f"{source.name}:{start}", skipped + reader.line_num + 1
            if columns is None:
                columns, width = _head(cells, source, where), len(cells)
                if columns is None:
                    return
                continue
            if not any(cells) or not any(cell.strip() for cell in cells):
                continue
            if len(source.rows) >= MAX_ROWS:
                source.problems.append(_too_many(where))
                return
            row = Row(where, {})
            if len(cells) > width and any(cell.strip() for cell in cells[width:]):
                row.bad.append(("", f"{len(cells)} cells under {width} heads; a cell with a comma needs quotes"))
            for index, name in columns.items():
                _take(row, name, unguard(cells[index]) if index < len(cells) else "")
            source.rows.append(row)
    except csv.Error as error:
        source.problems.append(
            Problem(
                f"{source.name}:{start}",
                "",
                "identity.import.csv",
                f"not CSV from here on: {error}",
                "a quotation mark inside a cell is written twice; every quoted cell must end",
            )
        )


def _take(row: Row, name: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        row.bad.append((name, f"{len(text)} characters; {MAX_TEXT} are the limit"))
        return
    row.values[name] = text


def _too_many(where: str) -> Problem:
    return Problem(where, "", "identity.import.too-many", f"more than {MAX_ROWS} devices", "split the file")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names a key twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


class _Window:
    """A text that comes in pieces, seen through a window that always shows a whole record."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._ended = False
        self.text = ""
        self.at = 0
        self.line = 1

    def fill(self) -> None:
        """Show at least one record's length, or all that is left."""
        while not self._ended and len(self.text) - self.at < _MAX_RECORD:
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
            else:
                self.text, self.at = self.text[self.at :] + piece, 0

    def skip(self, characters: str) -> str:
        """Pass over white space and `characters`; the next character, or nothing at the end."""
        while True:
            self.fill()
            here = self.at
            while self.at < len(self.text) and self.text[self.at] in characters:
                self.at += 1
            self.line += self.text.count("\n", here, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if self._ended:
                return ""

    def move(self, to: int) -> None:
        """Go on to a position of the window."""
        self.line += self.text.count("\n", self.at, to)
        self.at = to


_BLANK = " \t\r\n\ufeff"
_LIST = re.compile(r'"(?:devices|list|rows|records)"\s{0,8}:\s{0,8}\[')


def _open_list(window: _Window) -> bool:
    """Go behind the bracket that opens the list; True if there is one (else: one object after the other)."""
    first = window.skip(_BLANK)
    if first == "[":
        window.move(window.at + 1)
        return True
    # what `device list --json` and `device export` print: {"...", "devices": [
    # and what platforms answer: {"code": 0, "data": {"list": [
    if first == "{" and (found := _LIST.search(window.text, window.at, window.at + 4096)):
        window.move(found.end())
        return True
    return False


def read_json(data: bytes, encoding: Encoding, source: Source) -> None:
    """Read JSON into `source`: an array of objects, `{"devices": [...]}`, or one object a line."""
    decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)
    window = _Window(decoded(data, encoding))
    window.fill()
    listed = _open_list(window)
    ignored: dict[str, None] = {}
    strange = 0
    while True:
        character = window.skip(f"{_BLANK},")
        if not character:
            if listed:
                source.problems.append(
                    Problem(
                        f"{source.name}:{window.line}",
                        "",
                        "identity.import.json",
                        "the list does not end",
                        "the file was cut short; get it again",
                    )
                )
            break
        if character == "]" and listed:
            break
        where = f"{source.name}:{window.line}"
        if len(source.rows) >= MAX_ROWS:
            source.problems.append(_too_many(where))
            return
        try:
            value, end = decoder.raw_decode(window.text, window.at)
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else str(getattr(error, "msg", error))
            line = window.line
            if isinstance(error, json.JSONDecodeError):
                line += window.text.count("\n", window.at, error.pos)
            problem = Problem(
                f"{source.name}:{line}",
                "",
                "identity.import.json",
                f"not JSON from here on: {reason[:80]}",
                f"each device is one object of at most {_MAX_RECORD} characters",
            )
            source.problems.append(problem)
            return
        window.move(end)
        strange += not isinstance(value, dict)
        if strange > _MAX_STRANGE:
            problem = Problem(where, "", "identity.import.json", f"more than {_MAX_STRANGE} records are no objects")
            source.problems.append(problem)
            return
        source.rows.append(_json_row(value, where, ignored))
    if ignored:
        source.notes.append(f"keys that were not read: {', '.join(list(ignored)[:20])}")
    if not source.rows and not source.problems:
        source.notes.append("the file names no device")


def _json_row(value: Any, where: str, ignored: dict[str, None]) -> Row:
    row = Row(where, {})
    if not isinstance(value, dict):
        row.bad.append(("", "not an object"))
        return row
    for key, item in value.items():
        name = field_named(key[:100])
        if not name:
            if len(ignored) < _MAX_COLUMNS:
                ignored[key[:40]] = None
        elif name in row.values:
            row.bad.append((name, f"two keys mean {name}"))
        elif isinstance(item, str):
            _take(row, name, item)
        elif item is None:
            row.values[name] = ""
        elif isinstance(item, bool):
            row.values[name] = "true" if item else "false"
        elif isinstance(item, int | float) and (isinstance(item, float) or item.bit_length() < 256):
            row.values[name] = repr(item)
        else:
            row.bad.append((name, "not a text or a number"))
    return row
