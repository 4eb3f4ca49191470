"""Write the register down: CSV, JSON or JSON lines, so that an import reads the same again."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from secguard.core import UsageError
from secguard.identity.inventory.fields import CHINESE, FIELDS, guard
from secguard.identity.records import DeviceRecord
from secguard.store import atomic_write

__all__ = ["EXPORTS", "device_row", "export_devices"]

EXPORTS = (".csv", ".json", ".jsonl")
"""What a file's name may end in."""
_TEXTS = frozenset({"gbid", "vendor_serial", "mac", "model"})


def device_row(record: DeviceRecord) -> dict[str, Any]:
    """A record as JSON, all fields, in the order of `FIELDS`."""
    return {name: getattr(record, name) for name in FIELDS}


def _cells(record: DeviceRecord, excel: bool) -> Iterator[str]:
    for name in FIELDS:
        value = getattr(record, name)
        if value is None:
            yield ""
        elif isinstance(value, bool):
            yield "yes" if value else "no"
        elif isinstance(value, float):
            yield repr(value)
        else:
            yield guard(value, numbers=excel and name in _TEXTS)


def export_devices(
    path: Path,
    records: Iterable[DeviceRecord],
    *,
    encoding: str = "utf-8-sig",
    lang: str = "en",
    excel: bool = False,
) -> int:
    """Write records to a file in one step; returns how many.

    Args:
        path: its suffix is one of `EXPORTS`.
        records: the devices.
        encoding: of CSV: `utf-8-sig` (with a byte order mark), `utf-8` or `gb18030`.
        lang: `zh` writes the heads of columns in Chinese.
        excel: guard IDs and serial numbers with an apostrophe, so that a spreadsheet does not round them.

    Raises:
        UsageError: another suffix.
        SystemPartError: the write failed; an old file stands.
    """
    form = path.suffix.lower()
    if form not in EXPORTS:
        raise UsageError(
            "identity.export.kind", "unknown kind of file", hint=f"end it in {' or '.join(EXPORTS)}", where=str(path)
        )
    if not path.parent.is_dir():
        raise UsageError("identity.export.folder", "no such folder", where=str(path.parent))
    if form != ".csv":
        rows = [device_row(record) for record in records]
        if form == ".jsonl":
            data = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        else:
            data = b"[\n" + b",\n".join(msgspec.json.encode(row) for row in rows) + b"\n]\n"
        atomic_write(path, data, mode=0o640)
        return len(rows)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow([CHINESE[name] if lang == "zh" else name for name in FIELDS])
    count = 0
    for record in records:
        writer.writerow(_cells(record, excel))
        count += 1
    atomic_write(path, stream.getvalue().encode(encoding), mode=0o640)
    return count
