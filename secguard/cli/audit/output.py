"""Events into a file as they are read: CSV that no spreadsheet runs, or JSON lines; whole or not at all."""

import csv
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from secguard.core.clock import rfc3339
from secguard.core.errors import UsageError
from secguard.core.files import fsync_directory, translate_os_error

if TYPE_CHECKING:
    from secguard.audit import Hit

__all__ = ["COLUMNS", "check_output", "write_hits"]

COLUMNS = (
    ("ledger_index", "账本序号"),
    ("id", "事件编号"),
    ("time", "时间"),
    ("kind", "操作"),
    ("actor", "用户"),
    ("assurance", "身份依据"),
    ("role", "角色"),
    ("org", "单位"),
    ("address", "地址"),
    ("subject", "对象"),
    ("case", "案件号"),
    ("approver", "审批人"),
    ("outcome", "结果"),
    ("reason", "事由"),
    ("data", "其他"),
)
"""Heads of the CSV: names of fields, and what they are called in Chinese."""
_SUFFIXES = (".csv", ".jsonl")


def check_output(path: Path) -> None:
    """Refuse a file that says nothing of its kind, before anything is asked.

    Raises:
        UsageError: it ends neither in .csv nor in .jsonl; `-` is the standard output, as CSV.
    """
    device = path.exists() and not path.is_file()  # /dev/stdout, a pipe: CSV
    if str(path) != "-" and not device and path.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            "cli.output.kind", "unknown kind of output", hint="end it in .csv or .jsonl, or write -", where=str(path)
        )


def write_hits(path: Path, hits: "Iterator[Hit]", lang: str) -> int:
    """Write events to a file; returns how many. An old file is replaced at the end, so that it is never half new.

    Raises:
        SystemPartError: it cannot be written.
    """
    with _opened(path) as stream:
        if path.suffix.lower() == ".jsonl":
            return _lines(stream, hits)
        return _table(stream, hits, lang)


def _lines(stream: TextIO, hits: "Iterator[Hit]") -> int:
    count = 0
    for count, hit in enumerate(hits, 1):  # noqa: B007 - the last number is the result
        stream.write(msgspec.json.encode(hit.document()).decode() + "\n")
    return count


def _table(stream: TextIO, hits: "Iterator[Hit]", lang: str) -> int:
    from secguard.report.tables import csv_cell

    writer = csv.writer(stream)
    writer.writerow([column[lang == "zh"] for column in COLUMNS])
    count = 0
    for count, hit in enumerate(hits, 1):  # noqa: B007 - the last number is the result
        writer.writerow([csv_cell(value) for value in _cells(hit)])
    return count


def _cells(hit: "Hit") -> Sequence[Any]:
    event, actor = hit.event, hit.event.actor
    data = msgspec.json.encode(event.data).decode() if event.data else ""
    return (
        hit.index,
        event.id,
        rfc3339(event.time),
        event.kind,
        actor.name,
        actor.assurance.value,
        actor.role,
        actor.org,
        actor.address,
        event.subject,
        event.case,
        event.approver,
        event.outcome.value,
        event.reason,
        data,
    )


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if str(path) == "-":
        stream = TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="", write_through=True)
        try:
            yield stream
        finally:
            stream.detach()
        return
    # A byte order mark: without it, spreadsheets take Chinese for another encoding.
    encoding = "utf-8-sig" if path.suffix.lower() == ".csv" else "utf-8"
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    target = beside if path.is_file() or not path.exists() else path  # a device or pipe stays what it is
    try:
        with target.open("w", encoding=encoding, newline="") as stream:
            yield stream
        if target is beside:
            beside.replace(path)
            fsync_directory(path.parent)
    except OSError as error:
        raise translate_os_error(error, path) from error
    finally:
        beside.unlink(missing_ok=True)
