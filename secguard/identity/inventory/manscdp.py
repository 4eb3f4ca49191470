"""The platform's own list: answers to a catalog query of GB/T 28181 (MANSCDP, `CmdType` Catalog; annex A).

A file holds one answer, or all the messages of one (each tells `SumNum`, the items of the whole answer, and `Num`, its
own). A document type is refused before anything in it is read, so there are no entities to expand. Unknown elements,
prefixes and attributes are ignored; passwords are never kept.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from secguard.core import FormatError
from secguard.identity.inventory.rows import MAX_ROWS, MAX_TEXT, Message, Problem, Row, Source
from secguard.identity.inventory.text import decoded, find_encoding

__all__ = ["read_catalog_xml"]

_MAX_DEPTH = 16
_MAX_TOKEN = 4 << 20
"""Characters from one `<` to the next; a parser keeps a token until it is whole."""
_MAX_CHILDREN = 1000
_MAX_MESSAGES = 100_000
_CLOSING = re.compile(rb"</\s*(?:[A-Za-z0-9_.-]{1,40}:)?(?:Response|Notify|Query|Control)\s*>", re.IGNORECASE)
_DECLARED = re.compile(rb"<\?xml[^>]{0,120}?encoding\s*=\s*[\"']([A-Za-z0-9_.-]{1,40})[\"']")
_FORBIDDEN = re.compile(r"<!(?!--|\[CDATA\[)")
"""A document type or anything that stands in one; without it there is no entity to expand and nothing to load."""
_OPENING = re.compile(r"<(?:[A-Za-z0-9_.-]{1,40}:)?item[\s/>]", re.IGNORECASE)
_PREFIX = re.compile(r"(</?)[A-Za-z_][A-Za-z0-9_.-]*:")
_DECLARATION = re.compile(r"\s*<\?xml[^>]{0,200}\?>")
# Element of an Item -> the field it fills, or a word of its own for `coverage`. IPAddress and Port are those of SIP.
_ELEMENTS: dict[str, str] = {
    "deviceid": "gbid",
    "name": "name",
    "manufacturer": "maker",
    "model": "model",
    "address": "site",
    "longitude": "longitude",
    "latitude": "latitude",
    "serialnumber": "vendor_serial",
    "mac": "mac",
    "ipaddress": "ip",
    "status": "presence",
    "parentid": "parent",
    "parental": "parental",
    "civilcode": "civil",
    "businessgroupid": "group",
}
for _word in (
    "DeviceID",
    "Name",
    "Manufacturer",
    "Model",
    "Address",
    "Longitude",
    "Latitude",
    "IPAddress",
    "Status",
    "ParentID",
):
    _ELEMENTS[_word] = _ELEMENTS[_word.casefold()]  # as the standard writes them: the quick way
_ITEM = ("Item", "item", "ITEM")
_INNER = ("mac", "group", "vendor_serial")


def read_catalog_xml(data: bytes, source: Source, asked: str = "") -> None:
    """Read all messages of a file into `source`."""
    view = memoryview(data)
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        text = "".join(decoded(data, find_encoding(data)))
        view = memoryview(text.encode("utf-8", "replace"))
        asked = "utf-8"
    encodings: dict[str, None] = {}
    line = 1
    for count, (start, stop) in enumerate(_messages(view)):
        where = f"{source.name}:{line}"
        if count >= _MAX_MESSAGES:
            source.problems.append(
                Problem(where, "", "identity.import.too-many", f"more than {_MAX_MESSAGES} messages", "split the file")
            )
            break
        part = view[start:stop]
        declared = _DECLARED.search(bytes(part[:512]))
        encoding = find_encoding(part, declared[1].decode() if declared else "", asked)
        encodings[encoding.codec] = None
        if encoding.note and f"a message {encoding.note}" not in source.notes:
            source.notes.append(f"a message {encoding.note}")
        reader = _Reader(source, line, hashlib.sha256(bytes(part).strip()).digest())
        try:
            reader.read(decoded(part, encoding))
        except ParseError as error:
            reader.fail(f"not XML: {error.msg.partition(':')[0]}", "an & in a name is written &amp;", error.position[0])
        except FormatError as error:
            reader.fail(error.message, error.hint, reader.line)
        line += bytes(part).count(b"\n")
        if len(source.rows) >= MAX_ROWS:
            break
    source.encoding = ", ".join(encodings)


def _messages(view: memoryview) -> Iterator[tuple[int, int]]:
    """Where each message starts and stops; `<`, `/` and `>` are never part of a character in GB18030."""
    start = 0
    for closing in _CLOSING.finditer(view):
        yield start, closing.end()
        start = closing.end()
    if bytes(view[start : start + (1 << 16)]).strip(b" \t\r\n\x1a") or not start:
        yield start, len(view)


def _whole_tags(pieces: Iterator[str]) -> Iterator[str]:
    """The text in pieces that end before a `<`, so that no tag is cut."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        cut = text.rfind("<")
        if cut < 0 or len(text) - cut > _MAX_TOKEN:
            if len(text) > _MAX_TOKEN:
                raise FormatError("identity.catalog.token", f"a tag or text of more than {_MAX_TOKEN} characters")
            cut = max(cut, 0)
        rest = text[cut:]
        yield text[:cut]
    yield rest


class _Reader:
    """One message, from the parser's events to rows."""

    def __init__(self, source: Source, line: int, sha256: bytes) -> None:
        self._source = source
        self._base = line
        self._message = Message(f"{source.name}:{line}", sha256=sha256)
        self._rows: list[Row] = []
        self._lines: list[int] = []
        self._command = ""
        self.line = 1

    def read(self, pieces: Iterator[str]) -> None:
        """Parse a message and hand its rows over; nothing of it is handed over if it is damaged."""
        parser: Any = XMLPullParser(("start", "end"))  # typeshed has one union for the events of all kinds
        path: list[Element] = []
        root = ""
        for piece in chain(_undeclared(_whole_tags(pieces)), [None]):
            if piece is None:
                parser.close()
            else:
                self._scan(piece)
                parser.feed(_PREFIX.sub(r"\1", piece) if ":" in piece else piece)
                self.line += piece.count("\n")
            for event, element in parser.read_events():
                if event == "start":
                    path.append(element)
                    if len(path) > _MAX_DEPTH:
                        raise FormatError("identity.catalog.depth", f"nested deeper than {_MAX_DEPTH} elements")
                    if len(path) == 1:
                        root = element.tag[:40]
                    continue
                path.pop()
                depth = len(path)
                if depth > 2:  # inside an item: most of a catalog, so the quick way
                    if len(path[-1]) > _MAX_CHILDREN and element.tag not in _ITEM:
                        raise FormatError(
                            "identity.catalog.children", f"an element with more than {_MAX_CHILDREN} others"
                        )
                    continue
                if element.tag in _ITEM:
                    if len(self._rows) + len(self._source.rows) >= MAX_ROWS:
                        raise FormatError("identity.import.too-many", f"more than {MAX_ROWS} items", hint="split it")
                    self._rows.append(self._row(element))
                elif depth == 1:
                    self._fact(element)
                if depth >= 1:
                    del path[-1][:]  # read; the tree never grows
        self._accept(root)

    def _accept(self, root: str) -> None:
        if root.casefold() == "notify":
            raise FormatError(
                "identity.catalog.notify",
                "a notification of changes, not a catalog",
                hint="export the platform's answer to a catalog query",
            )
        if root.casefold() != "response" or self._command.casefold() != "catalog":
            shown = f"{root} {self._command[:40]}".strip()
            raise FormatError(
                "identity.catalog.other",
                f"no answer to a catalog query, but {shown or 'something else'}",
                hint="its root is Response and its CmdType Catalog",
            )
        self._message.items = len(self._rows)
        self._source.messages.append(self._message)
        self._source.rows += self._rows

    def fail(self, reason: str, hint: str, line: int) -> None:
        """Note that the message cannot be read."""
        place = f"{self._source.name}:{self._base + max(line, 1) - 1}"
        self._source.problems.append(Problem(place, "", "identity.import.xml", reason, hint))

    def _scan(self, piece: str) -> None:
        """Refuse a document type before the parser sees it, and note the lines on which items start."""
        if found := _FORBIDDEN.search(piece):
            self.line += piece.count("\n", 0, found.start())
            raise FormatError("identity.catalog.doctype", "a document type is not allowed", hint="a catalog has none")
        line, at = self.line, 0
        for opening in _OPENING.finditer(piece):
            line += piece.count("\n", at, at := opening.start())
            self._lines.append(line)

    def _row(self, element: Element) -> Row:
        number = len(self._rows)
        line = self._lines[number] if number < len(self._lines) else self.line
        row = Row(f"{self._source.name}:{self._base + line - 1}", {})
        values = row.values
        for child in element:
            key = _ELEMENTS.get(child.tag) or _ELEMENTS.get(child.tag.casefold())
            if key is not None:
                text = child.text or ""
                if len(text) > MAX_TEXT:
                    row.bad.append((key, f"{len(text)} characters; {MAX_TEXT} are the limit"))
                elif key not in values:
                    values[key] = text
            elif len(child):  # Info
                for inner in child:
                    key = _ELEMENTS.get(inner.tag.casefold())
                    if key in _INNER and key not in values:
                        values[key] = (inner.text or "")[: MAX_TEXT + 1]
        return row

    def _fact(self, element: Element) -> None:
        text = (element.text or "").strip()
        match element.tag.casefold():
            case "cmdtype":
                self._command = text[:40]
            case "sn":
                self._message.sn = text[:40]
            case "deviceid":
                self._message.device = text[:40]
            case "sumnum":
                self._message.total = _number(text)
            case "devicelist":
                self._message.claimed = _number({k.casefold(): v for k, v in element.attrib.items()}.get("num", ""))


def _undeclared(pieces: Iterator[str]) -> Iterator[str]:
    """The text without its XML declaration, which no longer holds: the bytes are decoded already."""
    first = next(pieces, "")
    bare = first.lstrip("\ufeff \t\r\n")
    while not bare and (more := next(pieces, None)) is not None:
        first += more
        bare = first.lstrip("\ufeff \t\r\n")
    found = _DECLARATION.match(bare)
    rest = bare[found.end() :] if found else bare
    yield "\n" * first.count("\n", 0, len(first) - len(rest)) + rest
    yield from pieces


def _number(text: str) -> int | None:
    bare = text.strip()
    return int(bare) if bare.isascii() and bare.isdigit() and len(bare) <= 9 else None
