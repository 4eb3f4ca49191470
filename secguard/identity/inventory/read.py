"""Read a list of devices, whatever its form: CSV, JSON, JSON lines, or a GB/T 28181 catalog."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from secguard.core import FormatError
from secguard.core.limits import read_bounded
from secguard.identity.inventory.manscdp import read_catalog_xml
from secguard.identity.inventory.rows import MAX_FILE, Source, no_collection
from secguard.identity.inventory.tables import read_csv, read_json
from secguard.identity.inventory.text import find_encoding

__all__ = ["FORMATS", "merge", "read_list"]

FORMATS = ("csv", "json", "catalog")
_SNIFFED = 4096


def read_list(path: Path, *, form: str = "", encoding: str = "") -> Source:
    """Read a file; what cannot be read is listed in the source's `problems`.

    Args:
        path: the file, at most `MAX_FILE` bytes.
        form: one of `FORMATS`; empty: its content says it.
        encoding: `utf-8`, `gb18030` (also for GBK and GB2312) or `utf-16`; empty: found out.

    Raises:
        UsageError: there is no such file, or the encoding is not known.
        FormatError: the file is too large, or holds no text.
        SystemPartError: it cannot be read.
    """
    data = read_bounded(path, MAX_FILE)
    source = Source(path.name, hashlib.sha256(data).hexdigest(), len(data))
    start = data[:_SNIFFED].lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\x00")[:1]
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise FormatError(
            "identity.import.workbook",
            "a spreadsheet's own format",
            hint="save it as CSV (UTF-8), with the column of IDs formatted as text",
            where=str(path),
        )
    source.format = form or {b"<": "catalog", b"{": "json", b"[": "json"}.get(start, "csv")
    with no_collection():
        if source.format == "catalog":
            read_catalog_xml(data, source, encoding)
        else:
            found = find_encoding(data, asked=encoding)
            source.encoding = found.codec
            (read_json if source.format == "json" else read_csv)(data, found, source)
    return source


def merge(sources: Sequence[Source]) -> Source:
    """Several files as one list: the pages of a catalog. Its digest is the SHA-256 over the files' digests."""
    if len(sources) == 1:
        return sources[0]
    digest = hashlib.sha256("".join(item.sha256 for item in sources).encode()).hexdigest()
    forms = {item.format for item in sources}
    return Source(
        name=", ".join(item.name for item in sources)[:200],
        sha256=digest,
        size=sum(item.size for item in sources),
        format=forms.pop() if len(forms) == 1 else "mixed",
        encoding=", ".join(dict.fromkeys(item.encoding for item in sources)),
        rows=[row for item in sources for row in item.rows],
        problems=[problem for item in sources for problem in item.problems],
        notes=[note for item in sources for note in item.notes],
        messages=[message for item in sources for message in item.messages],
    )
